//! `backup`: a consistent copy of the store, made while the daemon works, and looked at before it has its name.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::progress::Progress;
use super::reach::{Context, store_path};
use super::{Failure, print};
use crate::store::sqlite::Survey;

#[derive(Args, Debug)]
pub(super) struct Backup {
    /// Where to; beside it there has to be room for the whole store
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
    /// What was copied, as a JSON object
    #[arg(long)]
    json: bool,
}

impl Backup {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<(), Failure> {
        let config = context.places()?;
        if config.store.is_postgres() {
            return Err(Failure::Failed(
                "a PostgreSQL is backed up by its own tools: pg_dump, pg_basebackup".to_owned(),
            ));
        }
        let path = store_path(&config)?;
        // The log beside it is as much of it as the file: what replaces either ends the store.
        let is_of_store = |end: &&str| {
            let mut own = path.as_os_str().to_owned();
            own.push(end);
            let own = Path::new(&own).canonicalize();
            own.is_ok_and(|own| self.file.canonicalize().is_ok_and(|file| file == own))
        };
        if ["", "-wal", "-shm"].iter().any(is_of_store) {
            return Err(Failure::Usage("this is the store itself; name another file".to_owned()));
        }
        let survey = Survey::open(path)?;
        let mut progress = Progress::of("copying");
        let copied = survey.copy(&self.file, self.force, |done, pages| progress.at(done, pages));
        drop(progress);
        let copied = copied?;
        let of = copied.contents;
        print::stdout(|out| match self.json {
            true => print::json_line(
                out,
                &json!({
                    "file": self.file, "bytes": copied.bytes, "executions": of.executions,
                    "receipts": of.receipts, "deliveries": of.deliveries,
                }),
            ),
            false => writeln!(
                out,
                "{}: {}, checked: executions {}, receipts {}, deliveries {}",
                print::plain(&self.file.display().to_string()),
                print::size(copied.bytes),
                of.executions,
                of.receipts,
                of.deliveries
            ),
        })
    }
}
