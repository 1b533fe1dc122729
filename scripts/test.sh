#!/usr/bin/env bash
# The whole test suite. Needs what `make ready` makes.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(git ls-files -z -- '*.go' | xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
  echo "not formatted by gofmt:" >&2
  echo "$unformatted" >&2
  exit 1
fi
echo "== go vet, linux and darwin"
go vet ./...
GOOS=darwin go build -o /dev/null ./cmd/agentkernel
echo "== packages"
go test ./api/... ./cmd/... ./images/... ./internal/... ./pkg/... ./test/imports ./test/hostile
echo "== microVMs"
go test -count=1 -timeout 15m ./test/vm ./test/script
