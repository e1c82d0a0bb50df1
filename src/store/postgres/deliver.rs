//! Deliveries that an operator means, what is hurried, and pauses.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::PostgresStore;
use super::connect::fault;
use super::tx::{Done, Tx, Values};
use crate::model::Time;
use crate::shutdown::Shutdown;
use crate::store::rules::{self, CHUNK, Can, DELIVERIES, DISCARDED, LOOK, RETRIED, Term, Touched, WINDOW, conditions};
use crate::store::{DeliveryFilter, StoreError};

/// How many rows one transaction moves to another time.
const STEP: i64 = 1000;

impl PostgresStore {
    /// In steps, each a transaction, soonest first: what was hurried is due before what was not.
    pub(super) async fn hurry_sink(&self, sink: String, by: Time, now: Time) -> Result<(), StoreError> {
        let sql = format!(
            "WITH these AS (
                 SELECT id, due_at FROM deliveries
                 WHERE finished_at IS NULL AND status = 'waiting' AND sink = $1 AND due_at >= $4 AND (due_at > $4 OR id > $5)
                     AND due_at <= $3 AND attempts > 0 AND NOT until_linked
                 ORDER BY due_at, id LIMIT {STEP} FOR UPDATE SKIP LOCKED),
             hurried AS (UPDATE deliveries d SET due_at = $2 FROM these WHERE d.id = these.id)
             SELECT due_at, id, count(*) OVER () FROM these ORDER BY due_at DESC, id DESC LIMIT 1"
        );
        let apart = self.place.apart();
        let (now, by) = (apart.of_server(now).micros(), apart.of_server(by).micros());
        let client = self.pool.get().await?;
        let mut after = (now, i64::MAX);
        loop {
            let values: &Values<'_> = &[
                (&sink, Type::TEXT),
                (&now, Type::INT8),
                (&by, Type::INT8),
                (&after.0, Type::INT8),
                (&after.1, Type::INT8),
            ];
            match client.query_typed(&sql, values).await.map_err(fault)?.first() {
                Some(row) if row.get::<_, i64>(2) == STEP => after = (row.get(0), row.get(1)),
                _ => return Ok(()),
            }
        }
    }
}

/// Makes up to [`CHUNK`] deliveries due again.
pub(super) fn retry(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, now: Time) -> Done<Touched> {
    let touched = select(tx, filter, after, &RETRIED)?;
    rules::retry(tx, &touched, now)?;
    Ok(touched)
}

/// Drops up to [`CHUNK`] dead or waiting deliveries.
pub(super) fn discard(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, now: Time) -> Done<Touched> {
    let touched = select(tx, filter, after, &DISCARDED)?;
    rules::discard(tx, &touched, now)?;
    Ok(touched)
}

/// Looked for, then locked, then looked at once more: meanwhile others may have told, retried or discarded them.
fn select(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, can: &Can) -> Done<Touched> {
    let filter = match rules::can_be(can, filter)? {
        DeliveryFilter::All(filter) => filter,
        DeliveryFilter::One(id) => {
            let values: &Values<'_> = &[(&id, Type::INT8)];
            let found = tx.rows("SELECT execution FROM deliveries WHERE id = $1", values)?;
            tx.lock(&found.iter().map(|row| row.get(0)).collect::<Vec<_>>())?;
            let found = tx.rows("SELECT status, execution, sink FROM deliveries WHERE id = $1 FOR UPDATE", values)?;
            let found = found.first().map(|row| (row.get(0), row.get(1), row.get(2)));
            return Ok(rules::one(can, id, found)?);
        }
    };
    let limit = filter.limit.map_or(CHUNK, |limit| (limit as usize).min(CHUNK));
    let window = tx.rows(&WINDOW.replace('?', "$"), &[(&after, Type::INT8), (&LOOK, Type::INT8)])?;
    let (looked_at, end) = window.first().map_or((0, None), |row| (row.get(0), row.get::<_, Option<i64>>(1)));
    let end = end.unwrap_or(after);
    // A status is always there, and with it the WHERE.
    let (wheres, terms) = conditions(&filter, &DELIVERIES, '$');
    let sql = |more: &str| {
        format!(
            "SELECT d.id, d.execution, d.sink FROM deliveries d JOIN execution_heads h ON h.id = d.execution
             {wheres} AND d.id > {after} AND d.id <= {end} {more} ORDER BY d.id"
        )
    };
    let of = |rows: Vec<Row>| -> Vec<(i64, i64, String)> {
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let found = of(tx.rows(&format!("{} LIMIT {limit}", sql("")), &values(&terms))?);
    let next = rules::next_chunk(&found, limit, looked_at, end);
    let mut executions: Vec<i64> = found.iter().map(|(_, execution, _)| *execution).collect();
    executions.sort_unstable();
    executions.dedup();
    tx.lock(&executions)?;
    let ids: Vec<String> = found.iter().map(|(id, _, _)| id.to_string()).collect();
    let rows = match ids.is_empty() {
        true => Vec::new(),
        false => {
            let among = format!("AND d.id IN ({})", ids.join(", "));
            of(tx.rows(&format!("{} FOR UPDATE OF d", sql(&among)), &values(&terms))?)
        }
    };
    Ok(Touched { rows, next })
}

/// For a text that PostgreSQL cannot hold, and so nobody has.
const NOBODY: &str = "\u{2400}";

/// The values of a filter.
pub(super) fn values(terms: &[Term]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    fn value(term: &Term) -> (&(dyn ToSql + Sync), Type) {
        match term {
            Term::Number(number) => (number, Type::INT8),
            Term::Text(text) if text.contains('\0') => (&NOBODY, Type::TEXT),
            Term::Text(text) => (text, Type::TEXT),
        }
    }
    terms.iter().map(value).collect()
}

/// An operator's word: with a reason, or the pause is over.
pub(super) fn pause(tx: &mut Tx<'_>, sink: &str, reason: Option<&str>) -> Done {
    let of_sink = (&sink as &(dyn ToSql + Sync), Type::TEXT);
    match reason {
        Some(reason) => tx.rows(
            "INSERT INTO sink_pauses (sink, reason) VALUES ($1, $2) ON CONFLICT (sink) DO UPDATE SET reason = excluded.reason",
            &[of_sink, (&reason, Type::TEXT)],
        ),
        None => tx.rows("DELETE FROM sink_pauses WHERE sink = $1", &[of_sink]),
    }
    .map(drop)
}

/// The peer's word, which changes nothing about an operator's; whether the sink is paused by it.
pub(super) fn halt(tx: &mut Tx<'_>, sink: &str, reason: &str, replaced: &Shutdown) -> Done<bool> {
    // Here, and no sooner: who begins it has the sink go on by a command that comes after, so one of the two is in time.
    if replaced.is_begun() {
        return Ok(false);
    }
    let sql = "INSERT INTO sink_pauses (sink, reason) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING sink";
    Ok(!tx.rows(sql, &[(&sink, Type::TEXT), (&reason, Type::TEXT)])?.is_empty())
}

/// Ends every pause whose reason begins with `because`: of which sinks.
pub(super) fn resume(tx: &mut Tx<'_>, because: &str) -> Done<Vec<String>> {
    let sql = "DELETE FROM sink_pauses WHERE substr(reason, 1, length($1)) = $1 RETURNING sink";
    Ok(tx.rows(sql, &[(&because, Type::TEXT)])?.iter().map(|row| row.get(0)).collect())
}
