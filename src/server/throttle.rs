//! Keeps a flood of refusals from becoming a flood of log lines.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::model::Time;

/// Lets one line a second pass, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    second: AtomicI64,
    suppressed: AtomicU64,
}

impl Throttle {
    /// Whether to say it now: then how many were not said since the last time.
    pub(crate) fn passes(&self, now: Time) -> Option<u64> {
        let second = now.seconds();
        if self.second.swap(second, Ordering::Relaxed) == second {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        } else {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_passes_and_the_rest_is_counted() {
        let throttle = Throttle::default();
        let t = Time::from_seconds(1_700_000_000);
        assert_eq!(throttle.passes(t), Some(0));
        assert_eq!(throttle.passes(t.plus_ms(10)), None);
        assert_eq!(throttle.passes(t.plus_ms(999)), None);
        assert_eq!(throttle.passes(t.plus_ms(1000)), Some(2));
        assert_eq!(throttle.passes(t.plus_ms(2000)), Some(0));
    }
}
