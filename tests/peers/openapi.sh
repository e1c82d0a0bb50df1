#!/usr/bin/env bash
# Schemathesis on the admin API of a real daemon with something in its store: whatever it makes of /openapi.json, asked with a
# token and without, is answered as that says.
#
#   openapi.sh [BINARY]      BINARY: a built callbackd, by default target/debug/callbackd
#
# Prints one `ok - …` line for each thing that holds, or what failed with the seed that shows it again (SEED=…). Schemathesis is
# installed with pip into $CALLBACKD_TEST_CACHE, by default target/tools; where Python has no venv, it is installed first,
# which needs root. What is checked stands in openapi.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath -m "${1:-$top/target/debug/callbackd}")
version=4.32.5
venv=${CALLBACKD_TEST_CACHE:-$top/target/tools}/schemathesis-$version
say() { echo "openapi.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }

if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  [[ $(id -u) == 0 ]] || { say "Python has no venv; run as root: apt-get install python3-venv"; exit 1; }
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; } \
    >&2 </dev/null
fi

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [[ ! -e $venv/ready ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" >&2 </dev/null
  touch "$venv/ready"
fi
flock -u 9
exec "$venv/bin/python" "$here/openapi.py" "$binary" "$venv/bin/schemathesis"
