//! Filters and cursors, as operators and the page send them, on a store with a little of everything.

use std::sync::{Arc, LazyLock};

use callbackd::model::{ExecutionPart, Receipt, Route, Rules, SinkRule, Status, Update};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Filter, Parsed, Queries, Store, StoreError};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::NOW;

struct Shelf {
    runtime: Runtime,
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

static SHELF: LazyLock<Shelf> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("a store");
    runtime.block_on(fill(&store));
    Shelf { runtime, store, _folder: folder }
});

async fn fill(store: &SqliteStore) {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let rules = Rules {
        routes: vec![Route { from: names(&["media"]), when: None, to: names(&["a", "b"]) }],
        sinks: names(&["a", "b"]).into_iter().map(|name| SinkRule { coalesce: name == "b", name }).collect(),
        ..Rules::default()
    };
    let rules = Arc::new(rules);
    for n in 0..24_u64 {
        let status = [Status::Running, Status::Failed, Status::Succeeded][n as usize % 3];
        let execution = ExecutionPart { status: Some(status), ..ExecutionPart::default() };
        let update = Update { key: format!("i{}", n / 2), execution, ..Update::default() };
        let receipt = Receipt {
            source: if n % 5 == 0 { "portal" } else { "media" }.into(),
            received_at: NOW.plus_ms(n * 1000),
            peer: "192.0.2.1".to_owned(),
            headers: Vec::new(),
            body: "a body".into(),
        };
        let parsed = match n % 7 {
            6 => Parsed::Quarantined("not understood".to_owned()),
            5 => Parsed::Held(vec![update]),
            _ => Parsed::Updates(vec![update]),
        };
        store.record(receipt, parsed, Arc::clone(&rules)).await.expect("recorded");
    }
}

/// A filter in JSON, as the admin API takes it.
pub(super) fn filters(input: &[u8]) {
    let Ok(filter) = serde_json::from_slice::<Filter>(input) else { return };
    let again = serde_json::to_vec(&filter).expect("JSON");
    assert_eq!(serde_json::from_slice::<Filter>(&again).expect("read again"), filter);
    let Shelf { runtime, store, .. } = &*SHELF;
    runtime.block_on(async {
        holds(&filter, async |filter| Ok(store.executions(filter).await?.iter().map(id_of).collect())).await;
        holds(&filter, async |filter| Ok(store.receipts(filter).await?.iter().map(|row| id(&row.id)).collect())).await;
        holds(&filter, async |filter| Ok(store.deliveries(filter).await?.iter().map(|row| id(&row.id)).collect()))
            .await;
        for row in store.deliveries(filter.clone()).await.unwrap_or_default() {
            assert!(filter.sink.as_ref().is_none_or(|sink| *sink == row.sink), "of another sink: {filter:?}");
            assert!(filter.source.as_ref().is_none_or(|source| *source == row.source), "of another source: {filter:?}");
            let is_meant = filter.status.is_empty() || filter.status.iter().any(|word| word == row.status.as_str());
            assert!(is_meant, "another status: {filter:?}");
        }
    });
}

/// Newest first, each once, no more than asked for, and page by page the same.
async fn holds(filter: &Filter, list: impl AsyncFn(Filter) -> Result<Vec<i64>, StoreError>) {
    let whole = match list(filter.clone()).await {
        Ok(whole) => whole,
        Err(StoreError::Refused(_)) => return,
        Err(e) => panic!("{e}: {filter:?}"),
    };
    assert!(whole.windows(2).all(|pair| pair[0] > pair[1]), "not newest first: {whole:?}");
    assert!(filter.before.is_none_or(|before| whole.iter().all(|id| *id < before)), "behind the cursor");
    assert!(filter.limit.is_none_or(|limit| whole.len() as u64 <= limit), "more than {:?}", filter.limit);
    let (mut paged, mut page) = (Vec::new(), Filter { limit: Some(3), ..filter.clone() });
    loop {
        let rows = list(page.clone()).await.expect("a page of what is listed whole");
        let Some(last) = rows.last() else { break };
        page.before = Some(*last);
        paged.extend(rows);
    }
    paged.truncate(whole.len().min(paged.len()));
    assert_eq!(paged, whole, "page by page");
}

fn id_of(row: &Value) -> i64 {
    id(row["id"].as_str().expect("an id"))
}

fn id(text: &str) -> i64 {
    text.parse().expect("an id")
}
