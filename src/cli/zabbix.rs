//! `zabbix apply`: creates or updates at Zabbix what the sinks of that kind need there.

use clap::{Args, Subcommand};

use super::reach::Context;
use super::{Failure, block_on, print};
use crate::clock;
use crate::config::{Config, SinkEntry};
use crate::sinks::zabbix;

#[derive(Debug, Subcommand)]
pub(super) enum Zabbix {
    /// Create or update host group, host, item, trigger and actions; a second time nothing is to be done
    Apply(Apply),
}

#[derive(Args, Debug)]
pub(super) struct Apply {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Only this one; default: every sink of the kind zabbix
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
}

impl Zabbix {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let Zabbix::Apply(apply) = self;
        let config = context.config()?;
        // All of them are read before the first is applied.
        let mut sinks = Vec::new();
        for sink in apply.chosen(&config)? {
            sinks.push((&*sink.name, config.of_sink(sink, context.env, zabbix::Zabbix::read)?));
        }
        block_on(async {
            let mut failed = false;
            for (name, sink) in sinks {
                failed |= apply.run(name, &sink).await?.is_none();
            }
            if failed { Err(Failure::Told) } else { Ok(()) }
        })
    }
}

impl Apply {
    fn chosen<'c>(&self, config: &'c Config) -> Result<Vec<&'c SinkEntry>, Failure> {
        let all: Vec<&SinkEntry> = config.sinks.iter().filter(|s| s.kind == zabbix::KIND.name).collect();
        let names: Vec<&str> = all.iter().map(|s| &*s.name).collect();
        if all.is_empty() {
            let text = "no sink of kind \"zabbix\" is configured; write a [sinks.NAME] with kind = \"zabbix\"";
            return Err(Failure::Failed(text.to_owned()));
        }
        let Some(name) = &self.sink else { return Ok(all) };
        let chosen: Vec<&SinkEntry> = all.into_iter().filter(|s| s.name == *name).collect();
        if chosen.is_empty() {
            let there = names.join(", ");
            return Err(Failure::Failed(format!("no sink of kind \"zabbix\" is called {name:?}; there are: {there}")));
        }
        Ok(chosen)
    }

    /// Says each step as it is taken: what was done before a failure is done. `None` when it failed, and that was said.
    async fn run(&self, name: &str, sink: &zabbix::Zabbix) -> Result<Option<usize>, Failure> {
        let mut told = Ok(());
        let mut say = |said: zabbix::Said| {
            let line = match said {
                zabbix::Said::Peer(text) => format!("sinks.{name}: {text}"),
                zabbix::Said::Change(text) => format!("  {text}"),
                zabbix::Said::Note(text) => format!("  note: {text}"),
            };
            if told.is_ok() {
                told = print::stdout(|out| writeln!(out, "{}", print::plain(&line)));
            }
        };
        let applied = sink.apply(self.dry_run, clock::now(), &mut say).await;
        told?;
        let changes = match applied {
            Ok(changes) => changes,
            Err(text) => {
                print::complain(&format!("error: sinks.{name}: {text}"));
                return Ok(None);
            }
        };
        let text = match (changes, self.dry_run) {
            (0, _) => "nothing to do".to_owned(),
            (1, true) => "1 change to be made; nothing was changed".to_owned(),
            (n, true) => format!("{n} changes to be made; nothing was changed"),
            (1, false) => "1 change made".to_owned(),
            (n, false) => format!("{n} changes made"),
        };
        print::stdout(|out| writeln!(out, "sinks.{name}: {text}"))?;
        Ok(Some(changes))
    }
}
