//! Deliveries that are leased as they are promised. A forwarder with nothing left to claim says how many it would begin at
//! once; a store that records for it leases so many to it in the transaction that promises them, and lays them here when that
//! is committed. None of them costs a claim, and they are under a lease like any other.
//!
//! Who knows of something that waits has no room here: what is fresh comes after what waited.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::rules::Claimed;
use crate::model::{Delivery, Moment, Time};

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// By what the store knows it.
    pub end: Time,
    /// When it ends here. Where the store goes by the clock of another machine, and this one's was set, the steady one tells;
    /// where it goes by this one, that tells.
    pub until: Moment,
}

/// Between a store and the forwarder of one sink.
pub struct Tray {
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Default)]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "no other store lays anything here"))]
struct Held {
    lease: Duration,
    /// So many may lie here and be on their way.
    room: usize,
    coming: usize,
    lying: Vec<(Claimed, Lease)>,
    /// Of the snapshots of both.
    bytes: usize,
    /// The end of the lease that was given last.
    last: Time,
    is_closed: bool,
}

impl Tray {
    /// What is laid here is leased for so long.
    pub fn new(lease: Duration) -> Arc<Tray> {
        Arc::new(Tray { held: Mutex::new(Held { lease, ..Held::default() }), filled: Notify::new() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many may lie here, those among them that are on their way.
    pub fn set_room(&self, room: usize) {
        self.held().room = room;
    }

    /// What lies here, each with its lease, in the order in which it was promised.
    pub fn take(&self) -> Vec<(Delivery, Lease)> {
        let lying = {
            let mut held = self.held();
            held.bytes -= held.lying.iter().map(|(one, _)| one.snapshot.len()).sum::<usize>();
            std::mem::take(&mut held.lying)
        };
        let read = |(one, lease): (Claimed, Lease)| {
            let id = one.id;
            let unreadable =
                |e| tracing::warn!(delivery.id = id, error = %e, "cannot be read, and waits until its lease ends");
            one.into_delivery(None).map_err(unreadable).ok().map(|delivery| (delivery, lease))
        };
        lying.into_iter().filter_map(read).collect()
    }

    /// Waits until something was laid here.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Nothing is laid here any more. What lies here still.
    pub fn close(&self) -> Vec<(Delivery, Lease)> {
        self.held().is_closed = true;
        self.take()
    }
}

/// The store's side.
#[cfg(feature = "postgres")]
impl Tray {
    /// Where a snapshot is longer, its delivery is claimed: of large ones fewer are in memory.
    const SNAPSHOT_MAX: usize = Tray::BYTES_MAX / 64;
    const BYTES_MAX: usize = super::rules::BYTES_MAX;

    /// Takes a place for a delivery whose snapshot is so long, if there is one.
    pub(crate) fn expect(&self, bytes: usize) -> bool {
        let mut held = self.held();
        let is_full =
            held.is_closed || held.coming + held.lying.len() >= held.room || held.bytes + bytes > Tray::BYTES_MAX;
        if is_full || bytes > Tray::SNAPSHOT_MAX {
            return false;
        }
        held.coming += 1;
        held.bytes += bytes;
        true
    }

    /// A lease that begins now, which is `now` for the store: each ends at another instant, by which it is known.
    pub(crate) fn lease(&self, here: Moment, now: Time) -> Lease {
        let mut held = self.held();
        let ms = u64::try_from(held.lease.as_millis()).unwrap_or(u64::MAX);
        held.last = now.plus_ms(ms).max(Time::from_micros(held.last.micros() + 1));
        Lease { end: held.last, until: here.plus(held.lease) }
    }

    /// So many do not come.
    pub(crate) fn forgo(&self, count: usize, bytes: usize) {
        let mut held = self.held();
        held.coming -= count;
        held.bytes -= bytes;
    }

    /// Lays here what was expected, and is committed; its ids come back when nobody takes it any more.
    pub(crate) fn lay(&self, leased: Vec<Claimed>, lease: Lease) -> Result<(), Vec<i64>> {
        let mut held = self.held();
        held.coming -= leased.len();
        if held.is_closed {
            held.bytes -= leased.iter().map(|one| one.snapshot.len()).sum::<usize>();
            return Err(leased.iter().map(|one| one.id).collect());
        }
        held.lying.extend(leased.into_iter().map(|one| (one, lease)));
        drop(held);
        self.filled.notify_one();
        Ok(())
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::{State, Update};

    const NOW: Time = Time::from_seconds(1_700_000_000);

    fn here() -> Moment {
        Moment { wall: NOW, steady: Instant::now() }
    }

    fn lease() -> Lease {
        Lease { end: NOW, until: here() }
    }

    fn claimed(id: i64) -> Claimed {
        Claimed {
            id,
            execution: id,
            change: id,
            attempts: 0,
            created_at: 0,
            resume: None,
            sequence: 1,
            kind: String::new(),
            previous_status: None,
            changed_tasks: None,
            receipt: None,
            received_at: 0,
            snapshot: State::begin("media", Update::default()).state.snapshot(),
            links: Vec::new(),
        }
    }

    fn ids(taken: Vec<(Delivery, Lease)>) -> Vec<i64> {
        taken.into_iter().map(|(delivery, _)| delivery.id).collect()
    }

    #[test]
    fn no_more_come_than_there_is_room_for_and_room_that_is_not_used_is_given_back() {
        let (tray, bytes) = (Tray::new(Duration::from_secs(1)), claimed(0).snapshot.len());
        assert!(!tray.expect(bytes), "nobody has said anything yet");
        tray.set_room(2);
        assert!(tray.expect(bytes) && tray.expect(bytes) && !tray.expect(bytes));
        tray.forgo(1, bytes);
        tray.lay(vec![claimed(1)], lease()).expect("taken");
        assert!(tray.expect(bytes) && !tray.expect(bytes), "what lies there takes room");
        assert_eq!(ids(tray.take()), [1]);
        assert!(tray.expect(bytes) && !tray.expect(bytes));
        tray.set_room(1);
        tray.lay(vec![claimed(2), claimed(3)], lease()).expect("what was promised");
        assert_eq!(ids(tray.close()), [2, 3]);
        assert!(!tray.expect(bytes));
        let held = tray.held();
        assert_eq!((held.coming, held.bytes, held.lying.len()), (0, 0, 0));
    }

    #[test]
    fn what_comes_when_nobody_takes_it_goes_back() {
        let (tray, bytes) = (Tray::new(Duration::from_secs(1)), claimed(0).snapshot.len());
        tray.set_room(1);
        assert!(tray.expect(bytes));
        assert_eq!(tray.close().len(), 0);
        assert_eq!(tray.lay(vec![claimed(7)], lease()), Err(vec![7]));
        let held = tray.held();
        assert_eq!((held.coming, held.bytes), (0, 0));
    }

    #[test]
    fn snapshots_are_bounded_one_by_one_and_together() {
        let tray = Tray::new(Duration::from_secs(1));
        tray.set_room(1000);
        assert!(!tray.expect(Tray::SNAPSHOT_MAX + 1));
        assert_eq!((0..1000).filter(|_| tray.expect(Tray::SNAPSHOT_MAX)).count(), 64);
    }

    #[test]
    fn every_lease_ends_at_another_instant() {
        let tray = Tray::new(Duration::from_secs(1));
        let ends = [NOW, NOW, NOW.plus_ms(5), NOW]
            .map(|now| tray.lease(here(), now).end.micros() - NOW.plus_ms(1000).micros());
        assert_eq!(ends, [0, 1, 5000, 5001]);
    }
}
