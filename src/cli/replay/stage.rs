//! The daemon that `replay` runs in its own process: what it is configured with, and the folder it works in.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use toml::de::ValueDeserializer;

use crate::cli::Failure;
use crate::config::{Config, Environment, RouteEntry, SinkCommon, SinkEntry};
use crate::options::Section;
use crate::sources::{KINDS, Kind};

/// Nothing but this process may reach it, on a port that nobody else has.
const LOOPBACK: &str = "127.0.0.1:0";

/// A folder that only this user can read, and that goes when this goes.
pub(in crate::cli) struct Folder(PathBuf);

impl Folder {
    pub(in crate::cli) fn new(env: &Environment) -> Result<Folder, Failure> {
        let parent = env.get("TMPDIR").filter(|path| !path.is_empty()).unwrap_or_else(|| "/tmp".to_owned());
        let path = Path::new(&parent).join(format!("callbackd-replay-{}", random()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Folder(path)),
            Err(e) => Err(Failure::Failed(format!("{}: {e}", path.display()))),
        }
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A temporary folder that stays behind is the system's to clean.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A configuration with a source of every kind, each change printed, and its store in `folder`.
pub(super) fn own_config(folder: &Path) -> String {
    let sources: Map<String, Value> = KINDS.iter().map(|kind| (kind.name.to_owned(), source(kind))).collect();
    let names: Vec<&String> = sources.keys().collect();
    let config = json!({
        "server": { "listen": LOOPBACK, "instance": "replay" },
        "admin": { "listen": LOOPBACK },
        "log": { "level": "warn" },
        "store": { "url": format!("sqlite:{}", folder.join("replay.db").display()) },
        "routes": [{ "from": names, "to": ["stdout"] }],
        "sinks": { "stdout": { "kind": "stdout" } },
        "sources": sources,
    });
    toml::to_string(&config).expect("names, texts and lists are TOML")
}

/// A source of that kind, with a credential that nobody else knows.
fn source(kind: &Kind) -> Value {
    let mut table = json!({ "kind": kind.name, "path": format!("/callbacks/{}", kind.name) });
    match ["token", "secret"].into_iter().find(|key| takes(kind, &format!("{{ {key} = \"x\" }}"))) {
        Some(key) => table[key] = Value::String(random()),
        None => table["allow_unauthenticated"] = Value::Bool(true),
    }
    table
}

/// Whether options like these can be this kind's.
fn takes(kind: &Kind, options: &str) -> bool {
    ValueDeserializer::parse(options).is_ok_and(|table| (kind.examine)(table).is_ok())
}

/// 128 random bits, as text.
fn random() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Moves a configuration's daemon to where only this process calls, so limits by address and rate have no sense.
pub(super) fn on_loopback(config: &mut Config) {
    config.server.listen = LOOPBACK.to_owned();
    config.server.tls = None;
    config.admin.listen = LOOPBACK.to_owned();
    for source in &mut config.sources {
        source.common.allow.clear();
        source.common.rate = 0;
    }
}

/// Adds a sink that prints every change, beside those that are configured.
pub(super) fn print_changes(config: &mut Config) {
    let mut name = "replay".to_owned();
    while config.sinks.iter().any(|s| s.name == name) {
        name.push('_');
    }
    let section =
        Section { key: format!("sinks.{name}"), table: ::config::Map::<String, ::config::Value>::new().into() };
    let from = config.sources.iter().map(|s| s.name.clone()).collect();
    config.routes.push(RouteEntry { from, when: None, to: vec![name.clone()] });
    config.sinks.push(SinkEntry { name, kind: "stdout".to_owned(), common: SinkCommon::default(), section });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_private_and_goes() {
        let folder = Folder::new(&Environment::default()).unwrap_or_else(|e| panic!("a folder: {e:?}"));
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        fs::write(path.join("replay.db"), "x").expect("written");
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn the_configuration_has_a_source_of_every_kind_with_a_credential_of_its_own() {
        let text = own_config(Path::new("/tmp/a \"folder\""));
        let table: toml::Table = text.parse().expect("TOML");
        assert_eq!(table["store"]["url"].as_str(), Some("sqlite:/tmp/a \"folder\"/replay.db"));
        for kind in KINDS {
            let source = &table["sources"][kind.name];
            assert_eq!(source["kind"].as_str(), Some(kind.name));
            let credential = ["token", "secret"].iter().find_map(|key| source.get(key)?.as_str());
            assert_eq!(credential.map(str::len), Some(32), "{}", kind.name);
        }
        assert_ne!(own_config(Path::new("/tmp/a")), own_config(Path::new("/tmp/a")));
    }
}
