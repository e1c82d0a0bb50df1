//! Why a callback is refused, for who holds the token: whether one came, where it stood, and what may have happened to it on
//! its way. Nothing of a token is said, neither of the right one nor of what came.

use super::CosWorkflow;
use crate::signature;
use crate::sources::RawRequest;
use crate::tencent::decoded;

/// What may have happened to a token, and what undoes it.
type Mishap = (&'static str, fn(&str) -> String);

const MISHAPS: [Mishap; 6] = [
    ("has a blank or a line end around it", |text| text.trim().to_owned()),
    ("is percent-encoded twice", |text| String::from_utf8_lossy(&decoded(text)).into_owned()),
    ("stands in quotes or brackets", |text| text.trim_matches(['"', '\'', '<', '>', '{', '}', '[', ']']).to_owned()),
    ("has a + where the token has a blank", |text| text.replace('+', " ")),
    ("has a blank where the token has a +: in a URL it is written %2B", |text| text.replace(' ', "+")),
    ("has a slash at its end", |text| text.trim_end_matches('/').to_owned()),
];

impl CosWorkflow {
    pub(super) fn why(&self, raw: &RawRequest) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.tokens.is_empty() {
            return remarks;
        }
        let parameters: Vec<(&str, &str)> = raw
            .query
            .as_deref()
            .unwrap_or("")
            .split('&')
            .filter(|parameter| !parameter.is_empty())
            .map(|parameter| parameter.split_once('=').unwrap_or(("", parameter)))
            .collect();
        let named: Vec<&str> = parameters.iter().filter(|(name, _)| *name == "token").map(|(_, text)| *text).collect();
        for (place, texts) in [("the query's token", &named[..]), ("the path's last part", &[raw.rest.as_str()][..])] {
            if let Some(text) = texts.first().filter(|text| !text.is_empty()) {
                remarks.push(format!("{place} {}", self.of_token(&text_of(text))));
            }
        }
        if named.len() > 1 {
            remarks.push("the query has more than one token; the first is taken".to_owned());
        }
        if remarks.is_empty() {
            remarks.push("no token came, neither as ?token=… nor as the path's last part".to_owned());
        }
        for (name, text) in parameters.iter().filter(|(name, _)| *name != "token") {
            if name.eq_ignore_ascii_case("token") {
                remarks
                    .push("the query has a token under a name with other letters; it is to be lower case".to_owned());
            } else if self.is_one(&text_of(text)) {
                remarks.push("a right token stands in the query, under another name or without one".to_owned());
            }
        }
        for (name, value) in &raw.headers {
            let text = value.to_str().unwrap_or_default().trim();
            let bare = text.split_once(' ').map_or(text, |(_, bare)| bare.trim());
            if self.is_one(text) || self.is_one(bare) {
                remarks.push(format!("a right token came in the header {name}; it is looked for in the URL alone"));
            }
        }
        remarks
    }

    fn of_token(&self, text: &str) -> String {
        if self.is_one(text) {
            return match self.tokens.iter().position(|token| is(token.expose(), text)).unwrap_or_default() {
                0 => "is the newest one".to_owned(),
                _ => "is an older one that is still taken".to_owned(),
            };
        }
        for (mishap, undone) in MISHAPS {
            if self.is_one(&undone(text)) {
                return format!("{mishap}; without that it would be right");
            }
        }
        if self.tokens.iter().any(|token| token.expose().eq_ignore_ascii_case(text)) {
            return "is right but for capital and small letters".to_owned();
        }
        if self.tokens.iter().any(|token| is(token.expose().trim(), text)) {
            return "would be right without the blanks around the configured one".to_owned();
        }
        let mut lengths = self.tokens.iter().map(|token| token.expose().len());
        let remark = match (lengths.clone().all(|n| text.len() < n), lengths.all(|n| text.len() > n)) {
            (true, _) => ", and is too short: an old one, another's, or cut off",
            (_, true) => ", and is too long: an old one, another's, or with something behind it",
            _ => ": an old one, or another's",
        };
        format!("is none of this source's{remark}")
    }

    fn is_one(&self, text: &str) -> bool {
        self.tokens.iter().fold(false, |found, token| found | is(token.expose(), text))
    }
}

fn is(token: &str, text: &str) -> bool {
    signature::is_equal(token.as_bytes(), text.as_bytes())
}

fn text_of(encoded: &str) -> String {
    String::from_utf8_lossy(&decoded(encoded)).into_owned()
}
