# shellcheck shell=bash
# What every test says inside a booted machine: steps, and facts that are waited for under a deadline. Sourced first.
set -u
cd /share || exit 99

failed=0
step() { printf '\n### %s\n' "$*"; }
ok() { echo "  ok: $*"; }
no() {
  echo "  FAILED: $*"
  failed=$((failed + 1))
}

# until_true SECONDS WHAT COMMAND…: looks again and again until the command succeeds; tells how long that took.
until_true() {
  local within=$1 what=$2 begun
  shift 2
  begun=$(date +%s%N)
  while ! "$@" >/tmp/last-look 2>&1; do
    if [ $(($(date +%s%N) - begun)) -gt $((within * 1000000000)) ]; then
      no "$what, within $within s; the last look:"
      sed 's/^/    | /' /tmp/last-look | tail -15
      systemctl --no-pager --lines=8 status 'rollcall*' 2>&1 | sed 's/^/    | /' | tail -40
      return 1
    fi
    sleep 0.1
  done
  took_ms=$((($(date +%s%N) - begun) / 1000000))
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

# One answer of the API, as the administrator's socket gives it: presence SERVICE → alive, lost, …
presence() { rollcall-collector services show "$1" --output json | sed -n 's/^ *"presence": "\([a-z_]*\)".*/\1/p' | head -1; }
is_present() { [ "$(presence "$1")" = "$2" ] || { presence "$1" && return 1; }; }

finish() {
  printf '\n'
  if [ $failed -gt 0 ]; then
    echo "$failed facts did not hold"
    journalctl --no-pager --output=short-monotonic -u 'rollcall*' | tail -60
    exit 1
  fi
  echo "all of it holds"
  exit 0
}
