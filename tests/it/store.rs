//! The store's contract: one suite for every store there is.

use std::sync::Arc;

use callbackd::model::{
    Attempt, Delivery, ExecutionPart, Expectation, Learned, LinkRule, Program, Receipt, ReceiptStatus, Route, Rules,
    SinkRule, Status, Task, Time, Update,
};
use callbackd::shutdown::Shutdown;
use callbackd::store::{
    DeadReason, DeliveryFilter, Fate, Filter, Held, Inquiry, Late, Lateness, Parsed, Recorded, Ruling, Settlement,
    Store, StoreError,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rig::receipt;
pub(crate) use crate::stores::open;
use crate::stores::{count, spoil};

mod sqlite;

const T0: Time = Time::from_seconds(1_700_000_000);

pub(crate) fn at(seconds: u64) -> Time {
    T0.plus_ms(seconds * 1000)
}

/// What an execution is known by: a string at a JSON pointer.
struct At(&'static str);

impl Program for At {
    fn test(&self, data: &Value) -> Result<bool, String> {
        data.pointer(self.0).and_then(Value::as_bool).ok_or_else(|| format!("{} is no boolean", self.0))
    }

    fn text(&self, data: &Value) -> Result<Option<String>, String> {
        Ok(data.pointer(self.0).and_then(Value::as_str).map(str::to_owned))
    }

    fn written(&self) -> &str {
        self.0
    }
}

pub(crate) fn rules() -> Rules {
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    Rules {
        routes: vec![
            Route { from: names(&["media"]), when: None, to: names(&["a", "b"]) },
            Route { from: names(&["odd"]), when: Some(Box::new(At("/execution/key"))), to: names(&["a"]) },
            Route { from: names(&["slow"]), when: None, to: names(&["a"]) },
        ],
        links: vec![LinkRule {
            of: "media".to_owned(),
            key: Box::new(At("/execution/subject")),
            with: "portal".to_owned(),
            with_key: Box::new(At("/execution/subject")),
        }],
        sinks: vec![
            SinkRule { name: "a".to_owned(), coalesce: false },
            SinkRule { name: "b".to_owned(), coalesce: true },
        ],
        expectations: vec![Expectation {
            source: "slow".to_owned(),
            within_ms: Some(60_000),
            of: vec![("w1".to_owned(), 10_000)],
        }],
    }
}

pub(crate) fn update(key: &str, status: Status) -> Update {
    let identity = status.is_finished().then(|| format!("finish/{status}"));
    let execution = ExecutionPart { status: Some(status), ..ExecutionPart::default() };
    Update { key: key.to_owned(), identity, execution, ..Update::default() }
}

fn about(mut update: Update, subject: &str) -> Update {
    update.execution.subject = Some(subject.to_owned());
    update
}

pub(crate) async fn record(store: &dyn Store, source: &str, now: Time, updates: Vec<Update>) -> Recorded {
    try_record(store, source, now, Parsed::Updates(updates)).await.expect("recorded")
}

pub(crate) async fn try_record(
    store: &dyn Store,
    source: &str,
    now: Time,
    parsed: Parsed,
) -> Result<Recorded, StoreError> {
    let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
    let receipt = Receipt { headers, ..receipt(source, now, "<the body/>") };
    store.record(receipt, parsed, Arc::new(rules())).await
}

const LEASE_MS: u64 = 30_000;

pub(crate) async fn claim(store: &dyn Store, sink: &str, now: Time) -> Vec<Delivery> {
    store.claim(sink.to_owned(), 10, LEASE_MS, now, now).await.expect("claimed").deliveries
}

pub(crate) async fn settle(store: &dyn Store, delivery: &Delivery, fate: Fate, now: Time) -> Vec<String> {
    // As long as it is leased, it is due at the lease's end.
    let lease = store.delivery(delivery.id).await.expect("a delivery").0.due_at.unwrap_or(now);
    store.settle(settlement(delivery, lease, fate, now), Arc::new(rules()), now).await.expect("settled")
}

pub(crate) fn settlement(delivery: &Delivery, lease: Time, fate: Fate, now: Time) -> Settlement {
    let attempt = Attempt {
        started_at: now,
        duration_ms: 5,
        outcome: "delivered".to_owned(),
        status: Some(200),
        reason: None,
        answer: Some("ok".to_owned()),
    };
    Settlement { delivery: delivery.id, lease, attempt, fate, learned: Vec::new() }
}

fn statuses(deliveries: &[Delivery]) -> Vec<(&str, Status)> {
    deliveries.iter().map(|d| (d.change.state.execution.key.as_str(), d.change.state.execution.status)).collect()
}

async fn status_of(store: &dyn Store, key: &str) -> String {
    let shown = store.execution(key.to_owned()).await.expect("known");
    shown["execution"]["status"].as_str().expect("a status").to_owned()
}

/// All steps of letting go: how many executions went.
pub(crate) async fn prune(store: &dyn Store, before: Time) -> u64 {
    let (mut executions, mut from) = (0, Some(0));
    while let Some(place) = from {
        let step = store.prune(place, before, 300, None).await.expect("pruned");
        executions += step.executions;
        from = step.next;
    }
    executions
}

#[tokio::test]
async fn news_repeats_and_contradictions_are_told_apart() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let outcome = async |now, status| record(store, "media", at(now), vec![update("i1", status)]).await;
    let first = outcome(0, Status::Running).await;
    assert_eq!((first.outcome, first.executions.len()), (ReceiptStatus::Accepted, 1));
    assert_eq!(first.wake, ["a", "b"]);
    assert_eq!(outcome(1, Status::Running).await.outcome, ReceiptStatus::Duplicate);
    assert_eq!(outcome(2, Status::Pending).await.outcome, ReceiptStatus::Duplicate, "late");
    assert_eq!(outcome(3, Status::Succeeded).await.outcome, ReceiptStatus::Accepted);
    let repeat = outcome(4, Status::Succeeded).await;
    assert_eq!((repeat.outcome, &repeat.executions), (ReceiptStatus::Duplicate, &first.executions));
    assert_eq!(outcome(5, Status::Running).await.outcome, ReceiptStatus::Duplicate, "never back");
    let conflict = outcome(6, Status::Failed).await;
    assert_eq!((conflict.outcome, conflict.wake.len()), (ReceiptStatus::Conflict, 0));
    assert_eq!(status_of(store, "i1").await, "succeeded");

    let (row, body) = store.receipt(repeat.receipt).await.expect("kept");
    assert_eq!((body.len(), row.body_bytes), (0, 11), "a repeat's bytes are not kept again");
    assert!(row.digest.expect("a digest").starts_with(|c: char| c.is_ascii_hexdigit()));
    let (row, body) = store.receipt(conflict.receipt).await.expect("kept");
    assert_eq!(body, b"<the body/>");
    assert_eq!(row.reason.as_deref(), Some("the execution is succeeded, this says failed"));

    let shown = store.execution("i1".to_owned()).await.expect("known");
    let types: Vec<_> =
        shown["changes"].as_array().expect("changes").iter().map(|c| &c["data"]["change"]["type"]).collect();
    assert_eq!(types, ["callbackd.execution.running", "callbackd.execution.succeeded"]);
    assert_eq!(shown["receipts"].as_array().expect("receipts").len(), 7, "every receipt is shown");
    assert_eq!(shown["deliveries"].as_array().expect("deliveries").len(), 4);
}

#[tokio::test]
async fn the_same_key_of_two_sources_is_two_executions() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let a = record(&*store, "media", at(0), vec![update("same", Status::Succeeded)]).await;
    let b = record(&*store, "other", at(1), vec![update("same", Status::Failed)]).await;
    assert_eq!((a.outcome, b.outcome), (ReceiptStatus::Accepted, ReceiptStatus::Accepted));
    assert_ne!(a.executions, b.executions);
}

#[tokio::test]
async fn one_contradicting_task_makes_the_whole_callback_a_conflict() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let task = |status| Task::new("j1".to_owned(), status);
    let with = |mut u: Update, task| {
        u.tasks.push(task);
        u
    };
    record(&*store, "media", at(0), vec![with(update("i1", Status::Running), task(Status::Succeeded))]).await;
    let finish = with(update("i1", Status::Failed), task(Status::Failed));
    assert_eq!(record(&*store, "media", at(1), vec![finish]).await.outcome, ReceiptStatus::Conflict);
    assert_eq!(status_of(&*store, "i1").await, "running");
}

#[tokio::test]
async fn two_senders_of_one_callback_at_one_instant_make_one_change() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let all = (0..64).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { record(&*store, "media", at(0), vec![update("i1", Status::Failed)]).await.outcome })
    });
    let mut accepted = 0;
    for task in all.collect::<Vec<_>>() {
        accepted += usize::from(task.await.expect("joined") == ReceiptStatus::Accepted);
    }
    assert_eq!(accepted, 1);
    assert_eq!(claim(&*store, "a", at(1)).await.len(), 1);
}

#[tokio::test]
async fn deliveries_keep_the_order_of_their_execution_and_wait_for_no_other() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    for (now, key, status) in
        [(0, "i1", Status::Running), (1, "i1", Status::Paused), (2, "i1", Status::Failed), (3, "i2", Status::Succeeded)]
    {
        record(store, "media", at(now), vec![update(key, status)]).await;
    }
    let first = claim(store, "a", at(10)).await;
    assert_eq!(statuses(&first), [("i1", Status::Running), ("i2", Status::Succeeded)]);
    assert!(claim(store, "a", at(10)).await.is_empty(), "leased, and the rest is behind it");
    let retry = Fate::Waiting { due_at: at(20), until_linked: None, resume: Some(Value::from(3)), free: false };
    settle(store, &first[0], retry, at(11)).await;
    assert!(claim(store, "a", at(19)).await.is_empty(), "what waits for a retry holds its place");
    let again = claim(store, "a", at(20)).await;
    assert_eq!((statuses(&again), again[0].attempts), (vec![("i1", Status::Running)], 1));
    assert_eq!(again[0].resume, Some(Value::from(3)));
    assert_eq!(settle(store, &again[0], Fate::Delivered, at(21)).await, ["a"], "the next one is due");
    let next = claim(store, "a", at(21)).await;
    assert_eq!(statuses(&next), [("i1", Status::Paused)]);
    assert_eq!(next[0].change.meta.previous_status, Some(Status::Running));
    settle(store, &next[0], Fate::Dead, at(22)).await;
    assert_eq!(statuses(&claim(store, "a", at(22)).await), [("i1", Status::Failed)], "a dead letter lets the next go");
}

#[tokio::test]
async fn a_lease_that_ran_out_is_claimed_again_and_its_late_settlement_ignored() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    record(store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    let first = claim(store, "a", at(1)).await;
    assert!(claim(store, "a", at(30)).await.is_empty());
    let second = claim(store, "a", at(31)).await;
    assert_eq!(second[0].id, first[0].id);
    settle(store, &second[0], Fate::Delivered, at(32)).await;
    settle(store, &first[0], Fate::Dead, at(33)).await;
    let (row, attempts) = store.delivery(first[0].id).await.expect("kept");
    assert_eq!((row.status.as_str(), attempts.len()), ("delivered", 1));
}

#[tokio::test]
async fn a_new_daemon_takes_over_every_lease() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    let first = claim(&*store, "a", at(1)).await;
    store.close().await;
    assert!(store.is_closed());
    let refused = try_record(&*store, "media", at(2), Parsed::Updates(vec![])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    drop(store);
    let store = open(&folder);
    assert_eq!(claim(&*store, "a", at(2)).await[0].id, first[0].id);
}

#[tokio::test]
async fn a_coalescing_sink_is_told_the_newest_only() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    for (now, status) in [(0, Status::Pending), (1, Status::Running), (2, Status::Succeeded)] {
        record(store, "media", at(now), vec![update("i1", status)]).await;
    }
    let claimed = claim(store, "b", at(3)).await;
    assert_eq!(statuses(&claimed), [("i1", Status::Succeeded)]);
    let discarded = Filter { sink: Some("b".to_owned()), status: vec!["discarded".to_owned()], ..Filter::default() };
    let rows = store.deliveries(discarded).await.expect("listed");
    assert_eq!(rows.iter().map(|r| r.reason.as_deref()).collect::<Vec<_>>(), [Some("superseded"); 2]);
}

#[tokio::test]
async fn dead_letters_are_retried_and_discarded_by_id_and_by_filter() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    for n in 0..600 {
        record(store, "media", at(n), vec![update(&format!("i{n}"), Status::Failed)]).await;
    }
    let mut ids = Vec::new();
    loop {
        let claimed = claim(store, "a", at(2000)).await;
        if claimed.is_empty() {
            break;
        }
        for delivery in claimed {
            let lease = store.delivery(delivery.id).await.expect("a delivery").0.due_at.expect("leased");
            let mut end = settlement(&delivery, lease, Fate::Dead, at(2000));
            end.attempt.reason = Some(if ids.len() % 10 == 0 { "gone" } else { "answered 403 Forbidden" }.to_owned());
            store.settle(end, Arc::new(rules()), at(2000)).await.expect("settled");
            ids.push(delivery.id);
        }
    }
    assert_eq!(ids.len(), 600);
    let row = store.sinks().await.expect("listed").remove(0);
    let DeadReason { reason, count } = row.dead_reason.expect("a reason");
    assert_eq!(
        (row.dead, reason.as_str(), (150..200).contains(&count)),
        (600, "answered 403 Forbidden", true),
        "{count}"
    );
    let one = DeliveryFilter::One(ids[0]);
    assert_eq!(store.retry(one.clone(), at(2001)).await.expect("retried"), 1);
    let claimed = claim(store, "a", at(2001)).await;
    assert_eq!((claimed.len(), claimed[0].id, claimed[0].attempts), (1, ids[0], 0));
    settle(store, &claimed[0], Fate::Delivered, at(2002)).await;
    let refused = store.retry(one, at(2003)).await.expect_err("delivered").to_string();
    assert!(refused.contains("is delivered; only dead, discarded, waiting can be retried"), "{refused}");
    assert!(matches!(store.discard(DeliveryFilter::One(1), at(0)).await, Err(StoreError::NotFound(_))));

    let limited = Filter { sink: Some("a".to_owned()), limit: Some(100), ..Filter::default() };
    assert_eq!(store.discard(DeliveryFilter::All(limited), at(2004)).await.expect("discarded"), 100);
    // What nobody can be called is nobody's name, and no fault of the store.
    let nobody = || Filter { sink: Some("a\0".to_owned()), source: Some("\0".to_owned()), ..Filter::default() };
    assert_eq!(store.retry(DeliveryFilter::All(nobody()), at(2004)).await.expect("asked"), 0);
    assert!(store.deliveries(nobody()).await.expect("asked").is_empty());
    assert!(store.executions(nobody()).await.expect("asked").is_empty());
    let all = Filter { sink: Some("a".to_owned()), source: Some("media".to_owned()), ..Filter::default() };
    assert_eq!(store.retry(DeliveryFilter::All(all), at(2005)).await.expect("retried"), 499);
    let sinks = store.sinks().await.expect("listed");
    assert_eq!((sinks[0].name.as_str(), sinks[0].dead, sinks[0].backlog), ("a", 0, 499));
}

/// However many are changed at once: callbacks are committed in between, and each transaction has a bound.
#[tokio::test]
async fn callbacks_are_committed_while_many_dead_letters_are_retried() {
    const ALL: usize = 2000;
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    for n in 0..ALL {
        record(&*store, "media", at(1), vec![update(&format!("i{n}"), Status::Failed)]).await;
    }
    spoil(&folder, "UPDATE deliveries SET status = 'dead', due_at = NULL, finished_at = 1");
    let all = DeliveryFilter::All(Filter { sink: Some("a".to_owned()), ..Filter::default() });
    let mut retry = std::pin::pin!(store.retry(all.clone(), at(5000)));
    // What is committed of it each time that somebody else had a turn.
    let mut seen = Vec::new();
    let due = || count(&folder, "SELECT count(*) FROM deliveries WHERE status = 'waiting'");
    let count = loop {
        tokio::select! {
            biased;
            done = &mut retry => break done.expect("retried"),
            () = tokio::task::yield_now() => {
                // A command of somebody else's gets its turn behind one chunk, not behind all.
                store.pause("nobody".to_owned(), None).await.expect("answered");
                seen.push(due());
            }
        }
    };
    assert_eq!(count, ALL as u64);
    assert!(seen.iter().filter(|n| (1..ALL).contains(n)).count() > 1, "nobody had a turn in between: {seen:?}");
    // Only between two ids, as a command does that goes on by itself.
    let to_a = Filter { sink: Some("a".to_owned()), ..Filter::default() };
    let rows = store.deliveries(to_a.clone()).await.expect("listed");
    let id = |n: usize| Some(rows[n].id.parse::<i64>().expect("an id"));
    let some = Filter { after: id(1500), before: id(500), status: vec!["waiting".to_owned()], ..to_a };
    assert_eq!(store.discard(DeliveryFilter::All(some), at(5001)).await.expect("discarded"), 999);
}

#[tokio::test]
async fn dead_letters_of_one_execution_are_retried_in_their_order() {
    const LIFE: [Status; 3] = [Status::Pending, Status::Running, Status::Succeeded];
    for at_once in [true, false] {
        let folder = TempDir::new().expect("a folder");
        let store = open(&folder);
        let store = &*store;
        let mut dead = Vec::new();
        for status in LIFE {
            record(store, "media", at(0), vec![update("i1", status)]).await;
            let claimed = claim(store, "a", at(0)).await;
            settle(store, &claimed[0], Fate::Dead, at(0)).await;
            dead.push(DeliveryFilter::One(claimed[0].id));
        }
        if at_once {
            let all = Filter { sink: Some("a".to_owned()), ..Filter::default() };
            assert_eq!(store.retry(DeliveryFilter::All(all), at(1)).await.expect("retried"), 3);
        } else {
            for one in dead.into_iter().rev() {
                assert_eq!(store.retry(one, at(1)).await.expect("retried"), 1);
            }
        }
        for status in LIFE {
            let claimed = claim(store, "a", at(2)).await;
            assert_eq!(statuses(&claimed), [("i1", status)]);
            settle(store, &claimed[0], Fate::Delivered, at(2)).await;
        }
        assert!(claim(store, "a", at(2)).await.is_empty());
    }
}

#[tokio::test]
async fn an_older_delivery_that_is_retried_waits_for_the_one_under_way() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    record(store, "media", at(0), vec![update("i1", Status::Running)]).await;
    let older = claim(store, "a", at(0)).await.remove(0);
    settle(store, &older, Fate::Dead, at(0)).await;
    record(store, "media", at(1), vec![update("i1", Status::Succeeded)]).await;
    let newer = claim(store, "a", at(1)).await.remove(0);
    assert_eq!(store.retry(DeliveryFilter::One(older.id), at(2)).await.expect("retried"), 1);
    assert!(claim(store, "a", at(3)).await.is_empty(), "never two of one execution");
    let again = Fate::Waiting { due_at: at(4), until_linked: None, resume: None, free: false };
    settle(store, &newer, again, at(3)).await;
    for status in [Status::Running, Status::Succeeded] {
        let claimed = claim(store, "a", at(100)).await;
        assert_eq!(statuses(&claimed), [("i1", status)]);
        settle(store, &claimed[0], Fate::Delivered, at(100)).await;
    }
}

/// One that is dead, and a newer one of the same execution that is under way; the dead one is retried.
async fn retried_beside_one_under_way(store: &dyn Store) -> (Delivery, Delivery) {
    record(store, "media", at(0), vec![update("i1", Status::Running)]).await;
    let older = claim(store, "a", at(0)).await.remove(0);
    settle(store, &older, Fate::Dead, at(0)).await;
    record(store, "media", at(1), vec![update("i1", Status::Succeeded)]).await;
    let newer = claim(store, "a", at(1)).await.remove(0);
    assert_eq!(store.retry(DeliveryFilter::One(older.id), at(2)).await.expect("retried"), 1);
    (older, newer)
}

#[tokio::test]
async fn discarding_what_waits_lets_nobody_pass_the_one_under_way() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let (older, _newer) = retried_beside_one_under_way(store).await;
    let more = Update { identity: None, ..about(update("i1", Status::Succeeded), "s1") };
    assert_eq!(record(store, "media", at(3), vec![more]).await.outcome, ReceiptStatus::Accepted);
    let last = store.deliveries(Filter { sink: Some("a".to_owned()), ..Filter::default() }).await.expect("listed");
    let last: i64 = last[0].id.parse().expect("an id");
    assert!(last > older.id);
    assert_eq!(store.discard(DeliveryFilter::One(last), at(4)).await.expect("discarded"), 1);
    assert!(claim(store, "a", at(5)).await.is_empty(), "never two of one execution");
}

#[tokio::test]
async fn one_that_is_retried_behind_others_hands_its_turn_on() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let (_older, newer) = retried_beside_one_under_way(&*store).await;
    store.close().await;
    drop(store);
    let store = open(&folder);
    let store = &*store;
    assert_eq!(store.retry(DeliveryFilter::One(newer.id), at(3)).await.expect("retried"), 1);
    for status in [Status::Running, Status::Succeeded] {
        let claimed = claim(store, "a", at(100)).await;
        assert_eq!(statuses(&claimed), [("i1", status)]);
        settle(store, &claimed[0], Fate::Delivered, at(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_together_was_true_together() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    let first = claim(&*store, "a", at(0)).await.remove(0);
    let shows = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            loop {
                let (row, attempts) = store.delivery(first.id).await.expect("shown");
                assert_eq!(row.attempts as usize, attempts.len(), "{row:?}");
                if attempts.len() == 200 {
                    return;
                }
            }
        }
    });
    for n in 0..200 {
        let again = Fate::Waiting { due_at: at(n), until_linked: None, resume: None, free: false };
        settle(&*store, &first, again, at(n)).await;
        assert_eq!(claim(&*store, "a", at(n)).await.len(), 1);
    }
    shows.await.expect("consistent");
}

#[tokio::test]
async fn a_paused_sink_is_left_alone_until_it_is_resumed() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    store.pause("a".to_owned(), Some("mended tomorrow".to_owned())).await.expect("paused");
    assert!(claim(&*store, "a", at(1)).await.is_empty());
    assert_eq!(store.sinks().await.expect("listed")[0].paused.as_deref(), Some("mended tomorrow"));
    assert_eq!(claim(&*store, "b", at(1)).await.len(), 1);
    store.pause("a".to_owned(), None).await.expect("resumed");
    assert_eq!(claim(&*store, "a", at(1)).await.len(), 1);
}

#[tokio::test]
async fn a_refusal_pauses_a_sink_only_where_nothing_newer_was_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let paused = async || -> Vec<(String, Option<String>)> {
        let sinks = store.sinks().await.expect("sinks");
        sinks.into_iter().map(|sink| (sink.name, sink.paused)).collect()
    };
    let said = |sink: &str, reason: &str| vec![(sink.to_owned(), Some(reason.to_owned()))];
    let halt = async |stop: &Shutdown| {
        store.halt("a".to_owned(), "halted: no".to_owned(), stop.clone()).await.expect("answered")
    };
    let (current, overtaken) = (Shutdown::new(), Shutdown::new());
    overtaken.begin();
    assert!(!halt(&overtaken).await);
    assert_eq!(paused().await, []);
    assert!(halt(&current).await && !halt(&current).await, "news once");
    assert_eq!(paused().await, said("a", "halted: no"));
    store.resume("halted: ".to_owned()).await.expect("resumed");
    assert_eq!(paused().await, []);
    // What an operator wants outlives a new configuration, whatever the peer says meanwhile.
    store.pause("a".to_owned(), Some("mended tomorrow".to_owned())).await.expect("paused");
    assert!(!halt(&current).await);
    store.resume("halted: ".to_owned()).await.expect("resumed");
    assert_eq!(paused().await, said("a", "mended tomorrow"));
}

#[tokio::test]
async fn a_sink_says_why_its_oldest_waits() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    for key in ["i1", "i2"] {
        record(&*store, "media", at(0), vec![update(key, Status::Failed)]).await;
    }
    assert_eq!(store.sinks().await.expect("listed")[0].reason, None, "nobody has tried");
    // The oldest waits for a link, which is nobody's fault; the other one was refused a connection.
    let claimed = claim(&*store, "a", at(1)).await;
    for (delivery, until_linked, reason) in
        [(&claimed[0], Some(0), "waits for a link"), (&claimed[1], None, "cannot connect")]
    {
        let lease = store.delivery(delivery.id).await.expect("a delivery").0.due_at.expect("leased");
        let reason = Some(reason.to_owned());
        let outcome = "retry".to_owned();
        let attempt = Attempt { started_at: at(1), duration_ms: 5, outcome, status: None, reason, answer: None };
        let fate = Fate::Waiting { due_at: at(99), until_linked, resume: None, free: false };
        let settlement = Settlement { delivery: delivery.id, lease, attempt, fate, learned: Vec::new() };
        store.settle(settlement, Arc::new(rules()), at(1)).await.expect("settled");
    }
    assert_eq!(store.sinks().await.expect("listed")[0].reason.as_deref(), Some("cannot connect"));
}

#[tokio::test]
async fn retries_are_hurried_when_the_peer_is_well_again() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    let claimed = claim(&*store, "a", at(1)).await;
    let retry = Fate::Waiting { due_at: at(300), until_linked: None, resume: None, free: false };
    settle(&*store, &claimed[0], retry, at(2)).await;
    assert!(claim(&*store, "a", at(3)).await.is_empty());
    store.hurry("a".to_owned(), at(299), at(4)).await.expect("hurried");
    assert!(claim(&*store, "a", at(4)).await.is_empty(), "it waits for longer than retries do");
    store.hurry("a".to_owned(), at(300), at(4)).await.expect("hurried");
    assert_eq!(claim(&*store, "a", at(4)).await.len(), 1);
}

fn waits(known: usize) -> Fate {
    Fate::Waiting { due_at: at(86_400), until_linked: Some(known), resume: None, free: true }
}

#[tokio::test]
async fn links_are_found_whichever_side_comes_first() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    record(store, "portal", at(0), vec![about(update("r_old", Status::Running), "x.mp4")]).await;
    record(store, "portal", at(1), vec![about(update("r_done", Status::Succeeded), "x.mp4")]).await;
    record(store, "portal", at(2), vec![about(update("r_new", Status::Running), "x.mp4")]).await;
    record(store, "media", at(3), vec![about(update("i1", Status::Failed), "x.mp4")]).await;
    let claimed = claim(store, "a", at(4)).await;
    let links: Vec<_> = claimed[0].change.links.iter().map(|l| l.key.as_str()).collect();
    assert_eq!(links, ["r_new"], "the newest unfinished one");
    settle(store, &claimed[0], Fate::Delivered, at(4)).await;

    record(store, "media", at(5), vec![about(update("i2", Status::Failed), "y.mp4")]).await;
    let claimed = claim(store, "a", at(6)).await;
    settle(store, &claimed[0], waits(0), at(7)).await;
    assert!(claim(store, "a", at(100)).await.is_empty(), "it waits");
    let run = record(store, "portal", at(101), vec![about(update("r_y", Status::Running), "y.mp4")]).await;
    assert_eq!(run.wake, ["a"]);
    let linked = claim(store, "a", at(101)).await;
    assert_eq!((statuses(&linked), linked[0].attempts), (vec![("i2", Status::Failed)], 0));
    assert_eq!(linked[0].change.links[0].key, "r_y");
    settle(store, &linked[0], Fate::Delivered, at(102)).await;

    record(store, "media", at(200), vec![update("i3", Status::Failed)]).await;
    record(store, "portal", at(201), vec![update("r_null", Status::Running)]).await;
    assert!(claim(store, "a", at(202)).await[0].change.links.is_empty(), "null keys never link");
}

#[tokio::test]
async fn what_waits_for_its_link_is_found_though_another_rule_was_put_above() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![about(update("i1", Status::Failed), "x.mp4")]).await;
    let claimed = claim(&*store, "a", at(1)).await;
    settle(&*store, &claimed[0], waits(0), at(2)).await;
    let mut rules = rules();
    let (key, with_key) = (Box::new(At("/execution/name")), Box::new(At("/execution/name")));
    rules.links.insert(0, LinkRule { of: "media".to_owned(), key, with: "portal".to_owned(), with_key });
    let receipt = receipt("portal", at(3), "{}");
    let parsed = Parsed::Updates(vec![about(update("r_1", Status::Running), "x.mp4")]);
    let recorded = store.record(receipt, parsed, Arc::new(rules)).await.expect("recorded");
    assert_eq!(recorded.wake, ["a"]);
    assert_eq!(claim(&*store, "a", at(3)).await[0].change.links[0].key, "r_1");
}

#[tokio::test]
async fn a_link_made_during_the_try_is_not_missed() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![about(update("i1", Status::Failed), "x.mp4")]).await;
    let claimed = claim(&*store, "a", at(1)).await;
    record(&*store, "portal", at(2), vec![about(update("r_1", Status::Running), "x.mp4")]).await;
    settle(&*store, &claimed[0], waits(0), at(3)).await;
    assert_eq!(claim(&*store, "a", at(3)).await[0].change.links.len(), 1);
}

#[tokio::test]
async fn a_link_made_during_a_later_try_leaves_that_its_lease() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![about(update("i1", Status::Failed), "x.mp4")]).await;
    let first = claim(&*store, "a", at(1)).await;
    settle(&*store, &first[0], waits(0), at(1)).await;
    let second = claim(&*store, "a", at(86_400)).await;
    let run = record(&*store, "portal", at(86_401), vec![about(update("r_1", Status::Running), "x.mp4")]).await;
    assert!(!run.wake.contains(&"a".to_owned()), "nobody is to try it at the same time");
    assert!(claim(&*store, "a", at(86_401)).await.is_empty(), "it is under way");
    settle(&*store, &second[0], Fate::Delivered, at(86_402)).await;
    let (delivery, _) = store.delivery(second[0].id).await.expect("there");
    assert_eq!(delivery.status.as_str(), "delivered");
}

#[tokio::test]
async fn who_was_late_has_no_word_once_another_holds_the_lease() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "media", at(0), vec![update("i1", Status::Running)]).await;
    record(&*store, "media", at(1), vec![update("i1", Status::Failed)]).await;
    let late = store.claim("a".to_owned(), 10, LEASE_MS, at(2), at(2)).await.expect("claimed");
    let after = at(2).plus_ms(LEASE_MS + 1);
    assert_eq!(claim(&*store, "a", after).await.len(), 1, "the lease ran out");
    let attempt = Attempt {
        started_at: at(2),
        duration_ms: LEASE_MS,
        outcome: "delivered".to_owned(),
        status: None,
        reason: None,
        answer: None,
    };
    let delivery = late.deliveries[0].id;
    let (fate, learned) = (Fate::Delivered, Vec::new());
    let settlement = Settlement { delivery, lease: late.until, attempt, fate, learned };
    store.settle(settlement, Arc::new(rules()), after).await.expect("heard");
    assert_eq!(store.delivery(delivery).await.expect("there").0.status.as_str(), "leased");
    assert!(claim(&*store, "a", after).await.is_empty(), "the next change waits for who holds the lease now");
}

#[tokio::test]
async fn what_a_sink_learned_is_recorded_with_its_settlement() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    record(&*store, "portal", at(0), vec![update("r_1", Status::Running)]).await;
    record(&*store, "media", at(1), vec![update("i1", Status::Failed)]).await;
    let claimed = claim(&*store, "a", at(2)).await;
    let known = |key| Update { known_only: true, ..update(key, Status::Failed) };
    let of = |source: &str, update, linked| Learned { source: source.to_owned(), update, linked };
    let learned = vec![
        of("portal", known("r_1"), false),
        of("portal", known("r_unknown"), false),
        of("soc", update("started", Status::Running), true),
        // Said again, as after a lost answer: linked once all the same.
        of("soc", update("started", Status::Running), true),
    ];
    let attempt = Attempt {
        started_at: at(2),
        duration_ms: 1,
        outcome: "delivered".to_owned(),
        status: None,
        reason: None,
        answer: None,
    };
    let lease = at(2).plus_ms(LEASE_MS);
    let settlement = Settlement { delivery: claimed[0].id, lease, attempt, fate: Fate::Delivered, learned };
    store.settle(settlement, Arc::new(rules()), at(3)).await.expect("settled");
    assert_eq!(status_of(&*store, "r_1").await, "failed");
    assert!(matches!(store.execution("r_unknown".to_owned()).await, Err(StoreError::NotFound(_))));
    let links = async |key: &str| {
        let shown = store.execution(key.to_owned()).await.expect("shown");
        shown["execution"]["links"]
            .as_array()
            .expect("links")
            .iter()
            .map(|link| link["key"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((links("started").await, links("i1").await), (vec!["i1".into()], vec!["started".into()]));
    assert!(links("r_1").await.is_empty());
}

#[tokio::test]
async fn a_faulty_condition_is_a_dead_letter_never_a_lost_change() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let recorded = record(&*store, "odd", at(0), vec![update("i1", Status::Failed)]).await;
    assert_eq!(recorded.outcome, ReceiptStatus::Accepted);
    let rows = store.deliveries(Filter::default()).await.expect("listed");
    assert_eq!(rows[0].status.as_str(), "dead");
    assert_eq!(rows[0].reason.as_deref(), Some("routes[1].when: /execution/key is no boolean"));
    assert_eq!(store.retry(DeliveryFilter::One(rows[0].id.parse().expect("an id")), at(1)).await.expect("retried"), 1);
    assert_eq!(claim(&*store, "a", at(1)).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_and_holds_nothing_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    for (key, status) in [("e1", Status::Running), ("e1", Status::Succeeded), ("e2", Status::Failed)] {
        record(&*store, "media", at(0), vec![update(key, status)]).await;
    }
    store.close().await;
    spoil(&folder, "UPDATE earlier_changes SET snapshot = '{'");
    let store = open(&folder);
    let store = &*store;
    let claim = store.claim("a".to_owned(), 10, LEASE_MS, at(1), at(1)).await.expect("claimed");
    assert_eq!(statuses(&claim.deliveries), [("e2", Status::Failed)]);
    assert_eq!(claim.next_due, Some(at(1)), "the next one of that execution is due");
    let claim = store.claim("a".to_owned(), 10, LEASE_MS, at(1), at(1)).await.expect("claimed");
    assert_eq!(statuses(&claim.deliveries), [("e1", Status::Succeeded)]);
    let dead = Filter { status: vec!["dead".to_owned()], ..Filter::default() };
    let dead = store.deliveries(dead).await.expect("deliveries");
    assert!(dead.len() == 1 && dead[0].reason.as_deref().is_some_and(|r| r.contains("cannot be read")), "{dead:?}");
}

#[tokio::test]
async fn a_quarantined_receipt_is_kept_whole_and_can_be_read_again() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let kept = try_record(store, "media", at(0), Parsed::Quarantined("no such root".to_owned())).await.expect("kept");
    assert_eq!((kept.outcome, kept.executions.len()), (ReceiptStatus::Quarantined, 0));
    let (row, body) = store.receipt(kept.receipt).await.expect("kept");
    assert_eq!((row.reason.as_deref(), &body[..]), (Some("no such root"), &b"<the body/>"[..]));
    let again = Parsed::Updates(vec![update("i1", Status::Failed)]);
    let recorded = store.record_again(kept.receipt, again.clone(), Arc::new(rules()), at(9)).await.expect("recorded");
    assert_eq!((recorded.receipt, recorded.outcome), (kept.receipt, ReceiptStatus::Accepted));
    assert_eq!(claim(store, "a", at(9)).await.len(), 1);
    let refused = store.record_again(kept.receipt, again, Arc::new(rules()), at(10)).await;
    assert!(matches!(refused, Err(StoreError::Refused(text)) if text.contains("only one that is quarantined, held")));
}

#[tokio::test]
async fn only_what_is_finished_and_told_is_let_go_of() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let source = "odd-free"; // no route: nothing to be told
    record(store, source, at(0), vec![update("old", Status::Running)]).await;
    record(store, source, at(1), vec![update("old", Status::Failed)]).await;
    record(store, source, at(2), vec![update("old", Status::Failed)]).await;
    record(store, source, at(3), vec![update("pair", Status::Failed), update("running", Status::Running)]).await;
    let pair = vec![update("pair", Status::Failed), update("running", Status::Running)];
    let repeat = record(store, source, at(3), pair).await;
    assert_eq!((repeat.outcome, repeat.executions.len()), (ReceiptStatus::Duplicate, 2));
    let of_the_second = store.execution("running".to_owned()).await.expect("shown");
    assert_eq!(of_the_second["receipts"].as_array().map(Vec::len), Some(2), "a repeat belongs to each that it names");
    record(store, "media", at(4), vec![update("untold", Status::Failed)]).await;
    try_record(store, source, at(5), Parsed::Quarantined("what is this".to_owned())).await.expect("kept");
    record(store, source, at(100), vec![update("new", Status::Failed)]).await;
    assert_eq!(prune(store, at(50)).await, 2, "old and pair");
    let left = store.executions(Filter::default()).await.expect("listed");
    assert_eq!(left.iter().map(|e| &e["key"]).collect::<Vec<_>>(), ["new", "untold", "running"]);
    assert!(matches!(store.execution("old".to_owned()).await, Err(StoreError::NotFound(_))));
    let receipts = store.receipts(Filter::default()).await.expect("listed");
    assert_eq!(receipts.len(), 5, "new, quarantined, untold, and the two that the running execution still needs");
    record(store, source, at(6), vec![update("running", Status::Failed)]).await;
    assert_eq!(prune(store, at(50)).await, 1);
    let receipts = store.receipts(Filter::default()).await.expect("listed");
    assert_eq!(receipts.len(), 3, "new, quarantined and untold");
}

#[tokio::test]
async fn a_receipt_of_several_goes_with_the_last_of_them_whatever_that_learned_from_it() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let source = "odd-free";
    record(store, source, at(0), vec![update("long", Status::Running)]).await;
    let both = vec![update("short", Status::Failed), update("long", Status::Running)];
    let recorded = record(store, source, at(1), both).await;
    assert_eq!((recorded.outcome, recorded.executions.len()), (ReceiptStatus::Accepted, 2));
    assert_eq!(prune(store, at(50)).await, 1, "short");
    assert_eq!(receipts(store, "accepted").await.len(), 2);
    record(store, source, at(2), vec![update("long", Status::Failed)]).await;
    assert_eq!(prune(store, at(50)).await, 1);
    assert!(receipts(store, "accepted").await.is_empty(), "nobody is left to need them");
}

#[tokio::test]
async fn an_execution_of_which_something_is_held_stays_until_that_is_decided() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let source = "odd-free";
    record(store, source, at(0), vec![update("i1", Status::Succeeded)]).await;
    let contradiction = Parsed::Held(vec![update("i1", Status::Failed)]);
    let kept = try_record(store, source, at(1), contradiction).await.expect("recorded");
    assert_eq!(kept.outcome, ReceiptStatus::Held);
    assert_eq!(prune(store, at(50)).await, 0);
    rule(store, kept.receipt, Ruling::Confirmed(vec![update("i1", Status::Failed)]), at(60)).await;
    assert_eq!(receipts(store, "conflict").await.len(), 1, "it is known what it contradicts");
    assert_eq!(prune(store, at(50)).await, 1);
}

#[tokio::test]
async fn lists_are_filtered_newest_first_and_paged() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    for n in 0..10 {
        let status = if n % 2 == 0 { Status::Failed } else { Status::Succeeded };
        record(store, "media", at(n), vec![update(&format!("i{n}"), status)]).await;
    }
    let keys = async |filter| {
        let list = store.executions(filter).await.expect("listed");
        list.iter().map(|e| e["key"].as_str().expect("a key").to_owned()).collect::<Vec<_>>()
    };
    let failed = Filter { status: vec!["failed".to_owned()], ..Filter::default() };
    assert_eq!(keys(failed.clone()).await, ["i8", "i6", "i4", "i2", "i0"]);
    let page = store.executions(Filter { limit: Some(2), ..failed.clone() }).await.expect("listed");
    let before = page[1]["id"].as_str().and_then(|id| id.parse().ok());
    assert_eq!(keys(Filter { before, limit: Some(2), ..failed }).await, ["i4", "i2"]);
    assert_eq!(keys(Filter { since: Some(at(8)), ..Filter::default() }).await, ["i9", "i8"]);
    assert!(keys(Filter { source: Some("other".to_owned()), ..Filter::default() }).await.is_empty());
    let receipts = store.receipts(Filter { limit: Some(3), ..Filter::default() }).await.expect("listed");
    assert_eq!(receipts.len(), 3);
    assert_eq!(receipts[0].headers["content-type"], "application/xml");
}

/// Each change holds all of its execution: whoever looks at one with many gets a few of them whole, and all by what is small.
#[tokio::test]
async fn of_large_changes_the_latest_are_told_whole_and_all_by_what_they_were() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let large = |n: u64| format!("{n}{}", "x".repeat(900_000));
    for n in 0..12 {
        record(&*store, "media", at(n), vec![about(update("r1", Status::Running), &large(n))]).await;
    }
    let shown = store.execution("r1".to_owned()).await.expect("known");
    let changes = shown["changes"].as_array().expect("changes");
    let whole: Vec<_> = changes.iter().map(|c| c["data"]["execution"]["subject"].as_str()).collect();
    let latest: Vec<_> = (0..12).map(large).enumerate().map(|(n, text)| (n >= 7).then_some(text)).collect();
    assert!(whole == latest.iter().map(Option::as_deref).collect::<Vec<_>>(), "the last five, as they were");
    for (n, (change, receipt)) in changes.iter().zip(shown["receipts"].as_array().expect("receipts")).enumerate() {
        let meta = &change["data"]["change"];
        assert_eq!((&meta["sequence"], &meta["receipt"]), (&json!(n + 1), &receipt["id"]));
        assert_eq!(meta["previous_status"], if n == 0 { Value::Null } else { json!("running") });
        assert_eq!((&meta["overdue"], &meta["received_at"]), (&json!(false), &json!(at(n as u64))));
        assert!(meta["type"].as_str().is_some_and(|kind| kind.starts_with("callbackd.execution.")), "{meta}");
        assert_eq!(change["data"]["tasks"].is_null(), n < 7);
    }
    assert_eq!((changes.len(), shown["deliveries"].as_array().map(Vec::len)), (12, Some(24)));
    // Small ones are told whole, however many.
    for n in 0..100 {
        record(&*store, "media", at(n), vec![about(update("r2", Status::Running), &n.to_string())]).await;
    }
    let shown = store.execution("r2".to_owned()).await.expect("known");
    assert!(shown["changes"].as_array().expect("changes").iter().all(|c| c["data"]["tasks"].is_array()));
}

/// Whoever says the same thing for ever makes no answer that is larger than others, and is seen in it.
#[tokio::test]
async fn of_very_many_receipts_the_latest_are_told() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let mut last = 0;
    for n in 0..40 {
        let headers = vec![("user-agent".to_owned(), "u".repeat(200_000))];
        let repeat = Receipt { headers, ..receipt("media", at(n), "<the body/>") };
        let updates = Parsed::Updates(vec![update("r1", Status::Succeeded)]);
        last = store.record(repeat, updates, Arc::new(rules())).await.expect("recorded").receipt;
    }
    let shown = store.execution("r1".to_owned()).await.expect("known");
    let told = shown["receipts"].as_array().expect("receipts");
    assert_eq!((told.len(), &told[told.len() - 1]["id"]), (21, &json!(last.to_string())));
    let all = store.receipts(Filter {
        execution: shown["execution"]["id"].as_str().and_then(|id| id.parse().ok()),
        ..Filter::default()
    });
    assert_eq!(all.await.expect("listed").len(), 40, "and the others, page by page");
}

/// What is due of a source: held receipts by their lines, and late executions.
async fn inquiries(store: &dyn Store, source: &str, now: Time) -> Vec<Inquiry> {
    store.claim_inquiries(source.to_owned(), 4, 30_000, true, now).await.expect("claimed").due
}

async fn held(store: &dyn Store, now: Time) -> Vec<Held> {
    let claimed = inquiries(store, "media", now).await;
    let lines = claimed.into_iter().map(|inquiry| match inquiry {
        Inquiry::Held(line) => line,
        Inquiry::Late(late) => panic!("{late:?}"),
    });
    lines.flatten().collect()
}

async fn late(store: &dyn Store, now: Time) -> Vec<Late> {
    let claimed = inquiries(store, "slow", now).await;
    let late = claimed.into_iter().map(|inquiry| match inquiry {
        Inquiry::Late(late) => *late,
        Inquiry::Held(line) => panic!("{line:?}"),
    });
    late.collect()
}

async fn hold(store: &dyn Store, now: Time, key: &str, status: Status) -> Recorded {
    try_record(store, "media", now, Parsed::Held(vec![update(key, status)])).await.expect("recorded")
}

async fn rule(store: &dyn Store, receipt: i64, ruling: Ruling, now: Time) -> Vec<String> {
    store.rule(receipt, ruling, Arc::new(rules()), now).await.expect("ruled")
}

async fn receipts(store: &dyn Store, status: &str) -> Vec<(i64, Option<String>)> {
    let filter = Filter { status: vec![status.to_owned()], ..Filter::default() };
    let rows = store.receipts(filter).await.expect("listed");
    rows.into_iter().map(|row| (row.id.parse().expect("an id"), row.reason)).collect()
}

#[tokio::test]
async fn a_held_receipt_changes_nothing_until_it_is_confirmed() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let kept = hold(store, at(0), "i1", Status::Failed).await;
    assert_eq!((kept.outcome, kept.executions.len(), kept.wake.len()), (ReceiptStatus::Held, 0, 0));
    assert!(store.executions(Filter::default()).await.expect("listed").is_empty());
    assert_eq!(receipts(store, "held").await, [(kept.receipt, Some("i1: the vendor is to be asked".to_owned()))]);
    let first = Held { receipt: kept.receipt, asked: 0, failures: 0 };
    assert_eq!(held(store, at(1)).await, [first]);
    assert!(held(store, at(2)).await.is_empty(), "a question is under way");

    let waits = |seconds, answered| Ruling::Waits { due_at: at(seconds), answered, reason: "not yet".to_owned() };
    rule(store, kept.receipt, waits(20, false), at(3)).await;
    assert_eq!(receipts(store, "held").await, [(kept.receipt, Some("not yet".to_owned()))]);
    assert!(held(store, at(19)).await.is_empty());
    assert_eq!(held(store, at(20)).await, [Held { failures: 1, ..first }]);
    rule(store, kept.receipt, waits(40, true), at(21)).await;
    assert_eq!(held(store, at(40)).await, [Held { asked: 1, ..first }]);

    let confirmed = Ruling::Confirmed(vec![update("i1", Status::Failed)]);
    assert_eq!(rule(store, kept.receipt, confirmed.clone(), at(41)).await, ["a", "b"]);
    let claimed = claim(store, "a", at(41)).await;
    assert_eq!(statuses(&claimed), [("i1", Status::Failed)]);
    assert_eq!(claimed[0].change.meta.receipt, Some(kept.receipt.to_string()));
    let (row, body) = store.receipt(kept.receipt).await.expect("kept");
    assert_eq!((row.status, row.reason, row.executions.len()), (ReceiptStatus::Accepted, None, 1));
    assert_eq!(body, b"<the body/>");
    assert!(rule(store, kept.receipt, confirmed, at(42)).await.is_empty(), "once");
    assert!(held(store, at(9999)).await.is_empty());
}

#[tokio::test]
async fn repeats_of_what_is_held_wait_in_one_line_and_ask_nobody_anew() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let (mut line, mut others) = (Vec::new(), Vec::new());
    for now in 0..3 {
        line.push(hold(store, at(now), "i1", Status::Failed).await.receipt);
        others.push(hold(store, at(now), &format!("other{now}"), Status::Failed).await.receipt);
    }
    let claimed = inquiries(store, "media", at(3)).await;
    assert_eq!(claimed.len(), 4, "one for each execution");
    let Inquiry::Held(first) = &claimed[0] else { panic!("{claimed:?}") };
    assert_eq!(first.iter().map(|held| held.receipt).collect::<Vec<_>>(), line);

    for other in others {
        rule(store, other, Ruling::Refused("odd".to_owned()), at(3)).await;
    }
    // One that comes during the question waits for its answer, and then for the next question.
    let during = hold(store, at(4), "i1", Status::Failed).await;
    assert!(held(store, at(5)).await.is_empty());
    for &receipt in &line {
        rule(store, receipt, Ruling::Waits { due_at: at(14), answered: true, reason: "soon".to_owned() }, at(6)).await;
    }
    let after = hold(store, at(7), "i1", Status::Failed).await;
    assert!(held(store, at(13)).await.is_empty());
    line.extend([during.receipt, after.receipt]);
    let claimed = held(store, at(14)).await;
    assert_eq!(claimed.iter().map(|held| held.receipt).collect::<Vec<_>>(), line);
    for &receipt in &line {
        rule(store, receipt, Ruling::Confirmed(vec![update("i1", Status::Failed)]), at(21)).await;
    }
    let all = receipts(store, "duplicate").await;
    assert_eq!(all.len(), 4, "{all:?}");
    let (row, body) = store.receipt(line[1]).await.expect("kept");
    assert!(body.is_empty() && row.digest.is_some_and(|digest| digest.len() == 64));

    // Behind one that is asked about seldom, nobody waits as long as that.
    let odd = hold(store, at(22), "i9", Status::Succeeded).await;
    assert_eq!(held(store, at(22)).await.len(), 1);
    let during = hold(store, at(23), "i9", Status::Failed).await;
    rule(store, odd.receipt, Ruling::Waits { due_at: at(500), answered: true, reason: "odd".to_owned() }, at(24)).await;
    assert!(held(store, at(33)).await.is_empty());
    assert_eq!(held(store, at(34)).await.iter().map(|held| held.receipt).collect::<Vec<_>>(), [during.receipt]);
    rule(store, during.receipt, Ruling::Refused("odd".to_owned()), at(35)).await;
    let after = hold(store, at(35), "i9", Status::Cancelled).await;
    assert_eq!(held(store, at(45)).await.iter().map(|held| held.receipt).collect::<Vec<_>>(), [after.receipt]);

    // What repeats something confirmed is known to be true.
    let repeat = hold(store, at(50), "i1", Status::Failed).await;
    assert_eq!((repeat.outcome, repeat.executions.len()), (ReceiptStatus::Duplicate, 1));
    // What contradicts it is for the vendor to say.
    assert_eq!(hold(store, at(51), "i1", Status::Succeeded).await.outcome, ReceiptStatus::Held);
    assert_eq!(claim(store, "a", at(51)).await.len(), 1, "told once");
}

#[tokio::test]
async fn what_was_refused_is_kept_until_an_operator_vouches_for_it_or_it_is_old() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let refused = Ruling::Refused("the vendor knows no execution of this id".to_owned());
    let mut forged = Vec::new();
    for now in 0..2 {
        let kept = hold(store, at(now), &format!("i{now}"), Status::Failed).await;
        assert_eq!(held(store, at(now)).await.len(), 1);
        rule(store, kept.receipt, refused.clone(), at(now)).await;
        forged.push(kept.receipt);
    }
    let reason = Some("the vendor knows no execution of this id".to_owned());
    assert_eq!(receipts(store, "refused").await, [(forged[1], reason.clone()), (forged[0], reason)]);
    assert!(claim(store, "a", at(2)).await.is_empty() && held(store, at(9999)).await.is_empty());

    let again = Parsed::Updates(vec![update("i0", Status::Failed)]);
    let recorded = store.record_again(forged[0], again, Arc::new(rules()), at(3)).await.expect("recorded");
    assert_eq!(recorded.outcome, ReceiptStatus::Accepted);
    // And one that is held: what its vendor says afterwards comes too late.
    let kept = hold(store, at(4), "i4", Status::Failed).await;
    assert_eq!(held(store, at(4)).await.len(), 1);
    let again = Parsed::Updates(vec![update("i4", Status::Failed)]);
    store.record_again(kept.receipt, again, Arc::new(rules()), at(5)).await.expect("recorded");
    rule(store, kept.receipt, refused, at(6)).await;
    assert_eq!(store.receipt(kept.receipt).await.expect("kept").0.status, ReceiptStatus::Accepted);

    let waits = hold(store, at(7), "i7", Status::Failed).await;
    prune(store, at(100_000)).await;
    assert!(receipts(store, "refused").await.is_empty());
    let held = receipts(store, "held").await;
    assert_eq!(held.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [waits.receipt], "what nobody decided stays");
}

#[tokio::test]
async fn a_quarantined_receipt_that_is_understood_is_held_like_any_other() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let kept = try_record(&*store, "media", at(0), Parsed::Quarantined("what".to_owned())).await.expect("kept");
    let again = Parsed::Held(vec![update("i1", Status::Failed)]);
    let recorded = store.record_again(kept.receipt, again, Arc::new(rules()), at(1)).await.expect("recorded");
    assert_eq!((recorded.receipt, recorded.outcome), (kept.receipt, ReceiptStatus::Held));
    assert_eq!(held(&*store, at(1)).await[0].receipt, kept.receipt);
}

#[tokio::test]
async fn questions_that_were_under_way_are_put_again_by_the_next_daemon() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let kept = hold(&*store, at(0), "i1", Status::Failed).await;
    record(&*store, "slow", at(0), vec![update("i2", Status::Running)]).await;
    assert_eq!((held(&*store, at(60)).await.len(), late(&*store, at(60)).await.len()), (1, 1));
    store.close().await;
    drop(store);
    let store = open(&folder);
    assert_eq!(held(&*store, at(61)).await[0].receipt, kept.receipt);
    assert_eq!(late(&*store, at(61)).await[0].state.execution.key, "i2");
}

#[tokio::test]
async fn what_is_not_finished_in_time_is_marked_once_and_told_in_its_turn() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    let mut quick = update("i1", Status::Running);
    quick.execution.workflow = Some("w1".to_owned());
    record(store, "slow", at(0), vec![quick, update("i2", Status::Running), update("i3", Status::Failed)]).await;
    record(store, "slow", at(1), vec![update("i4", Status::Running)]).await;
    record(store, "slow", at(2), vec![update("i4", Status::Succeeded)]).await;
    record(store, "media", at(3), vec![update("i5", Status::Running)]).await;
    let keys = async |now| late(store, at(now)).await.into_iter().map(|l| l.state.execution.key).collect::<Vec<_>>();
    assert!(keys(9).await.is_empty());
    let first = late(store, at(10)).await;
    assert_eq!((first.len(), first[0].state.execution.key.as_str(), first[0].is_marked), (1, "i1", false));
    let claim_of_nobody = store.claim_inquiries("slow".to_owned(), 4, 1000, false, at(11)).await.expect("claimed");
    assert_eq!((claim_of_nobody.due.len(), claim_of_nobody.next_due), (0, Some(at(40))), "the lease");

    let marks = |due_at| Lateness { truth: None, marks: true, due_at, answered: true };
    let settle_late = async |late: &Late, lateness, now| {
        store
            .settle_late("slow".to_owned(), late.execution, lateness, Arc::new(rules()), at(now))
            .await
            .expect("settled")
    };
    assert_eq!(settle_late(&first[0], marks(Some(at(30))), 12).await, ["a"]);
    let overdue = async || {
        let filter = Filter { status: vec!["overdue".to_owned()], ..Filter::default() };
        let rows = store.executions(filter).await.expect("listed");
        rows.iter().map(|e| (e["key"].clone(), e["status"].clone(), e["overdue"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(overdue().await, [("i1".into(), "running".into(), true.into())]);
    let again = late(store, at(30)).await;
    assert!(again[0].is_marked && again[0].asked == 1, "{again:?}");
    assert!(settle_late(&again[0], marks(None), 31).await.is_empty(), "once");
    assert_eq!(keys(70).await, ["i2"], "i1 is looked at no more, and the others are over or of no concern");
    assert_eq!(overdue().await.len(), 1, "the mark stays");

    record(store, "slow", at(80), vec![update("i1", Status::Failed)]).await;
    assert!(overdue().await.is_empty());
    let shown = store.execution("i1".to_owned()).await.expect("shown");
    let told: Vec<_> = shown["changes"].as_array().expect("changes").iter().map(|c| &c["data"]["change"]).collect();
    let types: Vec<_> = told.iter().map(|c| (c["type"].as_str().expect("a type"), c["overdue"] == true)).collect();
    let expected = [("running", false), ("overdue", true), ("failed", false)];
    assert_eq!(
        types,
        expected
            .map(|(word, overdue)| (format!("callbackd.execution.{word}"), overdue))
            .each_ref()
            .map(|(t, o)| (t.as_str(), *o))
    );
    assert_eq!((&told[1]["previous_status"], &told[1]["sequence"]), (&"running".into(), &2.into()));
    assert_eq!(shown["execution"]["overdue"], false);
    for (status, is_overdue) in [(Status::Running, false), (Status::Running, true), (Status::Failed, false)] {
        let claimed = claim(store, "a", at(90)).await;
        let of_i1 = claimed.iter().find(|d| d.change.state.execution.key == "i1").expect("in its turn");
        assert_eq!((of_i1.change.state.execution.status, of_i1.change.meta.overdue), (status, is_overdue));
        settle(store, of_i1, Fate::Delivered, at(90)).await;
    }
}

#[tokio::test]
async fn what_a_vendor_says_of_a_late_execution_is_recorded_as_if_it_had_called() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    record(store, "slow", at(0), vec![update("i1", Status::Running), update("i2", Status::Pending)]).await;
    for (late, says) in late(store, at(60)).await.iter().zip([Status::Succeeded, Status::Running]) {
        let truth = Some(update(&late.state.execution.key, says));
        let lateness = Lateness { truth, marks: true, due_at: Some(at(100)), answered: true };
        let wake = store.settle_late("slow".to_owned(), late.execution, lateness, Arc::new(rules()), at(61)).await;
        assert_eq!(wake.expect("settled"), ["a"]);
    }
    let types = async |key: &str| {
        let shown = store.execution(key.to_owned()).await.expect("shown");
        let changes = shown["changes"].as_array().expect("changes").clone();
        changes
            .iter()
            .map(|c| c["data"]["change"]["type"].as_str().expect("a type")[20..].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(types("i1").await, ["running", "succeeded"], "finished in time after all");
    assert_eq!(types("i2").await, ["pending", "running", "overdue"]);
    assert_eq!(late(store, at(100)).await.len(), 1);
}
