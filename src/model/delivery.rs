//! The promise to tell one sink one change, and what a sink says of one try.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::words::reason;
use super::{Change, Time, Trace, Update};

/// The promise to tell one sink one change, as it is handed to the sink.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Stable: what a peer deduplicates on.
    pub id: i64,
    /// What it is to be told. Encoded anew at each try, so that a mended encoder also mends the retries.
    pub change: Arc<Change>,
    /// Tries made before this one.
    pub attempts: u32,
    /// When the promise was made.
    pub created_at: Time,
    /// What the sink handed back at its last try: how far it got.
    pub resume: Option<Value>,
    /// The trace that the callback of the change was sent in.
    pub trace: Option<Trace>,
}

impl Delivery {
    /// The id of the span that a try begun at `now` is in the callback's trace: the same for who is told, and for who is
    /// told of the try.
    pub fn span(&self, now: Time) -> Option<u64> {
        self.trace.as_ref().map(|trace| trace.span(&format!("{}@{}", self.id, now.micros())))
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// To be tried, now or later.
    Waiting,
    /// A forwarder has it in hand.
    Leased,
    /// The sink has taken it.
    Delivered,
    /// Given up; kept until an operator retries or discards it.
    Dead,
    /// Dropped on purpose; the reason says whose.
    Discarded,
}

impl DeliveryStatus {
    /// All of them.
    pub const ALL: [DeliveryStatus; 5] = [
        DeliveryStatus::Waiting,
        DeliveryStatus::Leased,
        DeliveryStatus::Delivered,
        DeliveryStatus::Dead,
        DeliveryStatus::Discarded,
    ];

    /// The word used in JSON, SQL, the command line and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeliveryStatus::Waiting => "waiting",
            DeliveryStatus::Leased => "leased",
            DeliveryStatus::Delivered => "delivered",
            DeliveryStatus::Dead => "dead",
            DeliveryStatus::Discarded => "discarded",
        }
    }
}

impl fmt::Display for DeliveryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeliveryStatus {
    type Err = String;

    fn from_str(word: &str) -> Result<DeliveryStatus, String> {
        DeliveryStatus::ALL.into_iter().find(|s| s.as_str() == word).ok_or_else(|| {
            let words: Vec<_> = DeliveryStatus::ALL.iter().map(|s| s.as_str()).collect();
            format!("no delivery status is called {word:?}; write one of {}", words.join(", "))
        })
    }
}

/// What a delivery can wait for beside time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// That its execution is linked to another.
    Link,
    /// What goes on at the peer, said for a person: `workflow instance i1 is RUNNING`.
    Peer(String),
}

/// What a sink learned from its peer: recorded like a source's update.
#[derive(Clone, PartialEq, Debug)]
pub struct Learned {
    /// Whose execution it is: a source, or the sink itself.
    pub source: String,
    /// What it says.
    pub update: Update,
    /// Whether it comes of the delivery's own execution, as a started workflow does: links the two.
    pub linked: bool,
}

/// How one try went. A peer's fault is a value here, never an error of ours.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The sink has taken it.
    Delivered {
        /// Worth keeping with the attempt, for example `the run was already final`.
        note: Option<String>,
        /// What the sink learned.
        learned: Vec<Learned>,
    },
    /// Worth another try.
    Retry {
        /// Not before this many milliseconds, where the peer said so.
        after_ms: Option<u64>,
        /// Why, for a person; without secrets.
        reason: String,
        /// Handed back at the next try.
        resume: Option<Value>,
    },
    /// Cannot be delivered before something else happens; costs no attempt.
    Wait {
        /// What has to happen.
        wait_for: WaitFor,
        /// Tried again at this time at the latest.
        until: Time,
        /// Handed back at the next try.
        resume: Option<Value>,
        /// What the sink learned so far.
        learned: Vec<Learned>,
    },
    /// Every delivery would fail alike (a refused credential): pauses the sink until an operator resumes it or a new
    /// configuration arrives. The delivery itself waits.
    Halt {
        /// Why, for a person; without secrets.
        reason: String,
        /// Handed back at the next try.
        resume: Option<Value>,
    },
    /// The peer will never take it: a dead letter.
    Reject {
        /// Why, for a person; without secrets.
        reason: String,
    },
    /// Nothing to tell anybody: dropped on purpose.
    Discard {
        /// Why, for example `no Port run`.
        reason: String,
    },
}

impl Outcome {
    /// The same with a reason that is fit to be kept and logged, whatever the peer said.
    pub fn legible(mut self) -> Outcome {
        if let Outcome::Retry { reason: said, .. }
        | Outcome::Halt { reason: said, .. }
        | Outcome::Reject { reason: said }
        | Outcome::Discard { reason: said }
        | Outcome::Wait { wait_for: WaitFor::Peer(said), .. }
        | Outcome::Delivered { note: Some(said), .. } = &mut self
        {
            *said = reason(said).into_owned();
        }
        self
    }
}

/// One try of one delivery, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Attempt {
    /// When it began.
    pub started_at: Time,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// `delivered`, `retry`, `wait`, `halt`, `reject` or `discard`.
    pub outcome: String,
    /// The HTTP status of the peer's last answer, where there was one.
    pub status: Option<u16>,
    /// Why, or a note.
    pub reason: Option<String>,
    /// The start of the peer's last answer, redacted.
    pub answer: Option<String>,
}
