//! Upkeep: lets go of what is older than the configuration wants to keep, or too much for the disk, and gives the room back.
//!
//! Oldest first, and only what is finished and told: the store sees to that, and to it that each step is short. What has
//! to stay is not looked at again every time: upkeep keeps its place, and begins anew once an hour.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::model::Time;
use crate::options::Size;
use crate::shutdown::Shutdown;
use crate::store::{Extent, Store, StoreError};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(15);
/// After so many times it looks again at what had to stay.
const ANEW: u32 = 240;
/// So many steps in a row that found nothing are enough for one time.
const IN_VAIN: u32 = 250;

/// Executions that go in one step.
const STEP: usize = 1000;
/// The same where no more is to go than has to.
const STEP_SHORT: usize = 50;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So long.
    pub age: Duration,
    /// The store takes no more of its disk than this, as long as something may go.
    pub disk_max: Size,
}

/// Runs until `stop`. `keep` is asked for anew each time, because a reload may change it.
pub async fn run(store: Arc<dyn Store>, keep: impl Fn() -> Keep + Send, stop: Shutdown) {
    let mut upkeep = Upkeep { store, old: Sweep::default(), oldest: Sweep::default(), is_over: false };
    loop {
        let round = async {
            if let Err(e) = upkeep.round(keep(), clock::now()).await {
                tracing::warn!(error = %e, "what is old stays for now");
            }
            tokio::time::sleep(EVERY).await;
        };
        tokio::select! {
            () = round => {}
            () = stop.begun() => return,
        }
    }
}

struct Upkeep {
    store: Arc<dyn Store>,
    /// Through what is older than it has to be kept.
    old: Sweep,
    /// Through everything, when the disk is short.
    oldest: Sweep,
    /// The disk's limit could not be met, which was said.
    is_over: bool,
}

/// A way through the store, oldest first, that is gone in many steps.
#[derive(Default)]
struct Sweep {
    place: i64,
    times: u32,
    /// Since its beginning.
    executions: u64,
}

impl Sweep {
    /// To be called once each time: begins anew now and then.
    fn begin(&mut self) {
        self.times += 1;
        if self.times > ANEW {
            *self = Sweep::default();
        }
    }

    /// One step: how many executions went, and whether it came to the end.
    async fn step(&mut self, store: &dyn Store, before: Time, most: usize) -> Result<(u64, bool), StoreError> {
        let step = store.prune(self.place, before, most).await?;
        // At the end it waits for what grows old next.
        self.place = step.next.unwrap_or(self.place.max(before.micros()));
        self.executions += step.executions;
        Ok((step.executions, step.next.is_none()))
    }
}

impl Upkeep {
    async fn round(&mut self, keep: Keep, now: Time) -> Result<(), StoreError> {
        let age = i64::try_from(keep.age.as_micros()).unwrap_or(i64::MAX);
        let executions = self.let_go_of_old(Time::from_micros(now.micros().saturating_sub(age))).await?;
        if executions > 0 {
            tracing::info!(executions, "let go of what was older than store.keep");
        }
        let (executions, extent) = self.let_go_of_oldest(keep.disk_max, now).await?;
        if executions > 0 {
            tracing::info!(executions, "let go of the oldest that was finished and told, to stay below store.disk_max");
        }
        let bytes = self.store.give_back(to_give_back(extent, keep.disk_max)).await?;
        if bytes > 0 {
            tracing::info!(store.bytes_given_back = bytes, "gave room back to the disk");
        }
        Ok(())
    }

    async fn let_go_of_old(&mut self, before: Time) -> Result<u64, StoreError> {
        let (mut executions, mut in_vain) = (0, 0);
        self.old.begin();
        while in_vain < IN_VAIN {
            let (gone, is_end) = self.old.step(&*self.store, before, STEP).await?;
            executions += gone;
            in_vain = if gone == 0 { in_vain + 1 } else { 0 };
            if is_end {
                break;
            }
        }
        Ok(executions)
    }

    async fn let_go_of_oldest(&mut self, disk_max: Size, now: Time) -> Result<(u64, Extent), StoreError> {
        let (mut executions, mut in_vain) = (0, 0);
        self.oldest.begin();
        loop {
            let extent = self.store.extent().await?;
            let bytes_max = disk_max.of(extent.disk);
            if extent.held <= bytes_max {
                self.is_over = false;
                return Ok((executions, extent));
            }
            if in_vain >= IN_VAIN {
                return Ok((executions, extent));
            }
            let (gone, is_end) = self.oldest.step(&*self.store, now, STEP_SHORT).await?;
            executions += gone;
            in_vain = if gone == 0 { in_vain + 1 } else { 0 };
            if !is_end {
                continue;
            }
            // All of it was looked at, from the first on.
            let found = std::mem::take(&mut self.oldest).executions;
            if found == 0 {
                if !std::mem::replace(&mut self.is_over, true) {
                    tracing::warn!(
                        store.bytes = extent.held,
                        store.bytes_max = bytes_max,
                        "store.disk_max cannot be met: what is left is not finished, not delivered, dead, held or quarantined, and stays"
                    );
                }
                return Ok((executions, extent));
            }
        }
    }
}

/// What holds nothing is kept for what comes, as long as it is little; the rest is given back.
fn to_give_back(extent: Extent, disk_max: Size) -> u64 {
    let Extent { held, free, disk } = extent;
    let over = (held + free).saturating_sub(disk_max.of(disk)).min(free);
    match free > held / 4 {
        true => over.max(free - held / 8),
        false => over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::{Options, SqliteStore};

    #[tokio::test]
    async fn what_has_to_stay_is_looked_at_again_only_now_and_then() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens");
        let mut upkeep =
            Upkeep { store: Arc::new(store), old: Sweep::default(), oldest: Sweep::default(), is_over: false };
        let keep = Keep { age: Duration::from_secs(10), disk_max: Size::Percent(100) };
        for round in 1..=ANEW {
            let now = Time::from_seconds(1000 + i64::from(round));
            upkeep.round(keep, now).await.expect("looked");
            assert_eq!(upkeep.old.place, now.micros() - 10_000_000, "it goes on from there");
        }
        upkeep.old.begin();
        assert_eq!(upkeep.old.place, 0, "anew");
        upkeep.store.close().await;
    }

    #[test]
    fn a_little_room_is_kept_for_what_comes_unless_it_is_too_much() {
        let extent = |held, free| Extent { held, free, disk: 1000 };
        let all = Size::Percent(100);
        assert_eq!(to_give_back(extent(400, 100), all), 0);
        assert_eq!(to_give_back(extent(400, 101), all), 51, "down to an eighth");
        assert_eq!(to_give_back(extent(0, 7), all), 7);
        let half = Size::Percent(50);
        assert_eq!(to_give_back(extent(450, 100), half), 50);
        assert_eq!(to_give_back(extent(600, 100), half), 100, "all there is");
    }
}
