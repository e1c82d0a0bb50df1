//! What types cannot say: names that must exist, addresses that must be addresses, programs that must end.

use std::net::SocketAddr;

use super::faults::{instead, no_such};
use super::load::Named;
use super::{Config, LinkEntry, RouteEntry, SinkCommon, SinkEntry};
use crate::jq::Jq;
use crate::options::{Fault, Size, Span};
use crate::sinks;

/// Everything that is wrong with the values, each with its key.
pub(super) fn judge(config: &mut Config, named: &Named) -> Vec<Fault> {
    let mut faults = Vec::new();
    server(config, &mut faults);
    admin(config, &mut faults);
    store(config, &mut faults);
    log(config, &mut faults);
    names("sources", &named.sources, &mut faults);
    names("sinks", &named.sinks, &mut faults);
    paths(config, &mut faults);
    for sink in &config.sinks {
        sink_common(&format!("sinks.{}", sink.name), &sink.common, &mut faults);
    }
    let origins = Origins::of(config, named, &mut faults);
    for (position, route) in config.routes.iter().enumerate() {
        let key = format!("routes[{position}]");
        judge_route(&key, route, named, &origins, &mut faults);
        origins.judge_circles(&key, route, &config.routes, &mut faults);
    }
    for (position, link) in config.links.iter().enumerate() {
        judge_link(&format!("links[{position}]"), link, &origins, &mut faults);
    }
    warn(config, named);
    faults
}

fn warn(config: &mut Config, named: &Named) {
    if named.sources.is_empty() {
        config.warnings.push("no source is configured: nothing can come in; add a [sources.NAME]".to_owned());
    }
    for sink in named.sinks.iter().filter(|sink| !config.routes.iter().any(|route| route.to.contains(sink))) {
        config.warnings.push(format!("sinks.{sink}: no [[routes]] leads to it, so it is never told anything"));
    }
}

fn server(config: &Config, faults: &mut Vec<Fault>) {
    let server = &config.server;
    let mut fault = |key: &str, message: &str| faults.push(Fault::new(format!("server.{key}"), message));
    if server.listen != "systemd"
        && let Err(text) = listens(&server.listen)
    {
        fault("listen", &format!("{text}; or \"systemd\" for a socket that systemd hands over"));
    }
    if server.listen == config.admin.listen && !server.listen.ends_with(":0") {
        fault("listen", "is the address of [admin] too; give each its own");
    }
    for (key, value) in [
        ("body_bytes_max", server.body_bytes_max),
        ("head_bytes_max", server.head_bytes_max),
        ("connections_max", server.connections_max),
    ] {
        if value == 0 {
            fault(key, "would refuse everything; write a number above 0");
        }
    }
    if server.body_bytes_max > BODY_BYTES_MOST {
        fault("body_bytes_max", "is more than the store can keep of one callback; write at most 536870912 (512 MiB)");
    }
    if server.bodies_bytes_max < server.body_bytes_max {
        fault("bodies_bytes_max", "is less than server.body_bytes_max, so that a body of that size never fits");
    }
    for (key, value) in [
        ("head_timeout", server.head_timeout),
        ("body_timeout", server.body_timeout),
        ("answer_timeout", server.answer_timeout),
        ("idle_timeout", server.idle_timeout),
    ] {
        if value.ms() == 0 {
            fault(key, "leaves no time at all; write a time like \"30s\"");
        }
    }
    if server.instance.as_deref().is_some_and(|name| !is_name(name, ".")) {
        fault("instance", "has to be 1 to 64 letters, digits, dots, - and _: it stands in the changes' `source`");
    }
}

const BODY_BYTES_MOST: usize = 512 << 20;
/// Less is copied all the time; more does not get better, and a restart has it to read.
const LOG_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;

fn admin(config: &Config, faults: &mut Vec<Fault>) {
    match listens(&config.admin.listen) {
        Err(text) => faults.push(Fault::new("admin.listen", text)),
        Ok(Some(address)) if !address.ip().to_canonical().is_loopback() && config.admin.token.is_none() => {
            let text = "can be reached from other machines, so admin.token has to be set; or listen on 127.0.0.1";
            faults.push(Fault::new("admin.listen", text));
        }
        Ok(_) => {}
    }
}

/// The address, unless it is a Unix socket.
fn listens(text: &str) -> Result<Option<SocketAddr>, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        // The kernel's limit, less the zero at the end (unix(7)).
        return match path.starts_with('/') && path.len() < 108 {
            true => Ok(None),
            false => Err("a Unix socket is written as unix:/path, at most 107 bytes long".to_owned()),
        };
    }
    let address = text.parse().map(Some);
    address.map_err(|_| {
        "expected an address with its port like \"127.0.0.1:8480\" or \"[::1]:8480\", or \"unix:/path\"".to_owned()
    })
}

fn store(config: &Config, faults: &mut Vec<Fault>) {
    let store = &config.store;
    let mut fault = |key: &str, message: &str| faults.push(Fault::new(format!("store.{key}"), message));
    match store.url.strip_prefix("sqlite:") {
        Some(path) if path.is_empty() || path.starts_with([':', '?']) => {
            fault(
                "url",
                "names no file; what is acknowledged has to be on disk, so write one like \"sqlite:callbackd.db\"",
            );
        }
        Some(_) => {}
        None if store.is_postgres() && cfg!(feature = "postgres") => {}
        None if store.is_postgres() => {
            fault(
                "url",
                "PostgreSQL is not built into this callbackd: build it with `--features postgres`, or write a file like \
                 \"sqlite:callbackd.db\"",
            );
        }
        None => fault(
            "url",
            "begins with \"sqlite:\", followed by the path of a file, \"sqlite:callbackd.db\", or with \"postgres://\"",
        ),
    }
    if store.is_postgres() && matches!(store.disk_max, Size::Bytes(_)) {
        fault(
            "disk_max",
            "as a size is not there with PostgreSQL, whose files do not shrink when rows go; leave it out, and let `keep` bound it",
        );
    }
    if store.keep.ms() == 0 {
        fault("keep", "would forget everything at once; write a time like \"90d\"");
    }
    if store.export.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
        fault("export", "names no folder; write its path, like \"/var/lib/callbackd/export\"");
    }
    if store.log_bytes.is_some_and(|bytes| !LOG_BYTES.contains(&bytes)) {
        fault("log_bytes", "has to be from 1048576 to 67108864; leave it out for what is good for most");
    }
    for (key, value) in [("queue_max", store.queue_max), ("readers", store.readers), ("connections", store.connections)]
    {
        if value == 0 {
            fault(key, "has to be at least 1");
        }
    }
}

fn log(config: &Config, faults: &mut Vec<Fault>) {
    let words = |key: &str, word: &str, words: &[&str]| {
        (!words.contains(&word)).then(|| Fault::new(key, format!("no such word; {}", instead(word, words))))
    };
    faults.extend(words("log.level", &config.log.level, &["error", "warn", "info", "debug", "trace"]));
    faults.extend(words("log.format", &config.log.format, &["text", "json"]));
}

fn is_name(name: &str, also: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || also.contains(c))
}

fn names(section: &str, names: &[String], faults: &mut Vec<Fault>) {
    for name in names.iter().filter(|name| !is_name(name, "")) {
        faults.push(Fault::new(format!("{section}.{name}"), "a name is 1 to 64 letters, digits, - and _"));
    }
}

fn paths(config: &Config, faults: &mut Vec<Fault>) {
    for (position, source) in config.sources.iter().enumerate() {
        let path = source.common.path.as_str();
        let mut fault =
            |key: &str, message: String| faults.push(Fault::new(format!("sources.{}.{key}", source.name), message));
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
        if !path.starts_with('/') || path.ends_with('/') || path.contains("//") || !path.chars().all(plain) {
            let text = "begins with / and does not end with it, and has only letters, digits, - _ . ~ between; \
                        write one like \"/callbacks/media\"";
            fault("path", text.to_owned());
            continue;
        }
        for other in &config.sources[..position] {
            let theirs = other.common.path.as_str();
            let below = |inner: &str, outer: &str| {
                inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/') && !rest[1..].contains('/'))
            };
            if path == theirs {
                fault("path", format!("sources.{} has this path already; give each its own", other.name));
            } else if below(path, theirs) || below(theirs, path) {
                let text = format!(
                    "{path} and {theirs} of sources.{} cannot be told apart from one of them with a token at its end; \
                     put neither directly below the other",
                    other.name
                );
                fault("path", text);
            }
        }
        let expected = source.common.expect_within.iter().map(|span| ("expect_within".to_owned(), span));
        let of = source.common.expect.iter().map(|(workflow, span)| (format!("expect.{workflow}"), span));
        for (key, _) in expected.chain(of).filter(|(_, span)| span.ms() == 0) {
            fault(&key, "leaves no time at all; write a time like \"2h\", or leave it out".to_owned());
        }
        // The interval between two requests is counted in whole microseconds.
        if source.common.rate > 1_000_000 {
            fault("rate", "is at most 1000000 requests a second; 0 is no limit".to_owned());
        }
    }
}

fn sink_common(key: &str, common: &SinkCommon, faults: &mut Vec<Fault>) {
    let mut fault = |name: &str, message: &str| faults.push(Fault::new(format!("{key}.{name}"), message));
    for (name, value) in [
        ("concurrency", common.concurrency),
        ("attempts_max", common.attempts_max as usize),
        ("breaker_failures", common.breaker_failures as usize),
    ] {
        if value == 0 {
            fault(name, "has to be at least 1");
        }
    }
    let zero = Span::seconds(0);
    for (name, value) in [
        ("timeout", common.timeout),
        ("retry_first", common.retry_first),
        ("age_max", common.age_max),
        ("breaker_probe", common.breaker_probe),
    ] {
        if value == zero {
            fault(name, "leaves no time at all; write a time like \"30s\"");
        }
    }
    if common.retry_longest < common.retry_first {
        fault("retry_longest", "is shorter than retry_first");
    }
}

impl Config {
    /// Whose executions there are: sources, and sinks that start some.
    pub fn origins(&self) -> Vec<&str> {
        let starting = self.sinks.iter().filter(|sink| starts(sink)).map(|sink| sink.name.as_str());
        self.sources.iter().map(|source| source.name.as_str()).chain(starting).collect()
    }
}

fn starts(sink: &SinkEntry) -> bool {
    sinks::KINDS.iter().any(|kind| kind.name == sink.kind && (kind.starts)(&sink.section))
}

/// The same, of a configuration that is still judged.
struct Origins {
    names: Vec<String>,
    starting: Vec<String>,
    /// Sinks that start none, and those of whose options nothing is known.
    idle: Vec<String>,
    unread: Vec<String>,
}

impl Origins {
    fn of(config: &Config, named: &Named, faults: &mut Vec<Fault>) -> Origins {
        let starting: Vec<String> =
            config.sinks.iter().filter(|sink| starts(sink)).map(|sink| sink.name.clone()).collect();
        for name in starting.iter().filter(|name| named.sources.contains(name)) {
            let text = "is a source's name too, and what this sink starts is kept under its name; rename one of them";
            faults.push(Fault::new(format!("sinks.{name}"), text));
        }
        let is_read = |name: &&String| config.sinks.iter().any(|sink| sink.name == **name);
        let (read, unread): (Vec<_>, Vec<_>) = named.sinks.iter().partition(is_read);
        let idle = read.into_iter().filter(|name| !starting.contains(name)).cloned().collect();
        let names = named.sources.iter().chain(&starting).cloned().collect();
        Origins { names, starting, idle, unread: unread.into_iter().cloned().collect() }
    }

    fn judge(&self, key: String, name: &str, faults: &mut Vec<Fault>) {
        let is = |names: &[String]| names.iter().any(|known| known == name);
        if is(&self.unread) && !is(&self.names) {
            return;
        }
        if is(&self.idle) && !is(&self.names) {
            let text = "names a sink that starts nothing, or does not follow what it starts (`follow = true`)";
            return faults.push(Fault::new(key, text));
        }
        one_name(key, "source", name, &self.names, faults);
    }

    /// What a sink starts must not lead to its starting something again: that would never end.
    fn judge_circles(&self, key: &str, route: &RouteEntry, routes: &[RouteEntry], faults: &mut Vec<Fault>) {
        for (position, name) in route.to.iter().enumerate().filter(|(_, name)| self.starting.contains(name)) {
            let mut reached = vec![name];
            let mut next = 0;
            while let Some(from) = reached.get(next).copied() {
                let onward = routes.iter().filter(|route| route.from.contains(from)).flat_map(|route| &route.to);
                for to in onward.filter(|to| self.starting.contains(to)) {
                    if !reached.contains(&to) {
                        reached.push(to);
                    }
                }
                next += 1;
            }
            if route.from.iter().any(|from| reached.contains(&from)) {
                let text = "would start something for what it started itself, without an end; take one of them out";
                faults.push(Fault::new(format!("{key}.to[{position}]"), text));
            }
        }
    }
}

fn judge_route(key: &str, route: &RouteEntry, named: &Named, origins: &Origins, faults: &mut Vec<Fault>) {
    some_names(&format!("{key}.from"), "source", &route.from, faults);
    for (position, name) in route.from.iter().enumerate() {
        origins.judge(format!("{key}.from[{position}]"), name, faults);
    }
    some_names(&format!("{key}.to"), "sink", &route.to, faults);
    for (position, name) in route.to.iter().enumerate() {
        one_name(format!("{key}.to[{position}]"), "sink", name, &named.sinks, faults);
    }
    if let Some(when) = &route.when {
        program(format!("{key}.when"), when, faults);
    }
}

fn judge_link(key: &str, link: &LinkEntry, origins: &Origins, faults: &mut Vec<Fault>) {
    origins.judge(format!("{key}.of"), &link.of, faults);
    origins.judge(format!("{key}.with"), &link.with, faults);
    if link.of == link.with {
        faults.push(Fault::new(format!("{key}.with"), "is the same source as `of`; a link ties two sources"));
    }
    program(format!("{key}.key"), &link.key, faults);
    program(format!("{key}.with_key"), &link.with_key, faults);
}

fn some_names(key: &str, what: &str, names: &[String], faults: &mut Vec<Fault>) {
    if names.is_empty() {
        faults.push(Fault::new(key, format!("names no {what}; write [\"NAME\", …]")));
    }
}

fn one_name(key: String, what: &str, name: &str, known: &[String], faults: &mut Vec<Fault>) {
    if !known.iter().any(|k| k == name) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        faults.push(Fault::new(key, no_such(what, name, &known)));
    }
}

fn program(key: String, text: &str, faults: &mut Vec<Fault>) {
    if let Err(fault) = Jq::compile_bounded(text) {
        faults.push(Fault::new(key, fault));
    }
}
