//! The layers of the configuration, in the form in which the `config` crate merges them.

use std::collections::HashMap;
use std::ops::Range;

use ::config::{Source, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::tree::Node;

/// One layer of the configuration, as `config` takes it.
#[derive(Clone)]
pub(super) struct Layer(pub(super) HashMap<String, Value>);

impl std::fmt::Debug for Layer {
    /// Not its content: secrets may stand in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layer")
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<HashMap<String, Value>, ::config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// What stands in a table, where `keep` says that it belongs to this layer.
pub(super) fn entries(table: &DeTable<'_>, keep: &dyn Fn(&Range<usize>) -> bool) -> HashMap<String, Value> {
    table.iter().filter_map(|(key, node)| Some((key.get_ref().to_string(), value_of(node, keep)?))).collect()
}

/// A node as `config` has it; `None` for what belongs to the other layer.
fn value_of(node: &Node<'_>, keep: &dyn Fn(&Range<usize>) -> bool) -> Option<Value> {
    let own = keep(&node.span());
    let kind = match node.get_ref() {
        DeValue::Table(table) => {
            let entries = entries(table, keep);
            return (own || !entries.is_empty()).then(|| Value::new(None, ValueKind::Table(entries)));
        }
        _ if !own => return None,
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Integer(digits) => match i128::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => i64::try_from(number).map_or(ValueKind::I128(number), ValueKind::I64),
            Err(_) => ValueKind::String(digits.to_string()),
        },
        DeValue::Float(digits) => match digits.as_str().parse() {
            Ok(number) => ValueKind::Float(number),
            Err(_) => ValueKind::String(digits.to_string()),
        },
        DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => ValueKind::Array(items.iter().filter_map(|item| value_of(item, keep)).collect()),
    };
    Some(Value::new(None, kind))
}
