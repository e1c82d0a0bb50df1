//! A store in a folder of its own, a source that believes whatever it is given, and a sink that remembers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use callbackd::Boxed;
use callbackd::measure;
use callbackd::model::{
    Delivery, ExecutionPart, Outcome, Receipt, ReceiptStatus, RetryPolicy, Route, Rules, SinkRule, Time, Update,
};
use callbackd::shutdown::Shutdown;
use callbackd::sinks::{Preview, Sink, Tried};
use callbackd::sources::{AuthError, ParseError, RawRequest, SenderRequest, Source};
use http::{HeaderMap, Method};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock;
use crate::pipeline::Wake;
use crate::pipeline::forward::{Forwarder, Service};
use crate::pipeline::ingest::{Ingest, Intake, Refusal};
use crate::sqlite::{Options, SqliteStore};
use crate::store::Store;

const SOURCE: &str = "media";
/// The one sink.
pub(crate) const SINK: &str = "sink";

thread_local! {
    /// What was seen under all schedules of a scenario, so that nothing passes for want of a trial.
    static SEEN: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Notes that `what` came so often; it has to come under some schedule.
pub(crate) fn seen(what: &'static str, times: usize) {
    SEEN.with_borrow_mut(|seen| *seen.entry(what).or_default() += times as u64);
}

/// Runs `scenario` under so many schedules; returns what was seen.
pub(crate) fn check(seed: u64, schedules: usize, scenario: fn()) -> String {
    let mut config = shuttle::Config::new();
    config.silence_warnings = true;
    config.stack_size = 2 << 20;
    config.failure_persistence = shuttle::FailurePersistence::None;
    SEEN.take();
    let once = move || {
        clock::reset();
        scenario();
    };
    // Half of them by chance at every step; half with one who is held up for long, which chance alone hardly ever does.
    let chance = RandomScheduler::new_from_seed(seed, schedules.div_ceil(2));
    shuttle::Runner::new(chance, config.clone()).run(once);
    shuttle::Runner::new(PctScheduler::new_from_seed(seed, 3, schedules / 2), config).run(once);
    let said = SEEN.take().into_iter().map(|(what, times)| {
        assert!(times > 0, "{what}: never, so it was not tried");
        format!(", {times} {what}")
    });
    said.collect()
}

/// Believes every body, whose lines are `KEY STATUS [IDENTITY]`.
struct Believer;

impl Source for Believer {
    fn methods(&self) -> &'static [Method] {
        &[Method::POST]
    }

    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, AuthError> {
        let peer = raw.peer.to_string();
        Ok(Receipt { source: SOURCE.into(), received_at: now, peer, headers: Vec::new(), body: raw.body })
    }

    fn parse(&self, receipt: &Receipt) -> Result<Vec<Update>, ParseError> {
        let line = receipt.body.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = str::from_utf8(line).map_err(|e| ParseError(e.to_string()))?;
        let (key, status) = line.split_once(' ').ok_or_else(|| ParseError("one word".to_owned()))?;
        let status = Some(status.parse().map_err(|_| ParseError("no status".to_owned()))?);
        let execution = ExecutionPart { status, ..ExecutionPart::default() };
        let identity = Some(line.to_owned());
        Ok(vec![Update { key: key.to_owned(), identity, execution, ..Update::default() }])
    }

    fn as_sender(&self, _: Bytes, _: HeaderMap, _: Time) -> SenderRequest {
        unreachable!("nobody replays here")
    }
}

/// Takes everything, at the first try or a later one, and tells the scenario.
struct Taker {
    failures: f64,
    taken: mpsc::UnboundedSender<Taken>,
    /// The executions that it is being told of.
    under_way: Mutex<BTreeSet<String>>,
}

/// Takes nothing, for want of a credential.
struct Refuser;

/// What the sink took: delivery, execution's key, the change's number, its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) delivery: i64,
    pub(crate) key: String,
    pub(crate) sequence: u32,
    pub(crate) receipt: String,
}

impl Sink for Taker {
    fn preview(&self, _: &Delivery, _: Time) -> Vec<Preview> {
        Vec::new()
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, _: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let change = &delivery.change;
            let key = &change.state.execution.key;
            let is_alone = self.under_way.lock().expect("sound").insert(key.clone());
            assert!(is_alone, "{key} is told beside itself");
            // Some take so long that all others go on meanwhile.
            let steps = if shuttle::rand::thread_rng().gen_bool(0.2) { 200 } else { 1 };
            for _ in 0..steps {
                shuttle::future::yield_now().await;
            }
            self.under_way.lock().expect("sound").remove(key);
            if self.failures > 0.0 && shuttle::rand::thread_rng().gen_bool(self.failures) {
                return Outcome::Retry { after_ms: None, reason: "not now".to_owned(), resume: None }.into();
            }
            let _ = self.taken.send(Taken {
                delivery: delivery.id,
                key: key.clone(),
                sequence: change.meta.sequence,
                receipt: change.meta.receipt.clone().expect("a receipt"),
            });
            Outcome::Delivered { note: None, learned: Vec::new() }.into()
        })
    }
}

impl Sink for Refuser {
    fn preview(&self, _: &Delivery, _: Time) -> Vec<Preview> {
        Vec::new()
    }

    fn deliver<'a>(&'a self, _: &'a Delivery, _: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            shuttle::future::yield_now().await;
            seen("refused", 1);
            Outcome::Halt { reason: "the token is refused".to_owned(), resume: None }.into()
        })
    }
}

/// All of it, ready to run.
pub(crate) struct Stage {
    folder: PathBuf,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) ingest: Arc<Ingest>,
    rules: Arc<Rules>,
    wake: Wake,
    sink: Arc<Taker>,
    taken: mpsc::UnboundedReceiver<Taken>,
}

impl Stage {
    /// With a store like this, and a sink that fails this share of its tries.
    pub(crate) fn new(options: &Options, failures: f64) -> Stage {
        // In memory where it can be: what a sync costs is not in question.
        let home = Path::new("/dev/shm");
        let home = if home.is_dir() { home.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(home).expect("a folder").keep();
        let store = Arc::new(SqliteStore::open(&folder.join("store.db"), options).expect("a store"));
        let rules = Arc::new(Rules {
            routes: vec![Route { from: vec![SOURCE.to_owned()], when: None, to: vec![SINK.to_owned()] }],
            sinks: vec![SinkRule { name: SINK.to_owned(), coalesce: false }],
            ..Rules::default()
        });
        let wake = Wake::default();
        let intake = Intake {
            name: SOURCE.into(),
            source: Box::new(Believer),
            allow: Vec::new(),
            rate: None,
            confirm: false,
            measures: Arc::new(measure::OfSource::new(SOURCE)),
        };
        let kept: Arc<dyn Store> = Arc::clone(&store) as _;
        let ingest = Ingest::new(vec![("/".to_owned(), intake)], Arc::clone(&rules), kept, wake.clone());
        let (sender, taken) = mpsc::unbounded_channel();
        let sink = Arc::new(Taker { failures, taken: sender, under_way: Mutex::default() });
        Stage { folder, store, ingest: Arc::new(ingest), rules, wake, sink, taken }
    }

    /// A forwarder, as `app` starts one.
    pub(crate) fn forward(&self, stop: &Shutdown) -> JoinHandle<()> {
        self.forward_to(Arc::clone(&self.sink) as _, stop)
    }

    /// The same with a credential that the sink refuses.
    pub(crate) fn forward_refused(&self, stop: &Shutdown) -> JoinHandle<()> {
        self.forward_to(Arc::new(Refuser), stop)
    }

    fn forward_to(&self, sink: Arc<dyn Sink>, stop: &Shutdown) -> JoinHandle<()> {
        let service = Service {
            concurrency: 2,
            timeout: Duration::from_secs(60),
            retry: RetryPolicy { first_ms: 1, longest_ms: 1, age_max_ms: i64::MAX as u64 / 2000, attempts_max: 1000 },
            breaker_failures: 2,
            breaker_probe: Duration::from_millis(1),
        };
        let forwarder = Forwarder {
            name: SINK.to_owned(),
            sink,
            service,
            store: Arc::clone(&self.store) as _,
            rules: Arc::clone(&self.rules),
            wake: self.wake.clone(),
            measures: Arc::new(measure::OfSink::new(SINK)),
            breaker: Default::default(),
        };
        tokio::spawn(Arc::new(forwarder).run(stop.clone()))
    }

    /// One who posts each of these, until it is kept; returns the ids of those receipts that changed something.
    pub(crate) fn sender(&self, bodies: &'static [&'static str]) -> JoinHandle<Vec<i64>> {
        let ingest = Arc::clone(&self.ingest);
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            for body in bodies {
                let recorded = loop {
                    match post(&ingest, *body).await {
                        Ok(kept) => break kept.recorded,
                        Err(Refusal::Unavailable(_)) => {
                            seen("told to come again", 1);
                            shuttle::future::yield_now().await;
                        }
                        Err(e) => panic!("{e}"),
                    }
                };
                if recorded.outcome == ReceiptStatus::Accepted {
                    accepted.push(recorded.receipt);
                }
            }
            accepted
        })
    }

    /// Waits until the sink has taken what these receipts changed: each once, and in order. Where the clock jumps, what was
    /// told last may be told again.
    pub(crate) async fn all_taken(&mut self, mut accepted: Vec<i64>) {
        let mut taken: Vec<i64> = Vec::new();
        let mut last: BTreeMap<String, u32> = BTreeMap::new();
        while taken.len() < accepted.len() {
            let one = self.taken.recv().await.expect("a sink");
            let before = last.insert(one.key.clone(), one.sequence).unwrap_or(0);
            if clock::has_jumped() && one.sequence == before {
                seen("told again", 1);
                continue;
            }
            assert_eq!(one.sequence, before + 1, "{one:?} out of order");
            taken.push(one.receipt.parse().expect("an id"));
        }
        (taken.sort_unstable(), accepted.sort_unstable());
        assert_eq!(taken, accepted);
    }

    /// Closes the store and counts what is in it: receipts with this body, by SQLite alone.
    pub(crate) async fn close(&mut self) -> Vec<String> {
        self.store.close().await;
        assert!(clock::has_jumped() || self.taken.try_recv().is_err(), "the sink was told something twice");
        let conn = self.open();
        let mut query =
            conn.prepare("SELECT CAST(body AS TEXT) FROM receipts WHERE body IS NOT NULL").expect("prepared");
        let rows = query.query_map([], |row| row.get(0)).expect("queried");
        let bodies = rows.collect::<Result<Vec<String>, _>>().expect("rows");
        let open: i64 = conn
            .query_row("SELECT count(*) FROM deliveries WHERE status = 'leased'", [], |row| row.get(0))
            .expect("counted");
        assert_eq!(open, 0, "what was begun is finished");
        bodies
    }

    /// Beside the store's own connections.
    pub(crate) fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.join("store.db")).expect("opens")
    }

    /// Bytes of the log.
    pub(crate) fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.folder.join("store.db-wal")).map_or(0, |file| file.len())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Posts one body.
pub(crate) async fn post(ingest: &Ingest, body: impl Into<Bytes>) -> Result<crate::pipeline::ingest::Kept, Refusal> {
    let (intake, rest) = ingest.find("/").expect("a source");
    let raw = RawRequest {
        method: Method::POST,
        rest: rest.to_owned(),
        query: None,
        headers: HeaderMap::new(),
        body: body.into(),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    ingest.take(intake, raw, clock::now()).await
}
