#!/bin/sh
# The figures of BENCHMARKS.md: a collector with its default pace in a scratch directory, and rollcall-swarm.
#
#   tests/bench.sh                      2,000 and 10,000 sidecars, three minutes each
#   COUNTS=500 DURATION=30s tests/bench.sh
#   BIN=DIR OUT=DIR tests/bench.sh      binaries that are there already; where the JSON goes
#
# For each count: enroll, beat for DURATION, kill one in ten and stop one in twenty, revive them; then kill -9
# and restart the collector under all of them. Tables go to standard output, JSON to OUT (target/bench).
# Ends with 1 where a beat was lost, a verdict was false, or somebody was not back in time.
set -eu

COUNTS=${COUNTS:-2000 10000}
DURATION=${DURATION:-180s}
INTERVAL=${INTERVAL:-10s}
TTL=${TTL:-30s}
cd "$(dirname "$0")/.."
if [ -z "${BIN:-}" ]; then
    cargo build --release --locked --bin rollcall-collector --bin rollcall-swarm
    BIN=${CARGO_TARGET_DIR:-target}/release
fi
OUT=${OUT:-${CARGO_TARGET_DIR:-target}/bench}
mkdir -p "$OUT"

scratch=$(mktemp -d)
state=$scratch/state
pid=
storm=
cleanup() {
    for process in $storm $pid; do kill -9 "$process" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Ports are free ones at the first start and stay the same afterwards.
configure() {
    {
        printf 'state_dir = "%s"\nquic_listen = "%s"\nhttp_listen = "%s"\n' "$state" "$1" "$2"
        printf 'interval = "%s"\nttl = "%s"\n' "$INTERVAL" "$TTL"
    } >"$scratch/collector.toml"
    chmod 600 "$scratch/collector.toml"
}

endpoint() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$state/endpoints.json"; }

start() {
    rm -f "$state/endpoints.json"
    "$BIN/rollcall-collector" serve --config "$scratch/collector.toml" >>"$scratch/log" 2>&1 &
    pid=$!
    tries=0
    until [ -s "$state/endpoints.json" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ] || ! kill -0 $pid 2>/dev/null; then
            tail -5 "$scratch/log" >&2
            exit 1
        fi
        sleep 0.1
    done
    echo $pid >"$scratch/pid"
}

stop() {
    kill "$pid"
    wait "$pid" || true
    pid=
}

memory() { awk '/^RssAnon:/ { print $2 * 1024 }' "/proc/$pid/status"; }

mkdir -m 700 "$state"
configure 127.0.0.1:0 127.0.0.1:0
start
configure "$(endpoint quic)" "$(endpoint http)"
ROLLCALL_API=http://$(endpoint http)
ROLLCALL_CREDENTIAL_FILE=$state/admin.credential
export ROLLCALL_API ROLLCALL_CREDENTIAL_FILE
stop
# Only now: the first start makes keys.
start
empty=$(memory)
echo "collector, empty: $((empty / 1000)) kB of anonymous memory"

verdict=0
ran=0
for count in $COUNTS; do
    swarm="--count $count --dir $scratch/swarm"
    "$BIN/rollcall-swarm" enroll $swarm --collector-pid "$pid" --save "$OUT/enroll-$count.json" || verdict=1
    # A fresh process, so that what enrolling left behind is not counted.
    stop
    start
    "$BIN/rollcall-swarm" run $swarm --duration "$DURATION" --collector-pid "$pid" --memory-base "$empty" \
        --kill-fraction 0.1 --stop-fraction 0.05 --revive-after 45s --save "$OUT/run-$count.json" || verdict=1

    rm -f "$scratch/ready"
    "$BIN/rollcall-swarm" storm $swarm --collector-pid "$pid" --pid-file "$scratch/pid" \
        --ready-file "$scratch/ready" --save "$OUT/storm-$count.json" &
    storm=$!
    until [ -e "$scratch/ready" ]; do
        kill -0 $storm 2>/dev/null || break
        sleep 0.2
    done
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    start
    wait $storm || verdict=1
    storm=
    ran=$((ran + 1))
done
stop
if [ $ran -eq 0 ]; then
    echo "bench: COUNTS names no fleet, so nothing ran" >&2
    exit 1
fi
exit $verdict
