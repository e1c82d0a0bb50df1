# Sourced by the measurements: a folder on disk, a configuration with one COS source and no sink, and how to start and
# stop what is measured. Loopback only; everything that was started is stopped by its process id.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
port=${BENCH_PORT:-18480}
target=${CARGO_TARGET_DIR:-target}
path=/callbacks/media/bench-token
mkdir -p "$target"
work=$(realpath "$(mktemp -d "$target/bench.XXXXXX")") # not /tmp, which may be memory: fdatasync has to cost what it costs
started=()

stop() { # stop PID: asks, waits 30 s, insists
  kill "$1" 2>/dev/null || return 0
  for _ in {1..300}; do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}
cleanup() {
  for pid in "${started[@]}"; do stop "$pid"; done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

need() { # need COMMAND PACKAGE
  command -v "$1" >/dev/null && return
  [[ $(id -u) == 0 ]] || { echo "missing; run as root: apt-get install $2" >&2; exit 1; }
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2"; } \
    >&2 </dev/null
}

# configure NAME: a configuration whose store is NAME.db; prints its path.
configure() {
  cat >"$work/$1.toml" <<TOML
[server]
listen = "127.0.0.1:$port"

[admin]
listen = "127.0.0.1:$((port + 1))"

[store]
url = "sqlite:$work/$1.db"

[log]
level = "warn"

[sources.media]
kind = "cos_workflow"
path = "/callbacks/media"
token = "bench-token"
TOML
  echo "$work/$1.toml"
}

# start LOG SECONDS COMMAND...: in the background, until it takes connections; its process id is then in $pid.
start() {
  local log=$1 limit=$((SECONDS + $2))
  shift 2
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  started+=("$pid")
  until (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null && ((SECONDS < limit)) || { cat "$log" >&2; exit 1; }
    sleep 0.05
  done
}

callbackd="$target/release/callbackd"
