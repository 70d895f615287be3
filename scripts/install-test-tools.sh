#!/usr/bin/env bash
# Installs the programs that the interop tests run: GNU tar, zstd, mkfs.ext4, skopeo, docker-registry.
# Without root or apt-get it says which tests will be skipped; in CI (CI=true) a missing program is an error.
set -uo pipefail
declare -A package=([tar]=tar [zstd]=zstd [mkfs.ext4]=e2fsprogs [skopeo]=skopeo [docker-registry]=docker-registry [python3]=python3)
export PATH="$PATH:/usr/sbin:/sbin"
missing() { for tool in "${!package[@]}"; do command -v "$tool" >/dev/null || echo "$tool"; done; }
if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  packages=$(for tool in $(missing); do echo "${package[$tool]}"; done)
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086 # a list of words
  (apt-get update -q && apt-get install -qy --no-install-recommends $packages) >/dev/null 2>&1 \
    || echo "install-test-tools: apt-get could not install: $packages" >&2
fi
left=$(missing | tr '\n' ' ')
if [ -n "$left" ]; then
  echo "install-test-tools: missing: $left- the interop tests that need them will be skipped" >&2
  [ "${CI:-}" = true ] && exit 1
fi
exit 0
