//! One instant: microseconds since the Unix epoch, always UTC, written as RFC 3339.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in microseconds since the Unix epoch. Small and `Copy`, because every row carries several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(i64);

impl Time {
    /// The instant `us` microseconds after the epoch.
    pub const fn from_micros(us: i64) -> Time {
        Time(us)
    }

    /// The instant `seconds` after the epoch; out of range saturates.
    pub const fn from_seconds(seconds: i64) -> Time {
        Time(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This instant and `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Time {
        let us = (ms as i64).saturating_mul(1000);
        Time(self.0.saturating_add(us))
    }

    /// How long after `earlier` this is, in milliseconds; zero when it is before.
    pub const fn ms_since(self, earlier: Time) -> u64 {
        let us = self.0.saturating_sub(earlier.0);
        if us < 0 { 0 } else { us as u64 / 1000 }
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Time> {
        let at: jiff::Timestamp = text.parse().ok()?;
        Some(Time(at.as_microsecond()))
    }
}

/// RFC 3339 in UTC, with as many digits of a second as it has (none, three or six).
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(at) = jiff::Timestamp::from_microsecond(self.0) else {
            return write!(f, "{}us", self.0);
        };
        let t = jiff::tz::Offset::UTC.to_datetime(at);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            t.year(),
            t.month(),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        )?;
        let us = self.0.rem_euclid(1_000_000);
        if us != 0 {
            if us % 1000 == 0 { write!(f, ".{:03}", us / 1000)? } else { write!(f, ".{us:06}")? }
        }
        f.write_str("Z")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Time::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_rfc_3339_and_read_back() {
        for (us, text) in [
            (1_606_791_641_000_000, "2020-12-01T03:00:41Z"),
            (1_670_417_632_916_000, "2022-12-07T12:53:52.916Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
        ] {
            assert_eq!(Time::from_micros(us).to_string(), text);
            assert_eq!(Time::parse(text), Some(Time::from_micros(us)));
        }
        assert_eq!(Time::parse("2020-12-01 11:00:41+0800x"), None);
    }
}
