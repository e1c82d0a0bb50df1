//! Port's software catalog: blueprints and their entities, and what Port takes of them.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, Method};
use serde_json::{Map, Value, json};

use super::No;
use super::rules::{Rule, check, object};

const BULK_MAX: usize = 20;

/// Blueprints and entities.
#[derive(Default)]
pub(super) struct Catalog {
    /// With the names of their properties and relations.
    pub(super) blueprints: BTreeMap<String, BTreeSet<String>>,
    /// By blueprint and identifier.
    pub(super) entities: BTreeMap<(String, String), Value>,
    /// `run_id`, and the entity that was tied to it.
    pub(super) ties: Vec<(String, String)>,
}

/// What stands behind `?`.
struct Query {
    upsert: bool,
    merge: bool,
    related: bool,
    run: Option<String>,
}

const ENTITY: [Rule; 6] = [
    ("identifier", |v| v.as_str().is_some_and(is_identifier)),
    ("title", Value::is_string),
    ("icon", Value::is_string),
    ("team", |v| v.is_string() || v.as_array().is_some_and(|all| all.iter().all(Value::is_string))),
    ("properties", |v| v.as_object().is_some_and(|all| all.keys().all(|name| is_property(name)))),
    ("relations", |v| v.as_object().is_some_and(|all| all.values().all(is_relation))),
];

/// `^(?!\.{1,2}$)[\p{L}0-9@_.+:\\/=-]+$`, at most 1000 characters.
fn is_identifier(text: &str) -> bool {
    let legal = |c: char| c.is_alphabetic() || c.is_ascii_digit() || "@_.+:\\/=-".contains(c);
    !text.is_empty() && text != "." && text != ".." && text.chars().count() <= 1000 && text.chars().all(legal)
}

fn is_property(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "@_=\\-".contains(c))
}

fn is_relation(value: &Value) -> bool {
    let name = |v: &Value| v.as_str().is_some_and(is_identifier);
    value.is_null() || name(value) || value.as_array().is_some_and(|all| all.iter().all(name))
}

fn no<T>(message: String) -> Result<T, No> {
    Err((422, "invalid_request", message))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let hex = others.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).expect("UTF-8 in a URL")
}

fn boolean(word: &str) -> Result<bool, No> {
    word.parse().or_else(|_| no(format!("{word} is neither true nor false")))
}

impl Catalog {
    /// Answers what comes below `/v1/blueprints/`; `status_of` tells how a run stands.
    pub(super) fn admit(
        &mut self,
        method: &Method,
        uri: &http::Uri,
        headers: &HeaderMap,
        body: &[u8],
        status_of: impl Fn(&str) -> Option<String>,
    ) -> Result<(u16, Value), No> {
        let path: Vec<_> = uri.path().split('/').skip(3).map(decoded).collect();
        let path: Vec<_> = path.iter().map(String::as_str).collect();
        let query: BTreeMap<_, _> =
            uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let run = query.get("run_id").map(|run| decoded(run));
        if let Some(run) = &run {
            match status_of(run).as_deref() {
                _ if !run.starts_with("r_") => return no(format!("run_id {run} is no action's run")),
                None => return Err((404, "not_found", format!("run {run} was not found"))),
                Some("IN_PROGRESS") => {}
                Some(status) => return Err((422, "run_status_error", format!("{run} is {status}"))),
            }
        }
        let known = |keys: &[&str], required: &str| match query.keys().find(|key| !keys.contains(key)) {
            Some(key) => no(format!("the query has no {key}")),
            None if !query.contains_key(required) => no(format!("the query lacks {required}")),
            None => Ok(()),
        };
        let is_true = |key: &str| query.get(key).map_or(Ok(false), |word| boolean(word));
        match (method, &path[..]) {
            (&Method::DELETE, [blueprint, "entities", id]) => {
                known(&["delete_dependents", "run_id"], "delete_dependents")?;
                is_true("delete_dependents")?;
                if !body.is_empty() || !is_identifier(id) {
                    return no(format!("a body, or no identifier: {id}"));
                }
                let gone = self.entities.remove(&((*blueprint).to_owned(), (*id).to_owned()));
                gone.ok_or_else(|| (404, "not_found", format!("entity {id} was not found")))?;
                self.tie(run.as_deref(), id);
                Ok((200, json!({"ok": true})))
            }
            (&Method::POST, [blueprint, "entities", rest @ ..]) if matches!(rest, [] | ["bulk"]) => {
                known(&["upsert", "merge", "create_missing_related_entities", "validation_only", "run_id"], "upsert")?;
                let query = Query {
                    upsert: is_true("upsert")?,
                    merge: is_true("merge")?,
                    related: is_true("create_missing_related_entities")?,
                    run,
                };
                let body = object(headers, body)?;
                if rest.is_empty() { self.one(blueprint, &body, &query) } else { self.bulk(blueprint, &body, &query) }
            }
            _ => Err((404, "no_route", "no such route".to_owned())),
        }
    }

    fn one(&mut self, blueprint: &str, body: &Map<String, Value>, query: &Query) -> Result<(u16, Value), No> {
        check(body, &["identifier"], &ENTITY)?;
        self.put(blueprint, body, query)?;
        let id = body["identifier"].as_str().expect("checked").to_owned();
        let entity = self.entities[&(blueprint.to_owned(), id)].clone();
        Ok((201, json!({"ok": true, "entity": entity})))
    }

    fn bulk(&mut self, blueprint: &str, body: &Map<String, Value>, query: &Query) -> Result<(u16, Value), No> {
        check(body, &["entities"], &[("entities", Value::is_array)])?;
        let all = body["entities"].as_array().expect("checked");
        if !(1..=BULK_MAX).contains(&all.len()) {
            return no(format!("{} entities", all.len()));
        }
        let mut seen = BTreeSet::new();
        for entity in all {
            let Some(entity) = entity.as_object() else { return no(format!("{entity} is no entity")) };
            check(entity, &["identifier"], &ENTITY)?;
            if !seen.insert(entity["identifier"].as_str()) {
                return no(format!("{} twice", entity["identifier"]));
            }
        }
        let (mut taken, mut errors) = (Vec::new(), Vec::new());
        for (index, entity) in all.iter().enumerate() {
            let (fields, id) = (entity.as_object().expect("checked"), &entity["identifier"]);
            match self.put(blueprint, fields, query) {
                Ok(created) => taken.push(json!({"identifier": id, "index": index, "created": created})),
                Err((status, error, message)) => errors.push(json!({
                    "identifier": id, "index": index, "statusCode": status, "error": error, "message": message,
                })),
            }
        }
        let status = if errors.is_empty() { 200 } else { 207 };
        Ok((status, json!({"ok": errors.is_empty(), "entities": taken, "errors": errors})))
    }

    /// Whether it is new.
    fn put(&mut self, blueprint: &str, fields: &Map<String, Value>, query: &Query) -> Result<bool, No> {
        let id = fields["identifier"].as_str().expect("checked");
        let names = self.blueprints.get(blueprint);
        let names = names.ok_or_else(|| (404, "not_found", format!("blueprint {blueprint} was not found")))?;
        let part = |key: &str| fields.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(name) =
            part("properties").keys().chain(part("relations").keys()).find(|name| !names.contains(*name))
        {
            return Err((422, "validation_error", format!("{blueprint} has no {name}")));
        }
        let targets = part("relations").into_iter().flat_map(|(_, value)| match value {
            Value::Array(all) => all,
            one => vec![one],
        });
        for target in targets.filter_map(|target| target.as_str().map(str::to_owned)) {
            if !query.related && !self.entities.keys().any(|(_, id)| *id == target) {
                return Err((404, "not_found", format!("related entity {target} was not found")));
            }
        }
        let key = (blueprint.to_owned(), id.to_owned());
        let held = self.entities.get(&key).cloned();
        if held.is_some() && !query.upsert {
            return Err((409, "conflict", format!("{id} exists")));
        }
        let is_new = held.is_none();
        let mut entity = held.filter(|_| query.merge).unwrap_or_else(|| json!({"properties": {}, "relations": {}}));
        for (name, value) in fields {
            match (entity[name].as_object_mut(), value) {
                (Some(held), Value::Object(more)) => held.extend(more.clone()),
                _ => entity[name] = value.clone(),
            }
        }
        self.entities.insert(key, entity);
        self.tie(query.run.as_deref(), id);
        Ok(is_new)
    }

    fn tie(&mut self, run: Option<&str>, id: &str) {
        self.ties.extend(run.map(|run| (run.to_owned(), id.to_owned())));
    }
}
