//! What the JSON Schema of the configuration says of an action.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::words::Word;
use super::{Action, Described};

impl JsonSchema for Word {
    fn schema_name() -> Cow<'static, str> {
        "ZabbixWord".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of Zabbix's API, or a word for it.",
            "type": ["string", "integer", "boolean"],
        })
    }
}

impl JsonSchema for Described {
    fn schema_name() -> Cow<'static, str> {
        "ZabbixActions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (one, many) = (generator.subschema_for::<Action>(), generator.subschema_for::<Vec<Action>>());
        json_schema!({ "anyOf": [one, many, { "type": "string", "minLength": 1 }] })
    }
}
