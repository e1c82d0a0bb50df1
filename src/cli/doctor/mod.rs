//! `doctor`: is anything wrong, what, and which command mends it. It only reads, beside the daemon or without one.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::reach::{Context, Daemon};
use super::{Failure, block_on, print};
use crate::clock;
use crate::config::{Config, Environment};
use crate::options::Span;

mod certificate;
mod kept;
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
struct Finding {
    level: Level,
    about: String,
    finding: String,
    /// What mends it.
    #[serde(rename = "do")]
    remedy: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, about: impl Into<String>, finding: impl Into<String>) {
        self.add(Level::Ok, about, finding, None);
    }

    fn note(&mut self, about: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Note, about, finding, Some(remedy.into()));
    }

    fn wrong(&mut self, about: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Wrong, about, finding, Some(remedy.into()));
    }

    fn add(&mut self, level: Level, about: impl Into<String>, finding: impl Into<String>, remedy: Option<String>) {
        self.0.push(Finding { level, about: about.into(), finding: finding.into(), remedy });
    }
}

impl Doctor {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<(), Failure> {
        let mut findings = Findings::default();
        match Config::load(Some(context.file()), context.env) {
            Ok(config) => {
                configured(&config, context.env, &mut findings);
                let failing = block_on(running(&config, context.env, &mut findings))?;
                if config.store.is_postgres() {
                    let queries = super::reach::queries(&config, context.env)?;
                    #[cfg(feature = "postgres")]
                    block_on(shared::look(&config, context.env, &mut findings))?;
                    block_on(kept::sinks(&config, &*queries, &failing, clock::now(), &mut findings))?;
                } else {
                    let path = super::reach::store_path(&config)?;
                    block_on(kept::look(&config, path, self.within.0, &failing, &mut findings))?;
                }
            }
            Err(faults) => {
                let remedy = format!("callbackd check --config {}", context.file().display());
                for fault in &faults.faults {
                    findings.wrong("config", fault.to_string(), &remedy);
                }
            }
        }
        self.tell(findings.0)
    }

    fn tell(&self, findings: Vec<Finding>) -> Result<(), Failure> {
        let wrong = findings.iter().filter(|one| one.level == Level::Wrong).count();
        print::stdout(|out| {
            if self.json {
                return findings.iter().try_for_each(|one| print::json_line(out, one));
            }
            let width = findings.iter().map(|one| one.about.chars().count()).max().unwrap_or(0);
            for one in &findings {
                let word = match one.level {
                    Level::Ok => "ok",
                    Level::Note => "note",
                    Level::Wrong => "WRONG",
                };
                let (about, finding) = (print::plain(&one.about), print::plain(&one.finding));
                writeln!(out, "{word:5}  {about:width$}  {finding}")?;
                if let Some(remedy) = &one.remedy {
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

/// A certificate that ends within this time is to be renewed.
const RENEW_MS: u64 = 14 * 86_400_000;

fn configured(config: &Config, env: &Environment, findings: &mut Findings) {
    match config.adapters(env) {
        Ok(adapters) => {
            for warning in &adapters.warnings {
                match warning.contains("chmod") {
                    true => {
                        findings.wrong("config", warning, "chmod it, and change the secret if others may have read it")
                    }
                    false => findings.note("config", warning, "callbackd check"),
                }
            }
            let (sources, sinks, routes) = (config.sources.len(), config.sinks.len(), config.routes.len());
            findings.ok("config", format!("valid: sources {sources}, sinks {sinks}, routes {routes}"));
        }
        Err(faults) => {
            for fault in &faults.faults {
                // What systemd hands to the daemon, nobody else has.
                match fault.message.contains("no CREDENTIALS_DIRECTORY") {
                    true => findings.note(
                        &*fault.key,
                        "a credential of systemd's, which cannot be seen from here",
                        &*fault.message,
                    ),
                    false => findings.wrong("config", fault.to_string(), "callbackd check"),
                }
            }
        }
    }
    let Some(tls) = &config.server.tls else { return };
    let renew = "put a new certificate there; it is taken over by itself";
    match certificate::ends(&tls.cert) {
        Err(text) => findings.wrong("server.tls", text, renew),
        Ok(end) => match end.micros() - clock::now().micros() {
            ..=0 => findings.wrong("server.tls", format!("the certificate ended at {end}"), renew),
            left if left.unsigned_abs() / 1000 < RENEW_MS => {
                findings.wrong("server.tls", format!("the certificate ends at {end}"), renew);
            }
            _ => findings.ok("server.tls", format!("the certificate is valid until {end}")),
        },
    }
}

/// An answer that takes longer says enough.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether it runs and is well; and which sinks fail again and again, as it alone knows.
async fn running(config: &Config, env: &Environment, findings: &mut Findings) -> Result<Vec<String>, Failure> {
    let at = &config.admin.listen;
    // Where its token is at fault, that was found already; health needs none.
    let Ok(daemon) = Daemon::of(config, env) else { return Ok(Vec::new()) };
    match tokio::time::timeout(ANSWER_TIMEOUT, daemon.probe("/readyz")).await {
        Ok(Ok(Some((200, _)))) => findings.ok("daemon", format!("runs at {at}, and is ready")),
        Ok(Ok(Some((status, said)))) => {
            let said = said.trim().to_owned();
            findings.wrong(
                "daemon",
                format!("runs at {at}, and is not ready ({status}): {said}"),
                "see what stands below, and its log",
            );
        }
        Ok(Ok(None)) => findings.wrong(
            "daemon",
            format!("none listens at admin.listen = {at:?}: nothing comes in, and nobody is told"),
            "systemctl start callbackd",
        ),
        Ok(Err(Failure::Failed(why))) => findings.wrong("daemon", why, "see its log"),
        Ok(Err(other)) => return Err(other),
        Err(_) => findings.wrong(
            "daemon",
            format!("does not answer at {at} within {} s", ANSWER_TIMEOUT.as_secs()),
            "see its log; systemctl restart callbackd",
        ),
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, daemon.probe("/metrics")).await {
        Ok(Ok(Some((200, figures)))) => Ok(failing(config, &figures)),
        // Why not stands above, or at its token.
        _ => Ok(Vec::new()),
    }
}

/// The configured sinks whose breaker is open.
fn failing(config: &Config, figures: &str) -> Vec<String> {
    let is_open = |name: &str| {
        let figure = format!("callbackd_breaker_open{{sink=\"{name}\"}} 1");
        figures.lines().any(|line| line == figure)
    };
    config.sinks.iter().map(|sink| sink.name.clone()).filter(|name| is_open(name)).collect()
}
