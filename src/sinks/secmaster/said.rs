//! What an answer says when it says no: one reading for the shapes that the gateway, SecMaster and IAM use, words for
//! the codes, and what follows. Pure.
//!
//! The gateway's codes are those of its "Error Codes" page. What it says of a signature repeats the request with its
//! headers, so of that nothing is handed on but what it comes to.

use http::HeaderMap;
use serde_json::Value;

use crate::model::Time;
use crate::outbound::Verdict;
use crate::sinks::cut;

const TEXT_CHARS_MAX: usize = 300;
/// What the gateway's page on throttling asks for at least.
const THROTTLED_PAUSE_MS: u64 = 2_000;

/// A credential, as the gateway saw it, is wrong: the code of all that its texts tell apart.
pub(super) const REFUSED: &str = "APIGW.0301";
/// The token has ended, or is of another region.
pub(super) const TOKEN_ENDED: &str = "APIGW.0307";
const FORBIDDEN: &str = "APIGW.0302";
const THROTTLED: &str = "APIGW.0308";

/// Why a call did not do what it should.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// Worth another try.
    Retry { after_ms: Option<u64>, reason: String },
    /// Every call would fail alike.
    Halt { reason: String },
    /// The user may not do this; perhaps something else.
    Forbidden { reason: String },
    /// There is no such thing.
    Missing { reason: String },
    /// It will not do this.
    Refused { reason: String },
}

/// What an answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) code: Option<String>,
    text: Option<String>,
    /// Under which Huawei's support finds the call.
    pub(super) request_id: Option<String>,
}

impl Said {
    /// Reads `{error_code, error_msg}`, `{code, message}` or `{errorCode, errorMsg}`, as it stands or one level down.
    /// `body` is free of secrets already.
    pub(super) fn read(headers: &HeaderMap, body: &str) -> Said {
        let header = headers.get("x-request-id").and_then(|value| value.to_str().ok());
        let Ok(Value::Object(whole)) = serde_json::from_str::<Value>(body) else {
            let text = Some(printable(body)).filter(|text| !text.is_empty());
            return Said { code: None, text, request_id: header.map(printable) };
        };
        let within = whole.values().filter_map(Value::as_object);
        let objects: Vec<_> = std::iter::once(&whole).chain(within).collect();
        let shapes = [("error_code", "error_msg"), ("code", "message"), ("errorCode", "errorMsg")];
        let found = objects.iter().find_map(|object| {
            let said = shapes.iter().map(|(code, text)| (word(object.get(*code)), word(object.get(*text))));
            said.into_iter().find(|(code, text)| code.is_some() || text.is_some())
        });
        let (code, text) = found.unwrap_or_default();
        let id = header.map(printable).or_else(|| objects.iter().find_map(|object| word(object.get("request_id"))));
        Said { code, text, request_id: id }
    }

    fn has(&self, words: &str) -> bool {
        self.text.as_ref().is_some_and(|text| text.contains(words))
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether SecMaster itself says so: then the gateway before it took the credential.
    pub(super) fn is_secmasters(&self) -> bool {
        self.code.as_ref().is_some_and(|code| code.starts_with("SecMaster."))
    }

    /// Whether the text may repeat a request with its headers.
    pub(super) fn repeats_the_request(&self) -> bool {
        self.is(REFUSED) || self.has("canonicalRequest")
    }

    pub(super) fn is_expired(&self) -> bool {
        self.is(REFUSED) && self.has("signature expired")
    }

    /// The gateway's clock: as the refusal of a signature says it, else as any answer says it.
    pub(super) fn server_time(&self, headers: &HeaderMap) -> Option<Time> {
        let named = self.text.as_ref().and_then(|text| text.split_once("server time:")).map(|(_, rest)| rest.trim());
        let named = named.and_then(|rest| rest.split([',', ' ', '"']).next()).and_then(compact_time);
        let date = || {
            let date = headers.get("date")?.to_str().ok()?;
            let read = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
            Some(Time::from_seconds(read.as_second()))
        };
        named.or_else(date)
    }

    /// Why a credential was refused with 401. `canonical` is what was signed.
    pub(super) fn refusal(&self, canonical: Option<&str>) -> String {
        let seen =
            |canonical: &str| self.text.as_ref().is_some_and(|text| text.contains(&canonical.replace('\n', "|")));
        let why = match canonical {
            _ if self.is(TOKEN_ENDED) => "the token has ended, or is of another region".to_owned(),
            _ if !self.is(REFUSED) => return format!("the credential is refused{}", self.words()),
            _ if self.is_expired() => "the signature's date is too far from the gateway's clock".to_owned(),
            _ if self.has("not exist") => "no such access_key".to_owned(),
            Some(canonical) if seen(canonical) => {
                "the signature is wrong, and the gateway saw the request as it was signed: secret_key is wrong"
                    .to_owned()
            }
            Some(_) if self.has("canonicalRequest") => {
                "the signature is wrong, and the gateway saw another request than was signed: url is wrong, or a proxy \
                 rewrites requests"
                    .to_owned()
            }
            Some(_) => "the signature is wrong: check access_key and secret_key".to_owned(),
            None => "the token is refused".to_owned(),
        };
        format!("the credential is refused: {why}{}{}", self.in_code(), self.in_request())
    }

    /// What follows from an answer that is neither success nor 401.
    pub(super) fn judge(&self, status: u16, verdict: Verdict) -> Fault {
        let say = |reason: String| reason + &self.words();
        let (reason, retry) = match verdict {
            Verdict::Retry { after_ms, reason } => (reason, Some(after_ms)),
            Verdict::Unauthorized { reason } | Verdict::Reject { reason } => (reason, None),
            Verdict::Taken => ("it is not taken".to_owned(), None),
        };
        let reason = say(reason);
        match self.code.as_deref() {
            _ if retry.is_some() || self.is(THROTTLED) => {
                let throttled = self.is(THROTTLED).then_some(THROTTLED_PAUSE_MS);
                Fault::Retry { after_ms: retry.flatten().or(throttled), reason }
            }
            // Wherever these come from, what they name is in the configuration, and every call's.
            Some("APIGW.0101" | "SecMaster.20010001" | "SecMaster.20011003") => Fault::Halt { reason },
            Some(FORBIDDEN) => Fault::Forbidden { reason },
            Some("SecMaster.20030005" | "SecMaster.20048004") => Fault::Missing { reason },
            _ if status == 404 => Fault::Missing { reason },
            _ => Fault::Refused { reason },
        }
    }

    /// Code, what it means, and the peer's own words, to be appended to a reason.
    pub(super) fn words(&self) -> String {
        let meant = self.code.as_deref().and_then(meaning);
        let text = self.text.as_deref().filter(|_| !self.repeats_the_request()).map(|text| cut(text, TEXT_CHARS_MAX));
        let said: Vec<_> = self.code.as_deref().into_iter().chain(meant).chain(text.as_deref()).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {}", said.join(": ")) };
        said + &self.in_request()
    }

    fn in_code(&self) -> String {
        self.code.as_ref().map_or(String::new(), |code| format!(" ({code})"))
    }

    fn in_request(&self) -> String {
        self.request_id.as_ref().map_or(String::new(), |id| format!("; request {id}"))
    }

    /// What is kept of the answer in place of a text that may repeat the request.
    pub(super) fn kept(&self) -> String {
        let left_out = "[left out: it may repeat the request]";
        serde_json::json!({"error_code": self.code, "error_msg": left_out, "request_id": self.request_id}).to_string()
    }
}

/// What a code means, and what to do about it.
fn meaning(code: &str) -> Option<&'static str> {
    Some(match code {
        "APIGW.0101" => "there is no such API: region or url is wrong",
        "APIGW.0201" => "the gateway could not pass the request on",
        FORBIDDEN => "this IAM user may not do this; give it the permission in IAM",
        THROTTLED => "too many requests",
        "SecMaster.20010001" | "SecMaster.20011003" => {
            "there is no such workspace (SecMaster says so with 403 or 400); check workspace_id and project_id"
        }
        "SecMaster.20030005" => "there is no such object (SecMaster says so with 400); check workflow_id",
        "SecMaster.20048004" => "there is no such version or rule of a playbook",
        _ => return None,
    })
}

/// A text or a number, as text; nothing for what is neither, and for an empty one.
fn word(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(printable(text)).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Long enough for the gateway's canonical request, which is compared and not handed on.
fn printable(text: &str) -> String {
    cut(text.trim(), 4_000).replace(char::is_control, " ")
}

/// `20240102T030405Z`.
fn compact_time(text: &str) -> Option<Time> {
    let digits = text.strip_suffix('Z')?;
    if digits.len() != 15
        || !digits.bytes().enumerate().all(|(at, b)| if at == 8 { b == b'T' } else { b.is_ascii_digit() })
    {
        return None;
    }
    let (date, clock) = (&digits[..8], &digits[9..]);
    let (year, month, day) = (&date[..4], &date[4..6], &date[6..]);
    Time::parse(&format!("{year}-{month}-{day}T{}:{}:{}Z", &clock[..2], &clock[2..4], &clock[4..]))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn said(body: &str) -> Said {
        Said::read(&HeaderMap::new(), body)
    }

    fn refused(text: &str) -> Said {
        said(&json!({"error_code": REFUSED, "error_msg": text}).to_string())
    }

    #[test]
    fn every_shape_is_read() {
        let cases = [
            (json!({"error_code": "A.1", "error_msg": "no", "request_id": "q"}), Some("A.1"), Some("no"), Some("q")),
            (json!({"code": "S.1", "message": "no"}), Some("S.1"), Some("no"), None),
            (json!({"errorCode": "E.1", "errorMsg": "no"}), Some("E.1"), Some("no"), None),
            (json!({"error": {"code": 401, "message": "no", "title": "t"}}), Some("401"), Some("no"), None),
            (json!({"error": {"error_code": "A.1", "request_id": "q"}}), Some("A.1"), None, Some("q")),
            (json!({"message": "no"}), None, Some("no"), None),
            (json!({"code": "", "message": null}), None, None, None),
            (json!({}), None, None, None),
        ];
        for (body, code, text, id) in cases {
            let read = said(&body.to_string());
            let found = (read.code.as_deref(), read.text.as_deref(), read.request_id.as_deref());
            assert_eq!(found, (code, text, id), "{body}");
        }
        for body in ["<html>\nno</html>", "[1]", "\"no\""] {
            assert_eq!(said(body).text.as_deref(), Some(&*body.replace('\n', " ")), "{body}");
        }
        assert_eq!(said(""), Said::default());
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("of the head"));
        let read = Said::read(&headers, "{\"request_id\": \"q\"}");
        assert_eq!(read.request_id.as_deref(), Some("of the head"));
    }

    #[test]
    fn the_gateways_clock_is_read_from_what_it_says() {
        let text = "calc aksk signature fail:signature expired, signature time:20211217T064303Z,server time:";
        let mut headers = HeaderMap::new();
        headers.insert("date", HeaderValue::from_static("Fri, 17 Dec 2021 06:58:05 GMT"));
        let cases = [
            ("20211217T065804Z", "2021-12-17T06:58:04Z"),
            (" 20211217T065804Z\"", "2021-12-17T06:58:04Z"),
            ("20211217T065804Z,more", "2021-12-17T06:58:04Z"),
            ("20211399T065804Z", "2021-12-17T06:58:05Z"),
            ("2021-12-17", "2021-12-17T06:58:05Z"),
            ("", "2021-12-17T06:58:05Z"),
        ];
        for (server, expected) in cases {
            let read = refused(&format!("{text}{server}"));
            assert!(read.is_expired());
            assert_eq!(read.server_time(&headers), Time::parse(expected), "{server}");
        }
        assert_eq!(refused(text).server_time(&HeaderMap::new()), None);
    }

    #[test]
    fn a_refusal_says_what_to_do_and_never_what_was_sent() {
        let canonical = "POST\n/v1/\n\nhost:a\nx-security-token:[secret]\n\nhost\nabc";
        let verify = "Incorrect IAM authentication information: verify aksk signature fail, canonicalRequest:";
        let cases = [
            (format!("{verify}{}", canonical.replace('\n', "|")), "secret_key is wrong"),
            (format!("{verify}POST|/v2/||host:a||host|abc"), "a proxy rewrites requests"),
            ("verify aksk signature fail".to_owned(), "check access_key and secret_key"),
            ("ak hunter2 not exist".to_owned(), "no such access_key"),
            ("signature expired, signature time:x".to_owned(), "too far from the gateway's clock"),
        ];
        for (text, expected) in cases {
            let read = refused(&text);
            let reason = read.refusal(Some(canonical));
            assert!(reason.contains(expected) && reason.ends_with("(APIGW.0301)"), "{reason}");
            for told in [reason, read.words(), read.kept()] {
                assert!(!told.contains("host") && !told.contains("hunter2"), "{told}");
            }
        }
        assert!(refused("decrypt token fail").refusal(None).contains("the token is refused"));
    }
}
