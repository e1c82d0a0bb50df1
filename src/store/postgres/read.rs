//! Queries: each sees all that was committed before it began.

use serde_json::{Value, json};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use super::claim::link;
use super::connect::fault;
use super::deliver::values;
use super::history;
use super::tx::Values;
use crate::model::{Attempt, Link, State, Status, Task, Time};
use crate::store::rules::{ATTEMPTS, DELIVERIES, EXECUTIONS, RECEIPTS, conditions};
use crate::store::{DeadReason, DeliveryRow, ExecutionRow, Filter, ReceiptRow, SinkRow, StoreError};

pub(super) type Read<T> = Result<T, StoreError>;

/// One snapshot for all that a query asks.
pub(super) async fn snapshot(client: &mut Client) -> Read<Transaction<'_>> {
    let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    snapshot.start().await.map_err(fault)
}

pub(super) async fn ask(snapshot: &Transaction<'_>, sql: &str, values: &Values<'_>) -> Read<Vec<Row>> {
    snapshot.query_typed(sql, values).await.map_err(fault)
}

pub(super) const EXECUTION: &str = "SELECT h.id, h.sequence, h.received_at, h.snapshot, h.status,
    EXISTS (SELECT 1 FROM inquiries i WHERE i.id = h.id AND i.overdue_at IS NOT NULL) FROM execution_heads h";

pub(super) const RECEIPT: &str = "SELECT id, source, status, received_at, peer, headers, body_bytes, digest, reason, execution, executions FROM receipts";

pub(super) const DELIVERY: &str =
    "SELECT d.id, d.sink, d.status, d.execution, h.key, h.source, d.change, coalesce(c.type, h.type), d.attempts,
    d.created_at, d.due_at, d.finished_at, d.reason
    FROM deliveries d JOIN execution_heads h ON h.id = d.execution LEFT JOIN earlier_changes c ON c.id = d.change";

const LINKS: &str =
    "SELECT h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.with_execution WHERE l.execution = $1
    UNION ALL
    SELECT h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.execution WHERE l.with_execution = $1";

/// The names are looked up one after the other, each by the one before: not read from all that waits. Ids tell the time, so
/// the smallest is the oldest.
const SINKS: &str = "WITH RECURSIVE told (sink) AS (
        SELECT ''
        UNION ALL
        SELECT least((SELECT min(d.sink) FROM deliveries d WHERE d.finished_at IS NULL AND d.sink > told.sink),
                     (SELECT min(d.sink) FROM deliveries d WHERE d.status = 'dead' AND d.sink > told.sink))
        FROM told WHERE told.sink IS NOT NULL)
    SELECT n.sink, (SELECT reason FROM sink_pauses p WHERE p.sink = n.sink),
           w.count, (SELECT created_at FROM deliveries WHERE id = w.oldest),
           (SELECT count(*) FROM deliveries d WHERE d.status = 'dead' AND d.sink = n.sink),
           (SELECT reason FROM deliveries d WHERE d.sink = n.sink AND d.finished_at IS NULL AND d.reason IS NOT NULL
            ORDER BY d.until_linked, d.id LIMIT 1),
           (SELECT count(*) || ' ' || reason FROM (SELECT reason FROM deliveries d WHERE d.status = 'dead' AND d.sink = n.sink
                LIMIT 200) q
            WHERE reason IS NOT NULL GROUP BY reason ORDER BY count(*) DESC LIMIT 1)
    FROM (SELECT sink FROM told WHERE sink <> '' UNION SELECT sink FROM sink_pauses) n
    CROSS JOIN LATERAL (SELECT count(*) AS count, min(d.id) AS oldest FROM deliveries d WHERE d.finished_at IS NULL AND d.sink = n.sink) w
    ORDER BY 1";

pub(super) fn at(row: &Row, column: usize) -> Time {
    Time::from_micros(row.get(column))
}

pub(super) fn maybe_at(row: &Row, column: usize) -> Option<Time> {
    row.get::<_, Option<i64>>(column).map(Time::from_micros)
}

pub(super) fn word<T: std::str::FromStr>(row: &Row, column: usize) -> Read<T> {
    let text: &str = row.get(column);
    text.parse().map_err(|_| StoreError::Unusable(format!("the store holds the word {text:?}, which nobody knows")))
}

pub(super) fn id(row: &Row, column: usize) -> String {
    row.get::<_, i64>(column).to_string()
}

pub(super) fn count(row: &Row, column: usize) -> u32 {
    row.get::<_, i32>(column).unsigned_abs()
}

/// What a snapshot holds.
pub(super) fn state(snapshot: &str, of: &str) -> Read<State> {
    State::of_snapshot(snapshot).map_err(|e| StoreError::Unusable(format!("the snapshot of {of} cannot be read: {e}")))
}

pub(super) async fn links(snapshot: &Transaction<'_>, execution: i64) -> Read<Vec<Link>> {
    Ok(ask(snapshot, LINKS, &[(&execution, Type::INT8)]).await?.iter().map(|row| link(row, 0)).collect())
}

/// One execution, flat; its tasks apart.
pub(super) async fn shown(snapshot: &Transaction<'_>, row: &Row) -> Read<(Value, Value)> {
    let (key, status): (i64, Status) = (row.get(0), word(row, 4)?);
    let State { execution, tasks } = state(row.get(3), &format!("execution {key}"))?;
    let flat = ExecutionRow {
        id: key.to_string(),
        execution,
        overdue: row.get::<_, bool>(5) && !status.is_finished(),
        links: links(snapshot, key).await?,
        sequence: count(row, 1),
        changed_at: at(row, 2),
    };
    Ok((json!(flat), json!(tasks)))
}

pub(super) fn receipt_row(row: &Row) -> Read<ReceiptRow> {
    let executions = match (row.get::<_, Option<String>>(10), row.get::<_, Option<i64>>(9)) {
        (Some(several), _) => serde_json::from_str::<Vec<i64>>(&several).unwrap_or_default(),
        (None, one) => one.into_iter().collect(),
    };
    Ok(ReceiptRow {
        id: id(row, 0),
        source: row.get(1),
        status: word(row, 2)?,
        received_at: at(row, 3),
        peer: row.get(4),
        reason: row.get(8),
        executions: executions.iter().map(i64::to_string).collect(),
        headers: serde_json::from_str(row.get(5)).unwrap_or_default(),
        body_bytes: row.get::<_, i64>(6).unsigned_abs(),
        digest: row.get(7),
    })
}

pub(super) fn delivery_row(row: &Row) -> Read<DeliveryRow> {
    Ok(DeliveryRow {
        id: id(row, 0),
        sink: row.get(1),
        status: word(row, 2)?,
        execution: id(row, 3),
        key: row.get(4),
        source: row.get(5),
        change: id(row, 6),
        kind: row.get(7),
        attempts: count(row, 8),
        created_at: at(row, 9),
        due_at: maybe_at(row, 10),
        finished_at: maybe_at(row, 11),
        reason: row.get(12),
    })
}

fn limit(filter: &Filter) -> String {
    filter.limit.map_or_else(String::new, |limit| format!("LIMIT {}", limit.min(i64::MAX as u64)))
}

pub(super) async fn executions(snapshot: &Transaction<'_>, filter: &Filter) -> Read<Vec<Value>> {
    let (wheres, terms) = conditions(filter, &EXECUTIONS, '$');
    let sql = format!("{EXECUTION} {wheres} ORDER BY h.id DESC {}", limit(filter));
    let mut list = Vec::new();
    for row in &ask(snapshot, &sql, &values(&terms)).await? {
        list.push(shown(snapshot, row).await?.0);
    }
    Ok(list)
}

pub(super) async fn execution(snapshot: &Transaction<'_>, id_or_key: &str) -> Read<Value> {
    let (by_id, key) = (id_or_key.parse::<i64>().unwrap_or(-1), super::rows::owned(id_or_key));
    let sql = format!("{EXECUTION} WHERE h.id = $1 OR h.key = $2 ORDER BY h.id DESC LIMIT 1");
    let rows = ask(snapshot, &sql, &[(&by_id, Type::INT8), (&key, Type::TEXT)]).await?;
    let Some(row) = rows.first() else {
        return Err(StoreError::NotFound(format!("there is no execution with the id or key {id_or_key:?}")));
    };
    let id: i64 = row.get(0);
    let (execution, tasks) = shown(snapshot, row).await?;
    history::of(snapshot, id, execution, tasks).await
}

/// The id of the last of `count` executions, newest first, from below `before` on.
pub(super) async fn further(snapshot: &Transaction<'_>, before: Option<i64>, count: u64) -> Read<Option<i64>> {
    let skipped = i64::try_from(count.saturating_sub(1)).unwrap_or(i64::MAX);
    let sql = "SELECT id FROM execution_heads WHERE id < $1 ORDER BY id DESC OFFSET $2 LIMIT 1";
    let values: &Values<'_> = &[(&before.unwrap_or(i64::MAX), Type::INT8), (&skipped, Type::INT8)];
    Ok(ask(snapshot, sql, values).await?.first().map(|row| row.get(0)))
}

pub(super) async fn tasks(snapshot: &Transaction<'_>, executions: &[i64]) -> Read<Vec<Vec<Task>>> {
    let sql = "SELECT id, snapshot FROM execution_heads WHERE id = ANY($1)";
    let rows = ask(snapshot, sql, &[(&executions, Type::INT8_ARRAY)]).await?;
    let tasks = |id: &i64| {
        let row = rows.iter().find(|row| row.get::<_, i64>(0) == *id);
        row.and_then(|row| State::of_snapshot(row.get(1)).ok()).map(|state| state.tasks).unwrap_or_default()
    };
    Ok(executions.iter().map(tasks).collect())
}

pub(super) async fn receipts(snapshot: &Transaction<'_>, filter: &Filter) -> Read<Vec<ReceiptRow>> {
    let (wheres, terms) = conditions(filter, &RECEIPTS, '$');
    let sql = format!("{RECEIPT} {wheres} ORDER BY id DESC {}", limit(filter));
    ask(snapshot, &sql, &values(&terms)).await?.iter().map(receipt_row).collect()
}

pub(super) async fn receipt(snapshot: &Transaction<'_>, id: i64) -> Read<(ReceiptRow, Vec<u8>)> {
    let of: &Values<'_> = &[(&id, Type::INT8)];
    let rows = ask(snapshot, &format!("{RECEIPT} WHERE id = $1"), of).await?;
    let row = rows.first().ok_or_else(|| StoreError::NotFound(format!("there is no receipt {id}")))?;
    // Apart, because a list would read the bytes of all its receipts, and show none.
    let body = ask(snapshot, "SELECT body FROM receipts WHERE id = $1", of).await?;
    let body = body.first().and_then(|row| row.get::<_, Option<Vec<u8>>>(0)).unwrap_or_default();
    Ok((receipt_row(row)?, body))
}

pub(super) async fn deliveries(snapshot: &Transaction<'_>, filter: &Filter) -> Read<Vec<DeliveryRow>> {
    let (wheres, terms) = conditions(filter, &DELIVERIES, '$');
    // What is open has an index, which is named by this.
    let is_open = !filter.status.is_empty() && filter.status.iter().all(|word| word == "waiting" || word == "leased");
    let open = if is_open { "AND d.finished_at IS NULL" } else { "" };
    let sql = format!("{DELIVERY} {wheres} {open} ORDER BY d.id DESC {}", limit(filter));
    ask(snapshot, &sql, &values(&terms)).await?.iter().map(delivery_row).collect()
}

pub(super) async fn delivery(snapshot: &Transaction<'_>, id: i64) -> Read<(DeliveryRow, Vec<Attempt>)> {
    let of: &Values<'_> = &[(&id, Type::INT8)];
    let found = ask(snapshot, &format!("{DELIVERY} WHERE d.id = $1"), of).await?;
    let row = found.first().ok_or_else(|| StoreError::NotFound(format!("there is no delivery {id}")))?;
    let sql = "SELECT started_at, duration_ms, outcome, status, reason, answer FROM attempts WHERE delivery = $1
         ORDER BY id DESC LIMIT $2";
    let rows = ask(snapshot, sql, &[(&id, Type::INT8), (&ATTEMPTS, Type::INT8)]).await?;
    let attempts = rows.iter().rev().map(attempt).collect();
    Ok((delivery_row(row)?, attempts))
}

pub(super) fn attempt(row: &Row) -> Attempt {
    Attempt {
        started_at: at(row, 0),
        duration_ms: row.get::<_, i64>(1).unsigned_abs(),
        outcome: row.get(2),
        status: row.get::<_, Option<i32>>(3).and_then(|status| u16::try_from(status).ok()),
        reason: row.get(4),
        answer: row.get(5),
    }
}

pub(super) async fn sinks(snapshot: &Transaction<'_>) -> Read<Vec<SinkRow>> {
    let sink = |row: &Row| SinkRow {
        name: row.get(0),
        paused: row.get(1),
        backlog: row.get::<_, i64>(2).unsigned_abs(),
        oldest: maybe_at(row, 3),
        dead: row.get::<_, i64>(4).unsigned_abs(),
        reason: row.get(5),
        dead_reason: DeadReason::of(row.get(6)),
    };
    Ok(ask(snapshot, SINKS, &[]).await?.iter().map(sink).collect())
}
