#!/usr/bin/env bash
# How small callbackd is: its binary, its packages, how soon it is ready on an empty store, and its memory when it has
# nothing to do. Fails over the limits.
#
#   footprint.sh             STARTS=20 IDLE_SECONDS=1 can be set before it
#
# Ready and memory are measured with one source, and with the configuration in README: two sources, two sinks that speak
# TLS, routes with jq and a link.
source "$(dirname "$0")/daemon.sh"
starts=${STARTS:-20} idle=${IDLE_SECONDS:-1}
memory_kib_max=$((12 * 1024)) ready_ms_max=100 binary_bytes_max=$((15 * 1024 * 1024)) packages_max=140
need python3 python3
cargo build --locked --release --bin callbackd
over=0
limit() { # limit WHAT FIGURE LIMIT UNIT
  awk -v what="$1" -v figure="$2" -v limit="$3" -v unit="$4" 'BEGIN {
    printf "%-45s %9s %s, at most %s\n", what, figure, unit, limit; exit figure > limit }' || over=1
}

limit "binary" "$(stat -c %s "$callbackd")" "$binary_bytes_max" bytes
limit "packages" "$(cargo tree --locked --edges normal,build --prefix none --format '{p}' |
  sed 's/ (\*)$//' | sort -u | wc -l)" "$packages_max" packages

measure() { # measure WHAT CONFIG
  local figures
  figures=$(python3 benches/ready.py "$starts" "$idle" "$work/state" "$(realpath "$callbackd")" serve --config "$2" \
    2>"$work/serve.log") || { cat "$work/serve.log" >&2; exit 1; }
  read -r -a figures <<<"$figures"
  limit "ready, $1 (median of $starts)" "${figures[0]}" "$ready_ms_max" ms
  printf '%-45s %9s ms\n' "ready, $1 (longest)" "${figures[1]}" # what else the machine does is in it
  limit "VmRSS, $1 (most)" "${figures[2]}" "$memory_kib_max" KiB
}
# Over the files: an empty store in the folder of each start, and addresses that are free.
export CALLBACKD__STORE__URL=sqlite:callbackd.db
export CALLBACKD__SERVER__LISTEN=127.0.0.1:$port CALLBACKD__ADMIN__LISTEN=127.0.0.1:$((port + 1))
measure "one source" "$(configure one)"

awk '/^```toml$/ {inside = 1; next} /^```$/ && inside {exit} inside' README.md >"$work/readme.toml"
mkdir "$work/credentials"
for name in $(sed -nE 's/.*\{ credential = "([^"]+)" \}.*/\1/p' "$work/readme.toml"); do
  (umask 077 && echo 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz' >"$work/credentials/$name")
done
CREDENTIALS_DIRECTORY=$work/credentials measure "README's configuration" "$work/readme.toml"
exit "$over"
