//! Room on the disk: how much the file takes, giving back what holds nothing, and what has to be left.
//!
//! To let go of something is a commit, too, and a commit needs the log. On a disk without any room the log can neither grow
//! nor be copied into a file that has to grow for it: then nothing could be let go of any more. So no callback is taken once
//! there is less room than that; what the writer then copies leaves the whole log to upkeep, whose deletes need no more.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::SqliteStore;
use super::checkpoint::{self, Log};
use super::read::{Readers, fault};
use super::writer::{Fault, Health, Tx};
use crate::Boxed;
use crate::store::{Extent, StoreError};

/// Pages that one transaction gives back: each may have to be moved from the end of the file into a hole.
const STEP: u64 = 64;
/// Pages that the log grows by until the writer looks again how much room is left.
const LOOK: usize = 64;

impl Readers {
    /// See [`crate::store::Store::extent`].
    pub(super) fn extent(&self) -> Boxed<'_, Result<Extent, StoreError>> {
        let path = self.path();
        self.read(move |conn| extent(conn, &path))
    }
}

pub(super) fn extent(conn: &Connection, path: &Path) -> Result<Extent, StoreError> {
    let silent =
        |e: std::io::Error| StoreError::Unavailable(format!("the store's file system says nothing of its size: {e}"));
    let stat = rustix::fs::statvfs(path).map_err(|e| silent(e.into()))?;
    let file = std::fs::metadata(path).map_err(silent)?.len();
    let (page, pages, free) = pages(conn).map_err(fault)?;
    // What the log still holds of the file's end takes room when it is copied.
    let to_come = (pages * page).saturating_sub(file);
    Ok(Extent {
        held: pages.saturating_sub(free) * page,
        free: free * page,
        room: (free * page + stat.f_bavail.saturating_mul(stat.f_frsize)).saturating_sub(to_come),
        disk: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// The writer's eye on the room that is left.
#[derive(Default)]
pub(super) struct Watch {
    /// The log's pages when it looked last.
    pages: usize,
}

impl Watch {
    /// To be called between two commits: looks when the log has grown or begun anew, and as long as the disk is full.
    pub(super) fn look(&mut self, conn: &Connection, health: &Health, log: &Log) {
        let pages = log.pages();
        if pages.abs_diff(self.pages) < LOOK && !health.is_full() {
            return;
        }
        self.pages = pages;
        let Some(Ok(extent)) = conn.path().map(|path| extent(conn, Path::new(path))) else { return };
        if health.has_room(!extent.is_full()) {
            match extent.is_full() {
                true => tracing::error!(
                    store.bytes_left = extent.room,
                    "the store's disk is full but for what upkeep needs: senders are told 503 until it has made room"
                ),
                false => tracing::info!(store.bytes_left = extent.room, "the store's disk has room again"),
            }
        }
        if health.is_full() {
            // While the file can still grow; and so that the next commit needs no more log than there is.
            checkpoint::copy(conn, log);
            // A log that grew large, while copying was slow or somebody read, keeps its size. Where the file is so small that
            // upkeep takes what fills the disk for others', it may be that.
            let is_small = extent.held <= extent.disk / 2;
            if is_small && conn.path().is_some_and(|path| log_bytes(Path::new(path)) > extent.spare()) {
                checkpoint::shorten(conn, log);
            }
        }
    }
}

/// The size of the log's file, in bytes.
pub(super) fn log_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(0, |log| log.len())
}

/// The size of a page in bytes, how many there are, and how many of them hold nothing.
fn pages(conn: &Connection) -> rusqlite::Result<(u64, u64, u64)> {
    let read = |pragma| conn.query_row(pragma, [], |row| row.get(0).map(i64::unsigned_abs));
    Ok((read("PRAGMA page_size")?, read("PRAGMA page_count")?, read("PRAGMA freelist_count")?))
}

impl SqliteStore {
    /// See [`crate::store::Store::give_back`].
    pub(super) async fn shrink(&self, bytes: u64) -> Result<u64, StoreError> {
        let mut given = 0;
        while given < bytes {
            let (log, left) = (Arc::clone(&self.log), bytes - given);
            let (step, is_last) = self.call(move |tx| step(tx, &log, left)).await?;
            given += step;
            if is_last {
                break;
            }
        }
        Ok(given)
    }
}

/// One transaction's worth, in bytes, and whether that is the end.
fn step(tx: &mut Tx<'_>, log: &Log, left: u64) -> Result<(u64, bool), Fault> {
    let (page, before, _) = pages(tx.conn)?;
    let mut vacuum = tx.conn.prepare(&format!("PRAGMA incremental_vacuum({})", STEP.min(left.div_ceil(page))))?;
    let mut rows = vacuum.query([])?;
    // It gives a page back with each row that is asked for.
    while rows.next()?.is_some() {}
    drop(rows);
    let (_, after, free) = pages(tx.conn)?;
    let given = before.saturating_sub(after) * page;
    let is_last = given == 0 || given >= left || free == 0;
    if is_last {
        // The file itself becomes shorter when all of the log is copied.
        log.want();
    }
    Ok((given, is_last))
}
