//! A real store with the forwarder of one sink, for what lies between a commit and a peer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use callbackd::clock;
use callbackd::measure::OfSink;
use callbackd::model::{
    Attempt, ExecutionPart, LinkRule, Receipt, RetryPolicy, Route, Rules, SinkRule, Status, Time, Update,
};
use callbackd::pipeline::Wake;
use callbackd::pipeline::forward::{Forwarder, Service};
use callbackd::shutdown::Shutdown;
use callbackd::sinks::Sink;
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{DeliveryRow, Filter, Parsed, Queries, Recorded, Store};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub(crate) use crate::daemon::PATIENCE;

/// The configured name of the sink.
pub(crate) const SINK: &str = "sink";

/// Quick and stubborn, so that each test only says what it is about.
pub(crate) fn service() -> Service {
    Service {
        concurrency: 8,
        timeout: Duration::from_secs(60),
        retry: RetryPolicy { first_ms: 1, longest_ms: 3_600_000, age_max_ms: 86_400_000, attempts_max: 1000 },
        breaker_failures: 1000,
        breaker_probe: Duration::from_millis(20),
    }
}

/// An authentic request of a source.
pub(crate) fn receipt(source: &str, received_at: Time, body: impl Into<Bytes>) -> Receipt {
    let (peer, headers) = ("192.0.2.1".to_owned(), Vec::new());
    Receipt { source: source.into(), received_at, peer, headers, body: body.into() }
}

/// A store in a folder of its own, and who serves the one sink.
pub(crate) struct Rig {
    folder: TempDir,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) wake: Wake,
    sink: Arc<dyn Sink>,
    service: Service,
    rules: Arc<Rules>,
    pub(crate) stop: Shutdown,
    forwarder: Option<JoinHandle<()>>,
}

impl Rig {
    /// Nothing is forwarded yet.
    pub(crate) fn new(sink: Arc<dyn Sink>, service: Service) -> Rig {
        Rig::with(sink, service, false)
    }

    pub(crate) fn with(sink: Arc<dyn Sink>, service: Service, coalesce: bool) -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        let rules = Rules {
            routes: vec![Route { from: vec!["media".to_owned()], when: None, to: vec![SINK.to_owned()] }],
            sinks: vec![SinkRule { name: SINK.to_owned(), coalesce }],
            ..Rules::default()
        };
        let (wake, stop) = (Wake::default(), Shutdown::new());
        Rig { folder, store, wake, sink, service, rules: Arc::new(rules), stop, forwarder: None }
    }

    /// A rule more, before anybody goes by them.
    pub(crate) fn link(&mut self, rule: LinkRule) {
        Arc::get_mut(&mut self.rules).expect("nobody else's yet").links.push(rule);
    }

    /// Begins to forward.
    pub(crate) fn forward(&mut self) {
        let forwarder = Forwarder {
            name: SINK.to_owned(),
            sink: Arc::clone(&self.sink),
            service: self.service.clone(),
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            rules: Arc::clone(&self.rules),
            wake: self.wake.clone(),
            measures: Arc::new(OfSink::new(SINK)),
            breaker: Default::default(),
        };
        self.forwarder = Some(tokio::spawn(Arc::new(forwarder).run(self.stop.clone())));
    }

    pub(crate) fn is_forwarding(&self) -> bool {
        self.forwarder.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Waits until the forwarder has ended, as it was told to.
    pub(crate) async fn ended(&mut self) {
        let forwarder = self.forwarder.take().expect("one that forwards");
        tokio::time::timeout(PATIENCE, forwarder).await.expect("an end in time").expect("no panic");
    }

    /// The process dies and another one begins: nothing that was under way is settled.
    pub(crate) async fn die_and_restart(&mut self) {
        let forwarder = self.forwarder.take().expect("one that forwards");
        forwarder.abort();
        let _ = forwarder.await;
        self.store.close().await;
        self.store = open(&self.folder);
        self.forward();
    }

    /// Does this to the store's file, beside the store.
    pub(crate) fn sql(&self, statements: &str) {
        let conn = rusqlite::Connection::open(self.folder.path().join("store.db")).expect("opens");
        conn.execute_batch(statements).expect("done");
    }

    /// Commits what a callback says of one execution.
    pub(crate) async fn record(&self, key: &str, status: Status) -> Recorded {
        let execution = ExecutionPart { status: Some(status), ..ExecutionPart::default() };
        self.record_update(Update { key: key.to_owned(), execution, ..Update::default() }).await
    }

    pub(crate) async fn record_update(&self, update: Update) -> Recorded {
        let receipt = receipt("media", clock::now(), "a body");
        let recorded = self.store.record(receipt, Parsed::Updates(vec![update]), Arc::clone(&self.rules)).await;
        let recorded = recorded.expect("recorded");
        self.wake.sinks(&recorded.wake);
        recorded
    }

    /// Returns when the forwarder has done all that it does by itself now. This runtime has one thread, and the store
    /// answers in turn: what is asked after the forwarder's questions is answered after them.
    pub(crate) async fn quiet(&self) {
        for _ in 0..5 {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.store.pause("nobody".to_owned(), None).await.expect("answered");
        }
    }

    /// The deliveries of one execution, oldest first.
    pub(crate) async fn deliveries(&self, key: &str) -> Vec<DeliveryRow> {
        let mut rows = self.store.deliveries(Filter::default()).await.expect("deliveries");
        rows.retain(|row| row.key == key);
        rows.reverse();
        rows
    }

    /// Status and reason of each of them.
    pub(crate) async fn standing(&self, key: &str) -> Vec<(String, Option<String>)> {
        self.deliveries(key).await.into_iter().map(|row| (row.status.to_string(), row.reason)).collect()
    }

    pub(crate) async fn attempts(&self, row: &DeliveryRow) -> Vec<Attempt> {
        self.store.delivery(row.id.parse().expect("an id")).await.expect("a delivery").1
    }

    /// Waits until the execution's newest delivery is there.
    pub(crate) async fn until_status(&self, key: &str, status: &str) -> DeliveryRow {
        until(&format!("{key} is {status}"), async || {
            self.deliveries(key).await.pop().filter(|row| row.status.as_str() == status)
        })
        .await
    }

    /// Waits until the execution's newest delivery was tried so often.
    pub(crate) async fn until_attempts(&self, key: &str, attempts: usize) -> (DeliveryRow, Vec<Attempt>) {
        until(&format!("{key} was tried {attempts} times"), async || {
            let kept = self.attempts(&self.deliveries(key).await.pop()?).await;
            // What became of it is asked after what was tried: a settlement may come in between.
            let row = self.deliveries(key).await.pop()?;
            (kept.len() >= attempts).then_some((row, kept))
        })
        .await
    }
}

fn open(folder: &TempDir) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("a store"))
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = fact().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether `time` is between the two, a millisecond more or less.
pub(crate) fn is_between(time: Time, from: Time, to: Time) -> bool {
    time.plus_ms(1) >= from && time <= to.plus_ms(1)
}
