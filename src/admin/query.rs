//! What stands behind the `?` of a list: which rows are meant, how many, and where the last page ended.
//!
//! `status` (a list with commas, or several), `source`, `sink`, `since` (a span like `2h`, or a time), `execution` (of
//! receipts and deliveries), `limit`, and `cursor`: the `next` of the page before. Whatever else stands there is an error,
//! because a filter that is overlooked shows too much.

use serde_json::{Value, json};

use super::api::Noun;
use super::bad_request;
use crate::model::{DeliveryStatus, ReceiptStatus, Time};
use crate::options::Since;
use crate::server::respond::Problem;
use crate::store::Filter;

/// Rows of a page, where nothing is said, and at most.
const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    filter: Filter,
    limit: u64,
}

impl Page {
    /// Reads it.
    pub(super) fn read(query: Option<&str>, noun: Noun, now: Time) -> Result<Page, Problem> {
        let mut page = Page { filter: Filter::default(), limit: LIMIT };
        let mut said = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A plus is a blank, as forms write it; whoever means one writes `%2B`.
            let (name, value) = (decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?);
            if name != "status" && said.contains(&name) {
                return Err(bad_request(format!("`{name}` is said twice. Say it once.")));
            }
            page.take(&name, value, noun, now)?;
            said.push(name);
        }
        Ok(page)
    }

    fn take(&mut self, name: &str, value: String, noun: Noun, now: Time) -> Result<(), Problem> {
        let wrong = |what: &str| bad_request(format!("`{name}={value}` is not understood. Write {what}."));
        let filter = &mut self.filter;
        match name {
            "status" => {
                let words = statuses(noun);
                for word in value.split(',') {
                    if !words.contains(&word) {
                        return Err(wrong(&format!("some of {}", words.join(", "))));
                    }
                    filter.status.push(word.to_owned());
                }
            }
            "source" => filter.source = Some(value),
            "sink" => filter.sink = Some(value),
            "since" => {
                let since: Since =
                    value.parse().map_err(|_| wrong("a span like 2h, or a time like 2026-11-21T10:00:00Z"))?;
                filter.since = Some(since.at(now));
            }
            "execution" if noun != Noun::Execution => {
                filter.execution = Some(value.parse().map_err(|_| wrong("the id of an execution"))?);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                self.limit = limit.ok_or_else(|| wrong(&format!("a number from 1 to {LIMIT_MAX}")))?;
            }
            "cursor" => filter.before = Some(value.parse().map_err(|_| wrong("the `next` of the page before"))?),
            _ => {
                let execution = if noun == Noun::Execution { "" } else { "execution, " };
                let known = format!("status, source, sink, since, {execution}limit, cursor");
                return Err(bad_request(format!("`{name}` is no filter of this list. There are {known}.")));
            }
        }
        Ok(())
    }

    /// What the store is asked for: one row more than is wanted tells whether that was all.
    pub(super) fn filter(&self) -> Filter {
        Filter { limit: Some(self.limit + 1), ..self.filter.clone() }
    }

    /// The page itself.
    pub(super) fn of(&self, mut rows: Vec<Value>) -> Value {
        let is_last = rows.len() as u64 <= self.limit;
        rows.truncate(self.limit as usize);
        let next = if is_last { Value::Null } else { rows.last().map_or(Value::Null, |row| row["id"].clone()) };
        json!({ "items": rows, "next": next })
    }
}

fn statuses(noun: Noun) -> Vec<&'static str> {
    match noun {
        Noun::Execution => Filter::EXECUTION_WORDS.to_vec(),
        Noun::Receipt => ReceiptStatus::ALL.map(ReceiptStatus::as_str).to_vec(),
        Noun::Delivery => DeliveryStatus::ALL.map(DeliveryStatus::as_str).to_vec(),
    }
}

/// A part of a URL as it was meant.
pub(super) fn decoded(text: &str) -> Result<String, Problem> {
    let decoded = urlencoding::decode(text).map_err(|_| bad_request("The URL does not hold UTF-8. Encode it so."))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_seconds(1_700_000_000);

    fn read(query: &str, noun: Noun) -> Result<Page, Problem> {
        Page::read(Some(query), noun, NOW)
    }

    #[test]
    fn everything_that_can_be_asked_is_read() {
        let query = "status=dead,waiting&status=leased&source=a%26b&sink=c+d&since=1h&execution=7&limit=2&cursor=99";
        let expected = Filter {
            status: ["dead", "waiting", "leased"].map(str::to_owned).to_vec(),
            source: Some("a&b".to_owned()),
            sink: Some("c d".to_owned()),
            execution: Some(7),
            since: Some(Time::from_seconds(1_700_000_000 - 3600)),
            before: Some(99),
            after: None,
            limit: Some(3),
        };
        assert_eq!(read(query, Noun::Delivery).expect("read").filter(), expected);
        let nothing = Filter { limit: Some(LIMIT + 1), ..Filter::default() };
        assert_eq!(read("", Noun::Execution).expect("read").filter(), nothing);
        assert_eq!(read("status=overdue", Noun::Execution).expect("read").filter().status, ["overdue"]);
    }

    #[test]
    fn what_is_not_understood_is_said_and_never_overlooked() {
        for (query, noun, said) in [
            ("status=ded", Noun::Delivery, "some of waiting, leased, delivered, dead, discarded"),
            ("status=", Noun::Receipt, "some of accepted"),
            ("status=overdue", Noun::Receipt, "some of accepted"),
            (
                "sinc=x",
                Noun::Delivery,
                "`sinc` is no filter of this list. There are status, source, sink, since, execution",
            ),
            ("execution=7", Noun::Execution, "no filter of this list"),
            ("execution=x", Noun::Receipt, "the id of an execution"),
            ("since=yesterday", Noun::Receipt, "a span like 2h"),
            ("limit=0", Noun::Receipt, "from 1 to 1000"),
            ("limit=1001", Noun::Receipt, "from 1 to 1000"),
            ("limit=all", Noun::Receipt, "from 1 to 1000"),
            ("cursor=", Noun::Receipt, "`next`"),
            ("source=a&source=b", Noun::Receipt, "said twice"),
            ("source=%ff", Noun::Receipt, "UTF-8"),
        ] {
            let problem = read(query, noun).expect_err(query);
            assert!(problem.detail.contains(said), "{query}: {}", problem.detail);
        }
    }

    #[test]
    fn a_page_says_where_the_next_begins_and_the_last_says_nothing() {
        let page = read("limit=2", Noun::Receipt).expect("read");
        let rows = |ids: &[u32]| ids.iter().map(|id| json!({ "id": id.to_string() })).collect();
        assert_eq!(page.of(rows(&[9, 8, 7])), json!({"items": [{"id": "9"}, {"id": "8"}], "next": "8"}));
        assert_eq!(page.of(rows(&[9, 8])), json!({"items": [{"id": "9"}, {"id": "8"}], "next": null}));
        assert_eq!(page.of(Vec::new()), json!({"items": [], "next": null}));
    }
}
