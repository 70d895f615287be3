#!/usr/bin/env bash
# Runs the scoreboard in full (or the rows that are named) and puts the pages of all rows together as docs/reliability.md.
#
# Rows 15 and 16 have programs of their own: `make fuzz` and `make mutation`; the pages they wrote last are taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
status=0
if [ "${1:-}" != --pages-only ] && [ "$*" != 13 ]; then
    cargo test --locked --test reliability -- --full "$@" || status=$?
fi
pages=target/reliability/full
if [ $# -eq 0 ] || [[ " $* " == *" 13 "* ]]; then
    # Row 13 is an integration test, of which `make test` runs a part.
    log=target/reliability/row-13.log
    mkdir -p "$pages"
    SNAPCASK_EVERY_CUT=1 cargo test --locked --test it -- registry:: >"$log" 2>&1 || status=$?
    sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; .* finished in (.*)$/\1 \2 \3/p' "$log" | {
        read -r passed failed seconds
        cat <<TEXT
## Row 13. A registry cut at every 1 % of push and pull, and every fault

| what | tests | failures |
|---|--:|--:|
| every cut and fault of \`tests/it/registry/\` | $((passed + failed)) | $failed |

- Linux $(uname -r) $(uname -m); ${seconds%s} s. Again: \`SNAPCASK_EVERY_CUT=1 cargo test --test it registry::\`
TEXT
    } >"$pages/row-13.md"
fi
{
    cat <<'TEXT'
# Reliability

What was tried to make snapcask place something wrong or lose something, how often, and how often it succeeded. This page
is written by the experiments themselves (`make reliability`, `make fuzz`, `make mutation`); every row says how to repeat
it. Linux, x86_64; rows 4 and 6 mount filesystems and take root, rows 3 and 5 use ptrace. `make test` runs every row in a
short form; rows 7 to 11 and 13 are integration tests (`tests/it/`), which run whole each time.

TEXT
    for page in "$pages"/row-*.md; do
        cat "$page"
        echo
    done
} | cat -s | sed -e '$ { /^$/d }' >docs/reliability.md
echo "written: docs/reliability.md"
exit "$status"
