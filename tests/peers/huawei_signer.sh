#!/usr/bin/env bash
# Huawei Cloud's own signer on what the daemon really sends: its SDK signs each request again, and has to come to the same.
#
#   huawei_signer.sh [BINARY]      BINARY: a built callbackd, by default target/debug/callbackd
#
# Prints one `ok - …` line for each thing that holds, or what failed with the daemon's log. The SDK is installed with pip
# into $CALLBACKD_TEST_CACHE, by default target/tools; where Python has no venv, it is installed first, which needs root.
# What is checked stands in huawei_signer.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath -m "${1:-$top/target/debug/callbackd}")
version=3.1.219
say() { echo "huawei_signer.sh: $*" >&2; }
[[ -x $binary ]] || { say "no program at $binary; run \`cargo build\` first"; exit 1; }

# shellcheck source=tests/peers/venv.sh
. "$here/venv.sh"
in_venv "huaweicloudsdkcore-$version" "huaweicloudsdkcore==$version"
exec "$venv/bin/python" "$here/huawei_signer.py" "$binary"
