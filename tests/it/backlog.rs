//! Much that waits: nothing of it is in memory, a sink that hangs delays no other, and once its peer is well again, each
//! is told everything.

use std::collections::HashSet;
use std::sync::Arc;

use callbackd::clock;
use callbackd::model::{ExecutionPart, Route, Rules, SinkRule, Status, Update};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Parsed, Store};
use serde_json::json;

use crate::daemon::{Daemon, PATIENCE, soon};
use crate::peers::hook::{Closed, Hook, Reply};
use crate::rig::receipt;

/// What each execution says of itself, in bytes: if all of it were held, it would be seen.
const BYTES: usize = 32 << 10;
/// A store with much in it fills SQLite's cache, and that is all it takes more.
const MORE_KIB_MAX: usize = 20 << 10;

fn config(down: &str, hangs: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.down]\nkind = \"webhook\"\nurl = {down:?}\nbreaker_probe = \"50ms\"\nretry_first = \"20ms\"\n\
         [sinks.hangs]\nkind = \"webhook\"\nurl = {hangs:?}\n\
         [[routes]]\nfrom = [\"media\"]\nto = [\"down\", \"hangs\"]\n"
    )
}

/// Has the store's own code promise both sinks `count` executions.
async fn fill(daemon: &Daemon, count: usize) {
    let store = SqliteStore::open(&daemon.path("callbackd.db"), &Options::default()).expect("a store");
    let names = ["down", "hangs"].map(str::to_owned);
    let rules = Arc::new(Rules {
        routes: vec![Route { from: vec!["media".to_owned()], when: None, to: names.to_vec() }],
        sinks: names.map(|name| SinkRule { name, coalesce: false }).into(),
        ..Rules::default()
    });
    let keys: Vec<usize> = (0..count).collect();
    for some in keys.chunks(500) {
        let recorded = some.iter().map(|n| {
            let inputs = Some(json!({ "said": "x".repeat(BYTES) }));
            let execution = ExecutionPart { status: Some(Status::Failed), inputs, ..ExecutionPart::default() };
            let update = Update { key: format!("e{n}"), execution, ..Update::default() };
            store.record(receipt("media", clock::now(), "a body"), Parsed::Updates(vec![update]), Arc::clone(&rules))
        });
        for one in recorded.collect::<Vec<_>>() {
            one.await.expect("recorded");
        }
    }
    store.close().await;
}

/// The ids that were taken.
fn taken(hook: &Hook) -> Vec<String> {
    hook.seen().into_iter().filter(|seen| seen.taken).map(|seen| seen.id).collect()
}

/// The most memory that a daemon has taken which came up with `count` deliveries waiting for each of two sinks, found one
/// of them down and the other one hanging, and has told the first everything when it was well again.
fn high_water(count: usize) -> usize {
    let (down, hangs) = (Closed::reserve(), Hook::start(|| Reply::Slow(PATIENCE)));
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(&down.url(), &hangs.url()));
    tokio::runtime::Runtime::new().expect("a runtime").block_on(fill(&daemon, count));
    daemon.start();
    daemon.logged(|line| line["message"].as_str().is_some_and(|m| m.ends_with("only probes from now on")));
    let hook = down.open(|| Reply::Status(200));
    for tenth in 1..=10 {
        soon("the first is told more", || (taken(&hook).len() >= count * tenth / 10).then_some(()));
    }
    let rows = |status| daemon.list(&["deliveries", "list", "--sink", "down", "--status", status]).len();
    soon("all of it is settled", || (rows("delivered") == count).then_some(()));
    let ids = taken(&hook);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), count, "nothing twice, as every answer was heard");
    daemon.memory_kib().1
}

#[test]
fn what_waits_is_not_in_memory_and_is_told_when_its_peer_is_well() {
    let (few, many) = (high_water(100), high_water(1500));
    assert!(many <= few + MORE_KIB_MAX, "{few} KiB while 100 wait, {many} KiB while 1,500 do");
}
