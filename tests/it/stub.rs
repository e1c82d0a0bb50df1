//! A store and a source that do as a test tells them, behind real doors.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use callbackd::Boxed;
use callbackd::measure::OfSource;
use callbackd::model::{Attempt, Receipt, ReceiptStatus, Rules, SinkRule, Task, Time};
use callbackd::pipeline::Wake;
use callbackd::pipeline::ingest::{Ingest, Intake, Rate};
use callbackd::server::Limits;
use callbackd::shutdown::Shutdown;
use callbackd::sources::{AuthError, ParseError, RawRequest, SenderRequest, Source};
use callbackd::store::{
    Claim, DeliveryFilter, DeliveryRow, Export, Extent, Filter, Inquiries, Lateness, News, Outlook, Parsed, Pruned,
    Queries, ReceiptRow, Recorded, Ruling, Settlement, SinkRow, Store, StoreError,
};
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;

/// Remembers what it was given.
pub(crate) struct StubStore {
    pub(crate) receipts: Mutex<Vec<Receipt>>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) refuses: AtomicBool,
    /// Given when a receipt is in hand.
    pub(crate) took: Semaphore,
    /// Taken before the sender is answered, when `slow`.
    pub(crate) may_answer: Semaphore,
    pub(crate) slow: AtomicBool,
    ids: AtomicI64,
}

impl Default for StubStore {
    fn default() -> StubStore {
        StubStore {
            receipts: Mutex::default(),
            asked: Mutex::default(),
            refuses: AtomicBool::new(false),
            took: Semaphore::new(0),
            may_answer: Semaphore::new(0),
            slow: AtomicBool::new(false),
            ids: AtomicI64::new(0),
        }
    }
}

impl StubStore {
    pub(crate) fn bodies(&self) -> Vec<String> {
        let receipts = self.receipts.lock().expect("sound");
        receipts.iter().map(|r| String::from_utf8(r.body.to_vec()).expect("UTF-8")).collect()
    }

    /// Waits until so many more receipts are in hand.
    pub(crate) async fn takes(&self, count: u32) {
        let taken = tokio::time::timeout(crate::daemon::PATIENCE, self.took.acquire_many(count)).await;
        taken.expect("taken in time").expect("open").forget();
    }

    fn ask(&self, what: String) {
        self.asked.lock().expect("sound").push(what);
    }

    fn full(&self) -> Result<(), StoreError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the disk is full".to_owned()));
        }
        Ok(())
    }
}

/// A store that a test and a daemon share.
#[derive(Clone, Default)]
pub(crate) struct Shared(pub(crate) Arc<StubStore>);

fn ready<T: Send + 'static>(value: T) -> Boxed<'static, T> {
    Box::pin(std::future::ready(value))
}

impl Queries for Shared {
    fn executions(&self, _: Filter) -> Boxed<'_, Result<Vec<Value>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn further(&self, _: Option<i64>, _: u64) -> Boxed<'_, Result<Option<i64>, StoreError>> {
        ready(Ok(None))
    }

    fn execution(&self, id: String) -> Boxed<'_, Result<Value, StoreError>> {
        ready(Err(StoreError::NotFound(id)))
    }

    fn tasks(&self, _: Vec<i64>) -> Boxed<'_, Result<Vec<Vec<Task>>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn receipts(&self, _: Filter) -> Boxed<'_, Result<Vec<ReceiptRow>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn receipt(&self, id: i64) -> Boxed<'_, Result<(ReceiptRow, Vec<u8>), StoreError>> {
        if id != 1 {
            return ready(Err(StoreError::NotFound(format!("no receipt has the id {id}"))));
        }
        let row = ReceiptRow {
            id: id.to_string(),
            source: "media".to_owned(),
            status: ReceiptStatus::Quarantined,
            received_at: Time::from_seconds(1_700_000_000),
            peer: "192.0.2.1".to_owned(),
            reason: None,
            executions: vec![],
            headers: serde_json::json!({}),
            body_bytes: 2,
            digest: None,
        };
        ready(Ok((row, b"ok".to_vec())))
    }

    fn deliveries(&self, _: Filter) -> Boxed<'_, Result<Vec<DeliveryRow>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn delivery(&self, id: i64) -> Boxed<'_, Result<(DeliveryRow, Vec<Attempt>), StoreError>> {
        ready(Err(StoreError::NotFound(format!("no delivery has the id {id}"))))
    }

    fn outlook(&self, _: i64) -> Boxed<'_, Result<Outlook, StoreError>> {
        ready(Ok(Outlook::default()))
    }

    fn sinks(&self) -> Boxed<'_, Result<Vec<SinkRow>, StoreError>> {
        let name = "gone".to_owned();
        ready(Ok(vec![SinkRow { backlog: 2, dead: 1, ..SinkRow::of(&name) }]))
    }

    fn newest(&self) -> Boxed<'_, Result<i64, StoreError>> {
        ready(Ok(0))
    }

    fn news(&self, after: i64) -> Boxed<'_, Result<News, StoreError>> {
        ready(Ok(News { through: after, ..News::default() }))
    }
}

impl Store for Shared {
    fn record(&self, receipt: Receipt, parsed: Parsed, _: Arc<Rules>) -> Boxed<'static, Result<Recorded, StoreError>> {
        let store = Arc::clone(&self.0);
        if let Err(e) = store.full() {
            return ready(Err(e));
        }
        store.receipts.lock().expect("sound").push(receipt);
        store.took.add_permits(1);
        let receipt = store.ids.fetch_add(1, Ordering::Relaxed) + 1;
        let (outcome, executions) = match parsed {
            Parsed::Updates(_) => (ReceiptStatus::Accepted, vec![7]),
            Parsed::Held(_) => (ReceiptStatus::Held, vec![]),
            Parsed::Quarantined(_) => (ReceiptStatus::Quarantined, vec![]),
        };
        Box::pin(async move {
            if store.slow.load(Ordering::Relaxed) {
                store.may_answer.acquire().await.expect("open").forget();
            }
            Ok(Recorded { receipt, outcome, executions, wake: vec![] })
        })
    }

    fn record_again(&self, receipt: i64, _: Parsed, _: Arc<Rules>, _: Time) -> Boxed<'_, Result<Recorded, StoreError>> {
        let outcome = ReceiptStatus::Accepted;
        ready(Ok(Recorded { receipt, outcome, executions: vec![8, 9], wake: vec!["portal".to_owned()] }))
    }

    fn claim_inquiries(
        &self,
        _: String,
        _: usize,
        _: u64,
        _: bool,
        _: Time,
    ) -> Boxed<'_, Result<Inquiries, StoreError>> {
        ready(Ok(Inquiries::default()))
    }

    fn rule(&self, _: i64, _: Ruling, _: Arc<Rules>, _: Time) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn settle_late(
        &self,
        _: String,
        _: i64,
        _: Lateness,
        _: Arc<Rules>,
        _: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn hurry_inquiries(&self, _: String, _: Time) -> Boxed<'_, Result<(), StoreError>> {
        ready(Ok(()))
    }

    fn hurry(&self, _: String, _: Time, _: Time) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn set_back(&self, _: String, _: Option<u64>, _: Time) -> Boxed<'_, Result<u64, StoreError>> {
        ready(Ok(0))
    }

    fn set_back_inquiries(&self, _: String, _: Option<u64>, _: Time) -> Boxed<'_, Result<(), StoreError>> {
        ready(Ok(()))
    }

    fn prune(&self, _: i64, _: Time, _: usize, _: Option<Arc<dyn Export>>) -> Boxed<'_, Result<Pruned, StoreError>> {
        ready(Ok(Pruned { executions: 0, next: None }))
    }

    fn extent(&self) -> Boxed<'_, Result<Extent, StoreError>> {
        ready(Ok(Extent { held: 0, free: 0, room: 1, disk: 1 }))
    }

    fn give_back(&self, _: u64) -> Boxed<'_, Result<u64, StoreError>> {
        ready(Ok(0))
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn claim(&self, _: String, _: usize, _: u64, _: Time, _: Time) -> Boxed<'_, Result<Claim, StoreError>> {
        ready(Ok(Claim::default()))
    }

    fn release(&self, _: Vec<i64>, _: Time) -> Boxed<'_, Result<(), StoreError>> {
        ready(Ok(()))
    }

    fn resume(&self, _: String) -> Boxed<'_, Result<(), StoreError>> {
        ready(Ok(()))
    }

    fn settle_all(&self, _: Vec<Settlement>, _: Arc<Rules>, _: Time) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        ready(Ok(vec![]))
    }

    fn retry(&self, filter: DeliveryFilter, _: Time) -> Boxed<'_, Result<u64, StoreError>> {
        self.0.ask(format!("retry {}", serde_json::to_string(&filter).expect("JSON")));
        ready(Ok(3))
    }

    fn discard(&self, filter: DeliveryFilter, _: Time) -> Boxed<'_, Result<u64, StoreError>> {
        self.0.ask(format!("discard {}", serde_json::to_string(&filter).expect("JSON")));
        ready(Err(StoreError::Refused("it is delivered".to_owned())))
    }

    fn pause(&self, sink: String, reason: Option<String>) -> Boxed<'_, Result<(), StoreError>> {
        self.0.ask(format!("pause {sink} {reason:?}"));
        ready(Ok(()))
    }

    fn halt(&self, _: String, _: String, _: Shutdown) -> Boxed<'_, Result<bool, StoreError>> {
        ready(Ok(true))
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.0.full()
    }

    fn close(&self) -> Boxed<'_, ()> {
        ready(())
    }
}

/// Takes POSTs that carry `t0ken`, as the query or the last segment, and understands what does not begin with `?`.
pub(crate) struct StubSource(pub(crate) Arc<str>);

impl Source for StubSource {
    fn methods(&self) -> &'static [Method] {
        static METHODS: [Method; 1] = [Method::POST];
        &METHODS
    }

    fn reaches_below(&self) -> bool {
        true
    }

    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, AuthError> {
        if raw.query.as_deref() != Some("token=t0ken") && raw.rest != "t0ken" {
            return Err(AuthError::Wrong("Register the URL with its token.".to_owned()));
        }
        let source = Arc::clone(&self.0);
        Ok(Receipt { source, received_at: now, peer: raw.peer.to_string(), headers: vec![], body: raw.body })
    }

    fn parse(&self, receipt: &Receipt) -> Result<Vec<callbackd::model::Update>, ParseError> {
        if receipt.body.starts_with(b"?") { Err(ParseError("what?".to_owned())) } else { Ok(vec![]) }
    }

    fn quarantined(&self) -> StatusCode {
        StatusCode::UNPROCESSABLE_ENTITY
    }

    fn as_sender(&self, body: bytes::Bytes, headers: HeaderMap, _: Time) -> SenderRequest {
        SenderRequest { method: Method::POST, suffix: "/t0ken".to_owned(), headers, body }
    }
}

/// One source `media` under `path`; `allow` and `rate` as they are configured.
pub(crate) fn ingest(store: &Shared, path: &str, allow: &[&str], rate: Option<u32>) -> Ingest {
    let name: Arc<str> = "media".into();
    let intake = Intake {
        source: Box::new(StubSource(Arc::clone(&name))),
        name,
        allow: allow.iter().map(|net| net.parse().expect("a network")).collect(),
        rate: rate.map(Rate::new),
        confirm: false,
        measures: Arc::new(OfSource::new("media")),
    };
    let sinks = vec![SinkRule { name: "portal".to_owned(), coalesce: false }];
    let rules = Arc::new(Rules { sinks, ..Rules::default() });
    Ingest::new(vec![(path.to_owned(), intake)], rules, Arc::new(store.clone()), Wake::default())
}

/// Limits that a test does not reach by accident.
pub(crate) fn limits() -> Limits {
    Limits {
        trusted_proxies: Vec::new(),
        body_bytes_max: 1 << 20,
        head_bytes_max: 16 << 10,
        bodies_bytes_max: 8 << 20,
        connections_max: 64,
        connections_per_address_max: 0,
        head_timeout: crate::daemon::PATIENCE,
        body_timeout: crate::daemon::PATIENCE,
        answer_timeout: crate::daemon::PATIENCE,
        idle_timeout: crate::daemon::PATIENCE,
        drain_timeout: crate::daemon::PATIENCE,
    }
}
