//! `upkeep`: what will be let go of next, and what stays and why. A look only: the daemon does it.

use std::io::{self, Write};

use clap::Args;

use super::reach::{Context, queries};
use super::{Failure, block_on, print};
use crate::app;
use crate::clock;
use crate::options::Span;
use crate::pipeline::upkeep::{Amount, Forecast, Keep, forecast};

#[derive(Args, Debug)]
pub(super) struct Upkeep {
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

impl Upkeep {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let config = context.config()?;
        let (keep, store) = (app::keep(&config), queries(&config, context.env)?);
        let seen = block_on(async { Ok(forecast(&*store, &keep, clock::now()).await?) })?;
        print::stdout(|out| if self.json { print::json_line(out, &seen) } else { show(out, &seen, &keep) })
    }
}

/// More than any disk has: nobody said how much the store may take.
const NO_BOUND: u64 = 1 << 58;

/// Why an execution stays.
const REASONS: [(&str, &str); 5] = [
    ("unfinished", "not finished"),
    ("undelivered", "somebody is still to be told"),
    ("dead", "a dead letter: retry or discard it"),
    ("held", "a callback waits for its vendor's word"),
    ("linked", "linked to one that has to stay"),
];

fn show(out: &mut dyn Write, seen: &Forecast, keep: &Keep) -> io::Result<()> {
    let row = |what: &str, Amount { executions, receipts, bytes }: Amount| {
        [what.to_owned(), executions.to_string(), receipts.to_string(), print::size(bytes)]
    };
    let mut rows = vec![
        row(&format!("now: older than {}", Span(keep.age)), seen.by_age),
        row("now: the oldest, for store.disk_max", seen.by_disk),
        row("within a day, by age", seen.within_a_day),
        row("within a week, by age", seen.within_a_week),
    ];
    rows.push(row("may go when it is old", seen.later));
    print::table(out, ["what goes", "executions", "receipts", "size"], rows)?;
    let stay = REASONS.iter().filter_map(|(word, why)| Some([seen.stay.get(*word)?.to_string(), (*why).to_owned()]));
    print::section(out, "Executions that stay", ["executions", "because"], stay.collect())?;
    let alone = seen.receipts_alone.iter().map(|(status, count)| {
        let stays = matches!(status.as_str(), "quarantined" | "held");
        [count.to_string(), status.clone(), if stays { "stay" } else { "go by their age" }.to_owned()]
    });
    print::section(out, "Receipts of no execution", ["receipts", "status", "what becomes of them"], alone.collect())?;
    let held = print::size(seen.bytes_held);
    match seen.bytes_max {
        NO_BOUND.. => writeln!(out, "\nthe store holds {held}")?,
        most => writeln!(out, "\nthe store holds {held} of at most {}", print::size(most))?,
    }
    if seen.bytes_over > 0 {
        writeln!(
            out,
            "{} more would have to go, and must stay: store.disk_max cannot be met",
            print::size(seen.bytes_over)
        )?;
    }
    match &seen.export {
        Some(folder) => writeln!(out, "what goes is written to {} first", print::plain(&folder.display().to_string())),
        None => writeln!(out, "what goes is gone: store.export is not set"),
    }
}
