#!/usr/bin/env bash
# Fuzzes every parser of external input, each for FUZZ_SECONDS (60), starting from the inputs in corpus/. New inputs
# that libFuzzer finds are kept in the cache; an input that causes a failure is saved in fuzz/, and its path is printed.
#   fuzz/run.sh [TARGET...]
#   fuzz/run.sh --build     only builds them
# Runs on stable Rust: the flags are those of cargo-fuzz without a sanitizer; the crate forbids unsafe code.
set -euo pipefail
cd "$(dirname "$0")"
cache=${ELAVA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/elava}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
command -v c++ > /dev/null || { echo "fuzz: libFuzzer takes a C++ compiler, as c++ (Debian: apt install g++)" >&2; exit 1; }
flags="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do flags+=" -Cllvm-args=-sanitizer-coverage-$flag"; done
# With --target, the flags do not apply to build scripts and macros.
RUSTFLAGS=$flags CARGO_TARGET_DIR=$cache/target cargo build --release --target "$host"
[[ ${1:-} != --build ]] || exit 0
targets=("$@")
((${#targets[@]})) || targets=($(ls targets | sed 's/\.rs$//'))
# An input that is slow or uses much memory is also a failure.
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
# Runs one target per core.
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I {} bash -c 'fuzz {}'
