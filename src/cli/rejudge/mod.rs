//! `receipts replay --diff`: stored receipts, judged again by the configuration that holds and by another one, and where
//! the two differ. Nothing is stored in the store, nothing is sent, nobody is asked.
//!
//! Both get a store of their own in a temporary folder, and are told all receipts that matter in the order in which they
//! came: those that are asked for, and before them what came earlier of the executions they speak of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use serde_json::{Value, json};

use super::list::Selection;
use super::print::{cell, json_line, plain, when};
use super::reach::{Context, queries};
use super::replay::stage::Folder;
use super::{Failure, print};
use crate::config::Config;
use crate::model::{ReceiptStatus, Time};
use crate::store::{Filter, Queries, ReceiptRow};

mod differ;
mod judge;

use differ::{Difference, differences};
use judge::Judge;

/// Which receipts, and by what they are judged.
#[derive(Args, Clone, Debug)]
pub(super) struct Rejudge {
    /// Judge again without changing anything, by --config and by what holds now, and show where the two differ; exit code 1
    /// when they do
    #[arg(long)]
    diff: bool,
    /// With --diff: the configuration that holds now, whose store is read; default: /etc/callbackd/callbackd.toml
    #[arg(long, value_name = "FILE", requires = "diff")]
    against: Option<PathBuf>,
    /// With --diff: only these; may be repeated, or a list with commas
    #[arg(long, value_delimiter = ',', requires = "diff",
        value_parser = PossibleValuesParser::new(ReceiptStatus::ALL.map(ReceiptStatus::as_str)))]
    status: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

/// A value is shown so far.
const CHARS_MAX: usize = 200;

/// Rows of the store read at a time.
const PAGE: u64 = 1000;

/// What was found.
#[derive(Default, Serialize)]
struct Summary {
    /// Judged, of those that were asked for.
    receipts: usize,
    /// Judged before them, because their executions began so.
    earlier: usize,
    /// Repeats, whose bytes are not kept again.
    left_out: usize,
    differ: usize,
    /// How many differ in what.
    kinds: BTreeMap<&'static str, usize>,
}

impl Rejudge {
    /// Whether nothing is to be changed.
    pub(super) fn is_asked(&self) -> bool {
        self.diff
    }

    /// What fits only beside `--diff`, where it stands alone.
    pub(super) fn judge_alone(&self, ids: &[i64]) -> Result<(), Failure> {
        let Selection { source, sink, since } = &self.selection;
        let text = if source.is_some() || sink.is_some() || since.is_some() {
            "--since, --source and --sink choose what --diff shows; to record receipts again, name them by their ids"
        } else if ids.is_empty() {
            "name the receipts to record again by their ids, or say --diff and which ones to compare (--since 2h)"
        } else {
            return Ok(());
        };
        Err(Failure::Usage(text.to_owned()))
    }

    pub(super) async fn run(&self, context: &Context<'_>, ids: &[i64], json: bool, now: Time) -> Result<(), Failure> {
        let new = context.config()?;
        let held = match &self.against {
            Some(file) => Config::load(Some(file), context.env)?,
            None => Context { file: None, env: context.env }.config().map_err(|failure| match failure {
                Failure::Config(why) => Failure::Config(format!(
                    "{why}\nwhat holds now is compared with: write --against FILE where it is no default"
                )),
                other => other,
            })?,
        };
        let store = queries(&held, context.env)?;
        let wanted = self.wanted(&*store, ids, now).await?;
        let folder = Folder::new(context.env)?;
        let before = Judge::new(&held, context.env, &folder.path().join("before.db"))?;
        let after = Judge::new(&new, context.env, &folder.path().join("after.db"))?;
        let compared = compare(&*store, &wanted, [before, after], json).await?;
        let Summary { receipts, earlier, left_out, differ, kinds } = &compared;
        print::stdout(|out| {
            if json {
                return json_line(out, &json!({ "summary": compared }));
            }
            let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} in {kind}")).collect();
            let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
            writeln!(out, "{receipts} receipts judged again, {differ} differ{kinds}")?;
            if *earlier > 0 {
                writeln!(out, "{earlier} more were judged before them, that their executions begin with")?;
            }
            match left_out {
                0 => Ok(()),
                count => writeln!(out, "{count} repeats were left out: their bytes are not kept again"),
            }
        })?;
        if *differ > 0 { Err(Failure::Told) } else { Ok(()) }
    }

    /// The ids of what is asked for.
    async fn wanted(&self, store: &dyn Queries, ids: &[i64], now: Time) -> Result<BTreeSet<i64>, Failure> {
        if !ids.is_empty() {
            return Ok(ids.iter().copied().collect());
        }
        let mut wanted = BTreeSet::new();
        let mut filter = Filter { limit: Some(PAGE), ..self.selection.filter(&self.status, now) };
        loop {
            let rows = store.receipts(filter.clone()).await?;
            wanted.extend(rows.iter().filter_map(|row| row.id.parse::<i64>().ok()));
            filter.before = rows.last().and_then(|row| row.id.parse().ok());
            if (rows.len() as u64) < PAGE {
                return Ok(wanted);
            }
        }
    }
}

/// Judges all of `wanted`, and what came before, and prints where it differs.
async fn compare(
    store: &dyn Queries,
    wanted: &BTreeSet<i64>,
    mut judges: [Judge; 2],
    json: bool,
) -> Result<Summary, Failure> {
    let mut summary = Summary::default();
    let all = with_what_came_before(store, wanted, &judges).await?;
    let mut kept = HashMap::new();
    for &id in &all {
        let (row, body) = store.receipt(id).await?;
        if body.is_empty() && row.body_bytes > 0 {
            summary.left_out += usize::from(wanted.contains(&id));
            continue;
        }
        for judge in &mut judges {
            judge.take(id, &row, &body).await?;
        }
        kept.insert(id, row.status);
        match wanted.contains(&id) {
            true => summary.receipts += 1,
            false => summary.earlier += 1,
        }
    }
    let [before, after] = &mut judges;
    for &id in wanted {
        let (Some(old), Some(new)) = (before.meaning(id).await?, after.meaning(id).await?) else { continue };
        let mut found = differences(&old, &new);
        found.extend(kept.get(&id).and_then(|status| by_version(*status, &old)));
        if found.is_empty() {
            continue;
        }
        summary.differ += 1;
        for kind in found.iter().map(|one| one.kind).collect::<BTreeSet<_>>() {
            *summary.kinds.entry(kind).or_default() += 1;
        }
        let (row, _) = store.receipt(id).await?;
        print::stdout(|out| if json { json_line(out, &told(&row, &found)) } else { show(out, &row, &found) })?;
    }
    for judge in judges {
        judge.close().await;
    }
    Ok(summary)
}

/// What was not understood when it came, and is now, or the other way round, whatever is configured.
fn by_version(kept: ReceiptStatus, judged: &Value) -> Option<Difference> {
    let quarantined = ReceiptStatus::Quarantined.as_str();
    let differs = (kept.as_str() == quarantined) != (judged["outcome"] == quarantined);
    differs.then(|| Difference {
        kind: "version",
        path: "outcome when it came, and now".to_owned(),
        before: json!(kept),
        after: judged["outcome"].clone(),
    })
}

/// Receipts of the executions that `wanted` speak of, by one judge or the other, and of those that these are linked to.
async fn with_what_came_before(
    store: &dyn Queries,
    wanted: &BTreeSet<i64>,
    judges: &[Judge],
) -> Result<BTreeSet<i64>, Failure> {
    let (mut all, mut known) = (wanted.clone(), BTreeSet::new());
    for &id in wanted {
        let (row, body) = store.receipt(id).await?;
        let spoken_of = row.executions.iter().cloned().chain(judges.iter().flat_map(|judge| judge.keys(&row, &body)));
        let mut executions: Vec<(String, bool)> = spoken_of.map(|execution| (execution, true)).collect();
        while let Some((execution, is_spoken_of)) = executions.pop() {
            if !known.insert(execution.clone()) {
                continue;
            }
            let found = match store.execution(execution).await {
                Ok(found) => found,
                Err(crate::store::StoreError::NotFound(_)) => continue,
                Err(e) => return Err(e.into()),
            };
            let text = |value: &Value| value.as_str().map(str::to_owned);
            if let Some(own) = text(&found["execution"]["id"]) {
                known.insert(own);
            }
            let receipts = found["receipts"].as_array().into_iter().flatten();
            let before = receipts.filter_map(|receipt| receipt["id"].as_str()?.parse::<i64>().ok());
            all.extend(before.filter(|before| wanted.last().is_some_and(|last| before <= last)));
            if is_spoken_of {
                let links = found["execution"]["links"].as_array().into_iter().flatten();
                executions.extend(links.filter_map(|link| Some((text(&link["execution"])?, false))));
            }
        }
    }
    Ok(all)
}

fn told(row: &ReceiptRow, found: &[Difference]) -> Value {
    json!({ "id": row.id, "source": row.source, "received_at": row.received_at, "status": row.status, "differences": found })
}

fn show(out: &mut dyn Write, row: &ReceiptRow, found: &[Difference]) -> io::Result<()> {
    let head = format!("receipt {} of {}, {}, kept as {}", row.id, row.source, when(Some(row.received_at)), row.status);
    writeln!(out, "{}", plain(&head))?;
    for one in found {
        let line = format!("  {}: {} → {}", one.path, short(&one.before), short(&one.after));
        writeln!(out, "{}", plain(&line))?;
    }
    writeln!(out)
}

/// A request that is made by only one of the two is told by where it goes; `--json` has all of it.
fn short(value: &Value) -> String {
    let called: Option<Vec<&str>> =
        value.as_array().map(|all| all.iter().filter_map(|one| one.get("action")?.as_str()).collect());
    let text = match called {
        Some(actions) if !actions.is_empty() => actions.join(", "),
        _ => cell(value),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
