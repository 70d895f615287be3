#!/usr/bin/env bash
# Compares snapcask with zstd and tar on one snapshot of a store. docs/performance.md says how to read the result.
#
#   SNAPCASK_BENCH_STORE=DIR SNAPSHOT=NAME scripts/bench.sh
#
#   SNAPCASK_BENCH_STORE  the store (required); it is only read
#   SNAPSHOT              name or digest of the snapshot; may be left out if the store has one
#   SNAPCASK_BENCH_DIR    where to work: a new folder in it is used and removed (default: $TMPDIR, else /tmp)
#   SNAPCASK_BENCH_RUNS   runs of each command (default 5)
#   SNAPCASK              the binary (default: built here with --release)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' scripts/bench.sh; }
case "${1:-}" in -h | --help) usage; exit 0 ;; esac
if [ -z "${SNAPCASK_BENCH_STORE:-}" ]; then
    echo "SNAPCASK_BENCH_STORE is not set" >&2
    usage >&2
    exit 2
fi
for tool in zstd tar python3 sync; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done
runs=${SNAPCASK_BENCH_RUNS:-5}
case "$runs" in '' | *[!0-9]* | 0) echo "SNAPCASK_BENCH_RUNS is no positive number" >&2; exit 2 ;; esac
store=$(cd "$SNAPCASK_BENCH_STORE" && pwd)
if [ -z "${SNAPCASK:-}" ]; then
    cargo build --locked --release --quiet
    SNAPCASK=$(cargo metadata --locked --no-deps --format-version 1 |
        python3 -c 'import json,sys; print(json.load(sys.stdin)["target_directory"])')/release/snapcask
fi
SNAPCASK=$(command -v "$SNAPCASK")
SNAPCASK=$(cd "$(dirname "$SNAPCASK")" && pwd)/$(basename "$SNAPCASK")

# Name and folder of the snapshot.
found=$("$SNAPCASK" list --store "$store" --json | python3 -c '
import json, sys
asked, all = sys.argv[1], json.load(sys.stdin)["snapshots"]
fits = [s for s in all if asked in ("", s["name"], s["digest"], s["id"])]
if len(fits) != 1:
    sys.exit("set SNAPSHOT to one of: " + ", ".join(s["name"] for s in all))
print(fits[0]["name"]); print(fits[0]["path"])' "${SNAPSHOT:-}")
snapshot=$(sed -n 1p <<<"$found")
folder=$(sed -n 2p <<<"$found")

work=$(mktemp -d "${SNAPCASK_BENCH_DIR:-${TMPDIR:-/tmp}}/snapcask-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The data of the snapshot's largest file without its holes. Reading everything once also warms the page cache.
python3 - "$folder" "$work/dense" <<'E2'
import errno, os, sys
folder, out = sys.argv[1:]
files = [os.path.join(d, f) for d, _, names in os.walk(folder) for f in names]
disk = max((f for f in files if os.path.isfile(f) and not os.path.islink(f)), key=os.path.getsize)
size, data, at = os.path.getsize(disk), 0, 0
with open(disk, "rb", buffering=0) as source, open(out, "wb", buffering=0) as target:
    while at < size:
        try:
            start = os.lseek(source.fileno(), at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(source.fileno(), start, os.SEEK_HOLE)
        os.lseek(source.fileno(), start, os.SEEK_SET)
        left = at - start
        while left:
            piece = source.read(min(left, 8 << 20))
            if not piece:
                sys.exit("the disk became shorter while it was read")
            target.write(piece)
            left -= len(piece)
            data += len(piece)
print(f"disk {os.path.basename(disk)}: {size} bytes, {data} of them in data extents")
E2
sync

export store snapshot folder work SNAPCASK
results=$work/results
: >"$results"

# run LABEL OUTPUT COMMAND: a line "label seconds peak-KiB bytes" for each run.
run() {
    local label=$1 output=$2 command=$3 begin end peak=- bytes=-
    begin=$(date +%s%N)
    if [ -x /usr/bin/time ]; then
        /usr/bin/time -v -o "$work/time" bash -euo pipefail -c "$command" >/dev/null
        end=$(date +%s%N)
        peak=$(awk -F': ' '/Maximum resident/ {print $2}' "$work/time")
    else
        bash -euo pipefail -c "$command" >/dev/null
        end=$(date +%s%N)
    fi
    if [ -f "$output" ]; then bytes=$(stat -c %s "$output"); fi
    echo "$label $(((end - begin) / 1000)) ${peak:--} $bytes" >>"$results"
}

# Alternating, so that what else the machine does falls on all alike. All outputs are synced within the time.
# shellcheck disable=SC2016 # the commands expand in their own shell
for ((i = 1; i <= runs; i++)); do
    echo "run $i of $runs" >&2
    rm -rf "$work"/out.* "$work/unpacked" "$work/imported"
    mkdir "$work/unpacked" "$work/imported"
    run zstd "$work/out.zst" 'zstd -q -3 -T0 "$work/dense" -o "$work/out.zst"; sync "$work/out.zst"'
    run tar+zstd "$work/out.tar.zst" 'tar -S -cf - -C "$folder" . | zstd -q -3 -T0 -o "$work/out.tar.zst"; sync "$work/out.tar.zst"'
    run export "$work/out.snapcask.tar.zst" '"$SNAPCASK" export "$snapshot" --store "$store" --tag bench -o "$work/out.snapcask.tar.zst"'
    run zstd+untar - 'zstd -q -dc "$work/out.tar.zst" | tar -S -xf - -C "$work/unpacked"; sync -f "$work/unpacked"'
    run import - '"$SNAPCASK" import "$work/out.snapcask.tar.zst" --store "$work/imported"'
done

python3 - "$results" <<'E2'
import statistics, sys
rows = {}
for line in open(sys.argv[1]):
    label, micros, peak, size = line.split()
    rows.setdefault(label, []).append((int(micros) / 1e6, peak, size))
print(f"{'command':<12} {'median s':>9} {'min s':>9} {'max s':>9} {'peak MiB':>9} {'bytes':>14}")
median = {}
for label, runs in rows.items():
    times = [r[0] for r in runs]
    median[label] = statistics.median(times)
    peaks = [int(r[1]) for r in runs if r[1] != "-"]
    peak = f"{max(peaks) / 1024:.0f}" if peaks else "-"
    print(f"{label:<12} {median[label]:>9.3f} {min(times):>9.3f} {max(times):>9.3f} {peak:>9} {runs[-1][2]:>14}")
for ours, theirs in (("export", "zstd"), ("export", "tar+zstd"), ("import", "zstd+untar")):
    print(f"{ours} / {theirs}: {median[ours] / median[theirs]:.2f}")
E2
