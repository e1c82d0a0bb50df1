//! Opening the file: the lock, the settings that the promises rest on, and the schema.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::store::StoreError;

/// The schema, a step a version; `user_version` counts the steps taken. Append only.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_inquiries.sql"),
    include_str!("../migrations/0003_backlog.sql"),
];

/// Held by the one process that may write. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    pub(super) fn take(store: &Path) -> Result<Lock, StoreError> {
        let mut path = store.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let fault = |e: std::io::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
        let file = private(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
                "{} is in use by another callbackd; ask that one, or stop it first",
                store.display()
            ))),
            Err(TryLockError::Error(e)) => Err(fault(e)),
        }
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

/// The connection that writes, with the schema brought up to date.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    let fault = unusable(path);
    private(path).map_err(|e| StoreError::Unusable(format!("{}: {e}", path.display())))?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(&fault)?;
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
    let fault = unusable(path);
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(&fault)?;
    conn.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA cache_size = -1024; PRAGMA query_only = 1;")
        .map_err(&fault)?;
    let version = version_of(&conn, path)?;
    if version < MIGRATIONS.len() {
        return Err(StoreError::Unusable(format!(
            "{} has schema {version}, this callbackd reads schema {}; start the daemon once to bring it up to date",
            path.display(),
            MIGRATIONS.len()
        )));
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
    if version > MIGRATIONS.len() {
        return Err(StoreError::Unusable(format!(
            "{} has schema {version}, newer than this callbackd, which knows schema {}; install the callbackd that \
             wrote it, or a later one",
            path.display(),
            MIGRATIONS.len()
        )));
    }
    Ok(version)
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
    fn only_one_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let held = Lock::take(&path).expect("free");
        let refused = Lock::take(&path).expect_err("taken").to_string();
        assert!(refused.contains("in use by another callbackd"), "{refused}");
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
