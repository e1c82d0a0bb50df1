#!/usr/bin/env bash
# Runs inside the container, as root, with callbackd's program and units in their places; see systemd.sh.
set -uo pipefail
config=/etc/callbackd/callbackd.toml
url=http://127.0.0.1:8480/callbacks
token=a-token-of-this-test
workdir=$(mktemp -d)

ok() { echo "ok - $*"; }
fail() {
  echo "not ok - $*"
  echo "--- status"
  systemctl --no-pager --full --lines=0 status callbackd.service callbackd.socket
  echo "--- journal"
  journalctl --no-pager -o short-precise -u callbackd.service -u callbackd.socket | tail -n 80
  exit 1
}
property() { systemctl show --value -p "$1" "${2:-callbackd.service}"; }
pid() { property MainPID; }

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds; fails the test after SECONDS.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "$what (waited for: $*)"
    sleep 0.05
  done
}

# configure [MORE]: the source `media`, its token from the credential or, when WITHOUT_CREDENTIAL is set, from here; on
# LISTEN, by default the address of the socket unit.
configure() {
  local secret='{ credential = "callbackd_media" }'
  [[ -z ${WITHOUT_CREDENTIAL:-} ]] || secret="\"$token\""
  cat >"$config.new" <<TOML
[server]
listen = "${LISTEN:-127.0.0.1:8480}"

[store]
url = "sqlite:/var/lib/callbackd/callbackd.db"

[sources.media]
kind = "cos_workflow"
path = "/callbacks/media"
token = [$secret]

[sinks.out]
kind = "stdout"

[[routes]]
from = ["media"]
to = ["out"]
${1:-}
TOML
  mv "$config.new" "$config"
}

# post RUN [SOURCE]: one callback; prints the answer's body, a space and its status. curl's own status says how it went.
post() {
  curl --silent --show-error --max-time 60 --output - --write-out ' %{http_code}' \
    --header 'Content-Type: application/xml' --data-binary @- "$url/${2:-media}?token=$token" <<XML
<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>$1</RunId>
<BucketId>examplebucket-1250000000</BucketId><Object>videos/$1.mp4</Object>
<WorkflowId>w5d7f0c5b1e6a4c0f9f3d2a1b0c9d8e7f</WorkflowId><WorkflowName>transcode</WorkflowName>
<CreateTime>2020-12-01 11:00:41+0800</CreateTime><State>Success</State>
<Tasks><Type>Transcode</Type><CreateTime>2020-12-01 11:00:41+0800</CreateTime>
<EndTime>2020-12-01 11:01:03+0800</EndTime><State>Success</State><JobId>j-$1</JobId>
<Name>Transcode_1600413767353</Name></Tasks></WorkflowExecution></Response>
XML
}
accepted() { # accepted RUN [SOURCE]
  local answer
  answer=$(post "$@" 2>&1) || fail "the callback $1 was not answered: $answer"
  [[ $answer == *'"accepted"'*' 200' ]] || fail "the callback $1 was answered: $answer"
}
listed() { callbackd executions list --json --limit 100000 --config "$config"; }
kept() { listed | grep -qF "\"$1\""; }
journal_has() { journalctl --no-pager -o cat -u callbackd.service | grep -qE "$1"; }

# --- the unit as installed -------------------------------------------------------------------------------------------
install -d -m 755 /etc/callbackd
install -d -m 700 /etc/callbackd/credentials
printf '%s\n' "$token" >/etc/callbackd/credentials/media
chmod 600 /etc/callbackd/credentials/media
configure
systemctl enable callbackd.service >/dev/null 2>&1 || fail "systemctl enable"
[[ $(systemctl is-enabled callbackd.socket) == enabled ]] || fail "enabling the service did not enable its socket"
systemctl start callbackd.service || fail "systemctl start"
[[ $(property ActiveState) == active && $(property ActiveState callbackd.socket) == active ]] || fail "not active"
ok "starts, with its socket and a credential"

systemd-analyze security --no-pager --threshold=15 callbackd.service >"$workdir/security" ||
  { grep '✗' "$workdir/security"; fail "exposed more than 1.5: $(tail -n 1 "$workdir/security")"; }
ok "$(grep -o 'Overall exposure level.*[0-9]' "$workdir/security"), at most 1.5"
unknown=$(journalctl --no-pager -o cat _PID=1 | grep -E 'callbackd\.(service|socket):[0-9]+:')
[[ -z $unknown ]] || fail "systemd does not understand all of the units: $unknown"
ok "this systemd ($(systemctl --version | head -n 1)) knows every line of the units"

accepted run-first
kept run-first || fail "executions list does not show what was acknowledged: $(listed 2>&1)"
wait_for 60 "the sink was not told" journal_has 'run-first'
ok "a callback through the socket is acknowledged, kept and told"

# What is logged can be searched by field, and the line still says all of it.
refused=$(curl --silent --output /dev/null --write-out '%{http_code}' --data x "$url/media?token=wrong")
[[ $refused == 401 ]] || fail "a wrong token was answered $refused"
found() {
  journalctl --no-pager -o json -u callbackd.service SOURCE_NAME=media PRIORITY=4 |
    grep -E '"MESSAGE":"refused a callback source.name=\\"media\\"' | grep -E '"SYSLOG_IDENTIFIER":"callbackd"' | grep -q '"PEER":'
}
wait_for 60 "the journal has no field SOURCE_NAME: $(journalctl --no-pager -o json -n 3 -u callbackd.service)" found
ok "the journal has the fields of what is logged"

# --- killed, under load ----------------------------------------------------------------------------------------------
[[ $(stat -c %a /var/lib/private/callbackd) == 700 ]] || fail "others can look into the state directory"
# sender NAME: sends one callback after another and repeats what was not acknowledged, as a real one does.
sender() {
  local n=0 answer rc
  while [[ ! -e $workdir/enough ]]; do
    n=$((n + 1))
    while :; do
      answer=$(post "run-load-$1-$n" 2>&1)
      rc=$?
      echo "$rc ${answer##* }" >>"$workdir/tries"
      [[ $rc == 0 && $answer == *' 200' ]] && break
      [[ -e $workdir/enough ]] && return
    done
    echo "run-load-$1-$n" >>"$workdir/acknowledged"
  done
}
senders=()
for name in a b c d; do
  sender "$name" &
  senders+=($!)
done
for round in 1 2 3 4 5; do
  before=$(pid)
  kill -9 "$before"
  while kill -0 "$before" 2>/dev/null; do :; done
  # Nobody serves now: the connection waits in the socket until the next daemon takes it.
  accepted "run-killed-$round"
  after=$(pid)
  [[ $after != 0 && $after != "$before" ]] || fail "not restarted after kill -9: MainPID $before, then $after"
done
touch "$workdir/enough"
wait "${senders[@]}"
restarts=$(property NRestarts)
((restarts >= 5)) || fail "killed 5 times, but NRestarts is $restarts"
ok "kill -9: restarted $restarts times"
refused=$(grep -c '^7 ' "$workdir/tries")
[[ $refused == 0 ]] || fail "$refused connections were refused while it restarted"
bad=$(awk '$1 == 0 && $2 != 200 && $2 != 503' "$workdir/tries" | sort | uniq -c)
[[ -z $bad ]] || fail "answers that are neither 200 nor 503 (count, curl's status, HTTP status): $bad"
ok "no connection refused in $(wc -l <"$workdir/tries") tries"
printf 'run-killed-%s\n' 1 2 3 4 5 >>"$workdir/acknowledged"
listed >"$workdir/list" || fail "executions list"
while read -r run; do
  grep -qF "\"$run\"" "$workdir/list" || fail "acknowledged, but lost: $run"
done <"$workdir/acknowledged"
ok "all $(wc -l <"$workdir/acknowledged") acknowledged callbacks are in the store"
callbackd receipts list --json --limit 100000 --config "$config" >"$workdir/receipts" || fail "receipts list"
grep -q '"accepted"' "$workdir/receipts" || fail "receipts list shows nothing accepted"
sound=$(sqlite3 -readonly /var/lib/callbackd/callbackd.db 'PRAGMA integrity_check; SELECT count(*) > 0 FROM executions')
[[ $sound == $'ok\n1' ]] || fail "the store: $sound"
ok "receipts and executions can be read back, with the commands and with sqlite3"

# --- reload ----------------------------------------------------------------------------------------------------------
answers() { post "$1" "$2" 2>/dev/null | grep -q " $3\$"; }
answers run-early second 404 || fail "a source that is not configured does not answer 404"
before=$(pid)
configure "
[sources.second]
kind = \"cos_workflow\"
path = \"/callbacks/second\"
token = \"$token\""
systemctl reload callbackd.service || fail "systemctl reload"
wait_for 60 "the reload brought no new source" answers run-second second 200
[[ $(pid) == "$before" ]] || fail "reload restarted the daemon"
ok "reload takes a new configuration, in the same process"
since=$(journalctl --no-pager -n 0 --show-cursor | sed -n 's/^-- cursor: //p')
configure 'nonsense = "here"'
systemctl reload callbackd.service # that the signal was sent is all that it can say
told() { journalctl --no-pager -o cat -u callbackd.service --after-cursor "$since" | grep -q 'nonsense'; }
wait_for 60 "a broken configuration is not complained of" told
answers run-after-broken second 200 || fail "after a broken reload the source of before is gone"
[[ $(pid) == "$before" && $(property ActiveState) == active ]] || fail "a broken configuration stopped the daemon"
ok "reload keeps the old configuration when the new one is broken, and says why"

# --- started with a broken configuration -----------------------------------------------------------------------------
systemctl restart callbackd.service 2>/dev/null && fail "started with a broken configuration"
post run-patient >"$workdir/patient" 2>&1 &
patient=$!
fails_often() { (($(property NRestarts) >= 12)); }
wait_for 60 "not restarted again and again" fails_often
[[ $(property ActiveState callbackd.socket) == active ]] || fail "the socket gave up: $(property Result callbackd.socket)"
configure
wait "$patient" || fail "the callback sent meanwhile: $(cat "$workdir/patient")"
grep -q '"accepted".* 200$' "$workdir/patient" || fail "the callback sent meanwhile: $(cat "$workdir/patient")"
kept run-patient || fail "acknowledged, but lost: run-patient"
ok "a broken configuration is tried until it is mended; a callback sent meanwhile waits and is kept"

# --- stopped, and started again without any credential ---------------------------------------------------------------
stop() {
  systemctl stop callbackd.socket callbackd.service || fail "systemctl stop"
  [[ $(property Result) == success && $(property ExecMainStatus) == 0 && $(property ExecMainCode) == 1 ]] ||
    fail "stopped with Result=$(property Result) ExecMainStatus=$(property ExecMainStatus)"
}
stop
ok "stops cleanly"
kept run-first || fail "executions list does not work while the daemon is down: $(listed 2>&1)"
callbackd sinks pause out --config "$config" >/dev/null && callbackd sinks resume out --config "$config" >/dev/null ||
  fail "the store cannot be changed while the daemon is down"
ok "the store can be read and changed while the daemon is down"

rm -r /etc/callbackd/credentials
WITHOUT_CREDENTIAL=1 LISTEN=systemd configure
# A short watchdog, so that the test need not wait for the unit's own.
install -d /etc/systemd/system/callbackd.service.d
printf '[Service]\nWatchdogSec=5\nTimeoutAbortSec=1\n' >/etc/systemd/system/callbackd.service.d/watchdog.conf
systemctl daemon-reload
systemctl start callbackd.service || fail "does not start where no credential was placed"
accepted run-without-credential
kept run-first || fail "what was kept before is gone"
ok "starts where no credential was placed, with what was kept before"

first=$(property WatchdogTimestampMonotonic)
reported() { (($(property WatchdogTimestampMonotonic) > first)); }
wait_for 60 "says nothing to the watchdog" reported
before=$(pid)
kill -STOP "$before"
replaced() { [[ $(pid) != 0 && $(pid) != "$before" ]]; }
wait_for 60 "a stuck daemon is not replaced" replaced
accepted run-after-stuck
ok "the watchdog is told, and replaces a daemon that is stuck"
stop
ok "stops cleanly again"

# --- an address that is not the socket's -----------------------------------------------------------------------------
WITHOUT_CREDENTIAL=1 LISTEN=127.0.0.1:8490 configure
systemctl start callbackd.service || fail "does not start beside a socket that it does not use"
url=http://127.0.0.1:8490/callbacks accepted run-elsewhere
journal_has 'systemd handed over 127.0.0.1:8480' || fail "says nothing of a socket on which nothing listens"
stop
WITHOUT_CREDENTIAL=1 LISTEN=0.0.0.0:8480 configure
systemctl start callbackd.service 2>/dev/null && fail "listens where systemd listens already"
journal_has 'systemd has 127.0.0.1:8480' || fail "does not say who has the port"
systemctl stop callbackd.socket callbackd.service
systemctl mask --now callbackd.socket >/dev/null 2>&1 || fail "systemctl mask"
systemctl start callbackd.service || fail "does not start without its socket unit"
accepted run-alone
stop
ok "binds its address itself where it is another than the socket's, and warns; and without the socket unit"
