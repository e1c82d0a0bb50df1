//! What Port takes as an identifier, and how anything becomes one; pure.
//!
//! Port's OpenAPI document has `^(?!\.{1,2}$)[\p{L}0-9@_.+:\\/=-]+$`, at most 1000 characters, for entities and for what
//! relations name.

use unicode_ident::is_xid_start;

use crate::signature;

const CHARS_MAX: usize = 1000;
/// Of the digest, in hexadecimal digits: enough for the names that one blueprint holds.
const DIGEST_CHARS: usize = 10;

/// `\p{L}` is XID_Start (Unicode Standard Annex 31) without these: numbers that are letters, and what identifiers of
/// programs took over from older versions …
const NO_LETTERS: [(char, char); 17] = [
    ('\u{16ee}', '\u{16f0}'),
    ('\u{1885}', '\u{1886}'),
    ('\u{2118}', '\u{2118}'),
    ('\u{212e}', '\u{212e}'),
    ('\u{2160}', '\u{2182}'),
    ('\u{2185}', '\u{2188}'),
    ('\u{3007}', '\u{3007}'),
    ('\u{3021}', '\u{3029}'),
    ('\u{3038}', '\u{303a}'),
    ('\u{a6e6}', '\u{a6ef}'),
    ('\u{10140}', '\u{10174}'),
    ('\u{10341}', '\u{10341}'),
    ('\u{1034a}', '\u{1034a}'),
    ('\u{103d1}', '\u{103d5}'),
    ('\u{12400}', '\u{1247f}'),
    ('\u{12550}', '\u{12686}'),
    ('\u{16ff4}', '\u{16ff6}'),
];
/// … and with these, which change when they are normalized.
const LETTERS: [(char, char); 15] = [
    ('\u{37a}', '\u{37a}'),
    ('\u{e33}', '\u{e33}'),
    ('\u{eb3}', '\u{eb3}'),
    ('\u{2e2f}', '\u{2e2f}'),
    ('\u{fc5e}', '\u{fc63}'),
    ('\u{fdfa}', '\u{fdfb}'),
    ('\u{fe70}', '\u{fe70}'),
    ('\u{fe72}', '\u{fe72}'),
    ('\u{fe74}', '\u{fe74}'),
    ('\u{fe76}', '\u{fe76}'),
    ('\u{fe78}', '\u{fe78}'),
    ('\u{fe7a}', '\u{fe7a}'),
    ('\u{fe7c}', '\u{fe7c}'),
    ('\u{fe7e}', '\u{fe7e}'),
    ('\u{ff9e}', '\u{ff9f}'),
];

fn is_letter(c: char) -> bool {
    let within = |ranges: &[(char, char)]| ranges.iter().any(|&(first, last)| (first..=last).contains(&c));
    c.is_ascii_alphabetic() || !c.is_ascii() && (is_xid_start(c) && !within(&NO_LETTERS) || within(&LETTERS))
}

fn is_legal(c: char) -> bool {
    is_letter(c) || c.is_ascii_digit() || "@_.+:\\/=-".contains(c)
}

/// The text itself where it is an identifier. Else what is illegal becomes `-`, and the end is a digest of the whole
/// text: always the same for the same text, and another for another.
pub(in super::super) fn legal(text: &str) -> String {
    let fits = text.chars().nth(CHARS_MAX).is_none();
    if fits && !text.is_empty() && text.chars().all(is_legal) && text != "." && text != ".." {
        return text.to_owned();
    }
    let kept = text.chars().take(CHARS_MAX - DIGEST_CHARS - 1).map(|c| if is_legal(c) { c } else { '-' });
    // Keyed with the use that it has, so that it tells nothing to those who hold digests of texts.
    let digest = signature::hmac_sha256(b"identifier", &[text.as_bytes()]);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}", kept.collect::<String>(), &digest[..DIGEST_CHARS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_legal_stays_as_it_is() {
        for text in [
            "clip-01",
            "media/in/clip.mp4",
            "a@b_c.d+e:f\\g=h",
            "...",
            "游戏.mp4",
            "clé",
            "น้ำ".get(0..3).expect("ก"),
            "ำ",
            "ﾞ",
            "Ωж",
        ] {
            assert_eq!(legal(text), text);
        }
        let longest = "é".repeat(1000);
        assert_eq!(legal(&longest), longest);
    }

    #[test]
    fn what_is_not_becomes_legal_stable_and_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        let texts = ["", ".", "..", "in/游戏 1.mp4", "in/游戏#1.mp4", "a\"b", "a%20b", "〇", "Ⅷ", "กิ", "a\nb", "😀"];
        let longer = ["é".repeat(1001), "é".repeat(1002), " ".repeat(5000)];
        for text in texts.into_iter().chain(longer.iter().map(String::as_str)) {
            let made = legal(text);
            assert!(made.chars().count() <= 1000 && made.chars().all(is_legal), "{text:?} → {made}");
            assert_eq!(legal(&made), made, "what is made is legal");
            assert_eq!(legal(text), made);
            assert!(seen.insert(made), "{text:?}");
        }
        let manual = include_str!("../../../../config/callbackd.toml");
        assert!(manual.contains(&format!("clip 1.mp4 is always {}.", legal("clip 1.mp4"))));
        assert_eq!(legal("in/游戏 1.mp4"), "in/游戏-1.mp4-f0ac58653d");
    }

    #[test]
    fn everything_but_the_unreserved_is_encoded() {
        assert_eq!(urlencoding::encode("a/b:c+d=e.f~g_h-i é\\@"), "a%2Fb%3Ac%2Bd%3De.f~g_h-i%20%C3%A9%5C%40");
    }
}
