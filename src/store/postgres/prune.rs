//! Letting go of what is old, finished and told, in transactions of their own; by one callbackd at a time.

use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};

use super::PostgresStore;
use super::connect::fault;
use super::tx::Values;
use crate::model::Time;
use crate::store::rules::MAY_GO;
use crate::store::{Export, Extent, Pruned, StoreError};

/// How many executions one step looks at.
const LOOK: i64 = 1000;
/// Executions, or receipts, that one transaction deletes.
const PIECE: usize = 100;
/// So long a note stays in any case, in microseconds.
const NOTED_US: i64 = 600 * 1_000_000;
/// How much room there is nobody says: enough for a limit in percent never to be reached.
const DISK: u64 = 1 << 60;

/// Of the receipt `r`, beside the executions `$1`: somebody it speaks of is there.
const IS_NEEDED: &str = "EXISTS (SELECT 1 FROM json_array_elements_text(r.executions::json) e JOIN execution_heads p ON p.id = e.value::bigint
    WHERE p.id <> ALL($1))";

/// What goes with the executions `$1`, in this order; `{IS_NEEDED}` as above.
const HANGING: [&str; 10] = [
    "DELETE FROM attempts WHERE delivery IN (SELECT id FROM deliveries WHERE execution = ANY($1))",
    "DELETE FROM deliveries WHERE execution = ANY($1)",
    "DELETE FROM receipts r WHERE r.status <> 'accepted' AND r.execution = ANY($1) AND NOT {IS_NEEDED}",
    "WITH RECURSIVE chain (id) AS (
         SELECT previous FROM execution_heads WHERE id = ANY($1)
         UNION ALL SELECT c.previous FROM chain JOIN earlier_changes c ON c.id = chain.id),
     gone AS (DELETE FROM earlier_changes WHERE id IN (SELECT id FROM chain) RETURNING receipt)
     DELETE FROM receipts r WHERE r.id IN (SELECT receipt FROM gone) AND NOT {IS_NEEDED}",
    "DELETE FROM receipts r WHERE r.id IN (SELECT receipt FROM execution_heads WHERE id = ANY($1)) AND NOT {IS_NEEDED}",
    "DELETE FROM links WHERE execution = ANY($1)",
    "DELETE FROM links WHERE with_execution = ANY($1)",
    "DELETE FROM link_keys WHERE execution = ANY($1)",
    "DELETE FROM inquiries WHERE id = ANY($1)",
    "DELETE FROM execution_heads WHERE id = ANY($1)",
];

impl PostgresStore {
    /// One step: see [`crate::store::Store::prune`].
    pub(super) async fn let_go(
        &self,
        from: i64,
        before: Time,
        most: usize,
        export: Option<Arc<dyn Export>>,
    ) -> Result<Pruned, StoreError> {
        if export.is_some() {
            return Err(StoreError::Refused("nothing is exported out of a PostgreSQL yet".to_owned()));
        }
        let mut client = self.pool.get().await?;
        let before_us = before.micros();
        let sql = format!(
            "SELECT h.id, {} FROM execution_heads h WHERE h.id >= $2 AND h.id < $1 ORDER BY h.id LIMIT {LOOK}",
            MAY_GO.replace(":before", "$1")
        );
        let found = client.query_typed(&sql, &[(&before_us, Type::INT8), (&from, Type::INT8)]).await.map_err(fault)?;
        let (mut going, mut next) = (Vec::new(), None);
        for (at, row) in found.iter().enumerate() {
            let id: i64 = row.get(0);
            if row.get(1) {
                going.push(id);
            }
            if at + 1 == LOOK as usize || going.len() == most {
                next = Some(id + 1);
                break;
            }
        }
        let mut executions = 0;
        for piece in going.chunks(PIECE) {
            match forget(&mut client, piece, before_us).await? {
                Some(gone) => executions += gone,
                // Another callbackd is at it.
                None => return Ok(Pruned { executions, next: None }),
            }
        }
        // After the executions, which may have been the last of whom a receipt spoke.
        receipts(&mut client, from, next.unwrap_or(before_us)).await?;
        if next.is_none() {
            let end = before_us.min(super::replicas::last_id(&client).await? - NOTED_US);
            let sql = "DELETE FROM asides WHERE id < $1";
            client.execute_typed(sql, &[(&end, Type::INT8)]).await.map_err(fault)?;
        }
        Ok(Pruned { executions, next })
    }
}

/// `None` where another is at it.
async fn begin(client: &mut Client) -> Result<Option<Transaction<'_>>, StoreError> {
    let tx = client.transaction().await.map_err(fault)?;
    let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended(current_schema() || ' callbackd upkeep', 0)),
                      set_config('idle_in_transaction_session_timeout', '10000', TRUE)";
    let rows = tx.query_typed(sql, &[]).await.map_err(fault)?;
    Ok(rows.first().is_some_and(|row| row.get(0)).then_some(tx))
}

async fn forget(client: &mut Client, going: &[i64], before: i64) -> Result<Option<u64>, StoreError> {
    let Some(tx) = begin(client).await? else { return Ok(None) };
    let lock = "SELECT id FROM execution_heads WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    tx.query_typed(lock, &[(&going, Type::INT8_ARRAY)]).await.map_err(fault)?;
    // Once more, now that nobody changes anything of them.
    let sql =
        format!("SELECT h.id FROM execution_heads h WHERE h.id = ANY($2) AND {}", MAY_GO.replace(":before", "$1"));
    let rows = tx.query_typed(&sql, &[(&before, Type::INT8), (&going, Type::INT8_ARRAY)]).await.map_err(fault)?;
    let going: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    if !going.is_empty() {
        let these: &Values<'_> = &[(&going, Type::INT8_ARRAY)];
        for sql in HANGING {
            tx.execute_typed(&sql.replace("{IS_NEEDED}", IS_NEEDED), these).await.map_err(fault)?;
        }
    }
    tx.commit().await.map_err(fault)?;
    Ok(Some(going.len() as u64))
}

/// Those that were refused, are conflicts of no execution, or speak of several that are all gone.
async fn receipts(client: &mut Client, from: i64, end: i64) -> Result<(), StoreError> {
    let sql = format!(
        "DELETE FROM receipts WHERE id IN (
             SELECT r.id FROM receipts r WHERE r.id >= $2 AND r.id < $3
                AND (r.status = 'refused' OR r.status = 'conflict' AND r.execution IS NULL OR r.executions IS NOT NULL)
                AND NOT {IS_NEEDED} ORDER BY r.id LIMIT {LOOK} FOR UPDATE SKIP LOCKED)"
    );
    loop {
        let Some(tx) = begin(client).await? else { return Ok(()) };
        let none: Vec<i64> = Vec::new();
        let values: &Values<'_> = &[(&none, Type::INT8_ARRAY), (&from, Type::INT8), (&end, Type::INT8)];
        let gone = tx.execute_typed(&sql, values).await.map_err(fault)?;
        tx.commit().await.map_err(fault)?;
        if gone < LOOK.unsigned_abs() {
            return Ok(());
        }
    }
}

/// What the database takes; what it leaves to others nobody says.
pub(super) async fn extent(client: &Client) -> Result<Extent, StoreError> {
    let rows = client.query_typed("SELECT pg_database_size(current_database())", &[]).await.map_err(fault)?;
    let held = rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
    Ok(Extent { held, free: 0, room: DISK.saturating_sub(held), disk: DISK })
}
