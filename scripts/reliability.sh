#!/usr/bin/env bash
# Runs the scoreboard in full (or the rows that are named) and puts the pages of all rows together as docs/reliability.md.
#
# Rows 15 and 16 have programs of their own: `make fuzz` and `make mutation`; the pages they wrote last are taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
status=0
if [ "${1:-}" != --pages-only ]; then
    cargo test --locked --test reliability -- --full "$@" || status=$?
fi
pages=target/reliability/full
mkdir -p "$pages"
# A row's page: that of a run in this checkout, else what the document says.
page() {
    if [ -e "$pages/row-$1.md" ]; then
        cat "$pages/row-$1.md"
    else
        awk -v row="${1#0}" '/^## Row / { ours = ($3 == row ".") } ours' <<<"$document"
    fi
}
document=$(cat docs/reliability.md)
{
    cat <<'TEXT'
# Reliability

What was tried to make snapcask place something wrong or lose something, how often, and how often it succeeded. This page
is written by the experiments themselves (`make reliability`, `make fuzz`, `make mutation`); every row says how to repeat
it. Linux, x86_64; rows 4 and 6 mount filesystems and take root, rows 3 and 5 use ptrace. `make test` runs every row in a
short form; rows 7 to 11 and 13 are integration tests (`tests/it/`), which run whole each time; here they are counted, in a
release build.

TEXT
    for number in $(seq -w 1 16); do
        page "$number"
        echo
    done
} | cat -s | sed -e '$ { /^$/d }' >docs/reliability.md
echo "written: docs/reliability.md"
exit "$status"
