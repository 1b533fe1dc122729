#!/usr/bin/env bash
# Installs what building and running agentkernel needs from the distribution's packages, on Debian and its relatives.
# Usage: scripts/setup.sh PACKAGE…    Prints what it does; does nothing when all is there.
set -euo pipefail

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is no Debian; make sure that the equivalents of these packages are installed: $*" >&2
  exit 0
fi

missing=()
for package in "$@"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: run as root, or install sudo, to install: ${missing[*]}" >&2
    exit 1
  fi
  sudo=sudo
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=($sudo apt-get install -y -q --no-install-recommends "${missing[@]}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
  local status
  set +e
  "$@" 2>&1 | tee "$log" | grep -E --line-buffered '^(Get:|Setting up|E:)' | sed -u 's/^/setup: /'
  status=${PIPESTATUS[0]}
  set -e
  return "$status"
}
update() { run $sudo apt-get update -q || { cat "$log" >&2; exit 1; }; }
# A list that knows the packages saves the update, unless it is so old that they are no longer to be had.
for package in "${missing[@]}"; do
  if ! apt-cache show "$package" >/dev/null 2>&1; then
    update
    break
  fi
done
if ! run "${install[@]}"; then
  update
  run "${install[@]}" || { cat "$log" >&2; exit 1; }
fi
echo "setup: done"
