//! Loading: the file and the environment become one merged, validated [`Config`], or a list of everything that is
//! wrong with them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ::config::{Source, Value, ValueKind};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::document::{Document, Examine};
use super::faults::{Faults, instead};
use super::tree::Node;
use super::{
    Admin, Broken, Config, LinkEntry, Log, Otlp, Outbound, PREFIX, RouteEntry, Server, SinkCommon, SinkEntry,
    SourceCommon, SourceEntry, Store, judge, salvage,
};
use crate::options::{self, Fault, Section, examine};
use crate::{sinks, sources};

/// A longer file is no configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

const TOP: [&str; 10] = ["server", "admin", "store", "outbound", "log", "otlp", "sources", "sinks", "routes", "links"];

/// The environment of the process, or what a test says it is. Secrets may be in it, so it cannot be printed.
#[derive(Clone, Default)]
pub struct Environment {
    /// Name and value of every variable.
    pub vars: HashMap<String, String>,
}

impl Environment {
    /// The process's own: the only place that reads it. What is not UTF-8 is left out.
    pub fn of_process() -> Environment {
        #[expect(clippy::disallowed_methods, reason = "this is the door through which the environment enters")]
        let vars = std::env::vars_os();
        Environment { vars: vars.filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect() }
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }

    /// The variables that belong to the configuration, as `server.listen` and its text, in the order of their names.
    fn overrides(&self) -> Vec<(String, String)> {
        let own = ::config::Environment::with_prefix(PREFIX).separator("__").source(Some(self.vars.clone()));
        let found = own.collect().unwrap_or_default().into_iter();
        let mut overrides: Vec<_> = found.filter_map(|(key, value)| Some((key, value.into_string().ok()?))).collect();
        overrides.retain(|(key, _)| !key.is_empty());
        overrides.sort();
        overrides
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Environment {
        Environment { vars: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }
}

impl Config {
    /// Loads the file, if one is named, and the environment over it.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Config, Faults> {
        let text = read(file)?;
        let (config, faults) = take(&text, file, environment);
        finish(config, file, faults)
    }

    /// The same, and where something is wrong, what can be read all the same.
    pub fn salvage(file: Option<&Path>, environment: &Environment) -> Result<(Config, Option<Broken>), Faults> {
        let text = read(file)?;
        let (config, faults) = take(&text, file, environment);
        match faults.is_empty() {
            true => Ok((config, None)),
            false => Ok(salvage::salvage(&text, file, environment, (config, faults))),
        }
    }

    /// The same, from a text.
    pub fn from_toml(text: &str, environment: &Environment) -> Result<Config, Faults> {
        let (config, faults) = take(text, None, environment);
        finish(config, None, faults)
    }
}

fn finish(config: Config, file: Option<&Path>, faults: Vec<Fault>) -> Result<Config, Faults> {
    if faults.is_empty() { Ok(config) } else { Err(Faults::new(file.map(Path::to_owned), faults)) }
}

/// The file's text; empty without a file.
pub(super) fn read(file: Option<&Path>) -> Result<String, Faults> {
    let Some(path) = file else { return Ok(String::new()) };
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let message = match read {
        Ok(length) if length as u64 <= FILE_BYTES_MAX => return Ok(text),
        Ok(_) => format!("is longer than {FILE_BYTES_MAX} bytes: this is no configuration"),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            format!("cannot be read: {e}; ask as one who may, for example with sudo")
        }
        Err(e) => format!("cannot be read: {e}; name the configuration with --config FILE"),
    };
    Err(Faults::new(file.map(Path::to_owned), vec![Fault::new("", message)]))
}

/// What can be made of the text and the environment, and everything that is wrong with them.
pub(super) fn take(text: &str, file: Option<&Path>, environment: &Environment) -> (Config, Vec<Fault>) {
    let overrides = environment.overrides();
    let mut document = Document::parse(text, &overrides);
    let places = document.places();
    let named = examine_all(&mut document);
    let layers = document.layers();
    let mut faults = document.faults;

    let [of_file, of_environment] = layers;
    let merged = ::config::Config::builder().add_source(of_file).add_source(of_environment).build();
    let mut root = match merged.and_then(|merged| merged.cache.into_table()) {
        Ok(root) => root,
        Err(e) => {
            faults.push(Fault::new("", e.to_string()));
            HashMap::new()
        }
    };
    let mut config = Config {
        file: file.map(Path::to_owned),
        server: typed(&mut root, "server", &mut faults).unwrap_or_default(),
        admin: typed(&mut root, "admin", &mut faults).unwrap_or_default(),
        store: typed(&mut root, "store", &mut faults).unwrap_or_default(),
        outbound: typed(&mut root, "outbound", &mut faults).unwrap_or_default(),
        log: typed(&mut root, "log", &mut faults).unwrap_or_default(),
        otlp: typed(&mut root, "otlp", &mut faults),
        sources: adapters("sources", &mut root, &mut faults, |name, kind, common, section| {
            let kind = sources::KINDS.iter().find(|k| k.name == kind)?.name.to_owned();
            Some(SourceEntry { name, kind, common, section })
        }),
        sinks: adapters("sinks", &mut root, &mut faults, |name, kind, common, section| {
            let kind = sinks::KINDS.iter().find(|k| k.name == kind || k.aliases.contains(&kind))?.name.to_owned();
            Some(SinkEntry { name, kind, common, section })
        }),
        routes: typed::<Vec<RouteEntry>>(&mut root, "routes", &mut faults).unwrap_or_default(),
        links: typed::<Vec<LinkEntry>>(&mut root, "links", &mut faults).unwrap_or_default(),
        warnings: Vec::new(),
        is_partial: false,
        places,
    };
    for fault in judge::judge(&mut config, &named) {
        add(&mut faults, config.places.mark(fault));
    }
    (config, faults)
}

/// Adds a fault, unless something was already said of its key or of what it stands in: of that, no value is known.
pub(super) fn add(faults: &mut Vec<Fault>, fault: Fault) {
    let within =
        |outer: &str| fault.key.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
    if !faults.iter().any(|known| known.key.is_empty() || within(&known.key)) {
        faults.push(fault);
    }
}

/// The names that the configuration gives, whether what bears them is right or not.
pub(super) struct Named {
    pub(super) sources: Vec<String>,
    pub(super) sinks: Vec<String>,
}

/// Examines every table, and leaves only what is right.
fn examine_all(document: &mut Document<'_>) -> Named {
    let mut root = std::mem::replace(&mut document.root, DeTable::new());
    let mut kept = DeTable::new();
    let mut named = Named { sources: Vec::new(), sinks: Vec::new() };
    for key in root.keys().cloned().collect::<Vec<_>>() {
        let Some(mut node) = root.remove(key.get_ref().as_ref()) else { continue };
        match key.get_ref().as_ref() {
            "server" => document.clean("server", &mut node, &[], &examine::<Server>),
            "admin" => document.clean("admin", &mut node, &[], &examine::<Admin>),
            "store" => document.clean("store", &mut node, &[], &examine::<Store>),
            "outbound" => document.clean("outbound", &mut node, &[], &examine::<Outbound>),
            "log" => document.clean("log", &mut node, &[], &examine::<Log>),
            "otlp" => document.clean("otlp", &mut node, &[], &examine::<Otlp>),
            "sources" => {
                let kinds: Vec<KindRow> =
                    sources::KINDS.iter().map(|k| KindRow { name: k.name, aliases: &[], examine: k.examine }).collect();
                named.sources = examine_adapters(document, "sources", &mut node, &kinds, &examine::<SourceCommon>);
            }
            "sinks" => {
                let row = |k: &sinks::Kind| KindRow { name: k.name, aliases: k.aliases, examine: k.examine };
                let kinds: Vec<KindRow> = sinks::KINDS.iter().map(row).collect();
                named.sinks = examine_adapters(document, "sinks", &mut node, &kinds, &examine::<SinkCommon>);
            }
            "routes" => examine_list(document, "routes", &mut node, &examine::<RouteEntry>),
            "links" => examine_list(document, "links", &mut node, &examine::<LinkEntry>),
            other => {
                document.fault(&key.span(), other, format!("no such section; {}", instead(other, &TOP)));
                continue;
            }
        }
        kept.insert(key, node);
    }
    document.root = kept;
    named
}

/// `[[routes]]`, `[[links]]`.
fn examine_list<'i>(document: &mut Document<'i>, key: &str, node: &mut Node<'i>, examine: &Examine<'_>) {
    let span = node.span();
    let DeValue::Array(items) = node.get_mut() else {
        document.fault(&span, key, format!("is a list of tables; begin each with [[{key}]]"));
        *node = Spanned::new(span, DeValue::Array(DeArray::new()));
        return;
    };
    for (position, item) in items.iter_mut().enumerate() {
        document.clean(&format!("{key}[{position}]"), item, &[], examine);
    }
    // What could not be mended is an empty table, which is no entry.
    let whole = std::mem::replace(items, DeArray::new())
        .into_iter()
        .filter(|item| item.get_ref().as_table().is_some_and(|t| !t.is_empty()));
    *items = whole.collect();
}

/// What a kind of source and a kind of sink have in common.
struct KindRow {
    name: &'static str,
    aliases: &'static [&'static str],
    examine: options::Examine,
}

/// `[sources.NAME]`, `[sinks.NAME]`: the keys that all kinds have, then the kind's own. Returns every NAME.
fn examine_adapters<'i>(
    document: &mut Document<'i>,
    section: &str,
    node: &mut Node<'i>,
    kinds: &[KindRow],
    common: &Examine<'_>,
) -> Vec<String> {
    let span = node.span();
    let DeValue::Table(entries) = node.get_mut() else {
        document.fault(&span, section, format!("has a table for each, which begins with [{section}.NAME]"));
        *node = Spanned::new(span, DeValue::Table(DeTable::new()));
        return Vec::new();
    };
    let names: Vec<String> = entries.keys().map(|k| k.get_ref().to_string()).collect();
    let common_keys = known_keys(common);
    for name in &names {
        let Some(mut entry) = entries.remove(name.as_str()) else { continue };
        let key = format!("{section}.{name}");
        let span = entry.span();
        let DeValue::Table(table) = entry.get_mut() else {
            document.fault(&span, key, format!("is a table, which begins with [{section}.{name}]"));
            continue;
        };
        let words: Vec<&str> = kinds.iter().flat_map(|k| [&[k.name], k.aliases].concat()).collect();
        let kind = table.remove("kind");
        let row = kind.as_ref().and_then(|kind| {
            let word = kind.get_ref().as_str()?;
            kinds.iter().find(|row| row.name == word || row.aliases.contains(&word))
        });
        match (&kind, row) {
            (_, Some(_)) => {}
            (None, None) => {
                document.fault(&span, format!("{key}.kind"), format!("is missing; write one of {}", words.join(", ")))
            }
            (Some(kind), None) => {
                let word = kind.get_ref().as_str().unwrap_or_default();
                document.fault(&kind.span(), format!("{key}.kind"), format!("no such kind; {}", instead(word, &words)));
            }
        }
        let (shared, own) = split(std::mem::replace(table, DeTable::new()), &common_keys);
        let mut shared = Spanned::new(span.clone(), DeValue::Table(shared));
        document.clean(&key, &mut shared, &[], common);
        let (Some(row), Some(kind)) = (row, kind) else { continue };
        let mut own = Spanned::new(span.clone(), DeValue::Table(own));
        let known: Vec<&str> = common_keys.iter().map(String::as_str).chain(["kind"]).collect();
        document.clean(&key, &mut own, &known, &row.examine);
        let (DeValue::Table(mut whole), DeValue::Table(own)) = (shared.into_inner(), own.into_inner()) else {
            continue;
        };
        whole.insert(Spanned::new(kind.span(), "kind".into()), kind);
        for (key, node) in own {
            whole.insert(key, node);
        }
        entries.insert(Spanned::new(span.clone(), name.clone().into()), Spanned::new(span, DeValue::Table(whole)));
    }
    names
}

fn split<'i>(table: DeTable<'i>, common: &[String]) -> (DeTable<'i>, DeTable<'i>) {
    let (mut shared, mut own) = (DeTable::new(), DeTable::new());
    for (key, node) in table {
        let side = if common.iter().any(|c| c == key.get_ref()) { &mut shared } else { &mut own };
        side.insert(key, node);
    }
    (shared, own)
}

/// The keys that a table can have, as serde tells them when it meets one that it does not know.
fn known_keys(examine: &Examine<'_>) -> Vec<String> {
    let mut table = DeTable::new();
    table.insert(Spanned::new(0..0, "?".into()), Spanned::new(0..0, DeValue::Boolean(true)));
    let said = examine(Spanned::new(0..0, DeValue::Table(table)).into()).err();
    let message = said.as_ref().map_or("", |e| e.message());
    match super::faults::Complaint::of(message) {
        super::faults::Complaint::Unknown(_, known) => known.into_iter().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// One section of the merged tree. It was examined, so an error here is a disagreement between the two readings.
fn typed<T: DeserializeOwned>(root: &mut HashMap<String, Value>, key: &str, faults: &mut Vec<Fault>) -> Option<T> {
    match root.remove(key)?.try_deserialize() {
        Ok(value) => Some(value),
        Err(e) => {
            add(faults, Fault::new(key, e.to_string()));
            None
        }
    }
}

/// The sources or the sinks of the merged tree, in the order of their names.
fn adapters<C: DeserializeOwned, E>(
    section: &str,
    root: &mut HashMap<String, Value>,
    faults: &mut Vec<Fault>,
    entry: impl Fn(String, &str, C, Section) -> Option<E>,
) -> Vec<E> {
    let table = root.remove(section).and_then(|value| value.into_table().ok()).unwrap_or_default();
    let mut names: Vec<_> = table.into_iter().collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out = Vec::new();
    for (name, value) in names {
        let key = format!("{section}.{name}");
        let Ok(mut own) = value.into_table() else { continue };
        let Some(kind) = own.remove("kind").and_then(|kind| kind.into_string().ok()) else { continue };
        let keys = if section == "sources" {
            known_keys(&examine::<SourceCommon>)
        } else {
            known_keys(&examine::<SinkCommon>)
        };
        let common = keys.into_iter().filter_map(|k| own.remove(&k).map(|value| (k, value))).collect();
        let mut common = HashMap::from([(key.clone(), Value::new(None, ValueKind::Table(common)))]);
        let Some(common) = typed(&mut common, &key, faults) else { continue };
        let table = Value::new(None, ValueKind::Table(own));
        out.extend(entry(name, &kind, common, Section { key, table }));
    }
    out
}
