//! What a forwarder has claimed and not begun: pure, so that its rule can be read.
//!
//! A claim takes a commit, and a quick sink has taken all that is under way long before. So more is claimed than can
//! begin at once: as much as the sink has lately taken during one claim. A slow sink has next to nothing ahead, and
//! however much waits, no more than [`AHEAD_MAX`] are in memory beside those under way.
//!
//! Where a claim has found no more than it took, what is fresh may be laid on a tray instead of being claimed, as much as
//! would be claimed.

use std::collections::{HashSet, VecDeque};

use crate::model::{Delivery, Moment, Time};
use crate::store::{Claim, Lease};

/// So many deliveries are claimed ahead at most.
const AHEAD_MAX: usize = 256;

/// The ids of deliveries, by their leases.
pub(super) type Leases = Vec<(Time, Vec<i64>)>;

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
    /// The claim that was asked for last: of how many, which are due until when; and whether its answer is still to come.
    claim: (usize, Time),
    is_asked: bool,
    /// The last one has left nothing behind.
    is_clear: bool,
    /// Tries that ended since something fresh came, and in the time before that.
    ended_since_fresh: usize,
    pace: usize,
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
        self.ended_since_fresh += 1;
        self.begun.remove(&delivery);
    }

    /// A try has ended, and nobody can say of what.
    pub(super) fn ended_unsaid(&mut self) {
        self.ended += 1;
        self.ended_since_fresh += 1;
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

    /// How many may be laid on the tray, beside what was asked for, when `room` more could begin at once.
    pub(super) fn takes(&self, room: usize) -> usize {
        let ahead = (2 * self.ended_since_fresh.max(self.pace)).min(AHEAD_MAX);
        let asked = if self.is_asked { self.claim.0 } else { 0 };
        if self.is_clear { (room + ahead).saturating_sub(self.ready.len() + asked) } else { 0 }
    }

    /// Takes what lay on the tray; where nothing is to begin now, to give it back.
    pub(super) fn take_fresh(&mut self, fresh: Vec<(Delivery, Lease)>, may_begin: bool) {
        if fresh.is_empty() {
            return;
        }
        // A moment in which little was laid there says little of the sink.
        self.pace = std::mem::take(&mut self.ended_since_fresh).max(self.pace / 2);
        if may_begin { self.ready.extend(fresh) } else { self.late.extend(fresh) }
    }

    /// A claim of so many that are due at `by` is under way.
    pub(super) fn asked(&mut self, limit: usize, by: Time) {
        self.ended = 0;
        self.is_news = false;
        (self.claim, self.is_asked) = ((limit, by), true);
    }

    /// Takes what was claimed, until then.
    pub(super) fn take(&mut self, claim: Claim, until: Moment, poll: Time, now: Time) {
        self.is_asked = false;
        self.is_clear = !claim.is_paused && claim.next_due != Some(self.claim.1);
        let lease = Lease { end: claim.until, until };
        self.ready.extend(claim.deliveries.into_iter().map(|delivery| (delivery, lease)));
        let none_before = claim.next_due.map_or(poll, |due| due.min(poll));
        self.none_before = (!self.is_news && none_before > now).then_some(none_before);
    }

    /// No claim is worth trying before `time`.
    pub(super) fn rest(&mut self, time: Time) {
        (self.is_asked, self.is_clear) = (false, false);
        self.none_before = Some(time);
    }

    /// When to look again, if that is a time to wait for.
    pub(super) fn looks_at(&self, now: Time) -> Option<Time> {
        self.none_before.filter(|time| *time > now)
    }

    /// Everything that was not begun; nor is more to come before a claim was answered.
    pub(super) fn let_go(&mut self) -> Leases {
        self.is_clear = false;
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
            hand.asked(wanted, NOW);
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
        hand.asked(1, NOW);
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
        hand.asked(1, NOW);
        hand.take(nothing(), moment(90, 90), poll, NOW);
        assert_eq!((hand.wants(1, NOW), hand.looks_at(NOW)), (0, Some(poll)), "nothing is due");
        hand.look_again();
        assert_eq!(hand.wants(1, NOW), 1);
        hand.asked(1, NOW);
        hand.look_again();
        hand.take(nothing(), moment(90, 90), poll, NOW);
        assert_eq!(hand.wants(1, NOW), 1, "the claim may have been made before it came");
        hand.asked(1, NOW);
        hand.take(nothing(), moment(90, 90), poll, NOW);
        assert_eq!((hand.wants(1, NOW), hand.wants(1, poll)), (0, 1), "and at last it polls");
    }

    #[test]
    fn what_is_fresh_has_room_where_a_claim_has_left_nothing_behind() {
        let lease = Lease { end: NOW.plus_ms(90_000), until: moment(90, 90) };
        let fresh = |ids: Range<i64>| ids.map(|id| (delivery(id), lease)).collect();
        let nothing_more = |ids| Claim { next_due: Some(NOW.plus_ms(60_000)), ..claim(ids) };
        let mut hand = Hand::default();
        assert_eq!(hand.takes(32), 0, "who knows what waits");
        hand.asked(32, NOW);
        hand.take(claim(0..32), moment(90, 90), NOW, NOW);
        begins(&mut hand);
        assert_eq!(hand.takes(4), 0, "more waits");
        hand.asked(32, NOW);
        hand.take(nothing_more(32..32), moment(90, 90), NOW, NOW);
        assert_eq!((hand.takes(4), hand.takes(0)), (4, 0), "nothing is known of the sink");
        (0..20).for_each(|id| hand.ended(id));
        assert_eq!(hand.takes(4), 4 + 40);
        hand.take_fresh(fresh(100..130), true);
        assert_eq!(hand.takes(4), 4 + 40 - 30);
        hand.asked(10, NOW);
        assert_eq!(hand.takes(4), 4 + 40 - 30 - 10, "beside what is claimed");
        hand.take(Claim { is_paused: true, ..Claim::default() }, moment(90, 90), NOW, NOW);
        assert_eq!(hand.takes(4), 0, "it is paused");
        hand.take(nothing_more(32..32), moment(90, 90), NOW, NOW);
        begins(&mut hand);
        // From now on nothing ends.
        (200..210).for_each(|id| hand.take_fresh(fresh(id..id + 1), true));
        assert_eq!(hand.takes(0), 0);
        begins(&mut hand);
        (100..300).for_each(|id| hand.ended(id));
        assert_eq!(hand.takes(32), 32 + AHEAD_MAX, "however quick it is");
        hand.take_fresh(fresh(300..302), false);
        assert_eq!((begins(&mut hand), hand.let_go_late()), (vec![], vec![(NOW.plus_ms(90_000), vec![300, 301])]));
        hand.let_go();
        assert_eq!(hand.takes(32), 0);
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
