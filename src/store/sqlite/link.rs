//! Links: what executions are known by, and which belong together.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use super::record::Place;
use super::writer::{Fault, Tx};
use crate::model::{Rules, Status, Time};

/// What an execution is known by under a link rule.
pub(super) struct KnownBy {
    rule: String,
    /// The looking side (`of`), not the partner (`with`).
    looks: bool,
    key: String,
}

/// What an execution of `source` that says `data` is known by, and a rule's fault on it, if there is one.
pub(super) fn known_by(source: &str, data: &Value, rules: &Rules) -> (Vec<KnownBy>, Option<String>) {
    let (mut known_by, mut link_fault) = (Vec::new(), None);
    for (position, rule) in rules.links.iter().enumerate() {
        for (looks, program, side) in [(true, &rule.key, &rule.of), (false, &rule.with_key, &rule.with)] {
            if side != source {
                continue;
            }
            match program.text(data) {
                Ok(Some(key)) => known_by.push(KnownBy { rule: rule.name(), looks, key }),
                Ok(None) => {}
                Err(fault) => link_fault = Some(format!("links[{position}]: {fault}")),
            }
        }
    }
    (known_by, link_fault)
}

/// Remembers what an execution is known by, and ties it to its partner if that is known already.
pub(super) fn link(
    tx: &mut Tx<'_>,
    place: &Place,
    status: Status,
    known: &KnownBy,
    wake: &mut Vec<String>,
) -> Result<(), Fault> {
    let side = if known.looks { "of" } else { "with" };
    tx.conn.execute(
        "INSERT OR IGNORE INTO link_keys (rule, side, key, execution) VALUES (?1, ?2, ?3, ?4)",
        params![known.rule, side, known.key, place.execution],
    )?;
    let pair = if known.looks {
        // The newest unfinished partner, once.
        tx.conn
            .query_row(
                "SELECT k.execution FROM link_keys k JOIN execution_heads h ON h.id = k.execution
                 WHERE k.rule = ?1 AND k.side = 'with' AND k.key = ?2
                   AND h.status NOT IN ('succeeded', 'failed', 'cancelled')
                   AND NOT EXISTS (SELECT 1 FROM links l WHERE l.execution = ?3 AND l.rule = ?1)
                 ORDER BY k.execution DESC LIMIT 1",
                params![known.rule, known.key, place.execution],
                |row| row.get::<_, i64>(0),
            )
            .optional()?
            .map(|with| (place.execution, with))
    } else if status.is_finished() {
        None
    } else {
        // The newest that still looks: what has nothing left to tell was not waiting for this one.
        tx.conn
            .query_row(
                "SELECT k.execution FROM link_keys k
                 WHERE k.rule = ?1 AND k.side = 'of' AND k.key = ?2
                   AND EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = k.execution AND d.finished_at IS NULL)
                   AND NOT EXISTS (SELECT 1 FROM links l WHERE l.execution = k.execution AND l.rule = ?1)
                   AND NOT EXISTS (SELECT 1 FROM links l WHERE l.with_execution = ?3 AND l.rule = ?1)
                 ORDER BY k.execution DESC LIMIT 1",
                params![known.rule, known.key, place.execution],
                |row| row.get::<_, i64>(0),
            )
            .optional()?
            .map(|of| (of, place.execution))
    };
    match pair {
        Some((of, with)) => tie(tx, &known.rule, of, with, place.now, wake),
        None => Ok(()),
    }
}

/// The name under which a started execution is linked with the one that it comes of: no rule's.
const STARTED: &str = "started";

/// Ties an execution that a sink started to the one whose delivery started it, once.
pub(super) fn tie_started(
    tx: &mut Tx<'_>,
    started: i64,
    by: i64,
    now: Time,
    wake: &mut Vec<String>,
) -> Result<(), Fault> {
    let tied: bool = tx.conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM links WHERE execution = ?1 AND with_execution = ?2)",
        [started, by],
        |row| row.get(0),
    )?;
    if tied { Ok(()) } else { tie(tx, STARTED, started, by, now, wake) }
}

/// Makes the link, and wakes what waited for it.
fn tie(tx: &mut Tx<'_>, rule: &str, of: i64, with: i64, now: Time, wake: &mut Vec<String>) -> Result<(), Fault> {
    let id = tx.new_id(now);
    tx.conn.execute(
        "INSERT INTO links (id, rule, execution, with_execution, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, rule, of, with, now.micros()],
    )?;
    // One that is under way keeps its lease; the settling of that looks for the link.
    let mut due = tx.conn.prepare(
        "UPDATE deliveries SET due_at = ?2, until_linked = 0
         WHERE execution = ?1 AND finished_at IS NULL AND status = 'waiting' AND until_linked = 1 RETURNING sink",
    )?;
    let mut rows = due.query(params![of, now.micros()])?;
    while let Some(row) = rows.next()? {
        wake.push(row.get(0)?);
    }
    Ok(())
}
