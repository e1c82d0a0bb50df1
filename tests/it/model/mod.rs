//! The store beside a plain model of it ([`plain`]): whatever happens, in whatever order, both come to the same.
//!
//! What happens is made up: callbacks that are news, late, repeated, contradictory or not understood, about executions
//! that may be linked; deliveries that are claimed, settled in every way or left to their leases; operators who pause,
//! retry and discard; upkeep; restarts. A failure is shrunk to the fewest steps that show it, and its seed is kept in
//! `regressions.txt`, which every later run begins with. `CALLBACKD_TEST_MODEL_CASES` says how many histories are made
//! up, and `PROPTEST_RNG_SEED` from which seed, which is printed.

use std::collections::BTreeSet;
use std::sync::Arc;

use callbackd::model::{
    Attempt, ExecutionPart, Learned, LinkRule, Program, Route, Rules, SinkRule, Status, Task, Time, Update,
};
use callbackd::store::{DeliveryFilter, Fate, Filter, Item, Parsed, Settlement, Store};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

mod plain;

use crate::rig::receipt;
use crate::stores::{moved, open};
use plain::{End, Instant, Outcome, Plain, SINKS, Says, Standing, Tie, is_finished};

const SOURCES: [&str; 2] = ["media", "portal"];
const T0: Instant = 1_700_000_000_000_000;
const LEASE_MS: u64 = 30_000;
/// Histories in each run; some seconds.
const CASES: u32 = 60;
const STEPS: usize = 60;

/// One thing that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Callback(&'static str, Vec<Says>),
    /// An earlier callback comes again.
    Repeat(usize),
    /// One that is not understood.
    Strange(&'static str),
    /// One of these is read again, and understood.
    Understood(usize, Vec<Says>),
    Claim(&'static str, usize),
    /// What is due within so many seconds is claimed before, to see whether the peer is well again.
    Probe(&'static str, u64),
    /// A try ends, of all that were ever claimed.
    Settle(usize, End),
    /// The same, with the news that an execution of Port's has succeeded: if we know it, or else (`true`) it was started by
    /// this try, and belongs to what the try was of.
    Learns(usize, String, bool),
    /// A claim is given back before the try.
    Release(usize),
    /// So many seconds pass.
    Pass(u64),
    Pause(&'static str),
    Resume(&'static str),
    Retry(usize),
    Discard(usize),
    /// All dead letters of a sink.
    RetryAll(&'static str),
    DiscardAll(&'static str),
    Hurry(&'static str),
    Restart,
    /// The same, and it is moved into another store in between.
    Move,
    /// Upkeep, of what is older than so many seconds.
    Prune(u64),
}

fn status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

/// Mostly of the same few, so that much happens to each.
fn says() -> impl Strategy<Value = Says> {
    let key = prop_oneof![3 => Just(0_u8), 1 => 1..4_u8];
    let tasks = prop::collection::btree_map(0..3_u8, status(), 0..3);
    (key, prop::option::weighted(0.8, status()), tasks, prop::option::weighted(0.4, 0..2_u8), any::<bool>()).prop_map(
        |(key, status, tasks, subject, is_named)| Says {
            key: format!("k{key}"),
            // As sources do it: an end is known by what ended and how.
            identity: status.filter(|status| is_named && is_finished(*status)).map(|status| format!("end/{status}")),
            status,
            tasks: tasks.into_iter().map(|(key, status)| (format!("t{key}"), status)).collect(),
            subject: subject.map(|n| format!("s{n}")),
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let source = || prop_oneof![2 => Just(SOURCES[0]), 1 => Just(SOURCES[1])];
    let sink = || prop_oneof![3 => Just(SINKS[0]), 1 => Just(SINKS[1]), 1 => Just(SINKS[2])];
    let some = || prop::collection::vec(says(), 1..3);
    let ms = || prop::sample::select(vec![0_u64, 5_000, 60_000]);
    let end = prop_oneof![
        4 => Just(End::Delivered),
        2 => ms().prop_map(End::Retry),
        1 => ms().prop_map(End::Waits),
        2 => Just(End::WaitsForLink(60_000)),
        2 => Just(End::Dead),
        1 => Just(End::Discarded),
    ];
    prop_oneof![
        20 => (source(), some()).prop_map(|(source, says)| Step::Callback(source, says)),
        4 => any::<usize>().prop_map(Step::Repeat),
        1 => source().prop_map(Step::Strange),
        1 => (any::<usize>(), some()).prop_map(|(at, says)| Step::Understood(at, says)),
        12 => (sink(), 1..4_usize).prop_map(|(sink, limit)| Step::Claim(sink, limit)),
        12 => (any::<usize>(), end).prop_map(|(at, end)| Step::Settle(at, end)),
        1 => (sink(), prop::sample::select(vec![5_u64, 60])).prop_map(|(sink, ahead)| Step::Probe(sink, ahead)),
        2 => (any::<usize>(), 0..2_u8, any::<bool>())
            .prop_map(|(at, key, started)| Step::Learns(at, format!("k{key}"), started)),
        1 => any::<usize>().prop_map(Step::Release),
        4 => prop::sample::select(vec![1_u64, 31, 120]).prop_map(Step::Pass),
        1 => sink().prop_map(Step::Pause),
        2 => sink().prop_map(Step::Resume),
        5 => any::<usize>().prop_map(Step::Retry),
        3 => any::<usize>().prop_map(Step::Discard),
        1 => sink().prop_map(Step::RetryAll),
        1 => sink().prop_map(Step::DiscardAll),
        1 => sink().prop_map(Step::Hurry),
        2 => Just(Step::Restart),
        2 => Just(Step::Move),
        2 => prop::sample::select(vec![0_u64, 60]).prop_map(Step::Prune),
    ]
}

/// A JSON pointer, and the text that has to stand there for a test.
struct At(&'static str, &'static str);

impl Program for At {
    fn test(&self, data: &Value) -> Result<bool, String> {
        Ok(data.pointer(self.0).and_then(Value::as_str) == Some(self.1))
    }

    fn text(&self, data: &Value) -> Result<Option<String>, String> {
        Ok(data.pointer(self.0).and_then(Value::as_str).map(str::to_owned))
    }

    fn written(&self) -> &str {
        self.0
    }
}

/// The same as `Plain::changed` and `Plain::link` have it.
fn rules() -> Arc<Rules> {
    let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let subject = || Box::new(At("/execution/subject", "")) as Box<dyn Program>;
    let failed = || Box::new(At("/execution/status", "failed")) as Box<dyn Program>;
    Arc::new(Rules {
        routes: vec![
            Route { from: names(&SOURCES), when: None, to: names(&SINKS[..1]) },
            Route { from: names(&SOURCES[..1]), when: None, to: names(&SINKS[..2]) },
            Route { from: names(&SOURCES[..1]), when: Some(failed()), to: names(&SINKS[2..]) },
        ],
        links: vec![LinkRule {
            of: SOURCES[0].to_owned(),
            key: subject(),
            with: SOURCES[1].to_owned(),
            with_key: subject(),
        }],
        sinks: SINKS.map(|name| SinkRule { name: name.to_owned(), coalesce: name == "coalescing" }).into(),
        ..Rules::default()
    })
}

/// A claim: the delivery, the end of its lease, and how many links the try knew of.
type Lease = (usize, Instant, usize);

/// Both, side by side.
struct Pair {
    folder: TempDir,
    store: Arc<dyn Store>,
    plain: Plain,
    rules: Arc<Rules>,
    now: Instant,
    /// Every callback that came.
    said: Vec<(&'static str, Vec<Says>)>,
    leases: Vec<Lease>,
    /// The ids of the model's deliveries and receipts, in its order.
    deliveries: Vec<i64>,
    receipts: Vec<i64>,
}

fn update(says: &Says) -> Update {
    let execution = ExecutionPart { status: says.status, subject: says.subject.clone(), ..ExecutionPart::default() };
    let tasks = says.tasks.iter().map(|(key, status)| Task::new(key.clone(), *status)).collect();
    Update { key: says.key.clone(), identity: says.identity.clone(), execution, tasks, known_only: false }
}

/// One of a list, as a number chooses it.
fn chosen<T: Copy>(list: &[T], number: usize) -> Option<T> {
    (!list.is_empty()).then(|| list[number % list.len()])
}

/// The changes and tries that somebody is told who listens from this cursor on, each with its own.
async fn told(store: &dyn Store, mut from: i64) -> BTreeSet<(i64, String)> {
    let mut told = BTreeSet::new();
    loop {
        let news = store.news(from).await.expect("read");
        told.extend(news.items.iter().map(|(cursor, item)| match item {
            Item::Change(row) => (*cursor, format!("change {}", row.id)),
            Item::Delivery(row) => (*cursor, format!("delivery {} {:?}", row.id, row.outcome)),
        }));
        from = news.through;
        if !news.more {
            return told;
        }
    }
}

impl Pair {
    fn new() -> Pair {
        // In memory, where there is such a folder: what a disk keeps is other tests' affair, and thousands of commits are not
        // to wait for one.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder");
        let store = open(&folder);
        let rules = rules();
        let (plain, now) = (Plain::default(), T0);
        let (said, leases, deliveries, receipts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Pair { folder, store, plain, rules, now, said, leases, deliveries, receipts }
    }

    fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    async fn record(&self, source: &str, parsed: Parsed) -> String {
        let receipt = receipt(source, self.time(), "a body");
        let recorded = self.store.record(receipt, parsed, Arc::clone(&self.rules)).await.expect("recorded");
        recorded.outcome.to_string()
    }

    async fn callback(&mut self, source: &'static str, says: &[Says]) {
        let outcome = self.record(source, Parsed::Updates(says.iter().map(update).collect())).await;
        self.plain.callback(source, says, self.now);
        let expected = self.plain.receipts.last().expect("the newest").outcome;
        assert_eq!(outcome, format!("{expected:?}").to_lowercase(), "what the sender is told");
    }

    async fn settle(&mut self, (at, lease, links): Lease, end: End, learned: Option<(&String, bool)>) {
        let due_at = |ms: u64| self.time().plus_ms(ms);
        let waiting = |ms, until_linked, free| Fate::Waiting { due_at: due_at(ms), until_linked, resume: None, free };
        let fate = match end {
            End::Delivered => Fate::Delivered,
            End::Dead => Fate::Dead,
            End::Discarded => Fate::Discarded,
            End::Retry(ms) => waiting(ms, None, false),
            End::Waits(ms) => waiting(ms, None, true),
            End::WaitsForLink(ms) => waiting(ms, Some(links), true),
        };
        let attempt = Attempt {
            started_at: self.time(),
            duration_ms: 1,
            outcome: "tried".to_owned(),
            status: None,
            reason: None,
            answer: None,
        };
        let says = learned.map(|(key, started)| {
            let status = Some(Status::Succeeded);
            (Says { key: key.clone(), status, tasks: Vec::new(), subject: None, identity: None }, started)
        });
        let learned = says.iter().map(|(says, started)| Learned {
            source: SOURCES[1].to_owned(),
            update: Update { known_only: !started, ..update(says) },
            linked: *started,
        });
        let lease_end = Time::from_micros(lease);
        let settlement =
            Settlement { delivery: self.deliveries[at], lease: lease_end, attempt, fate, learned: learned.collect() };
        self.store.settle(settlement, Arc::clone(&self.rules), self.time()).await.expect("settled");
        if self.plain.settle(at, lease, links, end, self.now) {
            says.iter().for_each(|(says, started)| self.plain.learned(at, SOURCES[1], says, *started, self.now));
        }
    }

    async fn claim(&mut self, sink: &'static str, limit: usize, ahead: u64) {
        let (now, by) = (self.time(), self.time().plus_ms(ahead * 1000));
        let claim = self.store.claim(sink.to_owned(), limit, LEASE_MS, by, now).await.expect("claimed");
        let mut due = self.plain.due(sink, by.micros(), self.now);
        assert_eq!(claim.deliveries.len(), due.len().min(limit), "of what is due, as much as was asked for: {due:?}");
        for delivery in claim.deliveries {
            let at = self.deliveries.iter().position(|id| *id == delivery.id).expect("a known delivery");
            assert!(due.contains(&at), "delivery {at} is not due, or claimed twice; due is {due:?}");
            due.retain(|other| *other != at);
            let told = &delivery.change;
            let plain = &self.plain.deliveries[at];
            let change = &self.plain.executions[plain.execution].changes[plain.change];
            assert_eq!((told.meta.sequence as usize, told.state.execution.status), (plain.change + 1, change.status));
            assert_eq!((told.meta.previous_status, &told.meta.changed_tasks), (change.previous, &change.tasks));
            assert_eq!(delivery.attempts, plain.attempts, "tries of delivery {at}");
            self.plain.claimed(at, claim.until.micros());
            self.leases.push((at, claim.until.micros(), told.links.len()));
        }
    }

    async fn happens(&mut self, step: &Step) {
        match step {
            Step::Callback(source, says) => {
                self.said.push((source, says.clone()));
                self.callback(source, says).await;
            }
            Step::Repeat(number) => {
                if self.said.is_empty() {
                    return;
                }
                let (source, says) = self.said[number % self.said.len()].clone();
                self.callback(source, &says).await;
            }
            Step::Strange(source) => {
                self.record(source, Parsed::Quarantined("not understood".to_owned())).await;
                self.plain.strange(source);
            }
            Step::Understood(number, says) => {
                let is_strange = |at: &usize| self.plain.receipts[*at].outcome == Outcome::Quarantined;
                let strange: Vec<_> = (0..self.plain.receipts.len()).filter(is_strange).collect();
                let Some(at) = chosen(&strange, *number) else { return };
                let parsed = Parsed::Updates(says.iter().map(update).collect());
                let again = self.store.record_again(self.receipts[at], parsed, Arc::clone(&self.rules), self.time());
                again.await.expect("read again");
                self.plain.understand(at, says, self.now);
            }
            Step::Claim(sink, limit) => self.claim(sink, *limit, 0).await,
            Step::Probe(sink, ahead) => self.claim(sink, 1, *ahead).await,
            Step::Settle(number, end) => {
                if let Some(lease) = chosen(&self.leases, *number) {
                    self.settle(lease, *end, None).await;
                }
            }
            Step::Learns(number, key, started) => {
                if let Some(lease) = chosen(&self.leases, *number) {
                    self.settle(lease, End::Delivered, Some((key, *started))).await;
                }
            }
            Step::Release(number) => {
                if let Some((at, lease, _)) = chosen(&self.leases, *number) {
                    let given_back = self.store.release(vec![self.deliveries[at]], Time::from_micros(lease));
                    given_back.await.expect("given back");
                    self.plain.release(at, lease);
                }
            }
            Step::Pass(seconds) => self.now += *seconds as Instant * 1_000_000,
            Step::Pause(sink) => {
                self.store.pause((*sink).to_owned(), Some("by an operator".to_owned())).await.expect("paused");
                self.plain.paused.push(sink);
            }
            Step::Resume(sink) => {
                self.store.pause((*sink).to_owned(), None).await.expect("resumed");
                self.plain.paused.retain(|paused| paused != sink);
            }
            Step::Retry(number) | Step::Discard(number) => {
                let there: Vec<_> = (0..self.deliveries.len()).filter(|at| !self.plain.deliveries[*at].gone).collect();
                let Some(at) = chosen(&there, *number) else { return };
                let (one, now) = (DeliveryFilter::One(self.deliveries[at]), self.time());
                let (done, expected) = if matches!(step, Step::Retry(_)) {
                    (self.store.retry(one, now).await, self.plain.retry(at, self.now))
                } else {
                    (self.store.discard(one, now).await, self.plain.discard(at, self.now))
                };
                assert_eq!(done.is_ok(), expected, "{done:?}");
            }
            Step::RetryAll(sink) | Step::DiscardAll(sink) => {
                let filter = Filter { sink: Some((*sink).to_owned()), ..Filter::default() };
                let (all, now) = (DeliveryFilter::All(filter), self.time());
                let dead = self.plain.dead(sink);
                let done = if matches!(step, Step::RetryAll(_)) {
                    dead.iter().for_each(|at| assert!(self.plain.retry(*at, self.now)));
                    self.store.retry(all, now).await
                } else {
                    dead.iter().for_each(|at| assert!(self.plain.discard(*at, self.now)));
                    self.store.discard(all, now).await
                };
                assert_eq!(done.expect("done"), dead.len() as u64, "all that are dead");
            }
            Step::Hurry(sink) => {
                self.store
                    .hurry((*sink).to_owned(), self.time().plus_ms(86_400_000_000), self.time())
                    .await
                    .expect("hurried");
                self.plain.hurry(sink, self.now);
            }
            Step::Restart | Step::Move => {
                let told = told(&*self.store, 0).await;
                self.store.close().await;
                if matches!(step, Step::Move) {
                    self.folder = moved(&self.folder).await;
                }
                // Ids go on a second later, and tell the time to upkeep.
                self.now += 2_000_000;
                self.store = open(&self.folder);
                self.plain.restarted();
                // Whoever comes back is told what follows.
                let cursors = told.iter().rev().map(|(cursor, _)| *cursor).step_by(7).chain([0]);
                for cursor in cursors.collect::<Vec<_>>() {
                    let again = self::told(&*self.store, cursor).await;
                    let left: Vec<_> =
                        told.range((cursor + 1, String::new())..).filter(|&one| !again.contains(one)).collect();
                    assert!(left.is_empty(), "left out after {cursor}: {left:?} of {told:?}, and told was {again:?}");
                }
            }
            Step::Prune(seconds) => {
                let before = self.now - *seconds as Instant * 1_000_000;
                crate::store::prune(&*self.store, Time::from_micros(before)).await;
                self.plain.prune(before);
            }
        }
        // No two things happen in the same instant, else upkeep could not tell them apart.
        self.now += 1000;
    }

    /// Everything that the store shows, a line for each thing.
    async fn shown(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut executions = self.store.executions(Filter::default()).await.expect("executions");
        executions.reverse();
        for listed in executions {
            let id = listed["id"].as_str().expect("an id");
            let whole = self.store.execution(id.to_owned()).await.expect("an execution");
            let e = &whole["execution"];
            let name = format!("{}/{}", text(&e["source"]), text(&e["key"]));
            let tasks = list(&whole["tasks"], |task| format!("{}={}", text(&task["key"]), text(&task["status"])));
            let mut links: Vec<_> =
                e["links"].as_array().into_iter().flatten().map(|link| text(&link["key"])).collect();
            links.sort();
            lines.push(format!("{name} {} about {} {tasks} linked {links:?}", text(&e["status"]), text(&e["subject"])));
            for change in whole["changes"].as_array().into_iter().flatten() {
                let (data, meta) = (&change["data"], &change["data"]["change"]);
                let moved = list(&meta["changed_tasks"], text);
                let (previous, status) = (text(&meta["previous_status"]), text(&data["execution"]["status"]));
                lines.push(format!("  {}: {previous} -> {status} {moved} {}", meta["sequence"], text(&meta["type"])));
            }
        }
        let mut deliveries = self.store.deliveries(Filter::default()).await.expect("deliveries");
        deliveries.reverse();
        let known = self.plain.deliveries.iter().enumerate().filter(|(_, d)| !d.gone).map(|(at, _)| at);
        self.deliveries.resize(self.plain.deliveries.len(), 0);
        for (at, row) in known.zip(&deliveries) {
            self.deliveries[at] = row.id.parse().expect("an id");
        }
        for row in deliveries {
            let due = row.due_at.map(|due| due.micros() - T0);
            let (source, key, sink, status) = (row.source, row.key, row.sink, row.status);
            lines.push(format!("{source}/{key} to {sink}: {status} {} tries, due {due:?}", row.attempts));
        }
        let mut receipts = self.store.receipts(Filter::default()).await.expect("receipts");
        receipts.reverse();
        let known = self.plain.receipts.iter().enumerate().filter(|(_, r)| !r.gone).map(|(at, _)| at);
        self.receipts.resize(self.plain.receipts.len(), 0);
        for (at, row) in known.zip(&receipts) {
            self.receipts[at] = row.id.parse().expect("an id");
        }
        lines.extend(
            receipts.iter().map(|row| format!("receipt {} {} of {}", row.source, row.status, row.executions.len())),
        );
        lines
    }

    /// The same, as the model has it.
    fn expected(&self) -> Vec<String> {
        let (mut lines, plain) = (Vec::new(), &self.plain);
        for (at, e) in plain.executions.iter().enumerate().filter(|(_, e)| !e.gone) {
            let tasks: Vec<_> = e.tasks.iter().map(|(key, status)| format!("{key}={status}")).collect();
            let others = plain.links.iter().filter_map(|Tie { of: a, with: b, .. }| match (*a == at, *b == at) {
                (true, _) => Some(*b),
                (_, true) => Some(*a),
                _ => None,
            });
            let mut links: Vec<_> = others.map(|other| plain.executions[other].key.clone()).collect();
            links.sort();
            let subject = e.subject.as_deref().unwrap_or("null");
            let name = format!("{}/{}", e.source, e.key);
            lines.push(format!("{name} {} about {subject} [{}] linked {links:?}", e.status, tasks.join(" ")));
            for (number, change) in e.changes.iter().enumerate() {
                let previous = change.previous.map_or("null".to_owned(), |status| status.to_string());
                let kind = if change.previous == Some(change.status) { "updated" } else { change.status.as_str() };
                lines.push(format!(
                    "  {}: {previous} -> {} [{}] callbackd.execution.{kind}",
                    number + 1,
                    change.status,
                    change.tasks.join(" ")
                ));
            }
        }
        for d in plain.deliveries.iter().filter(|d| !d.gone) {
            let e = &plain.executions[d.execution];
            let standing = match d.standing {
                Standing::Leased(_) => "leased".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            };
            let due = d.due.map(|due| due - T0);
            lines.push(format!("{}/{} to {}: {standing} {} tries, due {due:?}", e.source, e.key, d.sink, d.attempts));
        }
        for receipt in plain.receipts.iter().filter(|receipt| !receipt.gone) {
            let outcome = format!("{:?}", receipt.outcome).to_lowercase();
            lines.push(format!("receipt {} {outcome} of {}", receipt.source, receipt.executions.len()));
        }
        lines
    }
}

/// A text as it is, and null as `null`.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value, part: impl Fn(&Value) -> String) -> String {
    let parts: Vec<_> = value.as_array().into_iter().flatten().map(part).collect();
    format!("[{}]", parts.join(" "))
}

async fn history(steps: &[Step]) {
    let mut pair = Pair::new();
    for (number, step) in steps.iter().enumerate() {
        pair.happens(step).await;
        let (shown, expected) = (pair.shown().await, pair.expected());
        assert!(
            shown == expected,
            "after step {number}, {step:?}, the store shows\n{}\nand the model has\n{}",
            shown.join("\n"),
            expected.join("\n")
        );
    }
    pair.store.close().await;
}

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn cases() -> u32 {
    let written = std::env::var("CALLBACKD_TEST_MODEL_CASES").ok();
    written.map_or(CASES, |text| text.parse().expect("a number of histories"))
}

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn seed() -> u64 {
    let written = std::env::var("PROPTEST_RNG_SEED").ok();
    written.map_or_else(|| fastrand::u64(..), |text| text.parse().expect("a seed"))
}

#[test]
fn whatever_happens_the_store_and_the_model_come_to_the_same() {
    let runtime = Runtime::new().expect("a runtime");
    let seed = seed();
    eprintln!("PROPTEST_RNG_SEED={seed}");
    let kept = FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/model/regressions.txt"));
    let config = ProptestConfig {
        cases: cases(),
        failure_persistence: Some(Box::new(kept)),
        source_file: Some(file!()),
        rng_seed: proptest::test_runner::RngSeed::Fixed(seed),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let steps = prop::collection::vec(step(), 1..STEPS);
    let run = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(history(&steps));
        Ok(())
    });
    if let Err(e) = run {
        panic!("{e}");
    }
}
