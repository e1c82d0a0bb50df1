//! The circuit breaker of one sink: pure, so that its rule is a table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::measure::Open;
use crate::model::Time;
use crate::store;

/// Opens after so many failures in a row; then one delivery at a time probes the peer, at most `probe` apart, until
/// one is answered. A wait that the peer asked for is respected.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    probe: Duration,
    failures: u32,
    opened_at: Time,
    probe_at: Time,
    is_halted: bool,
    /// Others who share the store have a say in it.
    is_shared: bool,
}

/// A breaker beyond the life of who goes by it: a new forwarder of the same sink begins where the last one was.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<Mutex<Option<Breaker>>>);

impl Kept {
    /// As it was left, or closed.
    pub(super) fn breaker(&self, failures_max: u32, probe: Duration) -> Breaker {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.unwrap_or_else(|| Breaker::new(failures_max, probe))
    }

    pub(super) fn keep(&self, breaker: &Breaker) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(breaker.clone());
    }
}

impl Breaker {
    pub(super) fn new(failures_max: u32, probe: Duration) -> Breaker {
        let (opened_at, probe_at) = (Time::default(), Time::default());
        Breaker {
            failures_max: failures_max.max(1),
            probe,
            failures: 0,
            opened_at,
            probe_at,
            is_halted: false,
            is_shared: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.failures >= self.failures_max
    }

    /// For who looks at it.
    pub(super) fn open(&self) -> Option<Open> {
        self.is_open().then_some(Open { since: self.opened_at, probe_at: self.probe_at })
    }

    /// `None` when all may go; otherwise whether a probe may.
    pub(super) fn allows(&self, now: Time, nothing_under_way: bool) -> Option<bool> {
        self.is_open().then(|| nothing_under_way && now >= self.probe_at)
    }

    /// How long until a probe may go; `None` when it is not time that one waits for: nothing is stopped, one may go now,
    /// or one is under way, whose end tells.
    pub(super) fn pause(&self, now: Time, nothing_under_way: bool) -> Option<Duration> {
        let waits = self.is_open() && nothing_under_way && now < self.probe_at;
        waits.then(|| Duration::from_millis(self.probe_at.ms_since(now).max(1)))
    }

    /// Whether this failure opened it. `jitter` in `0.0..=1.0` spreads the probes of many daemons.
    pub(super) fn failed(&mut self, now: Time, after_ms: Option<u64>, jitter: f64) -> bool {
        let was_open = self.is_open();
        self.failures = self.failures.saturating_add(1);
        let probe_ms = self.probe.as_millis() as f64 * (0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let probe_at = now.plus_ms(after_ms.unwrap_or(0).max(probe_ms as u64));
        // A peer that asked for patience is not probed earlier because another try, under way then, failed without a word.
        self.probe_at = if was_open { self.probe_at.max(probe_at) } else { probe_at };
        let opens = self.is_open() && !was_open;
        if opens {
            self.opened_at = now;
        }
        opens
    }

    /// The peer refuses us: open, and probed no earlier than after `pause`. Whether that is news.
    pub(super) fn halted(&mut self, now: Time, pause: Duration) -> bool {
        self.failures = self.failures_max;
        self.probe_at = self.probe_at.max(now.plus_ms(pause.as_millis() as u64));
        !std::mem::replace(&mut self.is_halted, true)
    }

    /// The clock was set back by so much.
    pub(super) fn set_back(&mut self, by_ms: u64) {
        let by_us = i64::try_from(by_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        self.probe_at = Time::from_micros(self.probe_at.micros().saturating_sub(by_us));
    }

    /// Goes by what others say who share the store: whether that opened it, or closed it.
    pub(super) fn heard(&mut self, said: store::Breaker, now: Time) -> Option<bool> {
        self.is_shared |= said != store::Breaker::Own;
        let was_open = self.is_open();
        match said {
            store::Breaker::Own => None,
            store::Breaker::Closed => self.answered().then_some(false),
            store::Breaker::Open(open) => {
                self.failures = self.failures.max(self.failures_max);
                self.opened_at = open.since;
                // Whoever probes may be gone by then: so it is looked again, as often as it would be probed.
                self.probe_at = open.probe_at.min(now.plus_ms(self.probe.as_millis() as u64));
                (!was_open).then_some(true)
            }
        }
    }

    /// Others have said something: what it is tells the store, which is asked for a probe at once.
    pub(super) fn asks_now(&mut self, now: Time) {
        if self.is_shared {
            self.probe_at = self.probe_at.min(now);
        }
    }

    /// Whether this answer closed it.
    pub(super) fn answered(&mut self) -> bool {
        let was_open = self.is_open();
        self.failures = 0;
        self.is_halted = false;
        was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_probes_and_closes() {
        let mut breaker = Breaker::new(3, Duration::from_secs(5));
        let t0 = Time::from_seconds(1_700_000_000);
        assert!(!breaker.failed(t0, None, 1.0) && !breaker.failed(t0, None, 1.0));
        assert!(!breaker.answered());
        assert_eq!(breaker.allows(t0, true), None);
        assert!(!breaker.failed(t0, None, 1.0) && !breaker.failed(t0, None, 1.0) && breaker.failed(t0, None, 1.0));
        assert_eq!(breaker.open(), Some(Open { since: t0, probe_at: t0.plus_ms(5000) }));
        assert_eq!(breaker.allows(t0, true), Some(false));
        assert_eq!(breaker.pause(t0, true), Some(Duration::from_secs(5)));
        assert_eq!(breaker.pause(t0, false), None, "a probe is under way");
        assert_eq!(
            breaker.pause(t0.plus_ms(5000), true),
            None,
            "a probe may go, and there may be nothing to probe with"
        );
        assert_eq!(breaker.allows(t0.plus_ms(5000), true), Some(true));
        assert_eq!(breaker.allows(t0.plus_ms(5000), false), Some(false), "one at a time");
        assert!(!breaker.failed(t0.plus_ms(5000), Some(60_000), 0.0), "open already");
        assert_eq!(breaker.allows(t0.plus_ms(60_000), true), Some(false), "the peer asked for a minute");
        assert_eq!(breaker.allows(t0.plus_ms(65_000), true), Some(true));
        assert!(breaker.answered());
        assert_eq!(breaker.allows(t0.plus_ms(65_000), true), None);
        let minute = Duration::from_secs(60);
        assert!(breaker.halted(t0, minute) && !breaker.halted(t0, minute), "news once");
        assert_eq!(breaker.allows(t0.plus_ms(59_000), true), Some(false));
        assert!(!breaker.failed(t0.plus_ms(60_000), None, 1.0) && breaker.answered() && breaker.halted(t0, minute));
    }

    #[test]
    fn what_others_say_opens_and_closes_it() {
        let mut breaker = Breaker::new(3, Duration::from_secs(5));
        let t0 = Time::from_seconds(1_700_000_000);
        assert_eq!(breaker.heard(store::Breaker::Own, t0), None);
        assert_eq!(breaker.heard(store::Breaker::Closed, t0), None, "as it is");
        let open = |ms| store::Breaker::Open(Open { since: t0, probe_at: t0.plus_ms(ms) });
        assert_eq!(breaker.heard(open(2000), t0), Some(true));
        assert_eq!(breaker.open(), Some(Open { since: t0, probe_at: t0.plus_ms(2000) }));
        assert_eq!(breaker.heard(open(90_000), t0), None, "not news");
        assert_eq!(breaker.allows(t0.plus_ms(4999), true), Some(false), "another one probes");
        assert_eq!(breaker.allows(t0.plus_ms(5000), true), Some(true), "who may be gone");
        breaker.asks_now(t0.plus_ms(1000));
        assert_eq!(breaker.allows(t0.plus_ms(1000), true), Some(true));
        assert_eq!(breaker.heard(store::Breaker::Closed, t0), Some(false));
        assert_eq!(breaker.allows(t0, true), None);
    }
}
