//! What is wrong, how much it matters, and which command mends it: judged here alone, for the page and for `doctor`.

use std::path::Path;

use super::SinkStanding;
use super::page::html::{age, several};
use crate::model::Time;
use crate::model::words::size;
use crate::pipeline::forward::HALTED;
use crate::store::{Replica, WAITS_FOR_LINK};

/// Where the configuration is when nobody says.
pub const DEFAULT_FILE: &str = "/etc/callbackd/callbackd.toml";

/// What waits longer than this, without being told why it may, is late, in milliseconds.
const LATE_MS: u64 = 15 * 60_000;
/// A vendor that is asked answers sooner than this, in milliseconds.
pub const HELD_MS: u64 = 60 * 60_000;
/// What was quarantined longer ago than this was seen, in milliseconds.
const NEWS_MS: u64 = 24 * 3_600_000;
/// More than so many are `more than …`: nobody waits for a count.
pub const COUNTED: usize = 100;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weight {
    /// Somebody is not told, nothing is kept, or that is about to happen.
    Bad,
    /// Worth a look.
    Wary,
}

/// What it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum About {
    /// Whether callbacks are kept.
    Daemon,
    /// What it goes by.
    Configuration,
    /// The sink of this name.
    Sink(String),
    /// What was given up for the sink of this name.
    Dead(String),
    /// Receipts of this status.
    Receipts(&'static str),
    /// Executions that are late.
    Overdue,
    /// What the store takes.
    Disk,
    /// Who has this place among those that share the store.
    Replica(u16),
}

/// Something that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// Of what.
    pub about: About,
    /// What it is.
    pub what: String,
    /// In the words of who said so.
    pub reason: Option<String>,
    /// What mends it, or tells more.
    pub command: String,
}

/// Commands as one can type them, for the daemon of one configuration.
#[derive(Clone, Debug, Default)]
pub struct Commands(Option<String>);

impl Commands {
    /// Of the configuration in this file.
    pub fn of(file: Option<&Path>) -> Commands {
        let other = file.filter(|file| *file != Path::new(DEFAULT_FILE));
        Commands(other.map(|file| shell(&file.display().to_string())))
    }

    /// `callbackd` with these words, and the file where it has to be named.
    pub fn say(&self, words: &str) -> String {
        match &self.0 {
            Some(file) => format!("callbackd {words} --config {file}"),
            None => format!("callbackd {words}"),
        }
    }
}

/// Of what can be wrong, what is judged and how it is mended.
pub struct Judge<'c> {
    /// How what mends is typed.
    pub commands: &'c Commands,
    /// When it is judged.
    pub now: Time,
}

impl Judge<'_> {
    fn find(&self, weight: Weight, about: About, what: String, words: &str) -> Finding {
        Finding { weight, about, what, reason: None, command: self.commands.say(words) }
    }

    /// That callbacks cannot be kept.
    pub fn receiving(&self, reason: &str) -> Finding {
        let what = "Callbacks cannot be kept: senders hear 503.".to_owned();
        let found = self.find(Weight::Bad, About::Daemon, what, "doctor");
        Finding { reason: Some(reason.to_owned()), ..found }
    }

    /// That the configuration was read again at `at` and refused, so that the one of `read_at` holds.
    pub fn refused(&self, at: Time, read_at: Time, reason: &str) -> Finding {
        let ago = |time: Time| age(time, self.now);
        let what = format!(
            "The configuration was read again {} ago and refused; what was read {} ago still holds, and a restart would fail.",
            ago(at),
            ago(read_at)
        );
        let found = self.find(Weight::Bad, About::Configuration, what, "check");
        Finding { reason: Some(reason.to_owned()), ..found }
    }

    /// What is wrong with a sink.
    pub fn sink(&self, sink: &SinkStanding, is_configured: bool) -> Vec<Finding> {
        let row = &sink.row;
        let (name, shown) = (&row.name, shell(&row.name));
        let waiting = several(row.backlog, "delivery");
        let waiting = format!("{waiting} {}", if row.backlog == 1 { "waits" } else { "wait" });
        let about = || About::Sink(name.clone());
        let late = row.oldest.filter(|oldest| self.now.ms_since(*oldest) > LATE_MS);
        let mut found = Vec::new();
        if let Some(reason) = &row.paused {
            let (what, reason) = match reason.strip_prefix(HALTED) {
                Some(refused) => {
                    (format!("The sink {name} is paused, because its peer refuses us; {waiting}."), refused)
                }
                None => (format!("The sink {name} is paused; {waiting}."), reason.as_str()),
            };
            let one = self.find(Weight::Bad, about(), what, &format!("sinks resume {shown}"));
            found.push(Finding { reason: Some(reason.to_owned()), ..one });
        } else if sink.is_failing() {
            let what = format!("The sink {name} fails, and is only probed; {waiting}.");
            let one = self.find(Weight::Bad, about(), what, &format!("sinks test {shown}"));
            found.push(Finding { reason: row.reason.clone(), ..one });
        } else if !is_configured && row.backlog > 0 {
            let what = format!("The sink {name} is not configured any more; {waiting}.");
            let words = format!("deliveries discard --status waiting --sink {shown}");
            found.push(self.find(Weight::Bad, about(), what, &words));
        } else if let Some(oldest) = late.filter(|_| row.reason.as_deref() != Some(WAITS_FOR_LINK)) {
            let what = format!("The sink {name} is behind; {waiting}, the oldest for {}.", age(oldest, self.now));
            let one = self.find(Weight::Bad, about(), what, &format!("sinks test {shown}"));
            found.push(Finding { reason: row.reason.clone(), ..one });
        }
        if row.dead > 0 {
            let what = format!("{} for {name}.", several(row.dead, "dead letter"));
            let words = format!("deliveries retry --sink {shown}");
            found.push(self.find(Weight::Bad, About::Dead(name.clone()), what, &words));
        }
        found
    }

    /// That the store takes more than upkeep may let it have. It comes and goes by a little: upkeep looks now and then.
    pub fn over(&self, held: u64, most: u64) -> Option<Finding> {
        let what = format!(
            "The store takes {}, and may take {}: what is over is not finished, not told, dead, held or quarantined, and stays.",
            size(held),
            size(most)
        );
        (held > most + most / 16).then(|| self.find(Weight::Bad, About::Disk, what, "upkeep"))
    }

    /// That one of those who share the store is gone.
    pub fn gone(&self, replica: &Replica) -> Option<Finding> {
        let Replica { place, name, address, seen_at, alive, .. } = replica;
        let what = format!(
            "The callbackd {name} at {address} was not heard of for {}; the others do its work.",
            age(*seen_at, self.now)
        );
        let command = format!("systemctl start callbackd # on {name}; or leave it, and it is forgotten after a day");
        let about = About::Replica(*place);
        (!alive).then_some(Finding { weight: Weight::Wary, about, what, reason: None, command })
    }

    /// So many receipts that were not understood, of which the newest came then.
    pub fn quarantined(&self, count: usize, newest: Option<Time>) -> Option<Finding> {
        let newest = newest.filter(|_| count > 0)?;
        let weight = if self.now.ms_since(newest) < NEWS_MS { Weight::Bad } else { Weight::Wary };
        let what = format!(
            "{} not understood, the newest {} ago; nobody is told of {}.",
            some(count, "callback", "was", "were"),
            age(newest, self.now),
            if count == 1 { "it" } else { "them" }
        );
        Some(self.find(weight, About::Receipts("quarantined"), what, "receipts list --status quarantined"))
    }

    /// So many receipts that have waited for their vendor's word for longer than `HELD_MS`.
    pub fn held(&self, count: usize) -> Option<Finding> {
        let what = format!("{} not confirmed within an hour.", some(count, "callback", "was", "were"));
        let find = || self.find(Weight::Bad, About::Receipts("held"), what, "receipts list --status held");
        (count > 0).then(find)
    }

    /// So many executions that are not finished in time.
    pub fn overdue(&self, count: usize) -> Option<Finding> {
        let what = format!("{} not finished in time.", some(count, "execution", "is", "are"));
        let find = || self.find(Weight::Wary, About::Overdue, what, "executions list --status overdue");
        (count > 0).then(find)
    }
}

/// A count that may be cut short.
fn some(n: usize, what: &str, one: &str, many: &str) -> String {
    match n {
        1 => format!("1 {what} {one}"),
        n if n > COUNTED => format!("More than {COUNTED} {what}s {many}"),
        n => format!("{n} {what}s {many}"),
    }
}

/// A name as a shell takes it. Configured names need nothing; the store may know others.
pub fn shell(name: &str) -> String {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    if is_plain { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Open;
    use crate::store::SinkRow;

    const NOW: Time = Time::from_seconds(1_700_000_000);

    fn before(seconds: i64) -> Time {
        Time::from_seconds(NOW.seconds() - seconds)
    }

    /// A sink for which something has waited for so long, with the reason.
    fn waits(seconds: i64, reason: &str) -> SinkRow {
        SinkRow { backlog: 1, oldest: Some(before(seconds)), reason: Some(reason.to_owned()), ..SinkRow::of("portal") }
    }

    fn judged(row: SinkRow, open: Option<Open>) -> Vec<Finding> {
        Judge { commands: &Commands::default(), now: NOW }.sink(&SinkStanding::of(row, open), true)
    }

    fn commands(row: SinkRow, open: Option<Open>) -> Vec<String> {
        judged(row, open).into_iter().map(|finding| finding.command).collect()
    }

    #[test]
    fn what_is_wrong_with_a_sink_comes_with_what_mends_it() {
        let open = Some(Open { since: before(60), probe_at: NOW });
        assert!(commands(SinkRow::of("portal"), None).is_empty());
        assert!(commands(waits(600, "503"), None).is_empty(), "not for long");
        assert!(commands(waits(6000, WAITS_FOR_LINK), None).is_empty(), "it may");
        assert_eq!(commands(waits(6000, "503"), None), ["callbackd sinks test portal"]);
        assert!(commands(SinkRow::of("portal"), open).is_empty(), "with nothing to try nobody knows");
        assert!(commands(waits(60, WAITS_FOR_LINK), open).is_empty(), "nor with what cannot be tried");
        let failing = judged(waits(1, "connection refused"), open);
        assert_eq!((failing[0].weight, failing[0].reason.as_deref()), (Weight::Bad, Some("connection refused")));
        assert_eq!(failing[0].what, "The sink portal fails, and is only probed; 1 delivery waits.");
        assert_eq!(failing[0].command, "callbackd sinks test portal");
        let paused =
            SinkRow { name: "it's".to_owned(), paused: Some("an upgrade".to_owned()), dead: 2, ..waits(1, "503") };
        let quoted = ["callbackd sinks resume 'it'\\''s'", "callbackd deliveries retry --sink 'it'\\''s'"];
        assert_eq!(commands(paused, None), quoted);
        let refused = SinkRow { paused: Some(format!("{HALTED}answered 401")), ..SinkRow::of("portal") };
        let refused = judged(refused, None);
        let what = "The sink portal is paused, because its peer refuses us; 0 deliveries wait.";
        assert_eq!((refused[0].what.as_str(), refused[0].reason.as_deref()), (what, Some("answered 401")));
        assert_eq!(refused[0].weight, Weight::Bad);
    }

    #[test]
    fn what_waits_for_somebody_is_weighed_by_its_age_and_counted_to_an_end() {
        let judge = Judge { commands: &Commands::default(), now: NOW };
        assert!(judge.quarantined(0, None).is_none() && judge.held(0).is_none() && judge.overdue(0).is_none());
        let fresh = judge.quarantined(1, Some(before(60))).expect("found");
        assert_eq!(fresh.what, "1 callback was not understood, the newest 1 min ago; nobody is told of it.");
        let old = judge.quarantined(COUNTED + 1, Some(before(200_000))).expect("found");
        assert!(old.what.starts_with("More than 100 callbacks were not understood"), "{}", old.what);
        assert_eq!((fresh.weight, old.weight), (Weight::Bad, Weight::Wary));
        assert_eq!(judge.overdue(1).expect("found").what, "1 execution is not finished in time.");
        assert!(judge.over(1050, 1000).is_none() && judge.over(1100, 1000).is_some());
        assert_eq!(judge.held(2).expect("found").what, "2 callbacks were not confirmed within an hour.");
    }

    #[test]
    fn commands_name_the_configuration_where_it_is_not_the_default() {
        let said = |file: &str| Commands::of(Some(Path::new(file))).say("sinks test any");
        assert_eq!(said(DEFAULT_FILE), "callbackd sinks test any");
        assert_eq!(said("/srv/a b.toml"), "callbackd sinks test any --config '/srv/a b.toml'");
        assert_eq!(Commands::of(None).say("doctor"), "callbackd doctor");
    }
}
