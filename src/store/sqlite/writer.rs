//! The one writer: a thread that takes whatever commands are queued into one transaction (group commit).
//!
//! Nobody waits for a timer: while one transaction is being synced, the next one's commands gather. A caller hears of
//! its command only after the commit, and hears of a failed commit even if its own command was fine: then nothing of
//! the batch was kept.

use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Statement};

use super::super::queue::{Queue, Taken};
use super::call::Command;
use super::checkpoint::{self, Log};
use super::identity::Recent;
use super::reply::Replies;
use super::room::Watch;
use crate::measure::OfStore;
use crate::model::Time;
use crate::store::StoreError;

/// A commit that takes longer is a disk that does not answer.
const STUCK: Duration = Duration::from_secs(5);
/// So often it is tried whether a store that failed can be written again.
const AGAIN: Duration = Duration::from_secs(1);
/// What is said of a disk without room.
const FULL: &str = "the store's disk is full";

/// Why a command did not go through.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's: the transaction is spoiled.
    Sql(rusqlite::Error),
    /// An answer to the caller; nothing was written.
    Answer(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(e: rusqlite::Error) -> Fault {
        Fault::Sql(e)
    }
}

impl From<StoreError> for Fault {
    fn from(answer: StoreError) -> Fault {
        Fault::Answer(answer)
    }
}

/// What the writer tells the rest of the process without being asked.
#[derive(Default)]
pub(super) struct Health(Mutex<Course>);

#[derive(Default)]
struct Course {
    /// Why the last commit failed; `None` after one that went through.
    fault: Option<String>,
    /// Too little room is left on the disk for callbacks.
    no_room: bool,
    /// Since when the disk is at work on one.
    since: Option<Instant>,
}

impl Health {
    /// Why a callback could not be kept now.
    pub(super) fn fault(&self) -> Option<String> {
        let course = self.lock();
        if course.no_room {
            return Some(FULL.to_owned());
        }
        let is_stuck = || course.since.is_some_and(|since| since.elapsed() > STUCK);
        course.fault.clone().or_else(|| is_stuck().then(|| "the store's disk does not answer".to_owned()))
    }

    /// Why no callback is taken, though something else could be written.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        self.lock().no_room.then_some(FULL)
    }

    /// The disk is full, or all but full.
    pub(super) fn is_full(&self) -> bool {
        let course = self.lock();
        course.no_room || course.fault.as_deref() == Some(FULL)
    }

    /// Whether there is room for callbacks; whether that is news.
    pub(super) fn has_room(&self, has_room: bool) -> bool {
        std::mem::replace(&mut self.lock().no_room, !has_room) == has_room
    }

    fn began(&self) {
        self.lock().since = Some(Instant::now());
    }

    /// Nothing came of the commit that began.
    fn rests(&self) {
        self.lock().since = None;
    }

    /// What came of the commit that began; whether that is news.
    fn ended(&self, fault: Option<&str>) -> bool {
        let mut course = self.lock();
        course.since = None;
        let is_news = course.fault.as_deref() != fault;
        if is_news {
            course.fault = fault.map(str::to_owned);
        }
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, Course> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open transaction, as commands see it: the statements of the hot path prepared once, and the ids.
pub(super) struct Tx<'c> {
    pub(super) conn: &'c Connection,
    pub(super) sql: Prepared<'c>,
    pub(super) recent: Recent,
    last_id: i64,
}

impl Tx<'_> {
    /// The latest id that was given out.
    pub(super) fn last_id(&self) -> i64 {
        self.last_id
    }

    /// A new id: the time in microseconds, or one more than the last.
    pub(super) fn new_id(&mut self, now: Time) -> i64 {
        self.last_id = now.micros().max(self.last_id + 1);
        self.last_id
    }
}

macro_rules! prepared {
    ($($(#[$doc:meta])* $name:ident: $sql:literal;)*) => {
        /// The statements of the hot path.
        pub(super) struct Prepared<'c> { $($(#[$doc])* pub(super) $name: Statement<'c>,)* }

        /// All of them, for the test that asks how each is carried out.
        #[cfg(test)]
        pub(super) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $sql),)*];

        impl<'c> Prepared<'c> {
            fn new(conn: &'c Connection) -> rusqlite::Result<Prepared<'c>> {
                Ok(Prepared { $($name: conn.prepare($sql)?,)* })
            }
        }
    };
}

prepared! {
    begin: "BEGIN IMMEDIATE";
    commit: "COMMIT";
    /// Of a receipt that says something new of one execution, as nearly all do: what is not bound costs next to nothing.
    insert_accepted: "INSERT INTO receipts (id, source, status, received_at, peer, headers, body, body_bytes, execution)
                      VALUES (?1, ?2, 'accepted', ?3, ?4, ?5, ?6, length(?6), ?7)";
    insert_receipt: "INSERT INTO receipts (id, source, status, received_at, peer, headers, body, body_bytes, digest, reason, execution, executions)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    identities: "SELECT execution FROM identities WHERE hash = ?1";
    fold: "INSERT OR IGNORE INTO identities (hash, execution) VALUES (?1, ?2)";
    find_head: "SELECT id, source, key, seen, sequence, snapshot FROM execution_heads WHERE id = ?1";
    insert_head: "INSERT INTO execution_heads (id, source, key, seen, status, change, sequence, type, receipt, received_at, snapshot)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?9, ?10)";
    set_aside: "INSERT INTO earlier_changes (id, execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot)
                SELECT change, id, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
                FROM execution_heads WHERE id = ?1";
    update_head: "UPDATE execution_heads SET seen = ?2, status = ?3, previous = change, change = ?4, sequence = ?5, type = ?6, previous_status = ?7,
                  changed_tasks = ?8, receipt = ?9, received_at = ?10, snapshot = ?11 WHERE id = ?1";
    expect: "INSERT INTO inquiries (id, source, due_at, leased, asked, failures) VALUES (?1, ?2, ?3, 0, 0, 0)";
    answered: "DELETE FROM inquiries WHERE id = ?1";
    is_behind: "SELECT EXISTS (SELECT 1 FROM deliveries WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL)";
    supersede: "UPDATE deliveries SET status = 'discarded', reason = 'superseded', due_at = NULL, finished_at = ?3
                WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL AND status = 'waiting'";
    insert_delivery: "INSERT INTO deliveries (id, execution, sink, change, status, due_at, attempts, created_at, finished_at, until_linked, reason)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, 0, ?9)";
    /// Most deliveries tell the latest change, which stands with its execution.
    due: "SELECT d.id, d.execution, d.change, d.attempts, d.created_at, d.resume,
                 iif(c.id IS NULL, h.sequence, c.sequence), iif(c.id IS NULL, h.type, c.type),
                 iif(c.id IS NULL, h.previous_status, c.previous_status), iif(c.id IS NULL, h.changed_tasks, c.changed_tasks),
                 iif(c.id IS NULL, h.receipt, c.receipt), iif(c.id IS NULL, h.received_at, c.received_at), iif(c.id IS NULL, h.snapshot, c.snapshot)
          FROM (SELECT id, due_at FROM deliveries WHERE finished_at IS NULL AND status = 'leased' AND sink = ?1 AND due_at <= ?4
                UNION ALL
                SELECT id, due_at FROM deliveries WHERE finished_at IS NULL AND status = 'waiting' AND sink = ?1 AND due_at <= ?2
                ORDER BY due_at LIMIT ?3) q
               JOIN deliveries d ON d.id = q.id JOIN execution_heads h ON h.id = d.execution LEFT JOIN earlier_changes c ON c.id = d.change
          ORDER BY q.due_at";
    next_due: "SELECT min(due_at)
               FROM (SELECT min(due_at) AS due_at FROM deliveries WHERE finished_at IS NULL AND status = 'leased' AND sink = ?1
                     UNION ALL
                     SELECT min(due_at) FROM deliveries WHERE finished_at IS NULL AND status = 'waiting' AND sink = ?1 AND due_at IS NOT NULL)";
    is_linked: "SELECT max(id) IS NOT NULL FROM links";
    is_paused: "SELECT EXISTS (SELECT 1 FROM sink_pauses WHERE sink = ?1)";
    lease: "UPDATE deliveries SET status = 'leased', due_at = ?2 WHERE id = ?1";
    release: "UPDATE deliveries SET status = 'waiting', due_at = created_at WHERE id = ?1 AND status = 'leased' AND due_at = ?2";
    hurry: "UPDATE deliveries SET due_at = ?2
            WHERE finished_at IS NULL AND status = 'waiting' AND sink = ?1 AND due_at > ?2 AND due_at <= ?3 AND attempts > 0 AND until_linked = 0";
    links: "SELECT h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.with_execution WHERE l.execution = ?1
            UNION ALL
            SELECT h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.execution WHERE l.with_execution = ?1";
    /// Of one row, and without RETURNING: SQLite would copy each page first that it changes.
    settle: "UPDATE deliveries SET status = ?3, due_at = ?4, attempts = attempts + ?5, finished_at = ?6, until_linked = ?7, resume = ?8, reason = ?9
             WHERE id = ?1 AND status = 'leased' AND due_at = ?2";
    insert_attempt: "INSERT INTO attempts (id, delivery, started_at, duration_ms, outcome, status, reason, answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    /// The same behind this one.
    hand_on: "UPDATE deliveries SET due_at = ?2 WHERE due_at IS NULL AND id =
              (SELECT n.id FROM deliveries d CROSS JOIN deliveries n ON n.execution = d.execution AND n.sink = d.sink AND n.finished_at IS NULL
               WHERE d.id = ?1 ORDER BY n.id LIMIT 1)";
    next_in_line: "UPDATE deliveries SET due_at = ?3 WHERE due_at IS NULL AND id =
                   (SELECT id FROM deliveries WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL ORDER BY id LIMIT 1)";
}

/// Prepares the transaction that every batch goes through.
pub(super) fn prepare(conn: &Connection) -> rusqlite::Result<Tx<'_>> {
    // A change's id has no index to ask for the last one. Each comes after the id of a receipt or an attempt of the same
    // command, and no command takes a million ids.
    let last_id: i64 = conn.query_row(
        "SELECT 1000000 + max(coalesce((SELECT max(id) FROM receipts), 0), coalesce((SELECT max(id) FROM execution_heads), 0),
                              coalesce((SELECT max(id) FROM deliveries), 0), coalesce((SELECT max(id) FROM attempts), 0),
                              coalesce((SELECT max(id) FROM links), 0), coalesce((SELECT max(id) FROM asides), 0))",
        [],
        |row| row.get(0),
    )?;
    Ok(Tx { conn, sql: Prepared::new(conn)?, recent: Recent::load(conn)?, last_id })
}

/// Says over `begun` whether it could begin, then runs until the queue is closed and empty.
pub(super) fn run(
    conn: &Connection,
    queue: &Queue<Box<dyn Command>>,
    health: &Health,
    log: &Log,
    replies: &Replies,
    measures: &OfStore,
    begun: &SyncSender<rusqlite::Result<()>>,
) {
    let mut tx = match prepare(conn) {
        Ok(tx) => tx,
        Err(e) => {
            // Whoever opens the store waits for this word.
            let _ = begun.send(Err(e));
            return;
        }
    };
    let _ = begun.send(Ok(()));
    let mut batch: Vec<Box<dyn Command>> = Vec::new();
    let (mut room, mut tried) = (Watch::default(), Instant::now());
    loop {
        match queue.take(&mut batch, AGAIN) {
            Taken::Closed => return,
            Taken::Nothing => checkpoint::rest(conn, log),
            Taken::Items => {
                let (began, commands) = (Instant::now(), batch.len() as u64);
                commit(&mut tx, &mut batch, health, replies, measures);
                measures.commit.add_time(began.elapsed());
                measures.batch.add(commands);
                checkpoint::finish(conn, log);
                measures.log_bytes.set((log.pages() * checkpoint::PAGE_BYTES) as i64);
                room.look(conn, health, log);
            }
        }
        // So that it is ready again without a caller's help: what is asked of it meanwhile may have nothing to write.
        if health.fault().is_some() && tried.elapsed() >= AGAIN {
            tried = Instant::now();
            room.look(conn, health, log);
            health.began();
            health.ended(probe(conn).err().map(|e| explain(&e)));
        }
    }
}

/// Carries out the batch in one transaction and tells every caller.
fn commit(tx: &mut Tx<'_>, batch: &mut Vec<Box<dyn Command>>, health: &Health, replies: &Replies, measures: &OfStore) {
    health.began();
    let before = tx.conn.total_changes();
    match try_commit(tx, batch) {
        Ok(()) => {
            // A commit that had nothing to write says nothing about the disk.
            match tx.conn.total_changes() == before {
                true => health.rests(),
                false => drop(health.ended(None)),
            }
            replies.give(batch, Ok(()));
        }
        // One command that SQLite refuses must not take the others with it.
        Err(e) if batch.len() > 1 && !is_environment(&e) => {
            for command in batch.drain(..) {
                commit(tx, &mut vec![command], health, replies, measures);
            }
        }
        Err(e) => {
            measures.failed.add();
            let reason = explain(&e);
            // What SQLite refuses of one command says nothing of the others: whether they would be kept is tried.
            let fault = match is_environment(&e) {
                true => Some(reason),
                false => probe(tx.conn).err().map(|e| explain(&e)),
            };
            match (health.ended(fault), fault) {
                (true, Some(_)) => tracing::error!(
                    store.fault = %e,
                    "a commit failed: nothing of it is kept, and senders are told 503 until one goes through"
                ),
                (_, None) => tracing::error!(store.fault = %e, "SQLite refused a command, of which nothing is kept"),
                (false, Some(_)) => {}
            }
            replies.give(batch, Err(StoreError::Unavailable(reason.to_owned())));
        }
    }
}

fn try_commit(tx: &mut Tx<'_>, batch: &mut [Box<dyn Command>]) -> rusqlite::Result<()> {
    tx.sql.begin.execute([])?;
    let done = batch
        .iter_mut()
        .try_for_each(|command| command.run(tx))
        .and_then(|()| tx.recent.fold(tx.conn, &mut tx.sql.fold))
        .and_then(|()| tx.sql.commit.execute([]).map(drop));
    match done {
        Ok(()) => tx.recent.committed(),
        Err(_) => {
            if !tx.conn.is_autocommit() {
                // Fails only when SQLite has rolled back already.
                let _ = tx.conn.execute_batch("ROLLBACK");
            }
            tx.recent.rolled_back();
        }
    }
    done
}

/// A fault of disk or file system, which every command would meet.
fn is_environment(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
        )
    )
}

fn explain(e: &rusqlite::Error) -> &'static str {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => FULL,
        Some(ErrorCode::ReadOnly) => "the store is read-only",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program holds the store's lock",
        Some(ErrorCode::SystemIoFailure) => "the store's disk fails",
        _ => "the store cannot commit",
    }
}

/// Whether a commit would go through.
fn probe(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE; CREATE TABLE probe (x); DROP TABLE probe; COMMIT").inspect_err(|_| {
        if !conn.is_autocommit() {
            let _ = conn.execute_batch("ROLLBACK");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::call::command;
    use super::*;

    #[test]
    fn a_store_that_failed_is_tried_again_however_much_is_asked_that_writes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = super::super::open::writer(&folder.path().join("store.db")).expect("made");
        let (queue, health) = (Queue::<Box<dyn Command>>::new(8, 1 << 20), Health::default());
        let ask = |sql: &'static str| {
            let (command, heard) = command(move |tx| Ok(tx.conn.execute_batch(sql)?));
            assert!(queue.put(command, 1).is_ok());
            heard.blocking_recv().expect("a reply").0
        };
        let (begun, begins) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let (queue, health) = (&queue, &health);
            scope.spawn(move || {
                run(&conn, queue, health, &Log::new(None, 0), &Replies::begin(), &OfStore::default(), &begun)
            });
            begins.recv().expect("a word").expect("begins");
            let nothing = "DELETE FROM receipts WHERE id < 0";
            let too_much = "CREATE TABLE load AS SELECT zeroblob(1000000)";
            let done = [ask("PRAGMA max_page_count = 1"), ask(too_much), ask("PRAGMA max_page_count = 100000")];
            let fault = health.fault();
            let deadline = Instant::now() + Duration::from_secs(60);
            while health.fault().is_some() && Instant::now() < deadline {
                let _ = ask(nothing);
            }
            queue.close();
            assert_eq!(done.map(|done| done.is_ok()), [true, false, true]);
            assert_eq!(fault.as_deref(), Some("the store's disk is full"));
            assert_eq!(health.fault(), None, "nobody tried");
        });
    }
}
