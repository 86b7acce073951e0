#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS (600): `make fuzz`, or `fuzz/run.sh up token` for some of them.
#
# New inputs collect in fuzz/target/found/TARGET; the kept corpus is only read. A finding ends the run and
# names its file: put it into fuzz/corpus/TARGET, mend the decoder, and `make test` replays it for good.
# `FUZZ_KEEP=1` afterwards merges what reaches new code into the kept corpus, smallest inputs first.
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
    cargo +nightly fuzz run --fuzz-dir . "$target" "corpus/$target" "$found" -- -merge=1 -max_len=512
  fi
done
