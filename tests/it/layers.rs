//! The source tree's own rules: which module may know which, and where a technology may be spoken of.
//!
//! Only code counts: comments, everything from the tests' `#[cfg(test)]` on, and files of their own named `tests` do not.

use std::fs;
use std::path::Path;

const LEAVES: &[&str] =
    &["clock", "jq", "measure", "options", "otlp", "outbound", "secret", "shutdown", "signature", "tencent"];

/// Each module of the crate and what it may use beside itself; `LEAVES` stands for all of them.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &["model"]),
    ("jq", &["model"]),
    ("measure", &["model", "options"]),
    ("options", &["model", "LEAVES"]),
    ("otlp", &["model", "LEAVES"]),
    ("outbound", &["model", "LEAVES"]),
    ("secret", &["model"]),
    ("shutdown", &[]),
    ("signature", &["model"]),
    ("tencent", &["model", "LEAVES"]),
    ("store", &["model", "LEAVES"]),
    ("sources", &["model", "LEAVES"]),
    ("sinks", &["model", "LEAVES"]),
    ("pipeline", &["model", "LEAVES", "store", "sources", "sinks"]),
    ("server", &["model", "LEAVES", "store", "sources", "sinks", "pipeline"]),
    ("admin", &["model", "LEAVES", "store", "sources", "sinks", "pipeline", "server"]),
    ("telemetry", &["LEAVES"]),
    ("config", &["model", "LEAVES", "sources", "sinks"]),
    ("app", &["model", "LEAVES", "store", "sources", "sinks", "pipeline", "server", "admin", "telemetry", "config"]),
    (
        "cli",
        &["model", "LEAVES", "store", "sources", "sinks", "pipeline", "server", "admin", "telemetry", "config", "app"],
    ),
];

/// Words of a technology, and the modules that may speak them.
const SPOKEN_ONLY_IN: &[(&[&str], &[&str])] = &[
    (&["rusqlite", "SELECT ", "INSERT INTO ", "DELETE FROM ", "PRAGMA ", "CREATE TABLE "], &["store"]),
    (&["hyper::", "hyper_util::"], &["server", "admin", "outbound"]),
    (&["hyper::client", "hyper_util::client", "hyper_rustls"], &["outbound"]),
    (&["hyper::server", "hyper_util::server"], &["server", "admin"]),
    (&["quick_xml"], &["sources", "tencent"]),
    (&["std::env", "env::var"], &["config"]),
    (&["process::exit"], &["main"]),
];

const LINES_MAX: usize = 400;

/// One file's code.
struct File {
    path: String,
    /// The module at the crate's root that it belongs to: `model` for `model/time.rs`.
    module: String,
    code: String,
    /// Its lines without the tests.
    lines: usize,
}

fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.file_stem().is_some_and(|name| name == "tests") {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("readable source");
                let path = path.strip_prefix(&src).expect("below src").display().to_string();
                let module = path.split(['/', '.']).next().unwrap_or_default().to_owned();
                let untested = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                // One item alone, between others, is two lines.
                let items = untested.split("#[cfg(test)]\n").enumerate();
                let untested: Vec<&str> = items.flat_map(|(nth, part)| part.lines().skip(nth.min(1))).collect();
                found.push(File { path, module, code: code(&untested), lines: untested.len() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(|f| f.path == "main.rs"), "src was not found");
    found
}

/// The lines less their comments. (A string that holds `//` is cut there, which hides nothing that is looked for.)
fn code(lines: &[&str]) -> String {
    lines.iter().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules that `crate::…` names: `crate::model::Time`, `crate::{clock, model::{Time, Status}}`.
fn used(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        if !rest.starts_with('{') {
            modules.extend(name(rest));
            continue;
        }
        let mut depth = 0_usize;
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && (c == '{' || c == ',') {
                modules.extend(name(rest[i + 1..].trim_start()));
            }
        }
    }
    modules
}

/// The module's name at the start of `text`. A type (`Boxed`) stands at the crate's root and is no module.
fn name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    name.starts_with(|c: char| c.is_lowercase()).then_some(name)
}

fn allowed(module: &str, uses: &str) -> bool {
    let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == module) else { return false };
    module == uses || may.contains(&uses) || (may.contains(&"LEAVES") && LEAVES.contains(&uses))
}

#[test]
fn dependencies_point_left() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|f| !["lib", "main"].contains(&f.module.as_str())) {
        for uses in used(&file.code) {
            if !allowed(&file.module, &uses) {
                wrong.push(format!("src/{}: {} must not know {uses}", file.path, file.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn technologies_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for file in files() {
        for (words, modules) in SPOKEN_ONLY_IN {
            for word in words.iter().filter(|word| file.code.contains(*word)) {
                if !modules.contains(&file.module.as_str()) {
                    wrong.push(format!("src/{}: {word:?} belongs into {}", file.path, modules.join(", ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_holds_two_ideas() {
    let long: Vec<String> = files()
        .iter()
        .filter(|file| file.lines > LINES_MAX)
        .map(|file| format!("src/{}: {} lines without its tests, more than {LINES_MAX}", file.path, file.lines))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_spelling_of_a_dependency_is_seen() {
    let spellings = [
        ("use crate::store::Store;", &["store"][..]),
        ("use crate::{clock, model::{Time, Status}, Boxed};", &["clock", "model"]),
        ("use crate::{\n    sinks::{self, Sink},\n    store,\n};", &["sinks", "store"]),
        ("fn f() { crate::pipeline::run(crate::Boxed::new()) }", &["pipeline"]),
        ("use std::fmt;", &[]),
    ];
    for (code, modules) in spellings {
        assert_eq!(used(code), modules, "{code}");
    }
    assert_eq!(code(&["use a; // crate::store", "/// [`crate::sinks`]"]), "use a; \n");
    assert!(allowed("pipeline", "store") && allowed("sinks", "outbound") && allowed("model", "model"));
    assert!(!allowed("store", "sinks") && !allowed("model", "clock") && !allowed("server", "admin"));
    assert!(!allowed("newcomer", "model"), "a new module has to be given its place");
}
