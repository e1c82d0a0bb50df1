//! Measures: what happened, in figures, for `/metrics`, the page's plots, and whoever watches over the daemon.
//!
//! A leaf. Each part of the flow is handed the series that it feeds ([`OfSource`], [`OfSink`], [`OfStore`]) when it is
//! built; feeding is a few relaxed additions. [`Measures`] belongs to the process: a reload finds the series that there
//! are, and adds those of new sources and sinks. Labels are names out of the configuration, and words of closed sets.
//! Nothing here outlives the process: what has to is in the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use crate::model::Time;

mod cells;
mod configuration;
mod history;

use cells::words;
pub use cells::{Counter, Counters, Counts, DELAYS, Gauge, Histogram, SIZES, Spread, TIMES, Words};
pub use configuration::{Configuration, Refused};
use history::History;
pub use history::{MINUTES_MAX, Minute, Standing};

words! {
    /// How a callback was answered: kept, and as what, or refused, and why.
    Answer {
        /// News.
        Accepted = "accepted",
        /// A repeat.
        Duplicate = "duplicate",
        /// It contradicts what a finished execution said.
        Conflict = "conflict",
        /// Not understood.
        Quarantined = "quarantined",
        /// Waits until its vendor confirms it.
        Held = "held",
        /// A wrong, missing or stale credential.
        Unauthorized = "unauthorized",
        /// From an address that is not allowed.
        Forbidden = "forbidden",
        /// Over the source's rate.
        Rate = "rate",
        /// Could not be kept then.
        Unavailable = "unavailable",
        /// A method that the source does not take.
        Method = "method",
        /// A compressed body.
        Encoded = "encoded",
        /// Too large a body.
        TooLarge = "too_large",
        /// A body that did not come in time.
        Slow = "slow",
        /// A body that broke off.
        Malformed = "malformed",
        /// Nobody was there to be answered any more; it may have been kept.
        Gone = "gone",
    }
}

impl Answer {
    /// Whether it was kept: answered 2xx, or 422 where its sender wants to hear that nobody understands it.
    pub fn is_kept(self) -> bool {
        self.place() <= Answer::Held.place()
    }
}

words! {
    /// What a vendor said of a held callback.
    Confirmation {
        /// It is true.
        Confirmed = "confirmed",
        /// It is not.
        Refused = "refused",
    }
}

words! {
    /// How a try to deliver ended.
    Tried {
        /// The sink has taken it.
        Delivered = "delivered",
        /// To be tried again.
        Retry = "retry",
        /// Nothing could be sent yet.
        Wait = "wait",
        /// The peer refuses us: the sink pauses.
        Halt = "halt",
        /// The peer will never take it.
        Reject = "reject",
        /// Dropped on purpose.
        Discard = "discard",
    }
}

/// What one source's callbacks came to.
#[derive(Debug)]
pub struct OfSource {
    /// Its configured name.
    pub name: Arc<str>,
    /// How they were answered.
    pub answers: Counters<Answer>,
    /// From the whole body until it is known what became of it, in microseconds.
    pub latency: Histogram,
    /// What its vendor said of held ones.
    pub confirmations: Counters<Confirmation>,
    /// When the last one came that was kept, in microseconds since the epoch.
    pub last_at: Gauge,
}

impl OfSource {
    /// Of a source of this name, without anything yet.
    pub fn new(name: &str) -> OfSource {
        OfSource {
            name: name.into(),
            answers: Counters::default(),
            latency: Histogram::new(TIMES),
            confirmations: Counters::default(),
            last_at: Gauge::default(),
        }
    }

    /// A callback that begins to come in.
    pub fn asked(&self) -> Asked<'_> {
        Asked { of: self, answer: Answer::Gone, whole_at: None }
    }
}

/// A callback on its way: it is counted when this is dropped, also where its sender goes away.
#[derive(Debug)]
pub struct Asked<'m> {
    of: &'m OfSource,
    answer: Answer,
    whole_at: Option<(Instant, Time)>,
}

impl Asked<'_> {
    /// All of its body is here, now.
    pub fn is_whole(&mut self, at: Instant, now: Time) {
        self.whole_at = Some((at, now));
    }

    /// It is answered like this.
    pub fn is_answered(&mut self, answer: Answer) {
        self.answer = answer;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.of.answers.add(self.answer);
        if let Some((at, now)) = self.whole_at {
            self.of.latency.add_time(at.elapsed());
            if self.answer.is_kept() {
                self.of.last_at.set(now.micros());
            }
        }
    }
}

/// How one sink was told.
#[derive(Debug)]
pub struct OfSink {
    /// Its configured name.
    pub name: Arc<str>,
    /// How tries ended.
    pub tries: Counters<Tried>,
    /// How long a try took, in microseconds.
    pub duration: Histogram,
    /// From a promise until the sink has taken it, in microseconds.
    pub delay: Histogram,
    /// Deliveries that were given up.
    pub dead: Counter,
    breaker: Mutex<Option<Open>>,
    /// What the store says of it; set by who looks there.
    standing: Mutex<Standing>,
}

impl OfSink {
    /// Of a sink of this name, without anything yet.
    pub fn new(name: &str) -> OfSink {
        OfSink {
            name: name.into(),
            tries: Counters::default(),
            duration: Histogram::new(TIMES),
            delay: Histogram::new(DELAYS),
            dead: Counter::default(),
            breaker: Mutex::default(),
            standing: Mutex::default(),
        }
    }

    /// A try ended at `now`, `ms` after it began.
    pub fn tried(&self, how: Tried, ms: u64, promised_at: Time, now: Time) {
        self.tries.add(how);
        self.duration.add(ms.saturating_mul(1000));
        if how == Tried::Delivered {
            self.delay.add(now.ms_since(promised_at).saturating_mul(1000));
        }
    }

    /// Its breaker, where it is open.
    pub fn breaker(&self) -> Option<Open> {
        *locked(&self.breaker)
    }

    /// Its breaker is open now, or closed.
    pub fn set_breaker(&self, open: Option<Open>) {
        *locked(&self.breaker) = open;
    }

    /// It fails: its breaker is open, and something waits that it could be tried with. Without that nobody tries, and
    /// nobody knows whether it still does.
    pub fn is_failing(&self) -> bool {
        self.breaker().is_some() && self.standing().may_be_tried
    }

    /// What the store said of it when it was last looked at.
    pub fn standing(&self) -> Standing {
        *locked(&self.standing)
    }

    fn stands(&self, standing: Standing) {
        *locked(&self.standing) = standing;
    }
}

/// A breaker that is open: its sink fails time and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Since when.
    pub since: Time,
    /// When a delivery may probe the sink, at the earliest.
    pub probe_at: Time,
}

/// What the store does.
#[derive(Debug)]
pub struct OfStore {
    /// How long a commit took, in microseconds.
    pub commit: Histogram,
    /// How many commands a commit carried out.
    pub batch: Histogram,
    /// Commits that failed, of which nothing was kept.
    pub failed: Counter,
    /// Bytes that hold something.
    pub held_bytes: Gauge,
    /// Bytes of its file that hold nothing.
    pub free_bytes: Gauge,
    /// Bytes of its log.
    pub log_bytes: Gauge,
    /// Bytes that it could hold beside what it does.
    pub room_bytes: Gauge,
    /// Bytes of the whole file system.
    pub disk_bytes: Gauge,
    /// How many callbackds share it; no figure where none can.
    pub replicas: Gauge,
}

impl Default for OfStore {
    fn default() -> OfStore {
        OfStore {
            commit: Histogram::new(TIMES),
            batch: Histogram::new(SIZES),
            failed: Counter::default(),
            held_bytes: Gauge::default(),
            free_bytes: Gauge::default(),
            log_bytes: Gauge::default(),
            room_bytes: Gauge::default(),
            disk_bytes: Gauge::default(),
            replicas: Gauge::default(),
        }
    }
}

/// All the figures of one process.
#[derive(Debug)]
pub struct Measures {
    /// When the process began.
    pub started_at: Time,
    /// What the store does.
    pub store: Arc<OfStore>,
    /// Requests to a path that no source has.
    pub no_such_path: Counter,
    /// Spans that no collector was told, where there is a collector.
    #[cfg(feature = "otlp")]
    pub spans_lost: std::sync::OnceLock<Arc<Counter>>,
    sources: RwLock<Vec<Arc<OfSource>>>,
    sinks: RwLock<Vec<Arc<OfSink>>>,
    history: Mutex<History>,
    configuration: Mutex<Configuration>,
}

impl Measures {
    /// Of a process that began at `now`.
    pub fn new(now: Time) -> Measures {
        Measures {
            started_at: now,
            store: Arc::default(),
            no_such_path: Counter::default(),
            #[cfg(feature = "otlp")]
            spans_lost: std::sync::OnceLock::new(),
            sources: RwLock::default(),
            sinks: RwLock::default(),
            history: Mutex::new(History::new(now)),
            configuration: Mutex::new(Configuration { read_at: now, ..Configuration::default() }),
        }
    }

    /// The series of this source.
    pub fn source(&self, name: &str) -> Arc<OfSource> {
        series(&self.sources, name, |of| &of.name, || OfSource::new(name))
    }

    /// The series of this sink.
    pub fn sink(&self, name: &str) -> Arc<OfSink> {
        series(&self.sinks, name, |of| &of.name, || OfSink::new(name))
    }

    /// Every source that there is or was, in the order in which they came.
    pub fn sources(&self) -> Vec<Arc<OfSource>> {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every sink that there is or was, in the order in which they came.
    pub fn sinks(&self) -> Vec<Arc<OfSink>> {
        self.sinks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the store says of all sinks now; those that it does not name have nothing waiting.
    pub fn stand(&self, sinks: &[(&str, Standing)]) {
        let series: Vec<_> = sinks.iter().map(|(name, _)| self.sink(name)).collect();
        for of in self.sinks() {
            let named = series.iter().zip(sinks).find(|(named, _)| Arc::ptr_eq(named, &of));
            of.stands(named.map(|(_, (_, standing))| *standing).unwrap_or_default());
        }
    }

    /// Ends the running minute: to be called once a minute.
    pub fn end_minute(&self, now: Time) {
        locked(&self.history).end_minute(self, now);
    }

    /// The figures of the last 24 hours by the minute, oldest first, as far as this process has been there; at the end
    /// the running minute, as far as it has come.
    pub fn history(&self, now: Time) -> Vec<Minute> {
        locked(&self.history).minutes(self, now)
    }
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the series under this name the one that there is, or a new one.
fn series<T>(held: &RwLock<Vec<Arc<T>>>, name: &str, named: fn(&T) -> &Arc<str>, new: impl FnOnce() -> T) -> Arc<T> {
    let mut held = held.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(of) = held.iter().find(|of| **named(of) == *name) {
        return Arc::clone(of);
    }
    let of = Arc::new(new());
    held.push(Arc::clone(&of));
    of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_series_for_as_long_as_the_process_lives() {
        let measures = Measures::new(Time::default());
        measures.source("media").answers.add(Answer::Accepted);
        assert!(Arc::ptr_eq(&measures.source("media"), &measures.source("media")));
        assert_eq!(measures.source("media").answers.counts().of(Answer::Accepted), 1);
        assert_eq!(measures.source("portal").answers.counts().total(), 0);
        assert_eq!(measures.sources().len(), 2);
    }

    #[test]
    fn a_callback_is_counted_once_however_it_ends() {
        let of = OfSource::new("media");
        let now = Time::from_seconds(1_700_000_000);
        let mut kept = of.asked();
        kept.is_whole(Instant::now(), now);
        kept.is_answered(Answer::Accepted);
        drop(kept);
        of.asked().is_answered(Answer::Rate);
        drop(of.asked());
        let counts = of.answers.counts();
        assert_eq!([Answer::Accepted, Answer::Rate, Answer::Gone].map(|answer| counts.of(answer)), [1, 1, 1]);
        assert_eq!((counts.total(), of.latency.spread().count(), of.last_at.get()), (3, 1, Some(now.micros())));
    }

    #[test]
    fn words_stand_at_their_places() {
        fn stands<W: Words>() -> Vec<&'static str> {
            assert!(W::ALL.iter().enumerate().all(|(place, word)| word.place() == place));
            W::ALL.iter().map(|word| word.word()).collect()
        }
        let (answers, tried) = (stands::<Answer>(), stands::<Tried>());
        stands::<Confirmation>();
        let kept: Vec<_> = Answer::ALL.iter().filter(|answer| answer.is_kept()).map(|answer| answer.word()).collect();
        assert_eq!(kept, ["accepted", "duplicate", "conflict", "quarantined", "held"]);
        assert_eq!((answers.len(), tried.len()), (15, 6));
    }

    #[test]
    fn what_the_store_does_not_name_any_more_has_nothing_waiting() {
        let measures = Measures::new(Time::default());
        let waits = Standing { waiting: 3, ..Standing::default() };
        measures.stand(&[("portal", waits), ("gone", waits)]);
        measures.stand(&[("portal", waits)]);
        let waiting: Vec<_> = measures.sinks().iter().map(|of| (of.name.to_string(), of.standing().waiting)).collect();
        assert_eq!(waiting, [("portal".to_owned(), 3), ("gone".to_owned(), 0)]);
    }
}
