//! The server's clock, as it is known here: by it leases end, and waits are over, for all who share the database.
//!
//! From one look at it to the next it is carried on by a clock that nobody sets: so a wall clock that is set here changes
//! nothing of it. Times of this machine are translated by how far the two are apart at this very moment.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::clock;
use crate::model::Time;

/// Clocks that are less apart count as the same, in microseconds: leases have more than that to spare.
const APART_US: u64 = 1_000_000;

/// By how much the server's clock is ahead of this machine's, in microseconds; 0 where they are all but the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Apart(i64);

impl Apart {
    /// The same instant by the server's clock.
    pub(super) fn of_server(self, time: Time) -> Time {
        Time::from_micros(time.micros().saturating_add(self.0))
    }

    /// The other way round.
    pub(super) fn of_here(self, time: Time) -> Time {
        Time::from_micros(time.micros().saturating_sub(self.0))
    }
}

/// What is known of both.
#[derive(Default)]
pub(super) struct Clocks(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// What the server's clock said, in microseconds, and when that was.
    server: Option<(i64, Instant)>,
    apart: Apart,
}

impl Clocks {
    /// The server's clock said `there`, at some time since `before`.
    pub(super) fn look(&self, there: i64, before: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).look(there, before, clock::steady());
    }

    /// How far the two are apart now.
    pub(super) fn apart(&self) -> Apart {
        let (wall, steady) = (clock::now(), clock::steady());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).apart(wall, steady)
    }
}

fn us(from: Instant, to: Instant) -> i64 {
    i64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(i64::MAX)
}

impl Known {
    fn look(&mut self, there: i64, before: Instant, after: Instant) {
        let most = there.saturating_add(us(before, after));
        // What is known stays as long as it can be true: an answer that took long says little.
        let now = match self.server {
            Some((said, at)) => said.saturating_add(us(at, after)).clamp(there, most),
            None => there.midpoint(most),
        };
        self.server = Some((now, after));
    }

    fn apart(&mut self, wall: Time, steady: Instant) -> Apart {
        let Some((said, at)) = self.server else { return self.apart };
        let ahead = said.saturating_add(us(at, steady)).saturating_sub(wall.micros());
        // Not for a little: what is due now here is due now.
        if ahead.abs_diff(self.apart.0) > APART_US {
            self.apart = Apart(if ahead.unsigned_abs() > APART_US { ahead } else { 0 });
            tracing::warn!(
                clock.ahead_ms = self.apart.0 / 1000,
                "the database's clock is not this machine's; leases end by the database's"
            );
        }
        self.apart
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const T0: Time = Time::from_seconds(1_700_000_000);
    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn a_clock_that_is_set_here_changes_nothing_of_the_servers() {
        let (s0, mut known) = (Instant::now(), Known::default());
        let at = |ms| s0 + Duration::from_millis(ms);
        assert_eq!(known.apart(T0, s0), Apart(0), "nothing is known");
        known.look(T0.micros(), s0, s0);
        assert_eq!(known.apart(T0.plus_ms(900), s0), Apart(0), "all but the same");
        // Set forward by an hour, and back by two, with no look at the server in between.
        let ahead = known.apart(T0.plus_ms(HOUR_MS + 1000), at(1000));
        assert_eq!(ahead.of_server(T0.plus_ms(HOUR_MS + 1000)), T0.plus_ms(1000));
        assert_eq!(ahead.of_here(T0.plus_ms(1000)), T0.plus_ms(HOUR_MS + 1000));
        let long_ago = Time::from_micros(T0.micros() - 3_600_000_000);
        let behind = known.apart(long_ago.plus_ms(2000), at(2000));
        assert_eq!(behind.of_server(long_ago.plus_ms(2000)), T0.plus_ms(2000));
        assert_eq!(known.apart(T0.plus_ms(3000), at(3000)), Apart(0), "right again");
    }

    #[test]
    fn an_answer_that_took_long_says_little_and_a_servers_clock_that_was_set_is_followed() {
        let (s0, mut known) = (Instant::now(), Known::default());
        let at = |ms| s0 + Duration::from_millis(ms);
        let apart = |known: &mut Known, ms| known.apart(T0.plus_ms(ms), at(ms)).0 / 1000;
        known.look(T0.micros(), s0, s0);
        // Asked at once and said at once, and heard late; asked at once, and said late.
        known.look(T0.micros(), s0, at(4000));
        assert_eq!(apart(&mut known, 4000), 0);
        known.look(T0.plus_ms(9000).micros(), at(4000), at(9000));
        assert_eq!(apart(&mut known, 9000), 0);
        known.look(T0.plus_ms(HOUR_MS + 10_000).micros(), at(10_000), at(10_000));
        assert_eq!(apart(&mut known, 10_000), 3_600_000);
    }
}
