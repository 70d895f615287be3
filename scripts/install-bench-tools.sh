#!/usr/bin/env bash
# Makes sure that what `make bench` compares with is there: packages of Debian as root, and the `msb` command, which
# scripts/install-msb.sh builds. What cannot be had is left out of the comparison, and said.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

declare -A packages=([zstd]=zstd [tar]=tar [openssl]=openssl [curl]=curl [python3]=python3 [mkfs.ext4]=e2fsprogs
    [mkfs.xfs]=xfsprogs [docker-registry]=docker-registry)
lack=()
for tool in "${!packages[@]}"; do
    command -v "$tool" >/dev/null 2>&1 || lack+=("${packages[$tool]}")
done
if [ "${#lack[@]}" -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing: ${lack[*]}"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get -qq update || true
    apt-get -qq install -y --no-install-recommends "${lack[@]}"
fi
for tool in "${!packages[@]}"; do
    command -v "$tool" >/dev/null 2>&1 || echo "missing: $tool (Debian package ${packages[$tool]})" >&2
done

scripts/install-msb.sh
