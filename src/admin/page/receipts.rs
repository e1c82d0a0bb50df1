//! Receipts: what came in, as it came; and what was not understood, with the parser's reason and another chance.

use super::html::{Html, NONE, Url, count};
use super::layout::{self, button, facts, section};
use crate::model::{ReceiptStatus, Time};
use crate::store::ReceiptRow;

/// No more of a body is shown; all of it can be downloaded.
const BODY_BYTES_MAX: usize = 64 << 10;

pub(super) fn table(h: &mut Html, rows: &[ReceiptRow], back: &Url, now: Time) {
    if rows.is_empty() {
        return h.leaf("p", &[("class", "none")], "None.");
    }
    layout::table(h, "Receipts", &["Status", "Receipt", "Source", "From", "Bytes", "Came", "Do"], |h| {
        for r in rows {
            h.el("tr", &[("id", &format!("receipt-{}", r.id))], |h| {
                h.el("td", &[], |h| h.badge(r.status.as_str()));
                h.el("td", &[("class", "what")], |h| {
                    h.link(&Url::to(&["receipts", &r.id]), &r.id);
                    if let Some(reason) = &r.reason {
                        h.leaf("small", &[("class", "said")], reason);
                    }
                });
                h.leaf("td", &[], &r.source);
                h.leaf("td", &[], &r.peer);
                h.leaf("td", &[("class", "number")], &count(r.body_bytes));
                h.el("td", &[("class", "number")], |h| h.ago(Some(r.received_at), now));
                h.el("td", &[("class", "do")], |h| actions(h, r, back));
            });
        }
    });
}

fn actions(h: &mut Html, r: &ReceiptRow, back: &Url) {
    let replay = Url::to(&["receipts", &r.id, "replay"]);
    match r.status {
        ReceiptStatus::Quarantined => button(h, &replay, "Replay", &format!("the receipt {}", r.id), back),
        ReceiptStatus::Held | ReceiptStatus::Refused => {
            button(h, &replay, "Vouch for it", &format!("(the receipt {})", r.id), back);
        }
        ReceiptStatus::Accepted | ReceiptStatus::Duplicate | ReceiptStatus::Conflict => h.text(""),
    }
}

/// One, with its body as text.
pub(super) fn show(h: &mut Html, r: &ReceiptRow, body: &[u8], now: Time) {
    let back = Url::to(&["receipts", &r.id]);
    h.leaf("p", &[("class", "over")], "Receipt");
    h.leaf("h1", &[], &r.id);
    h.el("p", &[("class", "lead")], |h| {
        h.badge(r.status.as_str());
        h.text(&format!(" from {} at {} ", r.peer, r.source));
        h.ago(Some(r.received_at), now);
    });
    if let Some(reason) = &r.reason {
        h.leaf("p", &[("class", "said")], reason);
    }
    h.el("div", &[("class", "do")], |h| actions(h, r, &back));
    let executions = |h: &mut Html| {
        for id in &r.executions {
            h.link(&Url::to(&["executions", id]), id);
            h.text(" ");
        }
        if r.executions.is_empty() {
            h.text(NONE);
        }
    };
    facts(
        h,
        &[
            ("Speaks of", &executions),
            ("Bytes", &|h| h.text(&count(r.body_bytes))),
            ("Digest", &|h| h.text(r.digest.as_deref().unwrap_or(NONE))),
        ],
    );
    section(h, "headers", "Headers that matter", |h| {
        let text = serde_json::to_string_pretty(&r.headers).unwrap_or_default();
        h.el("pre", &[("tabindex", "0")], |h| h.lines(super::bounded(&text)));
    });
    section(h, "body", "Body", |h| {
        if body.is_empty() {
            let why =
                if r.body_bytes > 0 { "Its bytes are not kept again: another receipt has them." } else { "Empty." };
            return h.leaf("p", &[("class", "none")], why);
        }
        let shown = &body[..body.len().min(BODY_BYTES_MAX)];
        h.el("pre", &[("class", "body"), ("tabindex", "0")], |h| h.lines(&String::from_utf8_lossy(shown)));
        h.el("p", &[], |h| {
            if shown.len() < body.len() {
                h.text(&format!("These are the first {} bytes. ", count(shown.len() as u64)));
            }
            h.link(&Url::to(&["api", "v1", "receipts", &r.id, "body"]), "Download it byte for byte");
        });
    });
}
