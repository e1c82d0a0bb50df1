//! What happened after a cursor, found without an index that every callback would have to keep up.
//!
//! There is one writer, and its ids rise over all tables: of what is committed later, every id is larger than any before. So
//! a cursor is an id. Tries are found by their own ids. A change mostly follows its receipt in the same command, so
//! receipts lead to the executions that may have changed, and from there the chain of changes is walked back to the cursor.
//! What these do not lead to, the writer notes in `asides`, behind what it points at.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::read::{Read, at, fault, id, links, word};
use super::writer::{Fault, Tx};
use crate::model::{Change, State, Time};
use crate::store::{ChangeRow, ExecutionRow, Item, News, OutcomeRow, StoreError};

/// Rows of each table that one piece looks at.
const ROWS: usize = 256;
/// Snapshots of one piece, in bytes; beyond, it ends.
const SNAPSHOTS_BYTES: usize = 256 << 10;
/// So long a note stays in any case, in microseconds.
const NOTED_US: i64 = 600 * 1_000_000;

/// Lets go of the notes of what is older than anything that has to be kept. Where the disk is short, that is everything: but
/// whoever listens, or comes back in a moment, is still to be led to what stays.
pub(super) fn forget(tx: &mut Tx<'_>, before: Time) -> Result<(), Fault> {
    let end = before.micros().min(tx.last_id() - NOTED_US);
    tx.conn.execute("DELETE FROM asides WHERE id < ?1", [end])?;
    Ok(())
}

pub(super) fn newest(conn: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT max(coalesce((SELECT max(id) FROM receipts), 0), coalesce((SELECT max(id) FROM attempts), 0),
                          coalesce((SELECT max(id) FROM asides), 0))";
    let known = conn.query_row(sql, [], |row| row.get(0))?;
    Ok(places(conn, known)?.through)
}

pub(super) fn news(conn: &Connection, after: i64) -> Read<News> {
    let places = places(conn, after).map_err(fault)?;
    let mut news = News { items: Vec::new(), through: places.through, more: places.more };
    let (mut left, mut told) = (SNAPSHOTS_BYTES, BTreeSet::new());
    for (&id, place) in &places.found {
        match place {
            Place::Attempt => news.items.extend(attempt(conn, id).map_err(fault)?.map(|row| (id, row))),
            Place::Ended(delivery) => news.items.extend(ended(conn, *delivery).map_err(fault)?.map(|row| (id, row))),
            Place::Change { execution, is_latest } => {
                let Some((change, bytes)) = change(conn, id, *execution, *is_latest)? else { continue };
                if bytes > left && !news.items.is_empty() {
                    // The cursor before this one; what was found up to there is all there.
                    news.through = id - 1;
                    news.more = true;
                    break;
                }
                left = left.saturating_sub(bytes);
                // Before the change: its cursor stands for all of it.
                for (delivery, row) in untried(conn, id, *execution, change.at).map_err(fault)? {
                    if told.insert(delivery) {
                        news.items.push((id, row));
                    }
                }
                news.items.push((id, Item::Change(Box::new(change))));
            }
        }
    }
    Ok(news)
}

/// What stands at an id.
enum Place {
    Change { execution: i64, is_latest: bool },
    Attempt,
    Ended(i64),
}

/// Everything after a cursor, up to where nothing is left out.
struct Places {
    found: BTreeMap<i64, Place>,
    through: i64,
    more: bool,
}

/// What is done with each row, by its id.
type Each<'a> = &'a mut dyn FnMut(i64, &Row<'_>) -> rusqlite::Result<()>;

fn places(conn: &Connection, after: i64) -> rusqlite::Result<Places> {
    // The receipt whose changes the cursor may stand among is the last one before it.
    let receipts = "SELECT id, execution, executions FROM receipts
                    WHERE id >= coalesce((SELECT max(id) FROM receipts WHERE id <= ?1), ?1) ORDER BY id LIMIT ?2";
    let asides = "SELECT id, execution, delivery FROM asides WHERE id > ?1 ORDER BY id LIMIT ?2";
    let attempts = "SELECT id, NULL, NULL FROM attempts WHERE id > ?1 ORDER BY id LIMIT ?2";
    let (mut found, mut executions) = (BTreeMap::new(), BTreeSet::new());
    let (mut through, mut end) = (after, i64::MAX);
    let mut read = |sql: &str, each: Each<'_>| -> rusqlite::Result<()> {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query(params![after, ROWS as i64])?;
        let (mut count, mut last) = (0, after);
        while let Some(row) = rows.next()? {
            (count, last) = (count + 1, row.get(0)?);
            each(last, row)?;
        }
        through = through.max(last);
        // There may be more of these: nothing beyond is known to be whole.
        if count == ROWS {
            end = end.min(last);
        }
        Ok(())
    };
    read(receipts, &mut |_, row| {
        match row.get::<_, Option<String>>(2)? {
            Some(several) => executions.extend(serde_json::from_str::<Vec<i64>>(&several).unwrap_or_default()),
            None => executions.extend(row.get::<_, Option<i64>>(1)?),
        }
        Ok(())
    })?;
    read(asides, &mut |id, row| {
        executions.extend(row.get::<_, Option<i64>>(1)?);
        found.extend(row.get::<_, Option<i64>>(2)?.map(|delivery| (id, Place::Ended(delivery))));
        Ok(())
    })?;
    read(attempts, &mut |id, _| {
        found.insert(id, Place::Attempt);
        Ok(())
    })?;
    let mut head = conn.prepare("SELECT change, previous FROM execution_heads WHERE id = ?1")?;
    let mut earlier = conn.prepare("SELECT id, previous FROM earlier_changes WHERE id = ?1")?;
    for execution in executions {
        let link = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?));
        let (mut next, mut is_latest) = (head.query_row([execution], link).optional()?, true);
        while let Some((change, previous)) = next.filter(|(change, _)| *change > after) {
            found.insert(change, Place::Change { execution, is_latest });
            is_latest = false;
            next = match previous {
                Some(previous) => earlier.query_row([previous], link).optional()?,
                None => None,
            };
        }
    }
    if end == i64::MAX {
        through = found.last_key_value().map_or(through, |(last, _)| through.max(*last));
        return Ok(Places { found, through, more: false });
    }
    found.split_off(&(end + 1));
    Ok(Places { found, through: end, more: true })
}

const OUTCOME: &str = "SELECT d.id, d.sink, d.status, d.execution, h.key, h.source, d.attempts";

fn outcome(row: &Row<'_>, outcome: Option<String>, reason: Option<String>, over: Time) -> rusqlite::Result<Item> {
    Ok(Item::Delivery(Box::new(OutcomeRow {
        id: id(row, 0)?,
        sink: row.get(1)?,
        status: word(row, 2)?,
        execution: id(row, 3)?,
        key: row.get(4)?,
        source: row.get(5)?,
        attempts: row.get(6)?,
        outcome,
        reason,
        at: over,
    })))
}

fn attempt(conn: &Connection, attempt: i64) -> rusqlite::Result<Option<Item>> {
    let sql = format!(
        "{OUTCOME}, a.outcome, a.reason, a.started_at, a.duration_ms
         FROM attempts a JOIN deliveries d ON d.id = a.delivery JOIN execution_heads h ON h.id = d.execution WHERE a.id = ?1"
    );
    conn.query_row(&sql, [attempt], |row| {
        let over = at(row, 9)?.plus_ms(row.get::<_, i64>(10)? as u64);
        outcome(row, row.get(7)?, row.get(8)?, over)
    })
    .optional()
}

/// A delivery that an operator discarded, unless one has made it due again since.
fn ended(conn: &Connection, delivery: i64) -> rusqlite::Result<Option<Item>> {
    let sql = format!(
        "{OUTCOME}, d.reason, d.finished_at FROM deliveries d JOIN execution_heads h ON h.id = d.execution
         WHERE d.id = ?1 AND d.finished_at IS NOT NULL"
    );
    conn.query_row(&sql, [delivery], |row| outcome(row, None, row.get(7)?, at(row, 8)?)).optional()
}

/// What ended with a change, and untried: what it superseded, and what its route could not judge.
fn untried(conn: &Connection, change: i64, execution: i64, made: Time) -> rusqlite::Result<Vec<(i64, Item)>> {
    let sql = format!(
        "{OUTCOME}, d.reason FROM deliveries d JOIN execution_heads h ON h.id = d.execution
         WHERE d.execution = ?1 AND d.finished_at = ?2
           AND (d.change < ?3 AND d.reason = 'superseded' OR d.change = ?3 AND d.status = 'dead' AND d.attempts = 0) ORDER BY d.id"
    );
    let mut statement = conn.prepare(&sql)?;
    let rows = statement.query_map(params![execution, made.micros(), change], |row| {
        Ok((row.get(0)?, outcome(row, None, row.get(7)?, made)?))
    })?;
    rows.collect()
}

/// A change, and how much it takes; `None` when it is gone.
fn change(conn: &Connection, change: i64, execution: i64, is_latest: bool) -> Read<Option<(ChangeRow, usize)>> {
    let of = |table: &str| {
        format!(
            "SELECT c.type, c.sequence, c.received_at, c.snapshot,
                    EXISTS (SELECT 1 FROM inquiries i WHERE i.id = ?2 AND i.overdue_at <= c.received_at)
             FROM {table} c WHERE c.id = ?1"
        )
    };
    // Only the latest stands with its execution.
    let (sql, key) = match is_latest {
        true => (of("execution_heads"), execution),
        false => (of("earlier_changes"), change),
    };
    let row = conn.query_row(&sql, [key, execution], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, at(row, 2)?, row.get::<_, String>(3)?, row.get::<_, bool>(4)?))
    });
    let Some((kind, sequence, made, snapshot, is_marked)) = row.optional().map_err(fault)? else { return Ok(None) };
    let State { execution: held, .. } = State::of_snapshot(&snapshot)
        .map_err(|e| StoreError::Unusable(format!("the snapshot of change {change} cannot be read: {e}")))?;
    let links = links(conn, execution).map_err(fault)?;
    let execution = ExecutionRow {
        id: execution.to_string(),
        overdue: !held.status.is_finished() && (is_marked || kind == Change::OVERDUE),
        execution: held,
        links,
        sequence,
        changed_at: made,
    };
    Ok(Some((ChangeRow { id: change.to_string(), kind, sequence, at: made, execution }, snapshot.len())))
}
