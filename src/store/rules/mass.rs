//! A change of many deliveries at once, as an operator asks for it: in chunks, each a transaction that looks at no more
//! than it should.

use super::Touched;
use crate::store::{DeliveryFilter, StoreError};

/// How many deliveries one transaction touches: more would hold up callbacks.
pub(crate) const CHUNK: usize = 500;
/// How many it looks at for that.
pub(crate) const LOOK: i64 = 5000;

/// So many rows after an id, and the last of them: what one transaction looks at.
pub(crate) const WINDOW: &str =
    "SELECT count(*), max(id) FROM (SELECT id FROM deliveries WHERE id > ?1 ORDER BY id LIMIT ?2) q";

/// After which id the next chunk begins, where so many were looked at up to `end`, and of these `found`, at most `limit`.
pub(crate) fn next_chunk(found: &[(i64, i64, String)], limit: usize, looked_at: i64, end: i64) -> Option<i64> {
    match found.last() {
        Some((id, _, _)) if found.len() == limit => Some(*id),
        _ => (looked_at == LOOK).then_some(end),
    }
}

/// Carries out such a change chunk by chunk, each after the id that it is given, so that callbacks are committed in
/// between; oldest first, so that of one execution the earlier change stays before the later one.
pub(crate) async fn in_chunks<F>(
    mut filter: DeliveryFilter,
    mut change: impl FnMut(DeliveryFilter, i64) -> F,
) -> Result<u64, StoreError>
where
    F: Future<Output = Result<Touched, StoreError>>,
{
    let (mut after, before) = match &filter {
        DeliveryFilter::All(all) => (all.after.unwrap_or(0), all.before.unwrap_or(i64::MAX)),
        DeliveryFilter::One(_) => (0, i64::MAX),
    };
    let mut count = 0;
    loop {
        let touched = change(filter.clone(), after).await?;
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
