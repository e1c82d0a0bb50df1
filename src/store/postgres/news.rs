//! What happened after a cursor, told in an order that holds though several callbackds commit at the same time.
//!
//! A cursor is an id: a change's, a try's, or an aside's. Ids of several callbackds are not committed in their order, so
//! nothing is told up to an id before it is certain that nothing will be committed at or below it any more. Who tells raises `line.floor` to what it sees, commits that, and takes a transaction's number; every
//! transaction takes its own number first, then reads the floor, and gives out ids above it. So whoever has a greater
//! number has greater ids; and as soon as no transaction runs any more with a smaller one, all up to the floor is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::connect::{Pool, fault};
use super::read::{Read, ask, at, count, id, links, state, word};
use crate::model::{Change, State, Time};
use crate::store::{ChangeRow, ExecutionRow, Item, News, OutcomeRow, StoreError};

/// Rows of each table that one piece looks at.
const ROWS: usize = 256;
/// Snapshots of one piece, in bytes; beyond, it ends.
const SNAPSHOTS_BYTES: usize = 256 << 10;
/// Between two looks whether who wrote then is done.
const PAUSE: Duration = Duration::from_millis(2);
/// A transaction that lasts longer is none of a callbackd.
const PATIENCE: u32 = 2500;

/// Up to where all is there.
pub(super) async fn through(pool: &Pool) -> Read<i64> {
    let mut client = pool.get().await?;
    let greatest = "SELECT greatest(floor, (SELECT max(change) FROM execution_heads), (SELECT max(id) FROM attempts), (SELECT max(id) FROM asides)),
                           floor, told FROM line";
    let rows = client.query_typed(greatest, &[]).await.map_err(fault)?;
    let row = rows.first().ok_or_else(|| StoreError::Unusable("the table line is empty".to_owned()))?;
    let (newest, told): (i64, i64) = (row.get(0), row.get(2));
    if newest == told {
        return Ok(told);
    }
    let values: &super::tx::Values<'_> = &[(&newest, Type::INT8)];
    client.execute_typed("UPDATE line SET floor = $1 WHERE floor < $1", values).await.map_err(fault)?;
    let rows = client.query_typed("SELECT pg_current_xact_id()::text::bigint", &[]).await.map_err(fault)?;
    let number: i64 = rows.first().map_or(0, |row| row.get(0));
    for _ in 0..PATIENCE {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
        let rows = client.query_typed(sql, &[]).await.map_err(fault)?;
        if rows.first().is_some_and(|row| row.get::<_, i64>(0) >= number) {
            client.execute_typed("UPDATE line SET told = $1 WHERE told < $1", values).await.map_err(fault)?;
            return Ok(newest);
        }
        // Somebody else's transaction is nothing for others here to wait for.
        drop(client);
        tokio::time::sleep(PAUSE).await;
        client = pool.get().await?;
    }
    tracing::warn!("somebody's transaction in this database lasts for long; what happens is told when it has ended");
    Ok(told)
}

/// What stands at a cursor.
enum Place {
    /// With the length of its snapshot.
    Change(usize),
    Try,
    Ended(i64),
}

/// A change as it stands in the store.
struct Made {
    id: i64,
    execution: i64,
    kind: String,
    sequence: u32,
    at: Time,
    snapshot: String,
}

pub(super) async fn news(snapshot: &Transaction<'_>, after: i64, through: i64) -> Read<News> {
    let (mut places, mut end, mut more) = (BTreeMap::new(), through.max(after), false);
    let between: &super::tx::Values<'_> = &[(&after, Type::INT8), (&through, Type::INT8)];
    let sources = [
        "SELECT change, octet_length(snapshot)::int8 FROM execution_heads WHERE change > $1 AND change <= $2 ORDER BY change",
        "SELECT id, octet_length(snapshot)::int8 FROM earlier_changes WHERE id > $1 AND id <= $2 ORDER BY id",
        "SELECT id, NULL::int8 FROM attempts WHERE id > $1 AND id <= $2 ORDER BY id",
        "SELECT id, delivery FROM asides WHERE id > $1 AND id <= $2 ORDER BY id",
    ];
    for (nth, sql) in sources.into_iter().enumerate() {
        let rows = ask(snapshot, &format!("{sql} LIMIT {ROWS}"), between).await?;
        if let Some(last) = rows.get(ROWS - 1) {
            // There may be more of these: nothing beyond is known to be whole.
            (end, more) = (end.min(last.get(0)), true);
        }
        for row in &rows {
            let what: Option<i64> = row.get(1);
            let place = match nth {
                0 | 1 => Place::Change(what.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)),
                2 => Place::Try,
                _ => Place::Ended(what.unwrap_or(0)),
            };
            places.insert(row.get::<_, i64>(0), place);
        }
    }
    places.split_off(&(end + 1));
    // As many as their snapshots allow, and one in any case.
    let mut bytes = 0;
    let cut = places.iter().find_map(|(&cursor, place)| {
        let Place::Change(size) = place else { return None };
        let is_first = bytes == 0;
        bytes += size;
        (bytes > SNAPSHOTS_BYTES && !is_first).then_some(cursor)
    });
    if let Some(cut) = cut {
        // The cursor before this one; what was found up to there is all there.
        places.split_off(&cut);
        (end, more) = (cut - 1, true);
    }
    let mut news = News { items: Vec::new(), through: end, more };
    let made = changes(snapshot, &places).await?;
    let mut told = BTreeSet::new();
    for (&cursor, place) in &places {
        match place {
            Place::Change(_) => {
                let Some(change) = made.get(&cursor) else { continue };
                // Before the change: its cursor stands for all of it.
                for (delivery, item) in untried(snapshot, change).await? {
                    if told.insert(delivery) {
                        news.items.push((cursor, item));
                    }
                }
                news.items.push((cursor, told_of(snapshot, change).await?));
            }
            Place::Try => news.items.extend(attempt(snapshot, cursor).await?.map(|item| (cursor, item))),
            Place::Ended(delivery) => news.items.extend(ended(snapshot, *delivery).await?.map(|item| (cursor, item))),
        }
    }
    Ok(news)
}

/// The changes among these.
async fn changes(snapshot: &Transaction<'_>, places: &BTreeMap<i64, Place>) -> Read<BTreeMap<i64, Made>> {
    let sql = "SELECT change, id, type, sequence, received_at, snapshot FROM execution_heads WHERE change = ANY($1)
               UNION ALL SELECT id, execution, type, sequence, received_at, snapshot FROM earlier_changes WHERE id = ANY($1)";
    let ids: Vec<i64> =
        places.iter().filter(|(_, place)| matches!(place, Place::Change(_))).map(|(id, _)| *id).collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let made = |row: &Row| Made {
        id: row.get(0),
        execution: row.get(1),
        kind: row.get(2),
        sequence: count(row, 3),
        at: at(row, 4),
        snapshot: row.get(5),
    };
    let rows = ask(snapshot, sql, &[(&ids, Type::INT8_ARRAY)]).await?;
    Ok(rows.iter().map(made).map(|made| (made.id, made)).collect())
}

const OUTCOME: &str = "SELECT d.id, d.sink, d.status, d.execution, h.key, h.source, d.attempts";

fn outcome(row: &Row, outcome: Option<String>, reason: Option<String>, over: Time) -> Read<Item> {
    Ok(Item::Delivery(Box::new(OutcomeRow {
        id: id(row, 0),
        sink: row.get(1),
        status: word(row, 2)?,
        execution: id(row, 3),
        key: row.get(4),
        source: row.get(5),
        attempts: count(row, 6),
        outcome,
        reason,
        at: over,
    })))
}

async fn attempt(snapshot: &Transaction<'_>, attempt: i64) -> Read<Option<Item>> {
    let sql = format!(
        "{OUTCOME}, a.outcome, a.reason, a.started_at, a.duration_ms
         FROM attempts a JOIN deliveries d ON d.id = a.delivery JOIN execution_heads h ON h.id = d.execution WHERE a.id = $1"
    );
    let item = |row: &Row| {
        let over = at(row, 9).plus_ms(row.get::<_, i64>(10).unsigned_abs());
        outcome(row, row.get(7), row.get(8), over)
    };
    ask(snapshot, &sql, &[(&attempt, Type::INT8)]).await?.first().map(item).transpose()
}

/// A delivery that an operator discarded, unless one has made it due again since.
async fn ended(snapshot: &Transaction<'_>, delivery: i64) -> Read<Option<Item>> {
    let sql = format!(
        "{OUTCOME}, d.reason, d.finished_at FROM deliveries d JOIN execution_heads h ON h.id = d.execution
         WHERE d.id = $1 AND d.finished_at IS NOT NULL"
    );
    let rows = ask(snapshot, &sql, &[(&delivery, Type::INT8)]).await?;
    rows.first().map(|row| outcome(row, None, row.get(7), at(row, 8))).transpose()
}

/// What ended with a change, and untried: what it superseded, and what its route could not judge.
async fn untried(snapshot: &Transaction<'_>, change: &Made) -> Read<Vec<(i64, Item)>> {
    let sql = format!(
        "{OUTCOME}, d.reason FROM deliveries d JOIN execution_heads h ON h.id = d.execution
         WHERE d.execution = $1 AND d.finished_at = $2
           AND (d.change < $3 AND d.reason = 'superseded' OR d.change = $3 AND d.status = 'dead' AND d.attempts = 0) ORDER BY d.id"
    );
    let values: &super::tx::Values<'_> =
        &[(&change.execution, Type::INT8), (&change.at.micros(), Type::INT8), (&change.id, Type::INT8)];
    let rows = ask(snapshot, &sql, values).await?;
    rows.iter().map(|row| Ok((row.get(0), outcome(row, None, row.get(7), change.at)?))).collect()
}

/// A change, with what was true of its execution after it.
async fn told_of(snapshot: &Transaction<'_>, change: &Made) -> Read<Item> {
    let sql = "SELECT 1 FROM inquiries i WHERE i.id = $1 AND i.overdue_at <= $2";
    let values: &super::tx::Values<'_> = &[(&change.execution, Type::INT8), (&change.at.micros(), Type::INT8)];
    let is_marked = !ask(snapshot, sql, values).await?.is_empty();
    let State { execution: held, .. } = state(&change.snapshot, &format!("change {}", change.id))?;
    let execution = ExecutionRow {
        id: change.execution.to_string(),
        overdue: !held.status.is_finished() && (is_marked || change.kind == Change::OVERDUE),
        execution: held,
        links: links(snapshot, change.execution).await?,
        sequence: change.sequence,
        changed_at: change.at,
    };
    let (kind, sequence, at) = (change.kind.clone(), change.sequence, change.at);
    Ok(Item::Change(Box::new(ChangeRow { id: change.id.to_string(), kind, sequence, at, execution })))
}
