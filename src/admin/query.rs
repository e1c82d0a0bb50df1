//! What stands behind the `?`: of a list, which rows are meant, how many, and where the last page ended; of the stream, what
//! is to be told, from when on and for how long.
//!
//! [`names`] has what may stand there. Whatever else does is an error, because a filter that is overlooked shows too much.

use std::time::Duration;

use serde_json::{Value, json};

use super::bad_request;
use super::operations::{Does, Noun};
use crate::model::{DeliveryStatus, ReceiptStatus, Time};
use crate::options::{Since, Span};
use crate::server::respond::Problem;
use crate::store::Filter;

/// Rows of a page, where nothing is said, and at most.
const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// What may be asked with. `status` is a list with commas, or several; `since` a span like `2h`, or a time; `cursor` the
/// `next` of the page before; `for` a span.
pub(super) fn names(does: Does) -> &'static [&'static str] {
    match does {
        Does::List(Noun::Execution) => &["status", "source", "sink", "since", "limit", "cursor"],
        Does::List(_) => &["status", "source", "sink", "since", "execution", "limit", "cursor"],
        Does::Stream => &["status", "source", "sink", "since", "for", "limit"],
        _ => &[],
    }
}

/// Names and values, each known, and only `status` more than once.
pub(super) fn read(query: Option<&str>, does: Does) -> Result<Vec<(String, String)>, Problem> {
    let known = names(does);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A plus is a blank, as forms write it; whoever means one writes `%2B`.
        let (name, value) = (decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?);
        if !known.contains(&name.as_str()) {
            let there = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            return Err(bad_request(format!("`{name}` cannot be asked for here; {there} can.")));
        }
        if name != "status" && pairs.iter().any(|(said, _)| *said == name) {
            return Err(bad_request(format!("`{name}` is said twice. Say it once.")));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn wrong(name: &str, value: &str, what: &str) -> Problem {
    bad_request(format!("`{name}={value}` is not understood. Write {what}."))
}

fn since(value: &str, now: Time) -> Result<Time, Problem> {
    let since: Since =
        value.parse().map_err(|_| wrong("since", value, "a span like 2h, or a time like 2026-11-21T10:00:00Z"))?;
    Ok(since.at(now))
}

/// An id, as we write them.
fn id(name: &str, value: &str, what: &str) -> Result<i64, Problem> {
    value.parse().ok().filter(|id| *id > 0).ok_or_else(|| wrong(name, value, what))
}

fn take_statuses(value: &str, words: &[&'static str], into: &mut Vec<String>) -> Result<(), Problem> {
    for word in value.split(',') {
        if !words.contains(&word) {
            return Err(wrong("status", value, &format!("some of {}", words.join(", "))));
        }
        into.push(word.to_owned());
    }
    Ok(())
}

/// What a listener wants to be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// Executions and deliveries that stand so.
    pub(super) status: Vec<String>,
    pub(super) source: Option<String>,
    /// Deliveries to it, and nothing else.
    pub(super) sink: Option<String>,
    /// From when on; without it, from now on.
    pub(super) since: Option<Time>,
    /// For how long.
    pub(super) span: Option<Duration>,
    /// How many.
    pub(super) limit: Option<u64>,
}

impl Wanted {
    /// Reads it.
    pub(super) fn read(query: Option<&str>, now: Time) -> Result<Wanted, Problem> {
        let mut wanted = Wanted::default();
        for (name, value) in read(query, Does::Stream)? {
            match name.as_str() {
                "status" => take_statuses(&value, &statuses(Does::Stream), &mut wanted.status)?,
                "source" => wanted.source = Some(value),
                "sink" => wanted.sink = Some(value),
                "since" => wanted.since = Some(since(&value, now)?),
                "for" => {
                    wanted.span = Some(Span::parse(&value).map_err(|_| wrong("for", &value, "a span like 10s"))?.0);
                }
                _ => {
                    let limit = value.parse().ok().filter(|limit| *limit > 0);
                    wanted.limit = Some(limit.ok_or_else(|| wrong("limit", &value, "a number from 1 on"))?);
                }
            }
        }
        Ok(wanted)
    }
}

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
        for (name, value) in read(query, Does::List(noun))? {
            let filter = &mut page.filter;
            match name.as_str() {
                "status" => take_statuses(&value, &statuses(Does::List(noun)), &mut filter.status)?,
                "source" => filter.source = Some(value),
                "sink" => filter.sink = Some(value),
                "since" => filter.since = Some(since(&value, now)?),
                "execution" => filter.execution = Some(id(&name, &value, "the id of an execution")?),
                "cursor" => filter.before = Some(id(&name, &value, "the `next` of the page before")?),
                _ => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    page.limit =
                        limit.ok_or_else(|| wrong(&name, &value, &format!("a number from 1 to {LIMIT_MAX}")))?;
                }
            }
        }
        Ok(page)
    }

    /// What the store is asked for: one row more than is wanted tells whether that was all.
    pub(super) fn filter(&self) -> Filter {
        Filter { limit: Some(self.limit + 1), ..self.filter.clone() }
    }

    /// The page itself; `cut` is where the next one begins if this one ends before its limit, because its rows are large or
    /// far between.
    pub(super) fn of(&self, mut rows: Vec<Value>, cut: Option<i64>) -> Value {
        let next = if rows.len() as u64 > self.limit {
            rows.truncate(self.limit as usize);
            rows.last().map_or(Value::Null, |row| row["id"].clone())
        } else {
            cut.map_or(Value::Null, |cursor| cursor.to_string().into())
        };
        json!({ "items": rows, "next": next })
    }
}

/// The words that `status` takes.
pub(super) fn statuses(does: Does) -> Vec<&'static str> {
    let deliveries = DeliveryStatus::ALL.map(DeliveryStatus::as_str);
    match does {
        Does::List(Noun::Execution) => Filter::EXECUTION_WORDS.to_vec(),
        Does::List(Noun::Receipt) => ReceiptStatus::ALL.map(ReceiptStatus::as_str).to_vec(),
        Does::List(Noun::Delivery) => deliveries.to_vec(),
        _ => Filter::EXECUTION_WORDS.into_iter().chain(deliveries).collect(),
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

    fn page(query: &str, noun: Noun) -> Result<Page, Problem> {
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
        assert_eq!(page(query, Noun::Delivery).expect("read").filter(), expected);
        let nothing = Filter { limit: Some(LIMIT + 1), ..Filter::default() };
        assert_eq!(page("", Noun::Execution).expect("read").filter(), nothing);
        assert_eq!(page("status=overdue", Noun::Execution).expect("read").filter().status, ["overdue"]);
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
                "`sinc` cannot be asked for here; status, source, sink, since, execution, limit, cursor can",
            ),
            ("execution=7", Noun::Execution, "`execution` cannot be asked for here"),
            ("execution=x", Noun::Receipt, "the id of an execution"),
            ("since=yesterday", Noun::Receipt, "a span like 2h"),
            ("limit=0", Noun::Receipt, "from 1 to 1000"),
            ("limit=1001", Noun::Receipt, "from 1 to 1000"),
            ("limit=all", Noun::Receipt, "from 1 to 1000"),
            ("cursor=", Noun::Receipt, "`next`"),
            ("cursor=-1", Noun::Receipt, "`next`"),
            ("source=a&source=b", Noun::Receipt, "said twice"),
            ("source=%ff", Noun::Receipt, "UTF-8"),
        ] {
            let problem = page(query, noun).expect_err(query);
            assert!(problem.detail.contains(said), "{query}: {}", problem.detail);
        }
    }

    #[test]
    fn a_listener_says_what_it_wants() {
        let wanted = Wanted::read(Some("status=dead&status=failed&source=a&sink=b&since=1h&for=10s&limit=3"), NOW);
        let expected = Wanted {
            status: vec!["dead".to_owned(), "failed".to_owned()],
            source: Some("a".to_owned()),
            sink: Some("b".to_owned()),
            since: Some(Time::from_seconds(1_700_000_000 - 3600)),
            span: Some(Duration::from_secs(10)),
            limit: Some(3),
        };
        assert_eq!(wanted.expect("read"), expected);
        assert_eq!(Wanted::read(None, NOW).expect("read"), Wanted::default());
        for bad in ["status=held", "for=ever", "for=", "limit=0", "cursor=7", "since=x"] {
            Wanted::read(Some(bad), NOW).expect_err(bad);
        }
    }

    #[test]
    fn a_page_says_where_the_next_begins_and_the_last_says_nothing() {
        let page = page("limit=2", Noun::Receipt).expect("read");
        let rows = |ids: &[u32]| ids.iter().map(|id| json!({ "id": id.to_string() })).collect();
        assert_eq!(page.of(rows(&[9, 8, 7]), None), json!({"items": [{"id": "9"}, {"id": "8"}], "next": "8"}));
        assert_eq!(page.of(rows(&[9, 8]), None), json!({"items": [{"id": "9"}, {"id": "8"}], "next": null}));
        let last = page.of(rows(&[9, 8, 7]), Some(7));
        assert_eq!(last["next"], "8", "what was read and is on no page is on the next one");
        assert_eq!(page.of(rows(&[9]), Some(5)), json!({"items": [{"id": "9"}], "next": "5"}));
        assert_eq!(page.of(Vec::new(), None), json!({"items": [], "next": null}));
    }
}
