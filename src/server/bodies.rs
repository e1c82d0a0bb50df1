//! The memory that bodies take while they come and until the store has them.
//!
//! All of them share `bodies_bytes_max`. So that nobody keeps the others out: what a small body takes is not counted at all,
//! and of what nobody vouches for before it is whole there may be half, an eighth from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pipeline::ingest::Refusal;

/// So many bytes of each body are not counted: nearly every callback is smaller. They are bounded by the connections.
pub(super) const SMALL_BYTES: usize = 16 << 10;

/// Bytes of all bodies in hand, beside the small part of each.
#[derive(Default)]
pub(super) struct Bodies {
    all: AtomicUsize,
    /// Those that may be anybody's: all, and by address.
    strange: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One body's share.
pub(super) struct Charge<'a> {
    bodies: &'a Bodies,
    max: usize,
    body_max: usize,
    /// Whose it is, where nobody vouches for it yet.
    stranger: Option<IpAddr>,
    /// What has come.
    pub(super) bytes: usize,
    /// How much of it is counted.
    counted: usize,
}

impl Bodies {
    /// For a body of at most `body_max` bytes, where all may have `max`.
    pub(super) fn charge(&self, max: usize, body_max: usize, stranger: Option<IpAddr>) -> Charge<'_> {
        Charge { bodies: self, max, body_max, stranger, bytes: 0, counted: 0 }
    }

    fn strange(&self) -> MutexGuard<'_, (usize, HashMap<IpAddr, usize>)> {
        self.strange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge<'_> {
    /// Charges what has come, not what was declared: who only announces a large body takes no room from others.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.bytes += bytes;
        let more = self.bytes.saturating_sub(SMALL_BYTES) - self.counted;
        if more == 0 {
            return Ok(());
        }
        self.counted += more;
        let mut full = self.bodies.all.fetch_add(more, Ordering::Relaxed) + more > self.max;
        if let Some(address) = self.stranger {
            let (of_all, of_address) = &mut *self.bodies.strange();
            let of_address = of_address.entry(address).or_default();
            *of_all += more;
            *of_address += more;
            // One body always fits: otherwise it could never be kept.
            let share = |part: usize| (self.max / part).max(self.body_max);
            full |= *of_all > share(2) || *of_address > share(8);
        }
        if full {
            return Err(Refusal::Unavailable("too many bytes of bodies are being received (bodies_bytes_max)".into()));
        }
        Ok(())
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if self.counted == 0 {
            return;
        }
        self.bodies.all.fetch_sub(self.counted, Ordering::Relaxed);
        if let Some(address) = self.stranger {
            let (of_all, of_address) = &mut *self.bodies.strange();
            *of_all -= self.counted;
            if let Some(bytes) = of_address.get_mut(&address) {
                *bytes -= self.counted;
                if *bytes == 0 {
                    of_address.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 800;

    fn address(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    #[test]
    fn bodies_share_one_memory_and_small_ones_need_none() {
        let bodies = Bodies::default();
        let charge = || bodies.charge(MAX, 10, None);
        let (mut one, mut two, mut small) = (charge(), charge(), charge());
        one.add(SMALL_BYTES + 500).expect("room");
        two.add(SMALL_BYTES).expect("a small one");
        two.add(301).expect_err("no room");
        small.add(SMALL_BYTES).expect("small ones are not counted");
        drop(two);
        one.add(300).expect("room again");
        drop((one, small));
        assert_eq!(bodies.all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn strangers_share_a_half_and_one_address_an_eighth() {
        let bodies = Bodies::default();
        let charge = |last| bodies.charge(MAX, 10, address(last));
        let (mut one, mut two) = (charge(1), charge(1));
        one.add(SMALL_BYTES + 90).expect("within its eighth");
        two.add(SMALL_BYTES + 10).expect("within its eighth");
        two.add(1).expect_err("beyond it");
        drop(two);
        let mut others: Vec<_> = (2..5).map(charge).collect();
        others.iter_mut().for_each(|other| other.add(SMALL_BYTES + 100).expect("each its own"));
        let mut last = charge(9);
        last.add(SMALL_BYTES + 11).expect_err("beyond the half");
        drop(last);
        let mut vouched = bodies.charge(MAX, 10, None);
        vouched.add(SMALL_BYTES + 410).expect("the other half");
        drop((one, others, vouched));
        assert_eq!(*bodies.strange(), (0, HashMap::new()));
        assert_eq!(bodies.all.load(Ordering::Relaxed), 0);
    }
}
