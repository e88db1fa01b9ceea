#!/usr/bin/env bash
# Fuzzes everything that reads what comes from outside, each for FUZZ_SECONDS (60), from the inputs in corpus/. What
# libFuzzer finds new stays in the cache; an input that breaks something is left in fuzz/ and named.
#   fuzz/run.sh [TARGET...]
# On stable Rust: the flags are those of cargo-fuzz without a sanitizer; the crate forbids unsafe code.
set -euo pipefail
cd "$(dirname "$0")"
cache=${ELAVA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/elava}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
command -v c++ > /dev/null || { echo "fuzz: libFuzzer takes a C++ compiler, as c++ (Debian: apt install g++)" >&2; exit 1; }
flags="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do flags+=" -Cllvm-args=-sanitizer-coverage-$flag"; done
# With --target build scripts and macros are left as they are.
RUSTFLAGS=$flags CARGO_TARGET_DIR=$cache/target cargo build --release --target "$host"
targets=("$@")
((${#targets[@]})) || targets=($(ls targets | sed 's/\.rs$//'))
# What is slow or takes memory is a finding, too.
fuzz() {
  local target=$1 log
  mkdir -p "$cache/found/$target" "corpus/$target"
  log=$(mktemp)
  if ! "$cache/target/$host/release/$target" "$cache/found/$target" "corpus/$target" -max_total_time="${FUZZ_SECONDS:-60}" \
    -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$PWD/$target-" > "$log" 2>&1; then
    tail -n 40 "$log"
    echo "fuzz: $target broke: the input is in fuzz/$target-*" >&2
    return 1
  fi
  echo "$target: $(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 inputs in \2 s/p' "$log"), $(grep -c '' < <(ls "$cache/found/$target")) kept, nothing broke"
  rm -f "$log"
}
export -f fuzz
export cache host
# One on each core.
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I {} bash -c 'fuzz {}'
