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
venv=${CALLBACKD_TEST_CACHE:-$top/target/tools}/huaweicloudsdkcore-$version
say() { echo "huawei_signer.sh: $*" >&2; }
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
  "$venv/bin/pip" install --quiet --disable-pip-version-check "huaweicloudsdkcore==$version" >&2 </dev/null
  touch "$venv/ready"
fi
flock -u 9
exec "$venv/bin/python" "$here/huawei_signer.py" "$binary"
