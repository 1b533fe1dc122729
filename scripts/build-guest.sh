#!/usr/bin/env bash
# Builds the guest agent of each architecture into internal/initramfs/bin, from where it is embedded.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
for arch in amd64 arm64; do
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.build=$version" \
    -o "internal/initramfs/bin/akguest-$arch" ./cmd/akguest
done
