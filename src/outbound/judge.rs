//! What follows from an answer, alike for every sink.

use http::{HeaderMap, StatusCode};

use super::{Answer, Failure};
use crate::model::Time;

/// What follows from an answer or its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The peer has taken it.
    Taken,
    /// Worth another try.
    Retry {
        /// Not before this many milliseconds, where the peer said so.
        after_ms: Option<u64>,
        /// Why.
        reason: String,
    },
    /// The credential is refused.
    Unauthorized {
        /// Why.
        reason: String,
    },
    /// The peer will never take it.
    Reject {
        /// Why.
        reason: String,
    },
}

/// Judges how a request went. Retries have to be safe at the peer: whether a request without an answer was taken is
/// unknown.
pub fn judge(sent: &Result<Answer, Failure>, now: Time) -> Verdict {
    let (status, headers) = match sent {
        Ok(answer) => (answer.status, Some(&answer.headers)),
        Err(Failure::TooLarge { status, .. }) => (*status, None),
        Err(failure @ Failure::Url(_)) => return Verdict::Reject { reason: failure.to_string() },
        Err(failure) => return Verdict::Retry { after_ms: None, reason: failure.to_string() },
    };
    let reason = describe(status);
    match status {
        200..=299 => Verdict::Taken,
        300..=399 => {
            Verdict::Reject { reason: format!("{reason}: redirects are not followed; configure the final URL") }
        }
        401 | 403 => Verdict::Unauthorized { reason },
        408 | 425 | 429 | 500..=599 => {
            Verdict::Retry { after_ms: headers.and_then(|h| pause_ms(h, now, status == 429)), reason }
        }
        _ => Verdict::Reject { reason },
    }
}

/// The start of the answer's body, fit for a table: at most 500 characters, without control characters.
pub fn answer_text(answer: &Answer) -> String {
    // No character takes more than four bytes.
    let start = &answer.body[..answer.body.len().min(4 * 500 + 3)];
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(start).chars().take(500).map(plain).collect()
}

fn describe(status: u16) -> String {
    match StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()) {
        Some(words) => format!("answered {status} {words}"),
        None => format!("answered {status}"),
    }
}

/// How long the peer asks us to stay away, in milliseconds: `Retry-After` (RFC 9110, 10.2.3), in seconds or as a date;
/// else the end of an exhausted `x-ratelimit` window.
pub fn asked_pause_ms(headers: &HeaderMap, now: Time) -> Option<u64> {
    pause_ms(headers, now, false)
}

/// `limited`: the answer itself says that the window is exhausted, where no header does.
fn pause_ms(headers: &HeaderMap, now: Time, limited: bool) -> Option<u64> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    if let Some(asked) = text("retry-after") {
        if let Ok(seconds) = asked.parse::<u64>() {
            return Some(seconds.saturating_mul(1000));
        }
        // The one date format in use (IMF-fixdate) is also RFC 5322's.
        if let Ok(at) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(asked) {
            return Some(Time::from_seconds(at.as_second()).ms_since(now));
        }
    }
    match text("x-ratelimit-remaining") {
        Some(left) if left.parse::<u64>().ok()? > 0 => return None,
        None if !limited => return None,
        _ => {}
    }
    Some(since_epoch(text("x-ratelimit-reset")?.parse().ok()?).ms_since(now))
}

/// Peers count the end of their window in seconds (Port), in milliseconds, or in microseconds (Dynatrace); for some
/// thousand years, the number's size tells which.
fn since_epoch(number: i64) -> Time {
    const SECONDS_MAX: i64 = 100_000_000_000;
    if number < SECONDS_MAX {
        Time::from_seconds(number)
    } else if number < SECONDS_MAX * 1000 {
        Time::from_micros(number * 1000)
    } else {
        Time::from_micros(number)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let headers = headers.iter().map(|&(n, v)| (n.parse().expect(n), HeaderValue::from_static(v))).collect();
        Answer { status, headers, body: Bytes::new() }
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Taken => "taken",
            Verdict::Retry { .. } => "retry",
            Verdict::Unauthorized { .. } => "unauthorized",
            Verdict::Reject { .. } => "reject",
        }
    }

    #[test]
    fn a_status_decides() {
        let cases: [(&[u16], &str); 4] = [
            (&[200, 201, 202, 204, 207], "taken"),
            (&[408, 425, 429, 500, 502, 503, 504, 599], "retry"),
            (&[401, 403], "unauthorized"),
            (&[301, 302, 307, 308, 400, 404, 405, 409, 410, 413, 422, 600, 999], "reject"),
        ];
        for (statuses, expected) in cases {
            for &status in statuses {
                assert_eq!(word(&judge(&Ok(answer(status, &[])), Time::default())), expected, "{status}");
                let huge = Err(Failure::TooLarge { status, bytes_max: 1 });
                assert_eq!(word(&judge(&huge, Time::default())), expected, "{status}, too large");
            }
        }
        for failure in [Failure::Connect(String::new()), Failure::Reset(String::new()), Failure::Tls(String::new())] {
            assert_eq!(word(&judge(&Err(failure), Time::default())), "retry");
        }
        assert_eq!(word(&judge(&Err(Failure::Url(String::new())), Time::default())), "reject");
    }

    #[test]
    fn a_pause_is_honoured_in_every_form() {
        let now = Time::parse("1994-11-06T08:49:07Z").expect("a time");
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Headers, Option<u64>); 16] = [
            (&[], None),
            (&[("retry-after", "120")], Some(120_000)),
            (&[("retry-after", " 0 ")], Some(0)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], Some(30_000)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "18446744073709551615")], Some(u64::MAX)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111777")], Some(30_000)),
            (&[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "784111777")], None),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111777000")], Some(30_000)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111777000000")], Some(30_000)),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "-1")], Some(0)),
            (&[("x-ratelimit-reset", "784111777")], Some(30_000)),
            (&[("x-ratelimit-remaining", "many"), ("x-ratelimit-reset", "784111777")], None),
            (&[("x-ratelimit-remaining", "0")], None),
            (&[("retry-after", "5"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "784111777")], Some(5000)),
        ];
        for (headers, expected) in cases {
            let Verdict::Retry { after_ms, .. } = judge(&Ok(answer(429, headers)), now) else { panic!("{headers:?}") };
            assert_eq!(after_ms, expected, "{headers:?}");
        }
    }

    #[test]
    fn the_kept_text_is_short_and_printable() {
        let text = |body: &'static [u8]| answer_text(&Answer { body: Bytes::from_static(body), ..answer(200, &[]) });
        assert_eq!(text(b"a\r\nb\x1b[31m\xff"), "a  b [31m\u{fffd}");
        let long = Bytes::from("\u{1f600}".repeat(600));
        let cut = answer_text(&Answer { body: long, ..answer(200, &[]) });
        assert_eq!(cut, "\u{1f600}".repeat(500));
    }
}
