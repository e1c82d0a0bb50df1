//! The configuration as an operator meets it: the manual, the examples, and what is said of mistakes.

use std::fs;
use std::path::{Path, PathBuf};

use callbackd::config::{
    Admin, Config, Environment, Faults, LinkEntry, Log, Otlp, Outbound, RouteEntry, Server, SinkCommon, SourceCommon,
    Store, Tls, check,
};
use callbackd::options::{self, Span};
use callbackd::{sinks, sources};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(name)).expect("a folder");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    files.sort();
    assert!(!files.is_empty(), "{name} holds no configuration");
    files
}

fn faults_of(file: &Path, environment: &Environment) -> Faults {
    match check(Some(file), environment) {
        Ok(_) => panic!("{}: nothing was found wrong", file.display()),
        Err(faults) => faults,
    }
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Faults> {
    Config::from_toml(text, &environment.iter().copied().collect())
}

fn said(text: &str, environment: &[(&str, &str)]) -> String {
    load(text, environment).map(drop).expect_err("a fault").to_string()
}

/// Each file ends in lines like `# expect: 3 server.listen: part of the sentence`: exactly these faults, with their
/// lines and keys, whatever else is wrong in the same file.
#[test]
fn every_mistake_is_named_with_its_line_and_key() {
    for file in files("tests/it/bad_configs") {
        // With PostgreSQL built in, nothing is wrong with that one.
        if cfg!(feature = "postgres") && file.ends_with("postgres.toml") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("readable");
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
        assert!(!expected.is_empty(), "{} expects nothing", file.display());
        let faults = faults_of(&file, &Environment::default());
        let mut found: Vec<_> =
            faults.faults.iter().map(|f| (format!("{} {}: ", f.line.unwrap_or(0), f.key), f.message.clone())).collect();
        for expected in expected {
            let hit = found.iter().position(|(place, message)| {
                expected.strip_prefix(place.as_str()).is_some_and(|part| message.contains(part))
            });
            let hit = hit.unwrap_or_else(|| panic!("{}: {expected:?} is not among\n{faults}", file.display()));
            found.remove(hit);
        }
        assert!(found.is_empty(), "{}: not expected: {found:?}", file.display());
        let mut lines: Vec<_> = faults.faults.iter().map(|f| f.line).collect();
        lines.dedup();
        assert!(lines.is_sorted(), "{}: in the order of the lines", file.display());
        let place = format!("{}:{}: ", file.display(), faults.faults[0].line.expect("a line"));
        assert!(faults.to_string().starts_with(&place), "{faults}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let faults = faults_of(Path::new("/nonexistent/callbackd.toml"), &Environment::default());
    let text = faults.to_string();
    assert!(text.starts_with("/nonexistent/callbackd.toml: cannot be read: "), "{text}");
    assert!(text.contains("--config"), "{text}");
}

#[test]
fn the_environment_stands_over_the_file() {
    let text = "[server]\nlisten = '127.0.0.1:1'\nconnections_max = 7\n[sinks.Out]\nkind = 'stdout'\n";
    let config = load(
        text,
        &[
            ("CALLBACKD__SERVER__LISTEN", "127.0.0.1:2"),
            ("CALLBACKD__SERVER__BODY_BYTES_MAX", "1000"),
            ("CALLBACKD__SERVER__TRUSTED_PROXIES", "10.0.0.0/8, 10.1.2.3"),
            ("CALLBACKD__SERVER__TLS", "{ cert = 'a', key = 'b' }"),
            ("CALLBACKD__STORE__KEEP", "7d"),
            ("CALLBACKD__ADMIN__TOKEN__FILE", "/run/token"),
            ("CALLBACKD__SINKS__OUT__COALESCE", "true"),
            ("CALLBACKD__SINKS__OUT__CONCURRENCY", "3"),
            ("CALLBACKD__SINKS__MORE__KIND", "stdout"),
            ("CALLBACKD_ELSE", "not ours"),
        ],
    );
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.server.listen, "127.0.0.1:2");
    assert_eq!(config.server.connections_max, 7);
    assert_eq!(config.server.body_bytes_max, 1000);
    let proxies: Vec<_> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "10.1.2.3/32"]);
    assert_eq!(config.server.tls.expect("tls").key, Path::new("b"));
    assert_eq!(config.store.keep, Span::seconds(7 * 86_400));
    assert_eq!(format!("{:?}", config.admin.token.expect("a token")), "{ file = \"/run/token\" }");
    let sinks: Vec<_> = config.sinks.iter().map(|s| (s.name.as_str(), s.common.concurrency)).collect();
    assert_eq!(sinks, [("Out", 3), ("more", 32)]);
    assert!(config.sinks[0].common.coalesce);
}

#[test]
fn a_key_that_the_environment_supplies_is_not_missing() {
    let text = "[sources.media]\nkind = 'cos_workflow'\nallow_unauthenticated = true\n";
    assert_eq!(said(text, &[]), "line 1: sources.media.path: has to be written, and is missing");
    let config = load(text, &[("CALLBACKD__SOURCES__MEDIA__PATH", "/in")]).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.sources[0].common.path, "/in");
}

#[test]
fn a_workflow_may_be_called_anything() {
    let text = "[sources.media]\nkind = 'cos_workflow'\npath = '/in'\nallow_unauthenticated = true\n\
                expect = { 'Daily.ingest [v2]' = '6h', w1 = '5m' }\n";
    let variable = ("CALLBACKD__SOURCES__MEDIA__EXPECT_WITHIN", "2h");
    let config = load(text, &[variable]).unwrap_or_else(|faults| panic!("{faults}"));
    let common = &config.sources[0].common;
    let of: Vec<_> = common.expect.iter().map(|(workflow, span)| (workflow.as_str(), span.to_string())).collect();
    assert_eq!(of, [("Daily.ingest [v2]", "6h".to_owned()), ("w1", "5m".to_owned())]);
    assert_eq!(common.expect_within, Some(Span::seconds(7200)));
}

#[test]
fn what_is_wrong_with_the_environment_is_said_of_it() {
    for (name, value, expected) in [
        ("CALLBACKD__SERVR__LISTEN", "x", "environment: servr: no such section; did you mean \"server\"?"),
        ("CALLBACKD__SERVER__LISEN", "x", "environment: server.lisen: no such key; did you mean \"listen\"?"),
        ("CALLBACKD__SERVER__LISTEN", "x", "environment: server.listen: expected an address with its port"),
        ("CALLBACKD__SERVER__CONNECTIONS_MAX", "many", "environment: server.connections_max: expected a whole number"),
        ("CALLBACKD__LOG__LEVEL", "loud", "environment: log.level: no such word"),
        ("CALLBACKD__SINKS__OUT__URL", "x", "environment: sinks.out.kind: is missing"),
        ("CALLBACKD__SERVER__FOO__BAR", "x", "environment: server.foo.bar: no such key"),
        ("CALLBACKD__ROUTES__0__WHEN", "true", "environment: routes: is a list of tables"),
    ] {
        let said = said("[server]\nlisten = '127.0.0.1:1'\n", &[(name, value)]);
        assert!(said.starts_with(expected), "{name}: {said}");
        assert!(said.ends_with(&format!(" (from {name})")), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn file_and_environment_are_judged_together() {
    let said = said("[server]\nlisten = 1\n[log]\nlevel = 'loud'\n", &[("CALLBACKD__STORE__KEEP", "long")]);
    let lines: Vec<_> = said.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["line 2 server.listen", "line 4 log.level", "environment store.keep"]);
}

/// What the section wants is not there: to leave it out of account in silence would be worse.
#[cfg(not(feature = "otlp"))]
#[test]
fn traces_for_a_collector_need_a_build_that_has_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.toml");
    fs::write(&file, "[log]\n[otlp]\nendpoint = \"http://127.0.0.1:4318\"\n").expect("written");
    let faults = faults_of(&file, &Environment::default()).to_string();
    assert!(
        faults.contains(":2: otlp: this callbackd was built without otlp; build with `--features otlp`"),
        "{faults}"
    );
}

/// A secret at any place where one may be written by mistake.
#[test]
fn no_secret_gets_into_what_is_said() {
    let text = "[server]\ntls = 'hunter2'\nconnections_max = 'hunter2'\ntoken = 'hunter2'\n\
                [admin]\ntoken = { vault = 'hunter2' }\nlisten = 5\n\
                [sources.media]\nkind = 'cos_workflow'\npath = '/in'\ntoken = [{ file = 5, env = 'hunter2' }]\n\
                [sinks.portal]\nkind = 'port_run'\nclient_id = ['hunter2']\nclient_secret = { value = 'hunter2' }\n";
    let environment = [("CALLBACKD__SINKS__PORTAL__RETRIES", "hunter2"), ("CALLBACKD__STORE__READERS", "hunter2")];
    let said = said(text, &environment);
    assert!(said.lines().count() >= 6, "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let broken = self::said("[admin]\ntoken = \"hunter2\n", &[]);
    assert!(broken.starts_with("line 2: this is not TOML") && !broken.contains("hunter2"), "{broken}");
}

/// The manual with every key switched on: lines that begin with # and no blank are keys and sections (and `#:schema` is
/// for editors).
fn everything_on(manual: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', ':']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    manual.lines().map(|line| on(line) + "\n").collect()
}

fn manual() -> String {
    fs::read_to_string(folder("config/callbackd.toml")).expect("the manual")
}

/// The keys that a table can have, as serde tells them.
fn keys(examine: options::Examine) -> Vec<String> {
    let table = toml::de::ValueDeserializer::parse("{ '?' = 1 }").expect("a table");
    let error = examine(table).expect_err("no key is called ?");
    let keys: Vec<_> = error.message().split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(!keys.is_empty(), "{}", error.message());
    keys
}

#[test]
fn the_manual_as_it_is_shipped_is_the_defaults() {
    let config = load(&manual(), &[]).unwrap_or_else(|faults| panic!("{faults}"));
    let said = format!("{:?} {:?} {:?} {:?}", config.server, config.admin, config.store, config.log);
    assert_eq!(format!("{:?}", config.outbound), format!("{:?}", Outbound::default()));
    let (server, admin, store, log) = (Server::default(), Admin::default(), Store::default(), Log::default());
    assert_eq!(said, format!("{server:?} {admin:?} {store:?} {log:?}"));
    assert!(config.sources.is_empty() && config.sinks.is_empty());
    assert!(config.warnings[0].contains("no source"), "{:?}", config.warnings);
}

#[test]
fn the_manual_lists_every_key() {
    let text = everything_on(&manual());
    let whole: toml::Table = text.parse().expect("TOML");
    let has_all = |name: &str, tables: &[&toml::Table], keys: Vec<String>| {
        for key in keys {
            assert!(tables.iter().any(|table| table.contains_key(&key)), "the manual lacks {name}.{key}");
        }
    };
    let table = |name: &str| whole[name].as_table().expect("a table");
    has_all("server", &[table("server")], keys(options::examine::<Server>));
    has_all("server.tls", &[table("server")["tls"].as_table().expect("tls")], keys(options::examine::<Tls>));
    has_all("admin", &[table("admin")], keys(options::examine::<Admin>));
    has_all("store", &[table("store")], keys(options::examine::<Store>));
    has_all("outbound", &[table("outbound")], keys(options::examine::<Outbound>));
    has_all("log", &[table("log")], keys(options::examine::<Log>));
    has_all("otlp", &[table("otlp")], keys(options::examine::<Otlp>));
    let all = |name: &str| table(name).values().filter_map(toml::Value::as_table).collect::<Vec<_>>();
    let of_kind = |name: &str, kind: &str| {
        let mut tables = all(name);
        tables.retain(|table| table["kind"].as_str() == Some(kind));
        tables
    };
    has_all("sources.…", &all("sources"), keys(options::examine::<SourceCommon>));
    for kind in sources::KINDS {
        has_all(kind.name, &of_kind("sources", kind.name), keys(kind.examine));
    }
    has_all("sinks.…", &all("sinks"), keys(options::examine::<SinkCommon>));
    for kind in sinks::KINDS {
        has_all(kind.name, &of_kind("sinks", kind.name), keys(kind.examine));
    }
    let first = |name: &str| whole[name][0].as_table().expect("a table");
    has_all("routes", &[first("routes")], keys(options::examine::<RouteEntry>));
    has_all("links", &[first("links")], keys(options::examine::<LinkEntry>));
}

/// What the manual shows of a key that has a default is the default: with all of them switched on, what every source
/// and sink has is what it has with none.
#[test]
fn the_manuals_examples_are_right_and_at_the_defaults() {
    let config = load(&everything_on(&manual()), &[]).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let kinds: Vec<_> = config.sources.iter().map(|s| s.kind.as_str()).collect();
    assert_eq!(kinds, ["cos_workflow", "port_action"]);
    for source in &config.sources {
        let plain: SourceCommon =
            toml::from_str(&format!("path = {:?}", source.common.path)).expect("what every source has");
        // Of these the manual shows an example, because they have no default.
        let (expect_within, expect) = (source.common.expect_within, source.common.expect.clone());
        let plain = SourceCommon { expect_within, expect, ..plain };
        assert_eq!(format!("{:?}", source.common), format!("{plain:?}"), "sources.{}", source.name);
    }
    for sink in &config.sinks {
        let plain = SinkCommon::default();
        assert_eq!(format!("{:?}", sink.common), format!("{plain:?}"), "sinks.{}", sink.name);
    }
    // Of these alone the manual shows an example, because they have no default.
    let shown =
        Server { tls: config.server.tls.clone(), instance: config.server.instance.clone(), ..Server::default() };
    assert_eq!(format!("{:?}", config.server), format!("{shown:?}"));
    let shown = Admin { token: config.admin.token.clone(), ..Admin::default() };
    assert_eq!(format!("{:?}", config.admin), format!("{shown:?}"));
}

#[test]
fn the_examples_work() {
    let names = [
        "ALERTS_SECRET",
        "ASTROM_TOKEN",
        "MEDIA_TOKEN",
        "PORT_CLIENT_ID",
        "PORT_CLIENT_SECRET",
        "SECMASTER_ACCESS_KEY",
        "SECMASTER_SECRET_KEY",
        "TENCENT_SECRET_ID",
        "TENCENT_SECRET_KEY",
        "ZABBIX_TOKEN",
    ];
    let environment: Environment = names.map(|name| (name, "x")).into_iter().collect();
    for file in files("config/examples") {
        let report = check(Some(&file), &environment).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(report.adapters.warnings, Vec::<String>::new(), "{}", file.display());
        let (config, adapters) = (&report.config, &report.adapters);
        assert_eq!((adapters.sources.len(), adapters.sinks.len()), (config.sources.len(), config.sinks.len()));
        let faults = faults_of(&file, &Environment::default());
        assert!(faults.to_string().contains("the environment variable "), "{faults}");
    }
}

/// Every key of the manual, misspelt, one at a time: what is said names the right one.
#[test]
fn a_misspelt_key_is_recognized_wherever_it_stands() {
    fn walk(table: &toml::Table, path: &[String], found: &mut Vec<Vec<String>>) {
        for (key, value) in table {
            let here = [path, std::slice::from_ref(key)].concat();
            // Names are free; what has several forms says which they are.
            let parent = path.last().map_or("", String::as_str);
            if !["sources", "sinks", "headers", "expect"].contains(&parent) && key != "kind" {
                found.push(here.clone());
            }
            let has_forms =
                value.as_table().is_some_and(|t| ["file", "env", "type"].iter().any(|k| t.contains_key(*k)));
            match value {
                toml::Value::Table(inner) if !has_forms => walk(inner, &here, found),
                toml::Value::Array(items) => {
                    for (position, item) in items.iter().enumerate() {
                        let here = [&here[..], &[position.to_string()]].concat();
                        item.as_table().filter(|t| !t.contains_key("file")).inspect(|t| walk(t, &here, found));
                    }
                }
                _ => {}
            }
        }
    }

    fn misspell(value: &mut toml::Value, path: &[String]) {
        let (first, rest) = path.split_first().expect("a way");
        match value {
            toml::Value::Array(items) => misspell(&mut items[first.parse::<usize>().expect("a position")], rest),
            toml::Value::Table(table) if rest.is_empty() => {
                let inner = table.remove(first).expect("it is there");
                table.insert(format!("{first}x"), inner);
            }
            toml::Value::Table(table) => misspell(table.get_mut(first).expect("it is there"), rest),
            _ => panic!("no way to {path:?}"),
        }
    }

    let whole: toml::Table = everything_on(&manual()).parse().expect("TOML");
    let mut keys = Vec::new();
    walk(&whole, &[], &mut keys);
    assert!(keys.len() > 150, "{}", keys.len());
    for path in keys {
        let mut changed = toml::Value::Table(whole.clone());
        misspell(&mut changed, &path);
        let said = said(&toml::to_string(&changed).expect("TOML"), &[]);
        let key = path.last().expect("a key");
        assert!(said.contains(&format!("did you mean {key:?}?")), "{path:?}: {said}");
    }
}

#[test]
fn a_misspelt_word_is_recognized_too() {
    let sink = |kind: &str, rest: &str| format!("[sinks.one]\nkind = '{kind}'\n{rest}\n");
    for (text, word) in [
        ("[log]\nlevel = 'inof'".to_owned(), "info"),
        ("[log]\nformat = 'jsn'".to_owned(), "json"),
        (sink("webhok", ""), "webhook"),
        (sink("dynatrce", ""), "dynatrace"),
        (sink("stdout", "format = 'txt'"), "text"),
        (sink("webhook", "url = 'http://a/'\nmode = 'binry'"), "binary"),
        (sink("port_run", "client_id = 'a'\nclient_secret = 'b'\nunlinked = 'ded'"), "dead"),
        (sink("port_run", "client_id = 'a'\nclient_secret = 'b'\nterminal = 'patsch'"), "patch"),
        (sink("klyuch_astrom", "url = 'http://a/e/b'\ntoken = 'b'\nfailed = 'EROR_EVENT'"), "ERROR_EVENT"),
        (sink("zabbix", "trapper = 'a'\nvia = 'histroy'"), "history"),
        ("[sources.media]\nkind = 'cos_workflw'\npath = '/a'".to_owned(), "cos_workflow"),
        ("[sinks.portal]\nkind = 'stdout'\n[[routes]]\nfrom = ['x']\nto = ['portl']".to_owned(), "portal"),
    ] {
        let said = said(&text, &[]);
        assert!(said.contains(&format!("did you mean {word:?}?")), "{text}: {said}");
    }
}
