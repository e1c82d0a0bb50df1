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
say() { echo "schema.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }

# shellcheck source=tests/peers/venv.sh
. "$here/venv.sh"
in_venv "jsonschema-$version" "jsonschema[format-nongpl]==$version"
exec "$venv/bin/python" "$here/schema.py" "$binary" "$top"
