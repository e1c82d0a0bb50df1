#!/usr/bin/env bash
# The daemon behind a bad line, to its sinks and to its senders: the tests in tests/it/network.rs.
#
# Needs root, python3, iproute2 and /dev/net/tun. Everything happens in network namespaces that end with it: the senders'
# and sinks' is made here, each test makes one for its daemon, and line.py is what lies between.
set -euo pipefail
cd "$(dirname "$0")/../.."
stop() { echo "network.sh: $*" >&2; exit 1; }
[[ $(id -u) == 0 ]] || stop "needs root, to make network namespaces; run: sudo tests/peers/network.sh"
command -v ip >/dev/null && command -v python3 >/dev/null || stop "missing; run as root: apt-get install iproute2 python3"
[[ -c /dev/net/tun ]] && (: </dev/net/tun) 2>/dev/null ||
  stop "there is no /dev/net/tun, of which the line is made; run: modprobe tun; or start the container with" \
    "--device /dev/net/tun"
unshare --net ip link set lo up ||
  stop "no network namespace can be made here; start the container with --cap-add SYS_ADMIN --cap-add NET_ADMIN"
cargo test --locked --test it --no-run
said=$(unshare --net bash -c '
  ip link set lo up
  # Who is gone is gone soon: see what a host does that died.
  echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries
  exec cargo test --offline --locked --test it -- --ignored --test-threads=16 network::' | tee >(cat >&2))
# A filter that matches nothing passes as well.
grep -q 'test result: ok\. [1-9][0-9]* passed' <<<"$said" || { echo "network.sh: no test ran" >&2; exit 1; }
