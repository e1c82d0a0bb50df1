//! The one place that reads the wall clock. Everything else takes the time as an argument.

use std::time::Instant;

use crate::model::Time;

/// The current instant.
pub fn now() -> Time {
    #[expect(clippy::disallowed_methods, reason = "this is the door through which time enters")]
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(since_epoch.as_micros() as i64)
}

/// The same instant on a clock that nobody sets, which tells nothing but how much time passed.
pub fn steady() -> Instant {
    Instant::now()
}
