#!/bin/sh
# The long runs: what `make test` does briefly, done until it means something, then the load generator.
#
#   tests/soak.sh                       200 kills, restarts under 2,000 sidecars, 10,000 sidecars for half an hour
#   KILL_ROUNDS=5 RESTART_SIDECARS=300 COUNTS=500 DURATION=60s tests/soak.sh
#
# Ends with 1 where a run fails, and also where one would not have run: a test or setting that was renamed is
# no success.
set -eu

KILL_ROUNDS=${KILL_ROUNDS:-200}
RESTART_SIDECARS=${RESTART_SIDECARS:-2000}
CARGO=${CARGO:-cargo}
cd "$(dirname "$0")/.."
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# Runs one test of tests/tests/crash with a setting that it reads.
long() {
    test=$1 setting=$2 value=$3
    if ! grep -rqF "\"$setting\"" tests/tests/crash; then
        echo "soak: no test in tests/tests/crash reads $setting" >&2
        exit 1
    fi
    echo "== $test with $setting=$value"
    env "$setting=$value" "$CARGO" test --workspace --locked --test crash -- --exact "$test" | tee "$said" || true
    if ! grep -q '^test result: ok\. 1 passed' "$said"; then
        echo "soak: $test did not run and pass" >&2
        exit 1
    fi
}

# The tests start the real programs, which `cargo test` alone does not build.
"$CARGO" build --workspace --locked
long kill::what_was_acknowledged_survives_a_kill_at_any_moment ROLLCALL_KILL_ROUNDS "$KILL_ROUNDS"
long restart::everybody_is_back_after_a_kill_and_nobody_was_lost ROLLCALL_RESTART_SIDECARS "$RESTART_SIDECARS"
COUNTS=${COUNTS:-10000} DURATION=${DURATION:-1800s} tests/bench.sh
