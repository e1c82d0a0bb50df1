//! What happened, in the order in which it was committed: told as it happens, and from any place on again.

use serde::{Deserialize, Serialize};

use super::rows::ExecutionRow;
use crate::model::{DeliveryStatus, Time};

/// A piece of what happened after a cursor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// In the order of their cursors.
    pub items: Vec<(i64, Item)>,
    /// Nothing is left out up to here: the cursor of the next piece.
    pub through: i64,
    /// Whether there is more already.
    pub more: bool,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An accepted transition.
    Change(Box<ChangeRow>),
    /// A try, or the end of a delivery without one.
    Delivery(Box<OutcomeRow>),
}

/// A change, with what is true of its execution since.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChangeRow {
    /// Its id.
    pub id: String,
    /// The CloudEvents type: `callbackd.execution.<status>`, `.updated` or `.overdue`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Counts the changes of one execution, from 1.
    pub sequence: u32,
    /// When it was made.
    pub at: Time,
    /// The execution after it.
    pub execution: ExecutionRow,
}

/// How one try of a delivery went; or that it ended without one.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OutcomeRow {
    /// The delivery's id.
    pub id: String,
    /// To whom.
    pub sink: String,
    /// Where the delivery stands now.
    pub status: DeliveryStatus,
    /// Of which execution.
    pub execution: String,
    /// The execution's key.
    pub key: String,
    /// The execution's source.
    pub source: String,
    /// Tries so far.
    pub attempts: u32,
    /// `delivered`, `retry`, `wait`, `halt`, `reject` or `discard`; `null` where there was no try: another change
    /// superseded it, an operator discarded it, or its route could not judge the change.
    pub outcome: Option<String>,
    /// Why, or a note.
    pub reason: Option<String>,
    /// When it was over.
    pub at: Time,
}
