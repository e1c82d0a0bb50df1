//! `move`: a store becomes another one, in a file or in PostgreSQL, while the daemon works for as long as it can.
//!
//! It copies beside the daemon, waits until nobody uses the store any more, compares everything, and marks the store as
//! moved. Killed at any time, it goes on when it is run again.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::progress::Progress;
use super::reach::Context;
use super::{Failure, block_on, print};
use crate::admin::judgement::shell;
use crate::store::moving::{Begun, Move, Opened, Other, Tally};
use crate::store::sqlite::portable;

/// So often it is looked whether the store is still used.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(super) struct Moving {
    /// The store as it is: sqlite:FILE or postgres://…
    #[arg(long, value_name = "URL")]
    from: String,
    /// The store to be: a new one, or one that was moved to the first; with --undo, where the first went, if it is reached
    /// otherwise now
    #[arg(long, value_name = "URL", required_unless_present = "undo")]
    to: Option<String>,
    /// Only compare the two, row by row; nothing is written
    #[arg(long, conflicts_with = "undo")]
    verify: bool,
    /// Let a store that was moved be used again, without what the other has taken since; that one is not used any more
    #[arg(long)]
    undo: bool,
    /// With --undo: the other store is gone for good, and must never be used again
    #[arg(long, requires = "undo", conflicts_with = "to")]
    gone: bool,
    /// What was moved, as a JSON object
    #[arg(long)]
    json: bool,
}

/// What a store is opened for.
#[derive(Clone, Copy)]
enum For {
    Reading,
    Filling,
}

impl Moving {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<(), Failure> {
        block_on(async {
            match &self.to {
                _ if self.undo => self.undo(context).await,
                None => Err(Failure::Usage("--to is missing".to_owned())),
                Some(to) => {
                    let from = opened(&self.from, For::Reading, context).await?;
                    let purpose = if self.verify { For::Reading } else { For::Filling };
                    let to = opened(to, purpose, context).await?;
                    let stores = Move::of(from, to);
                    if self.verify { self.verify(stores).await } else { self.copy(stores).await }
                }
            }
        })
    }

    async fn undo(&self, context: &Context<'_>) -> Result<(), Failure> {
        let mut store = opened(&self.from, For::Reading, context).await?;
        let place = print::plain(store.place()).into_owned();
        let other = match store.went().await? {
            Some(went) => Some(self.other(&place, &went, context).await?),
            None => None,
        };
        let is_gone = matches!(other, Some(Other::Gone));
        let undone = store.undo(other).await?;
        let went = print::plain(&undone.went);
        print::stdout(|out| match (is_gone, undone.was_under_way) {
            (true, _) => writeln!(
                out,
                "{place} may be used again; what {went} has taken since is not in it, and nothing keeps a callbackd from using \
                 that one: see that none ever does"
            ),
            (false, true) => writeln!(out, "{place} may be used again; {went} is not whole, and can be deleted"),
            (false, false) => writeln!(
                out,
                "{place} may be used again; what {went} has taken since is not in it, and no callbackd begins on that one any more"
            ),
        })
    }

    /// The store that might be used since.
    async fn other(&self, place: &str, went: &str, context: &Context<'_>) -> Result<Other, Failure> {
        let named = self.to.as_deref().unwrap_or(went);
        match (opened(named, For::Reading, context).await, self.gone) {
            (Ok(_), true) => {
                Err(Failure::Failed(format!("{} is there, and not gone: leave out --gone", print::plain(went))))
            }
            (Ok(other), false) if self.to.is_some() => Ok(Other::Named(other)),
            (Ok(other), false) => Ok(Other::There(other)),
            (Err(_), true) => Ok(Other::Gone),
            (Err(Failure::Failed(why) | Failure::Usage(why)), false) => Err(Failure::Failed(format!(
                "{why}; {place} went to {}, which nobody may use any more when this one is used: name it as it is reached now (`callbackd \
                 move --undo --from {} --to URL`); if it is gone for good, `callbackd move --undo --from {} --gone`",
                print::plain(went),
                shell(place),
                shell(place),
            ))),
            (Err(other), false) => Err(other),
        }
    }

    async fn copy(&self, mut stores: Move) -> Result<(), Failure> {
        let begun = stores.begin().await?;
        if begun == Begun::Again {
            print::complain("note: this move was begun before, and goes on");
        }
        let began = Instant::now();
        let mut progress = Progress::of("copying");
        stores.fill(&mut |done, all| progress.at(done, all)).await?;
        drop(progress);
        let mut is_waiting = false;
        while !stores.hold().await? {
            if !is_waiting {
                let mut progress = Progress::of("comparing");
                stores.sweep(&mut |done, all| progress.at(done, all)).await?;
                drop(progress);
                let (from, _) = stores.places();
                print::complain(&format!(
                    "note: what was there is copied; stop every callbackd that uses {from}, and this goes on by itself"
                ));
            }
            is_waiting = true;
            let mut progress = Progress::of("waiting");
            progress.doing("until nobody uses the store");
            tokio::time::sleep(AGAIN).await;
            stores.catch_up().await?;
        }
        let held = Instant::now();
        let mut progress = Progress::of("comparing");
        let tally = stores.end(&mut |done, all| progress.at(done, all)).await?;
        drop(progress);
        let (from, to) = stores.places();
        self.tell(&tally, from, to, |out| {
            writeln!(
                out,
                "{} was moved to {}: {} rows, each compared, in {} s, the last {} s of it with nobody using it",
                print::plain(from),
                print::plain(to),
                tally.rows(),
                began.elapsed().as_secs(),
                held.elapsed().as_secs()
            )?;
            writeln!(out, "make that the store.url, and start the daemon")
        })
    }

    async fn verify(&self, mut stores: Move) -> Result<(), Failure> {
        let mut progress = Progress::of("comparing");
        let tally = stores.verify(&mut |done, all| progress.at(done, all)).await?;
        drop(progress);
        let (from, to) = stores.places();
        self.tell(&tally, from, to, |out| match &tally.first {
            None => writeln!(out, "{} and {} hold the same", print::plain(from), print::plain(to)),
            Some(first) => {
                let differ: u64 = tally.tables.iter().map(|table| table.differ).sum();
                writeln!(
                    out,
                    "{differ} differ; the first: {} {} of {} {}",
                    first.table,
                    first.id,
                    print::plain(to),
                    first.how
                )
            }
        })?;
        if tally.first.is_some() { Err(Failure::Told) } else { Ok(()) }
    }

    fn tell(
        &self,
        tally: &Tally,
        from: &str,
        to: &str,
        say: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let first = tally.first.as_ref().map(|d| json!({ "table": d.table, "id": d.id.to_string(), "how": d.how }));
        print::stdout(|out| match self.json {
            true => {
                let table = |t: &crate::store::moving::Counted| json!({ "name": t.name, "rows": t.rows, "digest": t.digest, "written": t.written, "differ": t.differ });
                let tables: Vec<_> = tally.tables.iter().map(table).collect();
                print::json_line(out, &json!({ "from": from, "to": to, "tables": tables, "first": first }))
            }
            false => {
                let rows = tally.tables.iter().map(|t| {
                    [t.name.to_owned(), t.rows.to_string(), t.digest.get(..16).unwrap_or_default().to_owned()]
                });
                print::table(out, ["table", "rows", "digest"], rows)?;
                say(out)
            }
        })
    }
}

async fn opened(url: &str, purpose: For, context: &Context<'_>) -> Result<Opened, Failure> {
    if let Some(path) = url.strip_prefix("sqlite:").filter(|path| !path.is_empty()) {
        return Ok(match purpose {
            For::Reading => portable::to_read(Path::new(path))?,
            For::Filling => portable::to_fill(Path::new(path))?,
        });
    }
    if !["postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme)) {
        // What is no address could hold a password all the same.
        return Err(Failure::Usage("a store is sqlite:FILE or postgres://…".to_owned()));
    }
    in_postgres(url, purpose, context).await
}

#[cfg(not(feature = "postgres"))]
async fn in_postgres(_: &str, _: For, _: &Context<'_>) -> Result<Opened, Failure> {
    Err(Failure::Failed(
        "PostgreSQL is not built into this callbackd: build it with `--features postgres`, or write a file like \
         \"sqlite:callbackd.db\""
            .to_owned(),
    ))
}

#[cfg(feature = "postgres")]
async fn in_postgres(url: &str, purpose: For, context: &Context<'_>) -> Result<Opened, Failure> {
    use crate::store::postgres::Address;
    use crate::store::postgres::portable::{to_fill, to_read};
    // The address may hold all that is needed: then there need not be a configuration.
    let config = match context.file.is_some() || context.file().exists() {
        true => Some(context.places()?),
        false => None,
    };
    let password = config.as_ref().map(|config| super::reach::password(config, context.env)).transpose()?.flatten();
    let ca_file = config.as_ref().and_then(|config| config.store.ca_file.as_deref());
    let may_lose = config.as_ref().is_some_and(|config| config.store.may_lose);
    let address = Address::parse(url, password.as_ref().map(crate::secret::Secret::expose), ca_file);
    let address = address.map_err(|why| Failure::Usage(format!("the address {why}")))?;
    Ok(match purpose {
        For::Reading => to_read(address).await?,
        For::Filling => to_fill(address, may_lose.into()).await?,
    })
}
