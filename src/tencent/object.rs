//! How Tencent writes the key of an object, and what it percent-encodes.

use std::borrow::Cow;

/// The key of an object of that bucket: older replies write the object's URL instead.
pub fn key_of<'a>(object: Cow<'a, str>, bucket: &str) -> Cow<'a, str> {
    let rest = object.strip_prefix("https://").or_else(|| object.strip_prefix("http://"));
    let in_bucket = rest.and_then(|rest| rest.strip_prefix(bucket)?.strip_prefix(".cos.")?.split_once('/'));
    match in_bucket.map(|(_, path)| String::from_utf8(decoded(path).into_owned())) {
        Some(Ok(key)) if !key.is_empty() => Cow::Owned(key),
        _ => object,
    }
}

/// Undoes percent-encoding as RFC 3986 has it: a plus sign is a plus sign, and a percent sign that begins no byte is
/// itself, so that a token may also be pasted into the URL as it is.
pub fn decoded(text: &str) -> Cow<'_, [u8]> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(out)
}
