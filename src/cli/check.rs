//! `check`: is this configuration good? All faults at once, each where it is; with `--probe` also whether the sinks'
//! credentials are.

use std::time::Duration;

use clap::Args;

use super::reach::Context;
use super::{Failure, block_on, print};
use crate::config;
use crate::sinks::{NOT_TRIED, Sink};

/// A peer that is there answers its probe within this time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(super) struct Check {
    /// Also try each sink's credentials, without changing anything there
    #[arg(long)]
    probe: bool,
}

impl Check {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<(), Failure> {
        let config::Report { config, adapters } = config::check(Some(context.file()), context.env)?;
        for warning in &adapters.warnings {
            print::complain(&format!("warning: {warning}"));
        }
        #[cfg(feature = "postgres")]
        if config.store.is_postgres() {
            let file = context.file().display();
            crate::app::address(&config, None).map_err(|why| Failure::Config(format!("{file}: {why}")))?;
        }
        let (sources, sinks) = (config.sources.len(), config.sinks.len());
        let (routes, links) = (config.routes.len(), config.links.len());
        let file = context.file().display();
        print::stdout(|out| {
            writeln!(out, "ok: {file}: sources {sources}, sinks {sinks}, routes {routes}, links {links}")
        })?;
        if !self.probe {
            return Ok(());
        }
        block_on(probe(config.sinks.iter().map(|s| &*s.name).zip(adapters.sinks)))
    }
}

async fn probe(sinks: impl Iterator<Item = (&str, Box<dyn Sink>)>) -> Result<(), Failure> {
    let mut failed = false;
    for (name, sink) in sinks {
        let found = tokio::time::timeout(PROBE_TIMEOUT, sink.probe()).await;
        let found = found.unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())));
        let word = match &found {
            Ok(text) if text == NOT_TRIED => "not tried",
            Ok(_) => "ok",
            Err(_) => "failed",
        };
        failed |= found.is_err();
        let (Ok(text) | Err(text)) = &found;
        print::stdout(|out| writeln!(out, "{word}: sinks.{name}: {}", print::plain(text)))?;
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}
