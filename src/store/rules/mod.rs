//! The rules of the storing transaction, once for every store: what a callback changes, what follows from a try, from a
//! vendor's answer and from an operator's word.
//!
//! They stand between the pure rules of [`crate::model`] and the rows. A store lends them its open transaction as
//! [`Tables`], which reads and writes rows and decides nothing.

use crate::model::{Attempt, Receipt, ReceiptStatus, Status, Time};
use crate::store::StoreError;

mod again;
mod claimed;
mod deliver;
mod filter;
mod inquire;
mod keeping;
mod link;
mod mass;
mod ready;
mod record;

pub(crate) use again::ReadyAgain;
pub(crate) use claimed::{
    ATTEMPTS, BYTES_MAX, CONTENT_BYTES, Claimed, LIST_BYTES, changed_tasks, legible, without_content,
};
pub(crate) use deliver::{
    Can, DISCARDED, RETRIED, ReadySettlement, Touched, can_be, discard, one, retry, settle, settle_all,
};
pub(crate) use filter::{DELIVERIES, EXECUTIONS, RECEIPTS, Term, conditions};
pub(crate) use inquire::{Asked, LINE_MAX, ReadyLateness, ReadyRuling};
pub(crate) use keeping::{MAY_GO, STAYS};
pub(crate) use link::{LOOKING_PARTNER, UNFINISHED_PARTNER, short_key};
pub(crate) use mass::{CHUNK, LOOK, WINDOW, in_chunks, next_chunk};
#[cfg(test)]
pub(crate) use ready::{ReadyUpdate, ready_update};
#[cfg(test)]
pub(crate) use record::apply;
pub(crate) use record::{ALIKE_MAX, Ready};

/// All rows of the transaction that is open.
pub(crate) trait Tables: LinkRows + InquiryRows {}

impl<T: LinkRows + InquiryRows> Tables for T {}

/// Rows in the transaction that is open. Nothing here decides anything.
///
/// What a method returns, it returns of this transaction: with all that it has written so far, and nothing that another
/// one has not committed.
pub(crate) trait Rows {
    /// Spoils the transaction; or, made of a [`StoreError`], is the answer to who asked, of whom nothing was written.
    type Fault: From<StoreError>;

    /// Of a row that cannot be read.
    fn unreadable(e: serde_json::Error) -> Self::Fault;

    /// A new id: the time in microseconds, or more than the last.
    fn new_id(&mut self, now: Time) -> i64;

    fn insert_receipt(&mut self, id: i64, receipt: &Receipt, headers: &str, kept: &Kept<'_>)
    -> Result<(), Self::Fault>;
    fn receipt_status(&mut self, receipt: i64) -> Result<Option<String>, Self::Fault>;
    /// The same receipt, understood anew.
    fn update_receipt(&mut self, receipt: i64, kept: &Kept<'_>) -> Result<(), Self::Fault>;
    fn set_receipt(&mut self, receipt: i64, status: ReceiptStatus, reason: &str) -> Result<(), Self::Fault>;

    fn find(&mut self, source: &str, key: &str, hash: i64) -> Result<Found, Self::Fault>;
    fn insert_head(&mut self, head: &NewHead<'_>) -> Result<(), Self::Fault>;
    /// A change after the first: the one before it is set aside.
    fn move_head(&mut self, head: &MovedHead<'_>) -> Result<(), Self::Fault>;
    /// Its sequence and its snapshot.
    fn head(&mut self, execution: i64) -> Result<(u32, String), Self::Fault>;
    /// A change that leaves all as it is; the one before it is set aside.
    fn mark_head(&mut self, head: &MarkedHead<'_>) -> Result<(), Self::Fault>;

    /// Whether it is to be claimed: it may be leased at once to who forwards here.
    fn insert_delivery(&mut self, delivery: &NewDelivery<'_>) -> Result<bool, Self::Fault>;
    /// Whether anything of this execution and sink is open.
    fn is_behind(&mut self, execution: i64, sink: &str) -> Result<bool, Self::Fault>;
    /// Discards what waits of this execution and sink.
    fn supersede(&mut self, execution: i64, sink: &str, now: Time) -> Result<(), Self::Fault>;
    /// Its execution and its sink.
    fn delivery(&mut self, delivery: i64) -> Result<Option<(i64, String)>, Self::Fault>;
    /// Whether it was still leased until then.
    fn settle(&mut self, settled: &Settled<'_>) -> Result<bool, Self::Fault>;
    fn insert_attempt(&mut self, id: i64, delivery: i64, attempt: &Attempt) -> Result<(), Self::Fault>;
    /// Makes the first that is open of the same execution and sink due, if it waits behind another; whether it did.
    fn hand_on(&mut self, delivery: i64, now: Time) -> Result<bool, Self::Fault>;
    /// The same, where no delivery is at hand.
    fn next_in_line(&mut self, execution: i64, sink: &str, now: Time) -> Result<(), Self::Fault>;
    /// Puts it behind another.
    fn put_behind(&mut self, delivery: i64) -> Result<(), Self::Fault>;
    /// Puts what is open and newer than it behind it.
    fn put_newer_behind(&mut self, execution: i64, sink: &str, delivery: i64) -> Result<(), Self::Fault>;
    /// Whether something of this execution and sink is open that is older, or leased.
    fn is_behind_older(&mut self, execution: i64, sink: &str, delivery: i64) -> Result<bool, Self::Fault>;
    /// Whether it is open, and due now or later.
    fn has_its_turn(&mut self, delivery: i64) -> Result<bool, Self::Fault>;
    /// As if it had just been promised; behind another where it is not due.
    fn begin_anew(&mut self, delivery: i64, due: bool, now: Time) -> Result<(), Self::Fault>;
    fn discard_delivery(&mut self, delivery: i64, reason: &str, now: Time) -> Result<(), Self::Fault>;

    /// A note of what no receipt and no attempt leads to (see `asides`), after it was written.
    fn insert_aside(&mut self, id: i64, execution: Option<i64>, delivery: Option<i64>) -> Result<(), Self::Fault>;
}

/// Rows of links, and of what executions are known by.
pub(crate) trait LinkRows: Rows {
    fn insert_link_key(&mut self, rule: &str, side: &str, key: &str, execution: i64) -> Result<(), Self::Fault>;
    /// The newest execution known by this as the partner, unfinished, unless `of` has one by this rule.
    fn unfinished_partner(&mut self, rule: &str, key: &str, of: i64) -> Result<Option<i64>, Self::Fault>;
    /// The newest execution that looks for this, has something to tell, and no partner by this rule; unless `with` has one.
    fn looking_partner(&mut self, rule: &str, key: &str, with: i64) -> Result<Option<i64>, Self::Fault>;
    fn is_tied(&mut self, of: i64, with: i64) -> Result<bool, Self::Fault>;
    /// How many links it has, from either side.
    fn links_of(&mut self, execution: i64) -> Result<usize, Self::Fault>;
    fn insert_link(&mut self, id: i64, rule: &str, of: i64, with: i64, now: Time) -> Result<(), Self::Fault>;
    /// Makes due what waits for a link of this execution; adds its sinks.
    fn wake_linked(&mut self, of: i64, now: Time, wake: &mut Vec<String>) -> Result<(), Self::Fault>;
}

/// Rows of what vendors are to be asked.
pub(crate) trait InquiryRows: Rows {
    /// Expects an execution that has just begun to be finished in time.
    fn expect(&mut self, source: &str, execution: i64, by: Time) -> Result<(), Self::Fault>;
    fn insert_held(&mut self, receipt: i64, source: &str, key: &str, due_at: Time) -> Result<(), Self::Fault>;
    /// When the first is due of what is held of this key, and not asked about now.
    fn line_due(&mut self, source: &str, key: &str) -> Result<Option<Time>, Self::Fault>;
    /// What is held of the same key, is due, and not asked about now, waits until then, too.
    fn line_waits(&mut self, receipt: i64, due_at: Time, now: Time) -> Result<(), Self::Fault>;
    /// Gives the lease back: asked again from then on; marked as overdue, where it is not yet.
    fn asked(&mut self, id: i64, due_at: Option<Time>, answered: bool, marked: Option<Time>)
    -> Result<(), Self::Fault>;
    /// Nothing is to be asked about it any more.
    fn delete_inquiry(&mut self, id: i64) -> Result<(), Self::Fault>;
    /// Of an execution that is not finished and about which something is to be asked: whether it is marked as overdue.
    fn is_marked(&mut self, execution: i64) -> Result<Option<bool>, Self::Fault>;
}

/// What became of a receipt.
pub(crate) struct Kept<'a> {
    pub(crate) outcome: ReceiptStatus,
    /// Instead of the body.
    pub(crate) digest: Option<&'a str>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) executions: &'a [i64],
}

impl Kept<'_> {
    /// JSON of them all, where they are several.
    pub(crate) fn several(&self) -> Option<String> {
        (self.executions.len() > 1).then(|| serde_json::to_string(self.executions).unwrap_or_default())
    }
}

/// An execution, looked for by its key.
pub(crate) enum Found {
    Head(Head),
    Nothing,
    /// Too many look like it to tell, or to add one more.
    TooManyAlike,
}

/// What the rules need of an execution.
pub(crate) struct Head {
    pub(crate) id: i64,
    pub(crate) seen: String,
    pub(crate) sequence: u32,
    pub(crate) snapshot: String,
}

/// An execution that begins, with its first change.
pub(crate) struct NewHead<'a> {
    pub(crate) id: i64,
    pub(crate) source: &'a str,
    pub(crate) key: &'a str,
    pub(crate) hash: i64,
    pub(crate) seen: &'a str,
    pub(crate) status: Status,
    pub(crate) change: i64,
    pub(crate) kind: &'static str,
    pub(crate) receipt: Option<i64>,
    pub(crate) now: Time,
    pub(crate) snapshot: &'a str,
}

/// An execution, and a later change of it.
pub(crate) struct MovedHead<'a> {
    pub(crate) id: i64,
    pub(crate) seen: &'a str,
    pub(crate) status: Status,
    pub(crate) change: i64,
    pub(crate) sequence: u32,
    pub(crate) kind: &'static str,
    pub(crate) previous_status: Option<Status>,
    pub(crate) changed_tasks: Option<&'a str>,
    pub(crate) receipt: Option<i64>,
    pub(crate) now: Time,
    pub(crate) snapshot: &'a str,
}

/// An execution, and a change that says nothing new of it.
pub(crate) struct MarkedHead<'a> {
    pub(crate) id: i64,
    pub(crate) change: i64,
    pub(crate) sequence: u32,
    pub(crate) kind: &'static str,
    pub(crate) changed_tasks: Option<&'a str>,
    pub(crate) now: Time,
}

/// A promise.
pub(crate) struct NewDelivery<'a> {
    pub(crate) id: i64,
    pub(crate) execution: i64,
    pub(crate) sink: &'a str,
    pub(crate) change: i64,
    pub(crate) now: Time,
    pub(crate) begins: Begins<'a>,
}

/// How a delivery begins.
#[derive(Clone, Copy)]
pub(crate) enum Begins<'a> {
    Due,
    /// Behind another.
    Behind,
    /// As a dead letter, and why.
    Dead(&'a str),
}

/// What follows for a delivery that was tried.
pub(crate) struct Settled<'a> {
    pub(crate) delivery: i64,
    pub(crate) lease: Time,
    pub(crate) status: &'static str,
    pub(crate) due_at: Option<Time>,
    pub(crate) counts: bool,
    pub(crate) finished_at: Option<Time>,
    pub(crate) until_linked: bool,
    pub(crate) resume: Option<String>,
    pub(crate) reason: Option<&'a str>,
}

/// The hash under which an execution is looked up: FNV-1a, which is short and fixed for ever. Rows with the same hash
/// are told apart by their text, so a collision costs a comparison.
pub(crate) fn hash_of(key: &str) -> i64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    i64::from_ne_bytes(hash.to_ne_bytes())
}

/// Notes what no receipt and no attempt of this command leads to; after it was written.
fn aside<X: Tables>(tx: &mut X, execution: Option<i64>, delivery: Option<i64>, now: Time) -> Result<(), X::Fault> {
    let id = tx.new_id(now);
    tx.insert_aside(id, execution, delivery)
}
