//! When a failed delivery is tried again, and when it is given up.

use super::Time;

/// How long and how often a sink is tried. Each sink has its own.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// The first retry comes after at most this long, in milliseconds; each further one after at most twice as long.
    pub first_ms: u64,
    /// No two tries are further apart than this, in milliseconds.
    pub longest_ms: u64,
    /// Given up when the promise is older than this, in milliseconds.
    pub age_max_ms: u64,
    /// Given up after this many attempts.
    pub attempts_max: u32,
}

/// What follows a failed try.
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    /// Another try at this time.
    At(Time),
    /// A dead letter, and why.
    Dead(String),
}

impl RetryPolicy {
    /// Judges a delivery of which `attempts` tries failed, the last just now. `after_ms` is what the peer asked for;
    /// it is honoured up to `longest_ms`, so that no peer can park a delivery for ever. `jitter` is in `0.0..=1.0`:
    /// the delay is drawn from the whole of zero to the limit (full jitter), which spreads what failed together.
    pub fn next(&self, attempts: u32, created_at: Time, now: Time, after_ms: Option<u64>, jitter: f64) -> Next {
        if attempts >= self.attempts_max {
            return Next::Dead(format!("gave up after {attempts} attempts"));
        }
        let doublings = attempts.saturating_sub(1).min(63);
        let limit = self.first_ms.saturating_mul(1u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(self.longest_ms);
        let drawn = (limit as f64 * jitter.clamp(0.0, 1.0)) as u64;
        let delay = after_ms.map_or(drawn, |asked| asked.min(self.longest_ms).max(drawn));
        let at = now.plus_ms(delay);
        if at > created_at.plus_ms(self.age_max_ms) {
            return Next::Dead(format!("gave up after {attempts} attempts in {} s", now.ms_since(created_at) / 1000));
        }
        Next::At(at)
    }
}

impl Default for RetryPolicy {
    /// The first after at most 1 s, doubling, at most 5 min apart, for 3 days.
    fn default() -> RetryPolicy {
        RetryPolicy { first_ms: 1000, longest_ms: 300_000, age_max_ms: 3 * 86_400_000, attempts_max: 10_000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_then_gives_up() {
        let policy = RetryPolicy::default();
        let t0 = Time::from_seconds(1_700_000_000);
        let delay = |attempts, after_ms, jitter| match policy.next(attempts, t0, t0, after_ms, jitter) {
            Next::At(at) => at.ms_since(t0),
            Next::Dead(reason) => panic!("{reason}"),
        };
        assert_eq!(delay(1, None, 1.0), 1000);
        assert_eq!(delay(2, None, 1.0), 2000);
        assert_eq!(delay(4, None, 0.5), 4000);
        assert_eq!(delay(9, None, 1.0), 256_000);
        assert_eq!(delay(10, None, 1.0), 300_000);
        assert_eq!(delay(9_999, None, 1.0), 300_000);
        assert_eq!(delay(3, None, 0.0), 0);
        assert_eq!(delay(1, Some(30_000), 0.3), 30_000);
        assert_eq!(delay(1, Some(u64::MAX), 0.3), 300_000, "a peer's wish is clamped");
        assert_eq!(delay(8, Some(1), 1.0), 128_000, "a peer's wish never shortens ours");

        let late = t0.plus_ms(policy.age_max_ms);
        assert!(matches!(policy.next(5, t0, late, None, 1.0), Next::Dead(r) if r.contains("259200 s")));
        assert!(matches!(policy.next(10_000, t0, t0, None, 0.0), Next::Dead(r) if r.contains("10000 attempts")));
    }
}
