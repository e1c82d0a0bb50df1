//! What can be read of a configuration in which something is wrong: commands that need no more of it than where daemon and
//! store are go on working while somebody mends the rest.
//!
//! Never a guess: where the file may say something else of these two than what was read, that is said
//! ([`Broken::hides_places`]), and nobody is to go on with it.

use std::path::Path;

use toml::de::DeTable;

use super::load::take;
use super::{Config, Environment, Faults};
use crate::options::Fault;

/// What is wrong with a configuration that was read in part.
#[derive(Debug)]
pub struct Broken {
    /// All of it.
    pub faults: Faults,
    /// Where daemon and store are may stand in what could not be read.
    pub hides_places: bool,
}

/// Keys of `[store]` and `[admin]` that say nothing of where they are.
const ELSEWHERE: [&str; 6] =
    ["store.keep", "store.disk_max", "store.export", "store.queue_max", "store.readers", "admin.token"];

/// What can be read, given the `whole` reading and what was wrong with it.
pub(super) fn salvage(
    text: &str,
    file: Option<&Path>,
    environment: &Environment,
    whole: (Config, Vec<Fault>),
) -> (Config, Option<Broken>) {
    let (mut config, faults) = whole;
    let mut hides_places = faults.iter().any(|fault| {
        let section = fault.key.split('.').next().unwrap_or_default();
        ["store", "admin"].contains(&section) && !ELSEWHERE.contains(&fault.key.as_str())
    });
    if DeTable::parse(text).is_err() {
        let (readable, hides) = readable(text);
        config = take(&readable, file, environment).0;
        hides_places = hides;
    }
    config.is_partial = true;
    let faults = Faults::new(file.map(Path::to_owned), faults);
    (config, Some(Broken { faults, hides_places }))
}

/// The lines that are TOML together, and whether what was left out may say where daemon and store are.
fn readable(text: &str) -> (String, bool) {
    let is_toml = |text: &str| DeTable::parse(text).is_ok();
    let speaks_of_places = |line: &str| line.contains("admin") || line.contains("store");
    let (mut kept, mut hides) = (String::new(), false);
    for part in parts(text) {
        let end = kept.len();
        kept.push_str(part);
        if is_toml(&kept) {
            continue;
        }
        kept.truncate(end);
        let is_of_places = speaks_of_places(part.lines().next().unwrap_or_default());
        // Within a table, a line at a time.
        let mut is_whole = true;
        for line in part.split_inclusive('\n') {
            let end = kept.len();
            kept.push_str(line);
            // What follows a header that cannot be read belongs to nobody that is known.
            if !is_whole || !is_toml(&kept) {
                kept.truncate(end);
                is_whole &= !line.starts_with('[');
                hides |= is_of_places || speaks_of_places(line);
            }
        }
    }
    (kept, hides)
}

/// The text, cut before each table.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    for (end, _) in text.match_indices("\n[") {
        parts.push(&text[begin..=end]);
        begin = end + 1;
    }
    parts.push(&text[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salvaged(text: &str) -> (Config, Broken) {
        let environment = Environment::default();
        let (config, broken) = salvage(text, None, &environment, take(text, None, &environment));
        (config, broken.expect("broken"))
    }

    #[test]
    fn what_is_wrong_elsewhere_does_not_hide_where_daemon_and_store_are() {
        let places = "[admin]\nlisten = \"127.0.0.1:7\"\n\n[store]\nurl = \"sqlite:here.db\"\n";
        for wrong in [
            "[sinks.any]\nkind = \"webhok\"\n",
            "[sinks.any]\nkind = \"webhook\nurl = 7\n",
            "[sinks.any\nkind = \"webhook\"\n",
            "[[routes]]\nfrom = [\n  \"media\",\n",
            "[serve]\nx = 1\n",
            "keep = \"ever\"\n",
        ] {
            // The last one stands in the table before it.
            let (config, broken) = salvaged(&format!("{places}{wrong}"));
            let found = (config.admin.listen.as_str(), config.store.url.as_str(), broken.hides_places);
            assert_eq!(found, ("127.0.0.1:7", "sqlite:here.db", false), "{wrong}");
            assert!(config.is_partial && !broken.faults.faults.is_empty());
        }
    }

    #[test]
    fn where_they_are_is_never_guessed() {
        for text in [
            "[admin]\nlisten = \"127.0.0.1:7\n",
            "[admin\nlisten = \"127.0.0.1:7\"\n",
            "[store]\nulr = \"sqlite:here.db\"\n",
            "[store]\nurl = 7\n",
            "admin.listen = \"127.0.0.1:7\nserver.listen = \"systemd\"\n",
            "admin = { listen = \"127.0.0.1:7\"\n",
        ] {
            assert!(salvaged(text).1.hides_places, "{text}");
        }
    }
}
