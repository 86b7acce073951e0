#!/usr/bin/env bash
# `make run`: a collector and three sidecars (a poller, an agent under it, a checker under that), each beside
# a real local process, until Ctrl-C or SIGTERM.
#
# Everything lives in .rollcall/ of the checkout and goes when this ends; after a failure the logs stay. Once
# all three are alive, .rollcall/env tells other shells where the API is (see README.md). A sidecar that ends
# is left alone: the command that starts it again is printed, for whoever killed it to see it come back.
# shellcheck disable=SC2317 # functions are called by traps and by await
set -euo pipefail
cd "$(dirname "$0")/.."

home=$PWD/.rollcall
patience=120 # seconds until all must be alive
kinds=(poller agent checker)
declare -A pid_of=() parent_of=([poller]='' [agent]=poller [checker]=agent)
building='' collector='' stand_ins=()

say() { printf '%s\n' "$*"; }

die() {
  say "make run: $*" >&2
  exit 1
}

# Shows the end of a log and gives up.
die_with_log() {
  [ ! -s "$2" ] || tail -n 20 "$2" >&2
  die "$1; the log is $2"
}

# ---- one instance at a time in one checkout ----

[ -d "$home" ] || mkdir -m 0700 "$home" 2>/dev/null || true
[ -w "$home" ] || die "cannot write $home: it is another user's; remove it, or run as that user"
exec 9>>"$home/lock"
if ! flock --nonblock 9 || ! [ "$home/lock" -ef /dev/fd/9 ]; then
  die "another one runs in this checkout ($(cat "$home/lock" 2>/dev/null)); stop it first, or use another checkout"
fi
printf 'pid %s\n' $$ >"$home/lock"

# ---- stopping ----

# Our two programs working on files of ours: those started here, and those that were started again by hand.
# A pid alone may be someone else's by now.
ours() {
  local process name
  for process in /proc/[0-9]*; do
    read -r name <"$process/comm" || continue
    case $name in
      rollcall-agent | rollcall-collec*) ;;
      *) continue ;;
    esac
    if tr '\0' '\n' <"$process/cmdline" | grep -qF "$home/"; then echo "${process#/proc/}"; fi
  done
} 2>/dev/null

# Ends processes: politely, and after ten seconds otherwise.
end() {
  local deadline=$((SECONDS + 10)) pid left=("$@")
  [ $# -gt 0 ] || return 0
  kill -TERM "$@" 2>/dev/null || true
  while [ ${#left[@]} -gt 0 ] && [ $SECONDS -lt $deadline ]; do
    sleep 0.1
    left=()
    for pid in "$@"; do
      if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); fi
    done
  done
  [ ${#left[@]} -eq 0 ] || kill -KILL "${left[@]}" 2>/dev/null || true
}

clean_up() {
  local status=$? pid sidecars=()
  trap '' INT TERM HUP PIPE
  [ -z "$building" ] || kill -TERM "$building" 2>/dev/null || true
  rm -f "$home/env" "$home/env.new"
  # Sidecars first, so that they can say goodbye; the collector last.
  for pid in $(ours); do
    if [ "$pid" != "$collector" ]; then sidecars+=("$pid"); fi
  done
  end "${sidecars[@]}"
  if [ -n "$collector" ]; then end "$collector"; fi
  end "${stand_ins[@]}"
  if [ "$status" -eq 0 ]; then rm -rf "$home"; fi
}
trap clean_up EXIT
trap 'exit 0' INT TERM HUP PIPE

# A child of its own session: Ctrl-C reaches this script alone, which then stops the others in order. Should
# this script be killed outright, they end too. They must not inherit the lock.
start() {
  local log=$1
  shift
  setsid setpriv --pdeathsig TERM "$@" >>"$log" 2>&1 </dev/null 9>&- &
  # Whoever kills one of them knows it: the shell need not say so too.
  disown
}

# Lets a second pass, and a signal through at once.
pause() {
  sleep 1 9>&- &
  wait $! || true
}

# ---- building ----

say "building (dev profile: quick to build, slower to run than the packages)"
# In the background, so that a signal does not wait for the build.
cargo build --workspace --locked 9>&- &
building=$!
wait "$building" || die "the build failed"
building=
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
agent=$target/debug/rollcall-agent
cli=$target/debug/rollcall-collector

umask 077
mapfile -t stale < <(ours)
end "${stale[@]}"
find "$home" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
# The programs read settings from ROLLCALL_*: only those given here count.
unset "${!ROLLCALL_@}" STATE_DIRECTORY RUNTIME_DIRECTORY CREDENTIALS_DIRECTORY NOTIFY_SOCKET

# ---- the collector ----

# Whether somebody listens on a port, as the kernel tells without any tool: is_taken udp 7411
is_taken() {
  local hex
  hex=$(printf ':%04X' "$2")
  # A TCP socket counts while it listens (0A); any UDP socket counts.
  { cat "/proc/net/$1" "/proc/net/${1}6" 2>/dev/null || true; } |
    awk -v port="$hex" -v tcp="$([ "$1" = tcp ] && echo 1)" \
      'substr($2, length($2) - 4) == port && (!tcp || $4 == "0A") { found = 1 } END { exit !found }'
}

quic_port=7411 http_port=7410
if is_taken udp $quic_port; then
  say "UDP port $quic_port is taken: taking a free one"
  quic_port=0
fi
if is_taken tcp $http_port; then
  say "TCP port $http_port is taken: taking a free one"
  http_port=0
fi

# Shorter beats than the defaults of 10 s and 30 s, so that lateness and loss can be watched.
cat >"$home/collector.toml" <<TOML
name = "demo"
trust_domain = "demo.test"
state_dir = "$home/state"
quic_listen = "127.0.0.1:$quic_port"
http_listen = "127.0.0.1:$http_port"
interval = "3s"
ttl = "10s"
TOML

start "$home/collector.log" "$cli" serve --config "$home/collector.toml"
collector=$!

# Waits for a fact about a process that must live meanwhile: await WHAT PID LOG COMMAND...
await() {
  local what=$1 pid=$2 log=$3 deadline=$((SECONDS + patience))
  shift 3
  until "$@"; do
    kill -0 "$pid" 2>/dev/null || die_with_log "the process ended before $what" "$log"
    [ $SECONDS -lt $deadline ] || die_with_log "no $what within $patience s" "$log"
    sleep 0.1
  done
}

endpoint() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$home/state/endpoints.json"; }

is_ready() {
  local answer
  exec 3<>"/dev/tcp/${http%:*}/${http##*:}" || return 1
  printf 'GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$http" >&3
  IFS= read -r -t 2 answer <&3 || true
  exec 3>&-
  [[ $answer == *" 200 "* ]]
} 2>/dev/null

await "endpoints.json" "$collector" "$home/collector.log" test -s "$home/state/endpoints.json"
http=$(endpoint http) quic=$(endpoint quic)
await "readiness" "$collector" "$home/collector.log" is_ready

export ROLLCALL_API="http://$http" ROLLCALL_CREDENTIAL_FILE="$home/state/admin.credential"

# ---- three sidecars beside three processes ----

# One line a service: kind, id, status, presence, health. The first match is the service's own; a parent's
# name stands further back.
rows() {
  local answer item field word words
  answer=$("$cli" services list --output json 9>&- 2>/dev/null) || return 1
  while IFS= read -r item; do
    words=()
    for field in kind id status presence health; do
      word=-
      [[ $item =~ \"$field\":\"([^\"]*)\" ]] && word=${BASH_REMATCH[1]}
      words+=("$word")
    done
    [ "${words[1]}" = - ] || printf '%-8s %-14s %-9s %-10s %s\n' "${words[@]}"
  done < <(tr -d '\n' <<<"$answer" | sed 's/" *: */":/g; s/}, *{/}\n{/g; s/$/\n/')
}

is_alive() {
  local now
  now=$(rows) && grep -q "^$1  *demo-$1  *active  *alive " <<<"$now"
}

# From the top of the tree: a token for a child names a parent that is registered.
for kind in "${kinds[@]}"; do
  own=$home/$kind
  mkdir -p "$own"
  about=(--kind "$kind" --id "demo-$kind" --local)
  {
    printf 'kind = "%s"\nid = "demo-%s"\n' "$kind" "$kind"
    if [ -n "${parent_of[$kind]}" ]; then
      about+=(--parent "demo-${parent_of[$kind]}")
      printf 'parent = "demo-%s"\n' "${parent_of[$kind]}"
    fi
    if [ "$kind" = checker ]; then
      about+=(--checker-kind process)
      printf 'checker_kind = "process"\n'
    fi
    # The token goes once it did its work: whoever comes back does so by its identity.
    printf 'state_dir = "%s/state"\ntoken_file = "%s/token"\nconsume_token_file = true\n' "$own" "$own"
  } >"$own/agent.toml"
  "$cli" token create "${about[@]}" --output raw >"$own/token" 9>&- ||
    die_with_log "no token for the $kind" "$home/collector.log"

  start /dev/null sleep infinity
  stand_ins+=($!)
  start "$own/sidecar.log" "$agent" run --config "$own/agent.toml"
  pid_of[$kind]=$!
  await "life of the $kind" "${pid_of[$kind]}" "$own/sidecar.log" is_alive "$kind"
done

for kind in "${kinds[@]}"; do
  is_alive "$kind" || die_with_log "the $kind did not stay alive" "$home/$kind/sidecar.log"
done

# ---- what others rely on ----

quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }
pids="${pid_of[poller]} ${pid_of[agent]} ${pid_of[checker]}"
{
  printf 'ROLLCALL_API=%s\n' "$(quoted "$ROLLCALL_API")"
  printf 'ROLLCALL_CREDENTIAL_FILE=%s\n' "$(quoted "$ROLLCALL_CREDENTIAL_FILE")"
  printf 'ROLLCALL_QUIC=%s\n' "$(quoted "$quic")"
  printf 'ROLLCALL_STATE=%s\n' "$(quoted "$home/state")"
  printf 'ROLLCALL_PIDS=%s\n' "$(quoted "$pids")"
  printf 'export ROLLCALL_API ROLLCALL_CREDENTIAL_FILE ROLLCALL_QUIC ROLLCALL_STATE ROLLCALL_PIDS\n'
} >"$home/env.new"
mv "$home/env.new" "$home/env"

introduction() {
  cat <<TEXT
Rollcall runs: a collector (pid $collector) and three sidecars, all alive.

  API            $ROLLCALL_API
  credential     $ROLLCALL_CREDENTIAL_FILE
  in a shell     . $home/env
  ask            curl -H @<(echo "Authorization: Bearer \$(cat "\$ROLLCALL_CREDENTIAL_FILE")") "\$ROLLCALL_API/api/admin/services/pollers"
  or             $cli services list

  kill a sidecar, see it late after 4 s and lost after 10 s:   kill -9 ${pid_of[checker]}
  stop a sidecar, see it stopped at once:                      kill ${pid_of[agent]}
  start one again, see it alive, with no token:
TEXT
  local kind
  for kind in "${kinds[@]}"; do
    printf '    %-8s pid %-8s %s run --config %s\n' "$kind" "${pid_of[$kind]}" "$agent" "$home/$kind/agent.toml"
  done
  printf '\nCtrl-C ends it all.\n\n'
}

# ---- the table, until told to stop ----

introduction
seen=''
while kill -0 "$collector" 2>/dev/null; do
  if now=$(rows); then
    if [ -t 1 ]; then
      printf '\033[H\033[2J%s\n\n' "$(introduction)"
      printf '%-8s %-14s %-9s %-10s %s\n%s\n' KIND ID STATUS PRESENCE HEALTH "$now"
    elif [ "$now" != "$seen" ]; then
      grep -vxFf <(printf '%s\n' "$seen") <<<"$now" | sed "s/^/$(date +%H:%M:%S)  /" || true
    fi
    seen=$now
  fi
  pause
done
die_with_log "the collector ended" "$home/collector.log"
