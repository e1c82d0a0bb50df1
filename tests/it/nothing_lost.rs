//! Nothing acknowledged is lost: the daemon is killed at random moments under load, again and again, while its sinks
//! fail now and then. At the end the store and the sinks are held against what the senders were told.
//!
//! `CALLBACKD_TEST_KILLS` says how often (default 50), `CALLBACKD_TEST_SEED` repeats the random choices of a run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request};
use crate::peers::hook::{Hook, Reply, Seen};

const MEDIA: &str = "/callbacks/media/t0ken";
const SENDERS: u64 = 12;
const SINKS: [&str; 2] = ["one", "two"];

/// What is left has to be delivered within this time after the last start; it takes a few seconds.
const DRAIN: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn wanted(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Both sinks are told everything, and are tried again soon.
fn config(urls: [String; 2]) -> String {
    let sink = |(name, url): (&str, String)| {
        format!(
            "[sinks.{name}]\nkind = \"webhook\"\nurl = {url:?}\nretry_first = \"50ms\"\nretry_longest = \"500ms\"\n\
             breaker_probe = \"100ms\"\n"
        )
    };
    let sinks: String = SINKS.into_iter().zip(urls).map(sink).collect();
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         {sinks}[[routes]]\nfrom = [\"media\"]\nto = {SINKS:?}\n"
    )
}

/// A peer that fails now and then, by itself and for a while, until it is told to be well.
fn moody(seed: u64, well: &'static AtomicBool) -> Hook {
    let mood = Mutex::new((fastrand::Rng::with_seed(seed), 0u32));
    Hook::start(move || {
        if well.load(Ordering::Relaxed) {
            return Reply::Status(200);
        }
        let mut mood = mood.lock().expect("sound");
        let (rng, outage) = &mut *mood;
        if *outage > 0 {
            *outage -= 1;
            return Reply::Status(503);
        }
        match rng.u32(0..1000) {
            0..5 => {
                // Long enough to open a breaker.
                *outage = rng.u32(10..30);
                Reply::Status(503)
            }
            5..50 => Reply::Status(503),
            50..80 => Reply::HangUp,
            80..110 => Reply::Reset,
            110..200 => Reply::Slow(Duration::from_millis(rng.u64(1..20))),
            _ => Reply::Status(200),
        }
    })
}

/// Where the daemon is, as long as it lives.
#[derive(Default)]
struct Whereabouts {
    address: Mutex<Option<String>>,
    moved: Condvar,
    over: AtomicBool,
}

impl Whereabouts {
    fn set(&self, address: Option<String>) {
        *self.address.lock().expect("sound") = address;
        self.moved.notify_all();
    }

    fn get(&self) -> String {
        let mut address = self.address.lock().expect("sound");
        loop {
            match &*address {
                Some(found) => return found.clone(),
                None => address = self.moved.wait(address).expect("sound"),
            }
        }
    }
}

/// An acknowledged callback.
#[derive(Clone, Debug)]
struct Acknowledged {
    run: String,
    step: Step,
    receipt: String,
    outcome: String,
}

/// Sends callbacks until it is over, each until it is acknowledged, and returns what it was told.
fn send(sender: u64, seed: u64, whereabouts: &Whereabouts, tries: &AtomicU64) -> Vec<Acknowledged> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut acknowledged = Vec::new();
    let mut connection = None;
    for number in 0.. {
        if whereabouts.over.load(Ordering::Relaxed) {
            break;
        }
        let run = format!("run-{sender}-{number}");
        let end = if rng.u32(0..4) == 0 { Step::Failed } else { Step::Success };
        let mut steps = match rng.u32(0..4) {
            0 | 1 => vec![Step::Start, end],
            2 => vec![Step::TaskFinish, Step::Success],
            _ => vec![end],
        };
        if rng.u32(0..5) == 0 {
            let repeated = steps[rng.usize(0..steps.len())];
            steps.push(repeated);
        }
        for step in steps {
            let bytes = request("POST", MEDIA, &[], cos(step, &run).as_bytes());
            let answer = loop {
                tries.fetch_add(1, Ordering::Relaxed);
                let asked = match &mut connection {
                    Some(connection) => Connection::ask(connection, &bytes),
                    None => {
                        Connection::try_to(&whereabouts.get()).and_then(|fresh| connection.insert(fresh).ask(&bytes))
                    }
                };
                match asked {
                    Ok(answer) if answer.status == 200 => break answer.json(),
                    // It says when it cannot; anything else would be a fault.
                    Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                    Err(_) => connection = None,
                }
                thread::sleep(Duration::from_millis(2));
            };
            let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("{key} in {answer}")).to_owned();
            let (run, receipt, outcome) = (run.clone(), text("receipt"), text("outcome"));
            acknowledged.push(Acknowledged { run, step, receipt, outcome });
        }
    }
    acknowledged
}

#[test]
fn by_fifty_kills_under_load() {
    static WELL: AtomicBool = AtomicBool::new(false);
    let kills = wanted("CALLBACKD_TEST_KILLS").unwrap_or(50);
    let seed = wanted("CALLBACKD_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("CALLBACKD_TEST_SEED={seed} CALLBACKD_TEST_KILLS={kills}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let hooks = [moody(rng.u64(..), &WELL), moody(rng.u64(..), &WELL)];
    let mut daemon = Daemon::run(&config(hooks.each_ref().map(Hook::url)));
    let (whereabouts, tries) = (Whereabouts::default(), AtomicU64::new(0));
    let acknowledged: Vec<Acknowledged> = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| (sender, rng.u64(..)))
            .map(|(sender, seed)| {
                scope.spawn({
                    let (whereabouts, tries) = (&whereabouts, &tries);
                    move || send(sender, seed, whereabouts, tries)
                })
            })
            .collect();
        for _ in 0..kills {
            whereabouts.set(Some(daemon.listen.clone()));
            // Not to wait for anything: the moment is to be a random one.
            thread::sleep(Duration::from_micros(rng.u64(5_000..150_000)));
            daemon.kill9();
            whereabouts.set(None);
            daemon.start();
        }
        // The last daemon stays, so that everyone who still waits for an answer gets it.
        whereabouts.over.store(true, Ordering::Relaxed);
        whereabouts.set(Some(daemon.listen.clone()));
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender")).collect()
    });

    WELL.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + DRAIN;
    while !daemon.list(&["deliveries", "list", "--status", "waiting,leased", "--limit", "1"]).is_empty() {
        assert!(Instant::now() < deadline, "still not delivered: {:?}", daemon.list(&["sinks", "list"]));
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(daemon.terminate().code(), Some(0));

    let store = Kept::read(&daemon);
    let stored = store.holds(&acknowledged);
    let arrived: Vec<usize> = SINKS.iter().zip(&hooks).map(|(sink, hook)| store.reached(sink, &hook.seen())).collect();
    println!(
        "{kills} kills, {} tries: acknowledged {}, stored {stored} in {} executions, delivered {}, repeated {}, lost 0",
        tries.into_inner(),
        acknowledged.len(),
        store.executions.len(),
        store.deliveries.len(),
        arrived.iter().sum::<usize>() - store.deliveries.len(),
    );
    assert!(acknowledged.len() as u64 > kills, "hardly any load: {}", acknowledged.len());
}

/// What the store holds, row for row.
struct Kept {
    /// By key: its status, and its number of changes.
    executions: BTreeMap<String, (String, i64)>,
    /// By id: status, body.
    receipts: HashMap<String, (String, Option<Vec<u8>>)>,
    /// By id: key, sequence, receipt.
    changes: HashMap<String, (String, i64, String)>,
    /// By id: sink, change.
    deliveries: HashMap<String, (String, String)>,
}

impl Kept {
    /// Reads a store that no daemon has open, and what is wrong on its face.
    fn read(daemon: &Daemon) -> Kept {
        let conn = rusqlite::Connection::open(daemon.path("callbackd.db")).expect("opens");
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
        assert_eq!(check, "ok");
        let mut kept = Kept {
            executions: BTreeMap::new(),
            receipts: HashMap::new(),
            changes: HashMap::new(),
            deliveries: HashMap::new(),
        };
        let each = |sql: &str, take: &mut dyn FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>| {
            let mut statement = conn.prepare(sql).expect("prepared");
            let mut rows = statement.query([]).expect("queried");
            while let Some(row) = rows.next().expect("a row") {
                take(row).expect("columns");
            }
        };
        let id = |row: &rusqlite::Row<'_>, column| row.get::<_, i64>(column).map(|id| id.to_string());
        each("SELECT key, status, sequence FROM executions", &mut |row| {
            let twice = kept.executions.insert(row.get(0)?, (row.get(1)?, row.get(2)?));
            assert!(twice.is_none(), "an execution twice: {twice:?}");
            Ok(())
        });
        each("SELECT id, status, body FROM receipts", &mut |row| {
            kept.receipts.insert(id(row, 0)?, (row.get(1)?, row.get(2)?));
            Ok(())
        });
        each(
            "SELECT c.id, e.key, c.sequence, c.receipt FROM changes c JOIN executions e ON e.id = c.execution",
            &mut |row| {
                kept.changes.insert(id(row, 0)?, (row.get(1)?, row.get(2)?, id(row, 3)?));
                Ok(())
            },
        );
        each("SELECT id, sink, change, status FROM deliveries", &mut |row| {
            let status: String = row.get(3)?;
            assert_eq!(status, "delivered", "delivery {}", id(row, 0)?);
            kept.deliveries.insert(id(row, 0)?, (row.get(1)?, id(row, 2)?));
            Ok(())
        });
        kept
    }

    /// That each acknowledged callback is kept, and was applied exactly once; returns how many different ones there are.
    fn holds(&self, acknowledged: &[Acknowledged]) -> usize {
        let mut callbacks: BTreeMap<&str, Vec<(Step, HashSet<&str>)>> = BTreeMap::new();
        for told in acknowledged {
            let (status, body) = self.receipts.get(&told.receipt).unwrap_or_else(|| panic!("lost: {told:?}"));
            assert_eq!(*status, told.outcome, "{told:?}");
            assert!(["accepted", "duplicate"].contains(&&**status), "{told:?}");
            if let Some(body) = body {
                assert_eq!(*body, cos(told.step, &told.run).into_bytes(), "{told:?}");
            }
            let steps = callbacks.entry(&told.run).or_default();
            match steps.iter_mut().find(|(step, _)| *step == told.step) {
                Some((_, receipts)) => drop(receipts.insert(&told.receipt)),
                None => steps.push((told.step, HashSet::from([&*told.receipt]))),
            }
        }
        let accepted: HashMap<(&str, &[u8]), Vec<&str>> = self.accepted();
        for (run, steps) in &callbacks {
            let (status, changes) = self.executions.get(*run).unwrap_or_else(|| panic!("lost: {run} {steps:?}"));
            // A repeat, which may come last, changes nothing.
            let end = if steps.iter().any(|(step, _)| *step == Step::Failed) { "failed" } else { "succeeded" };
            assert_eq!((&**status, *changes), (end, steps.len() as i64), "{run} {steps:?}");
            for (step, _) in steps {
                let body = cos(*step, run).into_bytes();
                let receipts = accepted.get(&(*run, &*body)).map_or(&[][..], Vec::as_slice);
                assert_eq!(receipts.len(), 1, "{run} {step:?} was applied by {receipts:?}");
            }
        }
        // Senders went on until they were told, so nothing else can be there.
        assert_eq!(self.executions.len(), callbacks.len());
        let different = callbacks.values().map(Vec::len).sum();
        assert_eq!(self.changes.len(), different);
        assert_eq!(self.deliveries.len(), different * SINKS.len());
        let mut sequences: HashMap<&str, Vec<i64>> = HashMap::new();
        self.changes.values().for_each(|(key, sequence, _)| sequences.entry(key).or_default().push(*sequence));
        for (key, mut found) in sequences {
            found.sort_unstable();
            assert!(found.iter().copied().eq(1..=found.len() as i64), "{key}: {found:?}");
        }
        different
    }

    /// Receipts that changed something, by run and body.
    fn accepted(&self) -> HashMap<(&str, &[u8]), Vec<&str>> {
        let mut accepted: HashMap<_, Vec<&str>> = HashMap::new();
        for (key, _, receipt) in self.changes.values() {
            let (status, body) = &self.receipts[receipt];
            assert_eq!(status, "accepted", "receipt {receipt}");
            let body = body.as_deref().expect("an accepted receipt's bytes");
            accepted.entry((&**key, body)).or_default().push(receipt);
        }
        accepted
    }

    /// That each change reached this sink, in order, under one id; returns how many requests it took.
    fn reached(&self, sink: &str, seen: &[Seen]) -> usize {
        let mut taken: HashMap<&str, i64> = HashMap::new();
        let mut ids: HashMap<&str, &str> = HashMap::new();
        for step in seen {
            let said = step.change();
            let text = |of: &Value| of.as_str().map(str::to_owned).unwrap_or_else(|| panic!("{said}"));
            let change = text(&said["id"]);
            let (key, sequence, receipt) = self.changes.get(&change).unwrap_or_else(|| panic!("unknown: {said}"));
            let data = &said["data"];
            assert_eq!((text(&said["subject"]), text(&data["change"]["receipt"])), (key.clone(), receipt.clone()));
            assert_eq!(data["change"]["sequence"], *sequence);
            // The same delivery is the same change at every try, and the other way round.
            let (of, told) = self.deliveries.get(&step.id).unwrap_or_else(|| panic!("unknown: {said}"));
            assert_eq!((&**of, told), (sink, &change));
            let (change, _) = self.changes.get_key_value(&change).expect("just found");
            assert_eq!(*ids.entry(change).or_insert(&step.id), step.id);
            // Each comes first after the one before it was taken.
            let before = taken.get(&**key).copied().unwrap_or(0);
            match step.taken {
                true => drop(taken.insert(key, before.max(*sequence))),
                false => assert!(*sequence <= before + 1, "{sink}: {key} no. {sequence} after no. {before}"),
            }
        }
        for (key, (_, changes)) in &self.executions {
            assert_eq!(taken.get(&**key), Some(changes), "{sink} was not told all of {key}");
        }
        assert_eq!(ids.len(), self.changes.len(), "{sink} was not told every change");
        seen.iter().filter(|step| !step.taken).count()
    }
}
