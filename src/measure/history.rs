//! The last day, by the minute: what plots are drawn from. A ring of differences, which nothing on the hot path feeds.

use std::collections::VecDeque;
use std::sync::Arc;

use super::cells::{Counts, Spread, TIMES};
use super::{Answer, Measures, Tried};
use crate::model::Time;

/// So many minutes are kept: a day.
pub const MINUTES_MAX: usize = 24 * 60;

/// What the store says of a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Deliveries that wait or are under way.
    pub waiting: u64,
    /// When the oldest of these was promised.
    pub oldest_at: Option<Time>,
    /// Dead letters.
    pub dead: u64,
    /// It is told nothing for now.
    pub is_paused: bool,
    /// Something waits that it could be told.
    pub may_be_tried: bool,
}

/// One minute's figures. Sources and sinks with which nothing happened in it are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Minute {
    /// Its beginning.
    pub at: Time,
    /// How long it was: the first and the running one are shorter.
    pub span_ms: u64,
    /// How each source's callbacks were answered.
    pub answers: Vec<(Arc<str>, Counts<Answer>)>,
    /// From the whole body until it was known what became of it, in microseconds; all sources together.
    pub latency: Spread,
    /// How tries to deliver ended.
    pub tries: Vec<(Arc<str>, Counts<Tried>)>,
    /// How long commits took, in microseconds.
    pub commits: Spread,
    /// Commits that failed.
    pub commits_failed: u64,
    /// How the sinks stood at its end that had something waiting or dead.
    pub standings: Vec<(Arc<str>, Standing)>,
}

/// Figures since the process began. Series are only ever added: each keeps its place.
#[derive(Debug, Default)]
struct Totals {
    answers: Vec<Counts<Answer>>,
    latency: Option<Spread>,
    tries: Vec<Counts<Tried>>,
    commits: Option<Spread>,
    commits_failed: u64,
}

/// The minutes that ended, and where the running one began.
#[derive(Debug)]
pub(super) struct History {
    ended: VecDeque<Minute>,
    began_at: Time,
    before: Totals,
}

impl History {
    pub(super) fn new(now: Time) -> History {
        History { ended: VecDeque::new(), began_at: now, before: Totals::default() }
    }

    pub(super) fn end_minute(&mut self, measures: &Measures, now: Time) {
        let (minute, totals) = self.running(measures, now);
        if self.ended.len() == MINUTES_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(minute);
        (self.before, self.began_at) = (totals, now);
    }

    pub(super) fn minutes(&self, measures: &Measures, now: Time) -> Vec<Minute> {
        self.ended.iter().cloned().chain([self.running(measures, now).0]).collect()
    }

    fn running(&self, measures: &Measures, now: Time) -> (Minute, Totals) {
        let (sources, sinks, before) = (measures.sources(), measures.sinks(), &self.before);
        let together = |all: Spread, of: &Arc<super::OfSource>| all.and(&of.latency.spread());
        let totals = Totals {
            answers: sources.iter().map(|of| of.answers.counts()).collect(),
            latency: Some(sources.iter().fold(Spread::none(TIMES), together)),
            tries: sinks.iter().map(|of| of.tries.counts()).collect(),
            commits: Some(measures.store.commit.spread()),
            commits_failed: measures.store.failed.get(),
        };
        let answers = sources.iter().zip(&totals.answers).enumerate();
        let answers = answers.map(|(n, (of, counts))| (Arc::clone(&of.name), counts.since(before.answers.get(n))));
        let tries = sinks.iter().zip(&totals.tries).enumerate();
        let tries = tries.map(|(n, (of, counts))| (Arc::clone(&of.name), counts.since(before.tries.get(n))));
        let since = |now: &Option<Spread>, before: &Option<Spread>| {
            now.as_ref().map_or_else(|| Spread::none(TIMES), |now| now.since(before.as_ref()))
        };
        let standings = sinks.iter().map(|of| (Arc::clone(&of.name), of.standing()));
        let minute = Minute {
            at: self.began_at,
            span_ms: now.ms_since(self.began_at),
            answers: answers.filter(|(_, counts)| counts.total() > 0).collect(),
            latency: since(&totals.latency, &before.latency),
            tries: tries.filter(|(_, counts)| counts.total() > 0).collect(),
            commits: since(&totals.commits, &before.commits),
            commits_failed: totals.commits_failed - before.commits_failed,
            standings: standings.filter(|(_, standing)| standing.waiting > 0 || standing.dead > 0).collect(),
        };
        (minute, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_holds_what_happened_in_it() {
        let t0 = Time::from_seconds(1_700_000_000);
        let measures = Measures::new(t0);
        let media = measures.source("media");
        media.answers.add(Answer::Accepted);
        media.latency.add(2_000);
        measures.end_minute(t0.plus_ms(40_000));
        media.answers.add(Answer::Duplicate);
        measures.sink("portal").tries.add(Tried::Retry);
        measures.stand(&[("portal", Standing { waiting: 7, ..Standing::default() })]);
        measures.source("new").answers.add(Answer::Rate);
        measures.end_minute(t0.plus_ms(100_000));
        let minutes = measures.history(t0.plus_ms(110_000));
        let spans: Vec<_> = minutes.iter().map(|minute| (minute.at.ms_since(t0), minute.span_ms)).collect();
        assert_eq!(spans, [(0, 40_000), (40_000, 60_000), (100_000, 10_000)]);
        let answers = |minute: &Minute| -> Vec<_> {
            let each = minute.answers.iter().flat_map(|(name, counts)| {
                counts.each().filter(|(_, count)| *count > 0).map(|(word, count)| (name.to_string(), word, count))
            });
            each.collect()
        };
        assert_eq!(answers(&minutes[0]), [("media".to_owned(), Answer::Accepted, 1)]);
        let second = [("media".to_owned(), Answer::Duplicate, 1), ("new".to_owned(), Answer::Rate, 1)];
        assert_eq!(answers(&minutes[1]), second);
        assert_eq!((minutes[0].latency.count(), minutes[1].latency.count()), (1, 0));
        assert_eq!(minutes[1].tries[0].1.of(Tried::Retry), 1);
        assert_eq!(minutes[1].standings[0].1.waiting, 7);
        assert!(minutes[2].answers.is_empty() && minutes[2].tries.is_empty());
    }

    #[test]
    fn a_day_is_kept() {
        let measures = Measures::new(Time::default());
        for minute in 1..=MINUTES_MAX as u64 + 5 {
            measures.end_minute(Time::default().plus_ms(minute * 60_000));
        }
        let minutes = measures.history(Time::default().plus_ms((MINUTES_MAX as u64 + 5) * 60_000));
        assert_eq!(minutes.len(), MINUTES_MAX + 1);
        assert_eq!(minutes[0].at.ms_since(Time::default()), 5 * 60_000);
    }
}
