//! Letting go of what is old, finished and told: never of anything undelivered, dead, held or not understood.
//!
//! What may go is looked for on a connection that reads, so that no commit waits while much is looked at that has to stay.
//! The writer looks at each once more, and deletes in pieces: one transaction takes only so many rows and pages, and each
//! execution goes whole in one of them. Only one on which more hangs than that goes in several; what a callback that comes in
//! between rests on, its head and its links, goes last and together.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Statement, ToSql};

use super::super::rules::{MAY_GO, hash_of};
use super::SqliteStore;
use super::news;
use super::read::fault;
use super::unload::{self, Exported, NEWEST};
use super::writer::{Fault, Tx};
use crate::model::{ReceiptStatus, Time};
use crate::store::{Export, Pruned, StoreError};

/// How many executions one step looks at.
const LOOK: usize = 1000;
/// Rows that one transaction deletes, and pages of bodies and snapshots: more would hold up callbacks. What is begun before
/// that is ended.
const ROWS: usize = 500;
/// Bytes that cost as much as a row.
const PAGE: usize = 8192;

/// Of the receipt `r`, beside the execution `:without`: somebody it speaks of is there. A receipt that speaks of several stays
/// until the last of them goes.
const IS_NEEDED: &str =
    "EXISTS (SELECT 1 FROM json_each(r.executions) e JOIN execution_heads h ON h.id = e.value WHERE h.id <> :without)";

/// What hangs on the execution `:id` and may be any number: how it is found, with its bytes and the receipt that goes with it,
/// and how one is deleted. In the order in which it goes: attempts are found by their deliveries.
const HANGING: [(&str, &str); 4] = [
    (
        "SELECT a.id, coalesce(octet_length(a.answer), 0), NULL
         FROM deliveries d JOIN attempts a ON a.delivery = d.id WHERE d.execution = :id",
        "DELETE FROM attempts WHERE id = ?1",
    ),
    ("SELECT id, 0, NULL FROM deliveries WHERE execution = :id", "DELETE FROM deliveries WHERE id = ?1"),
    (
        "SELECT r.id, coalesce(octet_length(r.body), 0), NULL
         FROM receipts r WHERE r.status <> 'accepted' AND r.execution = :id AND NOT {IS_NEEDED}",
        "DELETE FROM receipts WHERE id = ?1",
    ),
    (
        "WITH RECURSIVE chain (id) AS (
             SELECT previous FROM execution_heads WHERE id = :id
             UNION ALL SELECT c.previous FROM chain JOIN earlier_changes c ON c.id = chain.id LIMIT :left)
         SELECT c.id, octet_length(c.snapshot) + coalesce((SELECT octet_length(r.body) FROM receipts r WHERE r.id = c.receipt), 0), c.receipt
         FROM chain CROSS JOIN earlier_changes c ON c.id = chain.id",
        "DELETE FROM earlier_changes WHERE id = ?1",
    ),
];
/// Where the changes stand among these.
const CHANGES: usize = HANGING.len() - 1;

/// What one step looked for, oldest first, and where the next one begins, if this one did not come to the end.
struct Found {
    going: Vec<Going>,
    next: Option<i64>,
}

#[derive(Clone, Copy)]
pub(super) enum Going {
    Execution {
        id: i64,
        /// How it stood when it was exported: if something came since, it stays until that is exported, too.
        exported: Option<Exported>,
    },
    /// Refused, a conflict that begins no execution, or speaks of several executions that are all gone: the last of them may
    /// have been the one that learned nothing from it.
    Receipt {
        id: i64,
        /// As what it was exported: if it was read again since, it stays, or goes with what it became.
        exported: Option<ReceiptStatus>,
    },
}

impl SqliteStore {
    /// One step: see [`crate::store::Store::prune`].
    pub(super) async fn let_go(
        &self,
        from: i64,
        before: Time,
        most: usize,
        export: Option<Arc<dyn Export>>,
    ) -> Result<Pruned, StoreError> {
        let found = self.readers.read(move |conn| executions(conn, from, before, most).map_err(fault)).await?;
        let next = found.next;
        let executions = self.export_and_forget(found.going, before, &export).await?;
        // After the executions, which may have been the last of whom a receipt spoke.
        let (mut from, end) = (Some(from), next.unwrap_or(before.micros()));
        while let Some(place) = from {
            let found = self.readers.read(move |conn| receipts(conn, place, end).map_err(fault)).await?;
            from = found.next;
            self.export_and_forget(found.going, before, &export).await?;
        }
        if next.is_none() {
            self.call(move |tx| news::forget(tx, before)).await?;
        }
        Ok(Pruned { executions, next })
    }

    async fn export_and_forget(
        &self,
        going: Vec<Going>,
        before: Time,
        export: &Option<Arc<dyn Export>>,
    ) -> Result<u64, StoreError> {
        let Some(export) = export else { return self.forget(going, before).await };
        let going: Arc<[Going]> = going.into();
        let (mut done, mut executions) = (0, 0);
        while done < going.len() {
            let (all, export) = (Arc::clone(&going), Arc::clone(export));
            let exported = self.readers.read(move |conn| unloaded(conn, &all[done..], &*export)).await?;
            done += exported.len();
            executions += self.forget(exported, before).await?;
        }
        Ok(executions)
    }

    async fn forget(&self, going: Vec<Going>, before: Time) -> Result<u64, StoreError> {
        let going: Arc<[Going]> = going.into();
        let (mut done, mut executions) = (0, 0);
        while done < going.len() {
            let all = Arc::clone(&going);
            let piece = self.call(move |tx| forget(tx, &all[done..], before)).await?;
            done += piece.done;
            executions += piece.executions;
        }
        Ok(executions)
    }
}

/// Exports the first ones of `going`, and at least one.
fn unloaded(conn: &Connection, going: &[Going], export: &dyn Export) -> Result<Vec<Going>, StoreError> {
    let mut unloaded = Vec::new();
    let written = export.take(&mut |out| {
        unloaded = unload::unload(conn, going, out).map_err(std::io::Error::other)?;
        Ok(())
    });
    match written {
        Ok(()) => Ok(unloaded),
        Err(e) => Err(StoreError::Unavailable(format!("store.export cannot be written: {e}"))),
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
            going.push(Going::Execution { id, exported: None });
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
             SELECT * FROM (SELECT r.id FROM receipts r WHERE r.status <> 'accepted' AND r.status = 'conflict' AND r.execution IS NULL
                            AND r.id >= :from AND r.id < :end ORDER BY r.id LIMIT {LOOK})
             UNION
             SELECT * FROM (SELECT r.id FROM receipts r WHERE r.executions IS NOT NULL
                            AND r.id >= :from AND r.id < :end AND NOT {} ORDER BY r.id LIMIT {LOOK}))
         ORDER BY id LIMIT {LOOK}",
        IS_NEEDED.replace(":without", "0")
    ))?;
    let with: &[(&str, &dyn ToSql)] = &[(":from", &from), (":end", &end)];
    let ids: Vec<i64> = receipts.query_map(with, |row| row.get(0))?.collect::<Result<_, _>>()?;
    let next = ids.get(LOOK - 1).map(|id| id + 1);
    Ok(Found { going: ids.into_iter().map(|id| Going::Receipt { id, exported: None }).collect(), next })
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
            Going::Receipt { id, exported } => deletes.receipt(id, exported)?,
            Going::Execution { id, exported }
                if !deletes.may_go(id, before)? || !deletes.is_exported(id, exported)? => {}
            Going::Execution { id, .. } => {
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
    newest: Statement<'c>,
    asides: Statement<'c>,
    hanging: Vec<(Statement<'c>, Statement<'c>)>,
    point_past: Statement<'c>,
    receipt_of_change: Statement<'c>,
    /// What goes with the head.
    last: Vec<Statement<'c>>,
    head: Statement<'c>,
    identity: Statement<'c>,
    receipt: Statement<'c>,
    /// What may still be deleted.
    left: usize,
}

/// A row that hangs on an execution.
struct Part {
    id: i64,
    receipt: Option<i64>,
}

impl<'c> Deletes<'c> {
    fn new(conn: &'c Connection) -> rusqlite::Result<Deletes<'c>> {
        let beside = IS_NEEDED.replace(":without", ":id");
        let hanging = HANGING
            .iter()
            .map(|(find, delete)| Ok((conn.prepare(&find.replace("{IS_NEEDED}", &beside))?, conn.prepare(delete)?)));
        let last = [
            "DELETE FROM links WHERE execution = ?1",
            "DELETE FROM links WHERE with_execution = ?1",
            "DELETE FROM link_keys WHERE execution = ?1",
            "DELETE FROM inquiries WHERE id = ?1",
        ];
        Ok(Deletes {
            may_go: conn.prepare(&format!("SELECT {MAY_GO} FROM execution_heads h WHERE h.id = :id"))?,
            newest: conn.prepare(NEWEST)?,
            asides: conn.prepare("SELECT 1 FROM asides WHERE id > ?1 AND execution = ?2")?,
            hanging: hanging.collect::<rusqlite::Result<_>>()?,
            point_past: conn.prepare(
                "UPDATE execution_heads SET previous = (SELECT previous FROM earlier_changes WHERE id = ?2) WHERE id = ?1",
            )?,
            receipt_of_change: conn
                .prepare(&format!("DELETE FROM receipts AS r WHERE r.id = :id AND NOT {IS_NEEDED}"))?,
            last: last.iter().map(|sql| conn.prepare(sql)).collect::<rusqlite::Result<_>>()?,
            head: conn.prepare(
                "DELETE FROM execution_heads WHERE id = ?1
                 RETURNING key, receipt, octet_length(snapshot) + octet_length(seen)
                           + coalesce((SELECT octet_length(r.body) FROM receipts r WHERE r.id = execution_heads.receipt), 0)",
            )?,
            identity: conn.prepare("DELETE FROM identities WHERE hash = ?1 AND execution = ?2")?,
            // What was refused may have been vouched for since it was found.
            receipt: conn.prepare(&format!(
                "DELETE FROM receipts AS r WHERE r.id = :id AND r.status = coalesce(:exported, r.status)
                   AND (r.status = 'refused' OR r.status = 'conflict' AND r.execution IS NULL
                        OR r.executions IS NOT NULL AND NOT {}) RETURNING octet_length(body)",
                IS_NEEDED.replace(":without", "0")
            ))?,
            left: ROWS,
        })
    }

    fn may_go(&mut self, execution: i64, before: Time) -> rusqlite::Result<bool> {
        let with: &[(&str, &dyn ToSql)] = &[(":id", &execution), (":before", &before.micros())];
        Ok(self.may_go.query_row(with, |row| row.get(0)).optional()?.unwrap_or(false))
    }

    /// Whether nothing came since it was exported, where it was to be.
    fn is_exported(&mut self, execution: i64, exported: Option<Exported>) -> rusqlite::Result<bool> {
        let Some(Exported { newest, aside }) = exported else { return Ok(true) };
        let is_newest = self.newest.query_row(&[(":id", &execution)], |row| Ok(row.get::<_, i64>(0)? <= newest))?;
        Ok(is_newest && !self.asides.exists([aside, execution])?)
    }

    fn receipt(&mut self, id: i64, exported: Option<ReceiptStatus>) -> rusqlite::Result<()> {
        let with: &[(&str, &dyn ToSql)] = &[(":id", &id), (":exported", &exported.map(ReceiptStatus::as_str))];
        let bytes: Option<Option<i64>> = self.receipt.query_row(with, |row| row.get(0)).optional()?;
        if let Some(bytes) = bytes {
            self.left = self.left.saturating_sub(cost(bytes.unwrap_or(0)));
        }
        Ok(())
    }

    /// Deletes the execution and returns the hash of its key. Where it does not fit into what is left, it is for the next
    /// transaction; where it does not fit into a whole one, a part goes of what hangs on it.
    fn execution(&mut self, id: i64) -> rusqlite::Result<Option<i64>> {
        let (mut left, mut is_all, mut found) = (self.left, true, Vec::new());
        for (find, _) in &mut self.hanging {
            let (rows, all) = gather(find, id, &mut left)?;
            is_all &= all;
            found.push(rows);
        }
        if !is_all && self.left < ROWS {
            return Ok(None);
        }
        self.left = left;
        if let Some(change) = found[CHANGES].last().filter(|_| !is_all) {
            self.point_past.execute([id, change.id])?;
        }
        for ((_, delete), rows) in self.hanging.iter_mut().zip(found) {
            for row in rows {
                delete.execute([row.id])?;
                receipt_of_change(&mut self.receipt_of_change, id, row.receipt)?;
            }
        }
        if !is_all {
            return Ok(None);
        }
        for last in &mut self.last {
            self.left = self.left.saturating_sub(last.execute([id])?);
        }
        let (key, receipt, bytes): (String, Option<i64>, i64) =
            self.head.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        receipt_of_change(&mut self.receipt_of_change, id, receipt)?;
        let hash = hash_of(&key);
        self.identity.execute([hash, id])?;
        self.left = self.left.saturating_sub(2 + cost(bytes));
        Ok(Some(hash))
    }
}

/// What a statement of [`HANGING`] finds, as far as it fits into what is `left`, and whether that is all.
fn gather(find: &mut Statement<'_>, execution: i64, left: &mut usize) -> rusqlite::Result<(Vec<Part>, bool)> {
    if find.parameter_index(":left")?.is_some() {
        find.raw_bind_parameter(":left", *left as i64 + 1)?;
    }
    find.raw_bind_parameter(":id", execution)?;
    let (mut rows, mut found) = (find.raw_query(), Vec::new());
    while let Some(row) = rows.next()? {
        if *left == 0 {
            return Ok((found, false));
        }
        found.push(Part { id: row.get(0)?, receipt: row.get(2)? });
        *left = left.saturating_sub(cost(row.get(1)?));
    }
    Ok((found, true))
}

fn receipt_of_change(delete: &mut Statement<'_>, execution: i64, receipt: Option<i64>) -> rusqlite::Result<()> {
    if let Some(receipt) = receipt {
        delete.execute(&[(":id", &receipt), (":without", &execution)])?;
    }
    Ok(())
}

/// What it costs to delete a row of so many bytes, in rows.
fn cost(bytes: i64) -> usize {
    1 + usize::try_from(bytes).unwrap_or(0) / PAGE
}

#[cfg(test)]
mod tests {
    use super::super::{open, writer};
    use super::*;

    fn store(folder: &tempfile::TempDir, filled: &str) -> Connection {
        let conn = open::writer(&folder.path().join("store.db")).expect("made");
        conn.execute_batch(filled).expect("filled");
        conn
    }

    /// Executions, finished, each with a repeat of its own, a delivery that was told, an attempt, and a link to the next.
    fn executions(count: i64, snapshot_bytes: i64) -> String {
        format!(
            "CREATE TEMP TABLE n AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n;
             INSERT INTO execution_heads (id, source, key, seen, status, change, sequence, type, receipt, received_at, snapshot)
             SELECT i * 10, 'media', 'k' || i, '', 'failed', i * 10 + 1, 1, 't', i * 10 + 2, i, hex(zeroblob({snapshot_bytes} / 2)) FROM n;
             INSERT INTO receipts (id, source, status, received_at, peer, headers, body, body_bytes, execution)
             SELECT i * 10 + 2, 'media', 'accepted', i, '', '', x'00', 1, i * 10 FROM n;
             INSERT INTO receipts (id, source, status, received_at, peer, headers, body_bytes, execution)
             SELECT i * 10 + 3, 'media', 'duplicate', i, '', '', 4, i * 10 FROM n;
             INSERT INTO deliveries (id, execution, sink, change, status, attempts, created_at, finished_at, until_linked)
             SELECT i * 10 + 4, i * 10, 'a', i * 10 + 1, 'delivered', 1, i, i, 0 FROM n;
             INSERT INTO attempts (id, delivery, started_at, duration_ms, outcome) SELECT i * 10 + 5, i * 10 + 4, i, 1, 'delivered' FROM n;
             INSERT INTO links (id, rule, execution, with_execution, created_at) SELECT i * 10 + 6, 'r', i * 10, i * 10 + 10, i FROM n;"
        )
    }

    fn count(conn: &Connection, sql: &str) -> i64 {
        conn.query_row(&format!("SELECT count(*) FROM {sql}"), [], |row| row.get(0)).expect(sql)
    }

    /// Lets go of all that may go, a transaction after the other; looks at the store after each.
    fn forget_all(tx: &mut Tx<'_>, mut look: impl FnMut(&Connection)) {
        let mut heads = tx.conn.prepare("SELECT id FROM execution_heads ORDER BY id").expect("prepared");
        let going: Vec<_> = heads
            .query_map([], |row| row.get(0))
            .expect("asked")
            .map(|id| Going::Execution { id: id.expect("an id"), exported: None })
            .collect();
        drop(heads);
        let mut done = 0;
        while done < going.len() {
            tx.conn.execute_batch("BEGIN").expect("begun");
            done += forget(tx, &going[done..], Time::from_seconds(1_000_000)).expect("gone").done;
            tx.conn.execute_batch("COMMIT").expect("committed");
            look(tx.conn);
        }
    }

    #[test]
    fn what_hangs_on_an_execution_is_found_without_reading_what_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = store(&folder, "");
        let may_go = format!("SELECT {MAY_GO} FROM execution_heads h WHERE h.id = :id");
        let find = HANGING.map(|(find, _)| find.replace("{IS_NEEDED}", &IS_NEEDED.replace(":without", ":id")));
        for sql in find.iter().chain([&may_go, &NEWEST.to_owned()]) {
            let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect(sql);
            let lines: Vec<String> = plan.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().expect(sql);
            // What the statement itself has picked out, and a receipt's own list.
            let is_small = |what: &str| ["CONSTANT ROW", "chain", "l"].contains(&what) || what.starts_with("e VIRTUAL");
            let mut scans = lines.iter().filter_map(|line| line.strip_prefix("SCAN "));
            assert!(scans.all(is_small), "{sql}\n{lines:#?}");
        }
    }

    #[test]
    fn an_execution_goes_whole_in_one_transaction() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = store(&folder, &executions(1000, 10));
        let mut transactions = 0;
        forget_all(&mut writer::prepare(&conn).expect("prepared"), |conn| {
            transactions += 1;
            for (table, of) in [
                ("links", "execution = h.id"),
                ("deliveries", "execution = h.id"),
                ("receipts", "status = 'duplicate' AND execution = h.id"),
                ("attempts", "id = h.id + 5"),
            ] {
                let robbed = format!("execution_heads h WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {of})");
                assert_eq!(count(conn, &robbed), 0, "executions without their {table} after {transactions}");
            }
        });
        assert!(transactions >= 1000 * 7 / ROWS, "in {transactions} transactions");
        for table in ["execution_heads", "receipts", "deliveries", "attempts", "links"] {
            assert_eq!(count(&conn, table), 0, "{table}");
        }
    }

    #[test]
    fn of_one_that_is_too_much_for_a_transaction_the_links_go_with_the_head() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = store(&folder, &executions(1, 10));
        conn.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO attempts (id, delivery, started_at, duration_ms, outcome) SELECT 100 + i, 14, i, 1, 'refused' FROM n;
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO earlier_changes (id, execution, sequence, previous, type, received_at, snapshot)
             SELECT 100 + i, 10, i, nullif(99 + i, 100), 't', i, '' FROM n;
             UPDATE execution_heads SET previous = 1100",
        )
        .expect("filled");
        let mut transactions = 0;
        forget_all(&mut writer::prepare(&conn).expect("prepared"), |conn| {
            transactions += 1;
            assert_eq!(count(conn, "links"), count(conn, "execution_heads"));
            let chain = count(conn, "execution_heads h JOIN earlier_changes c ON c.id = h.previous");
            assert_eq!(chain > 0, count(conn, "earlier_changes") > 0, "it points at what is left");
        });
        assert!((6..=9).contains(&transactions), "in {transactions} transactions");
        for table in ["execution_heads", "earlier_changes", "attempts", "links"] {
            assert_eq!(count(&conn, table), 0, "{table}");
        }
    }

    #[test]
    fn what_went_does_not_come_into_the_index_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = store(&folder, &executions(40, 10));
        let mut tx = writer::prepare(&conn).expect("prepared");
        let indexed = |of: &str| count(&conn, &format!("identities WHERE {of}"));
        let forget = |tx: &mut Tx<'_>, from: i64| {
            let going: Vec<_> = (from..from + 20).map(|n| Going::Execution { id: n * 10, exported: None }).collect();
            let piece = forget(tx, &going, Time::from_seconds(1_000_000)).expect("gone");
            assert_eq!(piece.executions, 20);
            tx.recent.committed();
        };
        conn.execute_batch("BEGIN").expect("begun");
        // Before the index is filled, and while it is.
        forget(&mut tx, 1);
        let mut id = 1_000_000;
        while indexed("execution > 0") == 0 {
            for _ in 0..1000 {
                id += 1;
                tx.recent.add(hash_of(&id.to_string()), id);
            }
            tx.recent.committed();
            tx.recent.fold(&conn, &mut tx.sql.fold).expect("folded");
            tx.recent.committed();
        }
        forget(&mut tx, 21);
        while count(&conn, "folded WHERE through = 0") == 1 {
            tx.recent.fold(&conn, &mut tx.sql.fold).expect("folded");
        }
        assert_eq!((indexed("execution < 1000"), indexed("execution > 1000") > 0), (0, true));
    }

    #[test]
    fn what_is_large_goes_in_more_transactions() {
        const MIB: i64 = 1 << 20;
        let most = (ROWS * PAGE) as i64 + 2 * MIB;
        let folder = tempfile::tempdir().expect("a folder");
        // Snapshots; and the bodies of what contradicted one execution.
        let conn = store(&folder, &executions(20, MIB));
        conn.execute_batch(&format!(
            "INSERT INTO receipts (id, source, status, received_at, peer, headers, body, body_bytes, execution)
             SELECT 1000 + i, 'media', 'conflict', i, '', '', zeroblob({MIB}), {MIB}, 200 FROM n"
        ))
        .expect("filled");
        let held = |conn: &Connection| -> i64 {
            let all = "SELECT (SELECT total(octet_length(snapshot)) FROM execution_heads) + (SELECT total(octet_length(body)) FROM receipts)";
            conn.query_row(all, [], |row| row.get::<_, f64>(0)).expect("added up") as i64
        };
        let mut before = held(&conn);
        assert!(before > 40 * MIB);
        forget_all(&mut writer::prepare(&conn).expect("prepared"), |conn| {
            let now = held(conn);
            assert!(before - now <= most, "{} bytes in one transaction", before - now);
            before = now;
        });
        assert_eq!(before, 0);
    }
}
