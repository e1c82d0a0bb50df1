//! That nothing which is asked while much waits reads more than its answer: how SQLite goes about each statement, and how
//! many steps it takes with little and with much in the store.

use rusqlite::{Connection, StatementStatus};

use super::super::rules::{EXECUTIONS, conditions};
use super::read::SINKS;
use super::writer::STATEMENTS;
use super::{TAKE_OVER, TAKE_OVER_INQUIRIES, open};
use crate::store::Filter;

/// Rows that are read whole: one, or what the statement itself has picked out.
const SMALL: [&str; 7] = ["CONSTANT ROW", "folded", "q", "n", "told", "sink_pauses", "(subquery"];

fn store(folder: &tempfile::TempDir) -> Connection {
    open::writer(&folder.path().join("store.db")).expect("made")
}

#[test]
fn no_statement_reads_a_whole_table_or_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let conn = store(&folder);
    for (name, sql) in
        STATEMENTS.iter().chain(&[("sinks", SINKS), ("take_over", TAKE_OVER), ("inquiries", TAKE_OVER_INQUIRIES)])
    {
        if matches!(*name, "begin" | "commit") {
            continue;
        }
        let lines = plan(&conn, sql);
        for line in &lines {
            let scanned = line.strip_prefix("SCAN ");
            let is_small = scanned.is_none_or(|what| SMALL.iter().any(|small| what.starts_with(small)));
            assert!(is_small, "{name}: {line}\n{lines:#?}");
        }
    }
}

/// What is late is asked for with each look at the page.
#[test]
fn what_is_overdue_is_found_by_its_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let conn = store(&folder);
    let lines = |words: &[&str]| {
        let status = words.iter().map(|word| (*word).to_owned()).collect();
        let (wheres, _) = conditions(&Filter { status, ..Filter::default() }, &EXECUTIONS, '?');
        plan(&conn, &format!("SELECT h.id FROM execution_heads h {wheres} ORDER BY h.id DESC LIMIT 101"))
    };
    let scans = |words: &[&str]| lines(words).iter().any(|line| line.starts_with("SCAN h"));
    assert!(!scans(&["overdue"]), "{:#?}", lines(&["overdue"]));
    assert!(scans(&["overdue", "failed"]), "that is told from this: {:#?}", lines(&["overdue", "failed"]));
}

/// How SQLite goes about a statement.
fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("planned");
    plan.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().expect("lines")
}

/// A claim takes what is due in the order of two indexes, merged as far as it is asked for.
#[test]
fn a_claim_sorts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let conn = store(&folder);
    let (_, due) = STATEMENTS.iter().find(|(name, _)| *name == "due").expect("there");
    let sorted = |sql: &str| plan(&conn, sql).iter().any(|line| line.contains("TEMP B-TREE"));
    assert!(!sorted(due), "{:#?}", plan(&conn, due));
    assert!(due.contains("ORDER BY due_at LIMIT"), "that is told from the like");
    let all_of_it = due.replace("ORDER BY due_at LIMIT", "ORDER BY id LIMIT");
    assert!(sorted(&all_of_it), "{:#?}", plan(&conn, &all_of_it));
}

/// `count` executions with a delivery each that waits, and one with as many changes, all of them told but the last.
fn fill(conn: &Connection, count: i64) {
    conn.execute_batch(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO execution_heads (id, source, key, seen, status, change, sequence, type, received_at, snapshot)
         SELECT i, 'media', 'k' || i, '', 'failed', i, 1, 't', i, '{{}}' FROM n;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO deliveries (id, execution, sink, change, status, due_at, attempts, created_at, until_linked)
         SELECT i, i, 'a', i, 'waiting', i, 0, i, 0 FROM n;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO deliveries (id, execution, sink, change, status, due_at, attempts, created_at, finished_at, until_linked)
         SELECT {count} + i, 0, 'a', i, iif(i = {count}, 'waiting', 'delivered'), NULL, 1, i, iif(i = {count}, NULL, i), 0 FROM n;"
    ))
    .expect("filled");
}

/// Steps of SQLite's machine for each statement that has to do with what waits.
fn steps(count: i64) -> Vec<(&'static str, i32)> {
    let folder = tempfile::tempdir().expect("a folder");
    let conn = store(&folder);
    fill(&conn, count);
    let of = [
        "due",
        "next_due",
        "is_paused",
        "is_behind",
        "supersede",
        "hurry",
        "next_in_line",
        "hand_on",
        "is_linked",
        "links",
        "lease",
        "settle",
    ];
    let mut steps = Vec::new();
    for (name, sql) in
        STATEMENTS.iter().chain(&[("take_over", TAKE_OVER)]).filter(|(n, _)| of.contains(n) || *n == "take_over")
    {
        let mut statement = conn.prepare(sql).expect(name);
        let far = count * 10;
        let values: &[(usize, &dyn rusqlite::ToSql)] = match *name {
            "due" => &[(1, &"a"), (2, &far), (3, &32), (4, &far)],
            "next_due" | "is_paused" => &[(1, &"a")],
            "is_behind" => &[(1, &0), (2, &"a")],
            "supersede" | "next_in_line" => &[(1, &0), (2, &"a"), (3, &far)],
            "hurry" => &[(1, &"a"), (2, &far), (3, &(far + 1))],
            "links" => &[(1, &0)],
            "lease" => &[(1, &1), (2, &far)],
            "settle" => &[(1, &1), (2, &far), (3, &"delivered"), (5, &1), (6, &far), (7, &0)],
            "hand_on" => &[(1, &(2 * count)), (2, &far)],
            _ => &[],
        };
        for (position, value) in values {
            statement.raw_bind_parameter(*position, value).expect(name);
        }
        let mut rows = statement.raw_query();
        while rows.next().expect(name).is_some() {}
        drop(rows);
        steps.push((*name, statement.get_status(StatementStatus::VmStep)));
    }
    steps
}

#[test]
fn a_statement_is_planned_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let conn = store(&folder);
    fill(&conn, 100);
    let (_, sql) = STATEMENTS.iter().find(|(name, _)| *name == "due").expect("there");
    let mut due = conn.prepare(sql).expect("prepared");
    for limit in 1..10 {
        let rows = due.query_map(rusqlite::params!["a", 1000, limit, 1000], |_| Ok(())).expect("asked").count();
        assert_eq!(rows, limit as usize);
    }
    assert_eq!(due.get_status(StatementStatus::RePrepare), 0);
}

#[test]
fn what_waits_costs_nothing() {
    for ((name, few), (_, many)) in steps(100).into_iter().zip(steps(20_000)) {
        assert!(few > 0 && many <= few + few / 2, "{name}: {few} steps while 100 wait, {many} while 20,000 do");
    }
}
