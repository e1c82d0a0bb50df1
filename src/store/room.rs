//! Room: what a store takes of its disk, and what it lets go of.

use std::collections::BTreeMap;

use crate::model::Time;

/// What one step of letting go did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Executions that are gone, with all that belonged to them.
    pub executions: u64,
    /// Where the next step goes on; `None` when this one came to the end.
    pub next: Option<i64>,
}

/// How much room the store takes, in bytes; its log is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What holds something.
    pub held: u64,
    /// What is the store's, and holds nothing now.
    pub free: u64,
    /// What it could hold beside that which it does: the free, and what its file system would give to it.
    pub room: u64,
    /// The whole file system.
    pub disk: u64,
}

/// A part of what [`crate::store::Queries::outlook`] sees.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Executions that may go once they are old enough, or the oldest, oldest first.
    pub may_go: Vec<MayGo>,
    /// How many have to stay, by the first reason of `unfinished`, `undelivered`, `dead`, `held` and `linked` (to one that has
    /// to stay).
    pub stay: BTreeMap<String, u64>,
    /// Of the whole store, and only in the part from 0 on: receipts of no execution, by their statuses.
    pub receipts: BTreeMap<String, u64>,
    /// The store's room.
    pub extent: Option<Extent>,
    /// From where the next part is; `None` at the end.
    pub next: Option<i64>,
}

/// One execution that may go.
#[derive(Clone, Copy, Debug)]
pub struct MayGo {
    /// When its latest change was.
    pub changed_at: Time,
    /// How many receipts go with it.
    pub receipts: u64,
    /// What its changes and receipts take, in bytes.
    pub bytes: u64,
}

/// More room than this is never needed to work in.
const SPARE_MAX: u64 = 128 << 20;

impl Extent {
    /// The room that upkeep leaves, for the log and for what comes until it looks again. With less than half of it, no
    /// callback is taken: what is let go of has to be written, too.
    pub fn spare(&self) -> u64 {
        (self.disk / 8).min(SPARE_MAX)
    }

    /// Too little room is left to take callbacks.
    pub fn is_full(&self) -> bool {
        self.room < self.spare() / 2
    }
}
