//! Deliveries that an operator means, and what is hurried, inside the transaction.

use rusqlite::{OptionalExtension, params, params_from_iter};

use super::super::rules::{self, CHUNK, Can, DELIVERIES, DISCARDED, LOOK, RETRIED, Touched, WINDOW, conditions};
use super::writer::{Fault, Tx};
use crate::model::Time;
use crate::store::DeliveryFilter;

/// Makes due what waits for a retry. What waits for a link until much later is not even looked at.
pub(super) fn hurry(tx: &mut Tx<'_>, sink: &str, by: Time, now: Time) -> Result<(), Fault> {
    tx.sql.hurry.execute(params![sink, now.micros(), by.micros()])?;
    Ok(())
}

/// Makes up to [`CHUNK`] deliveries due again.
pub(super) fn retry(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, now: Time) -> Result<Touched, Fault> {
    let touched = select(tx, filter, after, &RETRIED)?;
    rules::retry(tx, &touched, now)?;
    Ok(touched)
}

/// Drops up to [`CHUNK`] dead or waiting deliveries.
pub(super) fn discard(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, now: Time) -> Result<Touched, Fault> {
    let touched = select(tx, filter, after, &DISCARDED)?;
    rules::discard(tx, &touched, now)?;
    Ok(touched)
}

fn select(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, can: &Can) -> Result<Touched, Fault> {
    let filter = match rules::can_be(can, filter)? {
        DeliveryFilter::All(filter) => filter,
        DeliveryFilter::One(id) => {
            let sql = "SELECT status, execution, sink FROM deliveries WHERE id = ?1";
            let found = tx.conn.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            return Ok(rules::one(can, id, found)?);
        }
    };
    let limit = filter.limit.map_or(CHUNK, |limit| (limit as usize).min(CHUNK));
    let (looked_at, end): (i64, Option<i64>) =
        tx.conn.query_row(WINDOW, [after, LOOK], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let end = end.unwrap_or(after);
    // A status is always there, and with it the WHERE.
    let (wheres, values) = conditions(&filter, &DELIVERIES, '?');
    let sql = format!(
        "SELECT d.id, d.execution, d.sink FROM deliveries d JOIN execution_heads h ON h.id = d.execution
         {wheres} AND d.id > {after} AND d.id <= {end} ORDER BY d.id LIMIT {limit}"
    );
    let mut statement = tx.conn.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows: Vec<(i64, i64, String)> = rows.collect::<Result<_, _>>()?;
    let next = rules::next_chunk(&rows, limit, looked_at, end);
    Ok(Touched { rows, next })
}
