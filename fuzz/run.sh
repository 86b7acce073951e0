#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS (600): `make fuzz`, or `fuzz/run.sh up token` for some of them.
#
# New inputs collect in fuzz/target/found/TARGET; the kept corpus is only read. A finding ends the run and
# names its file: put it into fuzz/corpus/TARGET, mend the decoder, and `make test` replays it for good.
# `FUZZ_KEEP=1` afterwards keeps up to 64 small inputs of each target that reach code which the seeds do not;
# they are named by their hash, so that the first 64 names are a fair draw.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${FUZZ_SECONDS:-600}
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' Cargo.toml)
fi

if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "make fuzz: libFuzzer needs a nightly toolchain: rustup toolchain install nightly" >&2
  exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "make fuzz: cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2
  exit 1
fi

for target in "${targets[@]}"; do
  found=target/found/$target
  mkdir -p "$found" "corpus/$target"
  echo "== fuzz $target for $seconds s, from $(find "corpus/$target" -type f | wc -l) kept inputs"
  cargo +nightly fuzz run --fuzz-dir . "$target" "$found" "corpus/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=5 -rss_limit_mb=2048 -print_final_stats=1
  if [ -n "${FUZZ_KEEP:-}" ]; then
    merged=target/merged/$target
    rm -rf "$merged" && mkdir -p "$merged"
    cp "corpus/$target"/seed-* "$merged"
    cargo +nightly fuzz run --fuzz-dir . "$target" "$merged" "corpus/$target" "$found" -- \
      -merge=1 -max_len=256 -use_counters=0
    find "corpus/$target" -type f -regextype egrep -regex '.*/[0-9a-f]{40}' -delete
    find "$merged" -type f ! -name 'seed-*' | sort | sed -n 1,64p | xargs -r cp -t "corpus/$target"
  fi
done
