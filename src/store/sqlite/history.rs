//! Everything that is known of one execution: how its parts are found, and how much of them whoever asks is told at once.
//!
//! Each change holds all of its execution, and an execution may hold megabytes, have thousands of changes and be repeated
//! for ever: so of each list the latest are told, up to a number of bytes. Who looks is not to fill the memory that
//! callbacks need.

use std::cell::Cell;

use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};

use super::super::rules::{ATTEMPTS, CONTENT_BYTES, LIST_BYTES, Term, changed_tasks, without_content};
use super::read::{DELIVERY, RECEIPT, Read, all, at, delivery, fault, links, receipt, word};
use crate::model::{Attempt, Change, ChangeMeta, Link, State, Status};

/// The changes of the execution `?1`, the latest first, by each one's predecessor: needs no index that every callback would
/// have to keep up. Without what they hold, so that looking for them reads none of it.
pub(super) const CHAIN: &str = "WITH RECURSIVE chain (id, sequence, type, previous_status, receipt, received_at, previous) AS (
        SELECT change, sequence, type, previous_status, receipt, received_at, previous FROM execution_heads WHERE id = ?1
        UNION ALL
        SELECT c.id, c.sequence, c.type, c.previous_status, c.receipt, c.received_at, c.previous
        FROM chain JOIN earlier_changes c ON c.id = chain.previous)";

/// A change by its id: of the execution `?2`, the latest stands with it. First what [`CHAIN`] has of it.
pub(super) const CHANGE: &str =
    "SELECT change, sequence, type, previous_status, receipt, received_at, id, changed_tasks, snapshot
     FROM execution_heads WHERE id = ?2 AND change = ?1
     UNION ALL
     SELECT id, sequence, type, previous_status, receipt, received_at, execution, changed_tasks, snapshot
     FROM earlier_changes WHERE id = ?1";

/// A row that [`CHANGE`] finds.
pub(super) fn change(row: &Row<'_>, links: &[Link]) -> rusqlite::Result<Value> {
    let snapshot: String = row.get(8)?;
    let Ok(state) = State::of_snapshot(&snapshot) else { return Ok(Value::Null) };
    let mut meta = meta(row)?;
    meta.changed_tasks = changed_tasks(row.get::<_, Option<String>>(7)?.as_deref(), &state);
    let change = Change { id: row.get(0)?, execution_id: row.get(6)?, state, links: links.to_vec(), meta };
    Ok(json!({ "id": change.id.to_string(), "data": change }))
}

/// A row of [`CHAIN`] as a change of which the content is left out.
fn small(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(without_content(row.get(0)?, &meta(row)?))
}

/// What stands in either, but for which tasks changed.
fn meta(row: &Row<'_>) -> rusqlite::Result<ChangeMeta> {
    let kind: String = row.get(2)?;
    Ok(ChangeMeta {
        overdue: kind == Change::OVERDUE,
        kind,
        sequence: row.get(1)?,
        previous_status: status(row, 3)?,
        changed_tasks: Vec::new(),
        receipt: row.get::<_, Option<i64>>(4)?.map(|id| id.to_string()),
        received_at: at(row, 5)?,
    })
}

fn status(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Status>> {
    row.get::<_, Option<String>>(column)?.map(|_| word(row, column)).transpose()
}

/// The first rows of a statement about the execution `id`, newest first, until they weigh `bytes`: oldest first.
fn latest(
    conn: &Connection,
    sql: &str,
    id: i64,
    bytes: usize,
    mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<(usize, Value)>,
) -> Read<Vec<Value>> {
    let mut statement = conn.prepare(sql).map_err(fault)?;
    let mut rows = statement.query([id]).map_err(fault)?;
    let (mut found, mut weight) = (Vec::new(), 0);
    while weight < bytes
        && let Some(row) = rows.next().map_err(fault)?
    {
        let (more, value) = read(row).map_err(fault)?;
        weight += more;
        found.push(value);
    }
    found.reverse();
    Ok(found)
}

/// A row beside the snapshots: what it weighs is what it takes as text.
fn weighed(row: Value) -> (usize, Value) {
    (row.to_string().len(), row)
}

/// Its changes: the latest ones whole, of the ones before what is small.
fn changes(conn: &Connection, id: i64) -> Read<Vec<Value>> {
    let links = links(conn, id).map_err(fault)?;
    let links_bytes: usize = links.iter().map(|link| link.source.len() + link.key.len() + 64).sum();
    let mut by_id = conn.prepare(CHANGE).map_err(fault)?;
    let content = Cell::new(0);
    // A line has one end: as they are found, they stand in its order.
    let newest_first = format!("{CHAIN} SELECT id, sequence, type, previous_status, receipt, received_at FROM chain");
    latest(conn, &newest_first, id, LIST_BYTES, |row| {
        if content.get() >= CONTENT_BYTES {
            return small(row).map(weighed);
        }
        let read = |row: &Row<'_>| Ok((row.get_ref(8)?.as_str()?.len(), change(row, &links)?));
        let (bytes, whole) = by_id.query_row(params![row.get::<_, i64>(0)?, id], read)?;
        content.set(content.get() + bytes + links_bytes);
        Ok((0, whole))
    })
}

/// All of it, as `executions show --json` prints it.
pub(super) fn of(conn: &Connection, id: i64, execution: Value, tasks: Value) -> Read<Value> {
    // Accepted receipts by their changes, the others by their indexes.
    let of_it = format!(
        "{CHAIN} {RECEIPT} WHERE id IN (SELECT receipt FROM chain
             UNION SELECT id FROM receipts WHERE status <> 'accepted' AND execution = ?1
             UNION SELECT r.id FROM receipts r, json_each(r.executions) e
                   WHERE r.status <> 'accepted' AND r.executions IS NOT NULL AND e.value = ?1) ORDER BY id DESC"
    );
    let receipts = latest(conn, &of_it, id, LIST_BYTES, |row| Ok(weighed(json!(receipt(row)?))))?;
    let told = format!("{DELIVERY} WHERE d.execution = ?1 ORDER BY d.id DESC");
    let deliveries = latest(conn, &told, id, LIST_BYTES, |row| Ok(weighed(json!(delivery(row)?))))?;
    let changes = changes(conn, id)?;
    Ok(
        json!({ "execution": execution, "tasks": tasks, "receipts": receipts, "changes": changes, "deliveries": deliveries }),
    )
}

/// Every try of a delivery, oldest first.
pub(super) fn attempts(conn: &Connection, delivery: i64) -> Read<Vec<Attempt>> {
    tries(conn, delivery, -1)
}

/// The latest ones, oldest first.
pub(super) fn latest_attempts(conn: &Connection, delivery: i64) -> Read<Vec<Attempt>> {
    tries(conn, delivery, ATTEMPTS)
}

fn tries(conn: &Connection, delivery: i64, most: i64) -> Read<Vec<Attempt>> {
    let sql = "SELECT started_at, duration_ms, outcome, status, reason, answer FROM attempts WHERE delivery = ?1
               ORDER BY id DESC LIMIT ?2";
    let mut tries = all(conn, sql, vec![Term::Number(delivery), Term::Number(most)], |row| {
        Ok(Attempt {
            started_at: at(row, 0)?,
            duration_ms: row.get::<_, i64>(1)? as u64,
            outcome: row.get(2)?,
            status: row.get(3)?,
            reason: row.get(4)?,
            answer: row.get(5)?,
        })
    })?;
    tries.reverse();
    Ok(tries)
}
