#!/usr/bin/env bash
# Builds what `make test-kubernetes` runs the chart through, in the versions of test/kubernetes/tools/go.mod, and prints
# the folder of the programs. They are kept in ~/.cache/pisa-serve (XDG_CACHE_HOME), not in the repository.
set -euo pipefail
cd "$(dirname "$0")/../test/kubernetes/tools"

needed=$(awk '$1 == "go" { print $2; exit }' go.mod)
if ! command -v go >/dev/null; then
  echo "Go $needed or newer is needed to build Helm for this test: install it from https://go.dev/dl, then run make again." >&2
  exit 1
fi
have=$(go env GOVERSION)
if [ "$(printf '%s\n' "$needed" "${have#go}" | sort -V | head -n 1)" != "$needed" ]; then
  echo "Go $needed or newer is needed to build Helm for this test, but this is ${have#go}: install a newer one, then run make again." >&2
  exit 1
fi

export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -p=2"
key=$(cat go.mod go.sum admit/*.go <(echo "$have $GOFLAGS") | sha256sum | cut -c 1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pisa-serve/kubernetes-tools/$key
mkdir -p "$folder"
build() {
  [ ! -x "$folder/$1" ] || return 0
  echo "Building $1 (the first time takes minutes) …" >&2
  go build -ldflags "-s -w" -o "$folder/.$1.$$" "$2"
  # Complete or not there: the next run must not take a half for it.
  mv "$folder/.$1.$$" "$folder/$1"
  echo "Built $1 in $SECONDS s." >&2
}
build helm helm.sh/helm/v3/cmd/helm
build admit ./admit
echo "$folder"
