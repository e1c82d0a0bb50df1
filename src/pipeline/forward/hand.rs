//! What a forwarder has claimed and not begun: pure, so that its rule can be read.
//!
//! A claim takes a commit, and a quick sink has taken all that is under way long before. So more is claimed than can
//! begin at once: as much as the sink has lately taken during one claim. A slow sink has next to nothing ahead, and
//! however much waits, no more than [`AHEAD_MAX`] are in memory beside those under way.

use std::collections::{HashSet, VecDeque};

use crate::model::{Delivery, Moment, Time};
use crate::store::Claim;

/// So many deliveries are claimed ahead at most.
const AHEAD_MAX: usize = 256;

/// The ids of deliveries, by their leases.
pub(super) type Leases = Vec<(Time, Vec<i64>)>;

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    /// By what the store knows it.
    end: Time,
    /// When it ends here. Where the store goes by the clock of another machine, and this one's was set, the steady one tells;
    /// where it goes by this one, that tells.
    until: Moment,
}

/// Claimed deliveries in the order in which they are due, and what is known of the others.
#[derive(Debug, Default)]
pub(super) struct Hand {
    ready: VecDeque<(Delivery, Lease)>,
    /// What was not begun in time, until it is given back.
    late: Vec<(Delivery, Lease)>,
    /// The ids of what is under way.
    begun: HashSet<i64>,
    /// Tries that ended since the last claim was asked for.
    ended: usize,
    /// Nothing more is due, as far as is known, before this time; `None` when nothing is known.
    none_before: Option<Time>,
    /// Something may have come since the last claim was asked for, which that claim need not have seen.
    is_news: bool,
}

impl Hand {
    /// The store has, or may have, something new.
    pub(super) fn look_again(&mut self) {
        self.none_before = None;
        self.is_news = true;
    }

    /// The try of this delivery has ended.
    pub(super) fn ended(&mut self, delivery: i64) {
        self.ended += 1;
        self.begun.remove(&delivery);
    }

    /// A try has ended, and nobody can say of what.
    pub(super) fn ended_unsaid(&mut self) {
        self.ended += 1;
        self.begun.clear();
    }

    /// The next one to begin, whose lease lasts longer than until `until`. One whose lease ends before that is late. One that
    /// is under way, because the clock went on and its lease was over before its try, begins when that try has ended:
    /// else the next change could be told while an earlier one is still on its way.
    pub(super) fn next(&mut self, until: Moment) -> Option<(Delivery, Time)> {
        let mut place = 0;
        while let Some((delivery, lease)) = self.ready.get(place) {
            if !until.is_before(lease.until) {
                self.late.extend(self.ready.remove(place));
            } else if self.begun.contains(&delivery.id) {
                place += 1;
            } else {
                self.begun.insert(delivery.id);
                return self.ready.remove(place).map(|(delivery, lease)| (delivery, lease.end));
            }
        }
        None
    }

    /// How many to claim when `room` more could begin at once; 0 for none now.
    pub(super) fn wants(&self, room: usize, now: Time) -> usize {
        let ahead = (2 * self.ended).min(AHEAD_MAX);
        let is_low = room > 0 || self.ready.len() < ahead / 2;
        if !is_low || self.none_before.is_some_and(|time| now < time) {
            return 0;
        }
        (room + ahead).saturating_sub(self.ready.len())
    }

    /// A claim is under way.
    pub(super) fn asked(&mut self) {
        self.ended = 0;
        self.is_news = false;
    }

    /// Takes what was claimed, until then.
    pub(super) fn take(&mut self, claim: Claim, until: Moment, poll: Time, now: Time) {
        let lease = Lease { end: claim.until, until };
        self.ready.extend(claim.deliveries.into_iter().map(|delivery| (delivery, lease)));
        let none_before = claim.next_due.map_or(poll, |due| due.min(poll));
        self.none_before = (!self.is_news && none_before > now).then_some(none_before);
    }

    /// No claim is worth trying before `time`.
    pub(super) fn rest(&mut self, time: Time) {
        self.none_before = Some(time);
    }

    /// When to look again, if that is a time to wait for.
    pub(super) fn looks_at(&self, now: Time) -> Option<Time> {
        self.none_before.filter(|time| *time > now)
    }

    /// Everything that was not begun.
    pub(super) fn let_go(&mut self) -> Leases {
        by_lease(self.late.drain(..).chain(self.ready.drain(..)))
    }

    /// What is late.
    pub(super) fn let_go_late(&mut self) -> Leases {
        by_lease(self.late.drain(..))
    }
}

fn by_lease(deliveries: impl Iterator<Item = (Delivery, Lease)>) -> Leases {
    let mut all = Leases::new();
    for (delivery, lease) in deliveries {
        match all.last_mut() {
            Some((end, ids)) if *end == lease.end => ids.push(delivery.id),
            _ => all.push((lease.end, vec![delivery.id])),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::{Change, ChangeMeta, State, Update};

    const NOW: Time = Time::from_seconds(1_700_000_000);

    static STEADY: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// So many seconds from now by each of the clocks.
    fn moment(wall: u64, steady: u64) -> Moment {
        Moment { wall: NOW.plus_ms(wall * 1000), steady: *STEADY + Duration::from_secs(steady) }
    }

    /// Whatever may begin begins.
    fn begins(hand: &mut Hand) -> Vec<i64> {
        std::iter::from_fn(|| hand.next(moment(0, 0))).map(|(delivery, _)| delivery.id).collect()
    }

    fn delivery(id: i64) -> Delivery {
        let state = State::begin("media", Update::default()).state;
        let meta = ChangeMeta {
            kind: Change::OVERDUE.to_owned(),
            sequence: 1,
            previous_status: None,
            changed_tasks: Vec::new(),
            overdue: true,
            receipt: None,
            received_at: NOW,
        };
        let change = Change { id: 1, execution_id: 1, state, links: Vec::new(), meta };
        Delivery { id, change: change.into(), attempts: 0, created_at: NOW, resume: None, trace: None }
    }

    /// These deliveries, and more where they came from.
    fn claim(ids: Range<i64>) -> Claim {
        let deliveries = ids.map(delivery).collect();
        Claim { deliveries, until: NOW.plus_ms(90_000), next_due: Some(NOW), ..Claim::default() }
    }

    #[test]
    fn a_quick_sink_has_as_much_ahead_as_it_takes_and_a_slow_one_next_to_nothing() {
        let (mut hand, mut last) = (Hand::default(), 0);
        let mut claims = |hand: &mut Hand, room| {
            let wanted = hand.wants(room, NOW);
            hand.asked();
            hand.take(claim(last..last + wanted as i64), moment(90, 90), NOW, NOW);
            last += wanted as i64;
            wanted
        };
        assert_eq!(claims(&mut hand, 32), 32, "nothing is known of the sink");
        let mut most = 0;
        for _ in 0..20 {
            // All of it is taken before the next claim is answered.
            begins(&mut hand).into_iter().for_each(|id| hand.ended(id));
            most = most.max(claims(&mut hand, 32));
        }
        assert_eq!(most, 32 + AHEAD_MAX, "however quick it is");
        // From now on it takes one at a time.
        let begun = begins(&mut hand);
        hand.asked();
        for id in &begun[..20] {
            hand.ended(*id);
            let wanted = claims(&mut hand, 1);
            assert!(wanted <= 3, "{wanted}");
            begins(&mut hand);
        }
    }

    #[test]
    fn what_comes_during_a_claim_is_looked_for_after_it() {
        let nothing = || Claim { next_due: Some(NOW.plus_ms(60_000)), ..Claim::default() };
        let poll = NOW.plus_ms(5000);
        let mut hand = Hand::default();
        hand.asked();
        hand.take(nothing(), moment(90, 90), poll, NOW);
        assert_eq!((hand.wants(1, NOW), hand.looks_at(NOW)), (0, Some(poll)), "nothing is due");
        hand.look_again();
        assert_eq!(hand.wants(1, NOW), 1);
        hand.asked();
        hand.look_again();
        hand.take(nothing(), moment(90, 90), poll, NOW);
        assert_eq!(hand.wants(1, NOW), 1, "the claim may have been made before it came");
        hand.asked();
        hand.take(nothing(), moment(90, 90), poll, NOW);
        assert_eq!((hand.wants(1, NOW), hand.wants(1, poll)), (0, 1), "and at last it polls");
    }

    #[test]
    fn nothing_begins_that_its_lease_would_not_outlast_and_the_rest_is_given_back() {
        let mut hand = Hand::default();
        hand.take(Claim { until: NOW, ..claim(0..2) }, moment(0, 90), NOW, NOW);
        hand.take(claim(2..5), moment(90, 90), NOW, NOW);
        let begun = hand.next(moment(30, 30)).map(|(delivery, lease)| (delivery.id, lease));
        assert_eq!(begun, Some((2, NOW.plus_ms(90_000))));
        assert_eq!(hand.let_go_late(), [(NOW, vec![0, 1])]);
        assert_eq!(hand.let_go(), [(NOW.plus_ms(90_000), vec![3, 4])]);
        assert_eq!((hand.let_go(), hand.let_go_late()), (vec![], vec![]));
    }

    #[test]
    fn a_lease_is_over_by_either_clock() {
        let begins = |at| {
            let mut hand = Hand::default();
            hand.take(claim(0..1), moment(90, 90), NOW, NOW);
            hand.next(at).is_some()
        };
        assert!(begins(moment(89, 89)));
        assert!(!begins(moment(90, 0)), "set forward: so for who goes by it");
        assert!(!begins(moment(0, 90)), "set back: not for who goes by another");
    }

    #[test]
    fn what_is_under_way_does_not_begin_again_before_it_has_ended() {
        let mut hand = Hand::default();
        hand.take(claim(0..2), moment(90, 90), NOW, NOW);
        assert_eq!(begins(&mut hand), [0, 1]);
        // The clock went on by hours: the same deliveries under new leases.
        hand.take(claim(0..3), moment(90, 90), NOW, NOW);
        assert_eq!(begins(&mut hand), [2]);
        hand.ended(1);
        assert_eq!(begins(&mut hand), [1]);
        hand.ended(2);
        assert_eq!(hand.let_go(), [(NOW.plus_ms(90_000), vec![0])]);
        hand.take(claim(0..3), moment(90, 90), NOW, NOW);
        hand.ended_unsaid();
        assert_eq!(begins(&mut hand), [0, 1, 2], "nothing waits for ever");
    }
}
