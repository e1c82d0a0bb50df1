//! Links: what executions are known by, and which belong together.

use serde_json::Value;

use super::Tables;
use super::record::Place;
use crate::model::{Rules, Status, Time};
use crate::signature;

/// What an execution is known by under a link rule.
pub(crate) struct KnownBy {
    rule: String,
    /// The looking side (`of`), not the partner (`with`).
    looks: bool,
    key: String,
}

/// A key has to fit into every store's index, in bytes.
const KEY_MAX: usize = 1024;

/// What is looked up by a key of any length: a long one is known by its digest.
pub(crate) fn short_key(key: String) -> String {
    match key.len() {
        ..=KEY_MAX => key,
        _ => format!("sha256:{}", signature::hex(&signature::sha256(key.as_bytes()))),
    }
}

/// What an execution of `source` that says `data` is known by, and a rule's fault on it, if there is one.
pub(crate) fn known_by(source: &str, data: &Value, rules: &Rules) -> (Vec<KnownBy>, Option<String>) {
    let (mut known_by, mut link_fault) = (Vec::new(), None);
    for (position, rule) in rules.links.iter().enumerate() {
        for (looks, program, side) in [(true, &rule.key, &rule.of), (false, &rule.with_key, &rule.with)] {
            if side != source {
                continue;
            }
            match program.text(data) {
                Ok(Some(key)) => known_by.push(KnownBy { rule: rule.name(), looks, key: short_key(key) }),
                Ok(None) => {}
                Err(fault) => link_fault = Some(format!("links[{position}]: {fault}")),
            }
        }
    }
    (known_by, link_fault)
}

/// The newest execution known by the key `?2` under the rule `?1` as the partner, unfinished, unless `?3` has one.
pub(crate) const UNFINISHED_PARTNER: &str =
    "SELECT k.execution FROM link_keys k JOIN execution_heads h ON h.id = k.execution
     WHERE k.rule = ?1 AND k.side = 'with' AND k.key = ?2
       AND h.status NOT IN ('succeeded', 'failed', 'cancelled')
       AND NOT EXISTS (SELECT 1 FROM links l WHERE l.execution = ?3 AND l.rule = ?1)
     ORDER BY k.execution DESC LIMIT 1";

/// The newest execution that looks for the key `?2` under the rule `?1`, has something to tell, and no partner; unless `?3`
/// has one.
pub(crate) const LOOKING_PARTNER: &str = "SELECT k.execution FROM link_keys k
     WHERE k.rule = ?1 AND k.side = 'of' AND k.key = ?2
       AND EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = k.execution AND d.finished_at IS NULL)
       AND NOT EXISTS (SELECT 1 FROM links l WHERE l.execution = k.execution AND l.rule = ?1)
       AND NOT EXISTS (SELECT 1 FROM links l WHERE l.with_execution = ?3 AND l.rule = ?1)
     ORDER BY k.execution DESC LIMIT 1";

/// Remembers what an execution is known by, and ties it to its partner if that is known already.
pub(crate) fn link<X: Tables>(
    tx: &mut X,
    place: &Place,
    status: Status,
    known: &KnownBy,
    wake: &mut Vec<String>,
) -> Result<(), X::Fault> {
    let KnownBy { rule, looks, key } = known;
    tx.insert_link_key(rule, if *looks { "of" } else { "with" }, key, place.execution)?;
    let pair = if *looks {
        // The newest unfinished partner, once.
        tx.unfinished_partner(rule, key, place.execution)?.map(|with| (place.execution, with))
    } else if status.is_finished() {
        None
    } else {
        // The newest that still looks: what has nothing left to tell was not waiting for this one.
        tx.looking_partner(rule, key, place.execution)?.map(|of| (of, place.execution))
    };
    match pair {
        Some((of, with)) => tie(tx, rule, of, with, place.now, wake),
        None => Ok(()),
    }
}

/// The name under which a started execution is linked with the one that it comes of: no rule's.
const STARTED: &str = "started";

/// Ties an execution that a sink started to the one whose delivery started it, once.
pub(crate) fn tie_started<X: Tables>(
    tx: &mut X,
    started: i64,
    by: i64,
    now: Time,
    wake: &mut Vec<String>,
) -> Result<(), X::Fault> {
    if tx.is_tied(started, by)? { Ok(()) } else { tie(tx, STARTED, started, by, now, wake) }
}

/// Makes the link, and wakes what waited for it.
fn tie<X: Tables>(
    tx: &mut X,
    rule: &str,
    of: i64,
    with: i64,
    now: Time,
    wake: &mut Vec<String>,
) -> Result<(), X::Fault> {
    let id = tx.new_id(now);
    tx.insert_link(id, rule, of, with, now)?;
    // One that is under way keeps its lease; the settling of that looks for the link.
    tx.wake_linked(of, now, wake)
}
