#!/usr/bin/env bash
# Builds the registry tools that the tests and `make interop` run, at pinned versions, into a folder of the project's own.
#
#   scripts/install-interop-tools.sh [--zot]
#
# The folder is target/interop-tools/bin, or $SNAPCASK_TOOLS. What is there in the pinned version is left alone.
# Without a Go toolchain nothing is built, and it says which tests are skipped; with one, a build that fails is an
# error when CI=true. `--zot` tries to build zot too, which takes long and is only for `make interop`; that it cannot be built is
# never an error: `make interop` then leaves it out and says so.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${SNAPCASK_TOOLS:-$PWD/target/interop-tools/bin}

# name, Go package, version, what is skipped without it
tools='
oras|oras.land/oras/cmd/oras|v1.3.6|copies by the oras CLI
crane|github.com/google/go-containerregistry/cmd/crane|v0.22.1|copies by crane, and its registry
regctl|github.com/regclient/regclient/cmd/regctl|v0.11.7|copies by regctl
distribution|github.com/distribution/distribution/v3/cmd/registry|v3.1.2|copies to distribution 3
'
# Without extensions (user interface, scanners, search): none is needed to store and serve.
zot='zot|zotregistry.dev/zot/v2/cmd/zot|v2.1.20|zot in make interop'

# The module version that a binary says it was built from.
built_version() {
    go version -m "$1" 2>/dev/null | awk '$1 == "mod" { print $3 }'
}

install_tool() {
    local name=$1 package=$2 version=$3 scratch
    if [ -x "$bin/$name" ] && [ "$(built_version "$bin/$name")" = "$version" ]; then
        echo "$name $version: there"
        return 0
    fi
    echo "$name $version: building"
    # The binary has the name of its last folder; a folder of its own, on the same filesystem, makes the rename safe.
    scratch=$(mktemp -d "$bin/.build.XXXXXX")
    if GOBIN="$scratch" CGO_ENABLED=0 go install -trimpath -ldflags='-s -w' "$package@$version" 2>"$scratch/log"; then
        mv "$scratch/$(basename "$package")" "$bin/$name"
        rm -rf "$scratch"
        return 0
    fi
    grep -v '^go: downloading' "$scratch/log" >&2 || true
    rm -rf "$scratch"
    return 1
}

if ! command -v go >/dev/null 2>&1; then
    while IFS='|' read -r name _ version skipped; do
        [ -n "$name" ] || continue
        [ -x "$bin/$name" ] || echo "missing: $name $version (no Go toolchain to build it); skipped: $skipped" >&2
    done <<<"$tools"
    exit 0
fi

mkdir -p "$bin"
failed=
while IFS='|' read -r name package version skipped; do
    [ -n "$name" ] || continue
    install_tool "$name" "$package" "$version" || failed="$failed$name|$version|$skipped"$'\n'
done <<<"$tools"

if [ "${1:-}" = --zot ]; then
    IFS='|' read -r name package version skipped <<<"$zot"
    # One package at a time, out of the way of everything else: it is by far the largest.
    export GOFLAGS="${GOFLAGS:-} -p=1"
    log=$bin/zot.log
    if (install_tool "$name" "$package" "$version") 2>"$log"; then
        rm -f "$log"
    else
        echo "zot $version cannot be built; skipped: $skipped" >&2
        cat "$log" >&2
    fi
fi

[ -n "$failed" ] || exit 0
while IFS='|' read -r name version skipped; do
    [ -n "$name" ] || continue
    echo "missing: $name $version (its build failed); skipped: $skipped" >&2
done <<<"$failed"
if [ "${CI:-}" = true ]; then
    echo "with CI=true nothing may be skipped where there is a Go toolchain" >&2
    exit 1
fi
