//! How an adapter's options reach it: one table of the configuration, and what is wrong with it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::model::Time;
use crate::outbound::Settings;
use crate::secret::Resolver;

/// One thing that is wrong with the configuration, said so that it can be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, dotted: `sinks.portal.url`, `routes[1].when`.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub message: String,
    /// The line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// The environment variable that says it, where it is not the file.
    pub variable: Option<String>,
}

impl Fault {
    /// A fault of the key; its place is looked up later.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault { key: key.into(), message: message.into(), line: None, variable: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// One adapter's table of the merged configuration, without the keys that all adapters share.
#[derive(Clone, PartialEq)]
pub struct Section {
    /// Its dotted key: `sinks.portal`.
    pub key: String,
    /// What stands in it.
    pub table: ::config::Value,
}

impl Section {
    /// Reads the options, lenient about numbers written as text (an environment variable is text).
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<Fault>> {
        self.table.clone().try_deserialize().map_err(|e| vec![Fault::new(self.key.clone(), e.to_string())])
    }

    /// A fault of one of this section's keys.
    pub fn fault(&self, key: &str, message: impl Into<String>) -> Fault {
        Fault::new(format!("{}.{key}", self.key), message)
    }
}

/// Builds something from a section, and keeps every fault on the way: all are said at once.
pub struct Faults<'a> {
    section: &'a Section,
    found: Vec<Fault>,
}

impl<'a> Faults<'a> {
    /// None yet.
    pub fn of(section: &'a Section) -> Faults<'a> {
        Faults { section, found: Vec::new() }
    }

    /// What was read of the section's `key`; its fault is kept.
    pub fn keep<T>(&mut self, key: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.add(key, message)).ok()
    }

    /// One that is found otherwise.
    pub fn add(&mut self, key: &str, message: impl Into<String>) {
        self.found.push(self.section.fault(key, message));
    }

    /// What was built, if nothing is wrong. `None` comes of a kept fault.
    pub fn finish<T>(self, built: Option<T>) -> Result<T, Vec<Fault>> {
        match built {
            Some(built) if self.found.is_empty() => Ok(built),
            _ => Err(self.found),
        }
    }
}

/// Deserializes a TOML table as an adapter's options and throws the result away: finds unknown keys and wrong types
/// where their place in the file is still known. Write it as `options::examine::<Options>`.
pub type Examine = fn(toml::de::ValueDeserializer<'_>) -> Result<(), toml::de::Error>;

/// The [`Examine`] of a type.
pub fn examine<T: DeserializeOwned>(table: toml::de::ValueDeserializer<'_>) -> Result<(), toml::de::Error> {
    T::deserialize(table).map(drop)
}

/// Describes an adapter's options as JSON Schema. Write it as `options::schema::<Options>`.
#[cfg(test)]
pub type SchemaOf = fn(&mut schemars::SchemaGenerator) -> schemars::Schema;

/// The [`SchemaOf`] of a type.
#[cfg(test)]
pub fn schema<T: schemars::JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    T::json_schema(generator)
}

/// Builds an adapter from its options, or says everything that is wrong with them.
pub type Build<T> = fn(&Section, &BuildContext<'_>) -> Result<Box<T>, Vec<Fault>>;

/// What an adapter is built with beside its own options.
pub struct BuildContext<'a> {
    /// Its configured name.
    pub name: &'a str,
    /// This callbackd's name, as it stands in CloudEvents' `source`.
    pub instance: &'a str,
    /// Finds secrets.
    pub secrets: &'a Resolver<'a>,
    /// Name and kind of every configured source.
    pub sources: &'a [(String, String)],
    /// What every HTTP client begins with: the proxies that `[outbound]` and the environment name.
    pub outbound: &'a Settings,
}

/// A text with a form of its own. Where something else stands, what is expected is said.
struct Written<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> serde::de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

/// A span of time as the configuration writes it: `"500ms"`, `"30s"`, `"5m"`, `"2h"`, `"90d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn seconds(s: u64) -> Span {
        Span(Duration::from_secs(s))
    }

    /// In milliseconds.
    pub fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads it.
    pub fn parse(text: &str) -> Result<Span, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let ms_per = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        match number.parse::<u64>().ok().and_then(|n| n.checked_mul(ms_per)) {
            Some(ms) if ms_per > 0 => Ok(Span(Duration::from_millis(ms))),
            _ => Err(format!("{text:?} is no span of time; write a whole number and ms, s, m, h or d, like \"30s\"")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.ms();
        for (unit, per) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
            if ms >= per && ms.is_multiple_of(per) {
                return write!(f, "{}{unit}", ms / per);
            }
        }
        write!(f, "{ms}ms")
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Span, D::Error> {
        d.deserialize_str(Written { expected: "a time in quotes, like \"30s\"", parse: Span::parse })
    }
}

/// How much of a disk, as the configuration writes it: `"500MiB"`, `"20GiB"`, or a share of its file system, `"80%"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system.
    Percent(u8),
}

const SIZES: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Size {
    /// In bytes, on a file system of so many.
    pub fn of(self, disk: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            Size::Percent(percent) => disk / 100 * u64::from(percent),
        }
    }

    /// Reads it.
    pub fn parse(text: &str) -> Result<Size, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let bits = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, bits)| *bits);
        let read = match number.parse::<u64>().ok() {
            Some(percent @ 1..=100) if unit == "%" => Some(Size::Percent(percent as u8)),
            Some(n @ 1..) => bits.and_then(|bits| n.checked_mul(1 << bits)).map(Size::Bytes),
            _ => None,
        };
        read.ok_or_else(|| {
            format!(
                "{text:?} is no size; write a whole number and KiB, MiB, GiB or TiB, like \"20GiB\", or a share of the file \
                 system, \"1%\" to \"100%\""
            )
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Size::Percent(percent) => return write!(f, "{percent}%"),
            Size::Bytes(bytes) => *bytes,
        };
        let unit = SIZES.iter().find(|(_, bits)| bytes.is_multiple_of(1 << bits));
        let (name, bits) = unit.copied().unwrap_or(("", 0));
        write!(f, "{}{name}", bytes >> bits)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Size, D::Error> {
        d.deserialize_str(Written { expected: "a size in quotes, like \"20GiB\" or \"80%\"", parse: Size::parse })
    }
}

/// The beginning of what is asked for: `"2h"` ago, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long before now.
    Ago(Span),
    /// This instant.
    At(Time),
}

impl Since {
    /// The instant that it means, seen from `now`.
    pub fn at(self, now: Time) -> Time {
        match self {
            Since::Ago(span) => {
                let us = i64::try_from(span.ms()).unwrap_or(i64::MAX).saturating_mul(1000);
                Time::from_micros(now.micros().saturating_sub(us).max(0))
            }
            Since::At(time) => time,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        match Time::parse(text) {
            Some(time) => Ok(Since::At(time)),
            None => Span::parse(text).map(Since::Ago).map_err(|_| {
                "write a whole number and s, m, h or d, like \"2h\", or a time like \"2026-11-21T10:00:00Z\"".to_owned()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for text in ["64KiB", "500MiB", "20GiB", "3TiB", "1%", "80%", "100%"] {
            assert_eq!(Size::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Size::parse("2048MiB").expect("2048MiB").to_string(), "2GiB");
        assert_eq!((Size::Bytes(7).of(1000), Size::Percent(80).of(1000)), (7, 800));
        for bad in ["", "5", "GiB", "1.5GiB", "-1GiB", "0GiB", "20GB", "20 GiB", "20gib", "0%", "101%", "99999999TiB"] {
            Size::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn spans_are_read_and_written() {
        for text in ["500ms", "30s", "5m", "2h", "90d", "0ms"] {
            assert_eq!(Span::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Span::parse("120s").expect("120s").to_string(), "2m");
        for bad in ["", "5", "s", "1.5h", "-1s", "5 m", "99999999999999999999d", "18446744073709551615d"] {
            Span::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn since_is_a_span_or_a_time() {
        let now = Time::from_seconds(1_700_000_000);
        let at = |text: &str| text.parse::<Since>().map(|s| s.at(now));
        assert_eq!(at("2h"), Ok(Time::from_seconds(1_700_000_000 - 7_200)));
        assert_eq!(at("90d"), Ok(Time::from_seconds(1_700_000_000 - 90 * 86_400)));
        assert_eq!(at("2023-11-14T22:00:00Z"), Ok(Time::from_seconds(1_699_999_200)));
        assert_eq!(at("2023-11-14T23:00:00+01:00"), Ok(Time::from_seconds(1_699_999_200)));
        assert_eq!(at("200000000000d"), Ok(Time::from_seconds(0)), "before all time is all time");
        for bad in ["", "2", "2 h", "yesterday", "-1h"] {
            assert!(at(bad).expect_err(bad).contains("2h"), "{bad}");
        }
    }
}
