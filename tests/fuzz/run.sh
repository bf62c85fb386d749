#!/bin/sh
# Fuzzes every parser of bytes from outside, each for its share of MINUTES (10), or the one that ONLY names. cargo-fuzz is
# installed if it is missing. The compiler is the one of the program: coverage needs nothing that only a nightly has, and
# memory errors cannot be where `unsafe` is forbidden. What an input costs is measured by the targets themselves.
#
# What was found stands in tests/fuzz/artifacts and is shown again by
#   RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none -a TARGET FILE
set -eu
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
minutes=${MINUTES:-10}
only=${ONLY:-}
case $minutes in
    *[!0-9]* | 0) echo "MINUTES is a number from 1 on, not $minutes" >&2; exit 64 ;;
esac

command -v c++ >/dev/null 2>&1 || tests/setup/install.sh g++
"$cargo" fuzz --version >/dev/null 2>&1 || "$cargo" install --quiet --locked cargo-fuzz

all=$(cd tests/fuzz/targets && ls -- *.rs | sed 's/\.rs$//')
targets=${only:-$all}
for target in $targets; do
    [ -f "tests/fuzz/targets/$target.rs" ] || { echo "no target $target; there are: $all" >&2; exit 64; }
done
# shellcheck disable=SC2086 # the lists are meant to be split into words
set -- $targets
seconds=$((minutes * 60 / $#))
[ "$seconds" -gt 0 ] || seconds=1

export RUSTC_BOOTSTRAP=1
options="--fuzz-dir tests/fuzz --sanitizer none --debug-assertions"
# shellcheck disable=SC2086
for target in "$@"; do
    "$cargo" fuzz build $options "$target"
done
failed=
for target in "$@"; do
    log=$(mktemp)
    corpus=tests/fuzz/corpus/$target
    mkdir -p "$corpus"
    dictionary=
    [ ! -f "tests/fuzz/$target.dict" ] || dictionary=-dict=tests/fuzz/$target.dict
    # shellcheck disable=SC2086
    if "$cargo" fuzz run $options "$target" "$corpus" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 $dictionary \
        >"$log" 2>&1; then
        found=nothing
    else
        found="SOMETHING, see tests/fuzz/artifacts/$target"
        failed="$failed $target"
        grep -A 3 'panicked at' "$log" | head -n 12 >&2 || true
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%-16s %4s s %12s executions, %6s edges, found %s\n' \
        "$target" "$seconds" "${executions:-?}" "${coverage:-?}" "$found"
    rm -f "$log"
done
[ -z "$failed" ]
