#!/usr/bin/env bash
# Builds the five fuzz targets, makes their seeds, and runs each for FUZZ_SECONDS (60), FUZZ_JOBS (1) of them at the same
# time; a crash is a failure.
#
# A stable toolchain is enough: RUSTC_BOOTSTRAP=1 unlocks the flags that cargo-fuzz needs. It is installed into
# target/fuzz-tools if it is missing. The figures go to target/reliability/full/row-15.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
seconds=${FUZZ_SECONDS:-60}
jobs=${FUZZ_JOBS:-1}
all="tar_walker layout_json descriptor layer_decoder whole_import"
targets=${FUZZ_TARGETS:-$all}
export PATH="$PWD/target/fuzz-tools/bin:$PATH"
version=0.13.1
# The seeds first, by the tests' own build: with RUSTC_BOOTSTRAP set everything would be built once more.
cargo test --locked --quiet --test reliability -- --seeds "$PWD/fuzz/corpus"
export RUSTC_BOOTSTRAP=1
if ! cargo fuzz --version 2>/dev/null | grep -qF "$version"; then
    cargo install --locked --quiet cargo-fuzz --version "$version" --root target/fuzz-tools
fi
cargo fuzz build

logs=target/reliability
pages=target/reliability/full
mkdir -p "$logs" "$pages"

# Runs one target and leaves its row of the table beside its log; what it kept stays in fuzz/corpus.
# Leaks are not looked for: what a thread that has just been joined still frees of its own is taken for one.
fuzz_one() {
    local target=$1 log=$logs/fuzz-$1.log status=0 TIMEFORMAT=%U+%S
    {
        time cargo fuzz run "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
            -print_final_stats=1 -max_len=65536 -seed=20260501 -detect_leaks=0 >"$log" 2>&1 || status=$?
    } 2>"$log.time"
    local runs cover kept crashes=0 processor
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    cover=$(grep -aoE 'cov: [0-9]+' "$log" | tail -1 | cut -d' ' -f2)
    kept=$(grep -aoE 'corp: [0-9]+' "$log" | tail -1 | cut -d' ' -f2)
    processor=$(awk -F+ '{ printf "%.0f", $1 + $2 }' "$log.time")
    if [ "$status" -ne 0 ]; then
        crashes=1
        echo "$target failed; its log is $log" >&2
        tail -30 "$log" >&2
    fi
    echo "| $target | $seconds | $processor | ${runs:-?} | ${cover:-?} | ${kept:-?} | $crashes |" | tee "$log.row"
    return "$crashes"
}

failed=0
running=0
for target in $targets; do
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    fuzz_one "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done

page=$pages/row-15.md
{
    echo '## Row 15. Five fuzz targets'
    echo
    echo '| target | seconds | of processor | runs | edges covered | inputs kept | crashes |'
    echo '|---|--:|--:|--:|--:|--:|--:|'
    # Of targets that were not run now, the last figures.
    for target in $all; do
        cat "$logs/fuzz-$target.log.row" 2>/dev/null || true
    done
    echo
    echo "- libFuzzer by cargo-fuzz $version with AddressSanitizer, debug assertions and overflow checks; $(rustc --version)."
    echo "- A panic, a failed assertion of the target, 10 s for one input or 2 GiB of memory count as a crash."
    echo "- Seed 20260501; Linux $(uname -r) $(uname -m), $(nproc) cores, $jobs at a time. Again: \`FUZZ_SECONDS=$seconds FUZZ_JOBS=$jobs make fuzz\`"
} >"$page.new"
mv "$page.new" "$page"
exit "$failed"
