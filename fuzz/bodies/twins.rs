//! The same body, written otherwise: what means the same has to be read as the same.

use serde_json::Value;

/// JSON with a blank wherever one may stand; `None` when it is no JSON.
pub(super) fn airy(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len() * 2);
    serde_json::from_str::<Value>(json).ok()?;
    for (c, inside) in signs(json) {
        let opens = !inside && matches!(c, '{' | '[' | ',' | ':');
        if !inside && matches!(c, '}' | ']') {
            out.push_str("\n ");
        }
        out.push(c);
        if opens {
            out.push_str("\t\r\n");
        }
    }
    Some(out)
}

/// JSON with the members of each object in another order; `None` when it is no JSON, or says a member twice.
pub(super) fn reordered(json: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    let members = |json: &str| signs(json).filter(|(c, inside)| !inside && *c == ':').count();
    let mut out = String::new();
    write(&value, &mut out);
    (members(&out) == members(json)).then_some(out)
}

/// From the last name to the first.
fn write(value: &Value, out: &mut String) {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut list = |open: char, parts: &mut dyn Iterator<Item = (Option<&String>, &Value)>, close: char| {
        out.push(open);
        for (position, (name, part)) in parts.enumerate() {
            if position > 0 {
                out.push(',');
            }
            if let Some(name) = name {
                out.push_str(&quoted(name));
                out.push(':');
            }
            write(part, out);
        }
        out.push(close);
    };
    match value {
        Value::Object(members) => list('{', &mut members.iter().rev().map(|(name, part)| (Some(name), part)), '}'),
        Value::Array(parts) => list('[', &mut parts.iter().map(|part| (None, part)), ']'),
        plain => out.push_str(&plain.to_string()),
    }
}

/// Each character, and whether it stands in a text.
fn signs(json: &str) -> impl Iterator<Item = (char, bool)> {
    let (mut inside, mut escaped) = (false, false);
    json.chars().map(move |c| {
        let was_inside = inside;
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
        (c, was_inside)
    })
}

/// XML with an empty comment between tags; `None` where that is not easily told.
pub(super) fn commented(xml: &str) -> Option<String> {
    let has_more_than_tags = ["<!", "<?", "\"", "'"].iter().any(|sign| xml.contains(sign));
    (!has_more_than_tags && xml.contains("><")).then(|| xml.replace("><", "><!----><"))
}
