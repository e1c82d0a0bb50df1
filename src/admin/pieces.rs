//! Executions for a list, a few at a time: each may hold megabytes, and who looks at them is not to fill the memory that
//! callbacks need.

use serde_json::Value;

use crate::store::{Filter, Queries, StoreError};

/// Rows that are in memory beside those that are kept.
const PIECE: u64 = 16;

/// A page ends with the row that reaches this, in bytes.
const BYTES_MAX: usize = 4 << 20;

/// The executions that a filter means, and whether more of them were left for the next page than its limit says.
pub(super) async fn executions(store: &dyn Queries, filter: Filter) -> Result<(Vec<Value>, bool), StoreError> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let is_cut = each(store, filter, |row| {
        bytes += weight(&row);
        rows.push(row);
        bytes < BYTES_MAX
    });
    let is_cut = is_cut.await?;
    Ok((rows, is_cut))
}

/// How many there are, up to the filter's limit.
pub(super) async fn count(store: &dyn Queries, filter: Filter) -> Result<usize, StoreError> {
    let mut count = 0;
    each(store, filter, |_| {
        count += 1;
        true
    })
    .await?;
    Ok(count)
}

/// Hands over one after the other until `take` has enough: whether it had.
async fn each(
    store: &dyn Queries,
    mut filter: Filter,
    mut take: impl FnMut(Value) -> bool,
) -> Result<bool, StoreError> {
    let mut left = filter.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let most = left.min(PIECE);
        filter.limit = Some(most);
        let piece = store.executions(filter.clone()).await?;
        let count = piece.len() as u64;
        for row in piece {
            filter.before = row["id"].as_str().and_then(|id| id.parse().ok());
            if !take(row) {
                return Ok(true);
            }
        }
        left = if count < most { 0 } else { left - count };
    }
    Ok(false)
}

/// About how many bytes it takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(all) => all.iter().map(|one| 16 + weight(one)).sum(),
        Value::Object(all) => all.iter().map(|(name, one)| 16 + name.len() + weight(one)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}
