//! SQLite alone, on one thread that does nothing else: plain rows in durable commits (WAL, `synchronous=FULL`), with
//! rising keys, no index beside them, statements prepared once, and otherwise SQLite's defaults.
//!
//! Five rows are a callback's receipt with its body, execution, change and two tasks; one row is the receipt.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::json;

use crate::latency::Latencies;
use crate::{Failure, callback};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The database; it must not be there yet.
    #[arg(long)]
    file: PathBuf,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Callbacks in one commit.
    #[arg(long, default_value_t = 32)]
    batch: u64,
    /// Rows for each callback: 5 or 1.
    #[arg(long, default_value_t = 5)]
    rows: u8,
}

const SCHEMA: &str = "
    CREATE TABLE receipts (id INTEGER PRIMARY KEY, received_at INTEGER, body BLOB);
    CREATE TABLE executions (id INTEGER PRIMARY KEY, key TEXT, name TEXT, status TEXT, created_at INTEGER);
    CREATE TABLE changes (id INTEGER PRIMARY KEY, execution INTEGER, sequence INTEGER, status TEXT, at INTEGER);
    CREATE TABLE tasks (id INTEGER PRIMARY KEY, execution INTEGER, key TEXT, name TEXT, status TEXT, at INTEGER);";

/// A new database with these tables.
pub(crate) fn create(file: &Path) -> Result<Connection, Failure> {
    if file.exists() {
        return Err(format!("{} is there already", file.display()).into());
    }
    let conn = Connection::open(file)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch(SCHEMA)?;
    Ok(conn)
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let conn = create(&options.file)?;
    let mut receipt = conn.prepare("INSERT INTO receipts VALUES (?, ?, ?)")?;
    let mut execution = conn.prepare("INSERT INTO executions VALUES (?, ?, ?, ?, ?)")?;
    let mut change = conn.prepare("INSERT INTO changes VALUES (?, ?, ?, ?, ?)")?;
    let mut task = conn.prepare("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)")?;
    let (mut begin, mut commit) = (conn.prepare("BEGIN IMMEDIATE")?, conn.prepare("COMMIT")?);

    let (mut id, mut body, mut latencies) = (0_i64, Vec::new(), Latencies::default());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs_f64(options.seconds) {
        let commits = Instant::now();
        begin.execute([])?;
        for _ in 0..options.batch {
            id += 1;
            body.clear();
            callback::write(&mut body);
            let at = 1_700_000_000_000_000 + id;
            receipt.execute((id, at, &body))?;
            if options.rows == 5 {
                let key = format!("i{:032x}", fastrand::u128(..));
                execution.execute((id, &key, "transcode", "succeeded", at))?;
                change.execute((id, id, 1, "succeeded", at))?;
                for (number, name) in [(0, "Transcode_1600413767353"), (1, "Snapshot_1600413767353")] {
                    task.execute((id * 2 + number, id, &key, name, "succeeded", at))?;
                }
            }
        }
        commit.execute([])?;
        latencies.add(commits.elapsed());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut line = json!({ "callbacks": id, "seconds": seconds, "rate": id as f64 / seconds });
    line.as_object_mut().expect("an object").append(latencies.summary().as_object_mut().expect("an object"));
    println!("{line}");
    Ok(())
}
