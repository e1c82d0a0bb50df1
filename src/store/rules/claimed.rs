//! What was claimed, as the rows have it, and as a sink is handed it.

use serde_json::{Value, json};

use super::ReadySettlement;
use crate::Boxed;
use crate::model::{Change, ChangeMeta, Delivery, Link, State, Status, Time, Trace};
use crate::store::StoreError;

/// A claim ends with the snapshot that reaches this: what is claimed is held in memory until it is delivered.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// A claimed delivery as the rows have it; made into a [`Delivery`] off the writer's thread.
pub(crate) struct Claimed {
    pub(crate) id: i64,
    pub(crate) execution: i64,
    pub(crate) change: i64,
    pub(crate) attempts: u32,
    pub(crate) created_at: i64,
    pub(crate) resume: Option<String>,
    pub(crate) sequence: u32,
    pub(crate) kind: String,
    pub(crate) previous_status: Option<String>,
    pub(crate) changed_tasks: Option<String>,
    pub(crate) receipt: Option<i64>,
    pub(crate) received_at: i64,
    pub(crate) snapshot: String,
    pub(crate) links: Vec<Link>,
}

impl Claimed {
    /// `known` is what stands in its snapshot, where somebody remembers.
    pub(crate) fn into_delivery(self, known: Option<(State, Option<Trace>)>) -> Result<Delivery, StoreError> {
        let unreadable =
            |e: String| StoreError::Unusable(format!("change {} cannot be read from the store: {e}", self.change));
        let (state, trace) = match known {
            Some(known) => known,
            None => State::of_traced_snapshot(&self.snapshot).map_err(|e| unreadable(e.to_string()))?,
        };
        let previous_status =
            self.previous_status.as_deref().map(str::parse::<Status>).transpose().map_err(unreadable)?;
        let meta = ChangeMeta {
            overdue: self.kind == Change::OVERDUE,
            kind: self.kind,
            sequence: self.sequence,
            previous_status,
            changed_tasks: changed_tasks(self.changed_tasks.as_deref(), &state),
            receipt: self.receipt.map(|id| id.to_string()),
            received_at: Time::from_micros(self.received_at),
        };
        let change = Change { id: self.change, execution_id: self.execution, state, links: self.links, meta };
        Ok(Delivery {
            id: self.id,
            change: change.into(),
            attempts: self.attempts,
            created_at: Time::from_micros(self.created_at),
            resume: self.resume.and_then(|text| serde_json::from_str(&text).ok()),
            trace,
        })
    }
}

/// What of a claim can be told, and whether something else is due by now. What cannot be read is not to hold up the others:
/// `bury` makes a dead letter of it, which a later version may be able to read, and says whose turn comes. `known` is as for
/// [`Claimed::into_delivery`].
pub(crate) async fn legible<'s>(
    claimed: Vec<Claimed>,
    (lease, now): (Time, Time),
    known: impl Fn(&Claimed) -> Option<(State, Option<Trace>)>,
    bury: impl Fn(ReadySettlement) -> Boxed<'s, Result<Vec<String>, StoreError>>,
) -> (Vec<Delivery>, bool) {
    let (mut deliveries, mut is_due) = (Vec::with_capacity(claimed.len()), false);
    for one in claimed {
        let (id, known) = (one.id, known(&one));
        match one.into_delivery(known) {
            Ok(delivery) => deliveries.push(delivery),
            Err(e) => match bury(ReadySettlement::unreadable(id, e.to_string(), lease, now)).await {
                Ok(wake) => is_due |= !wake.is_empty(),
                Err(e) => {
                    tracing::warn!(delivery.id = id, error = %e, "cannot be read, and waits until its lease ends")
                }
            },
        }
    }
    (deliveries, is_due)
}

/// The keys of the tasks that a change changed, as they are stored.
pub(crate) fn changed_tasks(stored: Option<&str>, state: &State) -> Vec<String> {
    match stored {
        Some(keys) => serde_json::from_str(keys).unwrap_or_default(),
        None => state.tasks.iter().map(|task| task.key.clone()).collect(),
    }
}

/// So many bytes of an execution's snapshots are told at once; the latest is, however large.
pub(crate) const CONTENT_BYTES: usize = 4 << 20;
/// So many bytes of each list beside them.
pub(crate) const LIST_BYTES: usize = 4 << 20;
/// Tries of one delivery that are told at once.
pub(crate) const ATTEMPTS: i64 = 1000;

/// A change of which the content is left out.
pub(crate) fn without_content(id: i64, meta: &ChangeMeta) -> Value {
    let change = json!({
        "sequence": meta.sequence,
        "overdue": meta.overdue,
        "type": meta.kind,
        "previous_status": meta.previous_status,
        "changed_tasks": null,
        "receipt": meta.receipt,
        "received_at": meta.received_at,
    });
    json!({ "id": id.to_string(), "data": { "execution": null, "tasks": null, "change": change } })
}
