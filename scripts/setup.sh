#!/usr/bin/env bash
# Everything that `make serve` and `make test` need.
# Usage: scripts/setup.sh node [tests] | packages | redis [always] | curl | python | webgpu | browser | firefox | prometheus | containers
# Installs Debian packages where it may (root with apt-get); else says in one sentence what to install.
set -euo pipefail

# What tells Debian's packages whether they may start a service (a test has one of its own).
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}

# Prints nothing and succeeds when this Node.js has the version that an expression over a, b and c (a.b.c) wants.
node_is() {
  node -e "const [a, b, c] = process.versions.node.split('.').map(Number); process.exit($1 ? 0 : 1)"
}

need_node() {
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "Node.js 20.19.2 or newer and npm are needed: install them from https://nodejs.org or your distribution, then run make again." >&2
    exit 1
  fi
  if ! node_is 'a > 20 || (a === 20 && (b > 19 || (b === 19 && c >= 2)))'; then
    echo "Node.js 20.19.2 or newer is needed, but this is $(node --version): install a newer one, then run make again." >&2
    exit 1
  fi
}

# What knip and vitest, with what they bring, name in their `engines`; npm only warns of it, and that is switched off.
need_node_for_tests() {
  node_is 'a === 20 || (a === 22 && b >= 12) || a >= 24' && return
  echo "The checks and tests need Node.js 20 (from 20.19.2), 22 (from 22.12), 24 or newer, but this is $(node --version): install another one, then run make again. The service itself runs on this one (make serve)." >&2
  exit 1
}

# Not in the PATH of every user. And grep reads to the end (no -q): what writes to a closed pipe fails under pipefail.
has_library() {
  { command -v ldconfig >/dev/null && ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -F "$1" >/dev/null
}

can_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

apt_install() {
  echo "Installing $* (Debian packages) …"
  log=$(mktemp)
  made_policy=
  # Runs at every end, so that a Ctrl-C in the middle of apt-get leaves the machine able to start its services.
  trap 'rm -f "$log" ${made_policy:+"$policy"}' EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # Debian starts a packaged server at once; ours is a private one, so keep it from starting.
  if [ ! -e "$policy" ]; then
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "apt-get could not install $*: see above. Mend that, or install it yourself, then run make again." >&2
    exit 1
  fi
}

case "${1:-}" in
  node)
    need_node
    [ "${2:-}" != tests ] || need_node_for_tests
    ;;
  packages)
    echo "Installing npm packages …"
    # npm's cache lies in the home folder, where not everyone may write. Then it is one for this time.
    cache=$(npm config get cache)
    if ! { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null; then
      npm_config_cache=$(mktemp -d)
      export npm_config_cache
      trap 'rm -rf "$npm_config_cache"' EXIT
    fi
    npm ci --no-progress --loglevel=error
    ;;
  redis)
    [ -n "${REDIS_URL:-}" ] && [ "${2:-}" != always ] && exit 0
    command -v redis-server >/dev/null && exit 0
    if can_install; then
      apt_install redis-server
    else
      echo "redis-server is missing: install it (Debian, Ubuntu: sudo apt install redis-server; macOS: brew install redis), or set REDIS_URL to a Redis of your own." >&2
      exit 1
    fi
    ;;
  curl)
    # The tests run the commands of the documentation.
    command -v curl >/dev/null && exit 0
    if can_install; then
      apt_install curl
    else
      echo "curl is missing: install it (Debian, Ubuntu: sudo apt install curl), then run make again." >&2
      exit 1
    fi
    ;;
  python)
    # For a virtual environment. PYTHON names one other than python3.
    python=${PYTHON:-python3}
    has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
    has_venv && exit 0
    # Debian's packages mend Debian's Python only.
    if can_install && [ "$python" = python3 ]; then
      apt_install python3-venv
      has_venv && exit 0
    fi
    echo "$python with its venv module is missing: install it (Debian, Ubuntu: sudo apt install python3-venv; macOS: brew install python), then run make again." >&2
    exit 1
    ;;
  webgpu)
    # Only the test of the WebGPU provider needs these; without them it is skipped and says so.
    [ -e /usr/lib/chromium/libvk_swiftshader.so ] && has_library libvulkan.so.1 && exit 0
    if can_install; then
      apt_install chromium-common libvulkan1
    else
      echo "Note: the WebGPU test is skipped here: it needs Debian's chromium-common and libvulkan1." >&2
    fi
    ;;
  browser)
    # Only the test of the playground needs it; without it that is skipped and says so. Ubuntu has it as a snap only.
    command -v chromium >/dev/null && exit 0
    if can_install && grep -qx 'ID=debian' /etc/os-release; then
      apt_install chromium
    else
      echo "Note: the browser test of the playground is skipped here: it needs chromium in the PATH (Debian: sudo apt install chromium)." >&2
    fi
    ;;
  firefox)
    # Only `make test-browsers` needs it. Ubuntu has it as a snap only.
    command -v firefox-esr >/dev/null && exit 0
    if can_install && grep -qx 'ID=debian' /etc/os-release; then
      apt_install firefox-esr
    else
      echo "firefox-esr is missing: install it (Debian: sudo apt install firefox-esr), then run make again." >&2
      exit 1
    fi
    ;;
  prometheus)
    command -v promtool >/dev/null && command -v prometheus >/dev/null && exit 0
    if can_install; then
      apt_install prometheus
    else
      echo "prometheus and promtool are missing: install them (Debian, Ubuntu: sudo apt install prometheus; macOS: brew install prometheus)." >&2
      exit 1
    fi
    ;;
  containers)
    # `make test-images` builds and runs containers without an engine, in namespaces of its own.
    [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || {
      echo "make test-images needs Linux and root: it makes a Debian by debootstrap and runs containers on it." >&2
      exit 1
    }
    for program in buildah podman crun debootstrap ip; do
      command -v "$program" >/dev/null && continue
      if can_install; then
        apt_install buildah podman crun debootstrap debian-archive-keyring iproute2
        break
      fi
      echo "$program is missing: install buildah, podman, crun, debootstrap, Debian's archive keyring and iproute2." >&2
      exit 1
    done
    ;;
  *)
    echo "Usage: scripts/setup.sh node [tests] | packages | redis [always] | curl | python | webgpu | browser | firefox | prometheus | containers" >&2
    exit 2
    ;;
esac
