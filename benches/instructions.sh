#!/usr/bin/env bash
# User-space instructions per durable callback, counted by callgrind: the difference between a long and a short run of
# the same load, so that start and stop do not count. Unlike a time, it is nearly the same on every machine.
#
#   instructions.sh          SHORT=200 LONG=1200 CONNECTIONS="1 64" can be set before it
#
# On one connection each callback is a commit of its own; on 64, a commit holds what came together.
source "$(dirname "$0")/daemon.sh"
short=${SHORT:-200} long=${LONG:-1200}
need valgrind valgrind
need python3 python3
cargo build --locked --release --bin callbackd

count() { # count CALLBACKS CONNECTIONS: prints the instructions of a whole run
  local out="$work/callgrind.$1.$2"
  start "$work/serve.log" 60 valgrind --tool=callgrind --callgrind-out-file="$out" \
    "$callbackd" serve --config "$(configure "run-$1-$2")"
  python3 benches/send.py "127.0.0.1:$port" "$path" "$1" "$2" >&2
  stop "$pid"
  sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$out" | head -n 1
}

for connections in ${CONNECTIONS:-1 64}; do
  few=$(count "$short" "$connections")
  many=$(count "$long" "$connections")
  echo "$(((many - few) / (long - short))) instructions per durable callback" \
    "($connections connections; $few for $short, $many for $long)"
done
