#!/usr/bin/env bash
# Stands in for the official image debian:*-slim where no image registry is reached: debootstrap's smallest variant, and
# the settings of https://github.com/debuerreotype/debuerreotype that the steps of a Dockerfile can notice.
# Usage: base.sh TAG CACHE. Makes the image TAG in buildah's store; keeps what debootstrap made in CACHE for a week.
set -euo pipefail
tag=$1
cache=$2

case $tag in
  *debian:12*-slim) suite=bookworm ;;
  *debian:13*-slim) suite=trixie ;;
  *)
    echo "test/images/base.sh knows no release of Debian for $tag: add it there." >&2
    exit 1
    ;;
esac
mirror=http://deb.debian.org/debian

# The authorities that this machine trusts beside Debian's: a proxy between it and the registries may need them.
authorities=/usr/local/share/ca-certificates
key=$(cat "$0" $(find "$authorities" -name '*.crt' 2>/dev/null | sort) | sha256sum | cut -c 1-16)
tarball=$cache/debian-$suite-$key.tar

if [ -z "$(find "$tarball" -mtime -7 2>/dev/null)" ]; then
  echo "Making Debian $suite by debootstrap, in place of $tag …"
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  if ! debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" 2>&1; then
    tail -n 15 "$root.log" "$root/debootstrap/debootstrap.log" >&2 || true
    echo "debootstrap could not make Debian $suite: see above. It needs root and $mirror." >&2
    exit 1
  fi
  rm -f "$root.log" "$root"/var/cache/apt/{archives/*.deb,*.bin}
  rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list
  cat >"$root/etc/apt/sources.list.d/debian.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: $suite $suite-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: $mirror-security
Suites: $suite-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  # apt keeps neither packages nor caches, so that steps need not remove them.
  cat >"$root/etc/apt/apt.conf.d/docker" <<'APT'
Acquire::Languages "none";
Acquire::Retries "3";
APT::AutoRemove::SuggestsImportant "false";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT
  # The "slim" of the tag: no manuals, no translations, no documents but licences; and no sync after each file.
  printf 'path-exclude %s\n' '/usr/share/doc/*' '/usr/share/info/*' '/usr/share/locale/*' '/usr/share/man/*' \
    >"$root/etc/dpkg/dpkg.cfg.d/docker"
  printf 'path-include /usr/share/doc/*/copyright\nforce-unsafe-io\n' >>"$root/etc/dpkg/dpkg.cfg.d/docker"
  rm -rf "$root"/usr/share/{info,locale,man}
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  install -d "$root$authorities"
  find "$authorities" -name '*.crt' -exec cp -t "$root$authorities" {} + 2>/dev/null || true
  rm -f "$cache"/debian-"$suite"-*.tar
  tar -C "$root" --one-file-system -cf "$tarball.part" .
  mv "$tarball.part" "$tarball"
fi

version=$(tar -xOf "$tarball" ./etc/debian_version)
[[ $tag == *:"$version"-slim ]] || echo "Note: Debian is at $version, and docker/ names $tag: raise it there." >&2
container=$(buildah from scratch)
buildah add --quiet "$container" "$tarball" / >/dev/null
buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$tag" >/dev/null
echo "$tag: Debian $version, by debootstrap in place of the official image"
