//! Checkpoints: what is committed moves from the log into the file, off the hot path.
//!
//! A thread of its own copies while commits go on (SQLite's passive mode, which waits for nobody). Because they go on,
//! it never quite catches up; so when little is left, the writer copies that little between two commits, and the next
//! commit starts the log from its beginning. The log keeps its size, because one that need not grow is synced in half
//! the time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// The size of a page, as the file is made.
pub(super) const PAGE_BYTES: usize = 8192;
/// The log is copied when it has so many bytes, where the disk has room for it. While it is copied and the file is synced,
/// commits take several times as long: half as often is half as many callbacks that wait for it. But a daemon that was
/// killed reads and writes as much before it begins.
const BYTES: u64 = 64 << 20;
/// So many bytes it may have on any disk.
const BYTES_LEAST: u64 = 16 << 20;
/// What is left of it the writer copies itself, when it is less than this part.
const FEW: usize = 16;
/// With this many times as much in the log, the writer waits for the copy that is under way, for [`PATIENCE`] at most, and
/// copies the rest itself: a disk may take seconds to sync the file, or a busy machine forget the thread that copies, and
/// what came meanwhile would be more than the log ever holds again.
const TIMES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);
/// So often the thread tries to catch up before the writer has to copy the rest, however much it is: then callbacks
/// come in faster than the disk can take them, and a log without a bound would not help.
const ROUNDS: usize = 4;
/// After a failure it is not tried again sooner.
const AGAIN: Duration = Duration::from_secs(1);

/// What writer and checkpointer tell each other.
pub(super) struct Log {
    /// It is copied when it has so many pages, and again after as many.
    full: usize,
    /// The writer copies it when it has so many.
    most: AtomicUsize,
    /// Pages in the log after the latest commit.
    pages: AtomicUsize,
    /// The writer is to copy the rest.
    finish: AtomicBool,
    /// To be copied at the next commit, however small it is.
    wanted: AtomicBool,
    /// That commit is there; its last page is not known to be copied.
    due: AtomicBool,
    /// The last copy failed.
    failed: AtomicBool,
    /// The thread copies.
    copying: Mutex<bool>,
    copied: Condvar,
}

impl Log {
    /// One that is copied at `wanted` bytes, or at what is good for most; at less where a disk spares less than twice that.
    pub(super) fn new(wanted: Option<u64>, spare: u64) -> Log {
        let bytes = wanted.unwrap_or(BYTES).min(BYTES_LEAST.max(spare / 2));
        let full = (bytes.min(BYTES) as usize / PAGE_BYTES).max(1);
        Log {
            full,
            most: AtomicUsize::new(TIMES * full),
            pages: AtomicUsize::new(0),
            finish: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            due: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            copying: Mutex::new(false),
            copied: Condvar::new(),
        }
    }

    /// Has the log copied after the next commit: only then does the file itself grow or shrink.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Pages in it after the latest commit.
    pub(super) fn pages(&self) -> usize {
        self.pages.load(Ordering::Acquire)
    }

    fn copies(&self, copying: bool) {
        *self.copying.lock().unwrap_or_else(PoisonError::into_inner) = copying;
        if !copying {
            self.copied.notify_all();
        }
    }
}

/// Has every commit note the size of the log, and `wake` the checkpointer when it is large.
pub(super) fn watch(writer: &mut Connection, log: Arc<Log>, wake: SyncSender<()>) -> rusqlite::Result<()> {
    writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
        let pages = usize::try_from(pages).unwrap_or(0);
        log.pages.store(pages, Ordering::Release);
        let wanted = log.wanted.swap(false, Ordering::AcqRel);
        if wanted {
            log.due.store(true, Ordering::Release);
        }
        if pages >= log.full || wanted {
            // Full when it is awake already.
            let _ = wake.try_send(());
        }
        Ok(())
    }))
}

/// For the writer, between two commits: copies what the checkpointer left, or does not come to.
pub(super) fn finish(writer: &Connection, log: &Log) {
    let pages = log.pages();
    let is_much = pages >= log.most.load(Ordering::Relaxed);
    if is_much {
        let copying = log.copying.lock().unwrap_or_else(PoisonError::into_inner);
        drop(log.copied.wait_timeout_while(copying, PATIENCE, |copying| *copying));
    }
    if is_much || log.finish.load(Ordering::Acquire) {
        let is_whole = copy(writer, log).is_some_and(|copied| copied >= pages);
        log.finish.store(false, Ordering::Release);
        // In vain where somebody reads what was before: then not again for each commit.
        let in_vain = pages + log.full.div_ceil(FEW);
        log.most.store((TIMES * log.full).max(if is_whole { 0 } else { in_vain }), Ordering::Relaxed);
    }
}

/// For the writer, when there is nothing to commit: no commit may come for long that would have the rest copied. As long
/// as somebody reads what was before, it is in vain and comes again.
pub(super) fn rest(writer: &Connection, log: &Log) {
    finish(writer, log);
    if log.due.load(Ordering::Acquire) && copy(writer, log).is_some_and(|copied| copied >= log.pages()) {
        log.due.store(false, Ordering::Release);
    }
}

/// The checkpointer: runs until the writer's end of `woken` is gone.
pub(super) fn run(conn: &Connection, log: &Log, woken: &Receiver<()>) {
    let mut failed: Option<Instant> = None;
    while woken.recv().is_ok() {
        // Every commit wakes it, as long as the log is large.
        if failed.is_some_and(|at| at.elapsed() < AGAIN) {
            continue;
        }
        // Only one of the two copies at a time; the other would be refused.
        if log.finish.load(Ordering::Acquire) {
            continue;
        }
        failed = None;
        for _ in 0..ROUNDS {
            log.copies(true);
            let copied = copy(conn, log);
            log.copies(false);
            let Some(copied) = copied else {
                failed = Some(Instant::now());
                break;
            };
            if log.pages.load(Ordering::Acquire).saturating_sub(copied) <= log.full / FEW {
                break;
            }
        }
        // The writer has better to do than to fail, too.
        log.finish.store(failed.is_none(), Ordering::Release);
    }
}

/// Copies what can be copied without waiting for anybody: how many of the log's pages are in the file now, and none when a
/// commit was just changing what tells where the log ends. What a failed copy may have left undone is copied again by the
/// next: SQLite counts pages as copied only after the file was synced.
pub(super) fn copy(conn: &Connection, log: &Log) -> Option<usize> {
    let copied = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2));
    match copied {
        Ok(pages) => {
            if log.failed.swap(false, Ordering::AcqRel) {
                tracing::info!("checkpoints go through again");
            }
            // -1 says that it was busy, which is no fault and over at once.
            Some(usize::try_from(pages).unwrap_or(0))
        }
        Err(e) => {
            if !log.failed.swap(true, Ordering::AcqRel) {
                tracing::warn!(store.fault = %e, "checkpoints fail; the log grows until one succeeds");
            }
            None
        }
    }
}

/// Copies all of it, and gives the room that it takes back to the disk; in vain where somebody reads or copies, for whom
/// it does not wait.
pub(super) fn shorten(conn: &Connection, log: &Log) {
    let one = |pragma: &str| conn.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let Ok(patience_ms) = one("PRAGMA busy_timeout") else { return };
    let is_busy = one("PRAGMA busy_timeout = 0").and_then(|_| one("PRAGMA wal_checkpoint(TRUNCATE)"));
    if matches!(is_busy, Ok(0)) {
        log.pages.store(0, Ordering::Release);
    }
    let _ = one(&format!("PRAGMA busy_timeout = {patience_ms}"));
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;

    #[test]
    fn the_log_is_as_large_as_its_disk_allows() {
        let (kib, mib, gib) = (1 << 10, 1 << 20, 1 << 30);
        for (wanted, spare, bytes) in [
            (None, 128 * mib, 64 * mib),
            (None, 64 * mib, 32 * mib),
            (None, mib, 16 * mib),
            (Some(mib), gib, mib),
            (Some(48 * mib), 128 * mib, 48 * mib),
            (Some(64 * mib), 40 * mib, 20 * mib),
            (Some(gib), 10 * gib, 64 * mib),
            (Some(kib), 128 * mib, PAGE_BYTES as u64),
        ] {
            assert_eq!((Log::new(wanted, spare).full * PAGE_BYTES) as u64, bytes, "{wanted:?} of {spare}");
        }
    }

    /// Who writes, and what wakes who copies.
    fn watched(path: &std::path::Path, log: &Arc<Log>) -> (Connection, Receiver<()>) {
        let mut writer = open::writer(path).expect("made");
        writer.execute_batch("CREATE TABLE load (id INTEGER PRIMARY KEY, body BLOB)").expect("made");
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        watch(&mut writer, Arc::clone(log), wake).expect("watched");
        (writer, woken)
    }

    #[test]
    fn the_log_stays_small_under_constant_writing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let log = Arc::new(Log::new(None, 0));
        let (writer, woken) = watched(&path, &log);
        let checkpointer = std::thread::spawn({
            let (conn, log) = (open::checkpointer(&path).expect("opens"), Arc::clone(&log));
            move || run(&conn, &log, &woken)
        });
        // Fifty times what fits between two checkpoints.
        for _ in 0..50 * log.full / 16 {
            writer.execute("INSERT INTO load (body) VALUES (zeroblob(131072))", []).expect("written");
            finish(&writer, &log);
        }
        let bytes = std::fs::metadata(folder.path().join("store.db-wal")).expect("the log").len();
        assert!(bytes < ((TIMES + 1) * log.full * PAGE_BYTES) as u64, "the log has {bytes} bytes");
        drop(writer);
        checkpointer.join().expect("ends with the writer");
    }

    /// As on a machine that has no time for it.
    #[test]
    fn a_thread_that_never_comes_to_copy_is_not_needed_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let log = Arc::new(Log::new(Some(1 << 20), 1 << 30));
        let (writer, _asleep) = watched(&path, &log);
        let mut most = 0;
        for _ in 0..20 * log.full {
            writer.execute("INSERT INTO load (body) VALUES (zeroblob(8192))", []).expect("written");
            most = most.max(log.pages());
            finish(&writer, &log);
        }
        assert!((TIMES * log.full..TIMES * log.full + 64).contains(&most), "{most} pages, of {}", log.full);
    }

    /// What one reader holds up is what is committed while it reads, and it is over when that is over: it does not add up.
    #[test]
    fn who_reads_long_holds_the_log_up_for_as_long_and_no_longer() {
        const PINNED: usize = 300;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let log = Arc::new(Log::new(None, 0));
        let (writer, woken) = watched(&path, &log);
        let checkpointer = std::thread::spawn({
            let (conn, log) = (open::checkpointer(&path).expect("opens"), Arc::clone(&log));
            move || run(&conn, &log, &woken)
        });
        let insert = || {
            writer.execute("INSERT INTO load (body) VALUES (zeroblob(8192))", []).expect("written");
            finish(&writer, &log);
            log.pages()
        };
        let (mut most, mut pinned_most) = (0, 0);
        for _ in 0..10 {
            let reader = open::reader(&path).expect("opens");
            reader.execute_batch("BEGIN; SELECT count(*) FROM load").expect("reads");
            let before = insert();
            let after = (0..PINNED).map(|_| insert()).max().unwrap_or_default();
            pinned_most = pinned_most.max(after.saturating_sub(before));
            drop(reader);
            most = (0..1000 - PINNED).map(|_| insert()).max().unwrap_or_default().max(most);
        }
        let allowed = (TIMES + 1) * log.full + pinned_most;
        assert!(most <= allowed, "{most} pages, of which {pinned_most} came while somebody read");
        let bytes = std::fs::metadata(folder.path().join("store.db-wal")).expect("the log").len() as usize;
        assert!(bytes <= (allowed + 64) * 8300, "the log has {bytes} bytes");
        drop(writer);
        checkpointer.join().expect("ends with the writer");
    }
}
