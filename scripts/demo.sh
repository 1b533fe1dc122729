#!/usr/bin/env bash
# The job that `make run` ends with: this repository is given to a sandbox as its project, and the lines of its Go files are
# counted inside the microVM and on the host. Usage: scripts/demo.sh AGENTKERNEL
set -euo pipefail
cd "$(dirname "$0")/.."
ak=$PWD/$1
name=demo-$$

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ agentkernel %s\n' "$*"; "$ak" "$@"; }
trap '"$ak" rm --force "$name" >/dev/null 2>&1 || true' EXIT

say "A sandbox with this repository as its project"
show create "$name" --agent claude --project . --memory 256M
show start "$name"

say "A command, answered from inside the microVM"
show exec "$name" echo "hello from microVM"
show exec "$name" uname -a

say "The lines of this repository's Go files, counted inside"
count="find . -name '*.go' -type f -print0 | xargs -0 cat | wc -l"
show exec -w /workspace "$name" sh -c "$count"
inside=$("$ak" exec -w /workspace "$name" sh -c "$count" | tr -d ' ')
# The project is packed as git sees it: files that git ignores are not part of it.
host=$(git ls-files -z --cached --others --exclude-standard -- '*.go' | sort -zu | xargs -0 cat | wc -l | tr -d ' ')
if [ "$inside" != "$host" ]; then
  echo "the host counts $host lines, and the microVM $inside" >&2
  exit 1
fi
echo "the host counts $host as well"

say "Where the time of the start went"
show inspect "$name"

say "Stop"
time=$(date +%s%N)
show stop "$name"
echo "stopped in $((($(date +%s%N) - time) / 1000000)) ms, command included"
"$ak" rm "$name" >/dev/null
