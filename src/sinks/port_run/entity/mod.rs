//! The entities of a change: what of Port's software catalog it makes, replaces or takes away; pure, but for [`send`].
//!
//! Port's OpenAPI document: `POST /v1/blueprints/{blueprint}/entities` and `…/entities/bulk` with `upsert`, which
//! replaces, and `merge`, which leaves alone what is not said; `DELETE …/entities/{identifier}`. With `run_id` an entity
//! is tied to an action's run that is in progress.

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{Api, Fault, Seen};
use super::run::RunId;
use crate::jq::Jq;
use crate::model::Time;
use crate::options::Faults;
use crate::sinks::cut;

mod gather;
mod identifier;
mod value;

pub(super) use gather::Gather;
use identifier::legal;
use value::{expected, properties, relations, team, text};

/// Entities in one call.
const BULK_MAX: usize = 20;
/// Port takes 1 MiB; this leaves room for what is around the entities.
const BYTES_MAX: usize = 1_000_000;
/// More of one change are left out: what is begun has to end within one try.
const ENTITIES_MAX: usize = 200;
const REASON_CHARS_MAX: usize = 300;
const REASONS_CHARS_MAX: usize = 2_000;

/// `[sinks.NAME.entity]`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "PortEntity"))]
pub(super) struct Options {
    /// The identifier of a blueprint that exists in Port.
    blueprint: String,
    /// jq over the change: each result that is not null makes an entity.
    each: Option<String>,
    /// jq over what `each` gave: the identifier, as text.
    #[serde(default = "default_identifier")]
    identifier: String,
    /// jq: the title.
    title: Option<String>,
    /// jq: the icon.
    icon: Option<String>,
    /// jq: the team, a text or a list.
    team: Option<String>,
    /// jq: an object of properties.
    properties: Option<String>,
    /// jq: an object of relations.
    relations: Option<String>,
    /// What is not said stays (upsert) or is gone (replace); or the entity is deleted.
    #[serde(default)]
    action: Action,
    /// Makes Port create what relations name and is not there.
    #[serde(default)]
    create_missing_related_entities: bool,
    /// With action = "delete": deletes what requires the entity, too.
    #[serde(default)]
    delete_dependents: bool,
}

/// What becomes of the entity at Port.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, schemars(rename = "PortEntityAction"))]
enum Action {
    /// What is said is set, what is not stays.
    #[default]
    Upsert,
    /// What is not said is gone.
    Replace,
    Delete,
}

fn default_identifier() -> String {
    ".execution.subject".to_owned()
}

/// How entities are made of changes, and where they go.
pub(super) struct Entities {
    /// Percent-encoded.
    blueprint: String,
    each: Option<Jq>,
    identifier: Jq,
    title: Option<Jq>,
    icon: Option<Jq>,
    team: Option<Jq>,
    properties: Option<Jq>,
    relations: Option<Jq>,
    action: Action,
    create_missing_related_entities: bool,
    delete_dependents: bool,
}

/// One entity.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entity {
    pub(super) identifier: String,
    body: Value,
    bytes: usize,
}

/// What a change comes to.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) entities: Vec<Entity>,
    /// Why some could not be made.
    pub(super) refused: Vec<String>,
}

/// One request, for some of them.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
    entities: &'a [Entity],
}

/// What Port said of one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    /// The identifiers that it does not take, each with its reason.
    refused: Vec<(String, String)>,
    /// It was a 403.
    pub(super) forbidden: bool,
}

impl Answered {
    /// Whether all were taken.
    pub(super) fn is_whole(&self) -> bool {
        self.refused.is_empty()
    }

    /// Why some were not taken, for a person.
    pub(super) fn reasons(&self) -> Vec<String> {
        self.refused.iter().map(|(identifier, reason)| format!("entity {}: {reason}", cut(identifier, 100))).collect()
    }

    /// What concerns one of them.
    fn of(mut self, identifier: &str) -> Answered {
        self.refused.retain(|(of, _)| of == identifier);
        self
    }
}

impl Entities {
    /// Builds them; what is wrong is kept in `faults`.
    pub(super) fn new(options: Options, faults: &mut Faults<'_>) -> Option<Entities> {
        if options.blueprint.is_empty() || options.blueprint.contains(char::is_whitespace) {
            faults.add("entity.blueprint", "is the identifier of a blueprint in Port, like \"media\"");
        }
        if options.delete_dependents && options.action != Action::Delete {
            faults.add("entity.delete_dependents", "only means something with action = \"delete\"; take it out");
        }
        let mut program = |key: &str, text: Option<String>| {
            text.and_then(|text| faults.keep(&format!("entity.{key}"), Jq::compile(&text)))
        };
        Some(Entities {
            blueprint: urlencoding::encode(&options.blueprint).into_owned(),
            each: program("each", options.each),
            title: program("title", options.title),
            icon: program("icon", options.icon),
            team: program("team", options.team),
            properties: program("properties", options.properties),
            relations: program("relations", options.relations),
            identifier: program("identifier", Some(options.identifier))?,
            action: options.action,
            create_missing_related_entities: options.create_missing_related_entities,
            delete_dependents: options.delete_dependents,
        })
    }

    /// The entities of a change; `data` is the change as programs see it.
    pub(super) fn make(&self, data: &Value) -> Made {
        let mut made = Made::default();
        let items = match &self.each {
            None => vec![data.clone()],
            Some(each) => each.run(data).unwrap_or_else(|fault| {
                made.refused.push(format!("entity.each: {fault}"));
                Vec::new()
            }),
        };
        for item in items.iter().filter(|item| !item.is_null()) {
            match self.one(item) {
                Ok(None) => {}
                // One call must not name an entity twice: the later word stands.
                Ok(Some(entity)) => match made.entities.iter().position(|e| e.identifier == entity.identifier) {
                    Some(earlier) => made.entities[earlier] = entity,
                    None => made.entities.push(entity),
                },
                Err(reason) => made.refused.push(reason),
            }
        }
        if made.entities.len() > ENTITIES_MAX {
            made.entities.truncate(ENTITIES_MAX);
            made.refused.push(format!("a change makes at most {ENTITIES_MAX} entities; the others are left out"));
        }
        made
    }

    /// None where there is no identifier.
    fn one(&self, item: &Value) -> Result<Option<Entity>, String> {
        let first = |key: &str, program: Option<&Jq>| match program.map(|program| program.run(item)) {
            None => Ok(Value::Null),
            Some(Ok(results)) => Ok(results.into_iter().next().unwrap_or_default()),
            Some(Err(fault)) => Err(format!("entity.{key}: {fault}")),
        };
        let identifier = match first("identifier", Some(&self.identifier))? {
            Value::String(text) if !text.is_empty() => legal(&text),
            Value::Number(number) => legal(&number.to_string()),
            Value::Null | Value::String(_) => return Ok(None),
            _ => return Err("entity.identifier: has to be a text".to_owned()),
        };
        if self.action == Action::Delete {
            return Ok(Some(Entity { identifier, body: Value::Null, bytes: 0 }));
        }
        let mut body = Map::new();
        let mut set = |key: &str, value: Value, read: fn(Value) -> Option<Value>| {
            if !value.is_null() {
                let read =
                    read(value).ok_or_else(|| format!("entity {identifier}: entity.{key}: {}", expected(key)))?;
                body.insert(key.to_owned(), read);
            }
            Ok::<_, String>(())
        };
        set("title", first("title", self.title.as_ref())?, text)?;
        set("icon", first("icon", self.icon.as_ref())?, text)?;
        set("team", first("team", self.team.as_ref())?, team)?;
        set("properties", first("properties", self.properties.as_ref())?, properties)?;
        set("relations", first("relations", self.relations.as_ref())?, relations)?;
        body.insert("identifier".to_owned(), identifier.clone().into());
        let body = Value::Object(body);
        let bytes = body.to_string().len();
        if bytes > BYTES_MAX {
            return Err(format!("entity {identifier}: is larger than Port takes"));
        }
        Ok(Some(Entity { identifier, body, bytes }))
    }

    /// The requests that say them, tied to `run`.
    pub(super) fn calls<'a>(&self, entities: &'a [Entity], run: Option<&RunId>) -> Vec<Call<'a>> {
        let base = format!("/v1/blueprints/{}/entities", self.blueprint);
        let run = run.map_or(String::new(), |run| format!("&run_id={}", run.as_str()));
        if self.action == Action::Delete {
            let one = |entity: &'a Entity| {
                let (id, dependents) = (urlencoding::encode(&entity.identifier), self.delete_dependents);
                let path = format!("{base}/{id}?delete_dependents={dependents}{run}");
                Call { method: Method::DELETE, path, body: None, entities: std::slice::from_ref(entity) }
            };
            return entities.iter().map(one).collect();
        }
        let merge = self.action == Action::Upsert;
        let related = if self.create_missing_related_entities { "&create_missing_related_entities=true" } else { "" };
        let query = format!("?upsert=true&merge={merge}{related}{run}");
        let mut calls = Vec::new();
        let mut rest = entities;
        while !rest.is_empty() {
            let (some, others) = rest.split_at(fitting(rest.iter()));
            let (path, body) = match some {
                [one] => (format!("{base}{query}"), one.body.clone()),
                all => {
                    let bodies: Vec<_> = all.iter().map(|entity| &entity.body).collect();
                    (format!("{base}/bulk{query}"), json!({"entities": bodies}))
                }
            };
            calls.push(Call { method: Method::POST, path, body: Some(body), entities: some });
            rest = others;
        }
        calls
    }

    /// Whether several can share a call.
    pub(super) fn is_bulk(&self) -> bool {
        self.action != Action::Delete
    }
}

/// How many of them one call takes: at least one.
fn fitting<'a>(entities: impl Iterator<Item = &'a Entity>) -> usize {
    let mut bytes = 0;
    let fits = |entity: &&Entity| {
        bytes += entity.bytes + 1;
        bytes <= BYTES_MAX
    };
    entities.take(BULK_MAX).take_while(fits).count().max(1)
}

/// Makes one call. What Port refuses for good is in the answer; a fault is worth another try, or concerns all.
pub(super) async fn send(api: &Api, call: &Call<'_>, now: Time, seen: &mut Seen) -> Result<Answered, Fault> {
    let all = |reason: &str| call.entities.iter().map(|e| (e.identifier.clone(), reason.to_owned())).collect();
    match api.call(&call.method, &call.path, call.body.as_ref(), now, seen).await {
        Ok(answer) => Ok(Answered { refused: refused_of(&answer, call.entities)?, forbidden: false }),
        // What is not there needs not be deleted.
        Err(Fault::Missing { .. }) if call.method == Method::DELETE => Ok(Answered::default()),
        Err(Fault::Missing { reason }) => Ok(Answered { refused: all(&reason), forbidden: false }),
        Err(Fault::Refused(refusal)) => {
            Ok(Answered { refused: all(&refusal.reason), forbidden: refusal.status == 403 })
        }
        Err(fault) => Err(fault),
    }
}

/// What a bulk answer (200 or 207) says of each that was not taken.
fn refused_of(answer: &Value, sent: &[Entity]) -> Result<Vec<(String, String)>, Fault> {
    let errors = answer.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut refused = Vec::new();
    for error in errors {
        let word = |key: &str| error.get(key).and_then(Value::as_str).filter(|word| !word.is_empty());
        let status = error.get("statusCode").and_then(Value::as_u64).unwrap_or_default();
        let at = error.get("index").and_then(Value::as_u64).and_then(|at| usize::try_from(at).ok());
        let named = at.and_then(|at| sent.get(at)).map(|entity| entity.identifier.as_str()).or(word("identifier"));
        let said: Vec<_> = [word("error"), word("message")].into_iter().flatten().collect();
        let reason = cut(&format!("answered {status}: {}", said.join(": ")), REASON_CHARS_MAX);
        let reason = reason.replace(char::is_control, " ");
        if matches!(status, 408 | 425 | 429 | 500..=599) {
            return Err(Fault::Retry { after_ms: None, reason });
        }
        refused.push((named.unwrap_or_default().to_owned(), reason));
    }
    Ok(refused)
}

/// Of several refusals, for a person.
pub(super) fn reasons(refused: &[String]) -> String {
    cut(&refused.join("; "), REASONS_CHARS_MAX)
}

#[cfg(test)]
mod tests;
