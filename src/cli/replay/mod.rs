//! `replay`: fixtures, posted as their senders would, and whether they become what they must.
//!
//! Without `--to`, a whole daemon runs in this process on a loopback port: with a temporary store, or with what
//! `--config` says. With `--to`, a daemon elsewhere is posted to, and its answers are all that is compared.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::print::{self, cell};
use super::reach::Context;
use super::{Failure, block_on, block_on_all_cores, deliveries, executions};
use crate::app::Running;
use crate::clock;
use crate::config::Config;
use crate::model::ReceiptStatus;
use crate::store::{DeliveryRow, Filter, Store, StoreError};

mod expect;
pub(super) mod fixture;
mod post;
pub(super) mod stage;

use expect::{Difference, Expected};
use fixture::Fixture;
use post::{Posted, Senders, Target};

#[derive(Args, Debug)]
pub(super) struct Replay {
    /// Fixtures, or folders of them: KIND/NAME.xml or .json, NAME.headers, NAME.expect.json
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Post to this daemon, with the credentials in --config, instead of to one in this process
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    to: Option<Target>,
}

/// A fixture that was posted, and where it differs from what it expects.
struct Played<'a> {
    fixture: &'a Fixture,
    posted: Posted,
    differences: Vec<Difference>,
}

impl Replay {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let fixtures = fixture::find(&self.paths).map_err(Failure::Failed)?;
        match self.to {
            None => {
                // Outlives the daemon that works in it.
                let folder = match &context.file {
                    Some(_) => None,
                    None => Some(stage::Folder::new(context.env)?),
                };
                let mut config = match &folder {
                    Some(folder) => Config::from_toml(&stage::own_config(folder.path()), context.env)?,
                    None => context.config()?,
                };
                stage::on_loopback(&mut config);
                if folder.is_none() {
                    stage::print_changes(&mut config);
                }
                block_on_all_cores(here(context, config, &fixtures))
            }
            Some(to) => {
                if context.file.is_none() {
                    return Err(Failure::Usage("--to needs --config, which holds the credentials".to_owned()));
                }
                let senders = Senders::of(&context.config()?, context.env)?;
                block_on(interruptible(elsewhere(&senders, &to, &fixtures)))
            }
        }
    }
}

/// Who is interrupted, told to end, or left by its terminal, cleans up like anybody else.
pub(super) async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let told = |kind| signal(kind).map_err(|e| Failure::Failed(format!("signals cannot be heard: {e}")));
    let (mut interrupt, mut end) = (told(SignalKind::interrupt())?, told(SignalKind::terminate())?);
    let mut hangup = told(SignalKind::hangup())?;
    let said = tokio::select! {
        ended = work => return ended,
        _ = interrupt.recv() => "interrupted",
        _ = end.recv() => "told to end",
        _ = hangup.recv() => "the terminal has gone",
    };
    Err(Failure::Failed(said.to_owned()))
}

/// Posts to a daemon elsewhere.
async fn elsewhere(senders: &Senders, to: &Target, fixtures: &[Fixture]) -> Result<(), Failure> {
    let played = play(senders, to, fixtures).await?;
    print::stdout(|out| {
        print_fixtures(out, &played)?;
        print_differences(out, &played)
    })?;
    verdict(&played)
}

/// Posts to a daemon in this process, waits until everybody was told, and looks at what it holds.
async fn here(context: &Context<'_>, config: Config, fixtures: &[Fixture]) -> Result<(), Failure> {
    let senders = Senders::of(&config, context.env)?;
    let running = Running::start(&config, config.adapters(context.env)?).await?;
    let played = interruptible(watch(&senders, &running, fixtures)).await;
    running.stop().await;
    verdict(&played?)
}

async fn watch<'a>(senders: &Senders, running: &Running, fixtures: &'a [Fixture]) -> Result<Vec<Played<'a>>, Failure> {
    let to = Target::Base(format!("http://{}", running.address()));
    let mut played = play(senders, &to, fixtures).await?;
    running.idle().await?;
    let store = running.store();
    for one in &mut played {
        one.await_confirmation(&*store).await?;
    }
    let held = Held::load(&*store, &played).await?;
    for one in &mut played {
        let source = &senders.of_kind(one.fixture.kind)?.name;
        one.compare_reason(&*store, source).await?;
        one.compare_executions(&*store, &held, source).await?;
    }
    print::stdout(|out| {
        print_fixtures(out, &played)?;
        held.print(out)?;
        print_differences(out, &played)
    })?;
    Ok(played)
}

/// Posts one after the other: what is a repeat depends on what came before.
async fn play<'a>(senders: &Senders, to: &Target, fixtures: &'a [Fixture]) -> Result<Vec<Played<'a>>, Failure> {
    let mut played = Vec::with_capacity(fixtures.len());
    for fixture in fixtures {
        let posted = senders.post(fixture, to).await?;
        let differences = answer_differences(fixture, &posted);
        played.push(Played { fixture, posted, differences });
    }
    Ok(played)
}

/// How the answer differs from what the fixture expects, or from 2xx where it expects nothing.
fn answer_differences(fixture: &Fixture, posted: &Posted) -> Vec<Difference> {
    let got = || match (&posted.outcome, &posted.detail) {
        (Some(outcome), _) => format!("{} {outcome}", posted.status),
        (None, Some(detail)) => format!("{} {detail}", posted.status),
        (None, None) => posted.status.to_string(),
    };
    let Some(expect) = &fixture.expect else {
        return if posted.is_2xx() { vec![] } else { vec![Difference::new("answer", "2xx", got())] };
    };
    let kept = posted.is_2xx() || (posted.status == 422 && expect.outcome == ReceiptStatus::Quarantined);
    if kept && posted.outcome == Some(expect.outcome) {
        return vec![];
    }
    vec![Difference::new("outcome", expect.outcome, got())]
}

impl Played<'_> {
    /// Takes what became of a receipt that was held for what its sender was told.
    async fn await_confirmation(&mut self, store: &dyn Store) -> Result<(), Failure> {
        if let (Some(ReceiptStatus::Held), Some(id)) = (self.posted.outcome, self.posted.receipt) {
            let (row, _) = store.receipt(id).await?;
            (self.posted.outcome, self.posted.executions) = (Some(row.status), row.executions);
            self.differences = answer_differences(self.fixture, &self.posted);
        }
        Ok(())
    }

    /// Compares why it was quarantined or is a conflict.
    async fn compare_reason(&mut self, store: &dyn Store, source: &str) -> Result<(), Failure> {
        let Some(part) = self.fixture.expect.as_ref().and_then(|e| e.reason.as_deref()) else { return Ok(()) };
        let reason = match self.posted.receipt {
            Some(id) => store.receipt(id).await?.0.reason,
            // An answer that is a problem need not name its receipt, but says the same.
            None => self.posted.detail.clone(),
        };
        let reason = reason.unwrap_or_default();
        if !reason.contains(part) {
            let at = format!("reason (source {source})");
            self.differences.push(Difference::new(&at, format!("…{part}…"), reason));
        }
        Ok(())
    }

    /// Compares its executions as they are now.
    async fn compare_executions(&mut self, store: &dyn Store, held: &Held, source: &str) -> Result<(), Failure> {
        let Some(expected) = self.fixture.expect.as_ref().and_then(|e| e.executions.as_ref()) else { return Ok(()) };
        let (wanted, got) = (expected.len(), self.posted.executions.len());
        if wanted != got {
            let count = |n| format!("{n} executions");
            self.differences.push(Difference::new("executions", count(wanted), count(got)));
        }
        for (i, expected) in expected.iter().enumerate() {
            let path = format!("executions[{i}]");
            match held.find(store, source, expected).await? {
                Some(got) => self.differences.extend(expected.differences(&path, &got)),
                None => {
                    let key = expected.key().unwrap_or_default();
                    self.differences.push(Difference::new(&path, format!("an execution {key}"), "none"));
                }
            }
        }
        Ok(())
    }
}

/// What the store holds of the executions that the fixtures speak of.
struct Held {
    executions: Vec<Value>,
    deliveries: Vec<DeliveryRow>,
}

impl Held {
    async fn load(store: &dyn Store, played: &[Played<'_>]) -> Result<Held, Failure> {
        let mut ids: Vec<&String> = Vec::new();
        for id in played.iter().flat_map(|p| &p.posted.executions) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mut held = Held { executions: Vec::new(), deliveries: Vec::new() };
        for id in ids {
            held.executions.push(store.execution(id.clone()).await?);
            let filter = Filter { execution: id.parse().ok(), ..Filter::default() };
            let mut newest_first = store.deliveries(filter).await?;
            newest_first.reverse();
            held.deliveries.append(&mut newest_first);
        }
        Ok(held)
    }

    /// The execution of that source and key.
    async fn find(&self, store: &dyn Store, source: &str, wanted: &Expected) -> Result<Option<Value>, Failure> {
        let Some(key) = wanted.key() else { return Ok(None) };
        let is_it = |e: &Value| e["execution"]["source"] == source && e["execution"]["key"] == key;
        if let Some(found) = self.executions.iter().find(|e| is_it(e)) {
            return Ok(Some(found.clone()));
        }
        match store.execution(key.to_owned()).await {
            Ok(found) => Ok(Some(found).filter(is_it)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let now = clock::now();
        let rows = self.executions.iter().map(|e| executions::row(&e["execution"], now));
        print::section(out, "Executions", executions::HEADER, rows.collect())?;
        let rows = self.executions.iter().flat_map(|e| {
            executions::members(e, "tasks").iter().map(|task| {
                let [key, name, kind, status, _, started, finished, error] = executions::task_row(task);
                [cell(&e["execution"]["key"]), key, name, kind, status, started, finished, error]
            })
        });
        let header = ["execution", "task", "name", "type", "status", "started", "finished", "error"];
        print::section(out, "Tasks", header, rows.collect())?;
        let rows = self.deliveries.iter().map(|d| deliveries::row(d, now));
        print::section(out, "Deliveries", deliveries::HEADER, rows.collect())
    }
}

fn print_fixtures(out: &mut dyn Write, played: &[Played<'_>]) -> io::Result<()> {
    let rows = played.iter().map(|p| {
        [
            p.fixture.path.display().to_string(),
            p.posted.status.to_string(),
            print::or_none(p.posted.outcome),
            match (&p.fixture.expect, p.differences.is_empty()) {
                (Some(_), true) => "as expected".to_owned(),
                (None, true) => "nothing expected".to_owned(),
                (_, false) => "DIFFERS".to_owned(),
            },
        ]
    });
    print::section(out, "Fixtures", ["fixture", "answer", "outcome", "result"], rows.collect())
}

fn print_differences(out: &mut dyn Write, played: &[Played<'_>]) -> io::Result<()> {
    for one in played.iter().filter(|p| !p.differences.is_empty()) {
        writeln!(out, "\n{}", print::plain(&one.fixture.path.to_string_lossy()))?;
        for d in &one.differences {
            let [path, expected, got] = [&d.path, &d.expected, &d.got].map(|text| print::plain(text));
            writeln!(out, "  {path}\n    expected  {expected}\n    got       {got}")?;
        }
    }
    let differ = played.iter().filter(|p| !p.differences.is_empty()).count();
    writeln!(out, "\n{} fixtures, {differ} differ", played.len())
}

fn verdict(played: &[Played<'_>]) -> Result<(), Failure> {
    if played.iter().all(|p| p.differences.is_empty()) { Ok(()) } else { Err(Failure::Told) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expected_quarantine_is_right_and_an_unexpected_one_is_not() {
        let cases = [
            (None, 200, Some("accepted"), true),
            (None, 422, Some("quarantined"), false),
            (None, 503, None, false),
            (Some("accepted"), 200, Some("accepted"), true),
            (Some("accepted"), 200, Some("duplicate"), false),
            (Some("accepted"), 401, None, false),
            (Some("quarantined"), 200, Some("quarantined"), true),
            (Some("quarantined"), 422, Some("quarantined"), true),
            (Some("duplicate"), 422, Some("quarantined"), false),
        ];
        for (expected, status, outcome, right) in cases {
            let expect = expected.map(|e| serde_json::from_value(json!({ "outcome": e })).expect("an expectation"));
            let fixture = Fixture { path: "a.xml".into(), kind: "k", headers: http::HeaderMap::new(), expect };
            let outcome = outcome.map(|o| o.parse().expect("a status"));
            let posted = Posted { status, outcome, receipt: None, executions: vec![], detail: None };
            let differences = answer_differences(&fixture, &posted);
            assert_eq!(differences.is_empty(), right, "{expected:?} {status} {differences:?}");
        }
    }
}
