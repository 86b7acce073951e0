#!/usr/bin/env bash
# Starts `make run` as a script would, without a terminal, asks the API, stops it with SIGTERM and looks
# whether anything is left. Twice, since the second start meets what the first one left behind.
set -euo pipefail
cd "$(dirname "$0")/.."

patience=${SMOKE_SECONDS:-900}
log=$(mktemp)
run=

fail() {
  echo "smoke: $1; make run said:" >&2
  tail -n 40 "$log" >&2
  exit 1
}

at_exit() {
  [ -z "$run" ] || kill -TERM "$run" 2>/dev/null || true
  rm -f "$log"
}
trap at_exit EXIT

# Waits for a fact under a deadline in seconds.
until_true() {
  local what=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@"; do
    [ $SECONDS -lt "$deadline" ] || fail "no $what in time"
    sleep 0.2
  done
}

has_env() {
  kill -0 "$run" 2>/dev/null || fail "it ended before the three were alive"
  [ -f .rollcall/env ]
}
is_gone() { ! kill -0 "$run" 2>/dev/null; }
none_left() {
  local pid
  for pid in "$@"; do
    ! kill -0 "$pid" 2>/dev/null || return 1
  done
}

for round in 1 2; do
  make run >"$log" 2>&1 </dev/null &
  run=$!
  until_true ".rollcall/env (round $round)" "$patience" has_env
  (
    # shellcheck source=/dev/null
    . .rollcall/env
    # The credential stays out of argv, where every user of the host could read it.
    answer=$(printf 'header = "Authorization: Bearer %s"\n' "$(cat "$ROLLCALL_CREDENTIAL_FILE")" |
      curl --silent --show-error --fail --max-time 10 --config - "$ROLLCALL_API/api/admin/services/pollers" | tr -d "[:space:]")
    case $answer in
      *'"presence":"alive"'*) ;;
      *) echo "smoke: the poller is not alive: $answer" >&2 && exit 1 ;;
    esac
  ) || fail "the API did not answer as it should"
  # shellcheck source=/dev/null
  pids=$(. .rollcall/env && echo "$ROLLCALL_PIDS")
  kill -TERM "$run"
  until_true "end after SIGTERM (round $round)" 30 is_gone
  run=
  [ ! -e .rollcall/env ] || fail ".rollcall/env was left behind"
  # shellcheck disable=SC2086
  until_true "end of the sidecars $pids (round $round)" 10 none_left $pids
  echo "smoke: round $round is well"
done
