//! Whom an event is about: an entity selector, put together so that no value can become a part of its grammar
//! (Dynatrace Managed documentation, "Environment API v2 – Entity selector").

use serde::Deserialize;
use serde_json::Value;

use crate::jq::Jq;

/// A longer selector is refused, in characters.
const SELECTOR_CHARS_MAX: usize = 2000;

/// `entity = { type = "HOST", name = "…" }`, or jq over the change with such an object as its result.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    untagged,
    expecting = "expected { type = \"HOST\", name = \"…\" } with type, id, name and tag, or jq that makes such an object"
)]
pub(super) enum EntityOption {
    Fixed(Criteria),
    Program(String),
}

/// What has to hold of the entity, all of it.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Criteria {
    /// The type of the entity, like HOST.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Its id.
    id: Option<String>,
    /// Its name.
    name: Option<String>,
    /// A tag that it bears.
    tag: Option<String>,
}

/// How an event finds its entity.
pub(super) enum Entity {
    Fixed(String),
    Program(Jq),
}

impl Entity {
    pub(super) fn read(option: EntityOption) -> Result<Entity, String> {
        match option {
            EntityOption::Fixed(criteria) => criteria.selector().map(Entity::Fixed),
            EntityOption::Program(text) => Jq::compile(&text).map(Entity::Program),
        }
    }

    /// The selector for this change; none stands for the environment itself. A text that the program makes is a
    /// selector as it is.
    pub(super) fn selector(&self, data: &Value) -> Result<Option<String>, String> {
        let program = match self {
            Entity::Fixed(selector) => return Ok(Some(selector.clone())),
            Entity::Program(program) => program,
        };
        match program.run(data)?.into_iter().next() {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => short(text).map(Some),
            Some(object @ Value::Object(_)) => {
                let criteria = Criteria::deserialize(object);
                criteria
                    .map_err(|_| "an object with the texts type, id, name and tag is expected".to_owned())?
                    .selector()
                    .map(Some)
            }
            Some(_) => Err("an object or a text is expected".to_owned()),
        }
    }
}

impl Criteria {
    fn selector(&self) -> Result<String, String> {
        if self.kind.is_none() && self.id.is_none() {
            return Err("a selector needs a type or an id".to_owned());
        }
        let all = [("type", &self.kind), ("entityId", &self.id), ("entityName.equals", &self.name), ("tag", &self.tag)];
        let written = all.into_iter().filter_map(|(word, value)| Some((word, value.as_deref()?)));
        let written: Result<Vec<_>, _> =
            written.map(|(word, value)| Ok(format!("{word}({})", quoted(value)?))).collect();
        short(written.map_err(|why: &str| why.to_owned())?.join(","))
    }
}

fn short(selector: String) -> Result<String, String> {
    match selector.chars().count() {
        ..=SELECTOR_CHARS_MAX => Ok(selector),
        more => Err(format!("a selector of {more} characters is more than {SELECTOR_CHARS_MAX}")),
    }
}

/// The documentation has quotes around text with signs in it, and no word on quotes within: such a value is no value,
/// lest it end the text and write the rest of the selector.
fn quoted(value: &str) -> Result<String, &'static str> {
    let breaks_out = |c: char| c == '"' || c == '~' || c.is_control();
    match value.is_empty() || value.contains(breaks_out) || value.ends_with('\\') {
        true => {
            Err("a value is empty, or has a quotation mark, a tilde or a final backslash, which no selector can hold")
        }
        false => Ok(format!("\"{value}\"")),
    }
}
