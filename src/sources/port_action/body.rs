//! What an invocation's body says.
//!
//! Port has no one schema: the first actions sent a fixed ("classic") body, today's send whatever JSON template the
//! user wrote, and workflow nodes and the agent have shapes of their own. So everything but the run id is looked for
//! and may be absent, and the run id is looked for where Port's users put it, or where the configuration says.

use std::collections::HashSet;

use http::HeaderName;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::model::{ExecutionPart, Status, Time, Update};

/// Where the run id stands.
pub(super) enum Place {
    /// In one of the places that Port's users use.
    Usual,
    /// At this JSON pointer.
    Pointer(String),
    /// In this header.
    Header(HeaderName),
}

/// How much of a body is read.
pub(super) struct Limits {
    pub(super) depth_max: usize,
    pub(super) elements_max: usize,
}

const USUAL_PLACES: [&str; 9] = [
    "/context/runId",
    "/payload/context/runId",
    "/port_context/runId",
    "/port_context/run_id",
    "/port_payload/context/runId",
    "/runId",
    "/run_id",
    "/RUN_ID",
    "/run/id",
];

const ACTION: [&str; 5] = [
    "/action",
    "/action/identifier",
    "/payload/action/identifier",
    "/port_context/action",
    "/port_context/action/identifier",
];

const ENTITY: [&str; 8] = [
    "/context/entity",
    "/context/entity/identifier",
    "/payload/entity/identifier",
    "/payload/entity",
    "/port_context/entity",
    "/port_context/entity/identifier",
    "/entity/identifier",
    "/entity",
];

const BLUEPRINT: [&str; 8] = [
    "/context/blueprint",
    "/payload/action/blueprint",
    "/action/blueprint",
    "/payload/entity/blueprint",
    "/port_context/blueprint",
    "/entity/blueprint",
    "/blueprint/identifier",
    "/blueprint",
];

/// Lists of the names of secret inputs.
const CENSORED: [&str; 5] = [
    "/payload/censoredProperties",
    "/payload/action/encryptedProperties",
    "/action/encryptedProperties",
    "/censoredProperties",
    "/encryptedProperties",
];

/// An invocation's body: a JSON object.
pub(super) struct Invocation {
    /// As it was sent.
    sent: Value,
}

impl Invocation {
    /// Reads the body, or says why it cannot be read; without a word of what stands in it.
    pub(super) fn read(body: &[u8], limits: &Limits) -> Result<Invocation, String> {
        if body.is_empty() {
            return Err("the body is empty; give the action a JSON body that holds {{ .run.id }}".to_owned());
        }
        let text = std::str::from_utf8(body).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
        measure(body, limits)?;
        // The text of a syntax error quotes nothing of the body.
        let sent: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        if !sent.is_object() {
            return Err("not a JSON object; give the action a body like {\"runId\": \"{{ .run.id }}\"}".to_owned());
        }
        Ok(Invocation { sent })
    }

    /// The body, without the object that DAY-2 samples are wrapped in.
    fn body(&self) -> &Value {
        match self.sent.as_object().filter(|top| top.len() == 1).and_then(|top| top.get("payload")) {
            Some(inner) if has_run_id(inner) => inner,
            _ => &self.sent,
        }
    }

    /// Where to look, best first: the part laid out like a classic body, and the body as a whole.
    fn views(&self) -> [&Value; 2] {
        let body = self.body();
        let parts = ["payload", "port_payload"].into_iter().filter_map(|key| body.get(key));
        let classic = std::iter::once(body).chain(parts).find(|part| has_run_id(part));
        [classic.unwrap_or(body), body]
    }

    /// The first of these places that holds anything.
    fn find<'a>(&'a self, pointers: &'a [&str]) -> impl Iterator<Item = &'a Value> {
        self.views().into_iter().flat_map(move |view| pointers.iter().filter_map(move |p| view.pointer(p)))
    }

    /// The first of these places that holds a text.
    fn text(&self, pointers: &[&str]) -> Option<String> {
        self.find(pointers).filter_map(Value::as_str).find(|text| !text.is_empty()).map(str::to_owned)
    }

    /// The run id, or where it should have been.
    pub(super) fn run_id(&self, place: &Place, header: Option<&str>) -> Result<String, String> {
        let (found, wanted) = match place {
            Place::Usual => {
                let body = self.body();
                let found = USUAL_PLACES.iter().filter_map(|p| body.pointer(p)?.as_str()).chain(header);
                let wanted = "no run id (r_… or wfnr_…) in any of the usual places; put {{ .run.id }} into the \
                              action's body as runId, or say with run_id where it is";
                (found.into_iter().find(|id| is_run_id(id)), wanted.to_owned())
            }
            Place::Pointer(pointer) => {
                let found = [&self.sent, self.body()].into_iter().find_map(|body| body.pointer(pointer)?.as_str());
                (found.filter(|id| is_id(id)), format!("no run id at {pointer}, where run_id says it is"))
            }
            Place::Header(name) => {
                (header.filter(|id| is_id(id)), format!("no run id in the header {name}, where run_id says it is"))
            }
        };
        found.map(str::to_owned).ok_or(wanted)
    }

    /// What it says happened: a run began.
    pub(super) fn update(&self, run_id: String) -> Update {
        let action = self.text(&ACTION);
        let entity = self.text(&ENTITY);
        let blueprint = self.text(&BLUEPRINT);
        let attributes = Map::from_iter([
            ("action".to_owned(), json!(action)),
            ("blueprint".to_owned(), json!(blueprint)),
            ("entity".to_owned(), json!(entity)),
            ("trigger".to_owned(), self.trigger()),
        ]);
        let execution = ExecutionPart {
            name: action.clone(),
            workflow: action,
            subject: entity.or(blueprint),
            status: Some(Status::Running),
            vendor_status: self.text(&["/status"]),
            created_at: self.text(&["/trigger/at"]).and_then(|at| Time::parse(&at)),
            inputs: Some(self.inputs()),
            attributes,
            ..ExecutionPart::default()
        };
        Update { key: run_id, identity: Some("run".to_owned()), execution, ..Update::default() }
    }

    /// Who triggered it, when, and what for: of the person no more than the id and the mail address.
    fn trigger(&self) -> Value {
        let email = self.text(&["/trigger/by/user/email"]);
        let trigger = json!({
            "by": {
                "orgId": self.text(&["/trigger/by/orgId"]),
                "userId": self.text(&["/trigger/by/userId", "/trigger/by/user/id"]),
                "user": email.map(|email| json!({ "email": email })),
            },
            "origin": self.text(&["/trigger/origin"]),
            "at": self.text(&["/trigger/at"]),
            "operation": self.text(&["/trigger/operation", "/payload/action/trigger"]),
        });
        if says_nothing(&trigger) { Value::Null } else { trigger }
    }

    /// What was asked for, less what is secret.
    fn inputs(&self) -> Value {
        let asked = self.find(&["/payload/properties"]).chain(self.find(&["/inputs"])).find(|inputs| !inputs.is_null());
        let mut inputs = asked.unwrap_or(self.body()).clone();
        censor(&mut inputs, &self.secret_inputs());
        inputs
    }

    fn secret_inputs(&self) -> HashSet<&str> {
        let listed = self.find(&CENSORED).flat_map(|names| match names {
            Value::Array(names) => names.as_slice(),
            name => std::slice::from_ref(name),
        });
        let defined = self.find(&["/payload/action/userInputs/properties"]).filter_map(Value::as_object).flatten();
        let encrypted = defined.filter(|(_, input)| input.get("encryption").is_some_and(|how| !how.is_null()));
        listed.filter_map(Value::as_str).chain(encrypted.map(|(name, _)| name.as_str())).collect()
    }
}

fn has_run_id(value: &Value) -> bool {
    value.pointer("/context/runId").is_some_and(Value::is_string)
}

/// What Port's ids of action runs and workflow node runs look like.
fn is_run_id(text: &str) -> bool {
    let rest = text.strip_prefix("r_").or_else(|| text.strip_prefix("wfnr_"));
    is_id(text) && rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// What is taken for an id where the configuration says that one stands.
fn is_id(text: &str) -> bool {
    (1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(says_nothing),
        _ => false,
    }
}

/// Blanks the inputs of these names, however deep they stand: a template may have moved them.
fn censor(inputs: &mut Value, names: &HashSet<&str>) {
    match inputs {
        Value::Object(map) => {
            for (name, value) in map {
                if names.contains(name.as_str()) && !value.is_null() {
                    *value = Value::from("[censored]");
                } else {
                    censor(value, names);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| censor(value, names)),
        _ => {}
    }
}

/// Walks over JSON text byte by byte and knows what stands in a string.
#[derive(Default)]
struct Scanner {
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// Steps over the next byte: whether it is structure, not a string's content.
    fn step(&mut self, byte: u8) -> bool {
        if !self.in_string {
            self.in_string = byte == b'"';
            return true;
        }
        if self.escaped {
            self.escaped = false;
        } else {
            self.escaped = byte == b'\\';
            self.in_string = byte != b'"';
        }
        false
    }
}

/// The JSON text without insignificant whitespace; every other byte stays as it is.
pub(super) fn without_whitespace(json: &[u8]) -> Vec<u8> {
    let mut scanner = Scanner::default();
    let is_kept = |byte: &u8| !(scanner.step(*byte) && matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    json.iter().copied().filter(is_kept).collect()
}

/// Whether this is JSON text of any kind.
pub(super) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Bounds what a body can cost before anything is made of it.
fn measure(json: &[u8], limits: &Limits) -> Result<(), String> {
    let mut scanner = Scanner::default();
    let (mut depth, mut elements) = (0_usize, 1_usize);
    for &byte in json {
        if !scanner.step(byte) {
            continue;
        }
        match byte {
            b'{' | b'[' => (depth, elements) = (depth + 1, elements + 1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => elements += 1,
            _ => {}
        }
        if depth > limits.depth_max {
            return Err(format!("nested deeper than {}; depth_max allows more", limits.depth_max));
        }
        if elements > limits.elements_max {
            return Err(format!("more than {} values; elements_max allows more", limits.elements_max));
        }
    }
    Ok(())
}
