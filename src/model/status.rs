//! The status of an execution or task, and the one direction it may move in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where an execution or task stands. A vendor's word that we do not know is `unknown`, never success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted by the vendor, not begun.
    Pending,
    /// Under way.
    Running,
    /// Held by the vendor or an operator; may go on.
    Paused,
    /// Finished as asked.
    Succeeded,
    /// Finished, and not as asked.
    Failed,
    /// Finished because somebody stopped it.
    Cancelled,
    /// The vendor used a word that we do not know; it stands in `vendor_status`.
    Unknown,
}

/// What a reported status means beside the one we hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advance {
    /// Nothing new.
    Same,
    /// Later than what we hold: take it.
    Forward,
    /// Earlier than what we hold: it came late, leave it.
    Stale,
    /// A different finished status: one of the two is wrong.
    Conflict,
}

impl Status {
    /// All of them, in the order of a life.
    pub const ALL: [Status; 7] = [
        Status::Pending,
        Status::Running,
        Status::Paused,
        Status::Succeeded,
        Status::Failed,
        Status::Cancelled,
        Status::Unknown,
    ];

    /// Succeeded, failed or cancelled: it will not move again.
    pub const fn is_finished(self) -> bool {
        matches!(self, Status::Succeeded | Status::Failed | Status::Cancelled)
    }

    /// The word used in JSON, SQL, the command line and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::Unknown => "unknown",
        }
    }

    /// Judges `next` against this status. Time only goes forward: a finished status is never left, nothing that
    /// runs goes back to pending, and only a *different finished* status contradicts.
    pub fn advance(self, next: Status) -> Advance {
        match (self, next) {
            (held, next) if held == next => Advance::Same,
            (held, next) if held.is_finished() && next.is_finished() => Advance::Conflict,
            (held, _) if held.is_finished() => Advance::Stale,
            (Status::Running | Status::Paused, Status::Pending) => Advance::Stale,
            _ => Advance::Forward,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(word: &str) -> Result<Status, String> {
        Status::ALL.into_iter().find(|s| s.as_str() == word).ok_or_else(|| {
            let words: Vec<_> = Status::ALL.iter().map(|s| s.as_str()).collect();
            format!("no status is called {word:?}; write one of {}", words.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Advance::*, Status::*, *};

    #[test]
    fn only_moves_forward() {
        let cases = [
            (Pending, Running, Forward),
            (Pending, Succeeded, Forward),
            (Running, Pending, Stale),
            (Paused, Pending, Stale),
            (Running, Paused, Forward),
            (Paused, Running, Forward),
            (Running, Unknown, Forward),
            (Unknown, Running, Forward),
            (Unknown, Failed, Forward),
            (Succeeded, Running, Stale),
            (Succeeded, Unknown, Stale),
            (Failed, Paused, Stale),
            (Succeeded, Failed, Conflict),
            (Cancelled, Succeeded, Conflict),
        ];
        for (held, next, expected) in cases {
            assert_eq!(held.advance(next), expected, "{held} then {next}");
        }
        for status in Status::ALL {
            assert_eq!(status.advance(status), Same);
            assert_eq!(status.as_str().parse::<Status>(), Ok(status));
        }
    }
}
