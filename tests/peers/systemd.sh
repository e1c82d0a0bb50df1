#!/usr/bin/env bash
# The units against a real systemd: started, called through the socket, killed, reloaded, stopped.
#
#   systemd.sh [BINARY]      BINARY: a built callbackd, by default target/debug/callbackd
#
# Prints one `ok - …` line for each thing that holds, or what failed with the daemon's journal. Needs root; see
# systemd-run.sh for what it installs. What happens inside stands in in-systemd.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=${1:-$top/target/debug/callbackd}
[[ -x $binary ]] || { echo "systemd.sh: no program at $binary; run \`cargo build\` first" >&2; exit 1; }
exec "$here/systemd-run.sh" "$here/in-systemd.sh" \
  "$binary:/usr/bin/callbackd" \
  "$top/systemd/callbackd.service:/usr/local/lib/systemd/system/callbackd.service" \
  "$top/systemd/callbackd.socket:/usr/local/lib/systemd/system/callbackd.socket"
