#!/usr/bin/env bash
# A real Prometheus scrapes a real callbackd; promtool and Prometheus' Python client read what it says; and the rules and
# the dashboard in config/ are asked of it.
#
#   prometheus.sh [BINARY]      BINARY: a built callbackd, by default target/debug/callbackd
#
# Prints one `ok - …` line for each thing that holds, or what failed with the daemon's log. Where there is no prometheus,
# Debian's package is unpacked into $CALLBACKD_TEST_CACHE, by default target/tools, and nothing is installed or started;
# the client is installed there with pip. What is checked stands in prometheus.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath -m "${1:-$top/target/debug/callbackd}")
cache=${CALLBACKD_TEST_CACHE:-$top/target/tools}
version=0.25.0
say() { echo "prometheus.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/prometheus.lock"
flock 9
if ! command -v prometheus promtool >/dev/null; then
  unpacked=$cache/prometheus
  if [[ ! -e $unpacked/ready ]]; then
    rm -rf "$unpacked"
    mkdir -p "$unpacked"
    [[ $(id -u) != 0 ]] || apt-get update -qq </dev/null >&2
    (cd "$unpacked" && apt-get download -qq prometheus </dev/null >&2 && dpkg -x prometheus_*.deb . && rm prometheus_*.deb)
    touch "$unpacked/ready"
  fi
  PATH=$unpacked/usr/bin:$PATH
fi
flock -u 9
# shellcheck source=tests/peers/venv.sh
. "$here/venv.sh"
in_venv "prometheus_client-$version" "prometheus_client==$version"

promtool check rules "$top/config/alerts.yml"
promtool test rules "$top/tests/peers/alerts.yml"
echo "ok - promtool: the rules are rules, and fire when they should"
exec "$venv/bin/python" "$here/prometheus.py" "$binary"
