//! Why a call is refused, for who holds the secret: what of the signature is there, what its time is, and whether the body
//! would verify if something on its way had not changed it. What was expected is never said, nor anything of a secret.

use std::borrow::Cow;

use super::{PortAction, SIGNATURE, TIMESTAMP, body, is_signed, seconds, single};
use crate::model::Time;
use crate::secret::Secret;
use crate::signature;
use crate::sources::{AuthError, RawRequest};

/// Far more seconds since 1970 than this are milliseconds.
const SECONDS_MAX: i64 = 100_000_000_000;

/// A body as it may have been before something changed it, and how that differs from what came.
type Variant = (&'static str, fn(&[u8]) -> Option<Cow<'_, [u8]>>);

const VARIANTS: [Variant; 8] = [
    ("without the line end at its end", |body| {
        let cut = body.strip_suffix(b"\n")?;
        Some(cut.strip_suffix(b"\r").unwrap_or(cut).into())
    }),
    ("with a line end at its end", |body| Some([body, b"\n"].concat().into())),
    ("with LF where it has CR LF", |body| replaced(body, "\r\n", "\n")),
    ("with CR LF where it has LF", |body| if body.contains(&b'\r') { None } else { replaced(body, "\n", "\r\n") }),
    ("without the byte order mark at its beginning", |body| Some(body.strip_prefix(b"\xef\xbb\xbf")?.into())),
    ("with blanks after commas and colons, which something has taken out", |body| Some(spaced(body).into())),
    ("with \\u and digits for all that is not ASCII: something has written the JSON anew", escaped),
    ("with letters where it has \\u and digits: something has written the JSON anew", unescaped),
];

impl PortAction {
    pub(super) fn why(&self, raw: &RawRequest, now: Time) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.secrets.is_empty() {
            return remarks;
        }
        let mut held = |name| match single(&raw.headers, name) {
            Ok(text) => Some(text),
            Err(AuthError::Missing(_)) => {
                remarks.push(format!("{name}: not there"));
                None
            }
            Err(e) => {
                remarks.push(e.to_string());
                None
            }
        };
        let (timestamp, signature) = (held(TIMESTAMP), held(SIGNATURE));
        if let Some(text) = timestamp {
            remarks.push(format!("{TIMESTAMP}: {}", self.of_time(text, now)));
        }
        let Some(signature) = signature else { return remarks };
        let mac = match form(signature) {
            Ok(mac) => mac,
            Err(remark) => {
                remarks.push(format!("{SIGNATURE}: {remark}"));
                return remarks;
            }
        };
        let Some(timestamp) = timestamp else { return remarks };
        remarks.push(format!("{SIGNATURE}: {}", self.of_signature(timestamp.as_bytes(), &raw.body, &mac)));
        remarks
    }

    fn of_time(&self, text: &str, now: Time) -> String {
        let Some(at) = seconds(text) else { return "no number of seconds since 1970, in digits alone".to_owned() };
        if at.seconds() > SECONDS_MAX {
            return "far in the future: it is to be in seconds, and looks like milliseconds".to_owned();
        }
        let (old, ahead) = (now.ms_since(at), at.ms_since(now));
        let off = old.max(ahead) / 1000;
        let direction = if old > 0 { "old" } else { "in the future" };
        match off * 1000 > self.tolerance.ms() {
            true => format!("{off} s {direction}, which is {} s too much", off - self.tolerance.ms() / 1000),
            false => format!("{off} s {direction}, which is fine"),
        }
    }

    fn of_signature(&self, timestamp: &[u8], body: &[u8], mac: &[u8]) -> String {
        let signs = |secret: &Secret, body: &[u8]| is_signed(std::slice::from_ref(secret), timestamp, body, mac);
        let fits = |body: &[u8]| self.secrets.iter().position(|secret| signs(secret, body));
        let which = |place: usize| match self.secrets.len() {
            1 => String::new(),
            all => format!(", by secret {} of {all}", place + 1),
        };
        if let Some(place) = fits(body) {
            return format!("fits{}", which(place));
        }
        for (what, variant) in VARIANTS {
            if let Some(place) = variant(body).and_then(|changed| fits(&changed)) {
                return format!(
                    "would fit the body {what}{}; so the secret is right, and the body was changed",
                    which(place)
                );
            }
        }
        let blanks = self.secrets.iter().position(|secret| {
            let text = secret.expose();
            text.trim().len() < text.len() && signs(&Secret::new(text.trim()), body)
        });
        if let Some(place) = blanks {
            return format!("would fit without the blanks around the configured secret{}", which(place));
        }
        let none = match self.secrets.len() {
            1 => "does not fit under the configured secret".to_owned(),
            all => format!("does not fit under any of the {all} configured secrets"),
        };
        format!("well formed, and {none}: another organization's secret, an old one, or a body that was changed")
    }
}

/// The signature's bytes, or what is wrong with how it is written.
fn form(text: &str) -> Result<Vec<u8>, &'static str> {
    let Some(encoded) = text.strip_prefix("v1,") else {
        return Err(match text.starts_with("sha256=") || text.starts_with("v1=") {
            true => "another scheme's; it is to be v1, and base64",
            false => "does not begin with \"v1,\"",
        });
    };
    match signature::from_base64(encoded) {
        Some(mac) if mac.len() == 32 => Ok(mac),
        Some(_) if encoded.len() == 64 && encoded.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Err("in hexadecimal digits; it is to be base64")
        }
        Some(mac) if mac.len() < 32 => Err("too short: was it cut off?"),
        Some(_) => Err("too long: base64 of 32 bytes is expected"),
        None if encoded.trim() != encoded || encoded.contains(['"', '\'']) => Err("has blanks or quotes in it"),
        None if encoded.contains(['-', '_']) => Err("in the base64 of URLs; the common one, with + and /, is expected"),
        None => Err("no base64 with its padding: was it cut off?"),
    }
}

fn replaced<'b>(body: &'b [u8], from: &str, to: &str) -> Option<Cow<'b, [u8]>> {
    let text = std::str::from_utf8(body).ok()?;
    text.contains(from).then(|| text.replace(from, to).into_bytes().into())
}

/// As many programs print JSON on one line.
fn spaced(json: &[u8]) -> Vec<u8> {
    let compact = body::without_whitespace(json);
    let (mut spaced, mut in_text, mut is_escaped) = (Vec::with_capacity(compact.len() * 5 / 4), false, false);
    for byte in compact {
        spaced.push(byte);
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b',' | b':' if !in_text => spaced.push(b' '),
            _ => {}
        }
    }
    spaced
}

fn escaped(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let text = std::str::from_utf8(body).ok().filter(|text| !text.is_ascii())?;
    let mut escaped = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        match c.is_ascii() {
            true => escaped.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    Some(escaped.into_bytes().into())
}

fn unescaped(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let text = std::str::from_utf8(body).ok().filter(|text| text.contains("\\u"))?;
    let (mut units, mut read, mut rest) = (Vec::<u16>::new(), String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("\\u") {
        let unit = rest.get(at + 2..at + 6).and_then(|digits| u16::from_str_radix(digits, 16).ok());
        // What is ASCII was written so for a reason.
        let Some(unit) = unit.filter(|unit| *unit >= 0x80) else {
            read.push_str(&String::from_utf16_lossy(&std::mem::take(&mut units)));
            read.push_str(&rest[..at + 2]);
            rest = &rest[at + 2..];
            continue;
        };
        if at > 0 {
            read.push_str(&String::from_utf16_lossy(&std::mem::take(&mut units)));
            read.push_str(&rest[..at]);
        }
        units.push(unit);
        rest = &rest[at + 6..];
    }
    read.push_str(&String::from_utf16_lossy(&units));
    read.push_str(rest);
    Some(read.into_bytes().into())
}
