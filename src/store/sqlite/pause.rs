//! Pauses inside the transaction: sinks that are told nothing for now, because an operator or their peer wants it so.

use super::writer::{Fault, Tx};
use crate::shutdown::Shutdown;

/// An operator's word: with a reason, or the pause is over.
pub(super) fn pause(tx: &mut Tx<'_>, sink: &str, reason: Option<&str>) -> Result<(), Fault> {
    match reason {
        Some(reason) => tx.conn.execute(
            "INSERT INTO sink_pauses (sink, reason) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET reason = excluded.reason",
            [sink, reason],
        )?,
        None => tx.conn.execute("DELETE FROM sink_pauses WHERE sink = ?1", [sink])?,
    };
    Ok(())
}

/// The peer's word, which changes nothing about an operator's; whether the sink is paused by it.
pub(super) fn halt(tx: &mut Tx<'_>, sink: &str, reason: &str, replaced: &Shutdown) -> Result<bool, Fault> {
    // Here, and no sooner: who begins it has the sink go on by a command that comes after, so one of the two is in time.
    if replaced.is_begun() {
        return Ok(false);
    }
    let sql = "INSERT INTO sink_pauses (sink, reason) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    Ok(tx.conn.execute(sql, [sink, reason])? > 0)
}

/// Ends every pause whose reason begins with `because`.
pub(super) fn resume(tx: &mut Tx<'_>, because: &str) -> Result<(), Fault> {
    tx.conn.execute("DELETE FROM sink_pauses WHERE substr(reason, 1, length(?1)) = ?1", [because])?;
    Ok(())
}
