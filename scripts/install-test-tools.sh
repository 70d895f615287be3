#!/usr/bin/env bash
# Makes sure that the tools which the tests compare with are there.
#
# As root with apt-get, what is missing is installed (no service is started). Otherwise, says which tests will be
# skipped. With CI=true a tool that is missing in the end is an error.
set -euo pipefail
exec </dev/null

# tool, Debian package, what is skipped without it
tools='
zstd|zstd|zstd -t on inner and outer streams; unpacking by GNU tar and zstd
mkfs.ext4|e2fsprogs|round trips of real ext4 images
mkfs.xfs|xfsprogs|reflinks on XFS, stores on XFS
mkfs.btrfs|btrfs-progs|stores on btrfs
fuse-overlayfs|fuse-overlayfs|stores on fuse-overlayfs
skopeo|skopeo|copies by skopeo
docker-registry|docker-registry|copies to a registry on loopback and back
umoci|umoci|listing and tagging by umoci
tar|tar|unpacking by GNU tar
jq|jq|checks of JSON output in shell
qemu-img|qemu-utils|stacks of qcow2 layers
qemu-io|qemu-utils|stacks of qcow2 layers
strace|strace|signals at moments that are made long
openssl|openssl|the certificate that the documentation of registries makes
'

# Some tools stand in sbin folders that an ordinary user does not have in PATH.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing() {
    while IFS='|' read -r tool package skipped; do
        [ -n "$tool" ] || continue
        command -v "$tool" >/dev/null 2>&1 || printf '%s|%s|%s\n' "$tool" "$package" "$skipped"
    done <<<"$tools"
}

lack=$(missing)
if [ -n "$lack" ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    mapfile -t packages < <(cut -d'|' -f2 <<<"$lack" | sort -u)
    echo "installing: ${packages[*]}"
    # Packages must not start their services: 101 is "forbidden by policy". A policy that is there is left alone.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        if printf '#!/bin/sh\nexit 101\n' >"$policy" 2>/dev/null; then
            chmod 755 "$policy" || true
        fi
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || echo "apt-get update failed; trying with the lists that are there" >&2
    if ! apt-get -qq install -y --no-install-recommends "${packages[@]}"; then
        # One package that cannot be installed must not keep the others out.
        for package in "${packages[@]}"; do
            apt-get -qq install -y --no-install-recommends "$package" || echo "cannot install $package" >&2
        done
    fi
    lack=$(missing)
fi

if [ -z "$lack" ]; then
    echo "test tools: all there"
    exit 0
fi
while IFS='|' read -r tool package skipped; do
    echo "missing: $tool (Debian package $package); skipped: $skipped" >&2
done <<<"$lack"
if [ "${CI:-}" = true ]; then
    echo "with CI=true nothing may be skipped" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "run this script as root, or install the packages, to run these tests too" >&2
fi
