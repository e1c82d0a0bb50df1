//! Opening the file: the lock, the settings that the promises rest on, and the schema.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::store::StoreError;

/// The schema, a step a version; `user_version` counts the steps taken. Append only.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_inquiries.sql"),
    include_str!("../migrations/0003_lists.sql"),
    include_str!("../migrations/0004_backlog.sql"),
    include_str!("../migrations/0005_asides.sql"),
];

/// Held by the one process that may write. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(store: &Path) -> Result<Lock, StoreError> {
        Lock::try_take(store)?.ok_or_else(|| {
            StoreError::Unusable(format!(
                "{} is in use by another callbackd, a daemon or a command; ask that one, or stop it first",
                store.display()
            ))
        })
    }

    /// The same; `None` while another has it.
    pub(super) fn try_take(store: &Path) -> Result<Option<Lock>, StoreError> {
        let mut path = store.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let fault = |e: std::io::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
        let file = private(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(fault(e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a program that is being started right now has this file, too, for a moment.
        let _ = self.0.unlock();
    }
}

/// Made for its owner alone: callbacks hold what people typed. SQLite gives its other files the same mode.
fn private(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn unusable(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
    let path = path.display().to_string();
    move |e| StoreError::Unusable(format!("{path}: {e}"))
}

/// Writes the log that an earlier process left once more, as it reads, and syncs it.
///
/// A sync that fails leaves pages in the kernel's cache that look clean and are on no disk; a later sync says that all is
/// well without having written them. Within one process SQLite does not build on them: a commit that failed is undone, and
/// the next one writes its frames over them, in the same places. But a process that is killed, or restarted because its disk
/// failed, leaves the log to the next one, which would find whole commits in the cache and put its own behind them; after a
/// power cut the chain of frames would be broken in front of everything that was acknowledged since. What is written again
/// is dirty again, and this sync answers for it. (A checkpoint whose sync failed is no danger: its frames stay in the log, and
/// are copied again.)
fn write_log_again(store: &Path) -> io::Result<()> {
    let mut path = store.as_os_str().to_owned();
    path.push("-wal");
    let log = match File::options().read(true).write(true).open(PathBuf::from(path)) {
        Ok(log) => log,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let (mut bytes, mut at) = (vec![0; 1 << 20], 0);
    loop {
        match log.read_at(&mut bytes, at)? {
            0 => break,
            read => {
                log.write_all_at(&bytes[..read], at)?;
                at += read as u64;
            }
        }
    }
    if at > 0 { log.sync_all() } else { Ok(()) }
}

/// The connection that writes, with the schema brought up to date.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    let fault = unusable(path);
    write_log_again(path).map_err(|e| StoreError::Unusable(format!("{}-wal: {e}", path.display())))?;
    private(path).map_err(|e| StoreError::Unusable(format!("{}: {e}", path.display())))?;
    has_one_name(path)?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(&fault)?;
    is_ours(&conn, path)?;
    // The page size and auto-vacuum can only be chosen before the first table. FULL syncs the log at every commit,
    // which is what a 2xx stands for. Checkpoints are made by a thread of their own, never within a commit.
    conn.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;",
    )
    .map_err(&fault)?;
    // A plan is made once. Without this, SQLite looks at the value of a LIMIT, and makes the plan anew for another one.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(&fault)?;
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(&fault)?;
    if mode != "wal" {
        return Err(StoreError::Unusable(format!(
            "{}: this file system cannot hold a write-ahead log",
            path.display()
        )));
    }
    migrate(&conn, path)?;
    Ok(conn)
}

/// A connection that only reads; never waits for the writer.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let (conn, version) = reader_of_any(path)?;
    if version < MIGRATIONS.len() {
        return Err(StoreError::Unusable(format!(
            "{} has schema {version}, this callbackd reads schema {}; start the daemon once to bring it up to date",
            path.display(),
            MIGRATIONS.len()
        )));
    }
    Ok(conn)
}

/// The same, of this schema or an earlier one; and which.
pub(super) fn reader_of_any(path: &Path) -> Result<(Connection, usize), StoreError> {
    let fault = unusable(path);
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(&fault)?;
    conn.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA cache_size = -1024; PRAGMA query_only = 1;")
        .map_err(&fault)?;
    let version = version_of(&conn, path)?;
    Ok((conn, version))
}

/// A connection that only looks at a file beside which there is no log, and makes none: for as long as nobody writes it.
pub(super) fn glance(path: &Path) -> Result<Connection, StoreError> {
    let fault = unusable(path);
    let name = path.to_str().ok_or_else(|| StoreError::Unusable(format!("{}: not UTF-8", path.display())))?;
    let uri = format!("file:{}?immutable=1", urlencoding::encode(name).replace("%2F", "/"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri, flags).map_err(fault)
}

/// Refuses a file of several names: SQLite's log goes by one of them, so that under another one what it holds is missing.
pub(super) fn has_one_name(path: &Path) -> Result<(), StoreError> {
    let Ok(file) = path.metadata() else { return Ok(()) };
    let names = match file.is_file() {
        true if file.nlink() <= 1 => return Ok(()),
        true => file.nlink(),
        false => return Err(StoreError::Unusable(format!("{} is no file", path.display()))),
    };
    Err(StoreError::Unusable(format!(
        "{} is one of {names} names of the same file (hard links), and what SQLite writes beside a file goes by its name; remove \
         the others, which `find -samefile` finds, and use the name that was used until now; for a copy, `callbackd backup`",
        path.display()
    )))
}

/// Refuses a file that is not empty, and no store either. A newer one is refused, too.
pub(super) fn is_ours(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let version = version_of(conn, path)?;
    let sql = "SELECT count(*), count(*) FILTER (WHERE type = 'table' AND name IN ('receipts', 'execution_heads', 'deliveries',
                   'folded')) FROM sqlite_schema";
    let found = conn.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    let (all, ours) = found.map_err(unusable(path))?;
    if if version == 0 { all == 0 } else { ours == 4 } {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{} is a database of somebody else, and no store of callbackd's; name another file",
        path.display()
    )))
}

/// A store of schema `version` that holds nothing, in memory.
pub(super) fn empty(version: usize) -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    for step in &MIGRATIONS[..version.min(MIGRATIONS.len())] {
        conn.execute_batch(step)?;
    }
    Ok(conn)
}

/// The connection that makes checkpoints.
pub(super) fn checkpointer(path: &Path) -> Result<Connection, StoreError> {
    let fault = unusable(path);
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(&fault)?;
    conn.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 100; PRAGMA cache_size = -64;",
    )
    .map_err(&fault)?;
    Ok(conn)
}

fn version_of(conn: &Connection, path: &Path) -> Result<usize, StoreError> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unusable(path))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    is_known(version, path)?;
    Ok(version)
}

/// Whether this callbackd can read and write a store of this schema.
pub(super) fn is_known(version: usize, path: &Path) -> Result<(), StoreError> {
    if version > MIGRATIONS.len() {
        return Err(StoreError::Unusable(format!(
            "{} has schema {version}, newer than this callbackd, which knows schema {}; install the callbackd that \
             wrote it, or a later one",
            path.display(),
            MIGRATIONS.len()
        )));
    }
    Ok(())
}

fn migrate(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let fault = unusable(path);
    let version = version_of(conn, path)?;
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(version) {
        let batch = format!("BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {}; COMMIT;", step + 1);
        if let Err(e) = conn.execute_batch(&batch) {
            // A failed step leaves the schema as it was.
            let _ = conn.execute_batch("ROLLBACK");
            return Err(fault(e));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_and_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        drop(writer(&path).expect("made"));
        Connection::open(&path).expect("opens").execute_batch("PRAGMA user_version = 99").expect("set");
        let refused = writer(&path).expect_err("refused").to_string();
        assert!(refused.contains("schema 99, newer than this callbackd"), "{refused}");
        let refused = reader(&path).expect_err("refused").to_string();
        assert!(refused.contains("newer"), "{refused}");
    }

    #[test]
    fn a_log_that_was_left_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = (folder.path().join("store.db"), folder.path().join("store.db-wal"));
        write_log_again(&path).expect("no log yet");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        std::fs::write(&log, &bytes).expect("written");
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        File::options().write(true).open(&log).and_then(|log| log.set_modified(long_ago)).expect("set");
        write_log_again(&path).expect("written");
        assert_eq!(std::fs::read(&log).expect("read"), bytes, "as it was");
        let changed = std::fs::metadata(&log).and_then(|log| log.modified()).expect("a time");
        assert!(changed > long_ago, "and written");
    }

    #[test]
    fn only_one_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let held = Lock::take(&path).expect("free");
        let refused = Lock::take(&path).expect_err("taken").to_string();
        assert!(refused.contains("in use by another callbackd"), "{refused}");
        let _inherited = held.0.try_clone().expect("as by a program that is being started");
        drop(held);
        Lock::take(&path).expect("free again");
    }

    #[test]
    fn settings_hold() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let conn = writer(&path).expect("made");
        let read =
            |pragma: &str| conn.query_row(&format!("PRAGMA {pragma}"), [], |r| r.get::<_, i64>(0)).expect(pragma);
        assert_eq!((read("synchronous"), read("page_size"), read("wal_autocheckpoint")), (2, 8192, 0));
        assert_eq!((read("auto_vacuum"), read("user_version")), (2, MIGRATIONS.len() as i64));
    }
}
