//! Queries, on connections of their own: they never wait for the writer, and see all that was committed before.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::{ToSql, ToSqlOutput};
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::super::rules::{DELIVERIES, EXECUTIONS, RECEIPTS, Term, conditions, hash_of};
use super::{history, news, open};
use crate::Boxed;
use crate::model::{Attempt, Link, State, Status, Task, Time};
use crate::store::{
    DeadReason, DeliveryRow, ExecutionRow, Filter, News, Outlook, Queries, ReceiptRow, SinkRow, StoreError,
};

/// A few connections, opened when they are first needed.
#[derive(Clone)]
pub(super) struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

pub(super) type Read<T> = Result<T, StoreError>;

pub(super) fn fault(e: rusqlite::Error) -> StoreError {
    StoreError::Unavailable(format!("the store cannot be read: {e}"))
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize) -> Readers {
        Readers { path: Arc::new(path), idle: Arc::default(), permits: Arc::new(Semaphore::new(count.max(1))) }
    }

    /// Opens one connection, to say early what is wrong.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let conn = open::reader(&self.path)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        Ok(())
    }

    pub(super) fn path(&self) -> Arc<PathBuf> {
        Arc::clone(&self.path)
    }

    pub(super) fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Read<T> + Send + 'static,
    ) -> Boxed<'_, Read<T>> {
        let readers = self.clone();
        Box::pin(async move {
            let permit = Arc::clone(&readers.permits).acquire_owned().await;
            let work = move || {
                let _permit = permit;
                let held = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let conn = match held {
                    Some(conn) => conn,
                    None => open::reader(&readers.path)?,
                };
                // One snapshot for all that the query asks: a delivery is shown with the attempts that made it what it is.
                let result = conn.unchecked_transaction().map_err(fault).and_then(|snapshot| query(&snapshot));
                readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
                result
            };
            tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("a query panicked".to_owned())))
        })
    }
}

pub(super) const EXECUTION: &str = "SELECT h.id, h.sequence, h.received_at, h.snapshot, h.status,
    EXISTS (SELECT 1 FROM inquiries i WHERE i.id = h.id AND i.overdue_at IS NOT NULL) FROM execution_heads h";

pub(super) const RECEIPT: &str = "SELECT id, source, status, received_at, peer, headers, body_bytes, digest, reason, execution, executions FROM receipts";

pub(super) const DELIVERY: &str = "SELECT d.id, d.sink, d.status, d.execution, h.key, h.source, d.change, iif(c.id IS NULL, h.type, c.type), d.attempts, d.created_at, d.due_at, d.finished_at, d.reason
    FROM deliveries d JOIN execution_heads h ON h.id = d.execution LEFT JOIN earlier_changes c ON c.id = d.change";

/// The names are looked up one after the other, each by the one before: not read from all that waits. Ids tell the time, so
/// the smallest is the oldest.
pub(super) const SINKS: &str = "WITH RECURSIVE told (sink) AS (
        SELECT ''
        UNION ALL
        SELECT (SELECT min(sink) FROM (
            SELECT min(sink) AS sink FROM deliveries WHERE finished_at IS NULL AND status = 'waiting' AND sink > told.sink
            UNION ALL SELECT min(sink) FROM deliveries WHERE finished_at IS NULL AND status = 'leased' AND sink > told.sink
            UNION ALL SELECT min(sink) FROM deliveries WHERE status = 'dead' AND sink > told.sink))
        FROM told WHERE told.sink IS NOT NULL)
    SELECT n.sink, (SELECT reason FROM sink_pauses p WHERE p.sink = n.sink),
           (SELECT count(*) FROM deliveries d WHERE d.finished_at IS NULL AND d.status IN ('leased', 'waiting') AND d.sink = n.sink),
           (SELECT created_at FROM deliveries WHERE id =
               (SELECT min(id) FROM deliveries d WHERE d.finished_at IS NULL AND d.status IN ('leased', 'waiting') AND d.sink = n.sink)),
           (SELECT count(*) FROM deliveries d WHERE d.status = 'dead' AND d.sink = n.sink),
           (SELECT reason FROM deliveries d WHERE d.sink = n.sink AND d.finished_at IS NULL AND d.reason IS NOT NULL
            ORDER BY d.until_linked, d.id LIMIT 1),
           (SELECT count(*) || ' ' || reason FROM (SELECT reason FROM deliveries d WHERE d.status = 'dead' AND d.sink = n.sink
                ORDER BY d.id DESC LIMIT 200) q
            WHERE reason IS NOT NULL GROUP BY reason ORDER BY count(*) DESC LIMIT 1)
    FROM (SELECT sink FROM told WHERE sink <> '' UNION SELECT sink FROM sink_pauses) n ORDER BY 1";

pub(super) fn at(row: &Row<'_>, column: usize) -> rusqlite::Result<Time> {
    row.get(column).map(Time::from_micros)
}

pub(super) fn word<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| rusqlite::Error::InvalidColumnName(text))
}

pub(super) fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    row.get::<_, i64>(column).map(|id| id.to_string())
}

/// One execution, flat; its tasks apart.
pub(super) fn execution(conn: &Connection, row: &Row<'_>) -> Read<(Value, Value)> {
    let read =
        || -> rusqlite::Result<(i64, u32, Time, String)> { Ok((row.get(0)?, row.get(1)?, at(row, 2)?, row.get(3)?)) };
    let (id, sequence, changed_at, snapshot) = read().map_err(fault)?;
    let status: Status = word(row, 4).map_err(fault)?;
    let is_overdue = row.get::<_, bool>(5).map_err(fault)? && !status.is_finished();
    let state = State::of_snapshot(&snapshot)
        .map_err(|e| StoreError::Unusable(format!("the snapshot of execution {id} cannot be read: {e}")))?;
    let links = links(conn, id).map_err(fault)?;
    let State { execution, tasks } = state;
    let flat = ExecutionRow { id: id.to_string(), execution, overdue: is_overdue, links, sequence, changed_at };
    Ok((json!(flat), json!(tasks)))
}

pub(super) fn links(conn: &Connection, execution: i64) -> rusqlite::Result<Vec<Link>> {
    let mut statement = conn.prepare(
        "SELECT h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.with_execution WHERE l.execution = ?1
         UNION ALL
         SELECT h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.execution WHERE l.with_execution = ?1",
    )?;
    let rows = statement
        .query_map([execution], |row| Ok(Link { source: row.get(0)?, key: row.get(1)?, execution: id(row, 2)? }))?;
    rows.collect()
}

pub(super) fn receipt(row: &Row<'_>) -> rusqlite::Result<ReceiptRow> {
    let headers: String = row.get(5)?;
    let executions = match (row.get::<_, Option<String>>(10)?, row.get::<_, Option<i64>>(9)?) {
        (Some(several), _) => serde_json::from_str::<Vec<i64>>(&several).unwrap_or_default(),
        (None, one) => one.into_iter().collect(),
    };
    Ok(ReceiptRow {
        id: id(row, 0)?,
        source: row.get(1)?,
        status: word(row, 2)?,
        received_at: at(row, 3)?,
        peer: row.get(4)?,
        reason: row.get(8)?,
        executions: executions.iter().map(i64::to_string).collect(),
        headers: serde_json::from_str(&headers).unwrap_or_default(),
        body_bytes: row.get::<_, i64>(6)? as u64,
        digest: row.get(7)?,
    })
}

pub(super) fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: id(row, 0)?,
        sink: row.get(1)?,
        status: word(row, 2)?,
        execution: id(row, 3)?,
        key: row.get(4)?,
        source: row.get(5)?,
        change: id(row, 6)?,
        kind: row.get(7)?,
        attempts: row.get(8)?,
        created_at: at(row, 9)?,
        due_at: row.get::<_, Option<i64>>(10)?.map(Time::from_micros),
        finished_at: row.get::<_, Option<i64>>(11)?.map(Time::from_micros),
        reason: row.get(12)?,
    })
}

pub(super) fn all<T>(
    conn: &Connection,
    sql: &str,
    values: Vec<Term>,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Read<Vec<T>> {
    let mut statement = conn.prepare(sql).map_err(fault)?;
    let rows = statement.query_map(params_from_iter(values), read).map_err(fault)?;
    rows.collect::<rusqlite::Result<_>>().map_err(fault)
}

impl ToSql for Term {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Term::Number(number) => number.to_sql(),
            Term::Text(text) => text.to_sql(),
        }
    }
}

fn limit(filter: &Filter) -> i64 {
    filter.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

impl Queries for Readers {
    fn newest(&self) -> Boxed<'_, Read<i64>> {
        self.read(|conn| news::newest(conn).map_err(fault))
    }

    fn news(&self, after: i64) -> Boxed<'_, Read<News>> {
        self.read(move |conn| news::news(conn, after))
    }

    fn executions(&self, filter: Filter) -> Boxed<'_, Read<Vec<Value>>> {
        self.read(move |conn| {
            let (wheres, values) = conditions(&filter, &EXECUTIONS, '?');
            let sql = format!("{EXECUTION} {wheres} ORDER BY h.id DESC LIMIT {}", limit(&filter));
            let mut statement = conn.prepare(&sql).map_err(fault)?;
            let mut rows = statement.query(params_from_iter(values)).map_err(fault)?;
            let mut list = Vec::new();
            while let Some(row) = rows.next().map_err(fault)? {
                list.push(execution(conn, row)?.0);
            }
            Ok(list)
        })
    }

    fn further(&self, before: Option<i64>, count: u64) -> Boxed<'_, Read<Option<i64>>> {
        self.read(move |conn| {
            let sql = "SELECT id FROM execution_heads WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2";
            let skipped = i64::try_from(count.saturating_sub(1)).unwrap_or(i64::MAX);
            conn.query_row(sql, [before.unwrap_or(i64::MAX), skipped], |row| row.get(0)).optional().map_err(fault)
        })
    }

    fn execution(&self, id_or_key: String) -> Boxed<'_, Read<Value>> {
        self.read(move |conn| {
            let by_id = id_or_key.parse::<i64>().unwrap_or(-1);
            // By id, by the index, and among those that the index does not hold yet.
            let sql = format!(
                "{EXECUTION} WHERE (h.id = ?1 OR h.key = ?3) AND h.id IN (
                     SELECT ?1 UNION SELECT execution FROM identities WHERE hash = ?2
                     UNION SELECT id FROM execution_heads WHERE id > (SELECT through FROM folded) AND key = ?3)
                 ORDER BY h.id DESC LIMIT 1"
            );
            let mut statement = conn.prepare(&sql).map_err(fault)?;
            let hash = hash_of(&id_or_key);
            let mut rows = statement.query(rusqlite::params![by_id, hash, id_or_key]).map_err(fault)?;
            let Some(row) = rows.next().map_err(fault)? else {
                return Err(StoreError::NotFound(format!("there is no execution with the id or key {id_or_key:?}")));
            };
            let id: i64 = row.get(0).map_err(fault)?;
            let (flat, tasks) = execution(conn, row)?;
            history::of(conn, id, flat, tasks)
        })
    }

    fn tasks(&self, executions: Vec<i64>) -> Boxed<'_, Read<Vec<Vec<Task>>>> {
        self.read(move |conn| {
            let mut statement = conn.prepare("SELECT snapshot FROM execution_heads WHERE id = ?1").map_err(fault)?;
            let tasks = |id| {
                let snapshot: Option<String> = statement.query_row([id], |row| row.get(0)).optional().map_err(fault)?;
                Ok(snapshot
                    .and_then(|text| State::of_snapshot(&text).ok())
                    .map(|state| state.tasks)
                    .unwrap_or_default())
            };
            executions.into_iter().map(tasks).collect()
        })
    }

    fn receipts(&self, filter: Filter) -> Boxed<'_, Read<Vec<ReceiptRow>>> {
        self.read(move |conn| {
            let (wheres, values) = conditions(&filter, &RECEIPTS, '?');
            let sql = format!("{RECEIPT} {wheres} ORDER BY id DESC LIMIT {}", limit(&filter));
            all(conn, &sql, values, receipt)
        })
    }

    fn receipt(&self, id: i64) -> Boxed<'_, Read<(ReceiptRow, Vec<u8>)>> {
        self.read(move |conn| {
            let row = conn.query_row(&format!("{RECEIPT} WHERE id = ?1"), [id], receipt).optional().map_err(fault)?;
            let row = row.ok_or_else(|| StoreError::NotFound(format!("there is no receipt {id}")))?;
            // Apart, because a list would read the bytes of all its receipts, and show none.
            let body =
                conn.query_row("SELECT body FROM receipts WHERE id = ?1", [id], |row| row.get(0)).map_err(fault)?;
            Ok((row, Option::unwrap_or_default(body)))
        })
    }

    fn deliveries(&self, filter: Filter) -> Boxed<'_, Read<Vec<DeliveryRow>>> {
        self.read(move |conn| {
            let (wheres, values) = conditions(&filter, &DELIVERIES, '?');
            let sql = format!("{DELIVERY} {wheres} ORDER BY d.id DESC LIMIT {}", limit(&filter));
            all(conn, &sql, values, delivery)
        })
    }

    fn delivery(&self, id: i64) -> Boxed<'_, Read<(DeliveryRow, Vec<Attempt>)>> {
        self.read(move |conn| {
            let row = conn
                .query_row(&format!("{DELIVERY} WHERE d.id = ?1"), [id], delivery)
                .optional()
                .map_err(fault)?
                .ok_or_else(|| StoreError::NotFound(format!("there is no delivery {id}")))?;
            Ok((row, history::latest_attempts(conn, id)?))
        })
    }

    fn outlook(&self, from: i64) -> Boxed<'_, Read<Outlook>> {
        self.look_out(from)
    }

    fn sinks(&self) -> Boxed<'_, Read<Vec<SinkRow>>> {
        self.read(move |conn| {
            all(conn, SINKS, Vec::new(), |row| {
                Ok(SinkRow {
                    name: row.get(0)?,
                    paused: row.get(1)?,
                    backlog: row.get::<_, i64>(2)? as u64,
                    oldest: row.get::<_, Option<i64>>(3)?.map(Time::from_micros),
                    dead: row.get::<_, i64>(4)? as u64,
                    reason: row.get(5)?,
                    dead_reason: DeadReason::of(row.get(6)?),
                })
            })
        })
    }
}
