//! jq's faults in words for an operator. Of the data only types are said: its content may be personal, and faults are
//! logged and stored.

use jaq_core::compile::{self, Undefined};
use jaq_core::load::lex::{self, Token};
use jaq_core::load::parse;
use jaq_core::{Error, Exn, load};
use jaq_json::Val;

use super::meter::{OUT_OF_STEPS, TOO_DEEP};
use crate::model::Status;
use crate::model::words::reason;

/// The program is not made of jq's words and signs.
pub(super) fn of_words(faults: &[lex::Error<&str>]) -> String {
    let fault = faults.first().map(|(expected, at)| (expected.as_str(), *at));
    not_jq(fault.unwrap_or(("token", "")))
}

/// Its words and signs are no program.
pub(super) fn of_sentence(faults: &[parse::TError<'_, &str>]) -> String {
    let fault = faults.first().map(|(expected, found)| {
        let found = found.map_or("", Token::as_str);
        (expected.as_str(), found)
    });
    not_jq(fault.unwrap_or(("term", "")))
}

fn not_jq((expected, found): (&str, &str)) -> String {
    let found: String = found.chars().take(20).collect();
    let expected = if expected == "nothing" { "nothing more" } else { expected };
    if found.is_empty() {
        format!("this is not jq: expected {expected} at its end")
    } else {
        format!("this is not jq: expected {expected}, found {found:?}")
    }
}

/// What was most likely meant by a name that cannot be used; empty where nobody knows.
pub(super) fn instead(name: &str) -> &'static str {
    match name {
        "execution" => " (write `.execution`, with a dot)",
        "tasks" => " (write `.tasks`, with a dot)",
        "change" => " (write `.change`, with a dot)",
        "=" => " (`==` compares)",
        _ if name.parse::<Status>().is_ok() => " (a text stands in double quotes)",
        _ => "",
    }
}

/// It uses a name that nobody gave.
pub(super) fn of_names<P>(faults: &load::Errors<&str, P, Vec<compile::Error<&str>>>) -> String {
    match faults.iter().flat_map(|(_, faults)| faults).next() {
        Some((name, Undefined::Filter(arity))) if *arity > 0 => format!("`{name}/{arity}` is no function of jq here"),
        Some((name, Undefined::Filter(_))) => {
            let instead = Some(instead(name)).filter(|said| !said.is_empty());
            format!("`{name}` is no function of jq here{}", instead.unwrap_or("; a text stands in double quotes"))
        }
        Some((name, other)) => format!("`{name}` is no {} here", other.as_str()),
        None => "this is not jq".to_owned(),
    }
}

/// It failed on the data.
pub(super) fn of_run(exception: Exn<'_, Val>, program: &str) -> String {
    let error = match exception.get_err().map(Error::into_val) {
        Ok(Val::TStr(text)) => String::from_utf8_lossy(&text).into_owned(),
        Ok(value) => return format!("the program failed with {}", kind_of(&value.to_string())),
        Err(stop) => {
            return match stop.get_halt() {
                Ok(OUT_OF_STEPS) => "stopped: this is too much work for this program on this change".to_owned(),
                Ok(TOO_DEEP) => "stopped: a value became too deep".to_owned(),
                _ => "stopped".to_owned(),
            };
        }
    };
    reason(&without_data(&error, program)).into_owned()
}

/// The sentences in which jaq quotes its data, with types in its place.
fn without_data(error: &str, program: &str) -> String {
    if let Some((value, kind)) = error.strip_prefix("cannot use ").and_then(|rest| rest.rsplit_once(" as ")) {
        return format!("cannot use {} as {kind}", kind_of(value));
    }
    if let Some((value, index)) = error.strip_prefix("cannot index ").and_then(|rest| rest.rsplit_once(" with ")) {
        // The program's own words may be said.
        let own = program.contains(index.trim_matches('"'));
        return format!("cannot index {} with {}", kind_of(value), if own { index } else { kind_of(index) });
    }
    if let Some(values) = error.strip_prefix("cannot calculate ") {
        let right = [" + ", " - ", " * ", " / ", " % "].iter().filter_map(|op| Some((values.rfind(op)?, op))).max();
        if let Some((at, op)) = right {
            return format!("cannot calculate {}{op}{}", kind_of(values), kind_of(&values[at + op.len()..]));
        }
    }
    match error.strip_prefix("invalid path expression with input ") {
        Some(value) => format!("invalid path expression with {} as input", kind_of(value)),
        None => match (error.find('"'), error.rfind('"')) {
            (Some(from), Some(to)) if !program.contains(&error[from..=to]) => {
                format!("{}a text{}", &error[..from], &error[to + 1..])
            }
            _ => error.to_owned(),
        },
    }
}

fn kind_of(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"' | b'b') => "a text",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_named_by_its_type() {
        for (error, said) in [
            ("cannot use {\"email\":\"a@b\"} as string", "cannot use an object as string"),
            ("cannot use \"x as y\" as number", "cannot use a text as number"),
            ("cannot index \"secret with x\" with \"own\"", "cannot index a text with \"own\""),
            ("cannot index [1] with \"secret\"", "cannot index an array with a text"),
            ("cannot calculate \"a - b\" - 1", "cannot calculate a text - a number"),
            ("cannot calculate {\"a\":1} + [\"x\"]", "cannot calculate an object + an array"),
            ("invalid path expression with input {\"a\":1}", "invalid path expression with an object as input"),
            ("cannot parse as number", "cannot parse as number"),
            ("cannot parse \"a \"b\"\" as JSON: value expected", "cannot parse a text as JSON: value expected"),
        ] {
            assert_eq!(without_data(error, ".own"), said, "{error}");
        }
    }
}
