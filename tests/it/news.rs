//! What happened after a cursor, as every store tells it: all of it, once, in the order of the commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use callbackd::model::{ExecutionPart, Learned, ReceiptStatus, Status, Update};
use callbackd::store::{DeliveryFilter, Fate, Filter, Item, Lateness, Parsed, Settlement, Store};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::store::{at, claim, open, prune, record, rules, settle, settlement, try_record, update};

/// Everything behind `after`, piece by piece.
async fn told(store: &dyn Store, after: i64) -> Vec<(i64, Item)> {
    let (mut all, mut cursor) = (Vec::new(), after);
    loop {
        let news = store.news(cursor).await.expect("read");
        assert!(news.through >= cursor && news.items.iter().all(|(id, _)| (cursor + 1..=news.through).contains(id)));
        assert!(!news.more || news.through > cursor, "it goes on");
        all.extend(news.items);
        cursor = news.through;
        if !news.more {
            assert_eq!(cursor, store.newest().await.expect("read").max(after));
            return all;
        }
    }
}

/// `media/i1 succeeded`, or `→ a delivered (delivered)`.
fn line(item: &Item) -> String {
    match item {
        Item::Change(row) => {
            let e = &row.execution.execution;
            let word = row.kind.rsplit('.').next().expect("a word");
            assert_eq!(row.execution.overdue, word == "overdue");
            format!("{}/{} {word}", e.source, e.key)
        }
        Item::Delivery(row) => {
            let how = row.outcome.as_deref().or(row.reason.as_deref()).unwrap_or("?");
            format!("{} → {} {} ({how})", row.key, row.sink, row.status)
        }
    }
}

#[tokio::test]
async fn whatever_it_comes_from_it_is_told_once_and_in_order() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    assert_eq!((store.newest().await.expect("read"), told(store, 0).await.len()), (0, 0));

    // Two changes, of which the second supersedes what waits for b; and a try.
    record(store, "media", at(0), vec![update("i1", Status::Pending)]).await;
    record(store, "media", at(1), vec![update("i1", Status::Running)]).await;
    let first = claim(store, "a", at(2)).await;
    settle(store, &first[0], Fate::Delivered, at(2)).await;
    // A receipt that is not understood yet, and one that says nothing new.
    let odd = try_record(store, "media", at(3), Parsed::Quarantined("?".to_owned())).await.expect("kept");
    record(store, "media", at(4), vec![update("i1", Status::Running)]).await;
    // Several executions at once, one of them twice, on a clock that went back.
    let many = [("i2", Status::Running), ("i3", Status::Running), ("i2", Status::Failed)];
    record(store, "media", at(2), many.map(|(key, status)| update(key, status)).to_vec()).await;
    // A change whose route cannot judge it.
    record(store, "odd", at(5), vec![update("o1", Status::Running)]).await;
    // What a sink learned, about a new execution and an old one.
    for status in [Status::Running, Status::Failed] {
        let delivery = claim(store, "a", at(6)).await.remove(0);
        let lease = store.delivery(delivery.id).await.expect("a delivery").0.due_at.expect("leased");
        let learned = vec![Learned { source: "portal".to_owned(), update: update("r1", status), linked: false }];
        let settled = Settlement { learned, ..settlement(&delivery, lease, Fate::Delivered, at(6)) };
        store.settle(settled, Arc::new(rules()), at(6)).await.expect("settled");
        // The rest of the claim goes back.
        let rows = store.deliveries(Filter { status: vec!["leased".to_owned()], ..Filter::default() }).await;
        for row in rows.expect("deliveries") {
            store.release(vec![row.id.parse().expect("an id")], row.due_at.expect("leased")).await.expect("released");
        }
    }
    // One that is late, and then found to have ended.
    record(store, "slow", at(7), vec![update("s1", Status::Running)]).await;
    let execution = store.execution("s1".to_owned()).await.expect("known")["execution"]["id"].clone();
    let execution: i64 = execution.as_str().expect("an id").parse().expect("a number");
    for truth in [None, Some(update("s1", Status::Succeeded))] {
        let lateness = Lateness { marks: truth.is_none(), truth, due_at: None, answered: true };
        store.settle_late("slow".to_owned(), execution, lateness, Arc::new(rules()), at(70)).await.expect("settled");
    }
    // An old receipt that is understood now, about an old execution.
    let understood = Parsed::Updates(vec![update("i1", Status::Succeeded)]);
    let again = store.record_again(odd.receipt, understood, Arc::new(rules()), at(71)).await.expect("recorded");
    assert_eq!(again.outcome, ReceiptStatus::Accepted);
    // What an operator discards.
    let i3 = store.execution("i3".to_owned()).await.expect("known");
    let ids: Vec<i64> = i3["deliveries"]
        .as_array()
        .expect("deliveries")
        .iter()
        .map(|d| d["id"].as_str().expect("an id").parse().expect("a number"))
        .collect();
    let waiting = *ids.last().expect("one");
    assert_eq!(store.discard(DeliveryFilter::One(waiting), at(72)).await.expect("discarded"), 1);

    let all = told(store, 0).await;
    let lines: Vec<String> = all.iter().map(|(_, item)| line(item)).collect();
    let expected = [
        "media/i1 pending",
        "i1 → b discarded (superseded)",
        "media/i1 running",
        "i1 → a delivered (delivered)",
        "media/i2 running",
        "media/i3 running",
        "i2 → b discarded (superseded)",
        "media/i2 failed",
        "o1 → a dead (",
        "odd/o1 running",
        "(delivered)",
        "portal/r1 running",
        "(delivered)",
        "portal/r1 failed",
        "slow/s1 running",
        "slow/s1 overdue",
        "slow/s1 succeeded",
        "i1 → b discarded (superseded)",
        "media/i1 succeeded",
        "i3 → b discarded (discarded by an operator)",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{line} is not {expected}: {lines:#?}");
    }
    assert!(all.is_sorted_by_key(|(cursor, _)| *cursor));

    // From any place on, and from between two, what follows is the same.
    let cursors: BTreeSet<i64> = all.iter().flat_map(|(cursor, _)| [cursor - 1, *cursor, cursor + 1]).collect();
    for cursor in cursors {
        let rest: Vec<_> = all.iter().filter(|(id, _)| *id > cursor).cloned().collect();
        assert_eq!(told(store, cursor).await, rest, "behind {cursor}");
    }
    assert_eq!(told(store, i64::MAX - 1).await, []);
}

/// Where the disk is short, everything that may go goes, however new it is: what stays is told all the same.
#[tokio::test]
async fn what_no_receipt_leads_to_is_told_while_all_that_may_go_goes() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let store = &*store;
    record(store, "slow", at(0), vec![update("s1", Status::Running)]).await;
    record(store, "nobody", at(1), vec![update("n1", Status::Running)]).await;
    let cursor = store.newest().await.expect("read");
    let execution = store.execution("s1".to_owned()).await.expect("known")["execution"]["id"].clone();
    let execution: i64 = execution.as_str().expect("an id").parse().expect("a number");
    let lateness = Lateness { marks: true, truth: None, due_at: None, answered: true };
    store.settle_late("slow".to_owned(), execution, lateness, Arc::new(rules()), at(70)).await.expect("settled");
    let lines = async || told(store, cursor).await.iter().map(|(_, item)| line(item)).collect::<Vec<_>>();
    assert_eq!(lines().await, ["slow/s1 overdue"]);
    assert_eq!(prune(store, at(71)).await, 0);
    assert_eq!(lines().await, ["slow/s1 overdue"]);
    record(store, "nobody", at(1000), vec![update("n2", Status::Running)]).await;
    assert_eq!(prune(store, at(1001)).await, 0);
    // Nobody is away for so long: what needed a note to be found may not be told any more.
    let left = lines().await;
    assert!(left.ends_with(&["nobody/n2 running".to_owned()]) && left.len() <= 2, "{left:?}");
}

#[tokio::test]
async fn a_piece_is_small_whatever_is_in_it() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    for n in 0..600 {
        record(&*store, "portal", at(n), vec![update(&format!("r{n}"), Status::Running)]).await;
    }
    // One receipt of many executions cannot be cut; what is read of it at a time can.
    let wide = |key: String| {
        let attributes: Map<String, Value> = Map::from_iter([("text".to_owned(), json!("x".repeat(100_000)))]);
        let execution = ExecutionPart { status: Some(Status::Running), attributes, ..ExecutionPart::default() };
        Update { key, execution, ..Update::default() }
    };
    record(&*store, "portal", at(600), (0..40).map(|n| wide(format!("w{n}"))).collect()).await;
    let (mut pieces, mut cursor, mut keys) = (0, 0, Vec::new());
    loop {
        let news = store.news(cursor).await.expect("read");
        let bytes: usize = news
            .items
            .iter()
            .map(|(_, item)| match item {
                Item::Change(row) => json!(row).to_string().len(),
                Item::Delivery(_) => 0,
            })
            .sum();
        assert!(bytes <= 400_000 && news.items.len() <= 300, "{bytes} bytes, {} items", news.items.len());
        keys.extend(news.items.iter().map(|(_, item)| line(item)));
        (pieces, cursor) = (pieces + 1, news.through);
        if !news.more {
            break;
        }
    }
    let expected = (0..600).map(|n| format!("r{n}")).chain((0..40).map(|n| format!("w{n}")));
    assert_eq!(keys, expected.map(|key| format!("portal/{key} running")).collect::<Vec<_>>());
    assert!(pieces > 20, "{pieces}");
}

/// Readers and writers at the same time: whoever goes on from where a piece ended misses nothing that is committed then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_while_others_commit() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..40 {
                    let key = format!("i{}", (writer * 7 + n) % 23);
                    // Each one is a change of its own, or a repeat; either way its deliveries are told or it is silent.
                    let status = [Status::Pending, Status::Running, Status::Succeeded][n % 3];
                    record(
                        &*store,
                        "media",
                        at(0),
                        vec![update(&key, status), update(&format!("{key}/{writer}/{n}"), status)],
                    )
                    .await;
                    for delivery in claim(&*store, "a", at(1)).await {
                        settle(&*store, &delivery, Fate::Delivered, at(1)).await;
                    }
                }
            })
        })
        .collect();
    let reader = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (mut seen, mut cursor) = (Vec::new(), 0);
            loop {
                let is_over = writers.iter().all(|writer| writer.is_finished());
                let news = store.news(cursor).await.expect("read");
                seen.extend(news.items);
                cursor = news.through;
                if is_over && !news.more {
                    for writer in writers {
                        writer.await.expect("no panic");
                    }
                    return seen;
                }
            }
        })
    };
    let seen = reader.await.expect("no panic");
    assert!(seen.is_sorted_by_key(|(cursor, _)| *cursor));
    let (mut changes, mut tries) = (BTreeSet::new(), BTreeMap::<String, usize>::new());
    for (cursor, item) in &seen {
        match item {
            Item::Change(row) => assert!(changes.insert(row.id.clone()), "{} twice", row.id),
            Item::Delivery(row) if row.outcome.is_some() => *tries.entry(row.id.clone()).or_default() += 1,
            Item::Delivery(row) => assert_eq!(row.reason.as_deref(), Some("superseded"), "{cursor}"),
        }
    }
    let mut expected = BTreeSet::new();
    for row in store.executions(Filter::default()).await.expect("executions") {
        let shown = store.execution(row["id"].as_str().expect("an id").to_owned()).await.expect("known");
        expected.extend(
            shown["changes"].as_array().expect("changes").iter().map(|c| c["id"].as_str().expect("an id").to_owned()),
        );
        for delivery in shown["deliveries"].as_array().expect("deliveries") {
            let id = delivery["id"].as_str().expect("an id");
            let (_, attempts) = store.delivery(id.parse().expect("a number")).await.expect("a delivery");
            assert_eq!(tries.remove(id).unwrap_or_default(), attempts.len(), "delivery {id}");
        }
    }
    assert_eq!(changes, expected);
    assert!(changes.len() > 160 && tries.is_empty(), "{} changes, {tries:?}", changes.len());
}
