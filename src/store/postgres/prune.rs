//! Letting go of what is old, finished and told, in transactions of their own; by one callbackd at a time. Each is short:
//! of an execution on which more hangs than goes in one, a part goes in each, and its head and its links go last and
//! together.

use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};

use super::PostgresStore;
use super::connect::fault;
use super::tx::Values;
use super::unload::{self, NEWEST};
use crate::model::Time;
use crate::store::rules::MAY_GO;
use crate::store::{Export, Extent, Pruned, StoreError};

/// How many executions one step looks at.
const LOOK: i64 = 1000;
/// Executions, or receipts, that one transaction deletes.
const PIECE: usize = 100;
/// Rows of a table that one transaction deletes; of the changes of one execution so many.
const ROWS: i64 = 2000;
const CHANGES: i32 = 200;
/// So long a note stays in any case, in microseconds.
const NOTED_US: i64 = 600 * 1_000_000;
/// How much room there is nobody says: enough for a limit in percent never to be reached.
const DISK: u64 = 1 << 60;

/// Of the receipt `r`, beside the executions `$1`: somebody it speaks of is there.
const IS_NEEDED: &str = "EXISTS (SELECT 1 FROM json_array_elements_text(r.executions::json) e JOIN execution_heads p ON p.id = e.value::bigint
    WHERE p.id <> ALL($1))";

/// What hangs on the executions `$1` and may be any number, in this order; of each as many as `$2` at one time.
const HANGING: [&str; 3] = [
    "DELETE FROM attempts WHERE id IN (
         SELECT a.id FROM deliveries d JOIN attempts a ON a.delivery = d.id WHERE d.execution = ANY($1) LIMIT $2)",
    "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE execution = ANY($1) LIMIT $2)",
    "DELETE FROM receipts WHERE id IN (
         SELECT r.id FROM receipts r WHERE r.status <> 'accepted' AND r.execution = ANY($1) AND NOT {IS_NEEDED} LIMIT $2)",
];

/// The changes before the latest, the newest of them first, with their receipts; of whom more are left, the head points
/// past them. How many of those there are.
const CHAINS: &str = "WITH RECURSIVE chain (execution, id, nth) AS (
         SELECT id, previous, 1 FROM execution_heads WHERE id = ANY($1) AND previous IS NOT NULL
         UNION ALL
         SELECT chain.execution, c.previous, chain.nth + 1 FROM chain JOIN earlier_changes c ON c.id = chain.id
         WHERE c.previous IS NOT NULL AND chain.nth < $2),
     gone AS (
         DELETE FROM earlier_changes c USING chain WHERE c.id = chain.id
         RETURNING chain.execution, c.previous, c.receipt, chain.nth),
     past AS (
         UPDATE execution_heads h SET previous = gone.previous FROM gone
         WHERE gone.execution = h.id AND gone.nth = $2 AND gone.previous IS NOT NULL RETURNING h.id),
     told AS (DELETE FROM receipts r WHERE r.id IN (SELECT receipt FROM gone) AND NOT {IS_NEEDED})
     SELECT count(*) FROM past";

/// What goes together, at last.
const LAST: [&str; 6] = [
    "DELETE FROM receipts r WHERE r.id IN (SELECT receipt FROM execution_heads WHERE id = ANY($1)) AND NOT {IS_NEEDED}",
    "DELETE FROM links WHERE execution = ANY($1)",
    "DELETE FROM links WHERE with_execution = ANY($1)",
    "DELETE FROM link_keys WHERE execution = ANY($1)",
    "DELETE FROM inquiries WHERE id = ANY($1)",
    "DELETE FROM execution_heads WHERE id = ANY($1)",
];

/// Receipts from `$1` to `$2` that go by themselves: refused, conflicts of no execution, or of several that are all gone.
fn alone() -> String {
    let beside_none = IS_NEEDED.replace("$1", "'{}'::bigint[]");
    format!(
        "SELECT r.id FROM receipts r WHERE r.id >= $1 AND r.id < $2
            AND (r.status = 'refused' OR r.status = 'conflict' AND r.execution IS NULL OR r.executions IS NOT NULL)
            AND (r.executions IS NULL OR NOT {beside_none})"
    )
}

impl PostgresStore {
    /// One step: see [`crate::store::Store::prune`].
    pub(super) async fn let_go(
        &self,
        from: i64,
        before: Time,
        most: usize,
        export: Option<Arc<dyn Export>>,
    ) -> Result<Pruned, StoreError> {
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
            executions += forget(&mut client, piece, before_us, &export).await?;
        }
        // After the executions, which may have been the last of whom a receipt spoke.
        receipts(&mut client, from, next.unwrap_or(before_us), &export).await?;
        if next.is_none() {
            let end = before_us.min(super::replicas::last_id(&client).await? - NOTED_US);
            let sql = "DELETE FROM asides WHERE id < $1";
            client.execute_typed(sql, &[(&end, Type::INT8)]).await.map_err(fault)?;
        }
        Ok(Pruned { executions, next })
    }
}

/// Waits until nobody else lets go of anything. Who was killed at it is replaced by who waits: the server sees to that.
async fn begin(client: &mut Client) -> Result<Transaction<'_>, StoreError> {
    let tx = client.transaction().await.map_err(fault)?;
    // A step that exports writes files meanwhile.
    let sql = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' callbackd upkeep', 0)),
                      set_config('idle_in_transaction_session_timeout', '60000', TRUE)";
    tx.query_typed(sql, &[]).await.map_err(fault)?;
    Ok(tx)
}

/// Lets go of these, in as many transactions as it takes. The first one exports what it has locked; whatever comes between
/// two of them is for the next step.
async fn forget(
    client: &mut Client,
    going: &[i64],
    before: i64,
    export: &Option<Arc<dyn Export>>,
) -> Result<u64, StoreError> {
    let (mut going, mut newest) = (going.to_vec(), None::<Vec<i64>>);
    loop {
        let tx = begin(client).await?;
        let lock = "SELECT id FROM execution_heads WHERE id = ANY($1) ORDER BY id FOR UPDATE";
        tx.query_typed(lock, &[(&going, Type::INT8_ARRAY)]).await.map_err(fault)?;
        // Once more, now that nobody changes anything of them.
        let sql = format!(
            "SELECT h.id, {NEWEST} FROM unnest($2::bigint[], $3::bigint[]) AS e (id, newest) JOIN execution_heads h ON h.id = e.id
             WHERE (e.newest IS NULL OR {NEWEST} <= e.newest) AND {}",
            MAY_GO.replace(":before", "$1")
        );
        let values: &Values<'_> = &[(&before, Type::INT8), (&going, Type::INT8_ARRAY), (&newest, Type::INT8_ARRAY)];
        let rows = tx.query_typed(&sql, values).await.map_err(fault)?;
        going = rows.iter().map(|row| row.get(0)).collect();
        if let Some(export) = export.as_ref().filter(|_| newest.is_none()) {
            unload::executions(&tx, &going, export).await?;
        }
        newest = Some(rows.iter().map(|row| row.get(1)).collect());
        let is_all = going.is_empty() || forget_a_part(&tx, &going).await?;
        tx.commit().await.map_err(fault)?;
        if is_all {
            return Ok(going.len() as u64);
        }
    }
}

/// As much as one transaction should; whether that was all, and the executions are gone.
async fn forget_a_part(tx: &Transaction<'_>, going: &Vec<i64>) -> Result<bool, StoreError> {
    let these = (going as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT8_ARRAY);
    for sql in HANGING {
        let sql = sql.replace("{IS_NEEDED}", IS_NEEDED);
        let gone = tx.execute_typed(&sql, &[these.clone(), (&ROWS, Type::INT8)]).await.map_err(fault)?;
        if gone >= ROWS.unsigned_abs() {
            return Ok(false);
        }
    }
    let chains = CHAINS.replace("{IS_NEEDED}", IS_NEEDED);
    let left = tx.query_typed(&chains, &[these.clone(), (&CHANGES, Type::INT4)]).await.map_err(fault)?;
    if left.first().is_some_and(|row| row.get::<_, i64>(0) > 0) {
        return Ok(false);
    }
    let these_alone = std::slice::from_ref(&these);
    for sql in LAST {
        tx.execute_typed(&sql.replace("{IS_NEEDED}", IS_NEEDED), these_alone).await.map_err(fault)?;
    }
    Ok(true)
}

/// Those that go by themselves.
async fn receipts(
    client: &mut Client,
    mut from: i64,
    end: i64,
    export: &Option<Arc<dyn Export>>,
) -> Result<(), StoreError> {
    let alone = alone();
    let find = format!("{alone} ORDER BY r.id LIMIT {LOOK}");
    let lock = format!("{alone} AND r.id = ANY($3) ORDER BY r.id FOR UPDATE SKIP LOCKED");
    loop {
        let rows = client.query_typed(&find, &[(&from, Type::INT8), (&end, Type::INT8)]).await.map_err(fault)?;
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let Some(last) = ids.last() else { return Ok(()) };
        let tx = begin(client).await?;
        // Once more: what was refused may have been vouched for.
        let values: &Values<'_> = &[(&from, Type::INT8), (&end, Type::INT8), (&ids, Type::INT8_ARRAY)];
        let going = tx.query_typed(&lock, values).await.map_err(fault)?;
        let going: Vec<i64> = going.iter().map(|row| row.get(0)).collect();
        if let Some(export) = export.as_ref().filter(|_| !going.is_empty()) {
            unload::receipts(&tx, &going, export).await?;
        }
        let gone = "DELETE FROM receipts WHERE id = ANY($1)";
        tx.execute_typed(gone, &[(&going, Type::INT8_ARRAY)]).await.map_err(fault)?;
        tx.commit().await.map_err(fault)?;
        if ids.len() < LOOK as usize {
            return Ok(());
        }
        from = last + 1;
    }
}

/// What the database takes; what it leaves to others nobody says.
pub(super) async fn extent(client: &Client) -> Result<Extent, StoreError> {
    let rows = client.query_typed("SELECT pg_database_size(current_database())", &[]).await.map_err(fault)?;
    let held = rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
    Ok(Extent { held, free: 0, room: DISK.saturating_sub(held), disk: DISK })
}
