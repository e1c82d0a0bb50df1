//! Upkeep: what is let go of when it is old or the disk is short, what stays all the same, and that callbacks are kept
//! meanwhile.

use std::fs;
use std::sync::Arc;

use callbackd::model::{Rules, Status, Time};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{DeliveryFilter, Filter, Parsed, Queries, Store};
use tempfile::TempDir;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Closed, Hook, Reply};
use crate::rig::receipt;
use crate::store::{at, prune, record, update};

const MIB: u64 = 1 << 20;

fn open(folder: &TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens")
}

/// A finished execution that nobody has to be told of, with a body that fills pages.
async fn big(store: &dyn Store, key: &str, now: Time) {
    let receipt = receipt("nobody", now, vec![b'x'; 20_000]);
    let parsed = Parsed::Updates(vec![update(key, Status::Succeeded)]);
    store.record(receipt, parsed, Arc::new(Rules::default())).await.expect("recorded");
}

#[tokio::test]
async fn room_that_was_freed_goes_back_to_the_disk() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    for n in 0..500 {
        big(&store, &format!("old-{n}"), at(n)).await;
    }
    big(&store, "new", at(1000)).await;
    let full = store.extent().await.expect("measured");
    assert!(full.held > 10 * MIB && full.disk > full.held, "{full:?}");
    assert_eq!(prune(&store, at(900)).await, 500);
    let pruned = store.extent().await.expect("measured");
    assert!(pruned.held < MIB && pruned.free > 9 * MIB, "{pruned:?}");
    assert_eq!(store.give_back(2 * MIB).await.expect("given back"), 2 * MIB, "no more than it is told");
    // Somebody who reads what was before is waited for, though nothing is committed after them.
    let reader = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM receipts").expect("reads");
    store.give_back(u64::MAX).await.expect("given back");
    let given = store.extent().await.expect("measured");
    assert_eq!((given.free, given.held <= pruned.held), (0, true), "{given:?}");
    let file = || fs::metadata(folder.path().join("store.db")).expect("a file").len();
    assert!(file() > given.held, "somebody reads, {given:?}");
    drop(reader);
    soon("the file itself is as small", || (file() == given.held).then_some(()));
    assert_eq!(store.executions(Filter::default()).await.expect("listed").len(), 1);
    store.close().await;
    let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(check, "ok");
}

/// More than one transaction may delete hangs on one execution.
#[tokio::test]
async fn much_that_hangs_on_one_execution_goes_with_it() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    // Changes, and repeats of the last one; it shares a body with one that stays.
    for n in 0..700 {
        let mut step = update("chatty", Status::Running);
        step.identity = Some(format!("step {n}"));
        step.execution.name = Some(format!("name {n}"));
        record(&store, "nobody", at(n), vec![step]).await;
    }
    record(&store, "nobody", at(700), vec![update("chatty", Status::Failed), update("stays", Status::Running)]).await;
    for n in 0..1300 {
        record(&store, "nobody", at(701 + n), vec![update("chatty", Status::Failed)]).await;
    }
    let both = vec![update("chatty", Status::Failed), update("stays", Status::Running)];
    record(&store, "nobody", at(2001), both).await;
    let shown = store.execution("chatty".to_owned()).await.expect("shown");
    assert_eq!(shown["changes"].as_array().map(Vec::len), Some(701));
    assert_eq!(shown["receipts"].as_array().map(Vec::len), Some(2002));
    assert_eq!(prune(&store, at(10_000)).await, 1);
    let left = store.executions(Filter::default()).await.expect("listed");
    assert_eq!(left.iter().map(|e| &e["key"]).collect::<Vec<_>>(), ["stays"]);
    let receipts = store.receipts(Filter::default()).await.expect("listed");
    assert_eq!(receipts.len(), 2, "those that speak of the other, too");
    record(&store, "nobody", at(3000), vec![update("stays", Status::Failed)]).await;
    assert_eq!(prune(&store, at(10_000)).await, 1);
    assert!(store.receipts(Filter::default()).await.expect("listed").is_empty(), "nobody is left to need them");
    store.close().await;
    let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    for table in ["earlier_changes", "execution_heads", "deliveries", "identities"] {
        let rows: i64 =
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("counted");
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn callbacks_are_kept_while_much_is_let_go_of() {
    let folder = TempDir::new().expect("a folder");
    let store = Arc::new(open(&folder));
    for n in 0..400 {
        let updates = (0..10).map(|m| update(&format!("old-{n}-{m}"), Status::Failed)).collect();
        record(&*store, "nobody", at(n), updates).await;
    }
    let pruning = tokio::spawn({
        let store = Arc::clone(&store);
        async move { prune(&*store, at(1000)).await }
    });
    let mut kept = 0;
    while !pruning.is_finished() {
        record(&*store, "nobody", at(2000 + kept), vec![update(&format!("new-{kept}"), Status::Failed)]).await;
        kept += 1;
    }
    assert_eq!(pruning.await.expect("pruned"), 4000);
    assert!(kept >= 10, "only {kept} commits in between");
    assert_eq!(store.executions(Filter::default()).await.expect("listed").len() as u64, kept);
}

/// Told by way of a link, so the one that it is linked to has to be there.
#[tokio::test]
async fn what_is_linked_to_something_untold_stays_with_it() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let about = |key: &str, status| {
        let mut update = update(key, status);
        update.execution.subject = Some("a/b.mp4".to_owned());
        update
    };
    record(&store, "portal", at(0), vec![about("asked", Status::Running)]).await;
    record(&store, "media", at(1), vec![about("done", Status::Succeeded)]).await;
    record(&store, "portal", at(2), vec![about("asked", Status::Succeeded)]).await;
    assert_eq!(prune(&store, at(100)).await, 0);
    for sink in ["a", "b"] {
        let (sink, status) = (Some(sink.to_owned()), vec!["waiting".to_owned()]);
        let all = DeliveryFilter::All(Filter { sink, status, ..Filter::default() });
        store.discard(all, at(3)).await.expect("discarded");
    }
    assert_eq!(prune(&store, at(100)).await, 2);
}

#[test]
fn a_short_disk_takes_the_oldest_that_was_told_and_nothing_else() {
    let well = Hook::start(|| Reply::Status(200));
    let refuses = Hook::start(|| Reply::Status(400));
    let away = Closed::reserve();
    let config = |disk_max: &str| {
        let sink = |name: &str, url: String| format!("[sinks.{name}]\nkind = \"webhook\"\nurl = \"{url}\"\n");
        let source = |name: &str, to: &str| {
            format!(
                "[sources.{name}]\nkind = \"cos_workflow\"\npath = \"/{name}\"\ntoken = \"t0ken\"\n\
                 [[routes]]\nfrom = [\"{name}\"]\nto = [\"{to}\"]\n"
            )
        };
        [
            format!("store.disk_max = \"{disk_max}\"\n"),
            sink("well", well.url()),
            sink("refuses", refuses.url()),
            sink("away", away.url()),
            source("told", "well"),
            source("dead", "refuses"),
            source("waiting", "away"),
        ]
        .concat()
    };
    let body = |run: &str| {
        let much = format!("<Extra>{}</Extra></Response>", "x".repeat(20_000));
        cos(Step::Success, run).replace("</Response>", &much)
    };
    let mut daemon = Daemon::run(&config("100%"));
    let post = |daemon: &Daemon, source: &str, n: u32| {
        let answer = daemon.post(&format!("/{source}/t0ken"), &[], body(&format!("{source}-{n}")));
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    for n in 0..20 {
        post(&daemon, "dead", n);
        post(&daemon, "waiting", n);
    }
    assert_eq!(daemon.post("/told/t0ken", &[], "<nothing of ours/>").json()["outcome"], "quarantined");
    for n in 0..400 {
        post(&daemon, "told", n);
    }
    let count = |daemon: &Daemon, status: &str| daemon.list(&["deliveries", "list", "--status", status]).len();
    soon("all told", || (count(&daemon, "delivered") == 400 && count(&daemon, "dead") == 20).then_some(()));
    assert!(daemon.terminate().success());
    // With what is still in its log.
    let conn = rusqlite::Connection::open(daemon.path("callbackd.db")).expect("opens");
    let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let held: u64 = conn.query_row(sql, [], |row| row.get(0)).map(i64::unsigned_abs).expect("measured");
    assert!(held > 9 * MIB, "{held}");
    drop(conn);
    let bytes = |daemon: &Daemon| fs::metadata(daemon.path("callbackd.db")).expect("a store").len();

    daemon.configure(&config("4MiB"));
    daemon.start();
    soon("a smaller file", || (bytes(&daemon) <= 4 * MIB).then_some(()));
    let left = daemon.list(&["executions", "list", "--source", "told"]);
    assert!((1..400).contains(&left.len()), "{} are left", left.len());
    let newest = |n: usize| format!("told-{}", 399 - n);
    let keys: Vec<_> = left.iter().map(|row| row["key"].as_str().expect("a key").to_owned()).collect();
    assert_eq!(keys, (0..left.len()).map(newest).collect::<Vec<_>>(), "the oldest went");
    assert!(daemon.terminate().success());

    // Less than what has to stay.
    daemon.configure(&config("256KiB"));
    daemon.start();
    daemon.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("store.disk_max cannot be met")));
    assert!(daemon.list(&["executions", "list", "--source", "told"]).is_empty());
    assert_eq!((count(&daemon, "dead"), count(&daemon, "waiting,leased")), (20, 20));
    assert_eq!(daemon.list(&["receipts", "list", "--status", "quarantined"]).len(), 1);
    for n in 0..20 {
        for source in ["dead", "waiting"] {
            let shown = daemon.execution(&format!("{source}-{n}"));
            let receipt = shown["receipts"][0]["id"].as_str().expect("an id");
            assert_eq!(daemon.cli(&["receipts", "body", receipt]).stdout, body(&format!("{source}-{n}")).into_bytes());
        }
    }
    post(&daemon, "told", 1000);
}

#[test]
fn what_goes_next_is_told_before_it_goes() {
    let hook = Hook::start(|| Reply::Status(200));
    let refuses = Hook::start(|| Reply::Status(400));
    let away = Closed::reserve();
    let config = |keep: &str| {
        let sinks = [("told", hook.url()), ("dead", refuses.url()), ("away", away.url())].map(|(name, url)| {
            format!(
                "[sinks.{name}]\nkind = \"webhook\"\nurl = \"{url}\"\n\
                 [sources.{name}-media]\nkind = \"cos_workflow\"\npath = \"/{name}\"\ntoken = \"t0ken\"\n\
                 [[routes]]\nfrom = [\"{name}-media\"]\nto = [\"{name}\"]\n"
            )
        });
        format!("store.keep = \"{keep}\"\nstore.export = \"kept\"\n{}", sinks.concat())
    };
    let mut daemon = Daemon::run(&config("2d"));
    for (source, count) in [("told", 4), ("dead", 2), ("away", 3)] {
        for n in 0..count {
            for step in [Step::Start, Step::Success, Step::Success] {
                assert_eq!(
                    daemon.post(&format!("/{source}/t0ken"), &[], cos(step, format!("{source}-{n}"))).status,
                    200
                );
            }
        }
    }
    daemon.post("/told/t0ken", &[], cos(Step::Start, "open"));
    daemon.post("/told/t0ken", &[], "<nothing of ours/>");
    let count = |status: &str| daemon.list(&["deliveries", "list", "--status", status]).len();
    soon("all tried", || (count("delivered") == 9 && count("dead") == 4).then_some(()));
    let told = |daemon: &Daemon| daemon.list(&["upkeep"]).remove(0);
    let seen = told(&daemon);
    let amount = |executions: u64, receipts: u64| {
        move |seen: &serde_json::Value| {
            assert_eq!(
                (seen["executions"].as_u64(), seen["receipts"].as_u64()),
                (Some(executions), Some(receipts)),
                "{seen}"
            );
        }
    };
    for key in ["by_age", "by_disk", "within_a_day"] {
        amount(0, 0)(&seen[key]);
    }
    amount(4, 12)(&seen["within_a_week"]);
    amount(4, 12)(&seen["later"]);
    assert_eq!(seen["stay"], serde_json::json!({ "unfinished": 1, "dead": 2, "undelivered": 3 }));
    assert_eq!(seen["receipts_alone"], serde_json::json!({ "quarantined": 1 }));
    assert_eq!(seen["export"], "kept");
    assert!(daemon.terminate().success());

    daemon.configure(&config("1ms"));
    let seen = told(&daemon);
    amount(4, 12)(&seen["by_age"]);
    let bodies = 4 * (cos(Step::Start, "told-0").len() + cos(Step::Success, "told-0").len()) as u64;
    assert!(seen["by_age"]["bytes"].as_u64().is_some_and(|bytes| (bodies..4 * bodies).contains(&bytes)), "{seen}");
    let shown = daemon.cli(&["upkeep"]);
    assert!(shown.said().contains("now: older than 1ms"), "{shown:?}");
    assert!(shown.said().contains("2           a dead letter: retry or discard it"), "{shown:?}");
    daemon.start();
    let line = daemon.logged(|line| line["message"] == "let go of what was older than store.keep");
    assert_eq!(line["executions"], 4);
}
