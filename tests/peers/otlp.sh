#!/usr/bin/env bash
# What a daemon built with the feature otlp sends, decoded by OpenTelemetry's own definitions (ExportTraceServiceRequest),
# in which an unknown field or a wrong type is an error.
#
#   otlp.sh BINARY      BINARY: callbackd, built with `--features otlp`
#
# Prints one `ok - …` line for each thing that holds, or what failed. Python's opentelemetry-proto is installed with pip into
# $CALLBACKD_TEST_CACHE, by default target/tools; where Python has no venv, it is installed first, which needs root.
# What is checked stands in otlp.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath -m "${1:?a callbackd that was built with --features otlp}")
proto=1.45.2
protobuf=7.36.2
venv=${CALLBACKD_TEST_CACHE:-$top/target/tools}/opentelemetry-proto-$proto
say() { echo "otlp.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build --features otlp\` first"; exit 1; }

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
  "$venv/bin/pip" install --quiet --disable-pip-version-check "opentelemetry-proto==$proto" "protobuf==$protobuf" \
    >&2 </dev/null
  touch "$venv/ready"
fi
flock -u 9
exec "$venv/bin/python" "$here/otlp.py" "$binary"
