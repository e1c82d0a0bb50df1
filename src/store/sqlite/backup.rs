//! A consistent copy of the store, while a daemon writes to it.
//!
//! What is copied is one snapshot: everything that was acknowledged before it began. Its pages are read as SQLite sees
//! them, so nobody waits for it; only the log cannot begin anew until the copy is made, and when it grows too much
//! meanwhile, the copy is given up. The copy is whole when it has its name: it is made beside it, opened, checked,
//! counted and synced before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Survey;
use super::read::fault;
use crate::store::StoreError;

/// Pages copied between two looks at the log and at whoever watches.
const STEP: i32 = 1024;
/// The log may grow to this size while a copy is made, in bytes: some fifty times what it has otherwise.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// How many there are of what a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Executions.
    pub executions: u64,
    /// Receipts.
    pub receipts: u64,
    /// Deliveries.
    pub deliveries: u64,
}

impl Contents {
    fn of(conn: &Connection) -> rusqlite::Result<Contents> {
        let count = |table: &str| {
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0).map(i64::unsigned_abs))
        };
        Ok(Contents {
            executions: count("execution_heads")?,
            receipts: count("receipts")?,
            deliveries: count("deliveries")?,
        })
    }
}

/// A copy that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its size.
    pub bytes: u64,
    /// What is in it.
    pub contents: Contents,
}

/// A file that goes when this goes, unless it was kept.
struct Draft(Option<PathBuf>);

impl Draft {
    /// Made anew, for its owner alone.
    fn beside(file: &Path) -> io::Result<(Draft, PathBuf)> {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{:08x}.part", fastrand::u32(..)));
        let path = PathBuf::from(name);
        File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((Draft(Some(path.clone())), path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Survey {
    /// Copies the store into `file`; one that is there is only replaced with `force`. `watch` is told how many pages of
    /// how many are copied.
    pub fn copy(&self, file: &Path, force: bool, mut watch: impl FnMut(u64, u64)) -> Result<Copied, StoreError> {
        let failed = |e: io::Error| StoreError::Unavailable(format!("{}: {e}", file.display()));
        let there = || StoreError::Refused(format!("{} is there already; --force replaces it", file.display()));
        if !force && fs::symlink_metadata(file).is_ok() {
            return Err(there());
        }
        let (mut draft, path) = Draft::beside(file).map_err(failed)?;
        let contents = self.copy_into(&path, &mut watch)?;
        verify(&path, contents)?;
        File::open(&path).and_then(|copy| copy.sync_all()).map_err(failed)?;
        let bytes = fs::metadata(&path).map_err(failed)?.len();
        match name(&path, file, force) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(there()),
            named => named.map_err(failed)?,
        }
        draft.0 = None;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Copied { bytes, contents })
    }

    fn copy_into(&self, path: &Path, watch: &mut impl FnMut(u64, u64)) -> Result<Contents, StoreError> {
        let write_fault = |e: rusqlite::Error| StoreError::Unavailable(format!("the copy cannot be written: {e}"));
        // One snapshot for all of it: a copy of several would have to begin anew at each commit.
        let snapshot = self.conn.unchecked_transaction().map_err(fault)?;
        let contents = Contents::of(&snapshot).map_err(fault)?;
        let mut copy =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(write_fault)?;
        // It is synced when it is whole; until then it is nothing.
        copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF;").map_err(write_fault)?;
        let backup = Backup::new(&snapshot, &mut copy).map_err(write_fault)?;
        loop {
            let step = backup.step(STEP).map_err(write_fault)?;
            let progress = backup.progress();
            let pages = u64::try_from(progress.pagecount).unwrap_or(0);
            watch(pages.saturating_sub(u64::try_from(progress.remaining).unwrap_or(0)), pages);
            match step {
                StepResult::Done => return Ok(contents),
                StepResult::More if self.log_bytes() > LOG_BYTES_MAX => {
                    return Err(StoreError::Unavailable(format!(
                        "the store's log has grown to {} MiB while it was copied, and cannot begin anew before the copy is \
                         made; try again when less comes in, or copy to a faster disk",
                        LOG_BYTES_MAX >> 20
                    )));
                }
                StepResult::More => {}
                // Nobody else has the copy, and the snapshot is ours.
                _ => return Err(StoreError::Unavailable("the store could not be copied: it is locked".to_owned())),
            }
        }
    }
}

/// Opens the copy as a file that nobody writes to, and looks at all of it.
fn verify(path: &Path, expected: Contents) -> Result<(), StoreError> {
    let wrong = |what: String| StoreError::Unusable(format!("the copy is not good, and was thrown away: {what}"));
    let sqlite = |e: rusqlite::Error| wrong(e.to_string());
    let name = path.to_str().ok_or_else(|| wrong("its path is not UTF-8".to_owned()))?;
    let uri = format!("file:{}?immutable=1", urlencoding::encode(name).replace("%2F", "/"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(uri, flags).map_err(sqlite)?;
    let said: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sqlite)?;
    if said != "ok" {
        return Err(wrong(said));
    }
    match Contents::of(&conn).map_err(sqlite)? {
        found if found == expected => Ok(()),
        found => Err(wrong(format!("it holds {found:?}, and the store {expected:?}"))),
    }
}

/// Gives the file its name, in one step.
fn name(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    if force {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do that: between the look and the renaming somebody else may make the file.
        Err(rustix::io::Errno::INVAL) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        Err(rustix::io::Errno::INVAL) => Err(io::ErrorKind::AlreadyExists.into()),
        named => Ok(named?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::open;
    use super::*;

    #[test]
    fn a_copy_is_whole_private_and_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, file) = (folder.path().join("store.db"), folder.path().join("a copy?.db"));
        let conn = open::writer(&store).expect("made");
        let insert = "INSERT INTO receipts (id, source, status, received_at, peer, headers, body, body_bytes)
                      VALUES (?1, 'media', 'quarantined', 1, '', '', zeroblob(20000), 20000)";
        (1..=500).for_each(|id| assert_eq!(conn.execute(insert, [id]).expect("inserted"), 1));
        let survey = Survey::open(&store).expect("opens");
        let mut seen = Vec::new();
        let copied = survey
            .copy(&file, false, |done, pages| {
                seen.push((done, pages));
                // Whoever writes meanwhile is neither held up nor in it, and does not make it begin anew.
                assert_eq!(conn.execute(insert, [1000 + seen.len() as i64]).expect("inserted"), 1);
            })
            .expect("copied");
        assert_eq!(copied.contents, Contents { executions: 0, receipts: 500, deliveries: 0 });
        assert!(seen.len() > 1 && seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.last().map(|(done, pages)| done == pages), Some(true));
        let meta = fs::metadata(&file).expect("there");
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (copied.bytes, 0o600));

        let refused = survey.copy(&file, false, |_, _| {}).expect_err("it is there").to_string();
        assert!(refused.contains("--force"), "{refused}");
        let again = survey.copy(&file, true, |_, _| {}).expect("replaced");
        assert_eq!(again.contents.receipts, 500 + seen.len() as u64);
        survey.copy(&folder.path().join("no/such/folder/copy.db"), false, |_, _| {}).expect_err("no folder");
        let left: Vec<_> = fs::read_dir(folder.path()).expect("read").map(|f| f.expect("a file").file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part")), "{left:?}");
        let open = open::writer(&file).expect("a store like any other");
        let kept: i64 = open.query_row("SELECT count(*) FROM receipts", [], |row| row.get(0)).expect("counted");
        assert_eq!(kept as u64, again.contents.receipts);
    }

    #[test]
    fn a_copy_that_is_not_good_gets_no_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("store.db");
        let conn = open::writer(&store).expect("made");
        let all = Contents { executions: 0, receipts: 0, deliveries: 0 };
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("done");
        drop(conn);
        verify(&store, all).expect("good");
        let said = verify(&store, Contents { receipts: 1, ..all }).expect_err("one is missing").to_string();
        assert!(said.contains("receipts: 1"), "{said}");
        let mut bytes = fs::read(&store).expect("read");
        let half = bytes.len() / 2;
        bytes[half..].fill(0x5a);
        fs::write(&store, bytes).expect("written");
        verify(&store, all).expect_err("damaged");
    }
}
