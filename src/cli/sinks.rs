//! `sinks`: the systems that must know, how far behind they are, and a way to hold one.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::list::{Form, Selection};
use super::print::{age, or_none};
use super::reach::{Context, Daemon, open_store, queries};
use super::{Failure, block_on, print};
use crate::admin::judgement::BY_AN_OPERATOR;
use crate::admin::{Breaker, SinkStanding};
use crate::clock;
use crate::config::{Config, no_such};
use crate::model::Time;
use crate::store::{PAUSE_CHARS_MAX, SinkRow};

mod trial;

use trial::Trial;

#[derive(Debug, Subcommand)]
pub(super) enum Sinks {
    /// By name
    List {
        /// Only these; may be repeated, or a list with commas
        #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(["active", "failing", "paused"]))]
        status: Vec<String>,
        /// --source: which a route joins to it; --since: whose oldest backlog is no older
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        form: Form,
    },
    /// Stop telling it; what it is to be told waits
    Pause {
        #[command(flatten)]
        sink: One,
        /// Why, for whoever reads the list
        #[arg(long, default_value = BY_AN_OPERATOR, value_parser = reason)]
        reason: String,
    },
    /// Go on telling it
    Resume {
        #[command(flatten)]
        sink: One,
    },
    /// Tell it a made-up change, marked as one, where that does no harm; else try its credentials
    Test(Trial),
}

#[derive(Args, Debug)]
pub(super) struct One {
    #[arg(value_name = "NAME")]
    name: String,
}

/// A sink as it is listed: what the store knows, and whether the configuration knows it too.
#[derive(Serialize)]
struct Listed {
    status: &'static str,
    /// `null` for a sink that is no longer configured.
    kind: Option<String>,
    #[serde(flatten)]
    of: SinkStanding,
}

impl Sinks {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if let Sinks::Test(trial) = &self {
            return trial.run(context, &context.config()?);
        }
        let config = context.places()?;
        block_on(async {
            match self {
                Sinks::Test(_) => Ok(()),
                Sinks::List { status, selection, form } => {
                    let rows = queries(&config, context.env)?.sinks().await?;
                    let now = clock::now();
                    // Without its token, and without a daemon, the store is read all the same.
                    let told = match Daemon::of(&config, context.env) {
                        Ok(daemon) => daemon.sinks().await.unwrap_or_default(),
                        Err(_) => Vec::new(),
                    };
                    let mut listed = merge(&config, rows, &told);
                    let names: Vec<_> = listed.iter().map(|s| s.of.row.name.as_str()).collect();
                    if !config.is_partial {
                        known("source", selection.source.as_deref(), &config.origins())?;
                    }
                    known("sink", selection.sink.as_deref(), &names)?;
                    listed.retain(|s| means(&config, &status, &selection, now, s));
                    show(listed, &form, if config.is_partial { "(unknown)" } else { "(not configured)" }, now)
                }
                Sinks::Pause { sink, reason } => hold(context, &config, &sink.name, Some(reason)).await,
                Sinks::Resume { sink } => hold(context, &config, &sink.name, None).await,
            }
        })
    }
}

fn reason(text: &str) -> Result<String, String> {
    match text.chars().count() {
        ..=PAUSE_CHARS_MAX => Ok(text.to_owned()),
        long => Err(format!("{long} characters; say it in {PAUSE_CHARS_MAX}")),
    }
}

/// Every sink that the configuration, the store or the daemon knows, by name; breakers as the daemon tells them.
fn merge(config: &Config, mut rows: Vec<SinkRow>, told: &[SinkStanding]) -> Vec<Listed> {
    for name in config.sinks.iter().map(|sink| &sink.name).chain(told.iter().map(|told| &told.row.name)) {
        if !rows.iter().any(|row| row.name == *name) {
            rows.push(SinkRow::of(name));
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let kind = |name: &str| config.sinks.iter().find(|s| s.name == name).map(|s| s.kind.clone());
    let breaker = |name: &str| told.iter().find(|told| told.row.name == name).and_then(|told| told.breaker);
    rows.into_iter()
        .map(|row| {
            let kind = kind(&row.name);
            let of = SinkStanding { breaker: breaker(&row.name), row };
            Listed { status: of.word(), kind, of }
        })
        .collect()
}

fn means(config: &Config, status: &[String], selection: &Selection, now: Time, sink: &Listed) -> bool {
    let name = &sink.of.row.name;
    let joined = |source: &String| config.routes.iter().any(|r| r.from.contains(source) && r.to.contains(name));
    (status.is_empty() || status.iter().any(|s| s == sink.status))
        && selection.sink.as_ref().is_none_or(|s| s == name)
        && selection.source.as_ref().is_none_or(joined)
        && selection.since.is_none_or(|since| sink.of.row.oldest.is_some_and(|oldest| oldest >= since.at(now)))
}

fn show(mut sinks: Vec<Listed>, form: &Form, unknown: &str, now: Time) -> Result<(), Failure> {
    if let Some(limit) = form.limit {
        sinks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if form.json {
        return print::stdout(|out| sinks.iter().try_for_each(|s| print::json_line(out, s)));
    }
    let header = ["name", "kind", "status", "backlog", "oldest", "dead", "breaker", "reason"];
    let rows = sinks.iter().map(|s| {
        [
            s.of.row.name.clone(),
            s.kind.clone().unwrap_or_else(|| unknown.to_owned()),
            s.status.to_owned(),
            s.of.row.backlog.to_string(),
            age(s.of.row.oldest, now),
            s.of.row.dead.to_string(),
            breaker(s.of.breaker, now),
            or_none(because(&s.of.row)),
        ]
    });
    print::stdout(|out| print::table(out, header, rows))
}

/// Why it is not told, else why what waits does, else why what is dead was given up.
fn because(row: &SinkRow) -> Option<String> {
    let dead = || row.dead_because().map(|why| format!("dead: {why}"));
    row.paused.clone().or_else(|| row.reason.clone()).or_else(dead)
}

/// `-` while it is closed, or where no daemon says.
fn breaker(open: Option<Breaker>, now: Time) -> String {
    or_none(open.map(|open| {
        let since = age(Some(open.open_since), now);
        match open.probe_at {
            Some(at) => format!("open {since}, probe in {}s", at.ms_since(now).div_ceil(1000)),
            None => format!("open {since}, nothing waits"),
        }
    }))
}

/// That a name which was given is one of these.
fn known(what: &str, name: Option<&str>, names: &[&str]) -> Result<(), Failure> {
    match name.filter(|name| !names.contains(name)) {
        Some(name) => Err(Failure::Failed(no_such(what, name, names))),
        None => Ok(()),
    }
}

/// Pauses a sink, with a reason, or lets it go on.
async fn hold(context: &Context<'_>, config: &Config, name: &str, reason: Option<String>) -> Result<(), Failure> {
    if !config.is_partial {
        known("sink", Some(name), &config.sinks.iter().map(|s| s.name.as_str()).collect::<Vec<_>>())?;
    }
    let word = if reason.is_some() { "pause" } else { "resume" };
    let body = reason.as_ref().map(|reason| json!({ "reason": reason }));
    let asked = Daemon::of(config, context.env)?.post(&format!("/api/v1/sinks/{name}/{word}"), body.as_ref()).await?;
    let done = if reason.is_some() { "paused" } else { "resumed" };
    if asked.is_none() {
        let store = open_store(config)?;
        store.pause(name.to_owned(), reason).await?;
        store.close().await;
    }
    print::stdout(|out| writeln!(out, "{}: {done}", print::plain(name)))
}
