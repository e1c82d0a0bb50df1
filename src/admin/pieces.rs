//! Executions and receipts for a list, a few at a time: an execution may hold megabytes, a receipt the headers of a sender
//! who means harm, and who looks at them is not to fill the memory that callbacks need.

use serde_json::{Value, json};

use crate::store::{Filter, Queries, ReceiptRow, StoreError};

/// No more rows are in memory beside those that are kept.
const PIECE: u64 = 16;

/// After rows that weigh more than this together, in bytes, the next one is read alone.
const PIECE_BYTES: usize = 256 << 10;

/// A page ends with the row that reaches this, in bytes.
const BYTES_MAX: usize = 4 << 20;

/// A page looks at no more executions than this for those that are meant. Nothing leads to those of one status, because
/// every callback would have to keep it up; so among very many, few are looked for in parts.
const LOOKED_AT: u64 = 100_000;

/// The executions that a filter means; and where the next page begins, if this one ends before the filter's limit.
pub(super) async fn executions(store: &dyn Queries, filter: Filter) -> Result<(Vec<Value>, Option<i64>), StoreError> {
    search(store, filter, LOOKED_AT).await
}

async fn search(store: &dyn Queries, mut filter: Filter, most: u64) -> Result<(Vec<Value>, Option<i64>), StoreError> {
    // What is overdue is found by its mark.
    let is_searched =
        filter.source.is_some() || filter.sink.is_some() || !filter.status.is_empty() && filter.status != ["overdue"];
    let end = if is_searched { store.further(filter.before, most).await? } else { None };
    let end = end.filter(|end| filter.since.is_none_or(|since| since.micros() < *end));
    if let Some(end) = end {
        filter.after = filter.after.max(Some(end - 1));
    }
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, None);
    let is_cut = each(store, filter, |row, weight| {
        bytes += weight;
        last = id(&row);
        rows.push(row);
        bytes < BYTES_MAX
    });
    let cut = if is_cut.await? { last } else { end };
    Ok((rows, cut))
}

/// The receipts that a filter means, likewise.
pub(super) async fn receipts(
    store: &dyn Queries,
    mut filter: Filter,
) -> Result<(Vec<ReceiptRow>, Option<i64>), StoreError> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let mut left = filter.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let most = left.min(PIECE);
        filter.limit = Some(most);
        let piece = store.receipts(filter.clone()).await?;
        left = if (piece.len() as u64) < most { 0 } else { left - most };
        for row in piece {
            filter.before = row.id.parse().ok();
            bytes += weight(&json!(row));
            rows.push(row);
            if bytes >= BYTES_MAX {
                return Ok((rows, filter.before));
            }
        }
    }
    Ok((rows, None))
}

/// How many there are, up to the filter's limit.
pub(super) async fn count(store: &dyn Queries, filter: Filter) -> Result<usize, StoreError> {
    let mut count = 0;
    each(store, filter, |_, _| {
        count += 1;
        true
    })
    .await?;
    Ok(count)
}

/// Hands over one after the other, each with its weight, until `take` has enough: whether it had. Few rows are read before
/// it is known how large they are.
async fn each(
    store: &dyn Queries,
    mut filter: Filter,
    mut take: impl FnMut(Value, usize) -> bool,
) -> Result<bool, StoreError> {
    let (mut left, mut next) = (filter.limit.unwrap_or(u64::MAX), 1);
    while left > 0 {
        let most = left.min(next);
        filter.limit = Some(most);
        let piece = store.executions(filter.clone()).await?;
        let (count, mut bytes) = (piece.len() as u64, 0);
        for row in piece {
            filter.before = id(&row);
            let weight = weight(&row);
            bytes += weight;
            if !take(row, weight) {
                return Ok(true);
            }
        }
        next = if bytes > PIECE_BYTES { 1 } else { PIECE.min(2 * next) };
        left = if count < most { 0 } else { left - count };
    }
    Ok(false)
}

fn id(row: &Value) -> Option<i64> {
    row["id"].as_str()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{ExecutionPart, Receipt, Rules, Status, Time, Update};
    use crate::store::sqlite::{Options, SqliteStore};
    use crate::store::{Parsed, Store};

    #[tokio::test]
    async fn few_among_many_are_looked_for_in_parts_and_all_of_them_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens");
        for n in 0..50 {
            let status = if [3, 30].contains(&n) { Status::Failed } else { Status::Succeeded };
            let execution = ExecutionPart { status: Some(status), ..ExecutionPart::default() };
            let update = Update { key: n.to_string(), execution, ..Update::default() };
            let now = Time::from_seconds(1_700_000_000 + n);
            let receipt = Receipt {
                source: "media".into(),
                received_at: now,
                peer: "::1".to_owned(),
                headers: Vec::new(),
                body: "x".into(),
            };
            let kept = store.record(receipt, Parsed::Updates(vec![update]), Arc::new(Rules::default()));
            kept.await.expect("recorded");
        }
        let failed = || Filter { status: vec!["failed".to_owned()], limit: Some(10), ..Filter::default() };
        let (mut found, mut pages, mut filter) = (Vec::new(), 0, failed());
        loop {
            let (rows, cut) = search(&store, filter, 8).await.expect("looked");
            assert!(rows.len() <= 1, "{rows:?}");
            found.extend(rows.iter().map(|row| row["key"].as_str().expect("a key").to_owned()));
            pages += 1;
            let Some(cut) = cut else { break };
            filter = Filter { before: Some(cut), ..failed() };
        }
        assert_eq!((found, pages), (vec!["30".to_owned(), "3".to_owned()], 7));
        let recent = Filter { since: Some(Time::from_seconds(1_700_000_045)), ..failed() };
        assert_eq!(search(&store, recent, 8).await.expect("looked"), (Vec::new(), None), "no further than was asked");
        let all = Filter { limit: Some(100), ..Filter::default() };
        assert_eq!(search(&store, all, 8).await.expect("looked").0.len(), 50, "nothing is searched for");
    }
}
