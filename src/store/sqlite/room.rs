//! Room on the disk: how much the file takes, and giving back what holds nothing.

use std::sync::Arc;

use rusqlite::Connection;

use super::SqliteStore;
use super::checkpoint::Log;
use super::read::{Readers, fault};
use super::writer::{Fault, Tx};
use crate::Boxed;
use crate::store::{Extent, StoreError};

/// Pages that one transaction gives back: each may have to be moved from the end of the file into a hole.
const STEP: u64 = 64;

impl Readers {
    /// See [`crate::store::Store::extent`].
    pub(super) fn extent(&self) -> Boxed<'_, Result<Extent, StoreError>> {
        let path = self.path();
        self.read(move |conn| {
            let stat = rustix::fs::statvfs(&*path).map_err(|e| {
                StoreError::Unavailable(format!("the store's file system says nothing of its size: {e}"))
            })?;
            let (page, pages, free) = pages(conn).map_err(fault)?;
            Ok(Extent {
                held: pages.saturating_sub(free) * page,
                free: free * page,
                disk: stat.f_blocks.saturating_mul(stat.f_frsize),
            })
        })
    }
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
            let (step, is_last) = self.call(0, move |tx| step(tx, &log, left)).await?;
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
