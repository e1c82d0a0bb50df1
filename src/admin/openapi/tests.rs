//! Makes the description, and compares it with the one that is served.

use std::fs;
use std::path::Path;

use schemars::generate::{Contract, SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::super::api::Pause;
use super::super::operations::{DeliveryVerb, Does, Noun, OPERATIONS, Operation, SinkVerb};
use super::super::{SinkStanding, Status, query};
use crate::model::{Attempt, Execution, Link, ReceiptStatus, Task, Time};
use crate::store::{ChangeRow, DeliveryRow, ExecutionRow, Filter, OutcomeRow, ReceiptRow};

/// An id: the time in microseconds.
const ID: &str = "^[1-9][0-9]{0,17}$";
const SPAN: &str = "[0-9]{1,4}(ms|s|m|h|d)";
const TIME: &str = "20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z";

#[derive(JsonSchema)]
#[schemars(rename = "PageOf{T}")]
#[expect(dead_code, reason = "only its shape is looked at, as of all that follow")]
struct Page<T> {
    /// Newest first.
    items: Vec<T>,
    /// The `cursor` of the next page; `null` on the last one.
    next: Option<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Sinks {
    items: Vec<SinkStanding>,
}

/// Everything that is known of one execution, oldest first. Of each list there are the latest four mebibytes; the lists of
/// receipts and deliveries, asked for by `execution`, have all, page by page.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct History {
    execution: ExecutionRow,
    tasks: Vec<Task>,
    receipts: Vec<ReceiptRow>,
    changes: Vec<Change>,
    deliveries: Vec<DeliveryRow>,
}

/// One change, as it is told to sinks.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Change {
    id: String,
    data: Told,
}

/// The `data` of the normalized change. Each holds all of its execution: so of the earlier ones of a large execution,
/// `execution`, `tasks` and `changed_tasks` are left out. The bodies of their receipts have it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Told {
    execution: Option<ToldExecution>,
    tasks: Option<Vec<Task>>,
    change: ToldMeta,
}

/// What changed.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct ToldMeta {
    /// The CloudEvents type: `callbackd.execution.<status>`; `.updated` when only tasks or details changed, `.overdue` when
    /// it is late.
    r#type: String,
    /// Counts the changes of one execution, from 1.
    sequence: u32,
    /// The status before; `null` for a new execution.
    previous_status: Option<crate::model::Status>,
    /// Keys of the tasks that are new or moved.
    changed_tasks: Option<Vec<String>>,
    /// Marks an execution that is late.
    overdue: bool,
    /// The receipt it came from.
    receipt: Option<String>,
    /// When that receipt was here.
    received_at: Time,
}

/// An execution after one of its changes.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct ToldExecution {
    id: String,
    #[serde(flatten)]
    execution: Execution,
    links: Vec<Link>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Tried {
    delivery: DeliveryRow,
    /// The latest thousand, oldest first.
    attempts: Vec<Attempt>,
}

/// What a receipt that was read again came to.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Replayed {
    receipt: String,
    outcome: ReceiptStatus,
    executions: Vec<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Count {
    /// How many deliveries it was.
    count: u64,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Paused {
    name: String,
    /// Why it is paused; `null` when it is not.
    paused: Option<String>,
}

/// What is wrong, and what to do (RFC 9457).
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its shape is looked at")]
struct Problem {
    /// `urn:callbackd:…`: stable, for programs.
    r#type: String,
    title: String,
    status: u16,
    detail: String,
}

/// What an operation takes and gives.
struct Described {
    id: &'static str,
    summary: &'static str,
    body: Option<(Schema, bool)>,
    gives: Value,
    /// Operations that its answer leads to, their parameter, and where its value stands.
    leads_to: &'static [(&'static str, &'static str, &'static str)],
}

struct Types {
    asked: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Types {
    fn new() -> Types {
        let settings = |contract| {
            SchemaSettings::draft2020_12()
                .with(|s| {
                    s.definitions_path = "/components/schemas".into();
                    s.contract = contract;
                })
                .into_generator()
        };
        Types { asked: settings(Contract::Deserialize), answered: settings(Contract::Serialize) }
    }

    fn asked<T: JsonSchema>(&mut self) -> Schema {
        self.asked.subschema_for::<T>()
    }

    fn json<T: JsonSchema>(&mut self) -> Value {
        json!({ "application/json": { "schema": self.answered.subschema_for::<T>() } })
    }

    fn describe(&mut self, does: Does) -> Described {
        let text = || json!({ "text/plain": { "schema": { "type": "string" } } });
        let (id, summary, body, gives) = match does {
            Does::Lives => ("lives", "Whether the daemon lives", None, text()),
            Does::IsReady => ("isReady", "Whether it can keep a callback now", None, text()),
            Does::Measure => {
                let text = json!({ "schema": { "type": "string" } });
                let gives = json!({ "application/openmetrics-text": text, "text/plain": text });
                ("measure", "Figures, as OpenMetrics or in Prometheus' older format", None, gives)
            }
            Does::Describe => {
                let any = json!({ "application/json": { "schema": { "type": "object" } } });
                ("describe", "This description", None, any)
            }
            Does::Status => {
                ("status", "Whether it can keep callbacks, and which configuration holds", None, self.json::<Status>())
            }
            Does::List(Noun::Execution) => {
                ("listExecutions", "What the vendors ran, newest first", None, self.json::<Page<ExecutionRow>>())
            }
            Does::List(Noun::Receipt) => {
                ("listReceipts", "What was received, newest first", None, self.json::<Page<ReceiptRow>>())
            }
            Does::List(Noun::Delivery) => {
                ("listDeliveries", "Who is told what, newest first", None, self.json::<Page<DeliveryRow>>())
            }
            Does::Show(Noun::Execution) => {
                ("showExecution", "One execution, by its id or the vendor's key", None, self.json::<History>())
            }
            Does::Show(Noun::Receipt) => ("showReceipt", "One receipt", None, self.json::<ReceiptRow>()),
            Does::Show(Noun::Delivery) => ("showDelivery", "One delivery with its tries", None, self.json::<Tried>()),
            Does::ReceiptBody => {
                let bytes = json!({ "application/octet-stream": {} });
                ("receiptBody", "Its body as it came, byte for byte; a repeat's is not kept again", None, bytes)
            }
            Does::ReceiptReplay => {
                let summary = "Reads it again: one that is quarantined, or is held or was refused";
                ("replayReceipt", summary, None, self.json::<Replayed>())
            }
            Does::Sinks => ("listSinks", "The systems that must know, and how they stand", None, self.json::<Sinks>()),
            Does::Sink(SinkVerb::Pause) => {
                let body = Some((self.asked::<Pause>(), false));
                ("pauseSink", "Tells it nothing until it is resumed", body, self.json::<Paused>())
            }
            Does::Sink(SinkVerb::Resume) => ("resumeSink", "Lets it go on", None, self.json::<Paused>()),
            Does::Deliveries(DeliveryVerb::Retry) => {
                let body = Some((self.asked::<Filter>(), true));
                ("retryDeliveries", "Makes all that match due again; dead ones by default", body, self.json::<Count>())
            }
            Does::Deliveries(DeliveryVerb::Discard) => {
                let body = Some((self.asked::<Filter>(), true));
                ("discardDeliveries", "Drops all that match; dead ones by default", body, self.json::<Count>())
            }
            Does::Delivery(DeliveryVerb::Retry) => ("retryDelivery", "Makes it due again", None, self.json::<Count>()),
            Does::Delivery(DeliveryVerb::Discard) => ("discardDelivery", "Drops it", None, self.json::<Count>()),
            Does::Stream => {
                let change = self.answered.subschema_for::<ChangeRow>();
                let delivery = self.answered.subschema_for::<OutcomeRow>();
                // Before OpenAPI 3.2, the schema of a stream is that of each of its items.
                let item = |name: &str, of: Schema| {
                    let told = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": of });
                    json!({ "properties": { "event": { "const": name }, "data": told } })
                };
                let gives = json!({ "text/event-stream": { "schema": {
                    "type": "object",
                    "required": ["event", "data"],
                    "properties": { "event": { "type": "string" }, "id": { "type": "string" }, "data": { "type": "string" } },
                    "oneOf": [item("change", change), item("delivery", delivery)],
                }}});
                ("listen", "Every change and every delivery's outcome, as server-sent events", None, gives)
            }
        };
        let leads_to: &[_] = match does {
            Does::List(Noun::Execution) => &[("showExecution", "id", "items/0/id")],
            Does::List(Noun::Receipt) => &[
                ("showReceipt", "id", "items/0/id"),
                ("receiptBody", "id", "items/0/id"),
                ("replayReceipt", "id", "items/0/id"),
            ],
            Does::List(Noun::Delivery) => &[
                ("showDelivery", "id", "items/0/id"),
                ("retryDelivery", "id", "items/0/id"),
                ("discardDelivery", "id", "items/0/id"),
            ],
            Does::Sinks => &[("pauseSink", "name", "items/0/name"), ("resumeSink", "name", "items/0/name")],
            _ => &[],
        };
        Described { id, summary, body, gives, leads_to }
    }

    /// All that was mentioned.
    fn definitions(mut self) -> Map<String, Value> {
        let problem = self.answered.subschema_for::<Problem>();
        assert_eq!(problem.get("$ref"), Some(&json!("#/components/schemas/Problem")));
        let mut all = self.asked.take_definitions(true);
        all.extend(self.answered.take_definitions(true));
        all
    }
}

/// What `?` may be followed by.
fn parameter(does: Does, name: &str) -> Value {
    let (schema, description) = match name {
        "status" => {
            let words = json!({ "type": "array", "minItems": 1, "items": { "enum": query::statuses(does) } });
            (words, "Only what stands so; several with commas between.")
        }
        "source" => (json!({ "type": "string" }), "Only of this source."),
        "sink" => (json!({ "type": "string" }), "Only to this sink."),
        "since" => {
            let description = "Only what came within this span, like 2h, or since this time.";
            (json!({ "type": "string", "pattern": format!("^({SPAN}|{TIME})$") }), description)
        }
        "execution" => (json!({ "type": "string", "pattern": ID }), "Only of the execution with this id."),
        "cursor" => (json!({ "type": "string", "pattern": ID }), "The `next` of the page before."),
        "limit" if does == Does::Stream => {
            (json!({ "type": "integer", "minimum": 1, "maximum": 1_000_000_000 }), "Ends after so many.")
        }
        "limit" => (json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }), "Rows of a page."),
        "for" => {
            let description =
                "Ends after this span, like 10s, when all that there is was told. With `since` and 0s: what was.";
            (json!({ "type": "string", "pattern": format!("^{SPAN}$") }), description)
        }
        other => panic!("{other} is not described"),
    };
    let mut parameter = json!({ "in": "query", "name": name, "schema": schema, "description": description });
    if name == "status" {
        parameter["style"] = json!("form");
        parameter["explode"] = json!(false);
    }
    parameter
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut all: Vec<_> = query::names(operation.does).iter().map(|name| parameter(operation.does, name)).collect();
    if let Some((_, rest)) = operation.path.split_once('{') {
        let name = rest.split_once('}').expect("closed").0;
        let schema = match operation.does {
            Does::Show(Noun::Execution) | Does::Sink(_) => json!({ "type": "string", "minLength": 1 }),
            _ => json!({ "type": "string", "pattern": ID }),
        };
        all.push(json!({ "in": "path", "name": name, "required": true, "schema": schema }));
    }
    if operation.does == Does::Stream {
        let description = "The `id` of what was told last: begins behind it.";
        let schema = json!({ "type": "string", "pattern": "^[0-9]{1,18}$" });
        all.push(json!({ "in": "header", "name": "Last-Event-ID", "schema": schema, "description": description }));
    }
    all
}

/// What can go wrong, with its header.
const PROBLEMS: [(u16, &str, Option<&str>); 10] = [
    (400, "What is asked is not understood.", None),
    (401, "Without the token of [admin], where there is one.", Some("WWW-Authenticate")),
    (403, "Without a token in [admin]: another Host than this machine, or another site's page.", None),
    (404, "There is no such thing.", None),
    (405, "The path takes other methods.", Some("Allow")),
    (408, "The body did not come in time.", None),
    (409, "Not possible as things stand.", None),
    (413, "The body is too large.", None),
    (500, "The store cannot be used.", None),
    (503, "Not possible now.", Some("Retry-After")),
];

fn can_go_wrong(operation: &Operation, status: u16) -> bool {
    let is_open = matches!(operation.does, Does::Lives | Does::IsReady);
    let asks_store = !is_open && !matches!(operation.does, Does::Describe | Does::Measure | Does::Status);
    match status {
        405 | 408 | 413 => true,
        401 | 403 => !is_open,
        404 => operation.path.contains('{'),
        // Where nothing can be asked with, what is asked with is a slip.
        400 => asks_store || operation.does == Does::Status,
        409 => operation.method == http::Method::POST,
        _ => asks_store,
    }
}

fn problem(status: u16, description: &str, header: Option<&str>) -> (String, Value) {
    let mut response = json!({
        "description": description,
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    if let Some(header) = header {
        response["headers"] = json!({ header: { "schema": { "type": "string" } } });
    }
    (format!("Problem{status}"), response)
}

fn document() -> Value {
    let mut types = Types::new();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let described = types.describe(operation.does);
        let mut fine = json!({ "description": described.summary, "content": described.gives });
        for (id, parameter, pointer) in described.leads_to {
            fine["links"][*id] =
                json!({ "operationId": id, "parameters": { *parameter: format!("$response.body#/{pointer}") } });
        }
        let mut responses = json!({ "200": fine });
        for (status, ..) in PROBLEMS.iter().filter(|(status, ..)| can_go_wrong(operation, *status)) {
            responses[status.to_string()] = json!({ "$ref": format!("#/components/responses/Problem{status}") });
        }
        let mut entry = json!({
            "operationId": described.id,
            "summary": described.summary,
            "parameters": parameters(operation),
            "responses": responses,
        });
        if operation.does == Does::IsReady {
            entry["responses"]["503"] = json!({ "description": "Why not.", "content": described.gives });
        }
        if matches!(operation.does, Does::Lives | Does::IsReady) {
            entry["security"] = json!([]);
        }
        if let Some((schema, required)) = described.body {
            entry["requestBody"] =
                json!({ "required": required, "content": { "application/json": { "schema": schema } } });
        }
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_lowercase()] = entry;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "callbackd",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "What operators see and change.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }, {}],
        "paths": paths,
        "components": {
            "schemas": types.definitions(),
            "responses": PROBLEMS.iter().map(|(status, text, header)| problem(*status, text, *header)).collect::<Map<_, _>>(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The token of [admin], where there is one." },
            },
        },
    })
}

#[test]
fn what_is_served_describes_what_is_there() {
    let made = serde_json::to_string_pretty(&document()).expect("JSON") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/openapi.json");
    #[expect(clippy::disallowed_methods, reason = "BLESS=1 rewrites what is expected")]
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &made).expect("written");
    }
    let held = fs::read_to_string(&path).expect("read");
    assert!(held == made, "{} is not what it would be made now; BLESS=1 writes it", path.display());
}
