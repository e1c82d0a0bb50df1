//! What `doctor` finds in the store: whether it is whole, what waits in it, and how long its disk will do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Findings, Level};
use crate::admin::SinkStanding;
use crate::admin::judgement::{COUNTED, Commands, HELD_MS, Judge, shell};
use crate::cli::Failure;
use crate::cli::print::{age, size};
use crate::cli::progress::Progress;
use crate::config::Config;
use crate::model::Time;
use crate::pipeline::upkeep::bytes_max;
use crate::store::sqlite::{self, Backlog, Oddity, Survey, Traffic};
use crate::store::{Extent, Filter, Queries, StoreError};

/// The log stays far below this, unless somebody reads for long.
const LOG_BYTES_MAX: u64 = 256 << 20;
/// Ids may run ahead of the clock by this.
const AHEAD_MS: u64 = 60_000;

pub(super) async fn look(
    config: &Config,
    path: &Path,
    within: Duration,
    told: &[SinkStanding],
    judge: &Judge<'_>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let now = judge.now;
    let mut survey = match Survey::open(path) {
        Ok(survey) => survey,
        Err(StoreError::NotFound(text)) if config.sources.is_empty() => {
            super::configured::elsewhere("store", &text, findings);
            return Ok(());
        }
        Err(StoreError::NotFound(text)) => {
            findings.wrong("store", text, "the daemon makes it at its first start; or mend store.url");
            return Ok(());
        }
        Err(e) => {
            findings.wrong("store", e.to_string(), "stop the daemon, and put a backup in its place");
            return Ok(());
        }
    };
    if let Err(e) = survey.is_to_be_used() {
        findings.wrong("store", judge.commands.complete(&e.to_string()), "do as it says, or mend store.url");
        return Ok(());
    }
    private(path, findings);
    whole(&mut survey, path, within, judge.commands, findings)?;
    log(&survey, findings);
    let traffic = survey.traffic(now)?;
    receipts(&survey, judge, findings)?;
    clocks(&traffic, now, findings);
    let extent = survey.extent()?;
    forecast(config, path, &traffic, &extent, judge, findings);
    match sqlite::open_read_only(path) {
        Ok(queries) => sinks(config, &*queries, told, judge, findings).await?,
        Err(e) => findings.note("sinks", "what waits for them cannot be read", e.to_string()),
    }
    Ok(())
}

/// What is late, and what waits for each sink.
pub(super) async fn sinks(
    config: &Config,
    queries: &dyn Queries,
    told: &[SinkStanding],
    judge: &Judge<'_>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let filter = Filter { status: vec!["overdue".to_owned()], limit: Some(COUNTED as u64 + 1), ..Filter::default() };
    judge.overdue(queries.executions(filter).await?.len()).into_iter().for_each(|found| findings.judged(found));
    for row in queries.sinks().await? {
        let breaker = told.iter().find(|told| told.row.name == row.name).and_then(|told| told.breaker);
        stands(config, &SinkStanding { row, breaker }, judge, findings);
    }
    Ok(())
}

fn private(path: &Path, findings: &mut Findings) {
    for end in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        let mode = std::fs::metadata(&file).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o077 != 0 {
            let file = Path::new(&file).display();
            let found = format!("others can read {file}, which holds what senders sent (mode {:o})", mode & 0o777);
            findings.wrong("store", found, format!("chmod 600 {file}"));
        }
    }
}

fn whole(
    survey: &mut Survey,
    path: &Path,
    within: Duration,
    commands: &Commands,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let schema = survey.schema()?;
    for oddity in &schema.oddities {
        match oddity {
            Oddity::Foreign(name) => {
                let remedy = "take it out again; callbackd's migrations do not know of it";
                findings.note("store", format!("somebody else's {name} is in it"), remedy);
            }
            Oddity::Missing(name) => {
                findings.wrong(
                    "store",
                    format!("its {name} is missing"),
                    "stop the daemon, and put a backup in its place",
                );
            }
        }
    }
    if schema.version < schema.newest {
        let found = format!("its schema is {}, of {}", schema.version, schema.newest);
        findings.note("store", found, "the next start of this callbackd brings it up to date");
    }
    let mut progress = Progress::of("checking the store");
    let begun = Instant::now();
    let (wrong, unfinished) = survey.check(within, |table| progress.doing(table))?;
    drop(progress);
    for line in &wrong {
        let remedy = "stop the daemon, keep the damaged files, and put a backup in their place";
        findings.wrong("store", format!("damaged: {line}"), remedy);
    }
    match unfinished {
        _ if !wrong.is_empty() => {}
        None => {
            let took = begun.elapsed().as_secs_f64();
            findings.ok("store", format!("{}: schema {}, checked in {took:.1} s", path.display(), schema.version));
        }
        Some(table) => findings.note(
            "store",
            format!("no damage found; the time was up at the table {table}"),
            commands.say("doctor --within 10m"),
        ),
    }
    Ok(())
}

fn log(survey: &Survey, findings: &mut Findings) {
    let bytes = survey.log_bytes();
    match bytes > LOG_BYTES_MAX {
        true => findings.wrong(
            "store",
            format!("its log is {}", size(bytes)),
            "look for a program that has been reading the store for long (lsof), and end it",
        ),
        false => findings.ok("store", format!("its log is {}", size(bytes))),
    }
}

fn receipts(survey: &Survey, judge: &Judge<'_>, findings: &mut Findings) -> Result<(), Failure> {
    let now = judge.now;
    let quarantined = survey.receipts("quarantined")?;
    let count = |of: &Backlog| usize::try_from(of.count).unwrap_or(usize::MAX);
    if let Some(found) = judge.quarantined(count(&quarantined), quarantined.newest) {
        findings.judged(found);
    }
    let held = survey.receipts("held")?;
    if let Some(oldest) = held.oldest {
        match judge.held(count(&held)).filter(|_| now.ms_since(oldest) > HELD_MS) {
            Some(found) => findings.judged(found),
            None => {
                let found = format!("{} wait to be confirmed, the oldest for {}", held.count, age(Some(oldest), now));
                findings.note("receipts", found, judge.commands.say("receipts list --status held"));
            }
        }
    }
    let refused = survey.receipts("refused")?;
    if refused.count > 0 {
        let remedy = judge.commands.say("receipts list --status refused");
        findings.note("receipts", format!("{} were not confirmed by their vendor", refused.count), remedy);
    }
    if quarantined.count + held.count + refused.count == 0 {
        findings.ok("receipts", "all were understood");
    }
    Ok(())
}

fn stands(config: &Config, sink: &SinkStanding, judge: &Judge<'_>, findings: &mut Findings) {
    let (row, about) = (&sink.row, format!("sinks.{}", sink.row.name));
    let is_configured = config.is_partial || config.sinks.iter().any(|known| known.name == row.name);
    let found = judge.sink(sink, is_configured);
    if found.is_empty() {
        match &row.reason {
            Some(why) => findings.note(about, format!("{} wait: {why}", row.backlog), "each is tried again by itself"),
            None => findings.ok(about, format!("{} wait", row.backlog)),
        }
    }
    found.into_iter().for_each(|found| findings.judged(found));
}

fn clocks(traffic: &Traffic, now: Time, findings: &mut Findings) {
    let Some(latest) = traffic.latest else { return };
    match latest.ms_since(now) > AHEAD_MS {
        true => findings.wrong(
            "clock",
            format!("the store holds what came at {latest}, and it is {now} now: this machine's clock was ahead, or is behind"),
            "set the clock right (timedatectl); what is due waits until then",
        ),
        false => findings.ok("clock", format!("it is {now}, and the last callback came {} ago", age(Some(latest), now))),
    }
}

/// How the store will grow: what a day brings, against what its disk, `disk_max` and `keep` let it become.
fn forecast(
    config: &Config,
    path: &Path,
    traffic: &Traffic,
    extent: &Extent,
    judge: &Judge<'_>,
    findings: &mut Findings,
) {
    let most = bytes_max(*extent, config.store.disk_max);
    // Upkeep leaves to others what they fill; but there is no more than that.
    let limit = most.min(extent.held.saturating_add(extent.room));
    let takes =
        format!("takes {}, may take {}, and {} are left on its disk", size(extent.held), size(most), size(extent.room));
    if extent.is_full() {
        let file = shell(&path.display().to_string());
        let remedy = format!("df -h {file}; free room there: senders are told 503 until there is some");
        return findings.wrong("disk", takes, remedy);
    }
    if let Some(found) = judge.over(extent.held, most) {
        return findings.judged(found);
    }
    let day = daily(traffic, extent, judge.now);
    if day == 0 {
        return findings.ok("disk", takes);
    }
    let keep = u128::from(config.store.keep.ms());
    let levels_off = u64::try_from(u128::from(day) * keep / 86_400_000).unwrap_or(u64::MAX);
    if levels_off <= limit {
        let found = format!(
            "{takes}; {} a day, which levels off at {} (keep = \"{}\")",
            size(day),
            size(levels_off.max(extent.held)),
            config.store.keep
        );
        return findings.ok("disk", found);
    }
    let days = limit.saturating_sub(extent.held) / day;
    let found = format!("{takes}; {} a day, so it is full in {days} days", size(day));
    let remedy = "then the oldest that is finished and told goes sooner than store.keep says; give it more room, or a shorter keep";
    let level = if days < 7 { Level::Wrong } else { Level::Note };
    findings.add(level, "disk", found, [remedy.to_owned()]);
}

/// What the last day brought, in bytes; nothing is told of a store that is younger than an hour.
fn daily(traffic: &Traffic, extent: &Extent, now: Time) -> u64 {
    let Some(oldest) = traffic.oldest.filter(|oldest| now.ms_since(*oldest) > 3_600_000) else { return 0 };
    let each = extent.held / traffic.executions.max(1);
    let span_ms = now.ms_since(oldest).min(86_400_000);
    u64::try_from(u128::from(each) * u128::from(traffic.last_day) * 86_400_000 / u128::from(span_ms))
        .unwrap_or(u64::MAX)
}
