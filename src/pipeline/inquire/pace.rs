//! When vendors are asked, and when once more.

use std::time::Duration;

use crate::model::{Next, RetryPolicy, Time};

/// How vendors are asked. Not configurable: what follows from an answer is the same however it is paced.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Questions under way at one time.
    pub concurrency: usize,
    /// One question may take this long.
    pub timeout: Duration,
    /// And no further one is put about the same claimed inquiry after this.
    pub patience: Duration,
    /// When a question that got no answer is put again.
    pub unanswered: RetryPolicy,
    /// When one is put again whose answer did not confirm a callback yet; given up, the callback is refused.
    pub unconfirmed: RetryPolicy,
    /// When one is put again of an execution that is overdue and goes on; given up, only a callback can end it.
    pub going_on: RetryPolicy,
    /// So many questions without an answer, and what is late is overdue without one.
    pub grace: u32,
    /// So many questions in a row without an answer stop all but one at a time.
    pub breaker_failures: u32,
    /// How often that one is put.
    pub breaker_probe: Duration,
    /// And how long after the credential was refused.
    pub refused_probe: Duration,
}

const FOREVER_MS: u64 = i64::MAX as u64;

impl Default for Pace {
    fn default() -> Pace {
        let policy = |first_ms, longest_ms, attempts_max| RetryPolicy {
            first_ms,
            longest_ms,
            age_max_ms: FOREVER_MS,
            attempts_max,
        };
        Pace {
            concurrency: 4,
            timeout: Duration::from_secs(30),
            patience: Duration::from_secs(60),
            unanswered: policy(2000, 60_000, u32::MAX),
            // 10, 20, 40, 80 and 160 s between six questions.
            unconfirmed: policy(10_000, 160_000, 6),
            // From ten minutes to six hours, for about ten days.
            going_on: policy(600_000, 21_600_000, 45),
            // Two seconds to half a minute between them: about one in all.
            grace: 6,
            breaker_failures: 5,
            breaker_probe: Duration::from_secs(5),
            refused_probe: Duration::from_secs(300),
        }
    }
}

/// When a question that got no answer is put again.
pub(super) fn again(
    policy: &RetryPolicy,
    failures: u32,
    after_ms: Option<u64>,
    now: Time,
    spread: f64,
) -> Option<Time> {
    match policy.next(failures.saturating_add(1), now, now, after_ms, spread) {
        Next::At(due_at) => Some(due_at),
        Next::Dead(_) => None,
    }
}

/// Vendors are not asked by many at the same moment.
pub(super) fn spread() -> f64 {
    0.5 + fastrand::f64() / 2.0
}
