#!/usr/bin/env bash
# User-space instructions per durable callback, counted by callgrind: the difference between a long and a short run of
# the same load, so that start and stop do not count. Unlike a time, it is nearly the same on every machine.
#
#   instructions.sh          SHORT=200 LONG=1200 CONNECTIONS="1 64" can be set before it
#
# On one connection each callback is a commit of its own; on 64, a commit holds what came together. Fails if a count is over
# LIMIT. CALLBACKD is the program to count, if it is not to be built; BARE, the path of the program `bench`, counts for the
# bare hyper server instead.
source "$(dirname "$0")/daemon.sh"
short=${SHORT:-200} long=${LONG:-1200}
need valgrind valgrind
need python3 python3
callbackd=${CALLBACKD:-$callbackd}
[[ -n ${CALLBACKD:-}${BARE:-} ]] || cargo build --locked --release --bin callbackd

count() { # count CALLBACKS CONNECTIONS: prints the instructions of a whole run
  local out="$work/callgrind.$1.$2"
  local word='"accepted"' command=("$callbackd" serve --config "$(configure "run-$1-$2")")
  [[ -z ${BARE:-} ]] || { word='' command=("$BARE" answer --listen "127.0.0.1:$port"); }
  start "$work/serve.log" 60 valgrind --tool=callgrind --callgrind-out-file="$out" "${command[@]}"
  python3 benches/send.py "127.0.0.1:$port" "$path" "$1" "$2" "$word" >&2
  stop "$pid"
  sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$out" | head -n 1
}

for connections in ${CONNECTIONS:-1 64}; do
  few=$(count "$short" "$connections")
  many=$(count "$long" "$connections")
  each=$(((many - few) / (long - short)))
  echo "$each instructions per callback" \
    "($connections connections; $few for $short, $many for $long)"
  ((each <= ${LIMIT:-each})) || { echo "instructions.sh: more than $LIMIT" >&2; exit 1; }
done
