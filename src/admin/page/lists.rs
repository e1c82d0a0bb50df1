//! Lists: their filters, and one page of rows after the other.

use serde_json::json;

use super::html::{Html, Url};
use super::layout::{self, Tab, choice, field};
use super::{Page, Problem, deliveries, executions, pairs, receipts, standing};
use crate::admin::operations::Noun;
use crate::admin::{AdminState, pieces};
use crate::model::{DeliveryStatus, ReceiptStatus, Status, Time};

/// Rows of a page, where nothing is said.
const LIMIT: &str = "50";

/// What was asked for, as it stands in the address.
struct Asked {
    noun: Noun,
    words: Vec<(String, String)>,
}

impl Asked {
    /// What was said under this name, several joined as the API takes them.
    fn word(&self, name: &str) -> String {
        let all: Vec<_> = self.words.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect();
        all.join(",")
    }

    /// The address of this list with another cursor.
    fn at(&self, cursor: Option<&str>) -> Url {
        let base = Url::to(&[match self.noun {
            Noun::Execution => "executions",
            Noun::Receipt => "receipts",
            Noun::Delivery => "deliveries",
        }]);
        let words = self.words.iter().filter(|(name, _)| name != "cursor");
        let url = words.fold(base, |url, (name, value)| url.with(name, value));
        cursor.map_or(url.clone(), |cursor| url.with("cursor", cursor))
    }
}

/// One page of a list.
pub(super) async fn show(
    state: &AdminState,
    noun: Noun,
    query: Option<&str>,
    said: Option<&str>,
    now: Time,
) -> Result<String, Problem> {
    let words = pairs(query)?.into_iter().filter(|(name, _)| name != "done").collect();
    let asked = Asked { noun, words };
    let mut clean = asked.at(Some(&asked.word("cursor")).filter(|cursor| !cursor.is_empty()).map(String::as_str));
    if asked.word("limit").is_empty() {
        clean = clean.with("limit", LIMIT);
    }
    let page = Page::read(clean.as_str().split_once('?').map(|(_, query)| query), noun, now)?;
    let filter = page.filter();
    // The page of the API decides where the next begins; rows of any kind are cut as it says.
    let next_of = |ids: Vec<&str>, cut| {
        let rows = ids.iter().map(|id| json!({ "id": id })).collect();
        let page = page.of(rows, cut);
        (page["items"].as_array().map_or(0, Vec::len), page["next"].as_str().map(str::to_owned))
    };
    let (sources, store) = (standing::sources(state), &state.store);
    let sinks = standing::sink_names(state);
    let frame = |title: &str, tab, next: Option<String>, rows: &dyn Fn(&mut Html)| {
        layout::page(title, Some(tab), said, |h| {
            h.leaf("h1", &[], title);
            filters(h, &asked, &sources, &sinks);
            rows(h);
            pager(h, &asked, next.as_deref());
        })
    };
    let back = asked.at(Some(&asked.word("cursor")).filter(|cursor| !cursor.is_empty()).map(String::as_str));
    Ok(match noun {
        Noun::Execution => {
            let (mut rows, cut) = executions::rows(state, filter).await?;
            let (kept, next) = next_of(rows.iter().map(|row| executions::text(&row.flat, "id")).collect(), cut);
            rows.truncate(kept);
            frame("Executions", Tab::Executions, next, &|h| {
                executions::table(h, &rows, now);
                if cut.is_some() {
                    h.leaf("p", &[("class", "none")], "So far this page has looked; what is older may hold more.");
                }
            })
        }
        Noun::Receipt => {
            let (mut rows, cut) = pieces::receipts(&**store, filter).await?;
            let (kept, next) = next_of(rows.iter().map(|row| row.id.as_str()).collect(), cut);
            rows.truncate(kept);
            let is_quarantine = asked.word("status") == ReceiptStatus::Quarantined.as_str();
            let (title, tab) =
                if is_quarantine { ("Quarantined", Tab::Quarantined) } else { ("Receipts", Tab::Receipts) };
            frame(title, tab, next, &|h| receipts::table(h, &rows, &back, now))
        }
        Noun::Delivery => {
            let mut rows = store.deliveries(filter).await?;
            let (kept, next) = next_of(rows.iter().map(|row| row.id.as_str()).collect(), None);
            rows.truncate(kept);
            let is_dead = asked.word("status") == DeliveryStatus::Dead.as_str();
            let (title, tab) = if is_dead { ("Dead letters", Tab::Dead) } else { ("Deliveries", Tab::Deliveries) };
            frame(title, tab, next, &|h| {
                if is_dead && !rows.is_empty() {
                    deliveries::all_at_once(h, &asked.words, &back);
                }
                deliveries::table(h, &rows, &back, now);
            })
        }
    })
}

fn filters(h: &mut Html, asked: &Asked, sources: &[String], sinks: &[String]) {
    let texts = |names: &[String]| names.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    let (sources, sinks) = (texts(sources), texts(sinks));
    let statuses: Vec<&str> = match asked.noun {
        Noun::Execution => Status::ALL.map(Status::as_str).into_iter().chain(["overdue"]).collect(),
        Noun::Receipt => ReceiptStatus::ALL.map(ReceiptStatus::as_str).to_vec(),
        Noun::Delivery => DeliveryStatus::ALL.map(DeliveryStatus::as_str).to_vec(),
    };
    h.el("form", &[("class", "filters"), ("method", "get"), ("aria-label", "Filter")], |h| {
        choice(h, "status", "Status", &asked.word("status"), &statuses);
        choice(h, "source", "Source", &asked.word("source"), &sources.iter().map(String::as_str).collect::<Vec<_>>());
        choice(h, "sink", "Sink", &asked.word("sink"), &sinks.iter().map(String::as_str).collect::<Vec<_>>());
        field(h, "since", "Since", &asked.word("since"), "2h, 7d");
        let execution = asked.word("execution");
        if !execution.is_empty() {
            h.void("input", &[("type", "hidden"), ("name", "execution"), ("value", &execution)]);
        }
        h.leaf("button", &[], "Show");
    });
}

fn pager(h: &mut Html, asked: &Asked, next: Option<&str>) {
    let is_first = asked.word("cursor").is_empty();
    if is_first && next.is_none() {
        return;
    }
    h.el("nav", &[("class", "pager"), ("aria-label", "Pages")], |h| {
        if !is_first {
            h.link(&asked.at(None), "« Newest");
        }
        if next.is_some() {
            h.link(&asked.at(next), "Older »");
        }
    });
}
