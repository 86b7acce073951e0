# shellcheck shell=bash
# What every test says inside a booted machine: steps, and facts that are waited for under a deadline. Sourced first.
set -u
cd /share || exit 99

failed=0 step_name='' step_begun=0 step_failed=0
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# Each step ends with one line of what came of it and how long it took: `=== ` marks them.
step() {
  end_step
  step_name=$* step_begun=$(now_ms) step_failed=$failed
  printf '\n### %s\n' "$*"
}
end_step() {
  [ -n "$step_name" ] || return 0
  local word=holds
  [ $failed -eq "$step_failed" ] || word=FAILED
  printf '=== %-6s %6d ms  %s\n' $word $(($(now_ms) - step_begun)) "$step_name"
  step_name=''
}
# A figure that the test took, for the summary at its end.
figure() { printf '=== figure            %s\n' "$*"; }

ok() { echo "  ok: $*"; }
no() {
  echo "  FAILED: $*"
  failed=$((failed + 1))
}

# until_true SECONDS WHAT COMMAND…: looks again and again until the command succeeds; tells how long that took.
until_true() {
  local within=$1 what=$2 begun
  shift 2
  begun=$(now_ms)
  while ! "$@" >/tmp/last-look 2>&1; do
    if [ $(($(now_ms) - begun)) -gt $((within * 1000)) ]; then
      no "$what, within $within s; the last look:"
      sed 's/^/    | /' /tmp/last-look | tail -15
      systemctl --no-pager --lines=8 status 'rollcall*' 2>&1 | sed 's/^/    | /' | tail -40
      return 1
    fi
    sleep 0.05
  done
  took_ms=$(($(now_ms) - begun))
  ok "$what (${took_ms} ms)"
}

# is WHAT EXPECTED ACTUAL
is() { if [ "$2" = "$3" ]; then ok "$1: $3"; else no "$1: expected $2, found $3"; fi; }
# holds WHAT COMMAND…
holds() {
  local what=$1
  shift
  if "$@" >/tmp/last-look 2>&1; then ok "$what"; else no "$what" && sed 's/^/    | /' /tmp/last-look | tail -15; fi
}
not() { ! "$@"; }

property() { systemctl show --property="$2" --value "$1"; }
active() { [ "$(property "$1" ActiveState)" = active ]; }
inactive() { [ "$(property "$1" ActiveState)" = inactive ]; }
pid_of() { property "$1" MainPID; }
says() { case $(property "$1" StatusText) in *"$2"*) ;; *) property "$1" StatusText && return 1 ;; esac; }
restarted() { [ "$(pid_of "$1")" != "$2" ] && [ "$(pid_of "$1")" != 0 ] && active "$1"; }
logged() { journalctl --no-pager --output=cat --unit="$1" | grep -q -- "$2"; }
identity_of() { sha256sum "/var/lib/$1/identity" | cut -c1-16; }

# apt without a network: what it needs is on the host, or it fails.
apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades "$@" \
    >/tmp/apt.log 2>&1 </dev/null || { cat /tmp/apt.log && return 1; }
}
# token KIND ID FILE: one that root alone may read.
token() { (umask 077 && rollcall-collector tokens create --kind "$1" --id "$2" --local --output raw >"$3"); }

# One answer of the API, as the administrator's socket gives it: presence SERVICE → alive, lost, …
shown() { rollcall-collector services show "$1" --output json; }
presence() { shown "$1" | sed -n 's/^ *"presence": "\([a-z_]*\)".*/\1/p' | head -1; }
is_present() { [ "$(presence "$1")" = "$2" ] || { presence "$1" && return 1; }; }
# health SERVICE → healthy, …; health_since SERVICE → milliseconds since 1970 at which the collector heard of it.
health() { shown "$1" | tr -d '\n' | sed -n 's/.*"health": *{[^}]*"health": *"\([a-z]*\)".*/\1/p'; }
health_reason() { shown "$1" | tr -d '\n' | sed -n 's/.*"health": *{[^}]*"reason": *"\([^"]*\)".*/\1/p'; }
heard_at_ms() {
  local at
  at=$(shown "$1" | tr -d '\n' | sed -n 's/.*"health": *{[^}]*"as_of": *"\([^"]*\)".*/\1/p')
  date -d "$at" +%s%3N
}
is_health() { [ "$(health "$1")" = "$2" ] || { shown "$1" | grep -A4 '"health"' && return 1; }; }

# Every unit with its exposure, worst first below the head; 1.5 is the most that any may have.
exposure_table() {
  local unit
  printf '  %-34s %s\n' unit exposure
  for unit in "$@"; do
    printf '  %-34s %s\n' "$unit" "$(exposure_of "$unit")"
  done
}
exposure_of() { systemd-analyze --no-pager security "$1" 2>/dev/null | sed -n 's/.*exposure level for [^ ]* \([0-9.]*\) .*/\1/p'; }
bounded_exposure() { awk -v exposure="$(exposure_of "$1")" 'BEGIN { exit !(exposure != "" && exposure <= 1.5) }'; }

finish() {
  end_step
  printf '\n'
  if [ $failed -gt 0 ]; then
    echo "$failed facts did not hold"
    journalctl --no-pager --output=short-monotonic -u 'rollcall*' | tail -60
    exit 1
  fi
  echo "all of it holds"
  exit 0
}
