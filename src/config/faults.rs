//! What is wrong with a configuration, said in words that an operator can act on and without any value that could be
//! a secret: values of wrong types are named by their type alone.

use std::fmt;
use std::path::PathBuf;

use crate::options::Fault;

/// Everything that is wrong with one configuration, in the order of its lines.
#[derive(Debug)]
pub struct Faults {
    /// The file, if one was read.
    pub file: Option<PathBuf>,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl Faults {
    /// Sorts them: by line, then those of the environment.
    pub(super) fn new(file: Option<PathBuf>, mut faults: Vec<Fault>) -> Faults {
        faults.sort_by_key(|f| (f.variable.is_some(), f.line.unwrap_or(0)));
        Faults { file, faults }
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, fault) in self.faults.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            match (&fault.variable, &self.file) {
                (Some(_), _) => f.write_str("environment: ")?,
                (None, Some(file)) => match fault.line {
                    Some(line) => write!(f, "{}:{line}: ", file.display())?,
                    None => write!(f, "{}: ", file.display())?,
                },
                (None, None) => match fault.line {
                    Some(line) => write!(f, "line {line}: ")?,
                    None => f.write_str("configuration: ")?,
                },
            }
            if !fault.key.is_empty() {
                write!(f, "{}: ", fault.key)?;
            }
            f.write_str(&fault.message)?;
            if let Some(variable) = &fault.variable {
                write!(f, " (from {variable})")?;
            }
        }
        Ok(())
    }
}

/// The word that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let reach = 1 + word.len() / 4;
    let near = words.into_iter().map(|w| (strsim::damerau_levenshtein(word, w), w));
    let begins = |w: &str| !word.is_empty() && (w.starts_with(word) || word.starts_with(w));
    near.filter(|&(distance, w)| distance <= reach || begins(w)).min().map(|(_, w)| w)
}

/// `did you mean "a"? There are a, b, c`: for a word that is none of `words`.
pub(super) fn instead(word: &str, words: &[&str]) -> String {
    match nearest(word, words.iter().copied()) {
        Some(near) => format!("did you mean {near:?}? There are: {}", words.join(", ")),
        None if words.is_empty() => "there are none".to_owned(),
        None => format!("there are: {}", words.join(", ")),
    }
}

/// What is said of a name that nothing bears.
pub fn no_such(what: &str, name: &str, known: &[&str]) -> String {
    format!("no {what} is called {name:?}; {}", instead(name, known))
}

/// What serde says of one table.
pub(super) enum Complaint<'a> {
    /// A key that nobody knows, and those that are known.
    Unknown(&'a str, Vec<&'a str>),
    /// A key that has to be there.
    Missing(&'a str),
    /// A value that is wrong.
    Wrong(String),
}

impl<'a> Complaint<'a> {
    /// Reads serde's sentence.
    pub(super) fn of(message: &'a str) -> Complaint<'a> {
        let mut quoted = message.split('`').skip(1).step_by(2);
        if message.starts_with("unknown field `") {
            return Complaint::Unknown(quoted.next().unwrap_or_default(), quoted.collect());
        }
        match quoted.next() {
            Some(key) if message.starts_with("missing field `") => Complaint::Missing(key),
            _ => Complaint::Wrong(reworded(message)),
        }
    }
}

/// `expected a text, found a number`: no value, which could be a secret that stands in the wrong place.
fn reworded(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let ([word, words @ ..], true) = (&quoted[..], message.starts_with("unknown variant `")) {
        return format!("no such word; {}", instead(word, words));
    }
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let found = match found.split([' ', '`']).next().unwrap_or_default() {
        "string" | "character" => "a text",
        "integer" if found.contains("`-") => "a negative number",
        "integer" => "a number",
        "floating" => "a number with a fraction",
        "boolean" => "true or false",
        "sequence" => "a list",
        "map" => "a table",
        _ => "something else",
    };
    let expected = match expected {
        "a string" | "string" | "path string" => "a text in quotes",
        "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number from 0",
        "isize" | "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a boolean" => "true or false, without quotes",
        "a sequence" => "a list, [ … ]",
        "a map" => "a table, { … }",
        other if other.starts_with("struct ") => "a table, { … }",
        other => other,
    };
    format!("expected {expected}, found {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_slip_is_seen_and_a_stranger_is_not() {
        let words = ["listen", "instance", "tls"];
        assert_eq!(nearest("lisen", words), Some("listen"));
        assert_eq!(nearest("lsiten", words), Some("listen"));
        assert_eq!(nearest("tsl", words), Some("tls"));
        assert_eq!(nearest("listener", words), Some("listen"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("", words), None);
    }

    #[test]
    fn sentences_of_serde_are_read_and_carry_no_value() {
        let Complaint::Unknown("a", known) = Complaint::of("unknown field `a`, expected one of `b`, `c`") else {
            panic!("an unknown key")
        };
        assert_eq!(known, ["b", "c"]);
        let none = Complaint::of("unknown field `a`, there are no fields");
        assert!(matches!(none, Complaint::Unknown("a", known) if known.is_empty()));
        assert!(matches!(Complaint::of("missing field `url`"), Complaint::Missing("url")));
        for (said, reworded) in [
            ("invalid type: string \"hunter2\", expected usize", "expected a whole number from 0, found a text"),
            (
                "invalid type: string \"x, expected y\", expected a boolean",
                "expected true or false, without quotes, found a text",
            ),
            ("invalid value: integer `-1`, expected u32", "expected a whole number from 0, found a negative number"),
            ("invalid type: map, expected a string", "expected a text in quotes, found a table"),
            (
                "invalid type: integer `2`, expected a time in quotes, like \"30s\"",
                "expected a time in quotes, like \"30s\", found a number",
            ),
            (
                "unknown variant `jsn`, expected `json` or `text`",
                "no such word; did you mean \"json\"? There are: json, text",
            ),
            ("\"5x\" is no span of time", "\"5x\" is no span of time"),
        ] {
            assert!(matches!(Complaint::of(said), Complaint::Wrong(text) if text == reworded), "{said}");
        }
    }
}
