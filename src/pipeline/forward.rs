//! Forwarding: claims what is due for one sink, hands it over, settles how it went.
//!
//! Each sink has its own forwarder, so a slow or dead one delays nobody else; within it, as many deliveries as its
//! concurrency allows are under way at once, never two of one execution (the store claims only the first in line).
//! The forwarder alone retries, waits and counts: a sink does one try. It is woken by commits, registers for the
//! wake-up *before* it looks, and looks again from time to time in case one was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Wake;
use super::breaker::Breaker;
use crate::clock;
use crate::model::{Attempt, Delivery, Next, Outcome, RetryPolicy, Rules, Time, WaitFor};
use crate::shutdown::Shutdown;
use crate::sinks::{Sink, Tried};
use crate::store::{Fate, Settlement, Store, StoreError};

/// What a pause begins with that a sink asked for itself; such a pause ends with a new configuration or a restart.
pub const HALTED: &str = "halted: ";

/// How one sink is served.
#[derive(Clone, Debug)]
pub struct Service {
    /// Deliveries under way at one time.
    pub concurrency: usize,
    /// One try may take this long.
    pub timeout: Duration,
    /// When it is tried again, and when given up.
    pub retry: RetryPolicy,
    /// So many failures in a row stop all but a probe.
    pub breaker_failures: u32,
    /// A stopped sink is probed this often.
    pub breaker_probe: Duration,
}

/// Serves one sink until it is told to stop.
pub struct Forwarder {
    /// The sink's configured name.
    pub name: String,
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// How it is served.
    pub service: Service,
    /// Where deliveries are claimed and settled.
    pub store: Arc<dyn Store>,
    /// For what a sink learns.
    pub rules: Arc<Rules>,
    /// Wakes this forwarder, and others when something was learned.
    pub wake: Wake,
}

/// A wake-up may be lost only through a fault of ours; this bounds what that would cost.
const POLL: Duration = Duration::from_secs(5);
/// A store that cannot be asked is asked again after this.
const STORE_PAUSE: Duration = Duration::from_secs(1);

impl Forwarder {
    /// Runs until `stop`, then waits for the tries under way.
    pub async fn run(self: Arc<Self>, stop: Shutdown) {
        let woken = self.wake.of(&self.name);
        let mut breaker = Breaker::new(self.service.breaker_failures, self.service.breaker_probe);
        let mut under_way: JoinSet<Report> = JoinSet::new();
        while !stop.is_begun() {
            let mut wake_up = std::pin::pin!(woken.notified());
            wake_up.as_mut().enable();
            let now = clock::now();
            let free = self.service.concurrency.saturating_sub(under_way.len());
            let (limit, by) = match breaker.allows(now, under_way.is_empty()) {
                None => (free, now),
                // Whatever is due next makes the probe.
                Some(true) => (1, now.plus_ms(self.service.retry.longest_ms)),
                Some(false) => (0, now),
            };
            let mut pause = POLL;
            if limit > 0 {
                let lease_ms = self.service.timeout.as_millis() as u64 + 60_000;
                match self.store.claim(self.name.clone(), limit, lease_ms, by, now).await {
                    Ok(claim) => {
                        if let Some(due) = claim.next_due {
                            // When all places are taken, the end of a try wakes this loop, not time.
                            let full = claim.deliveries.len() >= limit;
                            pause = if full { POLL } else { POLL.min(Duration::from_millis(due.ms_since(now).max(1))) };
                        }
                        for delivery in claim.deliveries {
                            under_way.spawn(Arc::clone(&self).serve(delivery, claim.until, stop.clone()));
                        }
                    }
                    Err(e) => {
                        tracing::warn!(sink.name = %self.name, error = %e, "deliveries cannot be claimed");
                        pause = STORE_PAUSE;
                    }
                }
            }
            if let Some(until_probe) = breaker.pause(now, under_way.is_empty()) {
                pause = pause.min(until_probe);
            }
            tokio::select! {
                () = &mut wake_up => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.begun() => {}
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    self.note(&mut breaker, done).await;
                    while let Some(done) = under_way.try_join_next() {
                        self.note(&mut breaker, done).await;
                    }
                }
            }
        }
        // After a reload another one serves this sink: a wake-up that came to this one meant that one, and so does a retry
        // that this one leaves behind.
        woken.notify_one();
        while under_way.join_next().await.is_some() {
            woken.notify_one();
        }
    }

    async fn note(&self, breaker: &mut Breaker, report: Result<Report, tokio::task::JoinError>) {
        let now = clock::now();
        match report {
            Ok(Report::Failed { after_ms, reason }) => {
                if breaker.failed(now, after_ms, fastrand::f64()) {
                    tracing::warn!(sink.name = %self.name, reason, "the sink fails again and again: only probes from now on");
                }
            }
            Ok(Report::Answered) => {
                if breaker.answered() {
                    tracing::info!(sink.name = %self.name, "the sink answers again");
                    if let Err(e) = self.store.hurry(self.name.clone(), now).await {
                        tracing::warn!(sink.name = %self.name, error = %e, "retries keep their times");
                    }
                }
            }
            Ok(Report::Unclear) => {}
            Err(e) => tracing::error!(sink.name = %self.name, error = %e, "a forwarder's try ended unexpectedly"),
        }
    }

    /// One try, from the sink's answer to its settlement.
    async fn serve(self: Arc<Self>, delivery: Delivery, lease: Time, stop: Shutdown) -> Report {
        let started_at = clock::now();
        let delivery = Arc::new(delivery);
        let tried = self.attempt(&delivery, started_at).await;
        let now = clock::now();
        let (outcome, report) = match &tried.outcome {
            Outcome::Delivered { .. } => ("delivered", Report::Answered),
            Outcome::Retry { after_ms, reason, .. } => {
                let after_ms = after_ms.map(|asked| asked.min(self.service.retry.longest_ms));
                ("retry", Report::Failed { after_ms, reason: reason.clone() })
            }
            Outcome::Wait { wait_for: WaitFor::Link, .. } => ("wait", Report::Unclear),
            Outcome::Wait { wait_for: WaitFor::Peer(_), .. } => ("wait", Report::Answered),
            Outcome::Halt { .. } => ("halt", Report::Unclear),
            Outcome::Reject { .. } => ("reject", Report::Answered),
            Outcome::Discard { .. } => ("discard", Report::Unclear),
        };
        let mut taught = Vec::new();
        let (fate, reason) = match tried.outcome {
            Outcome::Delivered { note, learned } => {
                taught = learned;
                (Fate::Delivered, note)
            }
            Outcome::Retry { after_ms, reason, resume } => {
                let attempts = delivery.attempts + 1;
                let retry = &self.service.retry;
                match retry.next(attempts, delivery.created_at, now, after_ms, fastrand::f64()) {
                    Next::At(due_at) => {
                        let fate = Fate::Waiting { due_at, until_linked: None, resume, free: false };
                        (fate, Some(reason))
                    }
                    Next::Dead(why) => (Fate::Dead, Some(format!("{why}; at last: {reason}"))),
                }
            }
            Outcome::Wait { wait_for, until, resume, learned } => {
                taught = learned;
                let (until_linked, reason) = match wait_for {
                    WaitFor::Link => (Some(delivery.change.links.len()), "waits for a link".to_owned()),
                    WaitFor::Peer(reason) => (None, reason),
                };
                (Fate::Waiting { due_at: until, until_linked, resume, free: true }, Some(reason))
            }
            Outcome::Halt { reason, resume } => {
                // A try that a newer configuration has overtaken says nothing of the credential at hand.
                if !stop.is_begun() {
                    self.halt(&reason).await;
                }
                // Later, in case that the pause was not kept: nobody is to be asked again and again with a wrong word.
                let due_at = now.plus_ms(self.service.breaker_probe.as_millis() as u64);
                (Fate::Waiting { due_at, until_linked: None, resume, free: true }, Some(reason))
            }
            Outcome::Reject { reason } => (Fate::Dead, Some(reason)),
            Outcome::Discard { reason } => (Fate::Discarded, Some(reason)),
        };
        tracing::debug!(
            sink.name = %self.name, delivery.id = delivery.id, attempt.outcome = outcome,
            duration_ms = now.ms_since(started_at), reason = reason.as_deref(), "tried"
        );
        if fate == Fate::Dead {
            tracing::warn!(
                sink.name = %self.name, delivery.id = delivery.id, execution.key = delivery.change.state.execution.key.as_str(),
                reason = reason.as_deref(), "a dead letter: `callbackd deliveries retry` delivers it again"
            );
        }
        let attempt = Attempt {
            started_at,
            duration_ms: now.ms_since(started_at),
            outcome: outcome.to_owned(),
            status: tried.status,
            reason,
            answer: tried.answer,
        };
        self.settle(Settlement { delivery: delivery.id, lease, attempt, fate, learned: taught }).await;
        report
    }

    /// The sink's answer; a panic or a try without an end is a failed try like any other.
    async fn attempt(&self, delivery: &Arc<Delivery>, now: Time) -> Tried {
        let (sink, handed) = (Arc::clone(&self.sink), Arc::clone(delivery));
        let mut work = tokio::spawn(async move { sink.deliver(&handed, now).await });
        let again =
            |reason: String| Tried::from(Outcome::Retry { after_ms: None, reason, resume: delivery.resume.clone() });
        match tokio::time::timeout(self.service.timeout, &mut work).await {
            Ok(Ok(tried)) => tried,
            Ok(Err(_)) => {
                tracing::error!(sink.name = %self.name, delivery.id = delivery.id, "the sink panicked");
                again("callbackd's own fault: the sink panicked on this delivery".to_owned())
            }
            Err(_) => {
                work.abort();
                again(format!("no answer within {} s", self.service.timeout.as_secs_f64()))
            }
        }
    }

    async fn halt(&self, reason: &str) {
        tracing::error!(
            sink.name = %self.name, reason,
            "the sink is paused: mend its credential and reload, or `callbackd sinks resume {}`", self.name
        );
        if let Err(e) = self.store.pause(self.name.clone(), Some(format!("{HALTED}{reason}"))).await {
            tracing::warn!(sink.name = %self.name, error = %e, "the pause was not kept");
        }
    }

    /// Records the end of a try. While the store cannot, it is tried again until the lease is over: what was delivered
    /// should not be delivered twice only because the disk was full for a moment.
    async fn settle(&self, settlement: Settlement) {
        loop {
            let rules = Arc::clone(&self.rules);
            match self.store.settle(settlement.clone(), rules, clock::now()).await {
                Ok(wake) => return self.wake.sinks(&wake),
                Err(StoreError::Unavailable(reason)) => {
                    tracing::warn!(sink.name = %self.name, delivery.id = settlement.delivery, reason, "a try is not recorded yet");
                    if self.store.is_closed() || clock::now() >= settlement.lease {
                        return;
                    }
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Err(e) => {
                    tracing::error!(sink.name = %self.name, delivery.id = settlement.delivery, error = %e, "a try cannot be recorded");
                    return;
                }
            }
        }
    }
}

/// What a try says of the peer.
#[derive(Clone, Debug)]
enum Report {
    /// It works, whatever it thought of this delivery.
    Answered,
    /// It does not.
    Failed { after_ms: Option<u64>, reason: String },
    /// Nothing.
    Unclear,
}
