#!/usr/bin/env bash
# Starts a PostgreSQL of its own in a temporary folder, on a free loopback port, as somebody who is not root, and runs a
# command with its address in CALLBACKD_TEST_POSTGRES: `postgres.sh COMMAND...`. Whatever becomes of the command, the server ends.
set -euo pipefail
# Debian keeps its programs where the PATH does not lead.
PATH=$PATH:/usr/sbin
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n1 || true)
bin=${bin:-$(dirname "$(command -v postgres)")}
# In memory, where there is such a folder, unless another is named (POSTGRES_IN): what a disk keeps is other tests' affair.
memory=$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")
folder=$(mktemp -d -p "${POSTGRES_IN:-$memory}" callbackd-postgres.XXXXXX)
as=()
if [[ $(id -u) == 0 ]]; then
  chown nobody "$folder"
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
end() {
  [[ ! -s $folder/pgbouncer.pid ]] || kill "$(<"$folder/pgbouncer.pid")" 2>/dev/null || true
  "${as[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1 || true
  rm -rf "$folder"
}
trap end EXIT
# pooled PORT BEFORE: a PgBouncer that pools by transaction, before the server.
pooled() {
  cat >"$folder/pgbouncer.ini" <<CONF
[databases]
* = host=127.0.0.1 port=$2 user=callbackd
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 200
pidfile = $folder/pgbouncer.pid
logfile = $folder/pgbouncer.log
CONF
  "${as[@]}" pgbouncer -d -q "$folder/pgbouncer.ini" || { cat "$folder/pgbouncer.log" >&2; exit 1; }
  export CALLBACKD_TEST_PGBOUNCER="postgres://callbackd@127.0.0.1:$1"
}
"${as[@]}" "$bin/initdb" -D "$folder/data" -U callbackd --auth=trust --no-sync >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2; exit 1; }
# A certificate for `localhost`, signed by itself.
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
  -addext basicConstraints=critical,CA:FALSE -keyout "$folder/data/server.key" -out "$folder/data/server.crt" 2>/dev/null
chmod 600 "$folder/data/server.key"
[[ $(id -u) != 0 ]] || chown nobody "$folder/data/server.key" "$folder/data/server.crt"
cp "$folder/data/server.crt" "$folder/ca.pem"
export CALLBACKD_TEST_POSTGRES_CA=$folder/ca.pem
# A port that is free now may be taken in a moment: then another.
for _ in 1 2 3 4 5; do
  port=$((20000 + RANDOM % 12000))
  if "${as[@]}" "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" -o "-c listen_addresses=127.0.0.1 -c port=$port \
      -c unix_socket_directories=$folder -c max_connections=400 -c ssl=on ${POSTGRES_WITH:-}" start >/dev/null 2>&1; then
    pooled $((port + 1)) "$port"
    CALLBACKD_TEST_POSTGRES="postgres://callbackd@127.0.0.1:$port/postgres" "$@"
    exit
  fi
done
cat "$folder/log" >&2
exit 1
