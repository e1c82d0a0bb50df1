//! Words of others, made fit for a reason, a log, an answer, a terminal.
//!
//! Senders and peers choose names and texts, and parsers quote them as they are, however long. They get into a text of ours
//! through here: no longer than anybody reads, and with everything escaped that could steer a terminal or begin a line.

use std::borrow::Cow;

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

/// `text` with everything escaped that could steer a terminal.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Control characters, and overrides of the writing direction.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
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
}
