//! A stored receipt, recorded again: a quarantined one that is understood by now, a held one that was confirmed.

use std::sync::Arc;

use super::ready::{ReadyParsed, ready};
use super::record::apply_all;
use super::{Tables, aside, inquire};
use crate::model::{ReceiptStatus, Rules, Time, Trace};
use crate::signature;
use crate::store::{Parsed, ReceiptRow, Recorded, StoreError};

/// A stored receipt with what it is understood as now.
pub(crate) struct ReadyAgain {
    receipt: i64,
    parsed: ReadyParsed,
    rules: Arc<Rules>,
    source: Arc<str>,
    now: Time,
    /// Of the body of one that is held.
    digest: Option<String>,
}

impl ReadyAgain {
    pub(crate) fn new(
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

    pub(crate) fn record<X: Tables>(&self, tx: &mut X) -> Result<Recorded, X::Fault> {
        let receipt = self.receipt;
        match tx.receipt_status(receipt)?.as_deref() {
            Some("quarantined" | "held" | "refused") => {}
            Some(status) => {
                let text = format!(
                    "receipt {receipt} is {status}; only one that is quarantined, held or refused is read again"
                );
                return Err(StoreError::Refused(text).into());
            }
            None => return Err(StoreError::NotFound(format!("there is no receipt {receipt}")).into()),
        }
        inquire::forget(tx, receipt)?;
        let done = apply_all(tx, &self.source, Some(receipt), self.now, &self.parsed, &self.rules)?;
        // The receipt is older than what it changed.
        for execution in &done.recorded.executions {
            aside(tx, Some(*execution), None, self.now)?;
        }
        // A repeat's bytes are kept already.
        let digest = self.digest.as_ref().filter(|_| done.recorded.outcome == ReceiptStatus::Duplicate);
        tx.update_receipt(receipt, &done.kept(digest.map(String::as_str)))?;
        Ok(Recorded { receipt, ..done.recorded })
    }
}
