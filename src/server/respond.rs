//! What callers are told: the one place where an outcome becomes an HTTP status.
//!
//! 2xx, and a quarantined receipt's 422, are a small JSON object; errors are `application/problem+json` (RFC 9457),
//! which say what to do, and nothing of what was expected of a credential. What hyper refuses by itself (431, a
//! malformed head) has no body.

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use crate::model::text::number;
use crate::model::words::reason;
use crate::pipeline::ingest::{Kept, Refusal};
use crate::store::StoreError;

/// A whole answer.
pub(crate) type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Seconds until a sender should try again what cannot be kept now.
const UNAVAILABLE_RETRY_AFTER: &str = "5";
/// Seconds until a sender that is over its rate should try again.
const RATE_RETRY_AFTER: &str = "1";

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, JSON, body.into())
}

/// An answer in plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, HeaderValue::from_static("text/plain; charset=utf-8"), body.into())
}

/// Bytes as somebody sent them, for whoever asks for them. A browser is to show none of it as a page.
pub(crate) fn bytes(body: impl Into<Bytes>) -> Answer {
    let mut response = answer(StatusCode::OK, HeaderValue::from_static("application/octet-stream"), body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn answer(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Tells the sender what became of its request. Written by hand: it is on the hot path, and holds only numbers and
/// words of ours.
pub(super) fn kept(kept: &Kept) -> Answer {
    let recorded = &kept.recorded;
    let mut body = String::with_capacity(112);
    body.push_str(r#"{"receipt":""#);
    number(&mut body, recorded.receipt);
    body.push_str(r#"","outcome":""#);
    body.push_str(recorded.outcome.as_str());
    body.push('"');
    if let Some(first) = recorded.executions.first() {
        body.push_str(r#","execution":""#);
        number(&mut body, *first);
        body.push('"');
    }
    if recorded.executions.len() > 1 {
        body.push_str(r#","executions":["#);
        for (position, execution) in recorded.executions.iter().enumerate() {
            body.push_str(if position == 0 { "\"" } else { ",\"" });
            number(&mut body, *execution);
            body.push('"');
        }
        body.push(']');
    }
    body.push('}');
    json(kept.status, body)
}

/// One error, as RFC 9457 has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The status.
    pub(crate) status: StatusCode,
    /// The last part of its `type`, `urn:callbackd:…`: stable, for programs.
    pub(crate) kind: &'static str,
    /// The same for people.
    pub(crate) title: &'static str,
    /// What to do.
    pub(crate) detail: String,
    /// A header that belongs to it: its name in lower case, and its value.
    pub(crate) header: Option<(&'static str, String)>,
}

impl Problem {
    /// A problem without a header of its own.
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem { status, kind, title, detail: detail.into(), header: None }
    }

    /// A method that this path does not take.
    pub(crate) fn method(allowed: &[Method]) -> Problem {
        let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("This path takes {allowed}. Send the request with such a method.");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
            .with("allow", allowed)
    }

    /// A body beyond the limit.
    pub(crate) fn too_large(max: usize) -> Problem {
        let detail = format!("A body may have {max} bytes. Send a smaller one, or raise `body_bytes_max`.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Body too large", detail)
    }

    /// A body that did not come in time.
    pub(crate) fn slow() -> Problem {
        let detail = "The body did not come in time. Send it without pauses.";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "Body too slow", detail)
    }

    /// The same with a header.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Problem {
        self.header = Some((name, value.into()));
        self
    }

    /// The answer that tells it.
    pub(crate) fn answer(self) -> Answer {
        let body = serde_json::json!({
            "type": format_args!("urn:callbackd:{}", self.kind).to_string(),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": reason(&self.detail),
        });
        let mut response = answer(self.status, PROBLEM_JSON, body.to_string().into());
        if let Some((name, value)) = self.header {
            let value = HeaderValue::try_from(value).expect("a problem's header is of our own writing");
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Problem {
        match refusal {
            Refusal::NoSuchPath => Problem::new(
                StatusCode::NOT_FOUND,
                "no-such-path",
                "No such path",
                "No source is registered under this path. Compare the callback URL with `path` of [sources.NAME].",
            ),
            Refusal::Method(allowed) => Problem::method(allowed),
            Refusal::Address => Problem::new(
                StatusCode::FORBIDDEN,
                "address-not-allowed",
                "Address not allowed",
                "This address may not call this source. Add it to the source's `allow` if it should.",
            ),
            Refusal::Rate => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "over-rate",
                "Too many requests",
                "This source takes no more requests a second. Send it again later.",
            )
            .with("retry-after", RATE_RETRY_AFTER),
            Refusal::Auth(e) => {
                Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Not authenticated", e.to_string())
            }
            Refusal::Encoded => Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoded",
                "Body is encoded",
                "Bodies are verified and kept as they come. Send it uncompressed, without Content-Encoding.",
            )
            // RFC 9110, section 15.5.16: so that the sender knows it is about the coding.
            .with("accept-encoding", "identity"),
            Refusal::TooLarge(max) => Problem::too_large(*max),
            Refusal::Slow => Problem::slow(),
            Refusal::Malformed(reason) => {
                Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", reason.clone())
            }
            // Why is for the operator, not for the sender.
            Refusal::Unavailable(_) => unavailable("This cannot be kept now. Send it again later.".to_owned()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Problem {
        match e {
            StoreError::NotFound(text) => Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", text),
            StoreError::Refused(text) => Problem::new(StatusCode::CONFLICT, "refused", "Not possible", text),
            StoreError::Unavailable(text) => unavailable(text),
            StoreError::Unusable(text) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store-unusable", "Store unusable", text)
            }
        }
    }
}

/// Something that cannot be done now.
pub(crate) fn unavailable(detail: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not possible now", detail)
        .with("retry-after", UNAVAILABLE_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ReceiptStatus;
    use crate::sources::AuthError;
    use crate::store::Recorded;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    async fn body(answer: Answer) -> Value {
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn each_refusal_has_its_row() {
        static METHODS: [Method; 2] = [Method::POST, Method::PUT];
        let auth = |text: &str| Refusal::Auth(AuthError::Wrong(text.to_owned()));
        for (refusal, status, kind, header) in [
            (Refusal::NoSuchPath, 404, "no-such-path", None),
            (Refusal::Method(&METHODS), 405, "method-not-allowed", Some(("allow", "POST, PUT"))),
            (Refusal::Address, 403, "address-not-allowed", None),
            (Refusal::Rate, 429, "over-rate", Some(("retry-after", "1"))),
            (auth("not our token"), 401, "unauthorized", None),
            (Refusal::Auth(AuthError::Missing("none".to_owned())), 401, "unauthorized", None),
            (Refusal::Auth(AuthError::Stale("old".to_owned())), 401, "unauthorized", None),
            (Refusal::Encoded, 415, "encoded", Some(("accept-encoding", "identity"))),
            (Refusal::TooLarge(4096), 413, "too-large", None),
            (Refusal::Slow, 408, "timeout", None),
            (Refusal::Malformed("cut off".to_owned()), 400, "malformed", None),
            (Refusal::Unavailable("/var/lib is full".to_owned()), 503, "unavailable", Some(("retry-after", "5"))),
        ] {
            let answer = Problem::from(&refusal).answer();
            assert_eq!(answer.status(), status, "{refusal:?}");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
            if let Some((name, value)) = header {
                assert_eq!(answer.headers()[name], value, "{refusal:?}");
            }
            let body = body(answer).await;
            assert_eq!(body["type"], format!("urn:callbackd:{kind}"));
            assert_eq!(body["status"], status);
            assert!(body["title"].is_string(), "{refusal:?}");
            let detail = body["detail"].as_str().expect("a detail");
            assert!(!detail.is_empty() && !detail.contains("/var/lib"), "{detail}");
        }
    }

    #[tokio::test]
    async fn each_store_error_has_its_status() {
        for (e, status) in [
            (StoreError::NotFound("no delivery 7".to_owned()), 404),
            (StoreError::Refused("it is delivered".to_owned()), 409),
            (StoreError::Unavailable("the disk is full".to_owned()), 503),
            (StoreError::Unusable("damaged".to_owned()), 500),
        ] {
            let text = e.to_string();
            let answer = Problem::from(e).answer();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
            assert_eq!(body(answer).await["detail"], text);
        }
    }

    #[tokio::test]
    async fn what_was_kept_is_told() {
        let told = |status, outcome, executions: &[i64]| {
            let recorded = Recorded { receipt: i64::MAX, outcome, executions: executions.to_vec(), wake: vec![] };
            kept(&Kept { status, recorded })
        };
        let receipt = i64::MAX.to_string();
        let one = told(StatusCode::OK, ReceiptStatus::Accepted, &[7]);
        assert_eq!((one.status(), &one.headers()["content-type"]), (StatusCode::OK, &JSON));
        assert_eq!(body(one).await, json!({"receipt": receipt, "outcome": "accepted", "execution": "7"}));
        let several = told(StatusCode::OK, ReceiptStatus::Conflict, &[7, 8, 9]);
        let expected =
            json!({"receipt": receipt, "outcome": "conflict", "execution": "7", "executions": ["7", "8", "9"]});
        assert_eq!(body(several).await, expected);
        let none = told(StatusCode::UNPROCESSABLE_ENTITY, ReceiptStatus::Quarantined, &[]);
        assert_eq!(none.status(), 422);
        assert_eq!(body(none).await, json!({"receipt": receipt, "outcome": "quarantined"}));
    }
}
