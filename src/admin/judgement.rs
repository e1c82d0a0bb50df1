//! What is wrong, how much it matters, and which command mends it: judged here alone, for the page and for `doctor`.

use std::path::Path;

use super::page::html::{age, several};
use super::{Refusing, SinkStanding};
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

/// Fewer refusals than this may be anybody's.
const REFUSED_MIN: u64 = 3;

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
    /// The source of this name.
    Source(String),
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
    /// What mends it, or tells more: one after the other.
    pub mends: Vec<Mend>,
}

/// A step that mends, or tells more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// When, or what comes before; empty for what is to be done at once.
    pub when: String,
    /// As it can be typed.
    pub command: String,
}

impl Finding {
    /// The same, with one more step.
    fn then(mut self, when: impl Into<String>, command: String) -> Finding {
        self.mends.push(Mend { when: when.into(), command });
        self
    }

    /// The same, with a reason.
    fn because(self, reason: Option<&str>) -> Finding {
        Finding { reason: reason.filter(|reason| !reason.is_empty()).map(str::to_owned), ..self }
    }
}

/// Has the daemon read its configuration again.
const RELOAD: &str = "systemctl reload callbackd";
/// Said of a pause for which no reason was given.
pub const BY_AN_OPERATOR: &str = "by an operator";

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

    /// What was said, with the file in each command that stands there in backticks.
    pub fn complete(&self, said: &str) -> String {
        let part = |(nth, part): (usize, &str)| match part.strip_prefix("callbackd ").filter(|_| nth % 2 == 1) {
            Some(words) if words.contains(' ') && !words.contains(" --config ") => self.say(words),
            _ => part.to_owned(),
        };
        said.split('`').enumerate().map(part).collect::<Vec<_>>().join("`")
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
        let mends = vec![Mend { when: String::new(), command: self.commands.say(words) }];
        Finding { weight, about, what, reason: None, mends }
    }

    /// That callbacks cannot be kept.
    pub fn receiving(&self, reason: &str) -> Finding {
        let what = "Callbacks cannot be kept: senders hear 503.".to_owned();
        self.find(Weight::Bad, About::Daemon, what, "doctor").because(Some(reason))
    }

    /// That the configuration has no source.
    pub fn sourceless(&self) -> Finding {
        let what = "No source is configured: nothing can come in.".to_owned();
        let mut found = self.find(Weight::Bad, About::Configuration, what, "check");
        found.mends[0].when = "add a [sources.NAME], or restore the file, and:".to_owned();
        found.then("then:", RELOAD.to_owned())
    }

    /// That the configuration was read again at `at` and refused, so that the one of `read_at` holds; with the reason, where
    /// it is not told elsewhere.
    pub fn refused(&self, at: Time, read_at: Time, reason: Option<&str>) -> Finding {
        let ago = |time: Time| age(time, self.now);
        let what = format!(
            "The configuration was read again {} ago and refused; what was read {} ago still holds, and a restart would fail.",
            ago(at),
            ago(read_at)
        );
        let found = self.find(Weight::Bad, About::Configuration, what, "check");
        found.then("when it finds nothing:", RELOAD.to_owned()).because(reason)
    }

    /// That a source refuses more than it keeps. Now and then somebody guesses; that is no fault.
    pub fn refusing(&self, of: &Refusing) -> Option<Finding> {
        let Refusing { source, refused, kept } = of;
        if *refused < REFUSED_MIN || refused <= kept {
            return None;
        }
        let what = format!(
            "The source {source} refused {} in the last hour, and kept {kept}: a credential or an address is not what it \
             expects.",
            several(*refused, "callback")
        );
        let log = "journalctl -u callbackd | grep 'refused a callback'".to_owned();
        let mut found = self.find(Weight::Bad, About::Source(source.clone()), what, "");
        found.mends[0].command = log;
        let explain = self.commands.say("explain BODY --headers HEADERS");
        Some(found.then("with what its sender sent:", explain))
    }

    /// What is wrong with a sink.
    pub fn sink(&self, sink: &SinkStanding, is_configured: bool) -> Vec<Finding> {
        let row = &sink.row;
        let (name, shown) = (&row.name, shell(&row.name));
        let waiting = several(row.backlog, "delivery");
        let waiting = format!("{waiting} {}", if row.backlog == 1 { "waits" } else { "wait" });
        let about = || About::Sink(name.clone());
        let late = row.oldest.filter(|oldest| self.now.ms_since(*oldest) > LATE_MS);
        let test = format!("sinks test {shown}");
        let restore = format!("put [sinks.{name}] back into the configuration, and:");
        let mut found = Vec::new();
        if !is_configured && row.backlog > 0 {
            let what = format!("The sink {name} is not configured any more; {waiting}.");
            let mut one = self.find(Weight::Bad, about(), what, "check");
            one.mends[0].when.clone_from(&restore);
            let words = format!("deliveries discard --status waiting --sink {shown}");
            let discard = self.commands.say(&words);
            found.push(one.then("then:", RELOAD.to_owned()).then("or, if nobody is to be told:", discard));
        } else if let Some(reason) = &row.paused {
            let resume = format!("sinks resume {shown}");
            found.push(match reason.strip_prefix(HALTED) {
                Some(refused) => {
                    let what = format!("The sink {name} is paused, because its peer refuses us; {waiting}.");
                    let one = self.find(Weight::Bad, about(), what, &test).because(Some(refused));
                    one.then("when that is delivered:", self.commands.say(&resume))
                }
                None => {
                    let what = format!("The sink {name} is paused by an operator; {waiting}.");
                    let reason = Some(reason.as_str()).filter(|reason| *reason != BY_AN_OPERATOR);
                    self.find(Weight::Bad, about(), what, &resume).because(reason)
                }
            });
        } else if sink.is_failing() {
            let what = format!("The sink {name} fails, and is only probed; {waiting}.");
            found.push(self.find(Weight::Bad, about(), what, &test).because(row.reason.as_deref()));
        } else if let Some(oldest) = late.filter(|_| row.reason.as_deref() != Some(WAITS_FOR_LINK)) {
            let what = format!("The sink {name} is behind; {waiting}, the oldest for {}.", age(oldest, self.now));
            found.push(self.find(Weight::Bad, about(), what, &test).because(row.reason.as_deref()));
        }
        if row.dead > 0 {
            let what = format!("{} for {name}.", several(row.dead, "dead letter"));
            let about = About::Dead(name.clone());
            let settle = |verb| self.commands.say(&format!("deliveries {verb} --sink {shown}"));
            let one = match is_configured {
                true => {
                    let one = self.find(Weight::Bad, about, what, &test);
                    one.then("when that is delivered:", settle("retry"))
                }
                false => {
                    let mut one = self.find(Weight::Bad, about, what, "check");
                    one.mends[0].when = restore;
                    one.then("or, if nobody is to be told:", settle("discard"))
                }
            };
            found.push(one.because(row.dead_because().as_deref()));
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
        let mends = vec![Mend {
            when: format!("on {name} (or leave it, and it is forgotten after a day):"),
            command: "systemctl start callbackd".to_owned(),
        }];
        (!alive).then_some(Finding { weight: Weight::Wary, about: About::Replica(*place), what, reason: None, mends })
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
    use crate::store::{DeadReason, SinkRow};

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
        judged(row, open).into_iter().flat_map(|finding| finding.mends).map(|mend| mend.command).collect()
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
        assert_eq!(failing[0].mends[0].command, "callbackd sinks test portal");
        let paused =
            SinkRow { name: "it's".to_owned(), paused: Some("an upgrade".to_owned()), dead: 2, ..waits(1, "503") };
        let quoted =
            ["sinks resume", "sinks test", "deliveries retry --sink"].map(|w| format!("callbackd {w} 'it'\\''s'"));
        assert_eq!(commands(paused, None), quoted);
        let refused = SinkRow { paused: Some(format!("{HALTED}answered 401")), ..SinkRow::of("portal") };
        let refused = judged(refused, None);
        let what = "The sink portal is paused, because its peer refuses us; 0 deliveries wait.";
        assert_eq!((refused[0].what.as_str(), refused[0].reason.as_deref()), (what, Some("answered 401")));
        assert_eq!(refused[0].weight, Weight::Bad);
        let steps = refused[0].mends.iter().map(|mend| format!("{} {}", mend.when, mend.command)).collect::<Vec<_>>();
        assert_eq!(steps, [" callbackd sinks test portal", "when that is delivered: callbackd sinks resume portal"]);
        let paused = judged(SinkRow { paused: Some(BY_AN_OPERATOR.to_owned()), ..SinkRow::of("portal") }, None);
        let what = "The sink portal is paused by an operator; 0 deliveries wait.";
        assert_eq!((paused[0].what.as_str(), &paused[0].reason), (what, &None));
    }

    #[test]
    fn a_source_that_only_refuses_is_a_fault() {
        let judge = Judge { commands: &Commands::default(), now: NOW };
        let of = |refused, kept| judge.refusing(&Refusing { source: "media".to_owned(), refused, kept });
        assert!(of(2, 0).is_none() && of(50, 50).is_none(), "somebody guesses");
        let found = of(12, 3).expect("found");
        let what = "The source media refused 12 callbacks in the last hour, and kept 3: a credential or an address is not \
                    what it expects.";
        assert_eq!((found.weight, found.what.as_str()), (Weight::Bad, what));
        assert_eq!(found.mends[1].command, "callbackd explain BODY --headers HEADERS");
    }

    #[test]
    fn dead_letters_come_with_their_reason_and_are_tried_before_they_are_retried() {
        let because = |count| Some(DeadReason { reason: "answered 401 Unauthorized".to_owned(), count });
        let dead = |dead, count| SinkRow { dead, dead_reason: because(count), ..SinkRow::of("hook") };
        let reason = |row: SinkRow| judged(row, None).remove(0).reason;
        assert_eq!(reason(dead(12, 12)).as_deref(), Some("12 × answered 401 Unauthorized"));
        assert_eq!(reason(dead(1, 1)).as_deref(), Some("answered 401 Unauthorized"));
        assert_eq!(reason(dead(4000, 150)).as_deref(), Some("150 of the latest 200: answered 401 Unauthorized"));
        assert_eq!(commands(dead(2, 1), None), ["callbackd sinks test hook", "callbackd deliveries retry --sink hook"]);
    }

    #[test]
    fn who_is_not_configured_any_more_is_put_back_before_anything_is_given_up() {
        let row = SinkRow { paused: Some(BY_AN_OPERATOR.to_owned()), dead: 1, ..waits(1, "503") };
        let judge = Judge { commands: &Commands::default(), now: NOW };
        let found = judge.sink(&SinkStanding::of(row, None), false);
        let steps: Vec<_> = found.iter().flat_map(|one| &one.mends).map(|mend| mend.command.as_str()).collect();
        let (check, discard) = ("callbackd check", "callbackd deliveries discard");
        let waiting = format!("{discard} --status waiting --sink portal");
        assert_eq!(steps, [check, RELOAD, &waiting, check, &format!("{discard} --sink portal")]);
        assert!(found.iter().all(|one| one.mends[0].when == "put [sinks.portal] back into the configuration, and:"));
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
        let complete = |text: &str| Commands::of(Some(Path::new("c.toml"))).complete(text);
        let said = "it was moved; `callbackd move --undo --from a.db` lets it be used";
        assert_eq!(complete(said), "it was moved; `callbackd move --undo --from a.db --config c.toml` lets it be used");
        for same in
            ["another `callbackd move` works on it", "run callbackd move --help", "`callbackd man x --config d.toml`"]
        {
            assert_eq!(complete(same), same);
        }
    }
}
