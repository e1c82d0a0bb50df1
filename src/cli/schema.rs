//! `schema`: the JSON Schema of the configuration, for editors; and of the normalized change, for those who receive it.

use clap::Subcommand;

use super::{Failure, print};
use crate::config;

/// The schema of what sinks are told (JSON Schema 2020-12).
const CHANGE: &str = include_str!("../../config/change.schema.json");

#[derive(Debug, Subcommand)]
pub(super) enum Schema {
    /// Of the configuration: editors complete and check it with this
    Config,
    /// Of the normalized change: what sinks are told, in its CloudEvents envelope
    Change,
}

impl Schema {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let text = match self {
            Schema::Config => config::SCHEMA,
            Schema::Change => CHANGE,
        };
        print::stdout(|out| out.write_all(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;
    use schemars::{JsonSchema, SchemaGenerator};
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::model::{ChangeMeta, Execution, Link, Task};

    /// An object in which everything is there: what is absent is `null`.
    fn whole(generator: &mut SchemaGenerator, of: crate::options::SchemaOf, more: Value) -> Value {
        let mut schema = Value::from(of(generator));
        let properties = schema["properties"].as_object_mut().expect("properties");
        let Value::Object(more) = more else { panic!("an object") };
        properties.extend(more);
        closed(&mut schema);
        schema
    }

    fn closed(schema: &mut Value) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            schema["required"] = properties.keys().cloned().collect();
            schema["additionalProperties"] = json!(false);
        }
    }

    fn generated() -> Value {
        let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
        let text = |says: &str| json!({ "description": says, "type": "string" });
        let links = generator.subschema_for::<Vec<Link>>();
        let execution = whole(
            &mut generator,
            Execution::json_schema,
            json!({ "id": text("callbackd's own id of the execution."), "links": links }),
        );
        let tasks = generator.subschema_for::<Vec<Task>>();
        let change = whole(&mut generator, ChangeMeta::json_schema, json!({}));
        let mut defs: Map<String, Value> = generator.take_definitions(true);
        defs.values_mut().for_each(closed);
        let mut schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "A change, as callbackd tells it",
            "description": "CloudEvents 1.0, structured JSON. In the binary mode the body is `data` alone.",
            "type": "object",
            "properties": {
                "specversion": { "const": "1.0" },
                "id": text("The same to every sink and at every try: deduplicate on it."),
                "source": { "description": "callbackd/<instance>/<source>.", "type": "string", "format": "uri-reference" },
                "type": { "description": "callbackd.execution.<status>, .updated or .overdue; callbackd.test from `sinks test`.",
                    "type": "string", "pattern": "^callbackd\\.(execution\\.[a-z]+|test)$" },
                "subject": text("The vendor's id of the execution."),
                "time": { "$ref": "#/$defs/Time" },
                "datacontenttype": { "const": "application/json" },
                "data": {
                    "description": "What `when` and sinks' programs see.",
                    "type": "object",
                    "properties": { "execution": execution, "tasks": tasks, "change": change },
                },
            },
            "$defs": defs,
        });
        closed(&mut schema["properties"]["data"]);
        closed(&mut schema);
        schema
    }

    #[test]
    fn the_schema_of_a_change_is_what_the_types_say() {
        crate::config::blessed("config/change.schema.json", CHANGE, &generated());
    }
}
