//! Days without a peer, in seconds: the forwarder's rules (breaker, retries, the store's claims) on a clock that is made up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Breaker;
use crate::model::{
    Attempt, Delivery, DeliveryStatus, ExecutionPart, Next, Receipt, RetryPolicy, Route, Rules, SinkRule, Status, Time,
    Update,
};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Fate, Filter, Parsed, Queries, Settlement, Store};

const T0: Time = Time::from_seconds(1_700_000_000);
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Executions promised over the outage, one every few minutes.
const COUNT: u64 = 600;
const CONCURRENCY: usize = 32;

struct Outage {
    store: SqliteStore,
    rules: Arc<Rules>,
    retry: RetryPolicy,
    breaker: Breaker,
    tries: usize,
    _folder: tempfile::TempDir,
}

impl Outage {
    fn new(retry: RetryPolicy) -> Outage {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("a store");
        let rules = Rules {
            routes: vec![Route { from: vec!["media".to_owned()], when: None, to: vec!["sink".to_owned()] }],
            sinks: vec![SinkRule { name: "sink".to_owned(), coalesce: false }],
            ..Rules::default()
        };
        // Probes an hour apart instead of seconds: three days of those are counted below.
        let breaker = Breaker::new(10, Duration::from_millis(HOUR_MS));
        Outage { store, rules: Arc::new(rules), retry, breaker, tries: 0, _folder: folder }
    }

    async fn promise(&self, number: u64, now: Time) {
        let execution = ExecutionPart { status: Some(Status::Failed), ..ExecutionPart::default() };
        let update = Update { key: number.to_string(), execution, ..Update::default() };
        let receipt = Receipt {
            source: "media".into(),
            received_at: now,
            peer: "192.0.2.1".to_owned(),
            headers: Vec::new(),
            body: "a body".into(),
        };
        let recorded = self.store.record(receipt, Parsed::Updates(vec![update]), Arc::clone(&self.rules));
        recorded.await.expect("recorded");
    }

    async fn claim(&self, limit: usize, by: Time, now: Time) -> Vec<(Delivery, Time)> {
        let claim = self.store.claim("sink".to_owned(), limit, 90_000, by, now).await.expect("claimed");
        claim.deliveries.into_iter().map(|delivery| (delivery, claim.until)).collect()
    }

    async fn settle(&mut self, tried: Vec<(Delivery, Time, Fate)>, now: Time) {
        self.tries += tried.len();
        let settle = |(delivery, lease, fate): (Delivery, Time, Fate)| {
            let (outcome, reason) = ("tried".to_owned(), Some("no peer".to_owned()));
            let attempt = Attempt { started_at: now, duration_ms: 1, outcome, status: None, reason, answer: None };
            Settlement { delivery: delivery.id, lease, attempt, fate, learned: Vec::new() }
        };
        let tried = tried.into_iter().map(settle).collect();
        self.store.settle_all(tried, Arc::clone(&self.rules), now).await.expect("settled");
    }

    /// Whatever may be tried now fails.
    async fn fail(&mut self, now: Time) {
        let claimed = match self.breaker.allows(now, true) {
            None => self.claim(CONCURRENCY, now, now).await,
            Some(true) => self.claim(1, now.plus_ms(self.retry.longest_ms), now).await,
            Some(false) => return,
        };
        let mut failed = Vec::new();
        for (delivery, lease) in claimed {
            self.breaker.failed(now, None, 1.0);
            let fate = match self.retry.next(delivery.attempts + 1, delivery.created_at, now, None, 1.0) {
                Next::At(due_at) => Fate::Waiting { due_at, until_linked: None, resume: None, free: false },
                Next::Dead(_) => Fate::Dead,
            };
            failed.push((delivery, lease, fate));
        }
        self.settle(failed, now).await;
    }

    /// The peer takes everything: the executions in the order in which it is told.
    async fn recover(&mut self, now: Time) -> Vec<u64> {
        assert!(self.breaker.answered());
        self.store.hurry("sink".to_owned(), now.plus_ms(self.retry.longest_ms), now).await.expect("hurried");
        let mut told = Vec::new();
        loop {
            let claimed = self.claim(256, now, now).await;
            if claimed.is_empty() {
                return told;
            }
            told.extend(claimed.iter().map(|(d, _)| d.change.state.execution.key.parse::<u64>().expect("a number")));
            let taken = claimed.into_iter().map(|(delivery, lease)| (delivery, lease, Fate::Delivered)).collect();
            self.settle(taken, now).await;
        }
    }

    async fn count(&self, status: DeliveryStatus) -> usize {
        let filter = Filter { status: vec![status.to_string()], ..Filter::default() };
        self.store.deliveries(filter).await.expect("listed").len()
    }
}

/// Three days without a peer, with a promise every few minutes.
async fn outage(age_max_ms: u64) -> (Outage, Time) {
    let mut outage = Outage::new(RetryPolicy { age_max_ms, ..RetryPolicy::default() });
    let step = 3 * DAY_MS / COUNT;
    for number in 0..COUNT {
        let now = T0.plus_ms(number * step);
        outage.promise(number, now).await;
        outage.fail(now).await;
    }
    (outage, T0.plus_ms(3 * DAY_MS))
}

#[tokio::test]
async fn after_three_days_without_a_peer_everything_is_told_oldest_first() {
    let (mut outage, end) = outage(3 * DAY_MS + HOUR_MS).await;
    // Until the breaker opens, and then a probe an hour, however much waits.
    assert!(outage.tries <= 10 + CONCURRENCY + 72, "{} tries", outage.tries);
    assert_eq!(outage.count(DeliveryStatus::Dead).await, 0);
    assert_eq!(outage.count(DeliveryStatus::Waiting).await, COUNT as usize);
    let told = outage.recover(end).await;
    assert_eq!(told.iter().collect::<HashSet<_>>().len() as u64, COUNT);
    assert_eq!(told.len() as u64, COUNT, "each once");
    // What was never tried stands in the order of its promises; what was tried has had its turn and comes after it.
    let descents = told.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(descents <= 10 + CONCURRENCY + 72, "{descents} out of order");
    assert_eq!(outage.count(DeliveryStatus::Delivered).await, COUNT as usize);
}

#[tokio::test]
async fn what_is_older_than_allowed_is_given_up_only_when_a_try_has_failed_then() {
    let (mut outage, end) = outage(DAY_MS).await;
    let dead = outage.count(DeliveryStatus::Dead).await;
    assert!((1..=2 * 24 + 1).contains(&dead), "{dead} dead: no more than there were probes after the first day");
    let told = outage.recover(end).await;
    assert_eq!(told.len() + dead, COUNT as usize, "what is too old and was not tried is told all the same");
}

#[test]
fn a_sink_that_is_down_for_three_days_is_only_probed() {
    let policy = RetryPolicy::default();
    let mut breaker = Breaker::new(10, Duration::from_secs(5));
    let (mut now, end, mut probes) = (T0, T0.plus_ms(3 * DAY_MS), 0u64);
    while now < end {
        match breaker.allows(now, true) {
            None | Some(true) => {
                probes += 1;
                breaker.failed(now, None, 0.5);
            }
            Some(false) => now = now.plus_ms(breaker.pause(now, true).expect("a time").as_millis() as u64),
        }
    }
    // One every 3.75 s on average, whatever waits: each delivery's own retries would be so many more.
    assert_eq!(probes, 10 + 3 * DAY_MS / 3750 - 1, "{probes}");
    assert_eq!(policy.next(1, T0, end, None, 0.0), Next::At(end), "at three days sharp it is tried once more");
}
