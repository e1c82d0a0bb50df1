//! Writes HTML and SVG that is escaped by construction.
//!
//! Names of elements and attributes are words of our code; whatever else gets in is text, and is escaped here. Callbacks,
//! keys, names and peers' answers are strangers' words: what could steer the writing direction, or is no character at all,
//! is shown as its escape (`model::words`). An address leads to a path of this door or nowhere, and there is neither an
//! inline style nor a script: the policy that the page is sent with forbids both.

use crate::model::Time;
use crate::model::words::plain;

/// Attributes with their values.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

/// A page, or a part of one, as it is written.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// The start of a whole document.
    pub(super) fn document() -> Html {
        Html("<!doctype html>".to_owned())
    }

    /// An element with what `inner` writes into it.
    pub(super) fn el(&mut self, tag: &'static str, attributes: Attributes<'_>, inner: impl FnOnce(&mut Html)) {
        self.void(tag, attributes);
        inner(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element with nothing but a text in it.
    pub(super) fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.el(tag, attributes, |h| h.text(text));
    }

    /// An element that has no end, or the start of one that has.
    pub(super) fn void(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            debug_assert!(!name.starts_with("on") && *name != "style", "the policy forbids {name}");
            let leads = matches!(*name, "href" | "src" | "action");
            let value = if leads && !is_ours(value) { "#" } else { value };
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.escape(&plain(value));
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// A text.
    pub(super) fn text(&mut self, text: &str) {
        self.escape(&plain(text));
    }

    /// A text of several lines, for `pre`.
    pub(super) fn lines(&mut self, text: &str) {
        // A line break that directly follows `<pre>` is none: the first is for the parser.
        self.0.push('\n');
        for (position, line) in text.split('\n').enumerate() {
            if position > 0 {
                self.0.push('\n');
            }
            for (position, cell) in line.strip_suffix('\r').unwrap_or(line).split('\t').enumerate() {
                if position > 0 {
                    self.0.push('\t');
                }
                self.escape(&plain(cell));
            }
        }
    }

    fn escape(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            self.0.push_str(&rest[..at]);
            self.0.push_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            });
            rest = &rest[at + 1..];
        }
        self.0.push_str(rest);
    }

    /// A link.
    pub(super) fn link(&mut self, to: &Url, text: &str) {
        self.leaf("a", &[("href", &to.0)], text);
    }

    /// How long ago, and when, for who looks closer.
    pub(super) fn ago(&mut self, time: Option<Time>, now: Time) {
        let Some(time) = time else { return self.text(NONE) };
        let said = match (time > now, age(time, now)) {
            (true, _) => format!("in {}", age(now, time)),
            (_, age) => format!("{age} ago"),
        };
        self.leaf("time", &[("datetime", &time.to_string()), ("title", &when(time))], &said);
    }

    /// A moment.
    pub(super) fn at(&mut self, time: Option<Time>) {
        let Some(time) = time else { return self.text(NONE) };
        self.leaf("time", &[("datetime", &time.to_string())], &when(time));
    }

    /// A status, by its word, and by a colour beside it.
    pub(super) fn badge(&mut self, word: &str) {
        let known = WORDS.iter().find(|known| **known == word).copied().unwrap_or("unknown");
        self.leaf("span", &[("class", &format!("badge {known}"))], word);
    }

    /// All that was written.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Words that have a class of their own in the style.
const WORDS: [&str; 22] = [
    "pending",
    "running",
    "paused",
    "succeeded",
    "failed",
    "cancelled",
    "unknown",
    "overdue",
    "waiting",
    "leased",
    "delivered",
    "dead",
    "discarded",
    "accepted",
    "duplicate",
    "conflict",
    "quarantined",
    "held",
    "refused",
    "retry",
    "active",
    "failing",
];

/// What stands where there is nothing.
pub(super) const NONE: &str = "–";

/// Whether an address leads to a path of this door, or to a place on the same page.
fn is_ours(address: &str) -> bool {
    address.starts_with('#') || (address.starts_with('/') && !address[1..].starts_with(['/', '\\']))
}

/// A path of this door, built of parts that are encoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Url(String);

impl Url {
    /// The path of these segments.
    pub(super) fn to(segments: &[&str]) -> Url {
        Url(segments.iter().flat_map(|segment| ["/".into(), urlencoding::encode(segment)]).collect())
    }

    /// The overview.
    pub(super) fn home() -> Url {
        Url("/".to_owned())
    }

    /// The same with a word behind the `?`.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: &str) -> Url {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(&[&urlencoding::encode(name), "=", &urlencoding::encode(value)].concat());
        self
    }

    /// An address that came with a form, where it is one of ours.
    pub(super) fn of_ours(text: &str) -> Option<Url> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        (is_plain && text.starts_with('/') && is_ours(text)).then(|| Url(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// How long, in the largest unit that it fills.
pub(in crate::admin) fn age(earlier: Time, later: Time) -> String {
    let s = later.ms_since(earlier) / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min", s / 60),
        3_600..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

/// How long something took.
pub(super) fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..172_800_000 => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{} days", ms / 86_400_000),
    }
}

/// A moment as people read it, in UTC.
pub(super) fn when(time: Time) -> String {
    let text = time.to_string();
    text.get(..19).map_or(text.clone(), |seconds| seconds.replace('T', " ") + " UTC")
}

/// A count with its thousands set apart.
pub(in crate::admin) fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(",")
}

/// Something counted: `1 callback`, `2 callbacks`.
pub(in crate::admin) fn several(n: u64, what: &str) -> String {
    let plural = match what.strip_suffix('y') {
        _ if n == 1 => what.to_owned(),
        Some(stem) => format!("{stem}ies"),
        None => format!("{what}s"),
    };
    format!("{} {plural}", count(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Html)) -> String {
        let mut html = Html::default();
        write(&mut html);
        html.finish()
    }

    #[test]
    fn no_stranger_s_word_is_markup() {
        let hostile = "</td><script>alert('1')</script>\"&amp;\u{202e}\u{1b}[2J\u{0}视频";
        let safe =
            "&lt;/td&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;amp;\\u{202e}\\u{1b}[2J\\u{0}视频";
        assert_eq!(
            written(|h| h.leaf("td", &[("title", hostile)], hostile)),
            format!("<td title=\"{safe}\">{safe}</td>")
        );
        assert_eq!(written(|h| h.lines("a\r\n\tb\u{7}\n\n<")), "\na\n\tb\\u{7}\n\n&lt;");
        assert_eq!(written(|h| h.badge("\"><b>")), "<span class=\"badge unknown\">&quot;&gt;&lt;b&gt;</span>");
    }

    #[test]
    fn an_address_leads_here_or_nowhere() {
        for (address, leads) in [
            ("/executions?status=dead", "/executions?status=dead"),
            ("#main", "#main"),
            ("javascript:alert(1)", "#"),
            ("//attacker.example", "#"),
            ("/\\attacker.example", "#"),
            ("https://attacker.example", "#"),
        ] {
            assert_eq!(written(|h| h.void("a", &[("href", address)])), format!("<a href=\"{leads}\">"));
        }
        assert_eq!(Url::to(&["executions", "a/b?c#d 视"]).as_str(), "/executions/a%2Fb%3Fc%23d%20%E8%A7%86");
        assert_eq!(Url::to(&["sinks"]).with("a", "b&c").with("d", "=").as_str(), "/sinks?a=b%26c&d=%3D");
        for bad in ["", "sinks", "//x", "/\\x", "https://x", "/a\r\nb", "/a b", "#"] {
            assert_eq!(Url::of_ours(bad), None, "{bad:?}");
        }
        assert_eq!(Url::of_ours("/sinks?a=b").expect("ours").as_str(), "/sinks?a=b");
    }

    #[test]
    fn figures_are_short() {
        let t0 = Time::from_seconds(1_795_257_067);
        for (s, text) in [(0, "0 s"), (60, "1 min"), (7_200, "2 h"), (90_000, "25 h"), (200_000, "2 days")] {
            assert_eq!(age(t0, Time::from_seconds(t0.seconds() + s)), text);
        }
        for (ms, text) in
            [(7, "7 ms"), (1_950, "1.9 s"), (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min"), (180_000_000, "2 days")]
        {
            assert_eq!(took(ms), text);
        }
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([several(1, "delivery"), several(2_000, "delivery")], ["1 delivery", "2,000 deliveries"]);
        assert_eq!(when(t0), "2026-11-21 10:31:07 UTC");
    }
}
