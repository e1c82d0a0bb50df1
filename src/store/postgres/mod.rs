//! The store in a PostgreSQL that several callbackd share, up to 16.
//!
//! One thread writes, in group commits (`writer`); claims, queries and upkeep have connections of a pool. What two decide
//! at the same instant is settled by the database: an execution's row is locked by whoever changes what hangs on it, its
//! identity is unique, and who was not first decides anew. See `ARCHITECTURE.md`.
//!
//! What is used of PostgreSQL is what others who speak its protocol have too, but for this: `LISTEN`/`NOTIFY` (where it is
//! not, or a pooler is between, polling finds the same later), advisory locks (CockroachDB takes them as done, and finds by
//! its serializable transactions what they are for), and `pg_snapshot_xmin`, by which the stream of news is told in order.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use self::connect::{Pool, fault};
use self::fresh::Trays;
use self::herald::Herald;
use self::keeper::Keeper;
use self::queries::Readers;
use self::replicas::Place;
use self::tx::{Ids, Touches, Tx, identity};
use self::writer::{CloseOnDrop, Commands, Desk, Health};
use super::rules::{self, Asked, Ready, ReadyAgain, ReadyLateness, ReadyRuling, ReadySettlement};
use super::{
    Claim, DeliveryFilter, Export, Extent, Inquiries, Lateness, Parsed, Pruned, Queries, Recorded, Ruling, Settlement,
    Store, StoreError, Tray,
};
use crate::Boxed;
use crate::measure::Open;
use crate::model::{Receipt, Rules, Time};
use crate::shutdown::Shutdown;

mod breaker;
mod claim;
mod clocks;
mod connect;
mod deliver;
mod fresh;
mod herald;
mod history;
mod inquire;
mod keeper;
mod mark;
mod news;
mod options;
mod outlook;
pub mod portable;
mod probe;
mod prune;
mod queries;
mod read;
mod replicas;
mod rows;
mod server;
mod set_back;
mod tables;
mod ties;
mod tx;
mod unload;
mod writer;

pub use connect::Address;
pub use herald::{Woken, Word};
pub use options::Options;
pub use probe::probe;
pub use queries::open_read_only;
pub use server::{Durability, Seen, look};

/// The store, open for writing.
pub struct PostgresStore {
    queue: Arc<Commands>,
    health: Arc<Health>,
    pool: Pool,
    readers: Readers,
    place: Arc<Place>,
    herald: Arc<Herald>,
    stop: Shutdown,
    writer: Mutex<Option<JoinHandle<()>>>,
    trays: Arc<Trays>,
}

impl PostgresStore {
    /// Opens the database, brings its schema up to date, and takes a place among those that share it. What those held who
    /// are gone is taken over.
    pub async fn open(address: Address, options: Options) -> Result<PostgresStore, StoreError> {
        let address = Arc::new(address);
        let health = Arc::new(Health::default());
        let pool = Pool::new(Arc::clone(&address), options.connections);
        let place = {
            let mut client = pool.get().await.map_err(|e| StoreError::Unusable(format!("{}: {e}", address.place())))?;
            let keeps = server::check(&client, options.durability).await;
            let keeps = keeps.map_err(|e| StoreError::Unusable(format!("{}: {e}", address.place())))?;
            tracing::info!(store.place = address.place(), "what a 2xx means with this database: {keeps}");
            health.asked(Ok(keeps));
            server::migrate(&mut client).await?;
            Arc::new(Place::take(&client, &options.name, &options.listens).await?)
        };
        let trays = Arc::new(Trays::new(Arc::clone(&place)));
        let queue = Arc::new(Commands::new(options.queue_max, options.queue_bytes_max));
        let desk = |last| Desk {
            address: Arc::clone(&address),
            durability: options.durability,
            queue: Arc::clone(&queue),
            health: Arc::clone(&health),
            measures: Arc::clone(&options.measures),
            ids: Ids::new(last, place.slot()),
            trays: Arc::clone(&trays),
        };
        let writer = match begin(&pool, &address, desk).await {
            Ok(writer) => writer,
            Err(e) => {
                // One that fails again and again is not to take the places of all others.
                if let Ok(client) = pool.get().await
                    && let Err(e) = place.leave(&client).await.map_err(fault)
                {
                    tracing::debug!(error = %e, "its place is free when others notice that it is gone");
                }
                return Err(e);
            }
        };
        let (stop, herald, woken) = (Shutdown::new(), Arc::new(Herald::default()), options.woken);
        tokio::spawn(herald::listen(Arc::clone(&address), Arc::clone(&place), Arc::clone(&woken), stop.clone()));
        tokio::spawn(Arc::clone(&herald).tell(pool.clone(), Arc::clone(&place), stop.clone()));
        let (of, durability, theirs) = (Arc::clone(&place), options.durability, Arc::clone(&queue));
        let keeper = Keeper { place: of, address, durability, queue: theirs, health: Arc::clone(&health), woken };
        tokio::spawn(keeper.run(stop.clone()));
        let readers = Readers { pool: pool.clone(), here: Some(place.token()) };
        let writer = Mutex::new(Some(writer));
        Ok(PostgresStore { queue, health, pool, readers, place, herald, stop, writer, trays })
    }

    fn call<T: Send + 'static>(
        &self,
        touches: Touches,
        run: impl FnMut(&mut Tx<'_>) -> tx::Done<T> + Send + 'static,
    ) -> Boxed<'static, Result<T, StoreError>> {
        Box::pin(writer::put(&self.queue, 0, touches, run))
    }

    /// The same for what wakes sinks, which others are told, too.
    fn call_waking(
        &self,
        touches: Touches,
        run: impl FnMut(&mut Tx<'_>) -> tx::Done<Vec<String>> + Send + 'static,
    ) -> Boxed<'static, Result<Vec<String>, StoreError>> {
        let (call, herald) = (self.call(touches, run), Arc::clone(&self.herald));
        Box::pin(async move { call.await.inspect(|wake| herald.add(wake)) })
    }
}

/// With a place taken: the writer, where the store is to be used.
async fn begin(pool: &Pool, address: &Address, desk: impl FnOnce(i64) -> Desk) -> Result<JoinHandle<()>, StoreError> {
    let last = {
        let client = pool.get().await?;
        mark::is_to_be_used(&client, address).await?;
        replicas::last_id(&client).await?
    };
    let desk = desk(last);
    let (begun, begins) = std::sync::mpsc::sync_channel(1);
    let writer = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
        let _closing = CloseOnDrop(Arc::clone(&desk.queue));
        writer::run(desk, &begun);
    });
    let writer = writer.map_err(|e| StoreError::Unusable(format!("no thread for the store: {e}")))?;
    let heard = tokio::task::spawn_blocking(move || begins.recv()).await;
    let never = || Err(StoreError::Unusable(format!("{}: the writer did not begin", address.place())));
    heard.ok().and_then(Result::ok).unwrap_or_else(never).map(|()| writer)
}

impl Store for PostgresStore {
    fn record(
        &self,
        receipt: Receipt,
        parsed: Parsed,
        rules: Arc<Rules>,
    ) -> Boxed<'static, Result<Recorded, StoreError>> {
        if let Some(reason) = self.health.fault() {
            return Box::pin(std::future::ready(Err(StoreError::Unavailable(reason))));
        }
        let source = Arc::clone(&receipt.source);
        let identities = match &parsed {
            Parsed::Updates(updates) | Parsed::Held(updates) => {
                updates.iter().map(|update| identity(&source, &update.key)).collect()
            }
            Parsed::Quarantined(_) => Vec::new(),
        };
        let touches = Touches::of(&rules, identities, Vec::new());
        let ready = Ready::new(receipt, parsed, rules);
        let recorded = writer::put(&self.queue, ready.weight(), touches, move |tx: &mut Tx<'_>| ready.record(tx));
        let herald = Arc::clone(&self.herald);
        Box::pin(async move { recorded.await.inspect(|recorded| herald.add(&recorded.wake)) })
    }

    fn record_again(
        &self,
        receipt: i64,
        parsed: Parsed,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Recorded, StoreError>> {
        Box::pin(async move {
            let (row, body) = self.receipt(receipt).await?;
            let ready = ReadyAgain::new(receipt, (&row, &body), parsed, rules, now);
            let recorded = self.call(Touches::default(), move |tx| ready.record(tx)).await?;
            self.herald.add(&recorded.wake);
            Ok(recorded)
        })
    }

    fn claim_inquiries(
        &self,
        source: String,
        limit: usize,
        lease_ms: u64,
        asks: bool,
        now: Time,
    ) -> Boxed<'_, Result<Inquiries, StoreError>> {
        Box::pin(async move {
            let until = now.plus_ms(lease_ms);
            let (claimed, next_due) =
                self.call(Touches::default(), move |tx| inquire::claim(tx, &source, limit, asks, now, until)).await?;
            Ok(Inquiries { due: claimed.into_iter().filter_map(Asked::into_inquiry).collect(), next_due })
        })
    }

    fn rule(
        &self,
        receipt: i64,
        ruling: Ruling,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move {
            let ready = match ruling {
                Ruling::Confirmed(updates) => {
                    let (row, body) = self.receipt(receipt).await?;
                    let parsed = Parsed::Updates(updates);
                    ReadyRuling::Confirmed(ReadyAgain::new(receipt, (&row, &body), parsed, rules, now))
                }
                Ruling::Refused(reason) => ReadyRuling::Refused(reason),
                Ruling::Waits { due_at, answered, reason } => ReadyRuling::Waits { due_at, answered, reason },
            };
            self.call_waking(Touches::default(), move |tx| ready.settle(tx, receipt, now)).await
        })
    }

    fn settle_late(
        &self,
        source: String,
        execution: i64,
        lateness: Lateness,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        let ready = ReadyLateness::new(source, lateness, &rules, now);
        self.call_waking(Touches::default(), move |tx| ready.settle(tx, execution, &rules, now))
    }

    fn hurry_inquiries(&self, source: String, now: Time) -> Boxed<'_, Result<(), StoreError>> {
        self.call(Touches::default(), move |tx| inquire::hurry(tx, &source, now))
    }

    fn claim(
        &self,
        sink: String,
        limit: usize,
        lease_ms: u64,
        by: Time,
        now: Time,
    ) -> Boxed<'_, Result<Claim, StoreError>> {
        Box::pin(self.claim_window(sink, limit, lease_ms, by, now))
    }

    fn lay_out(&self, sink: String, tray: Arc<Tray>) {
        self.trays.set(sink, tray);
    }

    fn release(&self, deliveries: Vec<i64>, lease: Time) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.give_back_leases(deliveries, lease))
    }

    fn share_breaker(&self, sink: String, open: Option<Open>) -> Boxed<'_, Result<bool, StoreError>> {
        Box::pin(async move { self.share(sink, open).await.map(|()| true) })
    }

    fn settle_all(
        &self,
        settlements: Vec<Settlement>,
        rules: Arc<Rules>,
        now: Time,
    ) -> Boxed<'_, Result<Vec<String>, StoreError>> {
        let learned = settlements.iter().flat_map(|one| &one.learned);
        let identities = learned.map(|learned| identity(&learned.source, &learned.update.key)).collect();
        let touches = Touches::of(&rules, identities, settlements.iter().map(|one| one.delivery).collect());
        let ready: Vec<_> = settlements.into_iter().map(|one| ReadySettlement::new(one, &rules, now)).collect();
        self.call_waking(touches, move |tx| rules::settle_all(tx, &ready, &rules, now))
    }

    fn retry(&self, filter: DeliveryFilter, now: Time) -> Boxed<'_, Result<u64, StoreError>> {
        let chunk = move |filter: DeliveryFilter, after| {
            self.call(Touches::default(), move |tx| deliver::retry(tx, &filter, after, now))
        };
        Box::pin(rules::in_chunks(filter, chunk))
    }

    fn discard(&self, filter: DeliveryFilter, now: Time) -> Boxed<'_, Result<u64, StoreError>> {
        let chunk = move |filter: DeliveryFilter, after| {
            self.call(Touches::default(), move |tx| deliver::discard(tx, &filter, after, now))
        };
        Box::pin(rules::in_chunks(filter, chunk))
    }

    fn hurry(&self, sink: String, by: Time, now: Time) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.hurry_sink(sink, by, now))
    }

    fn set_back(&self, sink: String, by_ms: Option<u64>, now: Time) -> Boxed<'_, Result<u64, StoreError>> {
        Box::pin(self.move_back(set_back::DELIVERIES, sink, by_ms, now))
    }

    fn set_back_inquiries(&self, source: String, by_ms: Option<u64>, now: Time) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move { self.move_back(set_back::HELD, source, by_ms, now).await.map(drop) })
    }

    fn pause(&self, sink: String, reason: Option<String>) -> Boxed<'_, Result<(), StoreError>> {
        let stopped = [sink.clone()];
        let call = self.call(Touches::default(), move |tx| deliver::pause(tx, &sink, reason.as_deref()));
        Box::pin(async move { call.await.inspect(|()| self.herald.stopped(&stopped)) })
    }

    fn halt(&self, sink: String, reason: String, replaced: Shutdown) -> Boxed<'_, Result<bool, StoreError>> {
        let stopped = [sink.clone()];
        let call = self.call(Touches::default(), move |tx| deliver::halt(tx, &sink, &reason, &replaced));
        Box::pin(async move { call.await.inspect(|news| self.herald.stopped(&stopped[..usize::from(*news)])) })
    }

    fn resume(&self, because: String) -> Boxed<'_, Result<(), StoreError>> {
        let call = self.call(Touches::default(), move |tx| deliver::resume(tx, &because));
        Box::pin(async move { call.await.map(|sinks| self.herald.stopped(&sinks)) })
    }

    fn prune(
        &self,
        from: i64,
        before: Time,
        most: usize,
        export: Option<Arc<dyn Export>>,
    ) -> Boxed<'_, Result<Pruned, StoreError>> {
        Box::pin(self.let_go(from, before, most, export))
    }

    fn extent(&self) -> Boxed<'_, Result<Extent, StoreError>> {
        Box::pin(async move { prune::extent(&*self.pool.get().await?).await })
    }

    /// The server's own vacuum does it.
    fn give_back(&self, _bytes: u64) -> Boxed<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn ready(&self) -> Result<(), StoreError> {
        if self.queue.is_closed() {
            return Err(StoreError::Unavailable("the store is closed".to_owned()));
        }
        self.health.fault().map_or(Ok(()), |reason| Err(StoreError::Unavailable(reason)))
    }

    fn promise(&self) -> Option<String> {
        Some(self.health.means()).filter(|means| !means.is_empty())
    }

    fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            self.queue.close();
            let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(writer) = writer else { return };
            // Joining waits for the last commit; not something to do on a thread that serves others.
            if !matches!(tokio::task::spawn_blocking(move || writer.join()).await, Ok(Ok(()))) {
                tracing::error!("the store's writer panicked");
            }
            self.stop.begin();
            // What is still leased is anybody's at once; else when they notice that this one is gone.
            if let Ok(client) = self.pool.get().await
                && let Err(e) = self.place.leave(&client).await.map_err(fault)
            {
                tracing::warn!(error = %e, "others take over what was leased when they notice that this one is gone");
            }
        })
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.queue.close();
        self.stop.begin();
    }
}
