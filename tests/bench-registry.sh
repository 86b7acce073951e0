#!/bin/sh
# The registry's figures of BENCHMARKS.md: a realistic tree in SQLite, and what operators do with it.
#
#   tests/bench-registry.sh                          100,000 services
#   SERVICES=10000 SWARM=500 tests/bench-registry.sh
#   BIN=DIR OUT=DIR tests/bench-registry.sh          binaries that are there already; where the JSON goes
#
# Apply the tree, apply it again, ask the queries with 16 callers, follow the feed with 1,000 readers; then
# remove 10,000 services and mark as many silent ones inactive, while sidecars beat and callers ask.
# Tables go to standard output, JSON to OUT (target/bench).
set -eu

SERVICES=${SERVICES:-100000}
SWARM=${SWARM:-500}
READERS=${READERS:-1000}
CHANGES=${CHANGES:-1000}
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
side=
cleanup() {
    for process in $side $pid; do kill -9 "$process" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

endpoint() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$state/endpoints.json"; }
now() { date +%s.%N; }
took() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f s", to - from }'; }
cpu() { awk '{ sub(/.*\) /, ""); printf "%.1f", ($12 + $13) / 100 }' "/proc/$pid/stat"; }
say() { printf '\n== %s\n' "$*"; }

mkdir -m 700 "$state"
cat >"$scratch/collector.toml" <<EOF
state_dir = "$state"
quic_listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"
[limits]
http_connections = 2048
http_streams = 2048
enroll_per_second = 2000
enroll_burst = 2000
EOF
chmod 600 "$scratch/collector.toml"
"$BIN/rollcall-collector" serve --config "$scratch/collector.toml" >"$scratch/log" 2>&1 &
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
ROLLCALL_API=http://$(endpoint http)
ROLLCALL_CREDENTIAL_FILE=$state/admin.credential
export ROLLCALL_API ROLLCALL_CREDENTIAL_FILE
rc=$BIN/rollcall-collector

say "apply $SERVICES services"
"$BIN/rollcall-swarm" tree --count "$SERVICES" >"$scratch/tree.ndjson"
from=$(now)
before=$(cpu)
"$rc" apply -f "$scratch/tree.ndjson" | tail -1
echo "took $(took "$from"), of the collector's CPU $(awk -v a="$before" -v b="$(cpu)" 'BEGIN { print b - a }') s"
from=$(now)
"$rc" apply -f "$scratch/tree.ndjson" | tail -1
echo "a second time: $(took "$from")"
awk '/^VmRSS|^RssAnon/ { printf "%s %d MB  ", $1, $2 / 1024 } END { print "" }' "/proc/$pid/status"

say "queries, 16 callers"
"$BIN/rollcall-swarm" queries --clients 16 --collector-pid "$pid" --save "$OUT/queries.json"

say "feed, $READERS readers, $CHANGES changes a second"
"$BIN/rollcall-swarm" feed --clients "$READERS" --changes-per-second "$CHANGES" --seconds 30 --collector-pid "$pid" ||
    echo "(the feed's run ended with $?)"

say "acts on 10,000 while $SWARM sidecars beat and 16 callers ask"
"$BIN/rollcall-swarm" enroll --count "$SWARM" --dir "$scratch/swarm" >/dev/null
"$BIN/rollcall-swarm" run --count "$SWARM" --dir "$scratch/swarm" --duration 60s --ramp 5s \
    --save "$OUT/registry-beats.json" >"$scratch/beats" 2>&1 &
side=$!
sleep 15
"$BIN/rollcall-swarm" queries --clients 16 --each 4s --save "$OUT/queries-busy.json" >"$scratch/asked" 2>&1 &
side="$side $!"
number() { tr -d ' \n' | sed -n 's/.*"count":\([0-9]*\).*/\1/p'; }
chosen="--selector kind=checker --selector label=team:edge"
count=$("$rc" services bulk delete $chosen --output json </dev/null | number)
from=$(now)
"$rc" services bulk delete $chosen --reason bench --expect "$count"
echo "soft deletion of $count: $(took "$from")"
count=$("$rc" purge --status deleted --retention-days 0 --dry-run --output json | number)
from=$(now)
"$rc" purge --status deleted --retention-days 0 --expect "$count" | tail -3
echo "purge of $count: $(took "$from")"
for process in $side; do wait "$process" || true; done
side=
cat "$scratch/beats" "$scratch/asked"
grep -E 'WARN|ERROR' "$scratch/log" | tail -5 || true
