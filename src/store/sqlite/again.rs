//! A stored receipt, recorded again: a quarantined one that is understood by now, a held one that was confirmed.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::ready::{ReadyParsed, ready};
use super::record::apply_all;
use super::writer::{Fault, Tx};
use super::{inquire, news};
use crate::model::{ReceiptStatus, Rules, Time, Trace};
use crate::signature;
use crate::store::{Parsed, ReceiptRow, Recorded, StoreError};

/// A stored receipt with what it is understood as now.
pub(super) struct ReadyAgain {
    receipt: i64,
    parsed: ReadyParsed,
    rules: Arc<Rules>,
    source: Arc<str>,
    now: Time,
    /// Of the body of one that is held.
    digest: Option<String>,
}

impl ReadyAgain {
    pub(super) fn new(
        receipt: i64,
        (row, body): (&ReceiptRow, &[u8]),
        parsed: Parsed,
        rules: Arc<Rules>,
        now: Time,
    ) -> ReadyAgain {
        let header = |name| row.headers.get(name)?.as_str();
        let trace = header(Trace::PARENT).and_then(|parent| Trace::read(parent, header(Trace::STATE)));
        let parsed = ready(&row.source, now, parsed, &rules).traced(trace);
        let digest = (row.status == ReceiptStatus::Held).then(|| signature::hex(&signature::sha256(body)));
        ReadyAgain { receipt, parsed, rules, source: row.source.as_str().into(), now, digest }
    }

    pub(super) fn record(&self, tx: &mut Tx<'_>) -> Result<Recorded, Fault> {
        let held: Option<String> = tx
            .conn
            .query_row("SELECT status FROM receipts WHERE id = ?1", [self.receipt], |row| row.get(0))
            .optional()?;
        match held.as_deref() {
            Some("quarantined" | "held" | "refused") => {}
            Some(status) => {
                let text = format!(
                    "receipt {} is {status}; only one that is quarantined, held or refused is read again",
                    self.receipt
                );
                return Err(Fault::Answer(StoreError::Refused(text)));
            }
            None => return Err(Fault::Answer(StoreError::NotFound(format!("there is no receipt {}", self.receipt)))),
        }
        inquire::forget(tx, self.receipt)?;
        let done = apply_all(tx, &self.source, Some(self.receipt), self.now, &self.parsed, &self.rules)?;
        // The receipt is older than what it changed.
        for execution in &done.recorded.executions {
            news::aside(tx, Some(*execution), None, self.now)?;
        }
        // A repeat's bytes are kept already.
        let digest = self.digest.as_ref().filter(|_| done.recorded.outcome == ReceiptStatus::Duplicate);
        tx.conn.execute(
            "UPDATE receipts SET status = ?2, reason = ?3, execution = ?4, executions = ?5,
                    body = iif(?6 IS NULL, body, NULL), digest = ?6 WHERE id = ?1",
            params![
                self.receipt,
                done.recorded.outcome.as_str(),
                done.reason,
                done.recorded.executions.first(),
                done.several(),
                digest
            ],
        )?;
        Ok(Recorded { receipt: self.receipt, ..done.recorded })
    }
}
