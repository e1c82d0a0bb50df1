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
venv=$cache/prometheus_client-$version
say() { echo "prometheus.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }

mkdir -p "$cache"
exec 9>"$venv.lock"
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
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  [[ $(id -u) == 0 ]] || { say "Python has no venv; run as root: apt-get install python3-venv"; exit 1; }
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } \
    >&2 </dev/null
fi
if [[ ! -e $venv/ready ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "prometheus_client==$version" >&2 </dev/null
  touch "$venv/ready"
fi
flock -u 9

promtool check rules "$top/config/alerts.yml"
promtool test rules "$top/tests/peers/alerts.yml"
echo "ok - promtool: the rules are rules, and fire when they should"
exec "$venv/bin/python" "$here/prometheus.py" "$binary"
