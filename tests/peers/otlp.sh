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
say() { echo "otlp.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build --features otlp\` first"; exit 1; }

# shellcheck source=tests/peers/venv.sh
. "$here/venv.sh"
in_venv "opentelemetry-proto-$proto" "opentelemetry-proto==$proto" "protobuf==$protobuf"
exec "$venv/bin/python" "$here/otlp.py" "$binary"
