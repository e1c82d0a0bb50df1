//! A store as the first release left it: the rows that are there, in the schema of the first migration alone.

use std::collections::BTreeMap;
use std::path::Path;

use callbackd::model::State;
use rusqlite::Connection;

const FIRST: &str = include_str!("../../src/store/migrations/0001_initial.sql");

/// Kind and text of everything that a schema has, by name.
type Schema = BTreeMap<String, (String, String)>;

fn schema(conn: &Connection) -> Schema {
    let mut statement =
        conn.prepare("SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL").expect("prepared");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).expect("queried");
    rows.collect::<Result<_, _>>().expect("rows")
}

fn first() -> Schema {
    let conn = Connection::open_in_memory().expect("opens");
    conn.execute_batch(FIRST).expect("made");
    schema(&conn)
}

/// Takes the store of a daemon that has ended back to schema 1. Later migrations may have added to it, and snapshots had
/// names then; one that changed a table needs more than this, and is found out here.
pub(crate) fn take_back(path: &Path) {
    let mut conn = Connection::open(path).expect("opens");
    let (first, now) = (first(), schema(&conn));
    let step = conn.transaction().expect("begun");
    // What hangs on tables goes before them.
    for wanted in ["view", "index", "table"] {
        for (name, (kind, sql)) in now.iter().filter(|(_, (kind, _))| kind == wanted) {
            let differs = first.get(name).is_none_or(|(_, text)| text != sql);
            assert!(!differs || kind != "table" || !first.contains_key(name), "the table {name} has changed");
            if differs {
                step.execute_batch(&format!("DROP {kind} {name}")).expect("dropped");
            }
        }
    }
    let left = schema(&step);
    for wanted in ["table", "index", "view"] {
        for (_, sql) in
            first.iter().filter(|(name, (kind, _))| kind == wanted && !left.contains_key(*name)).map(|(_, x)| x)
        {
            step.execute_batch(sql).expect("made");
        }
    }
    for table in ["execution_heads", "earlier_changes"] {
        named(&step, table);
    }
    step.pragma_update(None, "user_version", 1).expect("set");
    step.commit().expect("committed");
    assert_eq!(schema(&conn), first);
    // As a daemon leaves it that ends in order; the last one to close takes the log away.
    let _: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).expect("checkpointed");
}

/// Gives the lists that snapshots are since schema 3 their names again.
fn named(conn: &Connection, table: &str) {
    let mut all = conn.prepare(&format!("SELECT id, snapshot FROM {table}")).expect("prepared");
    let rows = all.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))).expect("queried");
    let mut update = conn.prepare(&format!("UPDATE {table} SET snapshot = ?2 WHERE id = ?1")).expect("prepared");
    for (id, snapshot) in rows.collect::<Result<Vec<_>, _>>().expect("rows") {
        let state = State::of_snapshot(&snapshot).expect("a snapshot");
        update.execute(rusqlite::params![id, serde_json::to_string(&state).expect("written")]).expect("updated");
    }
}

/// Which schema a store has whose daemon was killed; looked at in a copy, so that the next daemon recovers it.
pub(crate) fn version(path: &Path) -> i64 {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy.db");
    std::fs::copy(path, &copy).expect("copied");
    let of = |path: &Path| path.with_extension("db-wal");
    if of(path).exists() {
        std::fs::copy(of(path), of(&copy)).expect("copied");
    }
    let conn = Connection::open(copy).expect("opens");
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(check, "ok");
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version")
}
