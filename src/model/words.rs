//! Words of others, made fit for a reason, a log, an answer, a terminal.
//!
//! Senders and peers choose names and texts, and parsers quote them as they are, however long. They get into a text of ours
//! through here: no longer than anybody reads, and with everything escaped that could steer a terminal or begin a line.

use std::borrow::Cow;
use std::fmt::Write;

/// A longer reason is cut.
const REASON_CHARS_MAX: usize = 2000;

/// `text` as a reason: bounded, and plain.
pub fn reason(text: &str) -> Cow<'_, str> {
    let begin = start(text);
    let said = plain(begin);
    let whole = start(&said).len();
    if begin.len() == text.len() && whole == said.len() { said } else { Cow::Owned([&said[..whole], "…"].concat()) }
}

fn start(text: &str) -> &str {
    text.char_indices().nth(REASON_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// `text` for people: with everything escaped that could steer a terminal.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, |out, c| out.extend(c.escape_default()))
}

/// JSON for programs, which means the same: what steers can only stand inside of strings. (serde_json escapes what lies
/// below a space, but neither DEL nor the C1 controls, nor marks.)
pub fn json(text: &str) -> Cow<'_, str> {
    let unit = |out: &mut String, unit: &u16| write!(out, "\\u{unit:04x}").expect("a String takes all");
    escaped(text, |out, c| c.encode_utf16(&mut [0; 2]).iter().for_each(|u| unit(out, u)))
}

fn escaped(text: &str, mut escape: impl FnMut(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { escape(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Control characters, marks of the writing direction, and what nobody sees: with it, two names look alike. (Not what only
/// chooses the look of the character before it: emoji are written with that.)
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Bytes as people read them: `512 B`, `1.4 MiB`, `20 GiB`.
pub fn size(bytes: u64) -> String {
    let unit = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, bits)| bytes >> bits > 0);
    match unit {
        None => format!("{bytes} B"),
        Some((unit, bits)) if bytes >> bits >= 10 => format!("{} {unit}", bytes >> bits),
        Some((unit, bits)) => format!("{}.{} {unit}", bytes >> bits, ((bytes % (1 << bits)) * 10) >> bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_and_of_one_line() {
        let long = "视".repeat(REASON_CHARS_MAX);
        for (text, said) in [
            ("", ""),
            ("视频/clip.mp4", "视频/clip.mp4"),
            ("two\r\nlines\t", "two\\r\\nlines\\t"),
            ("\u{1b}]0;pwned\u{7}\u{202e}", "\\u{1b}]0;pwned\\u{7}\\u{202e}"),
            (&long, &long),
            (&[&long, "x"].concat(), &[&long, "…"].concat()),
            (&[&long[3..], "\n"].concat(), &[&long[3..], "\\…"].concat()),
        ] {
            assert_eq!(reason(text), said);
        }
        assert_eq!(reason(&"\u{7}".repeat(1 << 20)).chars().count(), REASON_CHARS_MAX + 1);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let cases = [
            ("视频/clip.mp4", "视频/clip.mp4"),
            ("\u{1b}[2J\u{1b}]0;pwned\u{7}", "\\u{1b}[2J\\u{1b}]0;pwned\\u{7}"),
            ("two\r\nlines\t", "two\\r\\nlines\\t"),
            ("c1 \u{9b}31m del \u{7f}", "c1 \\u{9b}31m del \\u{7f}"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
            ("por\u{200b}tal \u{2060}\u{ad}\u{e0041}", "por\\u{200b}tal \\u{2060}\\u{ad}\\u{e0041}"),
            ("❤\u{fe0f}", "❤\u{fe0f}"),
        ];
        for (text, shown) in cases {
            assert_eq!(plain(text), shown, "{text:?}");
        }
        let marks = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain([
            '\u{61c}',
            '\u{200b}',
            '\u{200f}',
            '\u{e0041}',
        ]);
        let name = format!("\u{1b}\u{9b}\u{7f}视频\"\n{}", marks.collect::<String>());
        let value = serde_json::json!({ "name": name });
        let raw = value.to_string();
        let line = json(&raw);
        assert!(!line.contains(steers) && line.contains("视频"), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), value);
    }
}
