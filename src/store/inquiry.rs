//! What a vendor is to be asked: receipts that are held until it confirms them, and executions that are not finished in
//! time.

use crate::model::{State, Time, Update};

/// What a held receipt's reason ends with until its vendor was asked; before it stands the execution's key.
pub const UNASKED: &str = ": the vendor is to be asked";

/// What was claimed of one source.
#[derive(Debug, Default)]
pub struct Inquiries {
    /// Leased to the caller until the lease ends.
    pub due: Vec<Inquiry>,
    /// When the next one is due, if one waits.
    pub next_due: Option<Time>,
}

/// One question.
#[derive(Debug)]
pub enum Inquiry {
    /// Receipts that are held, all of one execution, in the order in which they came.
    Held(Vec<Held>),
    /// An execution that is not finished, and was expected to be.
    Late(Box<Late>),
}

/// One receipt that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its id.
    pub receipt: i64,
    /// How often the vendor's answer neither confirmed nor refuted it.
    pub asked: u32,
    /// Questions in a row that got no answer.
    pub failures: u32,
}

/// One execution that is not finished in time.
#[derive(Clone, PartialEq, Debug)]
pub struct Late {
    /// Its id.
    pub execution: i64,
    /// What we hold to be true of it.
    pub state: State,
    /// Whether it is marked as overdue already.
    pub is_marked: bool,
    /// Answers that said it goes on.
    pub asked: u32,
    /// Questions in a row that got no answer.
    pub failures: u32,
}

/// What follows for a held receipt.
#[derive(Clone, Debug, PartialEq)]
pub enum Ruling {
    /// The vendor says the same: what it says is recorded, and the receipt is what a callback that is believed at once
    /// would be.
    Confirmed(Vec<Update>),
    /// The vendor does not say so: kept, and nothing of it recorded.
    Refused(String),
    /// Stays held.
    Waits {
        /// Asked for again from then on.
        due_at: Time,
        /// Whether there was an answer, one that decided nothing.
        answered: bool,
        /// Why, for a person.
        reason: String,
    },
}

/// What follows for an execution that is not finished in time. Once it is finished, nothing does.
#[derive(Clone, Debug, PartialEq)]
pub struct Lateness {
    /// What the vendor says of it: recorded first, as if it had called back.
    pub truth: Option<Update>,
    /// Marks it as overdue, once, which is a change of its own.
    pub marks: bool,
    /// Looked at again from then on; `None` for never.
    pub due_at: Option<Time>,
    /// Whether there was an answer.
    pub answered: bool,
}
