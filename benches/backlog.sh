#!/usr/bin/env bash
# What it costs that much waits. A sink is down while a store holds EXECUTIONS executions, of which the latest WAITING wait for
# it: how soon the daemon is ready, what it takes in, how much memory it has, and how fast everything is told when the sink
# is back; each over the same with an empty store, in turn.
#
#   backlog.sh               EXECUTIONS=2000000 WAITING=1000000 ROUNDS=3 SECONDS_EACH=8 STARTS=5 CONNECTIONS=64 can be set before it
#
# The last lines measure forwarding itself: taking in while everything is told to a sink, over taking in alone.
source "$(dirname "$0")/daemon.sh"
executions=${EXECUTIONS:-2000000} waiting=${WAITING:-1000000} rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-8}
starts=${STARTS:-5} connections=${CONNECTIONS:-64}
need wrk wrk
need sqlite3 sqlite3
need curl curl
if [[ -z ${CALLBACKD:-} ]]; then
  cargo build --locked --release --bin callbackd
  executable() {
    cargo build --locked --release --bench "$1" --message-format=json 2>/dev/null |
      sed -nE 's/.*"name":"'"$1"'".*"executable":"([^"]+)".*/\1/p'
  }
  fill=$(executable fill) bare=$(executable bare_hyper)
else # built already: CALLBACKD, FILL and BARE are the three programs
  callbackd=$CALLBACKD fill=$FILL bare=$BARE
fi
sink=127.0.0.1:$((port + 2))

told() { # told NAME: a configuration with a sink; prints its path
  local file
  file=$(configure "$1")
  cat >>"$file" <<TOML
[sinks.any]
kind = "webhook"
url = "http://$sink/"

[[routes]]
from = ["media"]
to = ["any"]
TOML
  echo "$file"
}
serve() { start "$work/serve.log" 60 "$callbackd" serve --config "$1"; }
rate() { # rate: callbacks acknowledged a second
  local line
  line=$(wrk -t1 -c"$connections" -d"${seconds}s" -s benches/callback.lua "http://127.0.0.1:$port$path" | sed -n 's/^figures //p')
  [[ $line == *' 0' ]] || { echo "backlog.sh: some requests failed: $line" >&2; exit 1; }
  cut -d' ' -f3 <<<"$line"
}
open_sink() {
  "$bare" "$sink" >"$work/sink.log" 2>&1 </dev/null &
  sink_pid=$!
  started+=("$sink_pid")
  until (: <>"/dev/tcp/127.0.0.1/$((port + 2))") 2>/dev/null; do kill -0 "$sink_pid" && sleep 0.05; done
}
left() { sqlite3 -readonly "$work/$1.db" "SELECT count(*) FROM deliveries WHERE status IN ('waiting', 'leased') AND finished_at IS NULL"; }
now() { date +%s%N; }
memory() { sed -nE 's/^VmHWM:\s+([0-9]+).*/\1/p' "/proc/$pid/status"; }
over() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }

ready() { # ready CONFIG: milliseconds from the start to readiness, the median of so many
  local all=() began
  for ((n = 0; n < starts; n++)); do
    began=$(now)
    "$callbackd" serve --config "$1" >"$work/serve.log" 2>&1 </dev/null &
    pid=$!
    started+=("$pid")
    until curl -fs -o "$work/readyz" "http://127.0.0.1:$((port + 1))/readyz"; do
      kill -0 "$pid" || { cat "$work/serve.log" >&2; exit 1; }
    done
    all+=($((($(now) - began) / 1000)))
    stop "$pid"
  done
  awk -v us="$(median "${all[@]}")" 'BEGIN { printf "%.0f", us / 1000 }'
}

full=$(told full) empty=$(told empty)
"$fill" "$full" "$executions" "$waiting" 2>"$work/fill.log" || { cat "$work/fill.log" >&2; exit 1; }
echo "start to ready: $(ready "$empty") ms empty, $(ready "$full") ms with $executions executions and $waiting waiting"

ratios=()
for ((round = 1; round <= rounds; round++)); do
  serve "$(told "round-$round")"
  without=$(rate)
  small=$(memory)
  stop "$pid"
  serve "$full"
  with=$(rate)
  large=$(memory)
  stop "$pid"
  ratios+=("$(over "$with" "$without")")
  echo "taken in a second while the sink is down: $without into an empty store, $with into the full one, ratio ${ratios[-1]};" \
    "at most $((small / 1024)) and $((large / 1024)) MiB of memory"
  rm -f "$work"/round-*
done
echo "median: ratio $(median "${ratios[@]}")"

open_sink
alone=$(wrk -t1 -c32 -d"${seconds}s" -s benches/callback.lua "http://$sink/" | sed -nE 's/^figures [0-9]+ [0-9.]+ ([0-9]+).*/\1/p')
before=$(left full)
serve "$full"
began=$(now)
until (($(left full) == 0)); do sleep 0.2; done
drained=$(awk -v n="$before" -v ns="$(($(now) - began))" 'BEGIN { printf "%.0f", n * 1e9 / ns }')
echo "drain: $before told and settled, $drained a second; a client that keeps nothing tells the same sink $alone a second," \
  "ratio $(over "$drained" "$alone"); at most $(($(memory) / 1024)) MiB of memory"
stop "$pid"

ratios=()
for ((round = 1; round <= rounds; round++)); do
  serve "$(configure "alone-$round")"
  alone=$(rate)
  stop "$pid"
  serve "$(told "both-$round")"
  both=$(rate)
  began=$(now)
  behind=$(left "both-$round")
  until (($(left "both-$round") == 0)); do sleep 0.05; done
  ratios+=("$(over "$both" "$alone")")
  echo "taken in a second: $alone alone, $both while everything is told, ratio ${ratios[-1]}; at the end $behind were" \
    "not told yet, and were $((($(now) - began) / 1000000)) ms later; at most $(($(memory) / 1024)) MiB of memory"
  stop "$pid"
  rm -f "$work"/alone-* "$work"/both-*
done
echo "median: ratio $(median "${ratios[@]}")"
