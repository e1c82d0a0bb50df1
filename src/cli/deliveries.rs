//! `deliveries`: who was told what, who has still to be told, and the dead letters' second chance.

use std::io::{self, Write};
use std::sync::Arc;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::list::{Form, Selection, know_names, list};
use super::print::{age, complain, fields, json_line, or_none, section, when};
use super::progress::Progress;
use super::reach::{Context, Daemon, open_store, queries, store_path};
use super::{Failure, block_on, print};
use crate::clock;
use crate::config::{Config, Environment};
use crate::model::{Attempt, DeliveryStatus, Time};
use crate::store::sqlite::Survey;
use crate::store::{DeliveryFilter, DeliveryRow, Filter, Queries, Store, Window};

mod pace;

use pace::Pace;

#[derive(Debug, Subcommand)]
pub(super) enum Deliveries {
    /// The newest first
    List {
        /// Only these; may be repeated, or a list with commas
        #[arg(long, value_delimiter = ',',
            value_parser = PossibleValuesParser::new(DeliveryStatus::ALL.map(DeliveryStatus::as_str)))]
        status: Vec<String>,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        form: Form,
    },
    /// One of them, with its attempts
    Show {
        id: i64,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make them due again
    Retry(Which),
    /// Drop them for good
    Discard(Which),
}

/// By their ids, or by what they have in common.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Just these; or say below which
    #[arg(value_name = "ID", conflicts_with_all = ["status", "source", "sink", "since", "all"])]
    ids: Vec<i64>,
    /// All in these statuses; default: dead
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(OPEN.map(DeliveryStatus::as_str)))]
    status: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Whatever source, sink and time
    #[arg(long, conflicts_with_all = ["source", "sink", "since"])]
    all: bool,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    /// At most so many in a second (100/s) or a minute (600/m); default: as quickly as callbacks allow
    #[arg(long, value_name = "N/s", conflicts_with = "ids")]
    rate: Option<pace::Rate>,
    /// The count as a JSON object
    #[arg(long)]
    json: bool,
}

/// The statuses that an operator can still change something about.
const OPEN: [DeliveryStatus; 3] = [DeliveryStatus::Waiting, DeliveryStatus::Dead, DeliveryStatus::Discarded];

#[derive(Clone, Copy)]
enum Act {
    Retry,
    Discard,
}

impl Deliveries {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        block_on(async {
            match self {
                Deliveries::List { status, selection, form } => {
                    let (config, now) = (context.places()?, clock::now());
                    let queries = queries(&config, context.env)?;
                    let filter = selection.filter(&status, now);
                    let id = |row: &DeliveryRow| row.id.parse().ok();
                    list(&config, &form, filter, |f| queries.deliveries(f), id, HEADER, |d| row(d, now)).await
                }
                Deliveries::Show { id, json } => {
                    let (row, attempts) = context.queries()?.delivery(id).await?;
                    print::stdout(|out| match json {
                        true => json_line(out, &json!({"delivery": row, "attempts": attempts})),
                        false => show(out, &row, &attempts),
                    })
                }
                Deliveries::Retry(which) => act(context, Act::Retry, which).await,
                Deliveries::Discard(which) => act(context, Act::Discard, which).await,
            }
        })
    }
}

pub(super) const HEADER: [&str; 10] =
    ["id", "sink", "status", "execution", "key", "type", "attempts", "due", "age", "reason"];

pub(super) fn row(d: &DeliveryRow, now: Time) -> [String; 10] {
    [
        d.id.clone(),
        d.sink.clone(),
        d.status.to_string(),
        d.execution.clone(),
        d.key.clone(),
        d.kind.clone(),
        d.attempts.to_string(),
        when(d.due_at),
        age(Some(d.created_at), now),
        or_none(d.reason.as_ref()),
    ]
}

fn show(out: &mut dyn Write, d: &DeliveryRow, attempts: &[Attempt]) -> io::Result<()> {
    fields(
        out,
        &[
            ("id", d.id.clone()),
            ("sink", d.sink.clone()),
            ("status", d.status.to_string()),
            ("reason", or_none(d.reason.as_ref())),
            ("execution", d.execution.clone()),
            ("source", d.source.clone()),
            ("key", d.key.clone()),
            ("change", d.change.clone()),
            ("type", d.kind.clone()),
            ("promised", when(Some(d.created_at))),
            ("due", when(d.due_at)),
            ("finished", when(d.finished_at)),
        ],
    )?;
    let rows = attempts.iter().map(|a| {
        [
            when(Some(a.started_at)),
            format!("{} ms", a.duration_ms),
            a.outcome.clone(),
            or_none(a.status),
            or_none(a.reason.as_ref()),
            or_none(a.answer.as_ref()),
        ]
    });
    section(out, "Attempts", ["started", "took", "outcome", "status", "reason", "answer"], rows.collect())
}

impl Which {
    /// What to ask for, one after the other.
    fn filters(&self, now: Time) -> Result<Vec<DeliveryFilter>, Failure> {
        if !self.ids.is_empty() {
            return Ok(self.ids.iter().map(|id| DeliveryFilter::One(*id)).collect());
        }
        let mut filter = self.selection.filter(&self.status, now);
        if filter == Filter::default() && !self.all {
            let why = "say which: their ids, or --status, --source, --sink, --since, or --all";
            return Err(Failure::Usage(why.to_owned()));
        }
        if filter.status.is_empty() {
            filter.status.push(DeliveryStatus::Dead.to_string());
        }
        Ok(vec![DeliveryFilter::All(filter)])
    }
}

impl Act {
    /// The statuses that it can change.
    fn from(self) -> &'static [DeliveryStatus] {
        match self {
            Act::Retry => &OPEN,
            Act::Discard => &[DeliveryStatus::Waiting, DeliveryStatus::Dead],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Act::Retry => "retry",
            Act::Discard => "discard",
        }
    }
}

async fn act(context: &Context<'_>, act: Act, which: Which) -> Result<(), Failure> {
    let filters = which.filters(clock::now())?;
    if let (Act::Discard, true) = (act, which.status.iter().any(|status| status == DeliveryStatus::Discarded.as_str()))
    {
        return Err(Failure::Usage("what is discarded cannot be discarded; only what waits or is dead".to_owned()));
    }
    let config = context.places()?;
    let mut hand = Hand { config: &config, env: context.env, daemon: Daemon::of(&config, context.env)?, store: None };
    let (mut count, mut failed) = (0, false);
    for filter in filters {
        match filter {
            DeliveryFilter::One(id) if which.dry_run => {
                let (row, _) = queries(&config, context.env)?.delivery(id).await?;
                count += u64::from(act.from().contains(&row.status));
            }
            DeliveryFilter::One(id) => match hand.does(act, &filter).await {
                Ok(n) => count += n,
                // One that cannot be does not stop the next.
                Err(Failure::Failed(why)) => {
                    failed = true;
                    complain(&format!("error: delivery {id}: {why}"));
                }
                Err(failure) => return Err(failure),
            },
            DeliveryFilter::All(filter) => count += hand.does_all(act, filter, &which).await?,
        }
    }
    if let Some(store) = hand.store {
        store.close().await;
    }
    print::stdout(|out| match (which.json, act, which.dry_run) {
        (true, ..) => json_line(out, &json!({ "count": count })),
        (false, Act::Retry, false) => writeln!(out, "{count} due again"),
        (false, Act::Discard, false) => writeln!(out, "{count} discarded"),
        (false, Act::Retry, true) => writeln!(out, "{count} would be due again"),
        (false, Act::Discard, true) => writeln!(out, "{count} would be discarded"),
    })?;
    if failed { Err(Failure::Told) } else { Ok(()) }
}

/// Who changes deliveries: the daemon, or where none listens, this process on the store itself.
struct Hand<'c> {
    config: &'c Config,
    env: &'c Environment,
    daemon: Daemon,
    store: Option<Arc<dyn Store>>,
}

impl Hand<'_> {
    async fn does(&mut self, act: Act, filter: &DeliveryFilter) -> Result<u64, Failure> {
        if self.store.is_none()
            && let Some(said) = ask(&self.daemon, act, filter).await?
        {
            return Ok(said["count"].as_u64().unwrap_or(1));
        }
        let store = match &self.store {
            Some(store) => store,
            None => self.store.insert(open_store(self.config)?),
        };
        let done = match act {
            Act::Retry => store.retry(filter.clone(), clock::now()).await,
            Act::Discard => store.discard(filter.clone(), clock::now()).await,
        };
        Ok(done?)
    }

    /// A few at a time, in the order of their ids, and none twice, however soon it is dead again.
    async fn does_all(&mut self, act: Act, filter: Filter, which: &Which) -> Result<u64, Failure> {
        let windows = match self.config.store.is_postgres() {
            true => Windows::Asked(queries(self.config, self.env)?),
            false => Windows::File(Survey::open(store_path(self.config)?)?),
        };
        let (all, end) = total(&windows, &filter).await?;
        if all == 0 {
            let queries = queries(self.config, self.env)?;
            know_names(self.config, &filter, &|f| queries.deliveries(f)).await?;
        }
        if which.dry_run {
            return Ok(all);
        }
        // What dies from now on is not meant.
        let filter = Filter { before: Some(end.saturating_add(1)), ..filter };
        let mut pace = Pace::new(which.rate);
        let mut progress = Progress::of(act.word());
        let (mut after, mut done) = (0, 0);
        while let Some(window) = windows.next(&filter, after, pace.step()).await? {
            let some = Filter { after: Some(after), before: Some(window.end.saturating_add(1)), ..filter.clone() };
            done += self.does(act, &DeliveryFilter::All(some)).await?;
            after = window.end;
            progress.at(done, all);
            pace.rest(window.count).await;
        }
        Ok(done)
    }
}

/// Where deliveries are counted that a filter means.
enum Windows {
    File(Survey),
    Asked(Box<dyn Queries>),
}

impl Windows {
    async fn next(&self, filter: &Filter, after: i64, most: u64) -> Result<Option<Window>, Failure> {
        Ok(match self {
            Windows::File(survey) => survey.window(filter, after, most)?,
            Windows::Asked(queries) => queries.window(filter.clone(), after, most).await?,
        })
    }
}

/// How many a filter means now, and the last of them.
async fn total(windows: &Windows, filter: &Filter) -> Result<(u64, i64), Failure> {
    let (mut count, mut end) = (0, 0);
    while let Some(window) = windows.next(filter, end, COUNTED_AT_A_TIME).await? {
        count += window.count;
        end = window.end;
    }
    Ok((count, end))
}

/// So many are counted in one snapshot.
const COUNTED_AT_A_TIME: u64 = 50_000;

async fn ask(daemon: &Daemon, act: Act, filter: &DeliveryFilter) -> Result<Option<Value>, Failure> {
    let word = act.word();
    match filter {
        DeliveryFilter::One(id) => daemon.post(&format!("/api/v1/deliveries/{id}/{word}"), None).await,
        DeliveryFilter::All(filter) => daemon.post(&format!("/api/v1/deliveries/{word}"), Some(&as_json(filter))).await,
    }
}

fn as_json(filter: &Filter) -> Value {
    serde_json::to_value(filter).expect("a filter is plain data")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        which: Which,
    }

    fn filters(line: &[&str]) -> Option<Vec<DeliveryFilter>> {
        let line = Line::try_parse_from([&["retry"], line].concat()).ok()?;
        line.which.filters(Time::from_seconds(7_200)).ok()
    }

    #[test]
    fn dead_letters_are_meant_unless_something_else_is_said() {
        let all = |filter| vec![DeliveryFilter::All(filter)];
        let dead = Filter { status: vec!["dead".into()], ..Filter::default() };
        assert_eq!(filters(&["--all"]).expect("--all"), all(dead.clone()));
        assert_eq!(
            filters(&["--sink", "portal"]).expect("a sink"),
            all(Filter { sink: Some("portal".into()), ..dead })
        );
        let found = filters(&["--status", "waiting,discarded", "--since", "1h"]).expect("statuses");
        let status = vec!["waiting".into(), "discarded".into()];
        let since = Some(Time::from_seconds(3_600));
        assert_eq!(found, all(Filter { status, since, ..Filter::default() }));
        assert_eq!(filters(&["3", "9"]).expect("ids"), [DeliveryFilter::One(3), DeliveryFilter::One(9)]);
    }

    #[test]
    fn nobody_retries_everything_by_forgetting_an_argument() {
        let lines: [&[&str]; 6] =
            [&[], &["--json"], &["3", "--sink", "portal"], &["3", "--all"], &["--all", "--sink", "a"], &["x"]];
        for line in lines {
            assert_eq!(filters(line), None, "{line:?}");
        }
    }
}
