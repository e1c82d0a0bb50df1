#!/usr/bin/env bash
# Three callbackd behind HAProxy, on a Patroni cluster of three PostgreSQL and on one server behind PgBouncer: the tests in
# tests/it/cluster.rs, which start all of it and break it.
#
# Needs root, and Debian's patroni, etcd-server, haproxy, pgbouncer and postgresql. Everything runs in namespaces of
# network and processes that end with this: no port is shared with the machine, and nothing stays.
set -euo pipefail
cd "$(dirname "$0")/../.."
stop() { echo "cluster.sh: $*" >&2; exit 1; }
[[ $(id -u) == 0 ]] || stop "needs root, to make namespaces; run: sudo tests/peers/cluster.sh"
export PATH=$PATH:/usr/sbin
for needed in patroni patronictl etcd haproxy pgbouncer ip; do
  command -v "$needed" >/dev/null ||
    stop "no $needed; run as root: apt-get install patroni python3-etcd etcd-server haproxy pgbouncer postgresql iproute2"
done
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n1)
[[ -n $bin ]] || stop "no PostgreSQL; run as root: apt-get install postgresql"
export CALLBACKD_TEST_POSTGRES_BIN=$bin
within=(unshare --net --pid --ipc --mount-proc --fork --kill-child)
"${within[@]}" ip link set lo up ||
  stop "no namespace can be made here; start the container with --cap-add SYS_ADMIN --cap-add NET_ADMIN"
cargo test --locked --features postgres --test it --no-run
export FILTER=${1:-cluster::}
said=$("${within[@]}" bash -c '
  ip link set lo up
  # What killed servers leave of their shared memory goes with this; and so does everything else, where there is room for it:
  # what a disk keeps is for other tests.
  mount -t tmpfs -o size=3g,mode=1777 tmpfs /dev/shm
  if (($(awk "/^MemAvailable/ { print \$2 }" /proc/meminfo) > 4 << 20)); then export TMPDIR=/dev/shm; fi
  exec cargo test --offline --locked --features postgres --test it -- --ignored --nocapture --test-threads=1 "$FILTER"' |
  tee >(cat >&2))
# A filter that matches nothing passes as well.
grep -q 'test result: ok\. [1-9][0-9]* passed' <<<"$said" || stop "no test ran, or one failed"
