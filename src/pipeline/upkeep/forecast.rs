//! What upkeep will let go of next, by the same rules, without letting go of anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::{Keep, bytes_max};
use crate::model::Time;
use crate::store::{MayGo, Queries, StoreError};

const DAY_MS: u64 = 86_400_000;

/// What goes, and what does not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Forecast {
    /// Older than `store.keep` now: goes at the next run.
    pub by_age: Amount,
    /// Within the next day, with those.
    pub within_a_day: Amount,
    /// Within the next week, with those.
    pub within_a_week: Amount,
    /// Beside what goes by its age: the oldest, because of `store.disk_max`.
    pub by_disk: Amount,
    /// How much more has to go than may.
    pub bytes_over: u64,
    /// May go once it is old enough.
    pub later: Amount,
    /// Executions that stay, by the reason.
    pub stay: BTreeMap<String, u64>,
    /// Receipts of no execution, by their statuses: quarantined and held ones stay, the others go by their age.
    pub receipts_alone: BTreeMap<String, u64>,
    /// What the store holds, and may hold, in bytes.
    pub bytes_held: u64,
    /// The same for the limit.
    pub bytes_max: u64,
    /// Where what goes is kept; nowhere: it is gone.
    pub export: Option<PathBuf>,
}

/// How much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Executions.
    pub executions: u64,
    /// The receipts that go with them.
    pub receipts: u64,
    /// About so many bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, one: &MayGo) {
        self.executions += 1;
        self.receipts += one.receipts;
        self.bytes += one.bytes;
    }
}

/// Looks through the whole store, a part at a time.
pub async fn forecast(store: &dyn Queries, keep: &Keep, now: Time) -> Result<Forecast, StoreError> {
    let mut seen = Forecast { export: keep.export.clone(), ..Forecast::default() };
    let age = i64::try_from(keep.age.as_micros()).unwrap_or(i64::MAX);
    let before = |ms: u64| Time::from_micros(now.plus_ms(ms).micros().saturating_sub(age));
    let (today, tomorrow, next_week) = (before(0), before(DAY_MS), before(7 * DAY_MS));
    let mut from = Some(0);
    while let Some(place) = from {
        let part = store.outlook(place).await?;
        if let Some(extent) = part.extent.filter(|_| place == 0) {
            seen.bytes_held = extent.held;
            seen.bytes_max = bytes_max(extent, keep.disk_max);
            seen.receipts_alone = part.receipts;
        }
        let over = seen.bytes_held.saturating_sub(seen.bytes_max);
        for one in &part.may_go {
            if one.changed_at < today {
                seen.by_age.add(one);
            } else if seen.by_age.bytes + seen.by_disk.bytes < over {
                // Oldest first, as it will be; what is old enough further on goes before it, and makes this too many at worst.
                seen.by_disk.add(one);
            } else {
                seen.later.add(one);
            }
            if one.changed_at < tomorrow {
                seen.within_a_day.add(one);
            }
            if one.changed_at < next_week {
                seen.within_a_week.add(one);
            }
        }
        for (why, count) in part.stay {
            *seen.stay.entry(why).or_default() += count;
        }
        seen.bytes_over = over.saturating_sub(seen.by_age.bytes + seen.by_disk.bytes);
        from = part.next;
    }
    Ok(seen)
}
