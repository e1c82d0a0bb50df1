//! Fills the store of a configuration with executions, some of them with deliveries that wait: what a backlog is measured on.
//!
//!     fill CONFIG EXECUTIONS WAITING [HOURS]
//!
//! CONFIG names the store, which must hold nothing yet, and has a `cos_workflow` source first. Each execution is a finished
//! workflow of two tasks, spread over the last HOURS (48). The latest WAITING of them are told to the sinks that the
//! routes name, and wait; the others were told to nobody. The rows are the product's own: it records one callback of
//! either sort in a store beside, and what it wrote is copied with other ids, times and vendor's ids. At the end the
//! product is asked again: it has to know executions of the first, the middle and the last part for its own, and hand out
//! the oldest delivery.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use callbackd::config::{Config, Environment};
use callbackd::model::{ReceiptStatus, Rules, Time};
use callbackd::pipeline::ingest::Intake;
use callbackd::sources::RawRequest;
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Parsed, Store};
use callbackd::{app, clock};
use fastrand::Rng;
use http::{HeaderMap, Method, header};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

type Fault = Box<dyn std::error::Error>;

/// What every measurement sends, with a place for each id.
const BODY: &str = include_str!("callback.xml");
/// Executions in one transaction.
const CHUNK: usize = 20_000;
/// The product's own index from a hash of an execution's key; see `src/store/sqlite/identity.rs`.
const IDENTITIES: [&str; 2] = ["identities", "folded"];
/// Smaller integers are neither ids nor times, which both are microseconds since 1970.
const MICROS_MIN: i64 = 1_000_000_000_000_000;

/// The vendor's ids of a workflow's run and of its two jobs.
struct Ids([String; 3]);

impl Ids {
    /// Those of the `number`th execution: random, as a vendor's are, and the same at every run.
    fn of(number: usize) -> Ids {
        let mut random = Rng::with_seed(number as u64);
        Ids(std::array::from_fn(|_| format!("{:032x}", random.u128(..))))
    }

    fn key(&self) -> String {
        format!("i{}", self.0[0])
    }

    /// As Tencent sends it: about 1.1 kB.
    fn body(&self) -> String {
        self.0.iter().fold(BODY.trim_end().to_owned(), |body, id| body.replacen("{id}", id, 1))
    }
}

/// Has the product record the callback of these ids: what became of it.
async fn record(store: &SqliteStore, intake: &Intake, ids: &Ids, rules: &Arc<Rules>) -> Result<ReceiptStatus, Fault> {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, "application/xml".parse()?)]);
    let sent = intake.source.as_sender(ids.body().into(), headers, clock::now());
    let raw = RawRequest {
        method: Method::POST,
        rest: sent.suffix.strip_prefix('/').unwrap_or_default().to_owned(),
        query: sent.suffix.strip_prefix('?').map(str::to_owned),
        headers: sent.headers,
        body: sent.body,
        peer: "127.0.0.1".parse()?,
    };
    let receipt = intake.source.authenticate(raw, clock::now())?;
    let parsed = Parsed::Updates(intake.source.parse(&receipt)?);
    Ok(store.record(receipt, parsed, Arc::clone(rules)).await?.outcome)
}

/// The rows that one callback makes.
struct Seed {
    /// Each with its table.
    rows: Vec<(String, Vec<Value>)>,
    ids: Ids,
    received_at: i64,
}

impl Seed {
    async fn new(intake: &Intake, rules: &Arc<Rules>) -> Result<Seed, Fault> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("seed.db");
        let ids = Ids::of(usize::MAX);
        let store = SqliteStore::open(&path, &Options::default())?;
        let outcome = record(&store, intake, &ids, rules).await?;
        store.close().await;
        if outcome != ReceiptStatus::Accepted {
            return Err(format!("the seed was not accepted: {outcome}").into());
        }
        let conn = Connection::open(&path)?;
        let mut rows = Vec::new();
        for table in tables(&conn)? {
            let mut all = conn.prepare(&format!("SELECT * FROM {table}"))?;
            let columns = all.column_count();
            for row in all.query_map([], |row| (0..columns).map(|i| row.get(i)).collect())? {
                rows.push((table.clone(), row?));
            }
        }
        let received_at = conn.query_row("SELECT received_at FROM receipts", [], |row| row.get(0))?;
        Ok(Seed { rows, ids, received_at })
    }

    /// A value of the seed in the execution that comes `later` and has these `ids`.
    fn moved(&self, value: &Value, later: i64, ids: &Ids) -> Value {
        let renamed = |text: &str| {
            let pairs = self.ids.0.iter().zip(&ids.0);
            pairs.fold(text.to_owned(), |text, (seed, id)| text.replace(seed.as_str(), id))
        };
        match value {
            Value::Integer(n) if *n >= MICROS_MIN => Value::Integer(n + later),
            Value::Text(text) => Value::Text(renamed(text)),
            Value::Blob(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::Blob(renamed(text).into_bytes()),
                Err(_) => value.clone(),
            },
            _ => value.clone(),
        }
    }
}

/// What holds rows of executions.
fn tables(conn: &Connection) -> Result<Vec<String>, Fault> {
    let mut all = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
    let names = all.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(names.into_iter().filter(|name| !IDENTITIES.contains(&name.as_str())).collect())
}

/// FNV-1a, as the product has it; that both agree is what the question at the end shows.
fn hash_of(key: &str) -> i64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash.cast_signed()
}

/// Copies `count` executions into an empty store, the latest `waiting` of them after `told`, the others after `untold`.
fn copy(path: &Path, count: usize, waiting: usize, hours: u64, [untold, told]: [&Seed; 2]) -> Result<(), Fault> {
    let conn = Connection::open(path)?;
    for table in tables(&conn)? {
        if conn.query_row(&format!("SELECT EXISTS (SELECT 1 FROM {table})"), [], |row| row.get(0))? {
            return Err(format!("{} is not empty", path.display()).into());
        }
    }
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536")?;
    let step = (hours * 3_600_000_000 / count.max(1) as u64) as i64;
    if step < 64 {
        return Err("so many executions need more hours: ids are microseconds".into());
    }
    let first = clock::now().micros() - step * count as i64;
    let mut inserts = HashMap::new();
    for (table, row) in untold.rows.iter().chain(&told.rows) {
        let marks = vec!["?"; row.len()].join(", ");
        inserts.insert(table.as_str(), conn.prepare(&format!("INSERT INTO {table} VALUES ({marks})"))?);
    }
    let mut hashes = Vec::with_capacity(count);
    let mut newest = 0;
    for chunk in (0..count).step_by(CHUNK) {
        conn.execute_batch("BEGIN")?;
        for number in chunk..count.min(chunk + CHUNK) {
            let seed = if number + waiting >= count { told } else { untold };
            let ids = Ids::of(number);
            let later = first + step * number as i64 - seed.received_at;
            for (table, row) in &seed.rows {
                let insert = inserts.get_mut(table.as_str()).expect("one for each of the seeds' tables");
                let id = insert.insert(params_from_iter(row.iter().map(|value| seed.moved(value, later, &ids))))?;
                if table == "execution_heads" {
                    hashes.push((hash_of(&ids.key()), id));
                    newest = id;
                }
            }
        }
        conn.execute_batch("COMMIT")?;
        eprint!("\r{} executions", count.min(chunk + CHUNK));
    }
    drop(inserts);
    hashes.sort_unstable();
    conn.execute_batch("BEGIN")?;
    let mut insert = conn.prepare("INSERT INTO identities (hash, execution) VALUES (?1, ?2)")?;
    for (hash, execution) in hashes {
        insert.execute([hash, execution])?;
    }
    drop(insert);
    conn.execute("UPDATE folded SET through = ?1", [newest])?;
    conn.execute_batch("COMMIT; PRAGMA journal_mode = WAL")?;
    eprintln!(", and their index");
    Ok(())
}

/// Whether the product takes what was copied for its own.
async fn ask(path: &Path, count: usize, waiting: usize, intake: &Intake, rules: &Arc<Rules>) -> Result<(), Fault> {
    let store = SqliteStore::open(path, &Options::default())?;
    for number in [0, count / 2, count - 1] {
        let outcome = record(&store, intake, &Ids::of(number), rules).await?;
        if outcome != ReceiptStatus::Duplicate {
            return Err(format!("execution {number} is not known: its callback is {outcome}").into());
        }
    }
    let sinks = rules.targets(&intake.name, &serde_json::Value::Null).sinks;
    for sink in sinks.iter().filter(|_| waiting > 0) {
        // A lease that has ended when it is handed out.
        let (now, past) = (clock::now(), Time::from_micros(1));
        let claim = store.claim(sink.clone(), 1, 0, now, past).await?;
        let key = claim.deliveries.first().map(|delivery| delivery.change.state.execution.key.clone());
        if key != Some(Ids::of(count - waiting).key()) {
            return Err(format!("the first delivery to {sink} is of {key:?}").into());
        }
    }
    store.close().await;
    println!("{count} executions; {waiting} deliveries wait for each of {sinks:?}");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    // `cargo bench` adds arguments of its own, which begin with dashes.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let [file, count, waiting, hours @ ..] = &args[..] else {
        return Err("fill CONFIG EXECUTIONS WAITING [HOURS]".into());
    };
    let (count, waiting): (usize, usize) = (count.parse()?, waiting.parse()?);
    let hours = hours.first().map_or(Ok(48), |hours| hours.parse())?;
    if count == 0 || waiting > count {
        return Err("there has to be an execution for each that waits, and one at least".into());
    }
    let env = Environment::of_process();
    let config = Config::load(Some(Path::new(file)), &env).map_err(|e| e.to_string())?;
    let rules = Arc::new(app::rules(&config).map_err(|e| e.to_string())?);
    let intakes = app::sources(&config, &env).map_err(|e| e.to_string())?;
    let (_, intake) = intakes.first().ok_or("the configuration has no source")?;
    let path = app::store_path(&config);
    SqliteStore::open(&path, &Options::default())?.close().await;
    let untold = Seed::new(intake, &Arc::default()).await?;
    let told = Seed::new(intake, &rules).await?;
    copy(&path, count, waiting, hours, [&untold, &told])?;
    ask(&path, count, waiting, intake, &rules).await
}
