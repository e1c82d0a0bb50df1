//! What is leased as it is promised: to whom, when, and what becomes of it where that cannot be.

use std::sync::Arc;
use std::time::Duration;

use callbackd::measure::Open;
use callbackd::model::{Delivery, Status};
use callbackd::store::postgres::PostgresStore;
use callbackd::store::{Fate, Filter, Lease, Parsed, Queries as _, Recorded, Store as _, Tray};
use tempfile::TempDir;

use super::{MEDIA, config, replicas, server};
use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply};
use crate::rig::{receipt, until};
use crate::store::{at, claim, record, rules, settle, settlement, update};
use crate::stores::postgres::{address, ask, make, silence};

const LEASE: Duration = Duration::from_secs(90);

/// A tray of the sink `a`, with room for so many.
fn tray(store: &PostgresStore, room: usize) -> Arc<Tray> {
    let tray = Tray::new(LEASE);
    store.lay_out("a".to_owned(), Arc::clone(&tray));
    tray.set_room(room);
    tray
}

async fn begins(store: &PostgresStore, key: &str) -> Recorded {
    record(store, "media", at(1), vec![update(key, Status::Running)]).await
}

fn keys(fresh: &[(Delivery, Lease)]) -> Vec<&str> {
    fresh.iter().map(|(one, _)| one.change.state.execution.key.as_str()).collect()
}

/// The keys of what waits for `a`, or is leased.
async fn are(store: &PostgresStore, status: &str) -> Vec<String> {
    let filter = Filter { sink: Some("a".to_owned()), status: vec![status.to_owned()], ..Filter::default() };
    let rows = store.deliveries(filter).await.expect("listed");
    rows.into_iter().rev().map(|row| row.key).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fresh_is_leased_to_whom_has_room_and_told_in_order() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    let (here, there) = (&*stores[0], &*stores[1]);
    let tray = tray(here, 2);
    assert_eq!(begins(here, "i1").await.wake, ["b"], "nobody has to claim it for `a`");
    assert_eq!(begins(here, "i2").await.wake, ["b"]);
    assert_eq!(begins(here, "i3").await.wake, ["a", "b"], "there is no more room");
    assert_eq!(begins(there, "i4").await.wake, ["a", "b"], "nobody has room there");
    assert_eq!((are(here, "leased").await, are(here, "waiting").await.len()), (vec!["i1".into(), "i2".into()], 2));

    // An end that comes during the first try waits its turn, and is told after it.
    record(here, "media", at(2), vec![update("i1", Status::Failed)]).await;
    let fresh = tray.take();
    assert_eq!(keys(&fresh), ["i1", "i2"]);
    let (first, lease) = &fresh[0];
    let told = &first.change;
    assert_eq!((told.state.execution.status, told.meta.sequence, first.attempts), (Status::Running, 1, 0));
    assert_eq!(claim(there, "a", at(3)).await.len(), 2, "what nobody has");
    let wake = here.settle(settlement(first, lease.end, Fate::Delivered, at(3)), Arc::new(rules()), at(3)).await;
    assert_eq!(wake.expect("settled"), ["a"]);
    let next = claim(there, "a", at(3)).await;
    assert_eq!((next.len(), next[0].change.meta.sequence), (1, 2));
    settle(there, &next[0], Fate::Delivered, at(3)).await;

    // A later change is as fresh as a first one.
    tray.set_room(1);
    record(there, "media", at(4), vec![update("i5", Status::Running)]).await;
    let waited = claim(there, "a", at(4)).await;
    settle(there, &waited[0], Fate::Delivered, at(4)).await;
    assert_eq!(record(here, "media", at(5), vec![update("i5", Status::Failed)]).await.wake, ["b"]);
    let fresh = tray.take();
    let meta = &fresh[0].0.change.meta;
    assert_eq!((keys(&fresh), meta.sequence, meta.previous_status), (vec!["i5"], 2, Some(Status::Running)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_handed_what_a_claim_would_not_give() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    let (here, there) = (&*stores[0], &*stores[1]);
    let tray = tray(here, 100);
    there.pause("a".to_owned(), Some("maintenance".to_owned())).await.expect("paused");
    begins(here, "paused").await;
    there.pause("a".to_owned(), None).await.expect("resumed");
    there.share_breaker("a".to_owned(), Some(Open { since: at(1), probe_at: at(9) })).await.expect("shared");
    begins(here, "broken").await;
    there.share_breaker("a".to_owned(), None).await.expect("shared");
    assert_eq!(tray.take().len(), 0);
    // With a link that is made as it begins, or was there before; the other one is fresh.
    let tied = |key: &str, status| {
        let mut update = update(key, status);
        update.execution.subject = Some("bucket/x.mp4".to_owned());
        update
    };
    record(here, "portal", at(1), vec![tied("r1", Status::Running)]).await;
    record(here, "media", at(1), vec![tied("linked", Status::Running), update("fresh", Status::Running)]).await;
    assert_eq!(keys(&tray.take()), ["fresh"]);
    let linked = claim(here, "a", at(2)).await;
    assert_eq!(linked.iter().filter(|one| !one.change.links.is_empty()).count(), 1);
    // What is large is not in memory before its turn.
    let mut large = update("large", Status::Running);
    large.execution.name = Some("x".repeat(20_000));
    record(here, "media", at(3), vec![large]).await;
    assert_eq!((tray.take().len(), claim(here, "a", at(3)).await.len()), (0, 1));
    // Who has ended takes nothing.
    assert_eq!(tray.close().len(), 0);
    begins(here, "after").await;
    assert_eq!(are(here, "waiting").await, ["after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_committed_is_leased_to_nobody_and_what_was_is_given_back() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    let (here, there) = (&*stores[0], &*stores[1]);
    let tray = tray(here, 1);
    ask(&server, &folder, "ALTER TABLE receipts ADD CONSTRAINT no CHECK (body_bytes <> 3)");
    let refused = receipt("media", at(1), "no!");
    let parsed = Parsed::Updates(vec![update("refused", Status::Running)]);
    here.record(refused, parsed, Arc::new(rules())).await.expect_err("the database refuses it");
    assert_eq!((tray.take().len(), are(here, "leased").await.len()), (0, 0));
    begins(here, "kept").await;
    let fresh = tray.take();
    assert_eq!(keys(&fresh), ["kept"], "the room is there again");
    let (one, lease) = &fresh[0];
    here.release(vec![one.id], lease.end).await.expect("released");
    let again = claim(there, "a", at(2)).await;
    assert_eq!((again.len(), again[0].id), (1, one.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_on_the_tray_of_who_is_gone_is_taken_over() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    let (here, there) = (&*stores[0], &*stores[1]);
    let lost = tray(here, 1);
    begins(here, "gone").await;
    silence(&server, &folder);
    until("it is taken over", async || (claim(there, "a", at(2)).await.len() == 1).then_some(())).await;
    drop(lost);
}

/// As a daemon does it: who has nothing else to do is told of what comes without a claim, in the order in which it came.
#[test]
fn a_daemon_that_keeps_up_claims_nothing_that_is_fresh() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&config(&address(&server, &folder), &hook.url()));
    let tells = |step, run: usize| {
        assert_eq!(daemon.post(MEDIA, &[], cos(step, format!("run-{run}"))).status, 200);
        let open = "SELECT count(*) FROM deliveries WHERE finished_at IS NULL";
        soon("it is told", || (ask(&server, &folder, open) == 0).then_some(()));
    };
    tells(Step::Start, 0);
    ask(
        &server,
        &folder,
        "CREATE TABLE claimed (id BIGINT);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO claimed VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER UPDATE ON deliveries FOR EACH ROW WHEN (NEW.status = 'leased') EXECUTE FUNCTION note()",
    );
    const RUNS: usize = 20;
    for run in 1..=RUNS {
        tells(Step::Start, run);
        tells(Step::Success, run);
    }
    assert_eq!(hook.taken().len(), 2 * RUNS + 1);
    // A claim that looks from time to time may come in between.
    let claimed = ask(&server, &folder, "SELECT count(*) FROM claimed");
    assert!(claimed < RUNS / 2, "{claimed} of {} were claimed", 2 * RUNS);
    assert!(daemon.terminate().success());
}
