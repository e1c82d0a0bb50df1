//! The JSON Schema of the configuration, so that editors complete and check it. It is made from the types that read the
//! configuration, by the test below, and stands in `config/`, where editors find it.
//!
//! It knows keys, types and words. What only a look at the whole can tell (names that must exist, programs that must
//! end) is `check`'s.

/// The schema (JSON Schema 2020-12).
pub const SCHEMA: &str = include_str!("../../config/callbackd.schema.json");

/// Compares what is generated with what stands in a file of the repository; `BLESS=1` writes it there.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "BLESS=1 rewrites what is expected; no product code")]
pub(crate) fn blessed(name: &str, stands: &str, generated: &serde_json::Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = serde_json::to_string_pretty(generated).expect("JSON") + "\n";
    if std::env::var("BLESS").is_ok_and(|v| v == "1") {
        std::fs::write(path, text).expect("written");
    } else {
        assert!(stands == text, "{name} is not what the types say; `make bless` writes it");
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use schemars::generate::SchemaSettings;
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde_json::{Map, Value, json};

    use super::SCHEMA;
    use crate::config::{Admin, LinkEntry, Log, Otlp, Outbound, RouteEntry, Server, SinkCommon, SourceCommon, Store};
    use crate::options::{SchemaOf, Size, Span};
    use crate::secret::{SecretSpec, SecretSpecs};
    use crate::{sinks, sources};

    impl JsonSchema for Span {
        fn schema_name() -> Cow<'static, str> {
            "Span".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "description": "A span of time: a whole number and ms, s, m, h or d.",
                "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["30s", "2h"],
            })
        }
    }

    impl serde::Serialize for Span {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_str(self)
        }
    }

    impl JsonSchema for Size {
        fn schema_name() -> Cow<'static, str> {
            "Size".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "description": "A size: a whole number and KiB, MiB, GiB or TiB; or a share of the file system.",
                "type": "string", "pattern": "^([0-9]+(KiB|MiB|GiB|TiB)|[0-9]{1,2}%|100%)$", "examples": ["20GiB", "80%"],
            })
        }
    }

    impl serde::Serialize for Size {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_str(self)
        }
    }

    impl JsonSchema for SecretSpec {
        fn schema_name() -> Cow<'static, str> {
            "Secret".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            let place = |key: &str, what: &str| {
                json!({
                    "type": "object", "required": [key], "additionalProperties": false,
                    "properties": { key: { "description": what, "type": "string" } },
                })
            };
            json_schema!({
                "description": "A secret: where it is found. The text itself is taken, too, and discouraged.",
                "oneOf": [
                    place("file", "A file; one newline at its end is cut."),
                    place("env", "An environment variable."),
                    place("credential", "A credential of systemd (LoadCredential=)."),
                    { "type": "string" },
                ],
            })
        }
    }

    impl JsonSchema for SecretSpecs {
        fn schema_name() -> Cow<'static, str> {
            "Secrets".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let (one, many) = (generator.subschema_for::<SecretSpec>(), generator.subschema_for::<Vec<SecretSpec>>());
            json_schema!({ "description": "A secret, or a list of them, newest first.", "anyOf": [one, many] })
        }
    }

    /// Takes a member of an object out; an object or a list that is not there is empty.
    fn taken(schema: &mut Map<String, Value>, key: &str) -> Value {
        schema.remove(key).unwrap_or_else(|| if key == "required" { json!([]) } else { json!({}) })
    }

    /// The tables of one kind: the keys of all kinds and its own.
    fn kind(generator: &mut SchemaGenerator, words: &[&str], common: SchemaOf, own: SchemaOf) -> Value {
        let (mut properties, mut required) = (Map::new(), vec![json!("kind")]);
        let word = if let [word] = words { json!({ "const": word }) } else { json!({ "enum": words }) };
        properties.insert("kind".to_owned(), word);
        for of in [common, own] {
            let mut schema = Value::from(of(generator));
            let schema = schema.as_object_mut().expect("an object");
            assert_eq!(schema.get("additionalProperties"), Some(&json!(false)), "{words:?}: unknown keys are refused");
            let Value::Object(more) = taken(schema, "properties") else { panic!("{words:?}: no properties") };
            for (key, value) in more {
                assert_eq!(properties.insert(key.clone(), value), None, "{words:?}: {key} is there twice");
            }
            let Value::Array(more) = taken(schema, "required") else { panic!("{words:?}: no list") };
            required.extend(more);
        }
        json!({
            "title": words[0], "type": "object", "properties": properties, "required": required,
            "additionalProperties": false,
        })
    }

    /// TOML has no null: a key that may be left out is written, or not.
    fn without_null(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(without_null),
            Value::Object(map) => {
                map.values_mut().for_each(without_null);
                map.retain(|key, value| !(key == "default" && value.is_null()));
                if let Some(Value::Array(types)) = map.get_mut("type") {
                    types.retain(|word| word != "null");
                    if let [one] = &types[..] {
                        let one = one.clone();
                        map.insert("type".to_owned(), one);
                    }
                }
                if let Some(Value::Array(words)) = map.get_mut("enum") {
                    words.retain(|word| !word.is_null());
                }
                if let Some(Value::Array(all)) = map.get_mut("anyOf") {
                    all.retain(|one| one != &json!({ "type": "null" }));
                    if let [Value::Object(one)] = &all[..] {
                        let one = one.clone();
                        map.remove("anyOf");
                        for (key, value) in one {
                            map.entry(key).or_insert(value);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn generated() -> Value {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let sources: Vec<Value> = sources::KINDS
            .iter()
            .map(|row| kind(&mut generator, &[row.name], SourceCommon::json_schema, row.schema))
            .collect();
        let sinks: Vec<Value> = sinks::KINDS
            .iter()
            .map(|row| kind(&mut generator, &[&[row.name], row.aliases].concat(), SinkCommon::json_schema, row.schema))
            .collect();
        let names = json!({ "pattern": "^[A-Za-z0-9_-]{1,64}$" });
        let mut schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "callbackd's configuration",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "server": { "description": "Where senders reach callbackd, and the limits on them.", "$ref": generator.subschema_for::<Server>().get("$ref") },
                "admin": { "description": "Where operators reach callbackd.", "$ref": generator.subschema_for::<Admin>().get("$ref") },
                "store": { "description": "Where everything is kept.", "$ref": generator.subschema_for::<Store>().get("$ref") },
                "outbound": { "description": "How peers are reached.", "$ref": generator.subschema_for::<Outbound>().get("$ref") },
                "log": { "description": "What is logged, and how.", "$ref": generator.subschema_for::<Log>().get("$ref") },
                "otlp": { "description": "Where traces are told: for a callbackd that was built with otlp.", "$ref": generator.subschema_for::<Otlp>().get("$ref") },
                "sources": {
                    "description": "Who may call back: a [sources.NAME] for each.",
                    "type": "object", "propertyNames": names, "additionalProperties": { "oneOf": sources },
                },
                "sinks": {
                    "description": "Who must know: a [sinks.NAME] for each.",
                    "type": "object", "propertyNames": names, "additionalProperties": { "oneOf": sinks },
                },
                "routes": {
                    "description": "From which sources, on which condition, to which sinks.",
                    "type": "array", "items": generator.subschema_for::<RouteEntry>(),
                },
                "links": {
                    "description": "Which executions of two sources belong together.",
                    "type": "array", "items": generator.subschema_for::<LinkEntry>(),
                },
            },
        });
        schema["$defs"] = Value::Object(generator.take_definitions(true));
        without_null(&mut schema);
        schema
    }

    #[test]
    fn it_is_what_the_types_say() {
        super::blessed("config/callbackd.schema.json", SCHEMA, &generated());
    }

    /// Every key that people write says what it is for.
    #[test]
    fn every_key_is_described() {
        fn look(schema: &Value, path: &str, missing: &mut Vec<String>) {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                if property.get("description").or(property.get("const")).or(property.get("enum")).is_none() {
                    missing.push(format!("{path}.{key}"));
                }
                look(property, &format!("{path}.{key}"), missing);
            }
            if let Some(each) = schema.get("additionalProperties") {
                look(each, path, missing);
            }
            schema["oneOf"].as_array().into_iter().flatten().for_each(|one| look(one, path, missing));
        }

        let mut missing = Vec::new();
        let schema = generated();
        look(&schema, "", &mut missing);
        let defs = schema["$defs"].as_object().expect("definitions");
        // The members of Zabbix's own objects are Zabbix's to describe.
        defs.iter().filter(|(name, _)| !name.starts_with("Zabbix")).for_each(|(name, of)| look(of, name, &mut missing));
        assert!(missing.is_empty(), "not described: {missing:#?}");
    }
}
