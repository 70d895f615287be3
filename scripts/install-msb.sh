#!/usr/bin/env bash
# Builds the `msb` command (crate microsandbox-cli) at the version that the tests and the bench compare with.
#
#   scripts/install-msb.sh [--check]
#
# The binary goes to ${XDG_CACHE_HOME:-~/.cache}/snapcask-tools/bin/msb, so that a fresh clone finds it. The build
# takes 12 to 20 minutes on two cores, once for each machine. With CI=true a build that fails is an error. `--check` builds
# nothing: without the binary it says which tests are skipped, which with CI=true is an error.
set -euo pipefail
exec </dev/null

version=0.7.13
root=${XDG_CACHE_HOME:-${HOME:?}/.cache}/snapcask-tools

if "$root/bin/msb" --version 2>/dev/null | grep -qwF "$version"; then
    echo "msb $version: installed"
    exit 0
fi
if [ "${1:-}" = --check ]; then
    if "${MSB:-}" --version 2>/dev/null | grep -qwF "$version"; then
        echo "msb $version: $MSB"
        exit 0
    fi
    echo "missing: msb $version (scripts/install-msb.sh builds it in 12 to 20 minutes); skipped: all tests against msb" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
fi
if ! command -v cargo >/dev/null 2>&1; then
    echo "missing: msb $version (no cargo to build it)" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
fi
echo "msb $version: building (12 to 20 minutes)"
mkdir -p "$root"
# The build folder is kept until the build succeeds, so that an interrupted build goes on.
if CARGO_TARGET_DIR="$root/build" cargo install --locked --quiet --force microsandbox-cli --version "$version" \
    --no-default-features --root "$root"; then
    rm -rf "$root/build"
    exit 0
fi
echo "missing: msb $version (its build failed)" >&2
[ "${CI:-}" != true ] || exit 1
