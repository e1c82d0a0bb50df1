//! The page: what an operator sees in a browser, and changes there.
//!
//! Whole HTML from here, with plots and lines of time as SVG. It works without a script: what changes something is a form,
//! answered with a redirect to where it stood (303), so that nothing is sent twice. With the script it renews itself when
//! the stream tells of something. Data comes from the same queries, and changes are made by the same functions, as the
//! API's; who may is decided before (`admit`).
//!
//! Nothing is loaded from elsewhere, and the policy that each answer carries forbids it, as it does inline scripts and
//! styles, framing, and forms that lead elsewhere. `html` escapes all that strangers said.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use self::html::Url;
use self::layout::Tab;
use super::judgement::Commands;
use super::operations::Noun;
use super::query::{Page, decoded};
use super::room::Size;
use super::{AdminState, api, bad_request};
use crate::clock;
use crate::server::respond::{Answer, Problem};
use crate::store::Filter;

mod act;
mod deliveries;
mod execution;
mod executions;
pub(super) mod html;
mod layout;
mod lists;
mod overview;
mod plot;
mod receipts;
mod replicas;
mod sinks;
mod standing;
mod timeline;

use self::act::Act;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

/// Nothing from elsewhere, nothing inline, no frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// A longer text is cut: the API and the commands have it whole.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// What a path means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Path<'p> {
    Overview,
    List(Noun),
    Show(Noun, &'p str),
    Sinks,
    Act(Act<'p>),
    /// A file, and its media type.
    File(&'static str, &'static str),
}

impl Path<'_> {
    /// How much what is made of the store may be; `None` where nothing is.
    pub(super) fn looks(&self) -> Option<Size> {
        match self {
            Path::Act(_) | Path::File(..) => None,
            Path::Show(noun, _) => Some(api::size(*noun)),
            Path::Overview | Path::Sinks | Path::List(_) => Some(Size::Small),
        }
    }
}

const READS: &[Method] = &[Method::GET, Method::HEAD];
const CHANGES: &[Method] = &[Method::POST];

/// What is at `path`, and the methods it takes.
pub(super) fn find(path: &str) -> Option<(Path<'_>, &'static [Method])> {
    if let Some(act) = Act::find(path) {
        return Some((Path::Act(act), CHANGES));
    }
    let (first, rest) =
        path.strip_prefix('/')?.split_once('/').map_or((&path[1..], None), |(one, two)| (one, Some(two)));
    let noun = match first {
        "executions" => Some(Noun::Execution),
        "receipts" => Some(Noun::Receipt),
        "deliveries" => Some(Noun::Delivery),
        _ => None,
    };
    let found = match (first, noun, rest) {
        ("", _, None) => Path::Overview,
        ("sinks", _, None) => Path::Sinks,
        ("style.css", _, None) => Path::File("text/css; charset=utf-8", STYLE),
        ("page.js", _, None) => Path::File("text/javascript; charset=utf-8", SCRIPT),
        ("icon.svg", _, None) => Path::File("image/svg+xml", ICON),
        (_, Some(noun), None) => Path::List(noun),
        (_, Some(noun), Some(id)) if !id.is_empty() && !id.contains('/') => Path::Show(noun, id),
        _ => return None,
    };
    Some((found, READS))
}

/// Whether a problem at this path is told to a person.
pub(super) fn is_for_people(path: &str, accept: Option<&HeaderValue>) -> bool {
    let wants_html = accept.is_some_and(|types| types.to_str().is_ok_and(|types| types.contains("text/html")));
    wants_html && !path.starts_with("/api/")
}

/// A problem, as a page. Where the daemon cannot do its work, doctor says why.
pub(super) fn problem(problem: Problem, state: &AdminState) -> Answer {
    let is_ours = problem.status == StatusCode::SERVICE_UNAVAILABLE;
    let doctor = || Commands::of(state.watch.measures.configuration().file.as_deref()).say("doctor");
    let mut answer = html(problem.status, layout::problem(&problem, is_ours.then(doctor).as_deref()));
    if let Some((name, value)) = problem.header
        && let Ok(value) = HeaderValue::try_from(value)
    {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// Shows what the path means, or does it.
pub(super) async fn answer(
    state: &AdminState,
    path: Path<'_>,
    query: Option<&str>,
    body: &[u8],
) -> Result<Answer, Problem> {
    let now = clock::now();
    let said = pairs(query)?.iter().find(|(name, _)| name == "done").and_then(|(_, code)| act::said(code));
    let said = said.as_deref();
    let page = match path {
        Path::File(kind, text) => return Ok(respond(StatusCode::OK, kind, text.to_owned())),
        Path::Act(act) => return Ok(redirect(&act::act(state, act, body, now).await?)),
        Path::List(noun) => lists::show(state, noun, query, said, now).await?,
        Path::Overview => {
            let standing = standing::look(state, now).await?;
            let (latest, _) = executions::rows(state, Filter { limit: Some(8), ..Filter::default() }).await?;
            let history = state.watch.measures.history(now);
            layout::page("Overview", Some(Tab::Overview), said, |h| {
                overview::show(h, &standing, &history, &latest, now);
            })
        }
        Path::Sinks => {
            let sinks = standing::sinks(state).await?;
            layout::page("Sinks", Some(Tab::Sinks), said, |h| sinks::show(h, &sinks, now))
        }
        Path::Show(Noun::Execution, id) => {
            let found = state.store.execution(decoded(id)?).await?;
            let mut whole = execution::Whole::of(found).ok_or_else(unreadable)?;
            let mut tries = 0;
            for (row, attempts) in whole.deliveries.iter_mut().rev().take(execution::SHOWN) {
                if tries < execution::TRIES {
                    let tried = state.store.delivery(api::number("delivery", &row.id)?).await?.1;
                    tries += tried.len();
                    *attempts = Some(tried);
                }
            }
            let title = executions::title(&whole.flat).to_owned();
            let commands = Commands::of(state.watch.measures.configuration().file.as_deref());
            layout::page(&title, Some(Tab::Executions), said, |h| execution::show(h, &whole, &commands, now))
        }
        Path::Show(Noun::Receipt, id) => {
            let (row, body) = state.store.receipt(api::number("receipt", id)?).await?;
            layout::page("Receipt", Some(Tab::Receipts), said, |h| receipts::show(h, &row, &body, now))
        }
        Path::Show(Noun::Delivery, id) => {
            let (row, attempts) = state.store.delivery(api::number("delivery", id)?).await?;
            layout::page("Delivery", Some(Tab::Deliveries), said, |h| deliveries::show(h, &row, &attempts, now))
        }
    };
    Ok(html(StatusCode::OK, page))
}

fn unreadable() -> Problem {
    let detail = "What the store tells of this execution cannot be shown. `callbackd executions show` has it.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable", "Not readable", detail)
}

/// The words behind a `?`, or of a form, that say something: an empty field says nothing.
fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
    };
    let all: Result<Vec<_>, Problem> =
        query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(split).collect();
    Ok(all?.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect())
}

/// The start of a text that may be long.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

fn html(status: StatusCode, page: String) -> Answer {
    respond(status, "text/html; charset=utf-8", page)
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn redirect(to: &Url) -> Answer {
    let mut answer = html(StatusCode::SEE_OTHER, String::new());
    let to = HeaderValue::try_from(to.as_str()).expect("an address of ours is visible ASCII");
    answer.headers_mut().insert(LOCATION, to);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_views_and_changes() {
        for (path, expected) in [
            ("/", Some(Path::Overview)),
            ("/executions", Some(Path::List(Noun::Execution))),
            ("/executions/a%2Fb", Some(Path::Show(Noun::Execution, "a%2Fb"))),
            ("/receipts/7", Some(Path::Show(Noun::Receipt, "7"))),
            ("/deliveries/7", Some(Path::Show(Noun::Delivery, "7"))),
            ("/sinks", Some(Path::Sinks)),
            ("/sinks/portal", None),
            ("/executions/", None),
            ("/executions/7/8", None),
            ("/deliveries/retry", Some(Path::Act(Act::Deliveries(crate::admin::operations::DeliveryVerb::Retry)))),
            ("/index.html", None),
            ("/api/v1/sinks", None),
            ("", None),
        ] {
            assert_eq!(find(path).map(|(path, _)| path), expected, "{path}");
        }
    }

    #[test]
    fn an_empty_field_says_nothing() {
        let said = pairs(Some("status=&source=a%26b&since=+&x&reason=b+c")).expect("read");
        assert_eq!(said, [("source".to_owned(), "a&b".to_owned()), ("reason".to_owned(), "b c".to_owned())]);
        assert!(pairs(Some("a=%ff")).is_err());
    }
}
