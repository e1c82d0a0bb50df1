#!/usr/bin/env bash
# The JSON Schemas that callbackd prints, judged by a validator of its own kind: what is shipped is valid under them, what
# `check` refuses for its shape is not, and every change that the fixtures make is.
#
#   schema.sh [BINARY]      BINARY: a built callbackd, by default target/debug/callbackd
#
# Prints one `ok - …` line for each thing that holds, or what failed. Python's jsonschema is installed with pip into
# $CALLBACKD_TEST_CACHE, by default target/tools; where Python has no venv, it is installed first, which needs root.
# What is checked stands in schema.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath -m "${1:-$top/target/debug/callbackd}")
version=4.23.0
venv=${CALLBACKD_TEST_CACHE:-$top/target/tools}/jsonschema-$version
say() { echo "schema.sh: $*" >&2; }
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
  "$venv/bin/pip" install --quiet --disable-pip-version-check "jsonschema[format-nongpl]==$version" >&2 </dev/null
  touch "$venv/ready"
fi
flock -u 9
exec "$venv/bin/python" "$here/schema.py" "$binary" "$top"
