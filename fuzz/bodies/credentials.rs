//! Credentials as strangers make them up, and as somebody on the way changes them.

use std::sync::LazyLock;

use bytes::Bytes;
use callbackd::signature;
use callbackd::sources::{AuthError, RawRequest, Source};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{NOW, must_be_fit_to_say, read, source_of, text, twins};

const TOKENS: [&str; 2] = ["hunter2/new token&=%2B", "hunter2-old"];
const SECRETS: [&str; 2] = ["hunter2-new", "hunter2-old"];

static COS: LazyLock<Box<dyn Source>> = LazyLock::new(|| {
    source_of(&format!("[sources.it]\nkind = \"cos_workflow\"\npath = \"/it\"\ntoken = {TOKENS:?}\n"))
});

static PORT: LazyLock<Box<dyn Source>> = LazyLock::new(|| {
    source_of(&format!("[sources.it]\nkind = \"port_action\"\npath = \"/it\"\nsecret = {SECRETS:?}\n"))
});

/// The first byte says what is done to a signed request; else the input is a request: a line that is what follows the
/// path, lines of headers, an empty line, and the body.
pub(super) fn credentials(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    match how {
        b'0'..=b'9' => changed_on_the_way(how - b'0', rest),
        _ => made_up(input),
    }
}

fn made_up(input: &[u8]) {
    let (head, body) = split(input, b"\n\n").unwrap_or((input, b""));
    let mut lines = text(head).lines();
    let (rest, query) = lines.next().map(|line| line.split_once('?').unwrap_or((line, ""))).unwrap_or_default();
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.take(100).filter_map(header) {
        headers.append(name, value);
    }
    let raw = || RawRequest {
        method: Method::POST,
        rest: rest.to_owned(),
        query: Some(query.to_owned()),
        headers: headers.clone(),
        body: Bytes::copy_from_slice(body),
        peer: [192, 0, 2, 1].into(),
    };

    let brought = query.split('&').filter_map(|part| part.strip_prefix("token=")).chain([rest]);
    let is_known = brought.map(decoded).any(|bytes| TOKENS.iter().any(|token| token.as_bytes() == bytes));
    let screened = COS.screen(&raw()).is_ok();
    let let_in = judged(COS.authenticate(raw(), NOW).err());
    assert_eq!(screened, let_in, "the head alone tells");
    assert!(is_known || !let_in, "let in without a token");

    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (timestamp, given) = (value("x-port-timestamp"), value("x-port-signature"));
    let of = |secret: &&str, body: &[u8]| {
        let mac = signature::hmac_sha256(secret.as_bytes(), &[timestamp.as_bytes(), b".", body]);
        given.strip_prefix("v1,").and_then(signature::from_base64).is_some_and(|given| given == mac)
    };
    let compact = without_blanks(text(body));
    let is_signed = SECRETS.iter().any(|secret| of(secret, body) || of(secret, compact.as_bytes()));
    let let_in = judged(PORT.authenticate(raw(), NOW).err());
    assert!(is_signed || !let_in, "let in without a signature");
}

/// What is said to somebody who is refused; whether nobody is.
fn judged(refused: Option<AuthError>) -> bool {
    if let Some(e) = &refused {
        must_be_fit_to_say(&e.to_string());
    }
    refused.is_none()
}

fn changed_on_the_way(how: u8, rest: &[u8]) {
    let (place, body) = rest.split_at_checked(2).unwrap_or((b"\0\0", b""));
    let place = usize::from(place[0]) | usize::from(place[1]) << 8;
    let mut raw = read::sent(&**PORT, body);
    let signed = raw.headers.get("x-port-signature").cloned().expect("signed");
    let is_fine = match how {
        // Its agent signs compact JSON, and sends it with blanks.
        0 => match twins::airy(text(body)).filter(|_| text(body).len() == body.len()) {
            Some(airy) => {
                let is_compact = without_blanks(text(body)) == text(body);
                raw.body = airy.into();
                Some(is_compact).filter(|_| raw.body != body)
            }
            None => None,
        },
        1 if !body.is_empty() => {
            let mut changed = body.to_vec();
            changed[place % body.len()] ^= 1 << (place / body.len() % 8);
            raw.body = changed.into();
            Some(false)
        }
        2 => {
            let mut changed = signed.as_bytes().to_vec();
            let at = 3 + place % (changed.len() - 4);
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let is_same = HeaderValue::from_bytes(&changed).expect("ASCII");
            raw.headers.insert("x-port-signature", is_same);
            Some(false)
        }
        3 => {
            raw.headers.append("x-port-signature", signed);
            Some(false)
        }
        4 => {
            raw.headers.insert("x-port-timestamp", HeaderValue::from(NOW.seconds() + 1 + place as i64));
            Some(false)
        }
        5 => {
            raw.rest = "below".to_owned();
            Some(false)
        }
        6 => {
            raw.headers.remove(if place % 2 == 0 { "x-port-signature" } else { "x-port-timestamp" });
            Some(false)
        }
        7 => {
            let more = [body, b"x"].concat();
            raw.body = more.into();
            Some(false)
        }
        _ => Some(true),
    };
    let taken = PORT.authenticate(raw, NOW);
    let let_in = judged(taken.err());
    if let Some(is_fine) = is_fine {
        assert_eq!(let_in, is_fine, "change {how}");
    }
}

/// Compact JSON, as its agent writes it.
fn without_blanks(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keeps = |c: &char| {
        let stays = inside || !matches!(c, ' ' | '\t' | '\r' | '\n');
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
        stays
    };
    json.chars().filter(keeps).collect()
}

/// RFC 3986, 2.1.
fn decoded(text: &str) -> Vec<u8> {
    let (mut out, mut left) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = left.split_first() {
        let hex = after.first_chunk::<2>().and_then(|pair| std::str::from_utf8(pair).ok());
        let value = hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(value.unwrap_or(byte));
        left = if value.is_some() { &after[2..] } else { after };
    }
    out
}

fn split<'a>(bytes: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(by.len()).position(|window| window == by)?;
    Some((&bytes[..at], &bytes[at + by.len()..]))
}
