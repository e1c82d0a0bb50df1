#!/usr/bin/env bash
# Boots a real systemd, the one of this machine's Debian, in a container, and runs a script in it.
#
#   systemd-run.sh SCRIPT [HOST_PATH:CONTAINER_PATH ...]
#
# SCRIPT runs as root inside, with systemctl working; each HOST_PATH is bound read-only at CONTAINER_PATH. Prints what
# SCRIPT prints as it comes, and exits with its status; 125 when the container did not boot or SCRIPT did not finish.
#
# The container's files are made once (a minute, 400 MB) in $CALLBACKD_TEST_CACHE, by default target/systemd-root, and
# never changed: each run works on a layer in memory, so runs neither see nor disturb one another. It has what the units
# and the tests need, and what callbackd's package depends on: nothing can be fetched inside.
# It has a network of its own, with nothing but loopback. Needs root; installs debootstrap and systemd-container.
set -euo pipefail
script=$(realpath "$1")
shift
root=$(realpath -m "${CALLBACKD_TEST_CACHE:-$(dirname "$0")/../../target/systemd-root}")
seconds=${SYSTEMD_RUN_SECONDS:-600}
packages=systemd,systemd-sysv,dbus,curl,sqlite3,ca-certificates,man-db,bash-completion,python3,rpm
say() { echo "systemd-run: $*" >&2; }

[[ $(id -u) == 0 ]] || { say "needs root"; exit 125; }
if ! command -v debootstrap >/dev/null || ! command -v systemd-nspawn >/dev/null; then
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    debootstrap systemd-container; } >&2 </dev/null
fi

make_root() {
  local suite sources mirror
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  # The mirror that this machine's own packages come from; debootstrap's default when none is found.
  sources=$(find /etc/apt -maxdepth 2 \( -name '*.list' -o -name '*.sources' \))
  mirror=$(sed -nE 's/^(URIs: *|deb +(\[[^]]*\] +)?)([^ ]+\/debian\/?)( .*|$)/\3/p' $sources | head -n 1)
  say "making $root (once)"
  rm -rf "$root" "$root.new"
  mkdir -p "$(dirname "$root")"
  debootstrap --variant=minbase --include="$packages" \
    "$suite" "$root.new" ${mirror:+"$mirror"} >"$root.log" 2>&1 </dev/null ||
    { say "debootstrap failed:"; tail -n 20 "$root.log" >&2; exit 125; }
  echo "$packages" >"$root.new/packages"
  mv "$root.new" "$root"
}
mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9
[[ $(cat "$root/packages" 2>/dev/null) == "$packages" ]] || make_root
flock -u 9

work=$(mktemp -d)
container=
trap '[[ -z $container ]] || kill "$container" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/units/basic.target.wants"
cat >"$work/units/script.service" <<'UNIT'
[Unit]
Description=The script under test
After=basic.target dbus.socket
[Service]
Type=oneshot
StandardOutput=append:/run/script/out
StandardError=inherit
ExecStart=/bin/sh -c '/run/script/script; echo $? >/run/script/status'
ExecStopPost=/bin/systemctl --no-block poweroff
UNIT
ln -s ../script.service "$work/units/basic.target.wants/script.service"
mkdir "$work/script"
cp "$script" "$work/script/script"
touch "$work/script/out"

binds=("--bind=$work/script:/run/script" "--bind-ro=$work/units:/run/systemd/system")
for pair in "$@"; do binds+=("--bind-ro=$(realpath "${pair%%:*}"):${pair##*:}"); done
timeout "$seconds" systemd-nspawn --directory="$root" --volatile=overlay --boot --private-network --register=no \
  --keep-unit --quiet --machine="callbackd-$$" "${binds[@]}" >"$work/boot" 2>&1 </dev/null 9>&- &
container=$!
tail -n +1 -f --pid="$container" "$work/script/out" 2>/dev/null || true
wait "$container" || true
container=

if [[ ! -e $work/script/status ]]; then
  say "the script did not finish within $seconds s; the container said:"
  tail -n 40 "$work/boot" >&2
  exit 125
fi
exit "$(cat "$work/script/status")"
