//! Upkeep: lets go of what is older than the configuration wants to keep, or too much for the disk, and gives the room back.
//!
//! Oldest first, and only what is finished and told: the store sees to that, and to it that each step is short. What has
//! to stay is not looked at again every time: upkeep keeps its place, and begins anew once an hour. Where it is to be
//! exported, nothing goes that is not in a file that was synced ([`Exporter`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::model::Time;
use crate::options::Size;
use crate::shutdown::Shutdown;
use crate::store::{Export, Extent, Store, StoreError};

mod export;
mod forecast;

pub use export::Exporter;
pub use forecast::{Amount, Forecast, forecast};

/// How often it looks: after so many seconds.
const EVERY: u32 = 15;
/// After so many times it looks again at what had to stay.
const ANEW: u32 = 240;
/// So many steps in a row that found nothing are enough for one time.
const IN_VAIN: u32 = 250;

/// Executions that go in one step.
const STEP: usize = 1000;
/// The same where no more is to go than has to.
const STEP_SHORT: usize = 50;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So long.
    pub age: Duration,
    /// The store takes no more of its disk than this, as long as something may go.
    pub disk_max: Size,
    /// What goes is written to files in this folder first.
    pub export: Option<PathBuf>,
}

/// Runs until `stop`. `keep` is asked for anew each time, because a reload may change it.
pub async fn run(store: Arc<dyn Store>, keep: impl Fn() -> Keep + Send, exporter: Exporter, stop: Shutdown) {
    let mut upkeep = Upkeep::new(store, exporter);
    let mut fault = None;
    loop {
        let round = async {
            let gone = upkeep.round(&keep(), clock::now()).await;
            // Said once, not at every round.
            let said = gone.as_ref().err().map(ToString::to_string);
            match &said {
                Some(error) if fault != said => tracing::warn!(error, "what is old stays for now"),
                None if fault.is_some() => tracing::info!("what is old goes again"),
                _ => {}
            }
            fault = said;
            upkeep.rest(gone.unwrap_or(false)).await;
        };
        tokio::select! {
            () = round => {}
            () = stop.begun() => return,
        }
    }
}

struct Upkeep {
    store: Arc<dyn Store>,
    exporter: Exporter,
    /// The same, while it is wanted.
    export: Option<Arc<dyn Export>>,
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
    async fn step(
        &mut self,
        store: &dyn Store,
        before: Time,
        most: usize,
        export: &Option<Arc<dyn Export>>,
    ) -> Result<(u64, bool), StoreError> {
        let step = store.prune(self.place, before, most, export.clone()).await?;
        // At the end it waits for what grows old next.
        self.place = step.next.unwrap_or(self.place.max(before.micros()));
        self.executions += step.executions;
        Ok((step.executions, step.next.is_none()))
    }
}

impl Upkeep {
    fn new(store: Arc<dyn Store>, exporter: Exporter) -> Upkeep {
        let (old, oldest) = (Sweep::default(), Sweep::default());
        Upkeep { store, exporter, export: None, old, oldest, is_over: false }
    }

    /// Until the next round. Senders are not to wait for it on a full disk, as long as a round may help them: the last one
    /// did, or the disk was not full then.
    async fn rest(&self, mut may_help: bool) {
        for _ in 0..EVERY {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let is_ready = self.store.ready().is_ok();
            if may_help && !is_ready {
                return;
            }
            may_help |= is_ready;
        }
    }

    /// Whether anything went.
    async fn round(&mut self, keep: &Keep, now: Time) -> Result<bool, StoreError> {
        let (exporter, folder) = (self.exporter.clone(), keep.export.clone());
        // It writes to a disk, and may wait for one who does.
        let begun = tokio::task::spawn_blocking(move || exporter.begin(folder.as_deref(), now)).await;
        let is_exported = begun
            .unwrap_or_else(|_| Err(std::io::Error::other("callbackd's own fault: it panicked")))
            .map_err(|e| StoreError::Unavailable(format!("store.export cannot be written: {e}")))?;
        self.export = is_exported.then(|| Arc::new(self.exporter.clone()) as Arc<dyn Export>);
        let age = i64::try_from(keep.age.as_micros()).unwrap_or(i64::MAX);
        let old = self.let_go_of_old(Time::from_micros(now.micros().saturating_sub(age))).await?;
        if old > 0 {
            tracing::info!(executions = old, "let go of what was older than store.keep");
        }
        let (executions, extent) = self.let_go_of_oldest(keep.disk_max, now).await?;
        if executions > 0 {
            tracing::info!(executions, "let go of the oldest that was finished and told, to stay below store.disk_max");
        }
        let bytes = self.store.give_back(to_give_back(extent, keep.disk_max)).await?;
        if bytes > 0 {
            tracing::info!(store.bytes_given_back = bytes, "gave room back to the disk");
        }
        Ok(old + executions > 0)
    }

    async fn let_go_of_old(&mut self, before: Time) -> Result<u64, StoreError> {
        let (mut executions, mut in_vain) = (0, 0);
        self.old.begin();
        while in_vain < IN_VAIN {
            let (gone, is_end) = self.old.step(&*self.store, before, STEP, &self.export).await?;
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
            let bytes_max = bytes_max(extent, disk_max);
            if extent.held <= bytes_max {
                self.is_over = false;
                return Ok((executions, extent));
            }
            if in_vain >= IN_VAIN {
                return Ok((executions, extent));
            }
            let (gone, is_end) = self.oldest.step(&*self.store, now, STEP_SHORT, &self.export).await?;
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

/// What the store may hold: no more than `disk_max`, and no more than leaves room to work in. But where it takes less than
/// half of a full disk, it is for others to make room.
pub fn bytes_max(extent: Extent, disk_max: Size) -> u64 {
    let with_room = (extent.held + extent.room).saturating_sub(extent.spare());
    disk_max.of(extent.disk).min(with_room.max(extent.disk / 2))
}

/// What holds nothing is kept for what comes, as long as it is little; the rest is given back.
fn to_give_back(extent: Extent, disk_max: Size) -> u64 {
    let Extent { held, free, disk, .. } = extent;
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
        let mut upkeep = Upkeep::new(Arc::new(store), Exporter::default());
        let keep = Keep { age: Duration::from_secs(10), disk_max: Size::Percent(100), export: None };
        for round in 1..=ANEW {
            let now = Time::from_seconds(1000 + i64::from(round));
            upkeep.round(&keep, now).await.expect("looked");
            assert_eq!(upkeep.old.place, now.micros() - 10_000_000, "it goes on from there");
        }
        upkeep.old.begin();
        assert_eq!(upkeep.old.place, 0, "anew");
        upkeep.store.close().await;
    }

    #[test]
    fn room_to_work_in_is_left_on_a_disk_that_is_the_stores() {
        let bytes_max =
            |held, room, percent| bytes_max(Extent { held, free: 0, room, disk: 800 }, Size::Percent(percent));
        assert_eq!(bytes_max(400, 400, 50), 400, "as it is configured");
        assert_eq!(bytes_max(600, 200, 100), 700, "all but an eighth");
        assert_eq!(bytes_max(600, 0, 80), 500, "and so where others take room, too");
        assert_eq!(bytes_max(430, 0, 80), 400, "down to the half");
        assert_eq!(bytes_max(100, 0, 80), 400, "what others filled is theirs to clear");
        let large = Extent { held: 99 << 30, free: 0, room: 1 << 30, disk: 100 << 30 };
        assert_eq!(large.spare(), 128 << 20, "of a large one not so much");
    }

    #[test]
    fn a_little_room_is_kept_for_what_comes_unless_it_is_too_much() {
        let extent = |held, free| Extent { held, free, room: 1000 - held, disk: 1000 };
        let all = Size::Percent(100);
        assert_eq!(to_give_back(extent(400, 100), all), 0);
        assert_eq!(to_give_back(extent(400, 101), all), 51, "down to an eighth");
        assert_eq!(to_give_back(extent(0, 7), all), 7);
        let half = Size::Percent(50);
        assert_eq!(to_give_back(extent(450, 100), half), 50);
        assert_eq!(to_give_back(extent(600, 100), half), 100, "all there is");
    }
}
