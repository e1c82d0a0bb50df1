//! The configuration as it was written: the file's TOML tree with the place of every key, and the environment's
//! variables laid over it. [`Document::clean`] finds everything that is wrong with one table at once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::faults::{Complaint, instead};
use super::layers::{Layer, entries};
use super::tree::{Node, StandIn, Step, dotted, join, locate, put, take_out};
use crate::options::Fault;

/// Deserializes a table only to find what is wrong with it.
pub(super) type Examine<'a> = dyn Fn(ValueDeserializer<'_>) -> Result<(), toml::de::Error> + 'a;

/// Where a key was said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Place {
    line: Option<usize>,
    variable: Option<String>,
}

/// The place of every key, by its dotted name.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(HashMap<String, Place>);

impl Places {
    /// Gives the fault the place of its key, or of what its key stands in.
    pub(super) fn mark(&self, mut fault: Fault) -> Fault {
        let mut key = fault.key.as_str();
        let place = loop {
            match (self.0.get(key), key.rfind(['.', '['])) {
                (Some(place), _) => break place.clone(),
                (None, Some(end)) => key = &key[..end],
                (None, None) => break Place::default(),
            }
        };
        fault.line = fault.line.or(place.line);
        fault.variable = fault.variable.or(place.variable);
        fault
    }
}

/// A variable like `CALLBACKD__SERVER__LISTEN`, which is text: what type it has is tried out.
struct Variable<'i> {
    name: String,
    path: Vec<String>,
    /// What it can still be read as, the next one last.
    readings: Vec<DeValue<'i>>,
    /// What was wrong with the reading before: words between commas are tried last, and most often not meant.
    said: Option<String>,
}

/// The tree, and what was found wrong with it.
pub(super) struct Document<'i> {
    text: &'i str,
    pub(super) root: DeTable<'i>,
    variables: Vec<Variable<'i>>,
    pub(super) faults: Vec<Fault>,
}

impl<'i> Document<'i> {
    /// Parses the file's text and lays the environment's variables (lower case, dotted) over it.
    pub(super) fn parse(text: &'i str, variables: &'i [(String, String)]) -> Document<'i> {
        let mut document = Document { text, root: DeTable::new(), variables: Vec::new(), faults: Vec::new() };
        match DeTable::parse(text) {
            Ok(root) => document.root = root.into_inner(),
            Err(e) => {
                let mut fault = Fault::new("", format!("this is not TOML: {}", e.message()));
                fault.line = e.span().map(|span| document.line(span.start));
                document.faults.push(fault);
            }
        }
        for (key, value) in variables {
            document.lay(key, value);
        }
        document
    }

    /// Lays one variable over the tree. Its nodes lie behind the end of the text, so that they can be told apart.
    fn lay(&mut self, key: &str, value: &'i str) {
        let at = self.text.len() + 1 + self.variables.len();
        let span = at..at + 1;
        let mut path = Vec::new();
        let mut table = &mut self.root;
        let mut words = key.split('.').peekable();
        let mut readings = readings(value, &span);
        while let Some(word) = words.next() {
            let known = table.keys().find(|k| k.get_ref().eq_ignore_ascii_case(word)).map(|k| k.get_ref().to_string());
            let word = known.unwrap_or_else(|| word.to_owned());
            path.push(word.clone());
            let child = table
                .entry(Spanned::new(span.clone(), Cow::Owned(word)))
                .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
            if words.peek().is_none() {
                *child = Spanned::new(span.clone(), readings.pop().unwrap_or(DeValue::String(Cow::Borrowed(value))));
                break;
            }
            if !child.get_ref().is_table() {
                *child = Spanned::new(span.clone(), DeValue::Table(DeTable::new()));
            }
            match child.get_mut() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        self.variables.push(Variable { name: variable_name(key), path, readings, said: None });
    }

    /// The place of every key.
    pub(super) fn places(&self) -> Places {
        let mut places = HashMap::new();
        self.note(&self.root, "", &mut places);
        Places(places)
    }

    fn note(&self, table: &DeTable<'i>, prefix: &str, places: &mut HashMap<String, Place>) {
        for (key, value) in table {
            let name = join(prefix, key.get_ref());
            self.note_value(value, &name, places);
            // A variable that replaced a value of the file left the file's key.
            let span = if self.variable_at(&value.span()).is_some() { value.span() } else { key.span() };
            places.insert(name, self.place(&span));
        }
    }

    fn note_value(&self, value: &Node<'i>, name: &str, places: &mut HashMap<String, Place>) {
        match value.get_ref() {
            DeValue::Table(inner) => self.note(inner, name, places),
            DeValue::Array(items) => {
                for (position, item) in items.iter().enumerate() {
                    let name = format!("{name}[{position}]");
                    places.insert(name.clone(), self.place(&item.span()));
                    self.note_value(item, &name, places);
                }
            }
            _ => {}
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        match self.variable_at(span) {
            Some(position) => Place { line: None, variable: Some(self.variables[position].name.clone()) },
            None => Place { line: Some(self.line(span.start)), variable: None },
        }
    }

    fn variable_at(&self, span: &Range<usize>) -> Option<usize> {
        span.start.checked_sub(self.text.len() + 1).filter(|&p| p < self.variables.len())
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&b| b == b'\n').count()
    }

    /// Adds a fault of what stands at `span`.
    pub(super) fn fault(&mut self, span: &Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        let Place { line, variable } = self.place(span);
        self.faults.push(Fault { line, variable, ..Fault::new(key, message) });
    }

    /// Finds everything that is wrong with one table: `key` is its dotted name, `known` are keys that are taken out of
    /// it beforehand and belong into the list of those that can be written. What is wrong is noted and taken out; what
    /// is missing is noted and something stands in for it, so that the rest can be examined too.
    pub(super) fn clean(&mut self, key: &str, node: &mut Node<'i>, known: &[&str], examine: &Examine<'_>) {
        let mut taken_out: Vec<String> = Vec::new();
        let mut standing_in: HashMap<String, StandIn> = HashMap::new();
        // Each round takes something out or tries the next stand-in, so this is far beyond any real number of faults.
        for _ in 0..1000 {
            let Err(error) = examine(node.clone().into()) else { return };
            let span = error.span().unwrap_or(node.span());
            let complaint = Complaint::of(error.message());
            let variable = self.variable_at(&span);
            let path = match (variable, &complaint) {
                (Some(position), Complaint::Unknown(..) | Complaint::Wrong(_)) => self.path_of(position, key),
                _ => locate(node, &span),
            };
            let Some(mut path) = path else { break };
            if let Complaint::Missing(field) = complaint {
                path.push(Step::Key(field.to_owned()));
                let name = dotted(key, &path);
                if standing_in.contains_key(&name) {
                    break;
                }
                if !taken_out.contains(&name) {
                    self.fault(&span, name.as_str(), "has to be written, and is missing");
                }
                let stand_in = StandIn { tried: 0, at: usize::MAX - 1 - standing_in.len() };
                put(node, &path, stand_in.node());
                standing_in.insert(name, stand_in);
                continue;
            }
            let name = dotted(key, &path);
            if let Some(stand_in) = standing_in.get_mut(&name) {
                stand_in.tried += 1;
                if stand_in.tried == StandIn::KINDS {
                    break;
                }
                put(node, &path, stand_in.node());
                continue;
            }
            let message = match complaint {
                Complaint::Unknown(word, mut words) => {
                    if path.len() == 1 {
                        words.extend(known);
                    }
                    words.sort_unstable();
                    format!("no such key; {}", instead(word, &words))
                }
                Complaint::Wrong(text) => {
                    if let Some(reading) = variable.and_then(|v| self.variables[v].readings.pop()) {
                        put(node, &path, Spanned::new(span, reading));
                        variable.into_iter().for_each(|v| self.variables[v].said = Some(text.clone()));
                        continue;
                    }
                    let said = variable.and_then(|v| self.variables[v].said.take());
                    said.filter(|_| text.ends_with("found a list")).unwrap_or(text)
                }
                Complaint::Missing(_) => break,
            };
            self.fault(&span, name.as_str(), message);
            if path.is_empty() {
                break;
            }
            taken_out.push(name);
            take_out(node, &path, variable.map(|_| &span));
        }
        // What is left cannot be mended, and its fault is noted; an empty table lets the rest be examined.
        *node = Spanned::new(node.span(), DeValue::Table(DeTable::new()));
    }

    /// The variable's path within the table `key`.
    fn path_of(&self, position: usize, key: &str) -> Option<Vec<Step>> {
        let skip = key.split('.').count();
        Some(self.variables[position].path.iter().skip(skip).cloned().map(Step::Key).collect())
    }

    /// What the file says, and what the environment says, for `config` to merge.
    pub(super) fn layers(&self) -> [Layer; 2] {
        let layer = |of_environment| {
            let keep = |span: &Range<usize>| self.variable_at(span).is_some() == of_environment;
            Layer(entries(&self.root, &keep))
        };
        [layer(false), layer(true)]
    }
}

/// `CALLBACKD__SERVER__LISTEN`, for `server.listen`.
fn variable_name(key: &str) -> String {
    format!("{}__{}", super::PREFIX, key.replace('.', "__").to_uppercase())
}

/// What a variable's text can be read as, the first choice last: a TOML table or list, the text itself, another TOML
/// value, words between commas. All of it stands where the variable stands.
fn readings<'i>(text: &'i str, span: &Range<usize>) -> Vec<DeValue<'i>> {
    let plain = DeValue::String(Cow::Borrowed(text));
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let words = words.map(|word| Spanned::new(span.clone(), DeValue::String(Cow::Borrowed(word))));
    let mut readings = vec![DeValue::Array(words.collect())];
    match DeValue::parse(text.trim()).map(Spanned::into_inner) {
        Ok(value @ (DeValue::Table(_) | DeValue::Array(_))) => readings.extend([plain, standing_at(span, value)]),
        Ok(value @ (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_))) => readings.extend([value, plain]),
        _ => readings.push(plain),
    }
    readings
}

/// The same value, all of it standing at `span`.
fn standing_at<'i>(span: &Range<usize>, value: DeValue<'i>) -> DeValue<'i> {
    let moved = |node: Node<'i>| Spanned::new(span.clone(), standing_at(span, node.into_inner()));
    match value {
        DeValue::Table(table) => {
            let mut out = DeTable::new();
            for (key, node) in table {
                out.insert(Spanned::new(span.clone(), key.into_inner()), moved(node));
            }
            DeValue::Table(out)
        }
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(moved).collect()),
        other => other,
    }
}
