//! What is let go of is in a file first: all of it, whatever comes in between, and nothing goes when it cannot be written.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use callbackd::model::{ReceiptStatus, Rules, Status, Time};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Export, Filter, Parsed, Queries, Store, StoreError};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply};
use crate::rig::receipt;
use crate::store::{at, record, update};

const MEDIA: &str = "/callbacks/media/t0ken";

fn config(hook: &Hook, store: &str) -> String {
    format!(
        "{store}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.hook]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"hook\"]\n",
        hook.url()
    )
}

/// All lines of a folder's files, as whoever keeps them reads them. Debian's `zstd`, which `make tools` installs.
pub(crate) fn lines(folder: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        let file = fs::File::open(&path).expect("a file");
        let done = Command::new("zstd").arg("-dc").stdin(file).stderr(Stdio::inherit()).output().expect("zstd");
        assert!(done.status.success(), "{}", path.display());
        let text = String::from_utf8(done.stdout).expect("UTF-8");
        all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
    }
    all
}

#[test]
fn what_goes_is_exported_whole_and_only_then_goes() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&config(&hook, ""));
    for run in 0..5 {
        for step in [Step::Start, Step::Success, Step::Success] {
            assert_eq!(daemon.post(MEDIA, &[], cos(step, run)).status, 200);
        }
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Failed, run)).json()["outcome"], "conflict");
    }
    // Not finished, and not understood: they stay.
    daemon.post(MEDIA, &[], cos(Step::Start, "open"));
    daemon.post(MEDIA, &[], b"<nothing of ours \xff/>");
    soon("all told", || (hook.taken().len() == 11).then_some(()));
    soon("settled", || daemon.list(&["deliveries", "list", "--status", "waiting,leased"]).is_empty().then_some(()));
    let shown: Vec<Value> = (0..5).map(|run| daemon.execution(&run.to_string())).collect();
    let tried = daemon.cli(&["deliveries", "show", shown[0]["deliveries"][0]["id"].as_str().expect("an id"), "--json"]);
    let tried: Value = serde_json::from_str(tried.said()).expect("JSON");
    assert!(daemon.terminate().success());

    daemon.configure(&config(&hook, "[store]\nkeep = \"1ms\"\nexport = \"kept\""));
    daemon.start();
    soon("gone", || (daemon.list(&["executions", "list"]).len() == 1).then_some(()));
    assert!(daemon.terminate().success());
    assert_eq!(daemon.list(&["receipts", "list"]).len(), 2);

    let mut exported = lines(&daemon.path("kept"));
    assert_eq!(exported.len(), 5);
    assert_eq!(exported[0]["deliveries"][0]["tried"], tried["attempts"]);
    for (run, (line, shown)) in exported.iter_mut().zip(shown).enumerate() {
        let body = |step| json!({ "text": cos(step, run) });
        let bodies = [body(Step::Start), body(Step::Success), Value::Null, body(Step::Failed)];
        for (receipt, body) in line["receipts"].as_array_mut().expect("receipts").iter_mut().zip(bodies) {
            assert_eq!(receipt.as_object_mut().expect("an object").remove("body"), Some(body));
        }
        for delivery in line["deliveries"].as_array_mut().expect("deliveries") {
            let tried = delivery.as_object_mut().expect("an object").remove("tried").expect("attempts");
            assert_eq!(tried[0]["outcome"], "delivered");
        }
        assert_eq!(*line, shown);
    }

    // The file has its own name from the next start on.
    daemon.start();
    soon("named", || {
        let mut names = fs::read_dir(daemon.path("kept")).expect("a folder").map(|e| e.expect("an entry").path());
        names.all(|path| path.extension().is_some_and(|end| end == "zst")).then_some(())
    });
    assert_eq!(lines(&daemon.path("kept")).len(), 5);
}

#[test]
fn what_cannot_be_exported_stays_and_callbacks_are_kept_all_the_same() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&config(&hook, ""));
    for run in 0..3 {
        daemon.post(MEDIA, &[], cos(Step::Success, run));
    }
    soon("all told", || (hook.taken().len() == 3).then_some(()));
    assert!(daemon.terminate().success());
    daemon.configure(&config(&hook, "[store]\nkeep = \"1ms\"\nexport = \"kept\""));
    daemon.write("kept", "a file where a folder is wanted");
    daemon.start();
    let said = daemon.logged(|line| line["message"] == "what is old stays for now");
    assert!(said["error"].as_str().is_some_and(|e| e.starts_with("store.export cannot be written: ")), "{said}");
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "new")).status, 200);
    assert_eq!(daemon.list(&["executions", "list"]).len(), 4);
    assert!(daemon.terminate().success());
    fs::remove_file(daemon.path("kept")).expect("removed");
    daemon.start();
    soon("gone", || daemon.list(&["executions", "list"]).is_empty().then_some(()));
    assert_eq!(lines(&daemon.path("kept")).len(), 4);
}

/// Keeps lines in memory, and does something after it has them.
struct Kept<F>(Mutex<Vec<Value>>, F);

impl<F: Fn() -> io::Result<()> + Send + Sync> Export for Kept<F> {
    fn take(&self, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut bytes = Vec::new();
        fill(&mut bytes)?;
        let text = String::from_utf8(bytes).expect("UTF-8");
        self.0.lock().expect("sound").extend(text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")));
        (self.1)()
    }
}

impl<F: Fn() -> io::Result<()> + Send + Sync> Kept<F> {
    fn new(then: F) -> Arc<Kept<F>> {
        Arc::new(Kept(Mutex::default(), then))
    }

    fn keys(&self) -> Vec<String> {
        let key = |line: &Value| line["execution"]["key"].as_str().unwrap_or("none").to_owned();
        self.0.lock().expect("sound").iter().map(key).collect()
    }

    /// Of the receipts that go by themselves.
    fn statuses(&self) -> Vec<String> {
        let status = |line: &Value| Some(line["receipt"]["status"].as_str()?.to_owned());
        self.0.lock().expect("sound").iter().filter_map(status).collect()
    }
}

fn open(folder: &TempDir) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens"))
}

/// The id of a receipt that nobody could read.
async fn quarantined(store: &SqliteStore) -> i64 {
    let ill = Parsed::Quarantined("not understood".to_owned());
    let kept = store.record(receipt("nobody", at(1), "what it was"), ill, Arc::new(Rules::default())).await;
    kept.expect("recorded").receipt
}

#[tokio::test]
async fn a_crash_between_export_and_going_repeats_lines_and_loses_none() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    for key in ["a", "b", "c"] {
        record(&*store, "nobody", at(1), vec![update(key, Status::Failed)]).await;
    }
    let crashes = Kept::new(|| Err(io::Error::other("the power is cut")));
    let refused = store.prune(0, at(100), 10, Some(crashes.clone())).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(why)) if why.ends_with("written: the power is cut")));
    assert_eq!(store.executions(Filter::default()).await.expect("listed").len(), 3, "nothing went");
    let well = Kept::new(|| Ok(()));
    assert_eq!(store.prune(0, at(100), 10, Some(well.clone())).await.expect("gone").executions, 3);
    assert_eq!((crashes.keys(), well.keys()), (well.keys(), vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_after_its_line_was_written_keeps_an_execution_until_that_is_written_too() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    for key in ["a", "b"] {
        record(&*store, "nobody", at(1), vec![update(key, Status::Failed)]).await;
    }
    let (other, handle) = (Arc::clone(&store), tokio::runtime::Handle::current());
    let late = Kept::new(move || {
        handle.block_on(record(&*other, "nobody", at(2), vec![update("a", Status::Failed)]));
        Ok(())
    });
    assert_eq!(store.prune(0, at(100), 10, Some(late.clone())).await.expect("gone").executions, 1);
    assert_eq!(late.keys(), ["a", "b"]);
    let well = Kept::new(|| Ok(()));
    assert_eq!(store.prune(0, at(100), 10, Some(well.clone())).await.expect("gone").executions, 1);
    let lines = well.0.lock().expect("sound").clone();
    assert_eq!(lines[0]["receipts"].as_array().map(Vec::len), Some(2), "with the repeat");
}

/// A receipt that is older than the line, and is read again between the line and the going, has no newer row: it is in the
/// next line all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_again_after_a_line_was_written_goes_in_another_one() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let ill = quarantined(&store).await;
    record(&*store, "nobody", at(2), vec![update("a", Status::Failed)]).await;
    let (other, handle) = (Arc::clone(&store), tokio::runtime::Handle::current());
    let late = Kept::new(move || {
        let contradicts = Parsed::Updates(vec![update("a", Status::Succeeded)]);
        let again = other.record_again(ill, contradicts, Arc::new(Rules::default()), at(3));
        assert_eq!(handle.block_on(again).expect("recorded").outcome, ReceiptStatus::Conflict);
        Ok(())
    });
    assert_eq!(store.prune(0, at(100), 10, Some(late.clone())).await.expect("looked at").executions, 0);
    assert_eq!(late.keys(), ["a"]);
    let well = Kept::new(|| Ok(()));
    assert_eq!(store.prune(0, at(100), 10, Some(well.clone())).await.expect("gone").executions, 1);
    let lines = well.0.lock().expect("sound").clone();
    let receipts = lines[0]["receipts"].as_array().expect("receipts");
    let bodies: Vec<_> = receipts.iter().map(|receipt| &receipt["body"]["text"]).collect();
    assert!(bodies.contains(&&json!("what it was")), "{lines:#?}");
}

/// One that goes by itself is deleted as what it was exported, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_receipt_that_is_vouched_for_after_its_line_was_written_stays() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let refused = quarantined(&store).await;
    let path = folder.path().join("store.db");
    let set = move |status: &str| {
        let conn = rusqlite::Connection::open(&path).expect("opens");
        let sql = "UPDATE receipts SET status = ?1, execution = NULL WHERE id = ?2";
        assert_eq!(conn.execute(sql, rusqlite::params![status, refused]).expect("done"), 1);
    };
    set("refused");
    // As a conflict that begins no execution it would go, too; but nobody has read so.
    let late = Kept::new(move || {
        set("conflict");
        Ok(())
    });
    store.prune(0, at(40), 10, Some(late.clone())).await.expect("looked at");
    assert_eq!(late.statuses(), ["refused"]);
    let well = Kept::new(|| Ok(()));
    store.prune(0, at(40), 10, Some(well.clone())).await.expect("gone");
    assert_eq!(well.statuses(), ["conflict"]);
    assert!(store.receipt(refused).await.is_err(), "gone");
}

/// More of it than is written under one snapshot, bytes that are no text, and receipts of no execution.
#[tokio::test]
async fn large_ones_and_receipts_that_go_by_themselves_are_exported() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder);
    let keep = async |n: u64, body: Vec<u8>, updates| {
        let kept = store.record(receipt("nobody", at(n), body), Parsed::Updates(updates), Arc::new(Rules::default()));
        kept.await.expect("recorded")
    };
    for n in 0..9 {
        keep(n, vec![b'x'; 4 << 20], vec![update(&n.to_string(), Status::Failed)]).await;
    }
    keep(10, b"\xff\x00".to_vec(), vec![update("odd", Status::Failed)]).await;
    // Of two executions, which say nothing new.
    keep(11, b"both".to_vec(), vec![update("odd", Status::Succeeded), update("8", Status::Succeeded)]).await;
    let conflict = |e: &str| {
        let sql = "UPDATE receipts SET execution = NULL, executions = NULL WHERE body = CAST(?1 AS BLOB)";
        let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
        assert_eq!(conn.execute(sql, [e]).expect("done"), 1);
    };
    keep(12, b"alone".to_vec(), vec![update("odd", Status::Succeeded)]).await;
    conflict("alone");
    let well = Kept::new(|| Ok(()));
    let step = store.prune(0, at(1000), 100, Some(well.clone())).await.expect("gone");
    assert_eq!(step.executions, 10);
    assert!(store.receipts(Filter::default()).await.expect("listed").is_empty(), "conflicts of no execution go, too");
    let lines = well.0.lock().expect("sound").clone();
    let odd = lines.iter().find(|line| line["execution"]["key"] == "odd").expect("exported");
    assert_eq!(odd["receipts"][0]["body"], json!({ "base64": "/wA=" }));
    let alone: Vec<_> =
        lines.iter().filter(|line| line["receipt"].is_object()).map(|line| &line["receipt"]["body"]["text"]).collect();
    assert!(alone.contains(&&json!("alone")), "{alone:?}");
    let bodies = lines.iter().flat_map(|line| line["receipts"].as_array().into_iter().flatten());
    assert!(bodies.chain(lines.iter().map(|line| &line["receipt"])).any(|receipt| receipt["body"]["text"] == "both"));
    let _: Time = at(0);
}
