//! What of the contract only SQLite's file can be asked for.

use callbackd::store::sqlite::{Options, SqliteStore};

use super::*;

/// What it has come to by now.
async fn by_now<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_crowd_of_callbacks_keeps_nobody_from_settling_or_pausing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(&path, &Options { queue_max: 1, ..Options::default() }).expect("opens");
    record(&store, "media", at(0), vec![update("e", Status::Succeeded)]).await;
    let delivery = claim(&store, "a", at(1)).await.remove(0);
    let settled = settlement(&delivery, at(1).plus_ms(LEASE_MS), Fate::Delivered, at(2));
    // The writer has one callback in hand and cannot go on; another one waits in the queue.
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute_batch("BEGIN IMMEDIATE").expect("begun");
    let mut waiting: Vec<_> = Vec::new();
    while waiting.len() < 2 {
        let parsed = Parsed::Updates(vec![update(&format!("e{}", waiting.len()), Status::Succeeded)]);
        let mut recording = Box::pin(try_record(&store, "media", at(1), parsed));
        match by_now(&mut recording).await {
            None => waiting.push(recording),
            Some(refused) => assert!(refused.is_err_and(|e| e.to_string().contains("full")), "there is room for one"),
        }
        tokio::task::yield_now().await;
    }
    let mut settling = store.settle(settled, Arc::new(rules()), at(2));
    assert!(by_now(&mut settling).await.is_none());
    let mut pausing = store.pause("a".to_owned(), Some("mended tomorrow".to_owned()));
    assert!(by_now(&mut pausing).await.is_none());
    conn.execute_batch("COMMIT").expect("committed");
    for recorded in waiting {
        recorded.await.expect("recorded");
    }
    settling.await.expect("settled");
    pausing.await.expect("paused");
    let left = claim(&store, "b", at(3)).await.len() + claim(&store, "a", at(3)).await.len();
    assert_eq!(left, 3, "b is told of all, and a is paused");
}

#[tokio::test]
async fn what_sqlite_refuses_of_one_says_nothing_of_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON execution_heads WHEN NEW.key = 'bad'
                  BEGIN SELECT RAISE(ABORT, 'on purpose'); END";
    conn.execute_batch(poison).expect("a trigger");
    let refused = try_record(&*store, "media", at(0), Parsed::Updates(vec![update("bad", Status::Failed)])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    store.ready().expect("it takes others");
    record(&*store, "media", at(0), vec![update("good", Status::Failed)]).await;
    assert_eq!(store.executions(Filter::default()).await.expect("executions").len(), 1);
}

#[tokio::test]
async fn every_noun_can_be_read_with_sqlite3() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let mut told = update("i1", Status::Failed);
    told.tasks.push(Task::new("j1".to_owned(), Status::Failed));
    record(&*store, "media", at(0), vec![told]).await;
    let claimed = claim(&*store, "a", at(1)).await;
    settle(&*store, &claimed[0], Fate::Delivered, at(1)).await;
    let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    for (name, rows) in [
        ("executions", 1),
        ("tasks", 1),
        ("receipts", 1),
        ("changes", 1),
        ("deliveries", 2),
        ("attempts", 1),
        ("links", 0),
    ] {
        let count: i64 = conn.query_row(&format!("SELECT count(*) FROM {name}"), [], |r| r.get(0)).expect(name);
        assert_eq!(count, rows, "{name}");
    }
    let (key, status): (String, String) =
        conn.query_row("SELECT key, status FROM tasks", [], |r| Ok((r.get(0)?, r.get(1)?))).expect("a task");
    assert_eq!((key.as_str(), status.as_str()), ("j1", "failed"));
}

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_up_to_date() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("store.db");
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute_batch(include_str!("../../../src/store/migrations/0001_initial.sql")).expect("made");
    conn.execute_batch(
        r#"PRAGMA user_version = 1;
        INSERT INTO receipts (id, source, status, received_at, peer, headers, body_bytes) VALUES (5, 'slow', 'accepted', 5, '::1', '{}', 0);
        INSERT INTO execution_heads (id, source, key, seen, status, change, sequence, type, changed_tasks, receipt, received_at, snapshot)
        VALUES (6, 'slow', 'old', '', 'running', 7, 1, 'callbackd.execution.running', '[]', 5, 5,
                '{"execution":{"source":"slow","key":"old","name":"transcode","status":"running","created_at":"2020-12-01T03:00:41.120007Z",
                  "inputs":{"a":[1]},"attributes":{"b":null}},
                  "tasks":[{"key":"t","status":"failed","finished_at":"2020-12-01T03:00:42Z","template":{"id":"x","name":null},"error":{"code":"c"}}]}');
        INSERT INTO earlier_changes (id, execution, sequence, type, received_at, snapshot)
        VALUES (4, 6, 1, 'callbackd.execution.pending', 4, '{"execution":{"source":"slow","key":"old","status":"pending","attributes":{}},"tasks":[]}');
        UPDATE execution_heads SET sequence = 2, previous = 4"#,
    )
    .expect("filled");
    drop(conn);
    let store = open(&folder);
    let store = &*store;
    let old = store.execution("old".to_owned()).await.expect("shown");
    assert_eq!(old["execution"]["overdue"], false);
    assert_eq!(old["execution"]["name"], "transcode");
    assert_eq!(old["execution"]["created_at"], "2020-12-01T03:00:41.120007Z");
    assert_eq!(old["execution"]["inputs"], json!({"a": [1]}));
    assert_eq!(old["tasks"][0]["finished_at"], "2020-12-01T03:00:42Z");
    assert_eq!(old["tasks"][0]["template"], json!({"id": "x", "name": null}));
    assert_eq!(old["tasks"][0]["error"], json!({"code": "c"}));
    assert_eq!(old["changes"][0]["data"]["execution"]["status"], "pending");
    assert!(late(store, at(9999)).await.is_empty(), "what began before is expected by nobody");
    record(store, "slow", at(0), vec![update("old", Status::Failed), update("new", Status::Running)]).await;
    assert_eq!(late(store, at(60)).await[0].state.execution.key, "new");
    assert_eq!(status_of(store, "old").await, "failed");
}
