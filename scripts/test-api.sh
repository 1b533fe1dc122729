#!/usr/bin/env bash
# Checks the API of a daemon against api/openapi.yaml with schemathesis, which it installs beside the build's other caches.
# Needs what `make ready` makes, and python3 with venv.
set -euo pipefail
cd "$(dirname "$0")/.."

version=4.32.5
venv=${XDG_CACHE_HOME:-$HOME/.cache}/agentkernel/schemathesis-$version
if [ ! -e "$venv/complete" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet "schemathesis==$version"
  touch "$venv/complete"
fi
exec go test -count=1 -v -timeout 60m ./test/api -schemathesis "$venv/bin/schemathesis" "$@"
