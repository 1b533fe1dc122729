#!/usr/bin/env bash
# Builds the guest agent of each architecture into internal/initramfs/bin, from where it is embedded.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Settings of Go's runtime (GODEBUG): a microVM keeps the processors that it was booted with, so that nobody needs to look; and no signal
# makes a goroutine yield that has run for 10 ms, as an emulated one soon has: they yield when they call something.
runtime=updatemaxprocs=0,asyncpreemptoff=1
for arch in amd64 arm64; do
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.build=$version -X runtime.godebugDefault=$runtime" \
    -o "internal/initramfs/bin/akguest-$arch" ./cmd/akguest
done
