#!/usr/bin/env bash
# What a sidecar costs the host that it is a guest of: idle beside a local collector for MINUTES (10), with a process, a
# port and a page looked at every 10 s. The programs are those of the packages.
#
#   packaging/measure.sh [DIR]     DIR: rollcall-agent and rollcall-collector [default: the last release builds]
#
# CPU is the sidecar's own (what the kernel bills it, in nanoseconds), over the whole time; wakeups are the voluntary
# switches of all its threads. Ends with 1 where a budget of BENCHMARKS.md is exceeded.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/package/dynamic}") minutes=${MINUTES:-10}
scratch=$(mktemp -d)
collector='' sidecar='' watched=''
tidy() {
  for pid in $sidecar $collector $watched; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$scratch"
}
trap tidy EXIT
trap 'exit 130' INT TERM HUP

# until_true WHAT COMMAND…
until_true() {
  local what=$1 tries=0
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { tail -5 "$scratch"/*.log >&2 && echo "not within 30 s: $what" >&2 && exit 1; }
    sleep 0.1
  done
}

for program in agent collector; do objcopy --strip-all "$bin/rollcall-$program" "$scratch/rollcall-$program"; done
printf 'state_dir = "%s"\nquic_listen = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\n' "$scratch/c" >"$scratch/collector.toml"
"$scratch/rollcall-collector" serve --config "$scratch/collector.toml" >"$scratch/collector.log" 2>&1 &
collector=$!
until_true "the collector runs" test -s "$scratch/c/endpoints.json"
endpoint() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$scratch/c/endpoints.json"; }
ROLLCALL_API=http://$(endpoint http)
export ROLLCALL_API ROLLCALL_CREDENTIAL_FILE=$scratch/c/admin.credential
(umask 077 && "$scratch/rollcall-collector" tokens create --kind poller --id m --local --output raw >"$scratch/token")

sleep 100000 &
watched=$!
echo $watched >"$scratch/watched.pid"
cat >"$scratch/agent.toml" <<TOML
kind = "poller"
state_dir = "$scratch/a"
token_file = "$scratch/token"
[[probe]]
name = "process"
type = "process"
pid_file = "$scratch/watched.pid"
process = "sleep"
[[probe]]
name = "port"
type = "tcp"
address = "$(endpoint http)"
[[probe]]
name = "page"
type = "http"
url = "$ROLLCALL_API/livez"
TOML
begun=$(date +%s%N)
"$scratch/rollcall-agent" run --config "$scratch/agent.toml" >"$scratch/agent.log" 2>&1 &
sidecar=$!
is_well() { "$scratch/rollcall-collector" services show poller/m --output json | tr -d '\n ' | grep -q '"presence":"alive".*"health":{[^}]*"health":"healthy"\|"health":{[^}]*"health":"healthy".*"presence":"alive"'; }
until_true "the sidecar is alive and its service healthy" is_well
first=$((($(date +%s%N) - begun) / 1000000))

# CPU in ns and switches, voluntary and not, of all threads that there are; the kernel's own sum, which has those that
# ended too, in ticks of 10 ms; the time; who they are.
taken() {
  local task cpu=0 waits=0 pushes=0 value all=()
  for task in /proc/$sidecar/task/*; do
    all+=("${task##*/}")
    value=$(cut -d' ' -f1 "$task/schedstat") && cpu=$((cpu + value))
    value=$(sed -n 's/^voluntary_ctxt_switches:[\t ]*//p' "$task/status") && waits=$((waits + value))
    value=$(sed -n 's/^nonvoluntary_ctxt_switches:[\t ]*//p' "$task/status") && pushes=$((pushes + value))
  done
  value=$(sed 's/.*) //' "/proc/$sidecar/stat" | awk '{ print $12 + $13 }')
  echo "$cpu $waits $pushes $value $(date +%s%N) ${all[*]}"
}
kib() { sed -n "s/^$1:[\t ]*\([0-9]*\) kB/\1/p" "/proc/$sidecar/smaps_rollup"; }
# What it does once is over then.
sleep 30
before=$(taken)
sleep $((minutes * 60))
after=$(taken)
awk -v before="$before" -v after="$after" -v minutes="$minutes" -v first="$first" -v size="$(stat -c %s "$scratch/rollcall-agent")" \
  -v rss="$(kib Rss)" -v private="$(kib Private_Dirty)" -v threads="$(find /proc/$sidecar/task -mindepth 1 -maxdepth 1 | wc -l)" '
  function row(what, value, unit, budget, is_over) {
    is_over = (budget != "–" && value + 0 > budget + 0)
    if (is_over) over = 1
    printf("| %-46s | %9s %-11s | %s%s |\n", what, value, unit, budget, (is_over ? " **over**" : ""))
  }
  BEGIN {
    split(before, b); split(after, a); seconds = (a[5] - b[5]) / 1e9
    n = split(before, x); m = split(after, y)
    for (i = 6; i <= n; i++) was[x[i]]
    for (i = 6; i <= m; i++) if (!(y[i] in was)) came++
    printf "| a sidecar idle for %d minutes, three probes each 10 s | measured | budget |\n|---|---|---|\n", minutes
    row("binary, stripped", sprintf("%.2f", size / 1e6), "MB", 6)
    row("resident (RSS)", sprintf("%.2f", rss * 1024 / 1e6), "MB", 7)
    row("of it private and dirty", sprintf("%.2f", private * 1024 / 1e6), "MB", 1.5)
    row("CPU", sprintf("%.4f", (a[1] - b[1]) / 1e7 / seconds), "% of a core", 0.01)
    row("CPU for each 10 s", sprintf("%.0f", (a[1] - b[1]) / 1e3 / seconds * 10), "µs", "–")
    row("the same by the ticks of the kernel", sprintf("%.4f", (a[4] - b[4]) / seconds), "% of a core", "–")
    row("wakeups (voluntary switches, all threads)", sprintf("%.2f", (a[2] - b[2]) / seconds), "a second", 2)
    row("involuntary switches", sprintf("%.2f", (a[3] - b[3]) / seconds), "a second", "–")
    row("threads", threads, "", "–")
    row("of them new since the beginning", came + 0, "", "–")
    row("start with a token to alive and healthy", first, "ms", 5000)
    exit over
  }'
