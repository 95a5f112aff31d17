#!/usr/bin/env bash
# How long a stranger waits: fresh clone → first image by `make serve`, then second start → ready.
# Cold npm cache, no node_modules, no dist. redis-server is installed by make where it is missing.
# Usage: bench/fresh-clone.sh   (prints a table)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
port=$(node -e 'const s=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})')
server=
finish() {
  [ -z "$server" ] || kill -TERM -- "-$server" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }
start() { # in a process group of its own, as a terminal has it
  setsid make serve >"$work/log" 2>&1 &
  server=$!
}
until_ready() {
  until curl -fs "http://127.0.0.1:$port/readyz" >/dev/null; do
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
  done
}

export PORT=$port npm_config_cache="$work/npm-cache"
redis=$(command -v redis-server >/dev/null && echo "was there" || echo "was installed")
began=$(date +%s.%N)
git clone -q "$root" "$work/clone"
cd "$work/clone"
start
until_ready
curl -fs -F image=@test/photos/cat-128.jpg -H 'Accept: image/png' "http://127.0.0.1:$port/upscale" -o "$work/cat.png"
first=$(seconds_since "$began")
kill -INT -- "-$server"
wait "$server" || true

began=$(date +%s.%N)
start
until_ready
second=$(seconds_since "$began")

echo "| what | seconds |"
echo "|---|---|"
echo "| fresh clone → first image (redis-server $redis) | $first |"
echo "| second start → ready | $second |"
