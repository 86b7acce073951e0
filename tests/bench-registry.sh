#!/bin/sh
# The registry's figures of BENCHMARKS.md: a realistic tree in SQLite, and what operators do with it.
#
#   tests/bench-registry.sh                          100,000 services
#   SERVICES=10000 SWARM=500 SILENT=1000 tests/bench-registry.sh
#   ONLY="queries marking" tests/bench-registry.sh   some parts alone, of queries, feed, purge and marking
#   BIN=DIR OUT=DIR tests/bench-registry.sh          binaries that are there already; where the JSON goes
#
# Apply the tree, apply it again, ask the queries with 16 callers, which think or do not, scrape the metrics,
# follow the feed with 1,000 readers; then remove 10,000 services while sidecars beat and callers ask, and mark
# SILENT (10,000) inactive that beat and fell silent, under the same load.
# Tables go to standard output, JSON to OUT (target/bench).
set -eu

SERVICES=${SERVICES:-100000}
SWARM=${SWARM:-500}
SILENT=${SILENT:-10000}
ONLY=${ONLY:-queries feed purge marking}
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
inactive_after = "30s"
[jobs.mark_inactive]
enabled = false
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

wanted() { case " $ONLY " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

if wanted queries; then
    say "queries, 16 callers that think for 50 ms"
    "$BIN/rollcall-swarm" queries --clients 16 --collector-pid "$pid" --save "$OUT/queries.json" ||
        echo "(some queries failed: they ask for what 100,000 services hold)"
    say "the same without a pause"
    "$BIN/rollcall-swarm" queries --clients 16 --think 0s --each 3s --collector-pid "$pid" \
        --save "$OUT/queries-closed.json" || echo "(some queries failed)"
    say "20 scrapes of the metrics"
    before=$(cpu)
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        curl -s -o "$scratch/metrics" -w '%{time_total} s, %{size_download} bytes\n' \
            -H "Authorization: Bearer $(cat "$ROLLCALL_CREDENTIAL_FILE")" "$ROLLCALL_API/metrics"
    done | sort | sed -n '10p;20p'
    echo "of the collector's CPU $(awk -v a="$before" -v b="$(cpu)" 'BEGIN { print (b - a) / 20 * 1000 }') ms each"
fi

if wanted feed; then
    say "feed, $READERS readers, $CHANGES changes a second"
    "$BIN/rollcall-swarm" feed --clients "$READERS" --changes-per-second "$CHANGES" --seconds 30 \
        --collector-pid "$pid" || echo "(the feed's run ended with $?)"
fi

# Sidecars that beat, and 16 callers that ask, while something is done to many.
under_load() {
    "$BIN/rollcall-swarm" run --count "$SWARM" --dir "$scratch/swarm" --duration 60s --ramp 5s \
        --save "$OUT/registry-beats-$1.json" >"$scratch/beats" 2>&1 &
    side=$!
    sleep 15
    "$BIN/rollcall-swarm" queries --clients 16 --each 4s --save "$OUT/queries-$1.json" >"$scratch/asked" 2>&1 &
    side="$side $!"
}
told() {
    for process in $side; do wait "$process" || true; done
    side=
    cat "$scratch/beats" "$scratch/asked"
}
if wanted purge || wanted marking; then
    "$BIN/rollcall-swarm" enroll --count "$SWARM" --dir "$scratch/swarm" >/dev/null
fi

if wanted purge; then
    say "a purge of 10,000 while $SWARM sidecars beat and 16 callers ask"
    under_load purge
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
    told
fi

if wanted marking; then
    say "$SILENT that beat and fell silent are marked inactive, while $SWARM sidecars beat and 16 callers ask"
    "$BIN/rollcall-swarm" enroll --count "$SILENT" --dir "$scratch/silent" --parallel 64 >/dev/null
    "$BIN/rollcall-swarm" run --count "$SILENT" --dir "$scratch/silent" --duration 10s --ramp 20s >"$scratch/silenced" 2>&1 ||
        tail -5 "$scratch/silenced"
    sleep 35
    under_load marking
    from=$(now)
    "$rc" jobs run mark_inactive --wait </dev/null
    echo "marking: $(took "$from")"
    told
fi
grep -E 'WARN|ERROR' "$scratch/log" | tail -5 || true
