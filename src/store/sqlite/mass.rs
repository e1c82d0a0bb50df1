//! A change of many deliveries at once, as an operator asks for it.

use super::super::rules::Touched;
use super::SqliteStore;
use super::writer::{Fault, Tx};
use crate::model::Time;
use crate::store::{DeliveryFilter, StoreError};

impl SqliteStore {
    /// Carries out a mass change in chunks, so that callbacks are committed in between; oldest first, so that of one
    /// execution the earlier change stays before the later one.
    pub(super) async fn in_chunks(
        &self,
        filter: DeliveryFilter,
        now: Time,
        change: fn(&mut Tx<'_>, &DeliveryFilter, i64, Time) -> Result<Touched, Fault>,
    ) -> Result<u64, StoreError> {
        let mut filter = filter;
        let (mut after, before) = match &filter {
            DeliveryFilter::All(all) => (all.after.unwrap_or(0), all.before.unwrap_or(i64::MAX)),
            DeliveryFilter::One(_) => (0, i64::MAX),
        };
        let mut count = 0;
        loop {
            let chunk = filter.clone();
            let touched = self.call(move |tx| change(tx, &chunk, after, now)).await?;
            let touched_now = touched.rows.len() as u64;
            count += touched_now;
            let DeliveryFilter::All(all) = &mut filter else { return Ok(count) };
            if let Some(limit) = &mut all.limit {
                *limit = limit.saturating_sub(touched_now);
            }
            match touched.next {
                Some(next) if all.limit != Some(0) && next.saturating_add(1) < before => after = next,
                _ => return Ok(count),
            }
        }
    }
}
