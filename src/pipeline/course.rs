//! The course of the wall clock, beside one that only goes forward: whether it was set, and by how much.
//!
//! What waits until a time would wait longer by as much as the clock is set back, and what is given up by its age would be
//! older by as much as it is set forward. Pure.

use std::time::Instant;

use crate::model::Time;

/// Less than this is the clock's own correction, or a slow machine.
const JUMP_MS: i64 = 2000;
/// So many jumps are remembered; a clock that jumps more often is no clock.
const JUMPS: usize = 64;

/// What is known of it.
#[derive(Debug)]
pub(super) struct Course {
    wall: Time,
    steady: Instant,
    /// By how much it was set back, and nobody has asked since.
    back_ms: u64,
    /// Where it was set forward: what it would have said, and by how much more it said.
    forward: Vec<(Time, u64)>,
}

impl Course {
    pub(super) fn begin(wall: Time, steady: Instant) -> Course {
        Course { wall, steady, back_ms: 0, forward: Vec::new() }
    }

    /// To be told both clocks now and then.
    pub(super) fn look(&mut self, wall: Time, steady: Instant) {
        let passed = steady.saturating_duration_since(self.steady).as_millis() as u64;
        let expected = self.wall.plus_ms(passed);
        let off = wall.micros().saturating_sub(expected.micros()) / 1000;
        (self.wall, self.steady) = (wall, steady);
        if off <= -JUMP_MS {
            self.back_ms += off.unsigned_abs();
        } else if off >= JUMP_MS {
            // Forward again by what it was set back: nobody is the older for it.
            if self.forward.len() == JUMPS {
                self.forward.remove(0);
            }
            self.forward.push((expected, off.unsigned_abs()));
        }
    }

    /// By how much it was set back since this was asked last.
    pub(super) fn take_back_ms(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.back_ms)).filter(|ms| *ms > 0)
    }

    /// How much of the age of what was made at `time` is only the clock's.
    pub(super) fn never_passed_ms(&self, time: Time) -> u64 {
        self.forward.iter().filter(|(at, _)| time <= *at).map(|(_, ms)| ms).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn what_was_set_is_told_from_what_passed() {
        let (t0, s0) = (Time::from_seconds(1_700_000_000), Instant::now());
        let at = |ms: u64| s0 + Duration::from_millis(ms);
        let mut course = Course::begin(t0, s0);
        course.look(t0.plus_ms(3_600_000), at(3_600_000));
        course.look(t0.plus_ms(3_601_900), at(3_600_100));
        assert_eq!(
            (course.take_back_ms(), course.never_passed_ms(t0)),
            (None, 0),
            "time passed, and a little was corrected"
        );

        let ahead = t0.plus_ms(3_601_900 + DAY_MS);
        course.look(ahead.plus_ms(1000), at(3_601_100));
        assert_eq!(course.never_passed_ms(t0), DAY_MS);
        assert_eq!(course.never_passed_ms(ahead.plus_ms(2000)), 0, "what was made since is as old as it looks");
        assert_eq!(course.take_back_ms(), None);

        course.look(t0.plus_ms(3_603_900), at(3_602_100));
        assert_eq!(course.take_back_ms(), Some(DAY_MS));
        assert_eq!(course.take_back_ms(), None, "said once");
    }
}
