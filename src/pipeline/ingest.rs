//! Receiving: from an authentic request to a committed receipt.
//!
//! [`Ingest`] knows the configured sources by their paths. The server asks it, in this order: is there such a path
//! and method, may this address call, and, where the head shows a credential, is it within the rate; then reads the body and calls [`Ingest::take`]. From the
//! moment the body is complete nothing waits until the store has accepted it, so a sender that hangs up after its last
//! byte cannot cancel what it sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, Method, StatusCode};
use ipnet::IpNet;

use super::Wake;
use crate::measure::{Answer, OfSource};
use crate::model::{Receipt, ReceiptStatus, Rules, Time, Trace};
use crate::sources::{AuthError, RawRequest, Source};
use crate::store::{Parsed, Recorded, Store, StoreError};

/// Why a request gets no 2xx, said for the operator. `server::respond` alone turns this into a status, and says what
/// the sender may know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No source has this path.
    #[error("no source has this path")]
    NoSuchPath,
    /// The source takes only these methods.
    #[error("the source does not take this method")]
    Method(&'static [Method]),
    /// This address may not call this source.
    #[error("the address is not allowed")]
    Address,
    /// Over the source's rate.
    #[error("over the source's rate")]
    Rate,
    /// Nobody vouches for it.
    #[error(transparent)]
    Auth(AuthError),
    /// The body is compressed; bytes are verified and kept as they come, so it has to come as it is.
    #[error("the body is compressed")]
    Encoded,
    /// The body is larger than so many bytes.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the body did not come in time")]
    Slow,
    /// The request itself is malformed: a body that ends early, a bad chunk.
    #[error("{0}")]
    Malformed(String),
    /// Cannot be kept now.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// The word that it is counted under.
    pub fn counted(&self) -> Answer {
        match self {
            // No source has that path, so none counts it.
            Refusal::NoSuchPath | Refusal::Method(_) => Answer::Method,
            Refusal::Address => Answer::Forbidden,
            Refusal::Rate => Answer::Rate,
            Refusal::Auth(_) => Answer::Unauthorized,
            Refusal::Encoded => Answer::Encoded,
            Refusal::TooLarge(_) => Answer::TooLarge,
            Refusal::Slow => Answer::Slow,
            Refusal::Malformed(_) => Answer::Malformed,
            Refusal::Unavailable(_) => Answer::Unavailable,
        }
    }
}

/// A request that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The status that its sender gets.
    pub status: StatusCode,
    /// What became of it.
    pub recorded: Recorded,
}

impl Kept {
    /// The word that it is counted under.
    pub fn counted(&self) -> Answer {
        match self.recorded.outcome {
            ReceiptStatus::Accepted => Answer::Accepted,
            ReceiptStatus::Duplicate => Answer::Duplicate,
            ReceiptStatus::Conflict => Answer::Conflict,
            ReceiptStatus::Quarantined => Answer::Quarantined,
            // What is refused was held when it came.
            ReceiptStatus::Held | ReceiptStatus::Refused => Answer::Held,
        }
    }
}

/// One configured source, as the server needs it.
pub struct Intake {
    /// Its configured name.
    pub name: Arc<str>,
    /// The vendor's part.
    pub source: Box<dyn Source>,
    /// Addresses that may call; empty for all.
    pub allow: Vec<IpNet>,
    /// Its rate, if one is set.
    pub rate: Option<Rate>,
    /// Whether the vendor has to confirm a callback before it is believed.
    pub confirm: bool,
    /// What its callbacks come to.
    pub measures: Arc<OfSource>,
}

/// At most so many requests a second: a theoretical arrival time that each request moves on by one interval (GCRA).
/// A second's worth may come at once.
pub struct Rate {
    interval_us: u64,
    next_us: AtomicU64,
}

impl Rate {
    /// `per_second` requests a second.
    pub fn new(per_second: u32) -> Rate {
        Rate { interval_us: 1_000_000 / u64::from(per_second.max(1)), next_us: AtomicU64::new(0) }
    }

    /// Takes one request; false when it is over the rate.
    pub fn takes(&self, now: Time) -> bool {
        let now = now.micros().max(0) as u64;
        self.next_us
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                // So far ahead only when the clock was set back since.
                let next = if next > now + 1_000_000 + self.interval_us { now } else { next };
                (next <= now + 1_000_000 - self.interval_us.min(1_000_000)).then(|| next.max(now) + self.interval_us)
            })
            .is_ok()
    }
}

impl Intake {
    /// What a receipt is understood as, and whether it is believed at once.
    fn parse(&self, receipt: &Receipt) -> Parsed {
        match self.source.parse(receipt) {
            Ok(updates) if self.confirm => Parsed::Held(updates),
            Ok(updates) => Parsed::Updates(updates),
            Err(e) => Parsed::Quarantined(e.to_string()),
        }
    }

    /// Whether this request, still without its body, may go on to have it read.
    pub fn admits(&self, head: &RawRequest, now: Time) -> Result<(), Refusal> {
        let methods = self.source.methods();
        if !methods.contains(&head.method) {
            return Err(Refusal::Method(methods));
        }
        if !self.allow.is_empty() && !self.allow.iter().any(|net| net.contains(&head.peer)) {
            return Err(Refusal::Address);
        }
        self.source.screen(head).map_err(Refusal::Auth)?;
        if self.source.screens_strangers() { self.is_in_rate(now) } else { Ok(()) }
    }

    /// The receipt of a whole request that is admitted.
    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, Refusal> {
        let trace = trace(&raw.headers);
        let mut receipt = self.source.authenticate(raw, now).map_err(Refusal::Auth)?;
        if let Some(trace) = trace {
            let state = trace.state().map(|state| (Trace::STATE.to_owned(), state.to_owned()));
            receipt.headers.extend([(Trace::PARENT.to_owned(), trace.parent().to_owned())].into_iter().chain(state));
        }
        if !self.source.screens_strangers() {
            self.is_in_rate(now)?;
        }
        Ok(receipt)
    }

    /// Takes one request of the rate, once it is known to be no stranger's: those take nothing of it.
    fn is_in_rate(&self, now: Time) -> Result<(), Refusal> {
        match &self.rate {
            Some(rate) if !rate.takes(now) => Err(Refusal::Rate),
            _ => Ok(()),
        }
    }
}

/// The trace that a request was sent in, which is kept with its receipt whatever else of its headers matters.
pub(crate) fn trace(headers: &HeaderMap) -> Option<Trace> {
    let mut parents = headers.get_all(Trace::PARENT).iter();
    let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else { return None };
    let states: Vec<_> = headers.get_all(Trace::STATE).iter().filter_map(|state| state.to_str().ok()).collect();
    Trace::read(parent, Some(&states.join(",")))
}

/// The receiving half, as one configuration wants it. A reload makes another one.
pub struct Ingest {
    /// By their paths. They are few: comparing with each costs less than a hash.
    intakes: Vec<(String, Arc<Intake>)>,
    rules: Arc<Rules>,
    store: Arc<dyn Store>,
    wake: Wake,
}

impl Ingest {
    /// Sources by their paths, and what their callbacks go through.
    pub fn new(intakes: Vec<(String, Intake)>, rules: Arc<Rules>, store: Arc<dyn Store>, wake: Wake) -> Ingest {
        let intakes = intakes.into_iter().map(|(path, intake)| (path, Arc::new(intake))).collect();
        Ingest { intakes, rules, store, wake }
    }

    /// The source registered under `path`, and what follows its path: nothing, or one segment.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&Arc<Intake>, &'p str)> {
        let at = |path: &str| self.intakes.iter().find(|(held, _)| held == path).map(|(_, intake)| intake);
        if let Some(intake) = at(path) {
            return Some((intake, ""));
        }
        let (parent, rest) = path.rsplit_once('/')?;
        Some((at(parent).filter(|intake| intake.source.reaches_below())?, rest))
    }

    /// The source of that name.
    pub fn intake(&self, name: &str) -> Option<&Arc<Intake>> {
        self.intakes().find(|intake| &*intake.name == name)
    }

    /// Every source.
    pub fn intakes(&self) -> impl Iterator<Item = &Arc<Intake>> {
        self.intakes.iter().map(|(_, intake)| intake)
    }

    /// What the storing transaction judges by: the configured routes, links and sinks.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Keeps a complete request. Runs without a pause up to the point where the store has it in hand: what the
    /// returned future still waits for happens whether it is polled or not.
    pub fn take(
        &self,
        intake: &Intake,
        raw: RawRequest,
        now: Time,
    ) -> impl Future<Output = Result<Kept, Refusal>> + Send + use<> {
        let quarantined = intake.source.quarantined();
        let recording = intake.authenticate(raw, now).map(|receipt| {
            let parsed = intake.parse(&receipt);
            self.store.record(receipt, parsed, Arc::clone(&self.rules))
        });
        let wake = self.wake.clone();
        let holds = intake.confirm.then(|| Arc::clone(&intake.name));
        async move {
            let recorded = recording?.await.map_err(|e| Refusal::Unavailable(e.to_string()))?;
            wake.sinks(&recorded.wake);
            if let Some(source) = holds {
                wake.source(&source);
            }
            let understood = recorded.outcome != ReceiptStatus::Quarantined;
            let status = if understood { StatusCode::OK } else { quarantined };
            Ok(Kept { status, recorded })
        }
    }

    /// Reads a stored receipt again with today's sources, and records what it says now. One that is held or was refused
    /// is believed: whoever asks for it vouches for it. A quarantined one is as if it came now.
    pub async fn take_again(&self, receipt: i64, now: Time) -> Result<Recorded, StoreError> {
        let (row, body) = self.store.receipt(receipt).await?;
        let intake = self.intake(&row.source).ok_or_else(|| {
            StoreError::Refused(format!("the configuration has no source {:?}, which took this receipt", row.source))
        })?;
        let is_vouched_for = matches!(row.status, ReceiptStatus::Held | ReceiptStatus::Refused);
        let parsed = match intake.parse(&row.into_receipt(body)) {
            Parsed::Held(updates) if is_vouched_for => Parsed::Updates(updates),
            parsed => parsed,
        };
        let recorded = self.store.record_again(receipt, parsed, Arc::clone(&self.rules), now).await?;
        self.wake.sinks(&recorded.wake);
        self.wake.source(&intake.name);
        Ok(recorded)
    }

    /// Whether a callback could be kept right now.
    pub fn ready(&self) -> Result<(), StoreError> {
        self.store.ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_takes_a_seconds_worth_at_once_and_then_one_an_interval() {
        let rate = Rate::new(10);
        let t0 = Time::from_seconds(1_700_000_000);
        let taken = (0..100).filter(|_| rate.takes(t0)).count();
        assert_eq!(taken, 10);
        assert!(!rate.takes(t0.plus_ms(99)));
        assert!(rate.takes(t0.plus_ms(100)));
        assert!(!rate.takes(t0.plus_ms(100)));
        assert_eq!((0..100).filter(|_| rate.takes(t0.plus_ms(60_000))).count(), 10);
    }
}
