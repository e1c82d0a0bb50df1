//! What queries ask with, and what they answer with: the same objects for the commands, the API and the page.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{DeliveryStatus, Execution, Link, Receipt, ReceiptStatus, Status, Time};

/// A list's filters, for executions, receipts and deliveries alike.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only these statuses.
    #[cfg_attr(test, schemars(with = "Vec<DeliveryStatus>"))]
    pub status: Vec<String>,
    /// Only of this source.
    pub source: Option<String>,
    /// Only to this sink (deliveries).
    pub sink: Option<String>,
    /// Only of this execution (receipts, deliveries).
    #[cfg_attr(test, schemars(range(min = i64::MIN, max = i64::MAX)))]
    pub execution: Option<i64>,
    /// Only what came at this time or later.
    pub since: Option<Time>,
    /// Only ids below this one: the cursor.
    #[cfg_attr(test, schemars(range(min = i64::MIN, max = i64::MAX)))]
    pub before: Option<i64>,
    /// Only ids above this one.
    #[cfg_attr(test, schemars(range(min = i64::MIN, max = i64::MAX)))]
    pub after: Option<i64>,
    /// At most so many, newest first; `None` for all.
    #[cfg_attr(test, schemars(range(max = u64::MAX)))]
    pub limit: Option<u64>,
}

impl Filter {
    /// The words that mean executions: the statuses, and `overdue`, which is a mark.
    pub const EXECUTION_WORDS: [&str; 8] = {
        let mut words = ["overdue"; 8];
        let mut at = 0;
        while at < Status::ALL.len() {
            words[at] = Status::ALL[at].as_str();
            at += 1;
        }
        words
    };
}

/// An execution as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExecutionRow {
    /// Its id.
    pub id: String,
    /// What is true of it.
    #[serde(flatten)]
    pub execution: Execution,
    /// Not finished in time.
    pub overdue: bool,
    /// What it is tied to.
    pub links: Vec<Link>,
    /// How many changes it has had.
    pub sequence: u32,
    /// When the last one was made.
    pub changed_at: Time,
}

/// A receipt as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReceiptRow {
    /// Its id.
    pub id: String,
    /// Its source.
    pub source: String,
    /// What became of it.
    pub status: ReceiptStatus,
    /// When it came.
    pub received_at: Time,
    /// From where.
    pub peer: String,
    /// Why it was quarantined or refused, is still held, or is a conflict; or which link rule failed on it.
    pub reason: Option<String>,
    /// The executions it speaks of.
    pub executions: Vec<String>,
    /// The headers that matter.
    #[cfg_attr(test, schemars(with = "std::collections::BTreeMap<String, String>"))]
    pub headers: Value,
    /// The length of its body, in bytes.
    pub body_bytes: u64,
    /// SHA-256 of the body, hex; kept for a duplicate, whose bytes are not kept again.
    pub digest: Option<String>,
}

impl ReceiptRow {
    /// Why there is no body of it.
    pub fn bodiless(&self) -> String {
        format!("receipt {} is a {}: its bytes are not kept again", self.id, self.status)
    }

    /// The receipt again, as a source reads it.
    pub fn into_receipt(self, body: Vec<u8>) -> Receipt {
        let headers = match self.headers {
            Value::Object(map) => {
                map.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect()
            }
            _ => Vec::new(),
        };
        Receipt {
            source: self.source.into(),
            received_at: self.received_at,
            peer: self.peer,
            headers,
            body: body.into(),
        }
    }
}

/// A delivery as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeliveryRow {
    /// Its id.
    pub id: String,
    /// To whom.
    pub sink: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Of which execution.
    pub execution: String,
    /// The execution's key.
    pub key: String,
    /// The execution's source.
    pub source: String,
    /// The change it tells.
    pub change: String,
    /// The change's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Tries so far.
    pub attempts: u32,
    /// When it was promised.
    pub created_at: Time,
    /// When it is due next; `null` when finished or behind another.
    pub due_at: Option<Time>,
    /// When it was settled for good.
    pub finished_at: Option<Time>,
    /// The last try's reason, or why it was given up.
    pub reason: Option<String>,
}

/// The reason of a delivery that is told when a link is known.
pub const WAITS_FOR_LINK: &str = "waits for a link";

/// A sink's standing in the store.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SinkRow {
    /// Its name.
    pub name: String,
    /// Why it is paused; `null` when it is not.
    pub paused: Option<String>,
    /// Deliveries that wait or are leased.
    pub backlog: u64,
    /// When the oldest of these was promised.
    pub oldest: Option<Time>,
    /// Why the oldest of these that was tried still waits; what waits for a link comes last.
    pub reason: Option<String>,
    /// Dead letters.
    pub dead: u64,
    /// Why most of the latest of these were given up.
    pub dead_reason: Option<DeadReason>,
}

/// So many of the latest dead letters that a sink's most common reason is looked for among.
pub const DEAD_LOOKED_AT: u64 = 200;

/// Why dead letters were given up.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeadReason {
    /// As each of them has it.
    pub reason: String,
    /// How many have it, of the latest 200.
    pub count: u64,
}

impl DeadReason {
    /// As a query tells it: the number, and after a space the reason.
    pub fn of(text: Option<String>) -> Option<DeadReason> {
        let text = text?;
        let (count, reason) = text.split_once(' ')?;
        Some(DeadReason { reason: reason.to_owned(), count: count.parse().ok()? })
    }
}

impl SinkRow {
    /// Of a sink that nothing was promised to.
    pub fn of(name: &str) -> SinkRow {
        SinkRow {
            name: name.to_owned(),
            paused: None,
            backlog: 0,
            oldest: None,
            reason: None,
            dead: 0,
            dead_reason: None,
        }
    }

    /// Why its dead letters were given up, as one line for people.
    pub fn dead_because(&self) -> Option<String> {
        let DeadReason { reason, count } = self.dead_reason.as_ref()?;
        Some(match (*count, self.dead) {
            (1, 1) => reason.clone(),
            (count, ..=DEAD_LOOKED_AT) => format!("{count} × {reason}"),
            (count, _) => format!("{count} of the latest {DEAD_LOOKED_AT}: {reason}"),
        })
    }

    /// Whether something waits that it could be told. What waits for a link alone cannot be, whether the sink works or not.
    pub fn may_be_tried(&self) -> bool {
        self.backlog > 0 && self.reason.as_deref() != Some(WAITS_FOR_LINK)
    }
}

/// Some deliveries that a filter means, in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many.
    pub count: u64,
    /// The last of them.
    pub end: i64,
}

/// Which deliveries an operator means.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryFilter {
    /// Just this one.
    One(i64),
    /// All that match.
    All(Filter),
}
