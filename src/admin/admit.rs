//! Who gets in at the operators' door.
//!
//! With a token, whoever sends it: programs as `Authorization: Bearer …`, browsers as the password of HTTP Basic, under
//! any name, because that is what a browser asks a person for by itself. Without a token, programs of this machine.
//!
//! A browser sends on its own what it was told once, and reaches this machine's ports for any site. So it is kept from
//! being used as a bridge: where no Bearer token is shown, another site's page gets nothing (`Sec-Fetch-Site`, `Origin`),
//! and without a token the `Host` has to be local (DNS rebinding). A link from another site may be followed: it changes
//! nothing, and what it leads to can be neither framed nor read by who set it.

use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::bad_request;
use crate::secret::Secret;
use crate::server::respond::Problem;
use crate::signature;

static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
static FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What a browser is asked for, after what a program is.
const CHALLENGES: &str = "Bearer, Basic realm=\"callbackd\", charset=\"UTF-8\"";

/// Whether this is an operator.
pub(super) fn admits(token: Option<&Secret>, head: &Parts) -> Result<(), Problem> {
    let headers = &head.headers;
    // RFC 9112, section 3.2: who is between may have looked at another one than we would.
    for (name, word) in [(HOST, "Host"), (AUTHORIZATION, "Authorization")] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(bad_request(format!("There is more than one {word} header. Send one.")));
        }
    }
    let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    // Section 3.2.2: a target that names a host is meant for that one.
    if head.uri.authority().is_some_and(|target| target.as_str() != host) {
        return Err(bad_request("The request's target names another host than its Host header. Send the path alone."));
    }
    match token {
        None if !is_loopback(host) => {
            return Err(foreign("Without a `token` in [admin], the Host has to be localhost or a loopback address."));
        }
        None => {}
        Some(token) => {
            let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
            let is_token = |given: &[u8]| signature::is_equal(given, token.expose().as_bytes());
            if given.and_then(bearer).is_some_and(is_token) {
                return Ok(());
            }
            if !given.and_then(password).is_some_and(|given| is_token(&given)) {
                return Err(unauthorized());
            }
        }
    }
    if is_foreign(headers, host) && !is_followed_link(head) {
        return Err(foreign("Another site's page may not use this door. Without a browser, leave out Origin."));
    }
    Ok(())
}

fn unauthorized() -> Problem {
    let detail = "Send the token of [admin] as Authorization: Bearer <token>; in a browser, log in with any name, and \
                  the token as the password.";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Not authenticated", detail);
    problem.with("www-authenticate", CHALLENGES)
}

fn foreign(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "foreign", "Not from here", detail)
}

/// The token in `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The password in `Basic <base64 of name:password>` (RFC 7617).
fn password(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, pair) = value.split_at_checked(6)?;
    let pair = std::str::from_utf8(pair).ok().filter(|_| scheme.eq_ignore_ascii_case(b"basic "))?;
    let mut name = signature::from_base64(pair.trim())?;
    let colon = name.iter().position(|&byte| byte == b':')?;
    Some(name.split_off(colon + 1))
}

/// Whether a browser sends this for another site's page. Who is no browser says nothing of it.
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let same = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host))
    };
    let site = headers.get(&FETCH_SITE).map(HeaderValue::as_bytes);
    // The browser's own word, which no page can set, holds: behind a proxy the host may be another than it knows.
    match site {
        Some(b"same-origin") => false,
        Some(b"cross-site" | b"same-site") => true,
        _ => headers.get_all(ORIGIN).iter().any(|origin| !same(origin)),
    }
}

/// Somebody follows a link, or opens a bookmark: nothing that changes anything, nor a part of another page.
fn is_followed_link(head: &Parts) -> bool {
    let navigates = head.headers.get(&FETCH_MODE).is_some_and(|mode| mode == "navigate");
    navigates && (head.method == Method::GET || head.method == Method::HEAD)
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|a: std::net::IpAddr| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn status(token: Option<&str>, method: Method, pairs: &[(&str, &str)]) -> Option<StatusCode> {
        let request = Request::builder().method(method).uri("/");
        let request = pairs.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let head = request.body(()).expect("a request").into_parts().0;
        admits(token.map(Secret::new).as_ref(), &head).err().map(|problem| problem.status)
    }

    #[test]
    fn only_this_machine_and_our_own_pages_need_no_token() {
        for (pairs, local) in [
            (&[("host", "localhost")][..], true),
            (&[("host", "LocalHost:8481")], true),
            (&[("host", "127.0.0.1:8481")], true),
            (&[("host", "127.9.9.9")], true),
            (&[("host", "[::1]:8481")], true),
            (&[("host", "localhost:8481"), ("origin", "http://localhost:8481")], true),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "same-origin")], true),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "none")], true),
            (&[], false),
            (&[("host", "")], false),
            (&[("host", "attacker.example")], false),
            (&[("host", "localhost.attacker.example")], false),
            (&[("host", "127.0.0.1.attacker.example")], false),
            (&[("host", "user@localhost:80@attacker.example")], false),
            (&[("host", "192.0.2.1:8481")], false),
            (&[("host", "attacker.example"), ("sec-fetch-site", "same-origin")], false),
            (&[("host", "localhost:8481"), ("origin", "http://localhost:3000")], false),
            (&[("host", "localhost:8481"), ("origin", "https://attacker.example")], false),
            (&[("host", "localhost:8481"), ("origin", "null")], false),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "same-site")], false),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "cross-site")], false),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
        ] {
            for method in [Method::GET, Method::POST] {
                let refused = (!local).then_some(StatusCode::FORBIDDEN);
                assert_eq!(status(None, method, pairs), refused, "{pairs:?}");
            }
        }
    }

    #[test]
    fn of_two_hosts_none_is_believed() {
        let two = [("host", "localhost"), ("host", "localhost")];
        let bearer = [two[0], ("host", "attacker.example"), ("authorization", "Bearer s3:cret")];
        assert_eq!(status(None, Method::GET, &two), Some(StatusCode::BAD_REQUEST));
        assert_eq!(status(Some("s3:cret"), Method::GET, &bearer), Some(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn of_two_credentials_none_is_believed() {
        let right = [("host", "ops.example"), ("authorization", "Bearer s3:cret")];
        for second in ["Bearer s3:cret", "Bearer wrong"] {
            let two = [right[0], right[1], ("authorization", second)];
            assert_eq!(status(Some("s3:cret"), Method::GET, &two), Some(StatusCode::BAD_REQUEST));
        }
    }

    #[test]
    fn a_target_that_names_another_host_is_not_ours() {
        for (target, host, refused) in [
            ("http://localhost:8481/", "localhost:8481", None),
            ("http://evil.example/", "evil.example", Some(StatusCode::FORBIDDEN)),
            ("http://evil.example/", "localhost:8481", Some(StatusCode::BAD_REQUEST)),
            ("http://localhost:8481/", "evil.example", Some(StatusCode::BAD_REQUEST)),
            ("http://localhost@evil.example/", "localhost", Some(StatusCode::BAD_REQUEST)),
        ] {
            let request = Request::builder().uri(target).header("host", host).body(()).expect("a request");
            let found = admits(None, &request.into_parts().0).err().map(|problem| problem.status);
            assert_eq!(found, refused, "{target} {host}");
        }
    }

    #[test]
    fn a_link_may_be_followed_and_a_form_of_another_site_not() {
        let pairs = [("host", "localhost:8481"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(status(None, Method::GET, &pairs), None);
        assert_eq!(status(None, Method::POST, &pairs), Some(StatusCode::FORBIDDEN));
        let rebound = [("host", "attacker.example"), pairs[1], pairs[2]];
        assert_eq!(status(None, Method::GET, &rebound), Some(StatusCode::FORBIDDEN));
    }

    #[test]
    fn the_token_opens_and_a_browser_that_knows_it_is_no_bridge() {
        let basic = format!("basic {}", signature::base64(b"ops:s3:cret"));
        let own = ("host", "ops.example");
        for (pairs, refused) in [
            (&[own, ("authorization", "Bearer s3:cret")][..], None),
            (&[own, ("authorization", "bearer  s3:cret ")], None),
            (&[own, ("authorization", "Bearer s3:cret"), ("origin", "https://attacker.example")], None),
            (&[own, ("authorization", &basic)], None),
            (&[own, ("authorization", &basic), ("origin", "https://ops.example")], None),
            (
                &[
                    ("host", "127.0.0.1:8481"),
                    ("authorization", &basic),
                    ("origin", "https://ops.example"),
                    ("sec-fetch-site", "same-origin"),
                ],
                None,
            ),
            (&[own, ("authorization", &basic), ("origin", "https://attacker.example")], Some(403)),
            (&[own, ("authorization", &basic), ("sec-fetch-site", "cross-site")], Some(403)),
            (&[own, ("authorization", &basic), ("sec-fetch-site", "same-site")], Some(403)),
            (&[own], Some(401)),
            (&[own, ("authorization", "Bearer")], Some(401)),
            (&[own, ("authorization", "Bearer s3:cre")], Some(401)),
            (&[own, ("authorization", "Basic s3:cret")], Some(401)),
            (&[own, ("authorization", "Basic czM6Y3JldA==")], Some(401)),
            (&[own, ("authorization", "Basic b3BzOnMz")], Some(401)),
        ] {
            let status = status(Some("s3:cret"), Method::POST, pairs).map(|status| status.as_u16());
            assert_eq!(status, refused, "{pairs:?}");
        }
    }
}
