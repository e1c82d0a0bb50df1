//! What `doctor` finds in the configuration itself: that it can be read, names something, and is valid.
//!
//! A daemon that runs goes on with what it read before. So where the file is at fault, that is said first, and what can be
//! known of a daemon without it.

use std::path::Path;
use std::time::SystemTime;

use super::super::print::age;
use super::super::reach::{self, Daemon};
use super::super::{Failure, block_on};
use super::{ANSWER_TIMEOUT, Findings, Level, certificate, running};
use crate::admin::Configured;
use crate::admin::judgement::{Commands, Judge, shell};
use crate::clock;
use crate::config::{Config, Environment, Faults};
use crate::model::Time;

/// What can be read, and is wrong.
pub(super) fn broken(faults: &Faults, commands: &Commands, findings: &mut Findings) {
    let remedy = commands.say("check");
    faults.to_string().lines().for_each(|fault| findings.wrong("config", fault, &remedy));
}

/// What cannot be read at all.
pub(super) fn unreadable(file: &Path, faults: &Faults, commands: &Commands, findings: &mut Findings) {
    let remedies = match file.try_exists() {
        Ok(false) => vec![
            format!("restore {}, or name the right one with --config FILE", shell(&file.display().to_string())),
            format!("then: {}", commands.say("check")),
        ],
        _ => vec!["ask as one who may read it, for example with sudo".to_owned()],
    };
    findings.add(Level::Wrong, "config", faults.to_string(), remedies);
}

/// That nothing can come in.
pub(super) fn sourceless(file: &Path, commands: &Commands, findings: &mut Findings) {
    let is_empty = std::fs::metadata(file).is_ok_and(|meta| meta.len() == 0);
    let what = if is_empty { "is empty" } else { "names no source" };
    let found = format!("{} {what}: by it nothing can come in", file.display());
    let restore = format!("restore it from a backup, or add a [sources.NAME], and: {}", commands.say("check"));
    findings.add(Level::Wrong, "config", found, [restore, "then: systemctl reload callbackd".to_owned()]);
}

/// Whether the daemon or the store is where this configuration says.
pub(super) fn is_there(config: &Config, env: &Environment) -> Result<bool, Failure> {
    if config.store.is_postgres() || reach::store_path(config)?.exists() {
        return Ok(true);
    }
    let Ok(daemon) = Daemon::of(config, env) else { return Ok(false) };
    let probed = block_on(async { Ok(tokio::time::timeout(ANSWER_TIMEOUT, daemon.probe("/livez")).await) })?;
    Ok(matches!(probed, Ok(Ok(Some(_)))))
}

/// That daemon and store were not looked at: where they are, the file does not say. What runs is seen all the same.
pub(super) fn unknown(file: &Path, findings: &mut Findings) {
    let found = "where they are, the file does not say, so nothing was looked at there";
    findings.note("daemon, store", found, AGAIN);
    processes(file, findings);
}

/// That what was looked for is not where a file leads that says nothing of it.
pub(super) fn elsewhere(about: &str, found: &str, findings: &mut Findings) {
    findings.note(about, format!("{found}; the file may have named another place"), AGAIN);
}

const AGAIN: &str = "mend the file, and ask again";

/// Who goes on by what it read.
pub(super) fn processes(file: &Path, findings: &mut Findings) {
    for pid in running::daemons(file) {
        let found = format!("process {pid} runs with this file, and goes on with what it read before");
        findings.note("daemon", found, "do not restart it before the file is mended: it would not come back as it was");
    }
}

/// By which configuration the daemon goes that answers, and whether that is what stands in the file.
pub(super) fn holds(held: &Configured, config: &Config, file: &Path, judge: &Judge<'_>, findings: &mut Findings) {
    if let Some(at) = held.refused_at {
        // What is wrong with the file stands above, as far as it is so still.
        let reason = held.reason.as_deref().filter(|_| !config.is_partial);
        return findings.judged(judge.refused(at, held.read_at, reason));
    }
    let ago = |time| age(Some(time), judge.now);
    let read = ago(held.read_at);
    if let Some(other) = held.file.as_ref().filter(|other| !is_same(other, file)) {
        let found = format!("the daemon that answers goes by {}, and not by {}", other.display(), file.display());
        let remedy = format!("name the right one: --config {}", shell(&other.display().to_string()));
        return findings.note("config", found, remedy);
    }
    let since = |changed: SystemTime| changed.duration_since(SystemTime::UNIX_EPOCH).ok();
    let changed = std::fs::metadata(file).and_then(|meta| meta.modified()).ok().and_then(since);
    let changed = changed.and_then(|span| i64::try_from(span.as_micros()).ok()).map(Time::from_micros);
    match changed.filter(|changed| *changed > held.read_at) {
        Some(changed) => {
            let found =
                format!("the file was changed {} ago; the daemon goes by what it read {read} ago", ago(changed));
            findings.note("config", found, "systemctl reload callbackd");
        }
        None => findings.ok("daemon", format!("goes by the configuration that it read {read} ago")),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().ok();
    one == other || whole(one).is_none() || whole(one) == whole(other)
}

/// A certificate that ends within this time is to be renewed.
const RENEW_MS: u64 = 14 * 86_400_000;

pub(super) fn look(config: &Config, env: &Environment, commands: &Commands, findings: &mut Findings) {
    match config.adapters(env) {
        Ok(adapters) => {
            for warning in &adapters.warnings {
                match warning.rsplit_once("; chmod o-r ") {
                    Some((warning, path)) => {
                        let remedies = [
                            format!("chmod o-r {}", shell(path)),
                            "change the secret, if others may have read it".to_owned(),
                        ];
                        findings.add(Level::Wrong, "config", format!("{path}: {warning}"), remedies);
                    }
                    // That nothing can come in was told, with what mends it.
                    None if config.sources.is_empty() => {}
                    None => findings.note("config", warning, commands.say("check")),
                }
            }
            let (sources, sinks, routes) = (config.sources.len(), config.sinks.len(), config.routes.len());
            if sources > 0 {
                findings.ok("config", format!("valid: sources {sources}, sinks {sinks}, routes {routes}"));
            }
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
                    false => findings.wrong("config", fault.to_string(), commands.say("check")),
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
