//! One instant: microseconds since the Unix epoch, always UTC, written as RFC 3339.

use std::fmt;
use std::time::{Duration, Instant};

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
        Time(at.as_microsecond()).if_kept()
    }

    /// This instant, where it can be written and read again: from the year 0 on, until two days before the year 10000. A
    /// vendor's time that cannot is none: a snapshot that holds it would never be read again.
    #[must_use]
    pub const fn if_kept(self) -> Option<Time> {
        match self.seconds() {
            -62_167_219_200..=253_402_207_200 => Some(self),
            _ => None,
        }
    }
}

impl Time {
    /// Hands on the text without an allocation: by hand, because every callback writes a handful of times.
    pub(super) fn with_text<T>(self, use_text: impl FnOnce(&str) -> T) -> T {
        let seconds = self.seconds();
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let us = self.0.rem_euclid(1_000_000) as u32;
        let of_day = of_day as u32;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        // A year of four digits holds until 9999 and from year 0 on; RFC 3339 knows no others.
        let year = year.clamp(0, 9999) as u32;
        let pairs = [
            (0, year / 100),
            (2, year % 100),
            (5, month),
            (8, day),
            (11, of_day / 3600),
            (14, of_day / 60 % 60),
            (17, of_day % 60),
        ];
        for (at, pair) in pairs {
            put(&mut text, at, pair);
        }
        let end = match us {
            0 => 19,
            us if us.is_multiple_of(1000) => 23,
            _ => 26,
        };
        if us > 0 {
            for (at, pair) in [(20, us / 10_000), (22, us / 100 % 100), (24, us % 100)] {
                put(&mut text, at, pair);
            }
        }
        text[end] = b'Z';
        use_text(std::str::from_utf8(&text[..=end]).expect("digits and punctuation"))
    }
}

/// An instant by both clocks of this machine: the one that is set, and one that only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the wall clock says.
    pub wall: Time,
    /// What tells nothing but how much time passed.
    pub steady: Instant,
}

impl Moment {
    /// So much later.
    pub fn plus(self, by: Duration) -> Moment {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Moment { wall: self.wall.plus_ms(ms), steady: self.steady + by }
    }

    /// Whether it comes first by both: one that is set is not to say so alone.
    pub fn is_before(self, other: Moment) -> bool {
        self.wall < other.wall && self.steady < other.steady
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "RFC 3339, UTC.", "type": "string", "format": "date-time", "pattern": "Z$" })
    }
}

/// Writes a number below 100 as two digits.
fn put(text: &mut [u8; 27], at: usize, pair: u32) {
    text[at] = b'0' + (pair / 10) as u8;
    text[at + 1] = b'0' + (pair % 10) as u8;
}

/// Year, month and day of a day counted from 1970-01-01 in the proleptic Gregorian calendar: eras of 400 years, years
/// that begin in March, so that the leap day is the last.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// RFC 3339 in UTC, with as many digits of a second as it has (none, three or six).
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.pad(text))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| s.serialize_str(text))
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

    #[test]
    fn what_cannot_be_read_again_is_no_time() {
        let kept = ["0000-01-01T00:00:00Z", "9999-12-30T22:00:00.999999Z"];
        for text in kept {
            assert_eq!(Time::parse(text).map(|time| time.to_string()).as_deref(), Some(text));
        }
        for text in ["-000001-12-31T23:59:59Z", "-009999-01-02T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        assert_eq!(Time::from_seconds(253_402_207_201).if_kept(), None);
    }

    #[test]
    fn every_day_of_the_calendar_is_written_as_jiff_reads_it() {
        for days in (-719_000..2_932_800).step_by(7) {
            let time = Time::from_seconds(days * 86_400 + 86_399);
            let read: jiff::Timestamp = time.to_string().parse().expect("RFC 3339");
            assert_eq!(read.as_second(), time.seconds(), "{time}");
        }
    }
}
