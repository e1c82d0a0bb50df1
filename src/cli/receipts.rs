//! `receipts`: what was received, byte for byte, and another try for what was not understood, or not
//! confirmed.

use std::io::{self, Write};

use clap::Subcommand;
use clap::builder::PossibleValuesParser;

use super::list::{Form, Selection, list};
use super::print::{age, cell, complain, fields, json_line, or_none, when};
use super::reach::{Context, Daemon, open_store, queries};
use super::rejudge::Rejudge;
use super::replay::interruptible;
use super::{Failure, block_on, print};
use crate::admin::replayed;
use crate::model::{ReceiptStatus, Time};
use crate::pipeline::Wake;
use crate::pipeline::ingest::Ingest;
use crate::store::ReceiptRow;
use crate::{app, clock};

#[derive(Debug, Subcommand)]
pub(super) enum Receipts {
    /// The newest first
    List {
        /// Only these; may be repeated, or a list with commas
        #[arg(long, value_delimiter = ',',
            value_parser = PossibleValuesParser::new(ReceiptStatus::ALL.map(ReceiptStatus::as_str)))]
        status: Vec<String>,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        form: Form,
    },
    /// One of them
    Show {
        id: i64,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Its body, as it came, to stdout
    Body { id: i64 },
    /// Read quarantined ones again, with what this version understands; believe held or refused ones, without their vendor.
    /// With --diff: change nothing, and show what would be different under another configuration
    Replay {
        /// These; with --diff, all that --since and the other filters mean
        #[arg(value_name = "ID")]
        ids: Vec<i64>,
        #[command(flatten)]
        rejudge: Rejudge,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

impl Receipts {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        block_on(async {
            match self {
                Receipts::List { status, selection, form } => {
                    let (config, now) = (context.places()?, clock::now());
                    let queries = queries(&config, context.env)?;
                    let filter = selection.filter(&status, now);
                    let id = |row: &ReceiptRow| row.id.parse().ok();
                    list(&config, &form, filter, |f| queries.receipts(f), id, HEADER, |r| row(r, now)).await
                }
                Receipts::Show { id, json } => {
                    let (row, _) = context.queries()?.receipt(id).await?;
                    print::stdout(|out| if json { json_line(out, &row) } else { show(out, &row) })
                }
                Receipts::Body { id } => {
                    let (row, body) = context.queries()?.receipt(id).await?;
                    if body.is_empty() && row.body_bytes > 0 {
                        let why = row.bodiless();
                        return Err(Failure::Failed(why));
                    }
                    print::stdout(|out| out.write_all(&body))
                }
                Receipts::Replay { ids, rejudge, json } if rejudge.is_asked() => {
                    interruptible(rejudge.run(context, &ids, json, clock::now())).await
                }
                Receipts::Replay { ids, rejudge, json } => {
                    rejudge.judge_alone(&ids)?;
                    replay(context, &ids, json).await
                }
            }
        })
    }
}

const HEADER: [&str; 8] = ["id", "source", "status", "received", "age", "bytes", "executions", "reason"];

fn row(r: &ReceiptRow, now: Time) -> [String; 8] {
    [
        r.id.clone(),
        r.source.clone(),
        r.status.to_string(),
        when(Some(r.received_at)),
        age(Some(r.received_at), now),
        r.body_bytes.to_string(),
        if r.executions.is_empty() { or_none(None::<String>) } else { r.executions.join(" ") },
        or_none(r.reason.as_ref()),
    ]
}

fn show(out: &mut dyn Write, r: &ReceiptRow) -> io::Result<()> {
    fields(
        out,
        &[
            ("id", r.id.clone()),
            ("source", r.source.clone()),
            ("status", r.status.to_string()),
            ("received", when(Some(r.received_at))),
            ("peer", r.peer.clone()),
            ("reason", or_none(r.reason.as_ref())),
            ("executions", r.executions.join(" ")),
            ("headers", cell(&r.headers)),
            ("bytes", r.body_bytes.to_string()),
            ("sha-256", or_none(r.digest.as_ref())),
        ],
    )
}

/// Replays one receipt after the other; one that cannot be does not stop the next.
async fn replay(context: &Context<'_>, ids: &[i64], json: bool) -> Result<(), Failure> {
    let config = context.places()?;
    let daemon = Daemon::of(&config, context.env)?;
    let mut ours: Option<(Ingest, std::sync::Arc<dyn crate::store::Store>)> = None;
    let mut failed = false;
    for &id in ids {
        let asked = match &ours {
            Some(_) => Ok(None),
            None => daemon.post(&format!("/api/v1/receipts/{id}/replay"), None).await,
        };
        let replayed = match asked {
            Ok(Some(said)) => Ok(said),
            Ok(None) => {
                if ours.is_none() {
                    // Who reads it again decides who is told of it: that takes all of the configuration.
                    let config = context.config()?;
                    let store = open_store(&config)?;
                    let rules = std::sync::Arc::new(app::rules(&config)?);
                    let intakes = app::sources(&config, context.env)?;
                    ours = Some((Ingest::new(intakes, rules, store.clone(), Wake::default()), store));
                }
                let (ingest, _) = ours.as_ref().expect("just opened");
                ingest.take_again(id, clock::now()).await.map(|recorded| replayed(&recorded)).map_err(Failure::from)
            }
            Err(failure) => Err(failure),
        };
        match replayed {
            Ok(said) => {
                print::stdout(|out| {
                    if json {
                        return json_line(out, &said);
                    }
                    writeln!(out, "receipt {id}: {}", print::plain(&cell(&said["outcome"])))
                })?;
                if said["outcome"] == "quarantined" {
                    failed = true;
                    let (row, _) = queries(&config, context.env)?.receipt(id).await?;
                    complain(&format!("error: receipt {id} is still not understood: {}", or_none(row.reason)));
                }
            }
            Err(Failure::Failed(why)) => {
                failed = true;
                complain(&format!("error: receipt {id}: {why}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    if let Some((_, store)) = ours {
        store.close().await;
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}
