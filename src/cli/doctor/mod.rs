//! `doctor`: is anything wrong, what, and which command mends it. It only reads, beside the daemon or without one.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::reach::{Context, Daemon, REFUSED_TOKEN};
use super::{Failure, block_on, print};
use crate::admin::SinkStanding;
use crate::admin::judgement::{About, Commands, Finding, Judge, Mend, Weight};
use crate::clock;
use crate::config::{Broken, Config};
use crate::options::Span;

mod certificate;
mod configured;
mod kept;
mod running;
#[cfg(feature = "postgres")]
mod shared;

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// How long the store's tables may be checked
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = Span::parse)]
    within: Span,
    /// One JSON object a line, instead of a table
    #[arg(long)]
    json: bool,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// To be mended.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Looked {
    level: Level,
    about: String,
    finding: String,
    /// What mends it: one after the other.
    #[serde(rename = "do")]
    remedies: Vec<String>,
}

/// All of them.
#[derive(Debug, Default)]
struct Findings(Vec<Looked>);

impl Findings {
    fn ok(&mut self, about: impl Into<String>, finding: impl Into<String>) {
        self.add(Level::Ok, about, finding, []);
    }

    fn note(&mut self, about: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Note, about, finding, [remedy.into()]);
    }

    fn wrong(&mut self, about: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Wrong, about, finding, [remedy.into()]);
    }

    /// What the page says, too.
    fn judged(&mut self, found: Finding) {
        let Finding { weight, about, what, reason, mends } = found;
        let level = match weight {
            Weight::Bad => Level::Wrong,
            Weight::Wary => Level::Note,
        };
        let about = match about {
            About::Daemon => "daemon".to_owned(),
            About::Configuration => "config".to_owned(),
            About::Sink(name) | About::Dead(name) => format!("sinks.{name}"),
            About::Source(name) => format!("sources.{name}"),
            About::Receipts(_) => "receipts".to_owned(),
            About::Overdue => "executions".to_owned(),
            About::Disk => "disk".to_owned(),
            About::Replica(place) => format!("replicas.{place}"),
        };
        let what = reason.map_or(what.clone(), |reason| format!("{what} Reason: {reason}"));
        let step = |Mend { when, command }: Mend| if when.is_empty() { command } else { format!("{when} {command}") };
        self.add(level, about, what, mends.into_iter().map(step));
    }

    fn add(
        &mut self,
        level: Level,
        about: impl Into<String>,
        finding: impl Into<String>,
        remedies: impl IntoIterator<Item = String>,
    ) {
        let remedies = remedies.into_iter().collect();
        self.0.push(Looked { level, about: about.into(), finding: finding.into(), remedies });
    }
}

impl Doctor {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<(), Failure> {
        let mut findings = Findings::default();
        let commands = Commands::of(context.file.as_deref());
        match Config::salvage(Some(context.file()), context.env) {
            Ok((config, None)) if config.sources.is_empty() => {
                configured::sourceless(context.file(), &commands, &mut findings);
                configured::look(&config, context.env, &commands, &mut findings);
                if configured::is_there(&config, context.env)? {
                    self.look(context, &config, &commands, &mut findings)?;
                } else {
                    configured::unknown(context.file(), &mut findings);
                }
            }
            Ok((config, None)) => {
                configured::look(&config, context.env, &commands, &mut findings);
                self.look(context, &config, &commands, &mut findings)?;
            }
            // A daemon goes on with what it read before.
            Ok((config, Some(Broken { faults, hides_places: false }))) => {
                configured::broken(&faults, &commands, &mut findings);
                self.look(context, &config, &commands, &mut findings)?;
            }
            Ok((_, Some(Broken { faults, .. }))) => {
                configured::broken(&faults, &commands, &mut findings);
                configured::unknown(context.file(), &mut findings);
            }
            Err(faults) => {
                configured::unreadable(context.file(), &faults, &commands, &mut findings);
                configured::unknown(context.file(), &mut findings);
            }
        }
        self.tell(findings.0)
    }

    /// At the daemon, and into the store.
    fn look(
        &self,
        context: &Context<'_>,
        config: &Config,
        commands: &Commands,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let judge = Judge { commands, now: clock::now() };
        let sinks = block_on(running(config, context, &judge, findings))?;
        #[cfg(feature = "postgres")]
        if config.store.is_postgres() {
            return block_on(shared::look(config, context.env, &sinks, &judge, findings));
        }
        let path = super::reach::store_path(config)?;
        block_on(kept::look(config, path, self.within.0, &sinks, &judge, findings))
    }

    fn tell(&self, findings: Vec<Looked>) -> Result<(), Failure> {
        let wrong = findings.iter().filter(|one| one.level == Level::Wrong).count();
        print::stdout(|out| {
            if self.json {
                return findings.iter().try_for_each(|one| print::json_line(out, one));
            }
            let width = findings.iter().map(|one| one.about.chars().count()).max().unwrap_or(0);
            // What is wrong stands last, where one looks first.
            let mut findings: Vec<_> = findings.iter().collect();
            findings.sort_by_key(|one| one.level);
            let mut left = findings.iter().peekable();
            while let Some(one) = left.next() {
                let word = match one.level {
                    Level::Ok => "ok",
                    Level::Note => "note",
                    Level::Wrong => "WRONG",
                };
                let (about, finding) = (print::plain(&one.about), print::plain(&one.finding));
                writeln!(out, "{word:5}  {about:width$}  {finding}")?;
                // What mends several is said once.
                if left.peek().is_some_and(|next| next.remedies == one.remedies && next.about == one.about) {
                    continue;
                }
                for remedy in &one.remedies {
                    writeln!(out, "{:5}  {:width$}  -> {}", "", "", print::plain(remedy))?;
                }
            }
            match wrong {
                0 => writeln!(out, "\nnothing is wrong"),
                1 => writeln!(out, "\n1 thing is wrong"),
                n => writeln!(out, "\n{n} things are wrong"),
            }
        })?;
        if wrong == 0 { Ok(()) } else { Err(Failure::Told) }
    }
}

/// Shows what the daemon logged last.
const LOG: &str = "journalctl -u callbackd -n 50";

/// An answer that takes longer says enough.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether it runs and is well; and its sinks, with what it alone knows of them.
async fn running(
    config: &Config,
    context: &Context<'_>,
    judge: &Judge<'_>,
    findings: &mut Findings,
) -> Result<Vec<SinkStanding>, Failure> {
    let at = &config.admin.listen;
    // Where its token is at fault, that was found already; health needs none.
    let Ok(daemon) = Daemon::of(config, context.env) else { return Ok(Vec::new()) };
    match tokio::time::timeout(ANSWER_TIMEOUT, daemon.probe("/readyz")).await {
        Ok(Ok(Some((200, _)))) => findings.ok("daemon", format!("runs at {at}, and is ready")),
        Ok(Ok(Some((status, said)))) => {
            let said = said.trim().to_owned();
            findings.wrong(
                "daemon",
                format!("runs at {at}, and is not ready ({status}): {said}"),
                format!("see what stands below; {LOG}"),
            );
        }
        Ok(Ok(None)) if config.sources.is_empty() => {
            configured::elsewhere("daemon", &format!("none listens at admin.listen = {at:?}"), findings);
            configured::processes(context.file(), findings);
        }
        Ok(Ok(None)) => findings.wrong(
            "daemon",
            format!("none listens at admin.listen = {at:?}: nothing comes in, and nobody is told"),
            format!("systemctl start callbackd, or: {}", judge.commands.say("serve")),
        ),
        Ok(Err(Failure::Failed(why))) => findings.wrong("daemon", why, LOG),
        Ok(Err(other)) => return Err(other),
        Err(_) => findings.wrong(
            "daemon",
            format!("does not answer at {at} within {} s", ANSWER_TIMEOUT.as_secs()),
            format!("{LOG}; systemctl restart callbackd"),
        ),
    }
    match daemon.status().await {
        Some(said) => {
            configured::holds(&said.configuration, config, context.file(), judge, findings);
            said.refusing.iter().filter_map(|of| judge.refusing(of)).for_each(|found| findings.judged(found));
        }
        None if daemon.refuses_us().await => findings.wrong(
            "admin.token",
            format!("{REFUSED_TOKEN}, so that breakers, and which configuration holds, cannot be told"),
            "put back the one that it began with, or: systemctl restart callbackd",
        ),
        None => {}
    }
    // Why not stands above, or at its token.
    Ok(daemon.sinks().await.unwrap_or_default())
}
