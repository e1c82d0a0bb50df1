//! Finding and changing what stands in a TOML tree.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

/// A node of the tree, with its place.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// Stands in for a key that is missing, so that what comes after it is examined: something of every type in turn.
pub(super) struct StandIn {
    pub(super) tried: usize,
    pub(super) at: usize,
}

impl StandIn {
    pub(super) const KINDS: usize = 5;

    pub(super) fn node(&self) -> Node<'static> {
        let span = self.at..self.at;
        let text = DeValue::String(Cow::Borrowed("1s"));
        let value = match self.tried {
            0 => text,
            1 => DeValue::Integer(DeInteger::default()),
            2 => DeValue::Boolean(false),
            3 => DeValue::Array([Spanned::new(span.clone(), text)].into_iter().collect()),
            _ => DeValue::Table(DeTable::new()),
        };
        Spanned::new(span, value)
    }
}

/// One step from a table to what stands in it.
#[derive(Clone)]
pub(super) enum Step {
    Key(String),
    Item(usize),
}

pub(super) fn dotted(key: &str, path: &[Step]) -> String {
    path.iter().fold(key.to_owned(), |name, step| match step {
        Step::Key(key) => join(&name, key),
        Step::Item(position) => format!("{name}[{position}]"),
    })
}

pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The way from `node` to the key or value with this place.
pub(super) fn locate(node: &Node<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    let with = |step: Step, rest: Vec<Step>| [step].into_iter().chain(rest).collect();
    if node.span() == *span {
        return Some(Vec::new());
    }
    match node.get_ref() {
        DeValue::Table(table) => table.iter().find_map(|(key, value)| {
            let rest = if key.span() == *span { Vec::new() } else { locate(value, span)? };
            Some(with(Step::Key(key.get_ref().to_string()), rest))
        }),
        DeValue::Array(items) => {
            items.iter().enumerate().find_map(|(position, item)| Some(with(Step::Item(position), locate(item, span)?)))
        }
        _ => None,
    }
}

/// What stands at the end of all but the last step.
fn parent<'n, 'i>(node: &'n mut Node<'i>, path: &[Step]) -> Option<&'n mut DeValue<'i>> {
    path[..path.len().checked_sub(1)?].iter().try_fold(node.get_mut(), |value, step| match (value, step) {
        (DeValue::Table(table), Step::Key(key)) => Some(table.get_mut(key.as_str())?.get_mut()),
        (DeValue::Array(items), Step::Item(position)) => Some(items.get_mut(*position)?.get_mut()),
        _ => None,
    })
}

pub(super) fn put<'i>(node: &mut Node<'i>, path: &[Step], value: Node<'i>) {
    match (parent(node, path), path.last()) {
        (Some(DeValue::Table(table)), Some(Step::Key(key))) => {
            table.insert(Spanned::new(value.span(), Cow::Owned(key.clone())), value);
        }
        (Some(DeValue::Array(items)), Some(Step::Item(position))) => {
            if let Some(item) = items.get_mut(*position) {
                *item = value;
            }
        }
        _ => {}
    }
}

/// Takes out what the path leads to; of a variable's, from the first key on that only the variable wrote.
pub(super) fn take_out(node: &mut Node<'_>, path: &[Step], variable: Option<&Range<usize>>) {
    let own = |end: &usize| match (parent(&mut node.clone(), &path[..*end]), &path[end - 1]) {
        (Some(DeValue::Table(table)), Step::Key(key)) => {
            table.get_key_value(key.as_str()).is_some_and(|(k, _)| Some(&k.span()) == variable)
        }
        _ => false,
    };
    let end = (1..=path.len()).find(own).unwrap_or(path.len());
    match (parent(node, &path[..end]), &path[end - 1]) {
        (Some(DeValue::Table(table)), Step::Key(key)) => drop(table.remove(key.as_str())),
        (Some(DeValue::Array(items)), Step::Item(position)) => {
            let rest = std::mem::replace(items, DeArray::new()).into_iter().enumerate().filter(|(p, _)| p != position);
            *items = rest.map(|(_, item)| item).collect();
        }
        _ => {}
    }
}
