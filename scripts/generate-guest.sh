#!/usr/bin/env bash
# Generates the Go code of the guest protocol from api/guest/v1/*.proto.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh protobuf-compiler
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN=$tools go install github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc@v1.2.10
PATH=$tools:$PATH protoc -I api/guest/v1 \
  --go_out=api/guest/v1 --go_opt=paths=source_relative \
  --go-ttrpc_out=api/guest/v1 --go-ttrpc_opt=paths=source_relative api/guest/v1/*.proto
