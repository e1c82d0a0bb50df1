//! The store: what was received, what it means, and who has still to be told. One trait, [`Store`]; SQLite behind it.
//!
//! The contract every store keeps, and the one suite that all of them pass:
//!
//! - What a call returned `Ok` for is on stable storage, whole; what it returned `Err` for left nothing behind.
//! - [`Store::record`] decides duplicate, conflict and order (with the pure rules of [`crate::model`]) in the same
//!   transaction that writes receipt, executions, tasks, change and deliveries. Two callers with the same callback at
//!   the same instant get one change.
//! - Per execution and sink, deliveries are claimed in the order of their changes, one at a time; different
//!   executions never wait for each other.
//! - A call that has been accepted is carried out even if the caller stops waiting for it.
//! - Queries see everything that was acknowledged before they began.

use serde_json::Value;
use std::sync::Arc;

use crate::Boxed;
use crate::measure::Open;
use crate::model::{Attempt, Delivery, Learned, Receipt, ReceiptStatus, Rules, Task, Time, Update};
use crate::shutdown::Shutdown;

mod export;
mod inquiry;
pub mod lent;
pub mod moving;
mod news;
#[cfg(feature = "postgres")]
pub mod postgres;
mod queue;
mod room;
mod rows;
mod rules;
mod shared;
pub mod sqlite;
mod tray;

pub use export::Export;
pub use inquiry::{Held, Inquiries, Inquiry, Late, Lateness, Ruling, UNASKED};
pub use news::{ChangeRow, Item, News, OutcomeRow};
pub use room::{Extent, MayGo, Outlook, Pruned};
pub use rows::{
    DEAD_LOOKED_AT, DeadReason, DeliveryFilter, DeliveryRow, ExecutionRow, Filter, ReceiptRow, SinkRow, WAITS_FOR_LINK,
    Window,
};
pub use shared::{Breaker, Replica};
pub use tray::{Lease, Tray};

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Cannot be kept now: the queue or the disk is full, the disk fails, the daemon stops. Nothing was kept; the
    /// caller may try again.
    #[error("{0}")]
    Unavailable(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// Not possible as things stand, and why: a delivered delivery cannot be discarded.
    #[error("{0}")]
    Refused(String),
    /// The store itself cannot be used: newer than this program, damaged, in use.
    #[error("{0}")]
    Unusable(String),
}

/// What a receipt was understood as.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// In the order in which they stood in the body.
    Updates(Vec<Update>),
    /// The same, to be recorded only when the vendor says so too: kept as held.
    Held(Vec<Update>),
    /// Not understood, and why: kept as quarantined.
    Quarantined(String),
}

/// What became of a recorded receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The receipt's id.
    pub receipt: i64,
    /// What became of it.
    pub outcome: ReceiptStatus,
    /// The executions it speaks of, in its order.
    pub executions: Vec<i64>,
    /// Sinks that have something to do now.
    pub wake: Vec<String>,
}

/// What was claimed.
#[derive(Debug, Default)]
pub struct Claim {
    /// Leased to the caller from when it asked, for as long as it asked for.
    pub deliveries: Vec<Delivery>,
    /// The lease's end as the store has it, by which it is known. By whose clock that is the store alone knows.
    pub until: Time,
    /// When the next delivery of this sink is due, if one waits: not later than asked for when there was more than was
    /// claimed.
    pub next_due: Option<Time>,
    /// The sink is to be told nothing.
    pub is_paused: bool,
    /// How others find the sink.
    pub breaker: Breaker,
}

/// What follows for a delivery that was tried.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// The sink has taken it.
    Delivered,
    /// To be tried again.
    Waiting {
        /// Not before.
        due_at: Time,
        /// Due at once when its execution has more links than these, which the try knew of.
        until_linked: Option<usize>,
        /// Handed to the sink at the next try.
        resume: Option<Value>,
        /// The try was none: nothing could be sent yet.
        free: bool,
    },
    /// A dead letter.
    Dead,
    /// Dropped on purpose.
    Discarded,
}

/// The end of one try: recorded in one transaction.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The delivery.
    pub delivery: i64,
    /// The lease under which it was tried, by its end: once it is leased anew, its new holder has the word.
    pub lease: Time,
    /// How the try went.
    pub attempt: Attempt,
    /// What follows.
    pub fate: Fate,
    /// What the sink learned.
    pub learned: Vec<Learned>,
}

/// Characters that an operator's reason for a pause may have.
pub const PAUSE_CHARS_MAX: usize = 1000;

/// Reading. Never waits for a writer.
pub trait Queries: Send + Sync {
    /// Executions, newest first: one flat object each, as `executions list --json` prints it.
    fn executions(&self, filter: Filter) -> Boxed<'_, Result<Vec<Value>, StoreError>>;

    /// The id of the last of `count` executions, newest first, from below `before` on; `None` where there are not so many.
    fn further(&self, before: Option<i64>, count: u64) -> Boxed<'_, Result<Option<i64>, StoreError>>;

    /// One execution by its id or the vendor's key: `{"execution", "tasks", "receipts", "changes", "deliveries"}`, oldest
    /// first. Where that is much, of each list only the latest; of the earlier ones of large changes, `execution`, `tasks`
    /// and `changed_tasks` are null.
    fn execution(&self, id_or_key: String) -> Boxed<'_, Result<Value, StoreError>>;

    /// The tasks of these executions, in their order; none of one that is not there.
    fn tasks(&self, executions: Vec<i64>) -> Boxed<'_, Result<Vec<Vec<Task>>, StoreError>>;

    /// Receipts, newest first.
    fn receipts(&self, filter: Filter) -> Boxed<'_, Result<Vec<ReceiptRow>, StoreError>>;

    /// One receipt, with its body (empty for a duplicate).
    fn receipt(&self, id: i64) -> Boxed<'_, Result<(ReceiptRow, Vec<u8>), StoreError>>;

    /// Deliveries, newest first.
    fn deliveries(&self, filter: Filter) -> Boxed<'_, Result<Vec<DeliveryRow>, StoreError>>;

    /// One delivery with its latest thousand attempts, oldest first.
    fn delivery(&self, id: i64) -> Boxed<'_, Result<(DeliveryRow, Vec<Attempt>), StoreError>>;

    /// Every sink that has or had deliveries, or is paused.
    fn sinks(&self) -> Boxed<'_, Result<Vec<SinkRow>, StoreError>>;

    /// The cursor behind everything that has happened.
    fn newest(&self) -> Boxed<'_, Result<i64, StoreError>>;

    /// A piece of what happened after the cursor `after`, oldest first: every accepted change, every try, and every
    /// delivery that ended without one. Who goes on from [`News::through`] sees each of them once, in the order in which
    /// they were committed, whatever else is committed meanwhile, and after a restart; what upkeep let go of is left out. A
    /// cursor is an instant in microseconds: any may be asked for. A piece is small, whatever is in it, except for one item
    /// alone that is not. Costs what it returns, and next to nothing where nothing happened.
    fn news(&self, after: i64) -> Boxed<'_, Result<News, StoreError>>;

    /// What letting go would find from the id `from` on, however old it is: a part, oldest first.
    fn outlook(&self, from: i64) -> Boxed<'_, Result<Outlook, StoreError>>;

    /// The next deliveries behind `after` that `filter` means, `most` of them at the most: none when there are none. Only of a
    /// store that is no file, which who asks opens by itself.
    fn window(&self, _filter: Filter, _after: i64, _most: u64) -> Boxed<'_, Result<Option<Window>, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Refused("the file is to be asked".to_owned()))))
    }

    /// Everybody who shares the store, with who is gone and was not replaced; nobody where it cannot be shared.
    fn replicas(&self) -> Boxed<'_, Result<Vec<Replica>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// Keeping.
pub trait Store: Queries {
    /// Keeps a receipt and all that follows from it, in one transaction. Must be called, not only polled, from within
    /// the task that read the body: from the moment it is called, dropping the future no longer cancels it.
    fn record(
        &self,
        receipt: Receipt,
        parsed: Parsed,
        rules: Arc<Rules>,
    ) -> Boxed<'static, Result<Recorded, StoreError>>;

    /// Records a stored receipt again: a quarantined one, after its source learned to read it; one that is held or was
    /// refused, because an operator vouches for it.
    fn record_again(
        &self,
        receipt: i64,
        parsed: Parsed,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Recorded, StoreError>>;

    /// Leases up to `limit` inquiries of `source` that are due to the caller, from `now` for `lease_ms`; without `asks`
    /// only executions that are late, because nobody can be asked now. Never two about the same execution.
    fn claim_inquiries(
        &self,
        source: String,
        limit: usize,
        lease_ms: u64,
        asks: bool,
        now: Time,
    ) -> Boxed<'_, Result<Inquiries, StoreError>>;

    /// Does what follows for a held receipt, in one transaction. Nothing follows for one that is not held any more.
    /// Returns the sinks that have something to do now.
    fn rule(
        &self,
        receipt: i64,
        ruling: Ruling,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>>;

    /// Does what follows for an execution of `source` that is not finished in time. Returns the sinks that have something
    /// to do now.
    fn settle_late(
        &self,
        source: String,
        execution: i64,
        lateness: Lateness,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>>;

    /// Makes due now what waits because the vendor of `source` did not answer: it answers again.
    fn hurry_inquiries(&self, source: String, now: Time) -> Boxed<'_, Result<(), StoreError>>;

    /// Leases up to `limit` deliveries of `sink` that are due at `by` to the caller, from `now` for `lease_ms`: those first
    /// that are due longest, and fewer where they are large. A paused sink has none. `by` is later than `now` for a probe, which is made with whatever is due next.
    fn claim(
        &self,
        sink: String,
        limit: usize,
        lease_ms: u64,
        by: Time,
        now: Time,
    ) -> Boxed<'_, Result<Claim, StoreError>>;

    /// Who forwards to this sink here takes it from this tray, too, from now on, and from none before.
    fn lay_out(&self, _sink: String, _tray: Arc<Tray>) {}

    /// Gives leases back that are known by their end: what was not begun is due again, before what became due since.
    fn release(&self, deliveries: Vec<i64>, lease: Time) -> Boxed<'_, Result<(), StoreError>>;

    /// Tells who shares the store how the breaker of this sink stands here: open, or closed again. While it is open, one of
    /// them all has a probe at one time, and the others claim nothing. Whether there can be others.
    fn share_breaker(&self, _sink: String, _open: Option<Open>) -> Boxed<'_, Result<bool, StoreError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Records the end of one try. Returns the sinks that have something to do now.
    fn settle(
        &self,
        settlement: Settlement,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        self.settle_all(vec![settlement], rules, now)
    }

    /// Records the ends of many tries in one transaction: all of them, or none.
    fn settle_all(
        &self,
        settlements: Vec<Settlement>,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>>;

    /// Makes deliveries due again, from dead, discarded or waiting: how many. `filter` without a limit means all.
    fn retry(&self, filter: DeliveryFilter, now: Time) -> Boxed<'_, Result<u64, StoreError>>;

    /// Drops dead or waiting deliveries for good: how many.
    fn discard(&self, filter: DeliveryFilter, now: Time) -> Boxed<'_, Result<u64, StoreError>>;

    /// Makes due now what waits for a retry at this sink, `by` then at the latest: its peer is well again.
    fn hurry(&self, sink: String, by: Time, now: Time) -> Boxed<'_, Result<(), StoreError>>;

    /// This machine's clock was set back, by so much, or since this store was used last, as its ids tell: where what waits for
    /// a time at this sink waits by that clock, it is due sooner by as much. How many deliveries that were.
    fn set_back(&self, sink: String, by_ms: Option<u64>, now: Time) -> Boxed<'_, Result<u64, StoreError>>;

    /// The same for what is to be asked about `source`.
    fn set_back_inquiries(&self, source: String, by_ms: Option<u64>, now: Time) -> Boxed<'_, Result<(), StoreError>>;

    /// Stops forwarding to a sink, and says why; or, with `None`, lets it go on.
    fn pause(&self, sink: String, reason: Option<String>) -> Boxed<'_, Result<(), StoreError>>;

    /// Stops it because its peer refuses us, unless it is stopped already, or `replaced` has begun: then the refusal was another
    /// configuration's. Whether it did.
    fn halt(&self, sink: String, reason: String, replaced: Shutdown) -> Boxed<'_, Result<bool, StoreError>>;

    /// One step of letting go, from the id `from` on, oldest first: of up to `most` executions that are finished, told, and last changed
    /// before `before`, with all that belongs to them; and of receipts of none that were refused, or are conflicts. Never of anything undelivered, dead,
    /// quarantined or held, nor of what is linked to it. A step is short, and what it does is done in small transactions, so that
    /// callbacks are committed in between.
    /// Where there is an `export`, it has all of that before it goes.
    fn prune(
        &self,
        from: i64,
        before: Time,
        most: usize,
        export: Option<Arc<dyn Export>>,
    ) -> Boxed<'_, Result<Pruned, StoreError>>;

    /// How much room it takes now.
    fn extent(&self) -> Boxed<'_, Result<Extent, StoreError>>;

    /// Gives up to `bytes` that hold nothing back to the file system, in small transactions: how many. Nothing waits for
    /// it but the next commit for each.
    fn give_back(&self, bytes: u64) -> Boxed<'_, Result<u64, StoreError>>;

    /// Lets every sink go on whose pause has a reason that begins with `because`.
    fn resume(&self, because: String) -> Boxed<'_, Result<(), StoreError>>;

    /// Whether the store can take a callback right now, and if not, why.
    fn ready(&self) -> Result<(), StoreError>;

    /// What it means that something was kept, where that is not this program's own affair.
    fn promise(&self) -> Option<String> {
        None
    }

    /// Whether it has been closed: nothing more will be kept.
    fn is_closed(&self) -> bool;

    /// Finishes what was accepted, and closes.
    fn close(&self) -> Boxed<'_, ()>;
}
