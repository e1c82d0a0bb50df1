//! One authentic inbound request.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Time;

/// One authentic inbound request, as it came. Only a source's `authenticate` makes one, so holding a receipt means
/// that its sender was verified.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The configured name of the source that verified it.
    pub source: Arc<str>,
    /// When its last byte was here.
    pub received_at: Time,
    /// The address it came from, as far as trusted proxies tell.
    pub peer: String,
    /// The headers that matter for understanding it again (never a credential), names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Receipt {
    /// The value of a kept header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What became of a receipt; the word of the 2xx body's `outcome`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ReceiptStatus {
    /// News: at least one change was made from it.
    Accepted,
    /// A repeat, or older than what we hold: nothing changed.
    Duplicate,
    /// It contradicts what a finished execution or task said: kept, not applied.
    Conflict,
    /// Authentic, and not understood: kept byte for byte, to be replayed.
    Quarantined,
    /// Waits until its sender confirms it.
    Held,
    /// Its sender did not confirm it.
    Refused,
}

impl ReceiptStatus {
    /// All of them.
    pub const ALL: [ReceiptStatus; 6] = [
        ReceiptStatus::Accepted,
        ReceiptStatus::Duplicate,
        ReceiptStatus::Conflict,
        ReceiptStatus::Quarantined,
        ReceiptStatus::Held,
        ReceiptStatus::Refused,
    ];

    /// The word used in JSON, SQL, the command line and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReceiptStatus::Accepted => "accepted",
            ReceiptStatus::Duplicate => "duplicate",
            ReceiptStatus::Conflict => "conflict",
            ReceiptStatus::Quarantined => "quarantined",
            ReceiptStatus::Held => "held",
            ReceiptStatus::Refused => "refused",
        }
    }

    /// The outcome of a body that held several updates: the first of conflict, accepted, duplicate that occurs.
    pub fn of_all(parts: impl IntoIterator<Item = ReceiptStatus>) -> ReceiptStatus {
        let rank = |s: ReceiptStatus| match s {
            ReceiptStatus::Conflict => 0,
            ReceiptStatus::Accepted => 1,
            _ => 2,
        };
        parts.into_iter().min_by_key(|s| rank(*s)).unwrap_or(ReceiptStatus::Duplicate)
    }
}

impl fmt::Display for ReceiptStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReceiptStatus {
    type Err = String;

    fn from_str(word: &str) -> Result<ReceiptStatus, String> {
        ReceiptStatus::ALL.into_iter().find(|s| s.as_str() == word).ok_or_else(|| {
            let words: Vec<_> = ReceiptStatus::ALL.iter().map(|s| s.as_str()).collect();
            format!("no receipt status is called {word:?}; write one of {}", words.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ReceiptStatus::{self, *};

    #[test]
    fn several_updates_have_the_loudest_outcome() {
        assert_eq!(ReceiptStatus::of_all([Duplicate, Accepted]), Accepted);
        assert_eq!(ReceiptStatus::of_all([Accepted, Conflict, Duplicate]), Conflict);
        assert_eq!(ReceiptStatus::of_all([Duplicate, Duplicate]), Duplicate);
        assert_eq!(ReceiptStatus::of_all([]), Duplicate);
    }
}
