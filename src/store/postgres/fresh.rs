//! What is leased to a forwarder of this callbackd as it is promised (see [`Tray`]): in the transaction that records it, so
//! that telling what is fresh costs no claim.
//!
//! The transaction looks whether the sink is paused or its breaker open, as a claim does. Where it is not committed nothing is
//! leased; where nobody knows whether it was, the lease is astray, and the next claim gives it back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Row;

use super::claim::Astray;
use super::replicas::Place;
use super::rows::Execution;
use crate::clock;
use crate::model::{Moment, Time};
use crate::store::rules::{Claimed, NewDelivery};
use crate::store::{Lease, Tray};

/// What a transaction reads for it, in the statement that reads the floor: what is stopped, and whether anything is linked.
pub(super) const LOOK: &str =
    "SELECT floor, ARRAY(SELECT sink FROM sink_pauses UNION ALL SELECT sink FROM sink_breakers),
    EXISTS (SELECT 1 FROM links) FROM line";

/// The forwarders here.
pub(super) struct Trays {
    pub(super) place: Arc<Place>,
    pub(super) astray: Astray,
    of_sinks: Mutex<HashMap<String, Arc<Tray>>>,
}

impl Trays {
    pub(super) fn new(place: Arc<Place>) -> Trays {
        Trays { place, astray: Astray::default(), of_sinks: Mutex::default() }
    }

    pub(super) fn set(&self, sink: String, tray: Arc<Tray>) {
        self.of_sinks.lock().unwrap_or_else(PoisonError::into_inner).insert(sink, tray);
    }

    fn of(&self, sink: &str) -> Option<Arc<Tray>> {
        self.of_sinks.lock().unwrap_or_else(PoisonError::into_inner).get(sink).cloned()
    }
}

/// Of one transaction.
pub(super) struct Fresh<'t> {
    trays: &'t Trays,
    /// When it began, here and for the server.
    began: (Moment, Time),
    stopped: Vec<String>,
    /// There are links, and these executions have been linked in this transaction.
    has_links: bool,
    linked: BTreeSet<i64>,
    lots: BTreeMap<String, Lot>,
}

/// Of one sink.
struct Lot {
    tray: Arc<Tray>,
    lease: Lease,
    leased: Vec<Claimed>,
}

impl Drop for Lot {
    fn drop(&mut self) {
        let bytes = self.leased.iter().map(|one| one.snapshot.len()).sum();
        self.tray.forgo(self.leased.len(), bytes);
    }
}

impl<'t> Fresh<'t> {
    /// With what [`LOOK`] has found.
    pub(super) fn new(trays: &'t Trays, look: Option<&Row>) -> Fresh<'t> {
        let (stopped, has_links) = look.map_or((Vec::new(), true), |row| (row.get(1), row.get(2)));
        let here = Moment { wall: clock::now(), steady: clock::steady() };
        let began = (here, trays.place.apart().of_server(here.wall));
        Fresh { trays, began, stopped, has_links, linked: BTreeSet::new(), lots: BTreeMap::new() }
    }

    /// These are linked.
    pub(super) fn link(&mut self, both: [i64; 2]) {
        self.has_links = true;
        self.linked.extend(both);
    }

    /// Leases a delivery of what the execution says now, if its forwarder has room for it: until when, by the server's clock.
    pub(super) fn lease(&mut self, delivery: &NewDelivery<'_>, of: &Execution) -> Option<i64> {
        let &NewDelivery { id, execution, sink, change, now, .. } = delivery;
        // With its links a delivery is claimed: they are not read here. Who has just begun has none but these.
        let may_be_linked = self.has_links && (of.sequence > 1 || self.linked.contains(&execution));
        if may_be_linked || self.stopped.iter().any(|stopped| stopped == sink) {
            return None;
        }
        let tray = match self.lots.get(sink) {
            Some(lot) => Arc::clone(&lot.tray),
            None => self.trays.of(sink)?,
        };
        if !tray.expect(of.snapshot.len()) {
            return None;
        }
        let lot = self.lots.entry(sink.to_owned());
        let lot =
            lot.or_insert_with(|| Lot { lease: tray.lease(self.began.0, self.began.1), tray, leased: Vec::new() });
        lot.leased.push(Claimed {
            id,
            execution,
            change,
            attempts: 0,
            created_at: now.micros(),
            resume: None,
            sequence: of.sequence.unsigned_abs(),
            kind: of.kind.clone(),
            previous_status: of.previous_status.clone(),
            changed_tasks: of.changed_tasks.clone(),
            receipt: of.receipt,
            received_at: of.received_at,
            snapshot: of.snapshot.clone(),
            links: Vec::new(),
        });
        Some(lot.lease.end.micros())
    }

    /// It is committed: each is its forwarder's.
    pub(super) fn lay(self) {
        for mut lot in self.lots.into_values() {
            if let Err(ids) = lot.tray.lay(std::mem::take(&mut lot.leased), lot.lease) {
                self.trays.astray.keep(ids, lot.lease.end.micros());
            }
        }
    }

    /// Nobody knows whether it is.
    pub(super) fn lose(self) {
        for (sink, lot) in &self.lots {
            self.trays.astray.add(sink, lot.lease.end.micros());
        }
    }
}
