//! How the daemon stands: what is gathered for the overview, and what of it is wrong, with the command that mends it.

use super::html::{Url, age, several};
use super::layout;
use crate::admin::{AdminState, api, pieces};
use crate::model::{ReceiptStatus, Time};
use crate::store::{Filter, SinkRow, StoreError};

/// Everything that the person on call asks first.
pub(super) struct Standing {
    /// Whether callbacks can be kept, and if not, why.
    pub(super) receiving: Result<(), String>,
    /// Callbacks kept in the last minute that ended, and since.
    pub(super) lately: u64,
    pub(super) sources: Vec<Source>,
    pub(super) sinks: Vec<Sink>,
    /// Receipts that were not understood; no more than `COUNTED` are counted.
    pub(super) quarantined: usize,
    /// Executions that are not finished in time, counted alike.
    pub(super) overdue: usize,
}

/// A source, and when it last called.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) last_at: Option<Time>,
}

/// A sink, as the store, the configuration and its forwarder know it.
pub(super) struct Sink {
    pub(super) row: SinkRow,
    pub(super) is_configured: bool,
    /// It fails time and again, and is only probed.
    pub(super) is_failing: bool,
}

/// More than so many are `more than …`: nobody waits for a count.
pub(super) const COUNTED: usize = 100;

/// What waits longer than this, without being told why it may, is late, in milliseconds.
const LATE_MS: u64 = 600_000;

impl Sink {
    /// One word for it.
    pub(super) fn word(&self) -> &'static str {
        match () {
            () if self.row.paused.is_some() => "paused",
            () if self.is_failing => "failing",
            () => "active",
        }
    }
}

/// Every sink that the configuration or the store knows, by name.
pub(super) async fn sinks(state: &AdminState) -> Result<Vec<Sink>, StoreError> {
    let rows = api::sinks(state).await?;
    let ingest = state.ingest.load();
    let configured: Vec<&str> = ingest.rules().sinks.iter().map(|sink| sink.name.as_str()).collect();
    let measured = state.watch.measures.sinks();
    let sink = |row: SinkRow| Sink {
        is_configured: configured.contains(&row.name.as_str()),
        is_failing: measured.iter().any(|of| *of.name == row.name && of.is_breaker_open()),
        row,
    };
    Ok(rows.into_iter().map(sink).collect())
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
    Ok(Standing {
        receiving,
        lately: history.iter().rev().take(2).map(super::plot::kept).sum(),
        sources,
        sinks: sinks(state).await?,
        quarantined: store.receipts(some(ReceiptStatus::Quarantined.as_str())).await?.len(),
        overdue: pieces::count(&**store, some("overdue")).await?,
    })
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Weight {
    /// Somebody is not told, or nothing is kept.
    Bad,
    /// Worth a look.
    Wary,
}

/// Something that is wrong.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) weight: Weight,
    pub(super) what: String,
    /// In the words of who said so.
    pub(super) reason: Option<String>,
    /// What mends it, or tells more.
    pub(super) command: String,
    /// Where it is shown.
    pub(super) at: Url,
}

/// Everything that is wrong, the worst first.
pub(super) fn findings(standing: &Standing, now: Time) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut find = |weight, what: String, reason: Option<&String>, command: String, at: Url| {
        found.push(Finding { weight, what, reason: reason.cloned(), command, at });
    };
    if let Err(reason) = &standing.receiving {
        let what = "Callbacks cannot be kept: senders hear 503.".to_owned();
        find(Weight::Bad, what, Some(reason), "callbackd doctor".to_owned(), Url::home());
    }
    for Sink { row, is_configured, is_failing } in &standing.sinks {
        let (name, shown) = (&row.name, shell(&row.name));
        let waiting = several(row.backlog, "delivery");
        let verb = if row.backlog == 1 { "waits" } else { "wait" };
        let page = || Url::to(&["sinks"]);
        let late = row.oldest.filter(|oldest| now.ms_since(*oldest) > LATE_MS);
        if let Some(reason) = &row.paused {
            let what = format!("The sink {name} is paused; {waiting} {verb}.");
            find(Weight::Bad, what, Some(reason), format!("callbackd sinks resume {shown}"), page());
        } else if *is_failing {
            let what = format!("The sink {name} fails, and is only probed; {waiting} {verb}.");
            find(Weight::Bad, what, row.reason.as_ref(), format!("callbackd sinks test {shown}"), page());
        } else if !is_configured && row.backlog > 0 {
            let what = format!("The sink {name} is not configured any more; {waiting} {verb}.");
            find(
                Weight::Bad,
                what,
                None,
                format!("callbackd deliveries discard --status waiting --sink {shown}"),
                page(),
            );
        } else if let Some(oldest) = late.filter(|_| row.reason.as_deref() != Some("waits for a link")) {
            let what = format!("The sink {name} is behind; {waiting} {verb}, the oldest for {}.", age(oldest, now));
            find(
                Weight::Wary,
                what,
                row.reason.as_ref(),
                format!("callbackd deliveries list --status waiting --sink {shown}"),
                page(),
            );
        }
        if row.dead > 0 {
            let what = format!("{} for {name}.", several(row.dead, "dead letter"));
            let at = layout::dead().with("sink", name);
            find(Weight::Bad, what, None, format!("callbackd deliveries retry --sink {shown}"), at);
        }
    }
    if standing.quarantined > 0 {
        let what = format!("{} not understood.", some(standing.quarantined, "callback", "was", "were"));
        let command = "callbackd receipts list --status quarantined".to_owned();
        find(Weight::Wary, what, None, command, layout::quarantined());
    }
    if standing.overdue > 0 {
        let what = format!("{} not finished in time.", some(standing.overdue, "execution", "is", "are"));
        let at = Url::to(&["executions"]).with("status", "overdue");
        find(Weight::Wary, what, None, "callbackd executions list --status overdue".to_owned(), at);
    }
    found.sort_by_key(|finding| finding.weight);
    found
}

/// A count that may be cut short.
fn some(n: usize, what: &str, one: &str, many: &str) -> String {
    match n {
        1 => format!("1 {what} {one}"),
        n if n > COUNTED => format!("More than {COUNTED} {what}s {many}"),
        n => format!("{n} {what}s {many}"),
    }
}

/// A name as a shell takes it. Configured names need nothing; the store may know others.
fn shell(name: &str) -> String {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if is_plain { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_seconds(1_700_000_000);

    fn sink(name: &str) -> Sink {
        let row = SinkRow { name: name.to_owned(), paused: None, backlog: 0, oldest: None, reason: None, dead: 0 };
        Sink { row, is_configured: true, is_failing: false }
    }

    fn standing(sinks: Vec<Sink>) -> Standing {
        Standing { receiving: Ok(()), lately: 0, sources: vec![], sinks, quarantined: 0, overdue: 0 }
    }

    fn commands(standing: &Standing) -> Vec<String> {
        findings(standing, NOW).into_iter().map(|finding| finding.command).collect()
    }

    #[test]
    fn what_is_wrong_comes_with_what_mends_it() {
        assert!(commands(&standing(vec![sink("portal")])).is_empty());
        let waits = |mut one: Sink, seconds: i64, reason: &str| {
            one.row.backlog = 1;
            one.row.oldest = Some(Time::from_seconds(NOW.seconds() - seconds));
            one.row.reason = Some(reason.to_owned());
            one
        };
        assert!(commands(&standing(vec![waits(sink("portal"), 60, "503")])).is_empty(), "not for long");
        assert!(commands(&standing(vec![waits(sink("portal"), 6000, "waits for a link")])).is_empty(), "it may");
        let late = waits(sink("portal"), 6000, "503");
        assert_eq!(commands(&standing(vec![late])), ["callbackd deliveries list --status waiting --sink portal"]);
        let mut paused = waits(sink("it's"), 6000, "503");
        paused.row.paused = Some("halted: 401".to_owned());
        paused.row.dead = 2;
        assert_eq!(
            commands(&standing(vec![paused])),
            ["callbackd sinks resume 'it'\\''s'", "callbackd deliveries retry --sink 'it'\\''s'"]
        );
        let failing = Sink { is_failing: true, ..waits(sink("portal"), 1, "connection refused") };
        let found = findings(&standing(vec![failing]), NOW);
        assert_eq!((found[0].weight, found[0].reason.as_deref()), (Weight::Bad, Some("connection refused")));
        assert_eq!(found[0].what, "The sink portal fails, and is only probed; 1 delivery waits.");
        assert_eq!(found[0].command, "callbackd sinks test portal");
        let worse = Standing {
            receiving: Err("the disk is full".to_owned()),
            quarantined: COUNTED + 1,
            overdue: 1,
            ..standing(vec![])
        };
        let found = findings(&worse, NOW);
        assert_eq!(found[0].command, "callbackd doctor");
        assert_eq!(found[1].what, "More than 100 callbacks were not understood.");
        assert_eq!(found[2].what, "1 execution is not finished in time.");
    }
}
