//! Letting go of what is old, finished and told: never of anything undelivered, dead, held or not understood.

use rusqlite::{Connection, params};

use super::identity::hash_of;
use super::writer::{Fault, Tx};
use crate::model::Time;

/// How many executions one transaction lets go of: more would hold up callbacks.
pub(super) const CHUNK: usize = 200;
/// How many refused receipts it lets go of beside them: those are rows without anything else.
const REFUSED: usize = 1000;

/// Lets go of up to [`CHUNK`] executions that last changed before `before`, with all that belongs to them.
pub(super) fn prune(tx: &mut Tx<'_>, before: Time) -> Result<u64, Fault> {
    // Ids tell the time, so the old ones are the first ones.
    let mut old = tx.conn.prepare(
        "SELECT h.id FROM execution_heads h
         WHERE h.id < ?1 AND h.received_at < ?1 AND h.status IN ('succeeded', 'failed', 'cancelled')
           AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = h.id AND (d.finished_at IS NULL OR d.status = 'dead'))
         ORDER BY h.id LIMIT ?2",
    )?;
    let ids: Vec<i64> =
        old.query_map(params![before.micros(), CHUNK as i64], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in &ids {
        forget(tx.conn, *id)?;
    }
    tx.conn.execute(
        "DELETE FROM receipts WHERE id IN (SELECT id FROM receipts WHERE status <> 'accepted' AND status = 'refused' AND id < ?1 LIMIT ?2)",
        params![before.micros(), REFUSED as i64],
    )?;
    Ok(ids.len() as u64)
}

fn forget(conn: &Connection, execution: i64) -> rusqlite::Result<()> {
    let mut changes = conn.prepare(
        "WITH RECURSIVE chain (id, receipt, previous) AS (
             SELECT change, receipt, previous FROM execution_heads WHERE id = ?1
             UNION ALL SELECT c.id, c.receipt, c.previous FROM chain JOIN earlier_changes c ON c.id = chain.previous)
         SELECT id, receipt FROM chain",
    )?;
    let changes: Vec<(i64, Option<i64>)> =
        changes.query_map([execution], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut more = conn.prepare("SELECT id FROM receipts WHERE status <> 'accepted' AND execution = ?1")?;
    let more: Vec<i64> = more.query_map([execution], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for sql in [
        "DELETE FROM attempts WHERE delivery IN (SELECT id FROM deliveries WHERE execution = ?1)",
        "DELETE FROM deliveries WHERE execution = ?1",
        "DELETE FROM links WHERE execution = ?1",
        "DELETE FROM links WHERE with_execution = ?1",
        "DELETE FROM link_keys WHERE execution = ?1",
        "DELETE FROM inquiries WHERE id = ?1",
    ] {
        conn.execute(sql, [execution])?;
    }
    let key: String =
        conn.query_row("DELETE FROM execution_heads WHERE id = ?1 RETURNING key", [execution], |row| row.get(0))?;
    conn.execute("DELETE FROM identities WHERE hash = ?1 AND execution = ?2", [hash_of(&key), execution])?;
    for (change, _) in &changes {
        conn.execute("DELETE FROM earlier_changes WHERE id = ?1", [change])?;
    }
    for receipt in changes.iter().filter_map(|(_, receipt)| *receipt).chain(more) {
        // A receipt that speaks of several executions stays until the last of them goes.
        conn.execute(
            "DELETE FROM receipts WHERE id = ?1
               AND NOT EXISTS (SELECT 1 FROM json_each(executions) e JOIN execution_heads h ON h.id = e.value)",
            [receipt],
        )?;
    }
    Ok(())
}
