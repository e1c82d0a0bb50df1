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
say() { echo "openapi.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }

# shellcheck source=tests/peers/venv.sh
. "$here/venv.sh"
in_venv "schemathesis-$version" "schemathesis==$version"
exec "$venv/bin/python" "$here/openapi.py" "$binary" "$venv/bin/schemathesis"
