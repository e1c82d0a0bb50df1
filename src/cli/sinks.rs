//! `sinks`: the systems that must know, how far behind they are, and a way to hold one.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::list::{Form, Selection};
use super::print::{age, or_none};
use super::reach::{Context, Daemon, open_store, queries};
use super::{Failure, block_on, print};
use crate::clock;
use crate::config::{Config, no_such};
use crate::model::Time;
use crate::store::SinkRow;

mod trial;

use trial::Trial;

#[derive(Debug, Subcommand)]
pub(super) enum Sinks {
    /// By name
    List {
        /// Only these; may be repeated, or a list with commas
        #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(["active", "paused"]))]
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
        #[arg(long, default_value = "by an operator")]
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
    row: SinkRow,
}

impl Sinks {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let config = context.config()?;
        if let Sinks::Test(trial) = &self {
            return trial.run(context, &config);
        }
        block_on(async {
            match self {
                Sinks::Test(_) => Ok(()),
                Sinks::List { status, selection, form } => {
                    let rows = queries(&config, context.env)?.sinks().await?;
                    let now = clock::now();
                    let mut listed = merge(&config, rows);
                    let names: Vec<_> = listed.iter().map(|s| s.row.name.as_str()).collect();
                    known("source", selection.source.as_deref(), &config.origins())?;
                    known("sink", selection.sink.as_deref(), &names)?;
                    listed.retain(|s| means(&config, &status, &selection, now, s));
                    show(listed, &form, now)
                }
                Sinks::Pause { sink, reason } => hold(context, &config, &sink.name, Some(reason)).await,
                Sinks::Resume { sink } => hold(context, &config, &sink.name, None).await,
            }
        })
    }
}

/// Every sink that the configuration or the store knows, by name.
fn merge(config: &Config, mut rows: Vec<SinkRow>) -> Vec<Listed> {
    for sink in &config.sinks {
        if !rows.iter().any(|row| row.name == sink.name) {
            let name = sink.name.clone();
            rows.push(SinkRow { name, paused: None, backlog: 0, oldest: None, reason: None, dead: 0 });
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let kind = |name: &str| config.sinks.iter().find(|s| s.name == name).map(|s| s.kind.clone());
    rows.into_iter()
        .map(|row| Listed {
            status: if row.paused.is_some() { "paused" } else { "active" },
            kind: kind(&row.name),
            row,
        })
        .collect()
}

fn means(config: &Config, status: &[String], selection: &Selection, now: Time, sink: &Listed) -> bool {
    let name = &sink.row.name;
    let joined = |source: &String| config.routes.iter().any(|r| r.from.contains(source) && r.to.contains(name));
    (status.is_empty() || status.iter().any(|s| s == sink.status))
        && selection.sink.as_ref().is_none_or(|s| s == name)
        && selection.source.as_ref().is_none_or(joined)
        && selection.since.is_none_or(|since| sink.row.oldest.is_some_and(|oldest| oldest >= since.at(now)))
}

fn show(mut sinks: Vec<Listed>, form: &Form, now: Time) -> Result<(), Failure> {
    if let Some(limit) = form.limit {
        sinks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if form.json {
        return print::stdout(|out| sinks.iter().try_for_each(|s| print::json_line(out, s)));
    }
    let header = ["name", "kind", "status", "backlog", "oldest", "dead", "reason"];
    let rows = sinks.iter().map(|s| {
        [
            s.row.name.clone(),
            s.kind.clone().unwrap_or_else(|| "(not configured)".to_owned()),
            s.status.to_owned(),
            s.row.backlog.to_string(),
            age(s.row.oldest, now),
            s.row.dead.to_string(),
            or_none(s.row.paused.as_ref().or(s.row.reason.as_ref())),
        ]
    });
    print::stdout(|out| print::table(out, header, rows))
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
    known("sink", Some(name), &config.sinks.iter().map(|s| s.name.as_str()).collect::<Vec<_>>())?;
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
