#!/bin/sh
# Builds a kernel in the container and puts it into the directory mounted at
# /kernel. Usage: [VERSION [flags of `agentkernel kernel build`]]
set -eu

version=${1:-6.1.70}
[ $# -eq 0 ] || shift

vmlinux=$(agentkernel kernel build --version "$version" "$@")
for file in "$vmlinux" "$(dirname "$vmlinux")"/bzImage-*; do
    [ -e "$file" ] || continue # aarch64 has no bzImage
    install -m 644 "$file" /kernel/
    echo "/kernel/$(basename "$file")"
done
