#!/usr/bin/env bash
# Durable callbacks a second, over what a bare hyper server answers a second to the same requests.
#
#   throughput.sh            ROUNDS=3 SECONDS_EACH=8 CONNECTIONS=64 THREADS=1 can be set before it
#
# wrk sends to one and the other in turn. Each round has a store of its own, which is then asked whether it holds an
# execution for every 200.
source "$(dirname "$0")/daemon.sh"
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-8} connections=${CONNECTIONS:-64} threads=${THREADS:-1}
need wrk wrk
need sqlite3 sqlite3
cargo build --locked --release --bin callbackd
bare=$(cargo build --locked --release --bench bare_hyper --message-format=json 2>/dev/null |
  sed -nE 's/.*"name":"bare_hyper".*"executable":"([^"]+)".*/\1/p')

load() { # load: prints "answers seconds rate p50 p99"
  local line
  line=$(wrk -t"$threads" -c"$connections" -d"${seconds}s" -s benches/callback.lua \
    "http://127.0.0.1:$port$path" | sed -n 's/^figures //p')
  [[ $line == *' 0' ]] || { echo "throughput.sh: some requests failed: $line" >&2; exit 1; }
  echo "${line% 0}"
}
report() { printf '%-12s %8s/s   p50 %6s ms   p99 %6s ms   (%s in %s s)\n' "$1" "$4" "$5" "$6" "$2" "$3"; }
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }

bare_rates=() rates=() ratios=()
for ((round = 1; round <= rounds; round++)); do
  start "$work/bare.log" 10 "$bare" "127.0.0.1:$port"
  line=$(load)
  read -r -a figures <<<"$line"
  stop "$pid"
  report "bare hyper" "${figures[@]}"
  bare_rates+=("${figures[2]}")

  start "$work/serve.log" 10 "$callbackd" serve --config "$(configure "round-$round")"
  line=$(load)
  read -r -a figures <<<"$line"
  memory=$(sed -nE 's/^VmHWM:\s+([0-9]+).*/\1/p' "/proc/$pid/status")
  stop "$pid"
  report "callbackd" "${figures[@]}"
  # wrk leaves what it did not wait for: there may be more kept than answered, never less.
  held=$(sqlite3 "$work/round-$round.db" 'SELECT count(*) FROM executions')
  ((held >= figures[0])) || { echo "throughput.sh: ${figures[0]} acknowledged, $held kept" >&2; exit 1; }
  rates+=("${figures[2]}")
  ratios+=("$(awk -v a="${figures[2]}" -v b="${bare_rates[-1]}" 'BEGIN { printf "%.3f", a / b }')")
  printf '  ratio %s, %s executions kept, at most %s MiB of memory\n' "${ratios[-1]}" "$held" $((memory / 1024))
  rm -f "$work"/round-*
done
echo "median: bare hyper $(median "${bare_rates[@]}")/s, callbackd $(median "${rates[@]}")/s, ratio $(median "${ratios[@]}")"
