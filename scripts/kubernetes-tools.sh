#!/usr/bin/env bash
# Builds what `make test-kubernetes` runs the chart in, through the Go module proxy, and prints the folder of the
# programs: Helm, Kubernetes' own checks, etcd and Kubernetes' control plane, in the versions of
# test/kubernetes/tools; with the argument `keda` (`make test-keda`) KEDA as well, in the version of
# test/kubernetes/crds. They are kept in ~/.cache/pisa-serve (XDG_CACHE_HOME), not in the repository.
set -euo pipefail
cd "$(dirname "$0")/../test/kubernetes/tools"

needed=$(awk '$1 == "go" { print $2; exit }' go.mod)
if ! command -v go >/dev/null; then
  echo "Go $needed or newer is needed to build Kubernetes for this test: install it from https://go.dev/dl, then run make again." >&2
  exit 1
fi
have=$(go env GOVERSION)
if [ "$(printf '%s\n' "$needed" "${have#go}" | sort -V | head -n 1)" != "$needed" ]; then
  echo "Go $needed or newer is needed to build Kubernetes for this test, but this is ${have#go}: install a newer one, then run make again." >&2
  exit 1
fi
if ! command -v openssl >/dev/null; then
  echo "openssl is missing: install it (Debian, Ubuntu: sudo apt install openssl), then run make again." >&2
  exit 1
fi

# Two compilers at once: linking Kubernetes takes two gigabytes of memory.
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly -p=2"
# What the API server says that it is, which its clients go by.
kubernetes=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2; exit }' kubernetes/go.mod)
IFS=. read -r major minor _ <<<"${kubernetes#v}"
package=k8s.io/component-base/version
flags="-s -w -X $package.gitVersion=$kubernetes -X $package.gitMajor=$major -X $package.gitMinor=$minor"

key=$(cat go.mod go.sum admit/*.go kubernetes/go.* ../crds/go.* <(echo "$have $GOFLAGS $flags") | sha256sum | cut -c 1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pisa-serve/kubernetes-tools/$key
mkdir -p "$folder"
# build PROGRAM MODULE_FOLDER PACKAGE
build() {
  [ ! -x "$folder/$1" ] || return 0
  echo "Building $1 (the first time takes minutes) …" >&2
  local started=$SECONDS
  go build -C "$2" -ldflags "$flags" -o "$folder/.$1.$$" "$3"
  # Complete or not there: the next run must not take a half for it.
  mv "$folder/.$1.$$" "$folder/$1"
  echo "Built $1 in $((SECONDS - started)) s." >&2
}
build helm . helm.sh/helm/v3/cmd/helm
build admit . ./admit
build etcd kubernetes go.etcd.io/etcd/server/v3
build kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver
build kube-controller-manager kubernetes k8s.io/kubernetes/cmd/kube-controller-manager
if [ "${1-}" = keda ]; then
  # In the folder of its module, so that it is built of exactly what KEDA releases it with: its own go.mod and go.sum.
  keda=$(cd ../crds && go mod download -json github.com/kedacore/keda/v2 | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  flags="-s -w"
  build keda-operator "$keda" ./cmd/operator
  build keda-adapter "$keda" ./cmd/adapter
fi
echo "$folder"
