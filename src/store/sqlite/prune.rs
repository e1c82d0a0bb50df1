//! Letting go of what is old, finished and told: never of anything undelivered, dead, held or not understood.
//!
//! What may go is looked for on a connection that reads, so that no commit waits while much is looked at that has to stay.
//! The writer looks at each once more, and deletes in pieces: one transaction takes only so many rows and pages, and an
//! execution on which more hangs than that goes in several, its head last.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Statement, ToSql};

use super::SqliteStore;
use super::identity::hash_of;
use super::read::fault;
use super::writer::{Fault, Tx};
use crate::model::Time;
use crate::store::{Pruned, StoreError};

/// How many executions one step looks at.
const LOOK: usize = 1000;
/// Rows that one transaction deletes, and pages of bodies: more would hold up callbacks.
const ROWS: usize = 500;
/// Bytes of a body that cost as much as a row.
const PAGE: usize = 8192;

/// Of the head `h`, by `:before`. What is linked to something that is still to be told is needed to tell it.
const MAY_GO: &str = "h.received_at < :before AND h.status IN ('succeeded', 'failed', 'cancelled')
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = h.id AND (d.finished_at IS NULL OR d.status = 'dead'))
    AND NOT EXISTS (
        SELECT 1 FROM (SELECT with_execution AS id FROM links WHERE execution = h.id
                       UNION ALL SELECT execution FROM links WHERE with_execution = h.id) l JOIN execution_heads p ON p.id = l.id
        WHERE p.status NOT IN ('succeeded', 'failed', 'cancelled')
           OR EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = p.id AND (d.finished_at IS NULL OR d.status = 'dead')))";

/// Of the receipt `r`, beside the execution `:without`: somebody it speaks of is there. A receipt that speaks of several stays
/// until the last of them goes.
const IS_NEEDED: &str =
    "EXISTS (SELECT 1 FROM json_each(r.executions) e JOIN execution_heads h ON h.id = e.value WHERE h.id <> :without)";

/// What one step looked for, oldest first, and where the next one begins, if this one did not come to the end.
struct Found {
    going: Vec<Going>,
    next: Option<i64>,
}

#[derive(Clone, Copy)]
enum Going {
    Execution(i64),
    /// Refused, or a repeat of several executions that are all gone.
    Receipt(i64),
}

impl SqliteStore {
    /// One step: see [`crate::store::Store::prune`].
    pub(super) async fn let_go(&self, from: i64, before: Time, most: usize) -> Result<Pruned, StoreError> {
        let found = self.readers.read(move |conn| executions(conn, from, before, most).map_err(fault)).await?;
        let next = found.next;
        let executions = self.forget(found.going, before).await?;
        // After the executions, which may have been the last of whom a receipt spoke.
        let (mut from, end) = (Some(from), next.unwrap_or(before.micros()));
        while let Some(place) = from {
            let found = self.readers.read(move |conn| receipts(conn, place, end).map_err(fault)).await?;
            from = found.next;
            self.forget(found.going, before).await?;
        }
        Ok(Pruned { executions, next })
    }

    async fn forget(&self, going: Vec<Going>, before: Time) -> Result<u64, StoreError> {
        let going: Arc<[Going]> = going.into();
        let (mut done, mut executions) = (0, 0);
        while done < going.len() {
            let all = Arc::clone(&going);
            let piece = self.call(0, move |tx| forget(tx, &all[done..], before)).await?;
            done += piece.done;
            executions += piece.executions;
        }
        Ok(executions)
    }
}

/// Ids tell the time, so the oldest are the first ones.
fn executions(conn: &Connection, from: i64, before: Time, most: usize) -> rusqlite::Result<Found> {
    let mut heads = conn.prepare(&format!(
        "SELECT h.id, {MAY_GO} FROM execution_heads h WHERE h.id >= :from AND h.id < :before ORDER BY h.id LIMIT {LOOK}"
    ))?;
    let mut rows = heads.query(&[(":from", &from), (":before", &before.micros())])?;
    let (mut going, mut looked_at, mut next) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        if row.get(1)? {
            going.push(Going::Execution(id));
        }
        looked_at += 1;
        if looked_at == LOOK || going.len() == most {
            next = Some(id + 1);
            break;
        }
    }
    Ok(Found { going, next })
}

fn receipts(conn: &Connection, from: i64, end: i64) -> rusqlite::Result<Found> {
    let mut receipts = conn.prepare(&format!(
        "SELECT id FROM (
             SELECT * FROM (SELECT r.id FROM receipts r WHERE r.status <> 'accepted' AND r.status = 'refused'
                            AND r.id >= :from AND r.id < :end ORDER BY r.id LIMIT {LOOK})
             UNION
             SELECT * FROM (SELECT r.id FROM receipts r WHERE r.status <> 'accepted' AND r.executions IS NOT NULL
                            AND r.id >= :from AND r.id < :end AND NOT {} ORDER BY r.id LIMIT {LOOK}))
         ORDER BY id LIMIT {LOOK}",
        IS_NEEDED.replace(":without", "0")
    ))?;
    let with: &[(&str, &dyn ToSql)] = &[(":from", &from), (":end", &end)];
    let ids: Vec<i64> = receipts.query_map(with, |row| row.get(0))?.collect::<Result<_, _>>()?;
    let next = ids.get(LOOK - 1).map(|id| id + 1);
    Ok(Found { going: ids.into_iter().map(Going::Receipt).collect(), next })
}

/// How far one transaction came.
struct Piece {
    done: usize,
    executions: u64,
}

fn forget(tx: &mut Tx<'_>, going: &[Going], before: Time) -> Result<Piece, Fault> {
    let mut deletes = Deletes::new(tx.conn)?;
    let mut executions = 0;
    for (done, one) in going.iter().enumerate() {
        if deletes.left == 0 {
            return Ok(Piece { done, executions });
        }
        match *one {
            Going::Receipt(id) => deletes.receipt(id)?,
            Going::Execution(id) if !deletes.may_go(id, before)? => {}
            Going::Execution(id) => {
                let Some(hash) = deletes.execution(id)? else { return Ok(Piece { done, executions }) };
                tx.recent.forget(hash, id);
                executions += 1;
            }
        }
    }
    Ok(Piece { done: going.len(), executions })
}

/// What one transaction deletes with.
struct Deletes<'c> {
    may_go: Statement<'c>,
    /// Of which an execution may have any number.
    many: Vec<Statement<'c>>,
    few: Vec<Statement<'c>>,
    previous: Statement<'c>,
    earlier_change: Statement<'c>,
    point_past: Statement<'c>,
    receipt_of_change: Statement<'c>,
    head: Statement<'c>,
    identity: Statement<'c>,
    receipt: Statement<'c>,
    /// What may still be deleted.
    left: usize,
}

impl<'c> Deletes<'c> {
    fn new(conn: &'c Connection) -> rusqlite::Result<Deletes<'c>> {
        let all = |sql: &[&str]| sql.iter().map(|sql| conn.prepare(sql)).collect::<Result<Vec<_>, _>>();
        let repeats = format!(
            "DELETE FROM receipts WHERE id IN
                 (SELECT r.id FROM receipts r WHERE r.status <> 'accepted' AND r.execution = :id AND NOT {} LIMIT :left)
             RETURNING length(body)",
            IS_NEEDED.replace(":without", ":id")
        );
        Ok(Deletes {
            may_go: conn.prepare(&format!("SELECT {MAY_GO} FROM execution_heads h WHERE h.id = :id"))?,
            many: all(&[
                "DELETE FROM attempts WHERE id IN
                     (SELECT a.id FROM deliveries d JOIN attempts a ON a.delivery = d.id WHERE d.execution = :id LIMIT :left)
                 RETURNING 0",
                "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE execution = :id LIMIT :left) RETURNING 0",
                "DELETE FROM links WHERE id IN (SELECT id FROM links WHERE execution = :id LIMIT :left) RETURNING 0",
                "DELETE FROM links WHERE id IN (SELECT id FROM links WHERE with_execution = :id LIMIT :left) RETURNING 0",
                &repeats,
            ])?,
            few: all(&[
                "DELETE FROM link_keys WHERE execution = :id RETURNING 0",
                "DELETE FROM inquiries WHERE id = :id RETURNING 0",
            ])?,
            previous: conn.prepare("SELECT previous FROM execution_heads WHERE id = ?1")?,
            earlier_change: conn.prepare("DELETE FROM earlier_changes WHERE id = ?1 RETURNING previous, receipt")?,
            point_past: conn.prepare("UPDATE execution_heads SET previous = ?2 WHERE id = ?1")?,
            receipt_of_change: conn.prepare(&format!(
                "DELETE FROM receipts AS r WHERE r.id = :id AND NOT {IS_NEEDED} RETURNING length(body)"
            ))?,
            head: conn.prepare("DELETE FROM execution_heads WHERE id = ?1 RETURNING key, receipt")?,
            identity: conn.prepare("DELETE FROM identities WHERE hash = ?1 AND execution = ?2")?,
            // What was refused may have been vouched for since it was found.
            receipt: conn.prepare(&format!(
                "DELETE FROM receipts AS r WHERE r.id = :id AND r.status <> 'accepted'
                   AND (r.status = 'refused' OR r.executions IS NOT NULL AND NOT {}) RETURNING length(body)",
                IS_NEEDED.replace(":without", "0")
            ))?,
            left: ROWS,
        })
    }

    fn may_go(&mut self, execution: i64, before: Time) -> rusqlite::Result<bool> {
        let with: &[(&str, &dyn ToSql)] = &[(":id", &execution), (":before", &before.micros())];
        Ok(self.may_go.query_row(with, |row| row.get(0)).optional()?.unwrap_or(false))
    }

    fn receipt(&mut self, id: i64) -> rusqlite::Result<()> {
        delete(&mut self.receipt, &[(":id", &id)], &mut self.left)
    }

    /// Deletes the execution and returns the hash of its key; or, where it is too much for one transaction, a part of what
    /// hangs on it.
    fn execution(&mut self, id: i64) -> rusqlite::Result<Option<i64>> {
        for many in &mut self.many {
            let most = self.left as i64;
            delete(many, &[(":id", &id), (":left", &most)], &mut self.left)?;
            if self.left == 0 {
                return Ok(None);
            }
        }
        if !self.earlier_changes(id)? {
            return Ok(None);
        }
        for few in &mut self.few {
            delete(few, &[(":id", &id)], &mut self.left)?;
        }
        let (key, receipt): (String, Option<i64>) = self.head.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.receipt_of_change(id, receipt)?;
        let hash = hash_of(&key);
        self.identity.execute([hash, id])?;
        self.left = self.left.saturating_sub(2);
        Ok(Some(hash))
    }

    /// Deletes the changes before the latest, newest first, and has the head point past them: whether all are gone.
    fn earlier_changes(&mut self, id: i64) -> rusqlite::Result<bool> {
        let first: Option<i64> = self.previous.query_row([id], |row| row.get(0))?;
        let mut previous = first;
        while let Some(change) = previous {
            if self.left == 0 {
                self.point_past.execute([id, change])?;
                return Ok(false);
            }
            let gone = self.earlier_change.query_row([change], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let (before, receipt): (Option<i64>, Option<i64>) = gone.unwrap_or_default();
            self.receipt_of_change(id, receipt)?;
            self.left = self.left.saturating_sub(1);
            previous = before;
        }
        Ok(true)
    }

    fn receipt_of_change(&mut self, execution: i64, receipt: Option<i64>) -> rusqlite::Result<()> {
        let with: &[(&str, &dyn ToSql)] = &[(":id", &receipt), (":without", &execution)];
        delete(&mut self.receipt_of_change, with, &mut self.left)
    }
}

/// Deletes, and takes off `left` what was: a row each, and what the bytes that it returns take.
fn delete(statement: &mut Statement<'_>, with: &[(&str, &dyn ToSql)], left: &mut usize) -> rusqlite::Result<()> {
    let mut rows = statement.query(with)?;
    while let Some(row) = rows.next()? {
        let bytes: Option<i64> = row.get(0)?;
        *left = left.saturating_sub(1 + usize::try_from(bytes.unwrap_or(0)).unwrap_or(0) / PAGE);
    }
    Ok(())
}
