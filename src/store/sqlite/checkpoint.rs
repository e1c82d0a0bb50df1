//! Checkpoints, off the hot path: moves what is committed from the log into the file, in a thread of its own.
//!
//! The log keeps its size between checkpoints, because a log that need not grow is synced in half the time. A passive
//! checkpoint never holds up a commit; only when the log has grown far beyond its usual size is the writer made to
//! wait for the short rest, so that the log starts from its beginning again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;

use super::writer::Health;

/// A checkpoint is made when the log has this many bytes, and again after as many.
const WAL_BYTES: u64 = 8 << 20;
/// Beyond this the writer waits for the rest.
const WAL_BYTES_FAR: u64 = 64 << 20;

/// Runs until `stop` is dropped.
pub(super) fn run(conn: &Connection, wal: &PathBuf, health: &Arc<Health>, stop: &Receiver<()>) {
    let mut seen = 0;
    loop {
        match stop.recv_timeout(Duration::from_millis(100)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let commits = health.commits.load(Ordering::Acquire);
        if commits == seen {
            continue;
        }
        let bytes = std::fs::metadata(wal).map_or(0, |meta| meta.len());
        if bytes < WAL_BYTES {
            continue;
        }
        seen = commits;
        let mode = if bytes > WAL_BYTES_FAR { "RESTART" } else { "PASSIVE" };
        // PASSIVE first in either case: it copies most of the log while commits go on.
        for mode in ["PASSIVE", mode] {
            if let Err(e) = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())) {
                tracing::warn!(store.fault = %e, "a checkpoint failed; the log grows until one succeeds");
                break;
            }
            if mode == "PASSIVE" && bytes <= WAL_BYTES_FAR {
                break;
            }
        }
    }
}
