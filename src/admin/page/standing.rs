//! How the daemon stands: what is gathered for the overview, and what of it is wrong, with the command that mends it.

use super::html::Url;
use super::layout;
use crate::admin::judgement::{About, COUNTED, Commands, Finding, HELD_MS, Judge};
use crate::admin::{AdminState, Refusing, SinkStanding, api, pieces, status};
use crate::measure::Configuration;
use crate::model::{ReceiptStatus, Time};
use crate::pipeline::upkeep::bytes_max;
use crate::store::{Filter, Replica, StoreError};

/// Everything that the person on call asks first.
pub(super) struct Standing {
    /// Whether callbacks can be kept, and if not, why.
    pub(super) receiving: Result<(), String>,
    /// Callbacks kept in the last minute that ended, and since.
    pub(super) lately: u64,
    pub(super) sources: Vec<Source>,
    /// Which of them refused somebody lately.
    pub(super) refusing: Vec<Refusing>,
    pub(super) sinks: Vec<Sink>,
    /// Receipts that were not understood, and when the newest of them came; no more than `COUNTED` are counted.
    pub(super) quarantined: (usize, Option<Time>),
    /// Receipts that have waited for long to be confirmed, counted alike.
    pub(super) held: usize,
    /// Executions that are not finished in time, counted alike.
    pub(super) overdue: usize,
    /// What the store takes, and what upkeep lets it take, in bytes.
    pub(super) takes: Option<(u64, u64)>,
    /// Since when figures are counted.
    pub(super) since: Time,
    /// The configuration that holds.
    pub(super) configuration: Configuration,
    /// Everybody who shares the store.
    pub(super) replicas: Vec<Replica>,
}

/// A source, and when it last called.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) last_at: Option<Time>,
}

/// A sink, and whether it is still told anything.
pub(super) struct Sink {
    pub(super) standing: SinkStanding,
    pub(super) is_configured: bool,
}

/// Every sink that the configuration or the store knows, by name.
pub(super) async fn sinks(state: &AdminState) -> Result<Vec<Sink>, StoreError> {
    let standings = api::sinks(state).await?;
    let ingest = state.ingest.load();
    let is_configured = |name: &str| ingest.rules().sinks.iter().any(|sink| sink.name == name);
    let sink = |standing: SinkStanding| Sink { is_configured: is_configured(&standing.row.name), standing };
    Ok(standings.into_iter().map(sink).collect())
}

/// The names of the sinks that there are or were, without asking the store: to count what waits takes it a while.
pub(super) fn sink_names(state: &AdminState) -> Vec<String> {
    let configured = state.ingest.load();
    let configured = configured.rules().sinks.iter().map(|sink| sink.name.clone());
    let mut names: Vec<_> =
        configured.chain(state.watch.measures.sinks().iter().map(|of| of.name.to_string())).collect();
    names.sort();
    names.dedup();
    names
}

/// The configured sources' names, without repeats.
pub(super) fn sources(state: &AdminState) -> Vec<String> {
    let mut names: Vec<String> = state.ingest.load().intakes().map(|intake| intake.name.to_string()).collect();
    names.sort();
    names.dedup();
    names
}

/// Looks at all of it.
pub(super) async fn look(state: &AdminState, now: Time) -> Result<Standing, StoreError> {
    let store = &state.store;
    let receiving = match state.shutdown.is_begun() {
        true => Err("the daemon stops".to_owned()),
        false => store.ready().map_err(|e| e.to_string()),
    };
    let some =
        |status: &str| Filter { status: vec![status.to_owned()], limit: Some(COUNTED as u64 + 1), ..Filter::default() };
    // What came before this process did is told by the latest receipts, not by a search for who has long been silent.
    let latest = store.receipts(Filter { limit: Some(COUNTED as u64), ..Filter::default() }).await?;
    let measured = state.watch.measures.sources();
    let last_at = |name: &String| {
        let counted = measured.iter().find(|of| *of.name == **name).and_then(|of| of.last_at.get());
        let kept = latest.iter().find(|receipt| receipt.source == *name).map(|receipt| receipt.received_at);
        counted.map(Time::from_micros).max(kept)
    };
    let sources = sources(state).into_iter().map(|name| Source { last_at: last_at(&name), name }).collect();
    let history = state.watch.measures.history(now);
    let quarantined = store.receipts(some(ReceiptStatus::Quarantined.as_str())).await?;
    // An id is a time: what came before it.
    let long_ago = Some(now.micros().saturating_sub_unsigned(HELD_MS * 1000));
    let held = Filter { before: long_ago, ..some(ReceiptStatus::Held.as_str()) };
    let configuration = state.watch.measures.configuration();
    let takes = match configuration.disk_max {
        Some(disk_max) => {
            let extent = store.extent().await?;
            Some((extent.held, bytes_max(extent, disk_max)))
        }
        None => None,
    };
    Ok(Standing {
        receiving,
        lately: history.iter().rev().take(2).map(super::plot::kept).sum(),
        sources,
        refusing: status::refusing(&history, now),
        sinks: sinks(state).await?,
        quarantined: (quarantined.len(), quarantined.first().map(|newest| newest.received_at)),
        held: store.receipts(held).await?.len(),
        overdue: pieces::count(&**store, some("overdue")).await?,
        since: state.watch.measures.started_at,
        takes,
        configuration,
        replicas: store.replicas().await?,
    })
}

/// Everything that is wrong, the worst first.
pub(super) fn findings(standing: &Standing, now: Time) -> Vec<Finding> {
    let held = &standing.configuration;
    let commands = Commands::of(held.file.as_deref());
    let judge = Judge { commands: &commands, now };
    let mut found = Vec::new();
    found.extend(standing.receiving.as_ref().err().map(|reason| judge.receiving(reason)));
    found.extend(held.refused.as_ref().map(|refused| judge.refused(refused.at, held.read_at, Some(&refused.reason))));
    found.extend(standing.sources.is_empty().then(|| judge.sourceless()));
    found.extend(standing.refusing.iter().filter_map(|of| judge.refusing(of)));
    for sink in &standing.sinks {
        found.extend(judge.sink(&sink.standing, sink.is_configured));
    }
    found.extend(standing.takes.and_then(|(held, most)| judge.over(held, most)));
    found.extend(standing.replicas.iter().filter_map(|one| judge.gone(one)));
    found.extend(judge.quarantined(standing.quarantined.0, standing.quarantined.1));
    found.extend(judge.held(standing.held));
    found.extend(judge.overdue(standing.overdue));
    found.sort_by_key(|finding| finding.weight);
    found
}

/// Where more of it is shown.
pub(super) fn place(about: &About) -> Option<Url> {
    Some(match about {
        About::Daemon | About::Configuration | About::Disk | About::Replica(_) => return None,
        About::Source(name) => Url::to(&["receipts"]).with("source", name),
        About::Sink(_) => Url::to(&["sinks"]),
        About::Dead(sink) => layout::dead().with("sink", sink),
        About::Receipts(status) => Url::to(&["receipts"]).with("status", status),
        About::Overdue => Url::to(&["executions"]).with("status", "overdue"),
    })
}
