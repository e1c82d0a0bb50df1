//! Forwarding: claims what is due for one sink, hands it over, settles how it went.
//!
//! Each sink has its own forwarder, so a slow or dead one delays nobody else; within it, as many deliveries as its
//! concurrency allows are under way at once, never two of one execution (the store claims only the first in line). A few
//! are claimed ahead, and what has ended is settled many at a time, so that neither waits for a commit of its own.
//! The forwarder alone retries, waits and counts: a sink does one try. It is woken by commits, registers for the
//! wake-up *before* it looks, and looks again from time to time in case one was lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::hand::{Hand, Leases};
use self::set_back::look;
use super::Wake;
use super::breaker::{Breaker, Kept};
use super::course::Course;
use crate::Boxed;
use crate::clock;
use crate::measure::{self, OfSink, Words};
use crate::model::{Attempt, Delivery, Moment, Next, Outcome, RetryPolicy, Rules, Time, WaitFor};
use crate::shutdown::Shutdown;
use crate::sinks::{Sink, Tried};
use crate::store::{Claim, Fate, Settlement, Store, StoreError, WAITS_FOR_LINK};

mod fares;
mod hand;
#[cfg(test)]
mod outage;
mod set_back;
mod settle;

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
    /// How the sink is told, in figures.
    pub measures: Arc<OfSink>,
    /// Its breaker, as the last forwarder of the same sink left it.
    pub breaker: Kept,
}

/// A wake-up may be lost only through a fault of ours; this bounds what that would cost.
const POLL: Duration = Duration::from_secs(5);
/// A store that cannot be asked is asked again after this.
const STORE_PAUSE: Duration = Duration::from_secs(1);

impl Forwarder {
    /// Runs until `stop`, then waits for the tries under way, and gives back what was not begun.
    pub async fn run(self: Arc<Self>, stop: Shutdown) {
        let (woken, held) = (self.wake.of(&self.name), self.wake.of_pauses(&self.name));
        let mut breaker = self.breaker.breaker(self.service.breaker_failures, self.service.breaker_probe);
        self.measures.set_breaker(breaker.open());
        let (mut hand, mut claiming) = (Hand::default(), None::<Claiming>);
        let (mut under_way, mut heard_of_pause) = (JoinSet::<(i64, Report)>::new(), false);
        let course = Arc::new(Mutex::new(Course::begin(clock::now(), clock::steady())));
        // While nobody ran, too.
        self.set_back(None).await;
        let (settle, ended) = mpsc::channel(settle::AT_ONCE);
        let mut settling = tokio::spawn(Arc::clone(&self).settle_what_ended(ended));
        while !stop.is_begun() {
            let mut wake_up = std::pin::pin!(woken.notified());
            // A wake-up that came before is taken by this, and by nothing after it.
            let is_woken = wake_up.as_mut().enable();
            if is_woken {
                hand.look_again();
            }
            let mut hold = std::pin::pin!(held.notified());
            let is_held = hold.as_mut().enable() || std::mem::take(&mut heard_of_pause);
            if is_held {
                // What was claimed before is not told after; whether the sink is paused now, the next claim tells.
                if let Some(claim) = claiming.take() {
                    self.take(&mut hand, &mut breaker, claim.await).await;
                }
                self.give_back(hand.let_go()).await;
                hand.look_again();
                breaker.asks_now(clock::now());
            }
            let set_back = look(&course).take_back_ms();
            if let Some(by_ms) = set_back {
                breaker.set_back(by_ms);
                hand.look_again();
                self.set_back(Some(by_ms)).await;
            }
            let moment = moment();
            let now = moment.wall;
            let allowed = breaker.allows(now, under_way.is_empty());
            let mut room = match allowed {
                None => self.service.concurrency.saturating_sub(under_way.len()),
                Some(probes) => usize::from(probes),
            };
            while room > 0
                && let Some((delivery, lease)) = hand.next(moment.plus(self.service.timeout))
            {
                let id = delivery.id;
                let try_once =
                    Arc::clone(&self).serve(delivery, lease, settle.clone(), Arc::clone(&course), stop.clone());
                under_way.spawn(async move { (id, try_once.await) });
                room -= 1;
            }
            self.give_back(hand.let_go_late()).await;
            // A stopped sink's deliveries are nobody's; whatever is due next makes the probe.
            let by = if allowed.is_some() { now.plus_ms(self.service.retry.longest_ms) } else { now };
            if allowed.is_some() {
                self.give_back(hand.let_go()).await;
            }
            let wanted = hand.wants(room, now).min(if allowed.is_some() { room } else { usize::MAX });
            if claiming.is_none() && wanted > 0 {
                hand.asked();
                claiming = Some(self.claim(wanted, by, moment));
            }
            // Never longer than until it is seen whether the clock was set.
            let due = hand.looks_at(now).map(|time| Duration::from_millis(time.ms_since(now).max(1)));
            let mut pause = due.map_or(POLL, |due| due.min(POLL));
            if let Some(until_probe) = breaker.pause(now, under_way.is_empty()) {
                pause = pause.min(until_probe);
            }
            tokio::select! {
                () = &mut wake_up, if !is_woken => hand.look_again(),
                () = &mut hold, if !is_held => heard_of_pause = true,
                ended = &mut settling => ended.expect("who settles outlives who tries"),
                () = tokio::time::sleep(pause) => {}
                () = stop.begun() => {}
                claim = answer(&mut claiming), if claiming.is_some() => {
                    claiming = None;
                    self.take(&mut hand, &mut breaker, claim).await;
                }
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    let mut done = Some(done);
                    while let Some(ended) = done {
                        match ended {
                            Ok((id, report)) => {
                                hand.ended(id);
                                self.note(&mut breaker, report).await;
                            }
                            Err(e) => {
                                hand.ended_unsaid();
                                tracing::error!(sink.name = %self.name, error = %e, "a forwarder's try ended unexpectedly");
                            }
                        }
                        if breaker.is_open() {
                            // A probe is made with something that is not due yet.
                            hand.look_again();
                        }
                        done = under_way.try_join_next();
                    }
                }
            }
        }
        if let Some(claim) = claiming {
            self.take(&mut hand, &mut breaker, claim.await).await;
        }
        self.give_back(hand.let_go()).await;
        // After a reload another one serves this sink: a wake-up that came to this one meant that one, and so does a retry
        // that this one leaves behind.
        woken.notify_one();
        held.notify_one();
        while under_way.join_next().await.is_some() {}
        drop(settle);
        if let Err(e) = settling.await {
            tracing::error!(sink.name = %self.name, error = %e, "what was tried last is tried again");
        }
        woken.notify_one();
    }

    /// A try has its time, and what follows from it a minute.
    fn lease(&self) -> Duration {
        self.service.timeout + Duration::from_secs(60)
    }

    fn claim(&self, limit: usize, by: Time, asked: Moment) -> Claiming {
        let (store, name, lease) = (Arc::clone(&self.store), self.name.clone(), self.lease());
        Box::pin(async move {
            let claim = store.claim(name, limit, lease.as_millis() as u64, by, asked.wall).await?;
            Ok((claim, asked.plus(lease)))
        })
    }

    async fn take(&self, hand: &mut Hand, breaker: &mut Breaker, claim: Result<(Claim, Moment), StoreError>) {
        let now = clock::now();
        match claim {
            Ok((claim, ends)) => {
                self.hear(breaker, claim.breaker, now);
                if claim.is_paused {
                    self.give_back(hand.let_go()).await;
                }
                hand.take(claim, ends, later(now, POLL), now);
            }
            Err(e) => {
                tracing::warn!(sink.name = %self.name, error = %e, "deliveries cannot be claimed");
                hand.rest(later(now, STORE_PAUSE));
            }
        }
    }

    /// What is claimed and will not begin soon is somebody else's, or is due again when the sink is.
    async fn give_back(&self, leases: Leases) {
        for (lease, deliveries) in leases {
            match self.store.release(deliveries, lease).await {
                // Whoever serves this sink next under a new configuration may have looked already.
                Ok(()) => self.wake.sinks(&[&self.name]),
                Err(e) => {
                    tracing::warn!(sink.name = %self.name, error = %e, "deliveries wait until their leases end");
                }
            }
        }
    }

    /// One try, from the claimed delivery to what has to be settled.
    async fn serve(
        self: Arc<Self>,
        delivery: Delivery,
        lease: Time,
        settle: mpsc::Sender<Settlement>,
        course: Arc<Mutex<Course>>,
        stop: Shutdown,
    ) -> Report {
        let started_at = clock::now();
        let delivery = Arc::new(delivery);
        let tried = self.attempt(&delivery, started_at).await;
        let now = clock::now();
        let (outcome, report) = match &tried.outcome {
            Outcome::Delivered { .. } => (measure::Tried::Delivered, Report::Answered),
            Outcome::Retry { after_ms, reason, .. } => {
                let after_ms = after_ms.map(|asked| asked.min(self.service.retry.longest_ms));
                (measure::Tried::Retry, Report::Failed { after_ms, reason: reason.clone() })
            }
            Outcome::Wait { wait_for: WaitFor::Link, .. } => (measure::Tried::Wait, Report::Unclear),
            Outcome::Wait { wait_for: WaitFor::Peer(_), .. } => (measure::Tried::Wait, Report::Answered),
            Outcome::Halt { .. } => (measure::Tried::Halt, Report::Unclear),
            Outcome::Reject { .. } => (measure::Tried::Reject, Report::Answered),
            Outcome::Discard { .. } => (measure::Tried::Discard, Report::Unclear),
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
                // Nothing grows old because the clock was set.
                let never_passed_ms = look(&course).never_passed_ms(delivery.created_at);
                let created_at = delivery.created_at.plus_ms(never_passed_ms);
                match retry.next(attempts, created_at, now, after_ms, fastrand::f64()) {
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
                    WaitFor::Link => (Some(delivery.change.links.len()), WAITS_FOR_LINK.to_owned()),
                    WaitFor::Peer(reason) => (None, reason),
                };
                (Fate::Waiting { due_at: until, until_linked, resume, free: true }, Some(reason))
            }
            Outcome::Halt { reason, resume } => {
                self.halt(&reason, stop).await;
                // Later, in case that the pause was not kept: nobody is to be asked again and again with a wrong word.
                let due_at = now.plus_ms(self.service.breaker_probe.as_millis() as u64);
                (Fate::Waiting { due_at, until_linked: None, resume, free: true }, Some(reason))
            }
            Outcome::Reject { reason } => (Fate::Dead, Some(reason)),
            Outcome::Discard { reason } => (Fate::Discarded, Some(reason)),
        };
        tracing::debug!(
            sink.name = %self.name, delivery.id = delivery.id, attempt.outcome = outcome.word(),
            duration_ms = now.ms_since(started_at), reason = reason.as_deref(), "tried"
        );
        self.measures.tried(outcome, now.ms_since(started_at), delivery.created_at, now);
        if fate == Fate::Dead {
            self.measures.dead.add();
            tracing::warn!(
                sink.name = %self.name, delivery.id = delivery.id, execution.key = delivery.change.state.execution.key.as_str(),
                reason = reason.as_deref(), "a dead letter: `callbackd deliveries retry` delivers it again"
            );
        }
        let attempt = Attempt {
            started_at,
            duration_ms: now.ms_since(started_at),
            outcome: outcome.word().to_owned(),
            status: tried.status,
            reason,
            answer: tried.answer,
        };
        // Waits when the store does. The place is free when it is sent: the next try need not wait for a commit.
        let _ = settle.send(Settlement { delivery: delivery.id, lease, attempt, fate, learned: taught }).await;
        report
    }

    /// The sink's answer; a panic or a try without an end is a failed try like any other.
    async fn attempt(&self, delivery: &Arc<Delivery>, now: Time) -> Tried {
        let (sink, handed) = (Arc::clone(&self.sink), Arc::clone(delivery));
        let mut work = tokio::spawn(async move { sink.deliver(&handed, now).await });
        let again =
            |reason: String| Tried::from(Outcome::Retry { after_ms: None, reason, resume: delivery.resume.clone() });
        match tokio::time::timeout(self.service.timeout, &mut work).await {
            Ok(Ok(tried)) => Tried { outcome: tried.outcome.legible(), ..tried },
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

    /// Pauses the sink. A try that a newer configuration has overtaken says nothing of the credential at hand.
    async fn halt(&self, reason: &str, stop: Shutdown) {
        match self.store.halt(self.name.clone(), format!("{HALTED}{reason}"), stop).await {
            Ok(true) => tracing::error!(
                sink.name = %self.name, reason,
                "the sink is paused: mend its credential and reload, or `callbackd sinks resume {}`", self.name
            ),
            Ok(false) => {}
            Err(e) => {
                tracing::error!(sink.name = %self.name, reason, error = %e, "the sink should be paused, and is not")
            }
        }
        self.wake.pauses(&self.name);
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

fn moment() -> Moment {
    Moment { wall: clock::now(), steady: clock::steady() }
}

fn later(now: Time, by: Duration) -> Time {
    now.plus_ms(by.as_millis() as u64)
}

/// A claim under way, and when its leases end for who asked for it.
type Claiming = Boxed<'static, Result<(Claim, Moment), StoreError>>;

/// What it comes to.
async fn answer(claiming: &mut Option<Claiming>) -> Result<(Claim, Moment), StoreError> {
    match claiming {
        Some(claim) => claim.await,
        None => std::future::pending().await,
    }
}
