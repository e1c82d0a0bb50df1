#!/usr/bin/env bash
# Runs the scenarios under many schedules; then breaks the product's text, one way after the other, and wants each found.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target
# Shared with the product: what both are built from is built once.
export CARGO_TARGET_DIR=$target
tree=$target/interleavings.tree

cd "$here"
cargo build --locked
"$CARGO_TARGET_DIR/debug/interleavings"

# The same two folders elsewhere, where they may be broken; the library itself is the one that was built.
fresh() {
  rm -rf "$tree/src"
  mkdir -p "$tree/tests"
  cp -r "$root/src" "$tree/src"
}
rm -rf "$tree"
fresh
cp -r "$here" "$tree/tests/interleavings"
# Under a name of its own, so that the two are not taken for one another.
(cd "$tree/tests/interleavings" && sed -i "s|path = \"../..\"|path = \"$root\"|; s|\"interleavings\"|\"interleavings-broken\"|" Cargo.toml Cargo.lock)

# broken NAME SCENARIO SCHEDULES FILE FROM TO [FILE FROM TO ...]: with FROM replaced by TO, the scenario has to fail.
broken() {
  local name=$1 scenario=$2 schedules=$3 text
  shift 3
  fresh
  while (($# > 0)); do
    text=$(<"$tree/src/$1")
    [[ $text == *"$2"* ]] || { echo "interleavings: $1 has no \"$2\"; this breakage needs another text" >&2; exit 1; }
    printf '%s\n' "${text/"$2"/"$3"}" >"$tree/src/$1"
    shift 3
  done
  (cd "$tree/tests/interleavings" && cargo build --locked --quiet)
  if CALLBACKD_TEST_SCHEDULES=$schedules "$CARGO_TARGET_DIR/debug/interleavings-broken" "$scenario" >"$tree/said" 2>&1; then
    echo "interleavings: $name, and nobody noticed" >&2
    exit 1
  fi
  grep -qE 'panicked' "$tree/said" || { cat "$tree/said"; exit 1; }
  echo "found: $name ($(grep -oE -m1 'deadlock!|assertion|[a-z ]+ out of order|beside itself|nobody waits|never, so' "$tree/said" | head -n1))"
}

broken "a writer that sleeps without saying so" queue 100 \
  store/queue.rs "inner.waiting = true;" ""
broken "a queue that takes more in after it closed" close 300 \
  store/queue.rs "if inner.closed {" "if false {"
broken "a close that wakes nobody" close 100 \
  store/queue.rs "self.filled.notify_all();" ""
broken "a batch that is told it was kept, though one of it was refused" "refused by SQLite" 300 \
  store/sqlite/writer.rs "commit(tx, &mut vec![command], health, replies, measures);" "command.reply(Ok(()));"
broken "a wake-up before there is anything to wake for" way 300 \
  pipeline/ingest.rs "self.store.record(receipt" "self.wake.sinks(&[\"sink\"]); self.store.record(receipt" \
  pipeline/ingest.rs "wake.sinks(&recorded.wake);" ""
broken "a forwarder that looks first and then registers, for a wake-up that nobody keeps" way 300 \
  pipeline/mod.rs "notify.notify_one();" "notify.notify_waiters();" \
  pipeline/forward.rs "let is_woken = wake_up.as_mut().enable();" "let is_woken = false;" \
  pipeline/forward.rs "let mut wake_up = std::pin::pin!(woken.notified());" "" \
  pipeline/forward.rs "tokio::select! {" "let mut wake_up = std::pin::pin!(woken.notified()); tokio::select! {"
broken "a forwarder that leaves what it knows to nobody" "reload, failing sink" 10000 \
  pipeline/forward.rs "woken.notify_one();" "" \
  pipeline/forward.rs "held.notify_one();" "" \
  pipeline/forward.rs "woken.notify_one();" ""
broken "a forwarder that takes a wake-up and does not look again" way 1000 \
  pipeline/forward.rs "if is_woken {" "if false {"
broken "a refusal that pauses the sink of a newer configuration" "reload, refused" 300 \
  store/sqlite/pause.rs "if replaced.is_begun() {" "if replaced.is_begun() && false {"
broken "a forwarder that keeps what is too late to begin" "jumping clock" 300 \
  pipeline/forward.rs "self.give_back(hand.let_go_late()).await;" ""
broken "a delivery that begins beside its own try" "jumping clock" 1000 \
  pipeline/forward/hand.rs "self.begun.contains(&delivery.id)" "false"
