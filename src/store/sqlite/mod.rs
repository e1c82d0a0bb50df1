//! The store in one SQLite file.
//!
//! One thread writes, in group commits; one makes checkpoints; readers have connections of their own. The file is
//! locked by the process that writes. See `ARCHITECTURE.md` for the schema.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use self::call::Command;
use self::checkpoint::Log;
use self::fresh::Fresh;
use self::read::Readers;
use self::reply::Replies;
use self::writer::Health;
use super::lent::Lent;
use super::queue::Queue;
use super::rules::{self, Asked, Ready, ReadyAgain, ReadyLateness, ReadyRuling, ReadySettlement};
use super::{
    Claim, DeliveryFilter, Export, Extent, Inquiries, Lateness, Parsed, Pruned, Queries, Recorded, Ruling, Settlement,
    Store, StoreError,
};
use crate::Boxed;
use crate::measure::OfStore;
use crate::model::{Receipt, Rules, Time};
use crate::shutdown::Shutdown;

mod backup;
mod call;
mod checkpoint;
mod claim;
mod deliver;
mod fresh;
mod history;
mod identity;
mod inquire;
mod news;
mod open;
mod outlook;
mod pause;
#[cfg(test)]
mod plans;
pub mod portable;
mod probe;
mod prune;
mod read;
mod reply;
mod room;
mod set_back;
mod survey;
mod tables;
mod unload;
mod writer;

pub use backup::{Contents, Copied};
pub use probe::probe;
pub use survey::{Backlog, Oddity, Schema, Survey, Traffic};

/// Whoever held a lease is gone.
const TAKE_OVER: &str =
    "UPDATE deliveries SET status = 'waiting', due_at = 0 WHERE finished_at IS NULL AND status = 'leased'";

/// The same of who asked a vendor.
const TAKE_OVER_INQUIRIES: &str = "UPDATE inquiries SET leased = 0, due_at = 0 WHERE leased = 1";

/// How the store is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Commands waiting to be committed at one time.
    pub queue_max: usize,
    /// Bytes of bodies waiting to be committed at one time.
    pub queue_bytes_max: usize,
    /// Connections that read.
    pub readers: usize,
    /// Bytes of the log at which it is copied into the file; nothing said: by the size of the disk.
    pub log_bytes: Option<u64>,
    /// What it does, in figures.
    pub measures: Arc<OfStore>,
}

impl Default for Options {
    fn default() -> Options {
        Options { queue_max: 4096, queue_bytes_max: 64 << 20, readers: 3, log_bytes: None, measures: Arc::default() }
    }
}

/// The store, open for writing.
pub struct SqliteStore {
    queue: Arc<Queue<Box<dyn Command>>>,
    health: Arc<Health>,
    log: Arc<Log>,
    readers: Readers,
    fresh: Arc<Fresh>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    writer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    _lock: open::Lock,
}

/// That there is a store, as far as this user may look.
pub fn find(path: &Path) -> Result<(), StoreError> {
    match path.try_exists() {
        Ok(true) => open::has_one_name(path),
        Ok(false) => Err(StoreError::NotFound(format!("there is no store at {}", path.display()))),
        // The daemon's folder is its own: others have to be root to look into it.
        Err(e) => Err(StoreError::Unusable(format!("the store at {} cannot be looked at: {e}", path.display()))),
    }
}

/// The store, open for reading only: beside a daemon that writes, or alone.
pub fn open_read_only(path: &Path) -> Result<Box<dyn Queries>, StoreError> {
    find(path)?;
    let readers = Readers::new(path.to_owned(), 1);
    readers.check()?;
    Ok(Box::new(readers))
}

impl SqliteStore {
    /// Opens or makes the file, takes its lock, brings its schema up to date, and takes over every lease: whoever held
    /// one is gone.
    pub fn open(path: &Path, options: &Options) -> Result<SqliteStore, StoreError> {
        let lock = open::Lock::take(path)?;
        let mut conn = open::writer(path)?;
        portable::refuse(&conn, path)?;
        let unusable = |e: rusqlite::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
        conn.execute(TAKE_OVER, []).and_then(|_| conn.execute(TAKE_OVER_INQUIRIES, [])).map_err(unusable)?;
        let queue = Arc::new(Queue::new(options.queue_max, options.queue_bytes_max));
        let health = Arc::new(Health::default());
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|e| StoreError::Unusable(format!("no thread for the store: {e}")))
        };
        let log = Arc::new(Log::new(options.log_bytes, room::extent(&conn, path)?.spare()));
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        checkpoint::watch(&mut conn, Arc::clone(&log), wake).map_err(unusable)?;
        let checkpointer = spawn("store-checkpoint", {
            let (conn, log) = (open::checkpointer(path)?, Arc::clone(&log));
            Box::new(move || checkpoint::run(&conn, &log, &woken))
        })?;
        let (begun, begins) = std::sync::mpsc::sync_channel(1);
        let writer = spawn("store-writer", {
            let (queue, health, log) = (Arc::clone(&queue), Arc::clone(&health), Arc::clone(&log));
            let (replies, measures) = (Replies::begin(), Arc::clone(&options.measures));
            Box::new(move || {
                // However this thread ends, nobody is to wait for it; and with its connection the checkpointer ends.
                let _closing = CloseOnDrop(Arc::clone(&queue));
                writer::run(&conn, &queue, &health, &log, &replies, &measures, &begun);
            })
        })?;
        match begins.recv() {
            Ok(begun) => begun.map_err(unusable)?,
            Err(_) => return Err(StoreError::Unusable(format!("{}: the writer did not begin", path.display()))),
        }
        let threads = Threads { writer, checkpointer, _lock: lock };
        let readers = Readers::new(path.to_owned(), options.readers);
        Ok(SqliteStore { queue, health, log, readers, fresh: Arc::default(), threads: Mutex::new(Some(threads)) })
    }
}

struct CloseOnDrop(Arc<Queue<Box<dyn Command>>>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
        // What was queued after the end: dropping the commands tells their callers.
        self.0.take(&mut Vec::new(), std::time::Duration::ZERO);
    }
}

impl Lent for SqliteStore {
    fn readers(&self) -> &dyn Queries {
        &self.readers
    }
}

impl Store for SqliteStore {
    fn record(
        &self,
        receipt: Receipt,
        parsed: Parsed,
        rules: Arc<Rules>,
    ) -> Boxed<'static, Result<Recorded, StoreError>> {
        if let Some(reason) = self.health.refusal() {
            return Box::pin(std::future::ready(Err(StoreError::Unavailable(reason.to_owned()))));
        }
        let ready = Arc::new(Ready::new(receipt, parsed, rules));
        let of_writer = Arc::clone(&ready);
        let recorded = self.put(ready.weight(), move |tx| of_writer.record(tx));
        let fresh = Arc::clone(&self.fresh);
        Box::pin(async move {
            let recorded = recorded.await?;
            if !recorded.wake.is_empty()
                && let Some((execution, held, bytes)) = Arc::into_inner(ready).and_then(|r| r.into_first(&recorded))
            {
                fresh.keep(execution, held, bytes);
            }
            Ok(recorded)
        })
    }

    fn record_again(
        &self,
        receipt: i64,
        parsed: Parsed,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Recorded, StoreError>> {
        Box::pin(async move {
            let (row, body) = self.receipt(receipt).await?;
            let ready = ReadyAgain::new(receipt, (&row, &body), parsed, rules, now);
            self.call(move |tx| ready.record(tx)).await
        })
    }

    fn claim_inquiries(
        &self,
        source: String,
        limit: usize,
        lease_ms: u64,
        asks: bool,
        now: Time,
    ) -> Boxed<'_, Result<Inquiries, StoreError>> {
        Box::pin(async move {
            let until = now.plus_ms(lease_ms);
            let claim = self.call(move |tx| inquire::claim(tx, &source, limit, asks, now, until));
            let (claimed, next_due) = claim.await?;
            Ok(Inquiries { due: claimed.into_iter().filter_map(Asked::into_inquiry).collect(), next_due })
        })
    }

    fn rule(
        &self,
        receipt: i64,
        ruling: Ruling,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move {
            let ready = match ruling {
                Ruling::Confirmed(updates) => {
                    let (row, body) = self.receipt(receipt).await?;
                    let parsed = Parsed::Updates(updates);
                    ReadyRuling::Confirmed(ReadyAgain::new(receipt, (&row, &body), parsed, rules, now))
                }
                Ruling::Refused(reason) => ReadyRuling::Refused(reason),
                Ruling::Waits { due_at, answered, reason } => ReadyRuling::Waits { due_at, answered, reason },
            };
            self.call(move |tx| ready.settle(tx, receipt, now)).await
        })
    }

    fn settle_late(
        &self,
        source: String,
        execution: i64,
        lateness: Lateness,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        let ready = ReadyLateness::new(source, lateness, &rules, now);
        self.call(move |tx| ready.settle(tx, execution, &rules, now))
    }

    fn hurry_inquiries(&self, source: String, now: Time) -> Boxed<'_, Result<(), StoreError>> {
        self.call(move |tx| inquire::hurry(tx, &source, now))
    }

    fn claim(
        &self,
        sink: String,
        limit: usize,
        lease_ms: u64,
        by: Time,
        now: Time,
    ) -> Boxed<'_, Result<Claim, StoreError>> {
        Box::pin(self.claim_window(sink, limit, lease_ms, by, now))
    }

    fn release(&self, deliveries: Vec<i64>, lease: Time) -> Boxed<'_, Result<(), StoreError>> {
        self.call(move |tx| claim::release(tx, &deliveries, lease))
    }

    fn settle_all(
        &self,
        settlements: Vec<Settlement>,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        let ready: Vec<_> = settlements.into_iter().map(|one| ReadySettlement::new(one, &rules, now)).collect();
        self.call(move |tx| rules::settle_all(tx, &ready, &rules, now))
    }

    fn retry(&self, filter: DeliveryFilter, now: Time) -> Boxed<'_, Result<u64, StoreError>> {
        let chunk = move |filter: DeliveryFilter, after| self.call(move |tx| deliver::retry(tx, &filter, after, now));
        Box::pin(rules::in_chunks(filter, chunk))
    }

    fn discard(&self, filter: DeliveryFilter, now: Time) -> Boxed<'_, Result<u64, StoreError>> {
        let chunk = move |filter: DeliveryFilter, after| self.call(move |tx| deliver::discard(tx, &filter, after, now));
        Box::pin(rules::in_chunks(filter, chunk))
    }

    fn hurry(&self, sink: String, by: Time, now: Time) -> Boxed<'_, Result<(), StoreError>> {
        self.call(move |tx| deliver::hurry(tx, &sink, by, now))
    }

    fn set_back(&self, sink: String, by_ms: Option<u64>, now: Time) -> Boxed<'_, Result<u64, StoreError>> {
        Box::pin(self.move_back(sink, by_ms, now))
    }

    fn set_back_inquiries(&self, source: String, by_ms: Option<u64>, now: Time) -> Boxed<'_, Result<(), StoreError>> {
        self.call(move |tx| inquire::set_back(tx, &source, by_ms, now))
    }

    fn pause(&self, sink: String, reason: Option<String>) -> Boxed<'_, Result<(), StoreError>> {
        self.call(move |tx| pause::pause(tx, &sink, reason.as_deref()))
    }

    fn halt(&self, sink: String, reason: String, replaced: Shutdown) -> Boxed<'_, Result<bool, StoreError>> {
        self.call(move |tx| pause::halt(tx, &sink, &reason, &replaced))
    }

    fn resume(&self, because: String) -> Boxed<'_, Result<(), StoreError>> {
        self.call(move |tx| pause::resume(tx, &because))
    }

    fn prune(
        &self,
        from: i64,
        before: Time,
        most: usize,
        export: Option<Arc<dyn Export>>,
    ) -> Boxed<'_, Result<Pruned, StoreError>> {
        Box::pin(self.let_go(from, before, most, export))
    }

    fn extent(&self) -> Boxed<'_, Result<Extent, StoreError>> {
        self.readers.extent()
    }

    fn give_back(&self, bytes: u64) -> Boxed<'_, Result<u64, StoreError>> {
        Box::pin(self.shrink(bytes))
    }

    fn ready(&self) -> Result<(), StoreError> {
        if self.queue.is_closed() {
            return Err(StoreError::Unavailable("the store is closed".to_owned()));
        }
        self.health.fault().map_or(Ok(()), |reason| Err(StoreError::Unavailable(reason)))
    }

    fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            self.queue.close();
            let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(threads) = threads else { return };
            // Joining waits for the last commit; not something to do on a thread that serves others.
            let joined = tokio::task::spawn_blocking(move || {
                let writer = threads.writer.join();
                threads.checkpointer.join().and(writer)
            });
            if !matches!(joined.await, Ok(Ok(()))) {
                tracing::error!("a thread of the store panicked");
            }
        })
    }
}
