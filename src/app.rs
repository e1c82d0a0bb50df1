//! The composition root: from a configuration to a running daemon.
//!
//! The only module that reads the configuration. It builds sources, sinks and rules, opens the store, binds the
//! doors, starts what runs, and stops it again in the order in which data flows: first nothing more comes in, then
//! what was begun is finished, then the store closes. What was not delivered by then is in the store and goes on at
//! the next start.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use self::actors::keep_going;
use self::parts::Parts;
use crate::admin::{Admin, AdminState, Watch};
use crate::clock;
use crate::config::{Adapters, Config, Faults, Outbound, SinkEntry};
use crate::measure::Measures;
use crate::model::{DeliveryStatus, Rules};
use crate::options::Fault;
use crate::pipeline::forward::{Forwarder, HALTED, Service};
use crate::pipeline::ingest::Ingest;
use crate::pipeline::inquire::{self, Inquirer, Pace};
use crate::pipeline::upkeep::{self, Exporter, Keep};
use crate::pipeline::{Kept, Wake};
use crate::server::{self, BindError, Bound, Certificate, Inherited, Limits, Live, Pair, Reception};
use crate::shutdown::Shutdown;
use crate::sinks::Sink;
use crate::store::{Filter, Store, StoreError};

mod actors;
mod files;
mod parts;
mod serve;
mod stores;
#[cfg(feature = "otlp")]
mod traces;

pub use parts::{Named, rules, sinks, sources};
pub use serve::serve;
#[cfg(feature = "postgres")]
pub use stores::address;
pub use stores::queries;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(Faults),
    /// The store cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// The process could not be set up.
    #[error("{0}")]
    Process(String),
}

impl Error {
    /// The exit code: 78 for a wrong configuration, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) => 78,
            _ => 1,
        }
    }
}

/// A running daemon.
pub struct Running {
    store: Arc<dyn Store>,
    wake: Wake,
    measures: Arc<Measures>,
    ingest: Live<Ingest>,
    limits: Live<Limits>,
    keep: Live<Keep>,
    exporter: Exporter,
    certificate: Option<Arc<Certificate>>,
    address: String,
    shutdown: Shutdown,
    doors: Vec<JoinHandle<()>>,
    forwarders: Mutex<Forwarders>,
    #[cfg(feature = "otlp")]
    traces: Option<traces::Traces>,
}

/// The forwarders of one configuration, and of earlier ones that still finish what they had begun.
struct Forwarders {
    stop: Shutdown,
    running: Vec<JoinHandle<()>>,
    /// How each sink fares, by its own configuration and how peers are reached.
    breakers: Vec<(SinkEntry, Outbound, Kept)>,
}

impl Running {
    /// Starts a daemon with the adapters that the configuration describes; it runs until [`Running::stop`].
    pub async fn start(config: &Config, adapters: Adapters) -> Result<Running, Error> {
        let measures = Arc::new(Measures::new(clock::now()));
        #[cfg(feature = "otlp")]
        let (mut adapters, instance) = (adapters, config.instance());
        #[cfg(feature = "otlp")]
        let collector = adapters.collector.take();
        let password = adapters.store_password.clone();
        let parts = Parts::build(config, adapters, &measures).map_err(Error::Config)?;
        let certificate = pair(config)?.map(|pair| Arc::new(Certificate::new(pair)));
        let wake = Wake::default();
        let store = stores::open(config, password.as_ref(), &measures, &wake).await?;
        let mut inherited = Inherited::take().map_err(|e| Error::Process(format!("systemd's sockets: {e}")))?;
        let bound = inherited.bind(&config.server.listen, certificate.clone()).await?;
        let admin = inherited.bind(&config.admin.listen, None).await?;
        for address in inherited.left() {
            tracing::warn!(
                "systemd handed over {address}, on which nothing listens, so who calls there waits in vain; \
                 write [server] listen = \"systemd\", or stop callbackd.socket"
            );
        }
        let address = bound.address().to_owned();
        tracing::info!(server.listen = %address, admin.listen = %admin.address(), "callbackd {} runs", env!("CARGO_PKG_VERSION"));

        #[cfg(feature = "otlp")]
        let traces = collector.map(|collector| traces::Traces::start(collector, &instance));
        #[cfg(feature = "otlp")]
        if let Some(traces) = &traces {
            measures.spans_lost.get_or_init(|| traces.spans.losses());
        }
        let shutdown = Shutdown::new();
        let limits = Live::new(parts.limits.clone());
        let ingest = Live::new(Ingest::new(parts.intakes, Arc::clone(&parts.rules), Arc::clone(&store), wake.clone()));
        let watch = Arc::new(Watch::new(Arc::clone(&store), Arc::clone(&measures)));
        let reception = Reception::new(ingest.clone(), limits.clone(), Arc::clone(&measures));
        #[cfg(feature = "otlp")]
        let reception = reception.traced(traces.as_ref().map(|traces| traces.spans.clone()));
        let running = Running {
            store: Arc::clone(&store),
            wake: wake.clone(),
            measures: Arc::clone(&measures),
            ingest: ingest.clone(),
            limits,
            keep: Live::new(keep(config)),
            exporter: Exporter::default(),
            certificate,
            address,
            shutdown: shutdown.clone(),
            doors: vec![
                tokio::spawn(serve_callbacks(bound, reception, shutdown.clone())),
                tokio::spawn(serve_admin(
                    admin,
                    AdminState {
                        store,
                        ingest,
                        wake,
                        watch: Arc::clone(&watch),
                        token: parts.admin_token,
                        shutdown: shutdown.clone(),
                    },
                )),
                tokio::spawn(watch.run(shutdown)),
            ],
            forwarders: Mutex::new(Forwarders { stop: Shutdown::new(), running: Vec::new(), breakers: Vec::new() }),
            #[cfg(feature = "otlp")]
            traces,
        };
        running.measures.is_configured(config.file.as_deref(), config.store.disk_max, clock::now());
        running.forward(parts.sinks, parts.outbound, &parts.rules).await;
        Ok(running)
    }

    /// Where callbacks are taken: `127.0.0.1:8480`, or `unix:/path`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What is kept.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Takes over a new configuration: sources, routes, links, sinks, secrets, certificate and limits. What was begun under
    /// the old one is finished under it. Addresses and the store stay: they need a restart. Nothing of a configuration that
    /// fails is taken over.
    pub async fn reload(&self, config: &Config, adapters: Adapters) -> Result<(), Error> {
        let pair = pair(config)?;
        let parts = Parts::build(config, adapters, &self.measures).map_err(Error::Config)?;
        // A file that is just being written, or was on a full disk, is empty. Senders would be told that nothing is here.
        if parts.intakes.is_empty() && self.ingest.load().intakes().next().is_some() {
            let message = "there is none any more, and callbacks that are expected would be turned away; restart to go on without";
            let faults = vec![Fault::new("sources", message)];
            return Err(Error::Config(Faults { file: config.file.clone(), faults }));
        }
        if let (Some(certificate), Some(pair)) = (&self.certificate, pair) {
            certificate.take(pair);
        }
        self.limits.store(parts.limits.clone());
        self.keep.store(keep(config));
        let (rules, store) = (Arc::clone(&parts.rules), Arc::clone(&self.store));
        self.ingest.store(Ingest::new(parts.intakes, rules, store, self.wake.clone()));
        self.forward(parts.sinks, parts.outbound, &parts.rules).await;
        self.measures.is_configured(config.file.as_deref(), config.store.disk_max, clock::now());
        Ok(())
    }

    /// Tells the forwarders and inquirers there are to finish, and starts one for each sink, and for each source that is
    /// to be asked.
    async fn forward(&self, sinks: Vec<(SinkEntry, Arc<dyn Sink>, Service)>, outbound: Outbound, rules: &Arc<Rules>) {
        let stop = Shutdown::new();
        let (breakers, changed): (Vec<Kept>, Vec<String>) = {
            let mut forwarders = self.forwarders.lock().unwrap_or_else(PoisonError::into_inner);
            forwarders.stop.begin();
            forwarders.stop = stop.clone();
            forwarders.running.retain(|task| !task.is_finished());
            // A peer that is down is not tried anew because something else was configured.
            let known = std::mem::take(&mut forwarders.breakers);
            let same = |entry: &SinkEntry| known.iter().find(|(of, via, _)| of == entry && *via == outbound);
            let kept = |(entry, ..): &(SinkEntry, _, _)| same(entry).map(|(.., kept)| kept.clone()).unwrap_or_default();
            let kept: Vec<Kept> = sinks.iter().map(kept).collect();
            let was_other =
                |entry: &SinkEntry| known.iter().any(|(of, ..)| of.name == entry.name) && same(entry).is_none();
            let changed =
                sinks.iter().filter(|(entry, ..)| was_other(entry)).map(|(entry, ..)| entry.name.clone()).collect();
            let each = sinks.iter().zip(&kept);
            forwarders.breakers =
                each.map(|((entry, ..), kept)| (entry.clone(), outbound.clone(), kept.clone())).collect();
            (kept, changed)
        };
        for gone in self.measures.sinks().iter().filter(|of| !sinks.iter().any(|(entry, ..)| *of.name == *entry.name)) {
            gone.set_breaker(None);
        }
        // After the old ones were told: a refusal that still reaches them pauses nothing.
        self.resume_halted().await;
        for name in changed {
            // Whoever shares the store finds out anew, too.
            if let Err(e) = self.store.share_breaker(name, None).await {
                tracing::warn!(error = %e, "a sink that failed is probed when its time comes");
            }
        }
        let mut running: Vec<JoinHandle<()>> = sinks
            .into_iter()
            .zip(breakers)
            .map(|((entry, sink, service), breaker)| {
                let name = entry.name;
                #[cfg(feature = "otlp")]
                let sink = traces::Traces::around(self.traces.as_ref(), &name, sink);
                let (store, rules, wake) = (Arc::clone(&self.store), Arc::clone(rules), self.wake.clone());
                let actor = format!("the forwarder of {name}");
                let measures = self.measures.sink(&name);
                let forwarder = Arc::new(Forwarder { name, sink, service, store, rules, wake, measures, breaker });
                let ends = stop.clone();
                tokio::spawn(keep_going(actor, stop.clone(), move || Arc::clone(&forwarder).run(ends.clone())))
            })
            .collect();
        let ingest = self.ingest.load();
        for intake in ingest.intakes().filter(|intake| Inquirer::is_needed(intake, rules)) {
            let (store, rules, wake) = (Arc::clone(&self.store), Arc::clone(rules), self.wake.clone());
            let actor = format!("the inquirer of {}", intake.name);
            let inquirer = Arc::new(Inquirer { intake: Arc::clone(intake), store, rules, wake, pace: Pace::default() });
            let ends = stop.clone();
            running
                .push(tokio::spawn(keep_going(actor, stop.clone(), move || Arc::clone(&inquirer).run(ends.clone()))));
        }
        let (store, keep, ends) = (Arc::clone(&self.store), self.keep.clone(), stop.clone());
        let exporter = self.exporter.clone();
        let upkeep = move || {
            let keep = keep.clone();
            upkeep::run(Arc::clone(&store), move || Keep::clone(&keep.load()), exporter.clone(), ends.clone())
        };
        running.push(tokio::spawn(keep_going("upkeep".to_owned(), stop, upkeep)));
        self.forwarders.lock().unwrap_or_else(PoisonError::into_inner).running.append(&mut running);
    }

    /// A sink that paused itself over a credential is tried again with the configuration at hand.
    async fn resume_halted(&self) {
        if let Err(e) = self.store.resume(HALTED.to_owned()).await {
            tracing::warn!(error = %e, "sinks that paused themselves stay paused");
        }
    }

    /// Waits until every delivery is settled, or waits for a later time or for somebody; and until vendors were asked
    /// about what is held, for a while.
    pub async fn idle(&self) -> Result<(), StoreError> {
        loop {
            // Before the deliveries are looked at, which an answer makes.
            let asked = inquire::is_idle(&*self.store, clock::now()).await?;
            let open = [DeliveryStatus::Waiting, DeliveryStatus::Leased].map(|s| s.to_string());
            let open = self.store.deliveries(Filter { status: open.into(), ..Filter::default() }).await?;
            let soon = clock::now().plus_ms(2000);
            let busy =
                open.iter().any(|d| d.status == DeliveryStatus::Leased || d.due_at.is_some_and(|due| due < soon));
            if asked && !busy {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops: nothing more is taken in, what was begun is finished, the store closes.
    pub async fn stop(self) {
        self.shutdown.begin();
        for door in self.doors {
            let _ = door.await;
        }
        let forwarders = self.forwarders.into_inner().unwrap_or_else(PoisonError::into_inner);
        forwarders.stop.begin();
        let finish = async {
            for task in forwarders.running {
                let _ = task.await;
            }
        };
        // As the configuration says by now.
        let drain = self.limits.load().drain_timeout;
        if tokio::time::timeout(drain, finish).await.is_err() {
            tracing::warn!("deliveries under way were cut off; they go on at the next start");
        }
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            traces.stop().await;
        }
        self.store.close().await;
    }
}

/// What the callbacks' door is to serve TLS with.
fn pair(config: &Config) -> Result<Option<Pair>, Error> {
    let read = config.server.tls.as_ref().map(|tls| Pair::read(tls.cert.clone(), tls.key.clone()));
    read.transpose().map_err(|e| Error::Process(format!("server.tls: {e}")))
}

async fn serve_callbacks(bound: Bound, reception: Reception, shutdown: Shutdown) {
    server::serve(bound, Arc::new(reception), shutdown).await;
}

async fn serve_admin(bound: Bound, state: AdminState) {
    let shutdown = state.shutdown.clone();
    server::serve(bound, Arc::new(Admin::new(state)), shutdown).await;
}

/// What upkeep keeps.
pub fn keep(config: &Config) -> Keep {
    let export = config.store.export.clone();
    Keep { age: config.store.keep.0, disk_max: config.store.disk_max, export }
}

/// The file that `store.url` names.
pub fn store_path(config: &Config) -> PathBuf {
    PathBuf::from(config.store.url.strip_prefix("sqlite:").unwrap_or(&config.store.url))
}
