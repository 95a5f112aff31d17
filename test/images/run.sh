#!/usr/bin/env bash
# Builds the CPU image from docker/Dockerfile on a Debian of debootstrap, prints its size, and runs test/images/*.test.ts
# with it. Called by `make test-images`, which sets up what it needs.
# Images and containers live in memory and in namespaces of this script's own, so nothing is left behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${IMAGE_TOOLS:?is not set: run 'make test-images', which gets the tools}"

[ "${1:-}" = inside ] || exec unshare --mount -- "$0" inside

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pisa-serve
mkdir -p "$cache"
work=$(mktemp -d)
mount -t tmpfs -o size=6g tmpfs "$work"
mkdir "$work/tmp"
export TMPDIR=$work/tmp BUILDAH_ISOLATION=chroot
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
cat >"$CONTAINERS_STORAGE_CONF" <<CONF
[storage]
driver = "overlay"
graphroot = "$work/storage"
runroot = "$work/run"
CONF
# No systemd, no journal, and locks apart from those of a podman that this machine may use otherwise. The limits are
# those that a container may set without CAP_SYS_RESOURCE.
cat >"$CONTAINERS_CONF" <<CONF
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "crun"
tmp_dir = "$work/run/libpod"
CONF
clean_up() {
  podman rm --all --force --time 0 >"$work/clean-up.log" 2>&1 || cat "$work/clean-up.log" >&2
  cd /
  umount --lazy "$work"
  rmdir "$work"
}
trap clean_up EXIT
# crun refuses version 2 of cgroups beside version 1; in this mount namespace nobody else misses it.
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified

base=$(sed -nE 's/^FROM (debian:\S+) AS node$/\1/p' docker/Dockerfile)
test/images/base.sh "docker.io/library/$base" "$cache"

started=$SECONDS
export PISA_IMAGE=localhost/pisa-serve:test
# --format docker: the OCI's format has no health check.
if ! buildah bud --format docker --pull-never --layers=false --target cpu -f docker/Dockerfile -t "$PISA_IMAGE" . \
  >"$work/build.log" 2>&1; then
  tail -n 40 "$work/build.log" >&2
  echo "docker/Dockerfile, target cpu: a step failed, see above." >&2
  exit 1
fi
root=$(podman image mount "$PISA_IMAGE")
echo "docker/Dockerfile, target cpu: built in $((SECONDS - started)) s, $(du -sm "$root" | cut -f 1) MB unpacked"
podman image unmount "$PISA_IMAGE" >/dev/null

# A network of their own, with nothing but the loopback device: every port is free, and nothing is reached from it.
unshare --net -- bash -c 'ip link set lo up && exec npx --no-install vitest run --config test/images/vitest.config.ts'
