#!/usr/bin/env bash
# Starts a real Zabbix, the one of this machine's Debian, runs a command against it, and stops it again.
#
#   zabbix-run.sh COMMAND [ARGUMENT ...]
#
# COMMAND runs with ZABBIX_URL, ZABBIX_TOKEN (of Admin), ZABBIX_USER, ZABBIX_PASSWORD, ZABBIX_TRAPPER and ZABBIX_TLS in its
# environment, the last a directory with ca.pem and {server,caller}.{pem,key}, of which the server is zabbix.test; its status is this script's, and 125 is said when no Zabbix came up. Everything listens on loopback, on
# ports that were free, and lives in a directory of its own that is removed at the end: runs do not meet. With
# ZABBIX_RUN_KEEP=1 the directory stays, for its logs.
#
# Needs root: installs what is missing by apt (PostgreSQL, the server, PHP; nothing is started by that), and starts
# PostgreSQL and Zabbix as their own users. Half a minute, a minute the first time; 300 MB of disk, and as much memory.
set -euo pipefail
say() { echo "zabbix-run: $*" >&2; }
die() { say "$*"; exit 125; }
(($# > 0)) || die "say what to run"
[[ $(id -u) == 0 ]] || die "needs root"
command -v apt-get >/dev/null || die "knows only how Debian's packages are installed"

# Others have to be let in: PostgreSQL and Zabbix run as their own users. Zabbix keeps sockets here, so the path is short.
dir=$(mktemp -d /tmp/zabbix-run.XXXXXX)
chmod 0711 "$dir"
postmaster= php_pid=
# One pid's end, waited for; what it was has to stand in its command line still.
end() {
  local signal=$1 pid=$2 word=$3
  [[ -n $pid && -r /proc/$pid/cmdline ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "$word" || return 0
  kill "-$signal" "$pid" 2>/dev/null || return 0
  for _ in $(seq 200); do
    [[ -e /proc/$pid ]] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 0
    sleep 0.05
  done
  say "pid $pid ($word) does not end"
}
stop() {
  local status=$?
  trap - EXIT
  end TERM "$(head -n1 "$dir/srv/zabbix_server.pid" 2>/dev/null || true)" "$dir"
  # Its workers are a process group of their own.
  [[ -z $php_pid ]] || kill -TERM -- "-$php_pid" 2>/dev/null || true
  end INT "$(head -n1 "$dir/pg/data/postmaster.pid" 2>/dev/null || true)" "$dir"
  if ((status == 125)); then
    for log in apt.log tls.log initdb.log import.log pg/log srv/zabbix_server.log php.log; do
      [[ ! -s $dir/$log ]] || { say "the end of $log:"; tail -n 15 "$dir/$log" >&2; }
    done
  fi
  if [[ -n ${ZABBIX_RUN_KEEP:-} ]]; then say "kept: $dir"; else rm -rf -- "$dir"; fi
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

install() {
  local missing=() package made= status=0
  for package in postgresql zabbix-server-pgsql php-cli php-pgsql php-mbstring php-xml php-bcmath php-gd curl openssl; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] || missing+=("$package")
  done
  local frontend=/usr/share/zabbix/api_jsonrpc.php
  ((${#missing[@]} == 0)) && [[ -e $frontend ]] && return
  apt-get update -qq -o DPkg::Lock::Timeout=300 >>"$dir/apt.log" 2>&1 </dev/null || die "apt-get update failed"
  ((${#missing[@]} > 0)) || return 0
  say "installing ${missing[*]}"
  # Packages are not to start what they bring.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d && made=1
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends \
    "${missing[@]}" >>"$dir/apt.log" 2>&1 </dev/null || status=$?
  [[ -z $made ]] || rm -f /usr/sbin/policy-rc.d
  ((status == 0)) || die "apt-get install failed"
}
install

# zabbix_server takes no port above 32767, so the kernel's own choice will not do.
free_ports() {
  php -r 'for ($i = 0; $i < 200 && count($free ?? []) < 3; $i++) { $p = random_int(20000, 32000);
    if ($s = @stream_socket_server("tcp://127.0.0.1:$p")) $free[$p] = $s; }
    echo implode(" ", array_keys($free)), "\n"; exit(count($free) < 3 ? 1 : 0);'
}
ports=$(free_ports) || die "there are no free ports"
read -r api trapper db <<<"$ports"
password=$(php -r 'echo bin2hex(random_bytes(12));')

database() {
  local bin
  bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
  mkdir "$dir/pg" "$dir/srv"
  (umask 077 && echo -n "$password" >"$dir/pg/password")
  chown -R postgres "$dir/pg"
  chown zabbix "$dir/srv"
  cd "$dir/pg"
  runuser -u postgres -- "$bin/initdb" -D "$dir/pg/data" -U zabbix --pwfile=password -A scram-sha-256 -E UTF8 \
    --locale=C.UTF-8 --wal-segsize=4 --no-sync >"$dir/initdb.log" 2>&1 || die "initdb failed"
  local set=(listen_addresses=127.0.0.1 "port=$db" unix_socket_directories= fsync=off synchronous_commit=off
    full_page_writes=off wal_level=minimal max_wal_senders=0 max_connections=60 shared_buffers=64MB)
  runuser -u postgres -- "$bin/pg_ctl" -s -w -t 180 -D "$dir/pg/data" -l "$dir/pg/log" -o "${set[*]/#/-c }" start \
    </dev/null >/dev/null 2>&1 || die "PostgreSQL did not start"
  cd - >/dev/null
  # One query for each file: psql would pay a round trip for each of its 130,000 statements.
  PGPORT=$db PGPASSWORD=$password php -d memory_limit=1G -r '
    $to = "host=127.0.0.1 port=".getenv("PGPORT")." user=zabbix password=".getenv("PGPASSWORD")." dbname=";
    pg_query(pg_connect($to."postgres"), "CREATE DATABASE zabbix");
    $c = pg_connect($to."zabbix", PGSQL_CONNECT_FORCE_NEW);
    foreach (["schema", "images", "data"] as $f) {
      $sql = implode("", gzfile("/usr/share/zabbix-server-pgsql/$f.sql.gz"));
      if (!@pg_query($c, $sql)) { fwrite(STDERR, $f.": ".pg_last_error($c)."\n"); exit(1); }
    }' >"$dir/import.log" 2>&1 || die "the schema could not be imported"
}

frontend() {
  mkdir "$dir/web"
  if [[ -e /usr/share/zabbix/api_jsonrpc.php ]]; then
    cp -a /usr/share/zabbix/. "$dir/web/"
  else
    # Unpacked, not installed: installing it brings a web server.
    mkdir -m 0777 "$dir/deb"
    (cd "$dir/deb" && apt-get download -qq zabbix-frontend-php >>"$dir/apt.log" 2>&1 </dev/null) ||
      die "the frontend could not be downloaded"
    dpkg-deb --fsys-tarfile "$dir"/deb/*.deb | tar -x -C "$dir/web" --strip-components=4 --no-same-owner ./usr/share/zabbix
  fi
  # Debian's reads one fixed path; this copy reads its own.
  local reads=$dir/web/include/classes/core/CConfigFile.php
  sed -i "s#/etc/zabbix/zabbix.conf.php#$dir/zabbix.conf.php#" "$reads"
  grep -qF "$dir/zabbix.conf.php" "$reads" || die "this frontend reads its configuration elsewhere"
  (umask 077 && cat >"$dir/zabbix.conf.php") <<PHP
<?php
\$DB['TYPE'] = 'POSTGRESQL';
\$DB['SERVER'] = '127.0.0.1';
\$DB['PORT'] = '$db';
\$DB['DATABASE'] = 'zabbix';
\$DB['USER'] = 'zabbix';
\$DB['PASSWORD'] = '$password';
\$DB['SCHEMA'] = '';
\$DB['DOUBLE_IEEE754'] = true;
\$ZBX_SERVER = '127.0.0.1';
\$ZBX_SERVER_PORT = '$trapper';
\$ZBX_SERVER_NAME = 'loopback';
\$IMAGE_FORMAT_DEFAULT = IMAGE_FORMAT_PNG;
PHP
  PHP_CLI_SERVER_WORKERS=4 setsid php -d date.timezone=UTC -d max_execution_time=300 -d display_errors=0 \
    -d log_errors=1 -S "127.0.0.1:$api" -t "$dir/web" </dev/null >"$dir/php.log" 2>&1 &
  php_pid=$!
}

# For a trapper with TLS: an authority, and who has a certificate of it. Zabbix's own choice of ciphers knows RSA alone.
certificates() {
  mkdir "$dir/tls"
  cd "$dir/tls"
  local new=(openssl req -x509 -newkey rsa:2048 -nodes -days 2)
  {
    "${new[@]}" -subj /CN=authority -keyout ca.key -out ca.pem
    "${new[@]}" -subj /CN=server -addext subjectAltName=DNS:zabbix.test -addext basicConstraints=CA:FALSE \
      -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem
    "${new[@]}" -subj /CN=caller -addext basicConstraints=CA:FALSE -CA ca.pem -CAkey ca.key -keyout caller.key -out caller.pem
  } >"$dir/tls.log" 2>&1 || die "no certificates were made"
  chown zabbix server.key
  cd - >/dev/null
}

server() {
  (umask 077 && cat >"$dir/srv/zabbix_server.conf") <<CONF
ListenIP=127.0.0.1
ListenPort=$trapper
LogType=file
LogFile=$dir/srv/zabbix_server.log
PidFile=$dir/srv/zabbix_server.pid
SocketDir=$dir/srv
DBHost=127.0.0.1
DBPort=$db
DBName=zabbix
DBUser=zabbix
DBPassword=$password
User=zabbix
# Seconds until a new item, trigger or action is known.
CacheUpdateFrequency=1
StartPollers=1
StartPollersUnreachable=1
StartPingers=0
StartDiscoverers=0
StartHTTPPollers=0
StartTrappers=2
StartDBSyncers=1
StartPreprocessors=1
StartLLDProcessors=1
StartTimers=1
StartEscalators=1
StartAlerters=1
AlertScriptsPath=$dir/srv
TLSCAFile=$dir/tls/ca.pem
TLSCertFile=$dir/tls/server.pem
TLSKeyFile=$dir/tls/server.key
CONF
  chown zabbix "$dir/srv/zabbix_server.conf"
  "$(command -v zabbix_server || echo /usr/sbin/zabbix_server)" -c "$dir/srv/zabbix_server.conf" </dev/null \
    >"$dir/srv.log" 2>&1 || die "zabbix_server did not start: $(tail -n 1 "$dir/srv.log")"
}

url=http://127.0.0.1:$api/api_jsonrpc.php
# rpc METHOD PARAMS [AUTH]: the result; texts without their quotes.
rpc() {
  local body="{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\",\"params\":$2${3:+,\"auth\":\"$3\"}}"
  curl -sS -m 20 -H 'Content-Type: application/json-rpc' -d "$body" "$url" |
    php -r '$j = json_decode(stream_get_contents(STDIN), true); if (!isset($j["result"])) exit(1);
      $r = $j["result"]; echo is_string($r) ? $r : json_encode($r);'
}

database &
making=$!
frontend
certificates
wait "$making" || exit
server
version=
for _ in $(seq 600); do
  version=$(rpc apiinfo.version '[]' 2>/dev/null || true)
  [[ -n $version ]] && (exec 3<>"/dev/tcp/127.0.0.1/$trapper") 2>/dev/null && break
  version=
  sleep 0.2
done
[[ -n $version ]] || die "Zabbix does not answer"
session=$(rpc user.login '{"username":"Admin","password":"zabbix"}') || die "nobody can log in"
made=$(rpc token.create '{"name":"callbackd"}' "$session" | grep -o '[0-9]\+') || die "no token was made"
token=$(rpc token.generate "[\"$made\"]" "$session" | grep -oE '[0-9a-f]{64}') || die "no token was made"
say "Zabbix $version at $url"

status=0
ZABBIX_VERSION=$version ZABBIX_URL=$url ZABBIX_USER=Admin ZABBIX_PASSWORD=zabbix ZABBIX_TOKEN=$token \
  ZABBIX_TRAPPER=127.0.0.1:$trapper ZABBIX_TLS=$dir/tls "$@" || status=$?
exit "$status"
