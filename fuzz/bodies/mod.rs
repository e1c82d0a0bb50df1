//! What strangers and peers can send, and what holds whatever they send: one function for each reader, which panics when
//! it does not hold.
//!
//! Two run them: the fuzz targets, which make inputs up, and a test (`tests/it/hostile.rs`) over the inputs in
//! `fuzz/corpus/`. Private readers are reached as the daemon reaches them: a source by a request, a sink by its peer's
//! answers, both built from a configuration.

use callbackd::app;
use callbackd::config::{Config, Environment};
use callbackd::model::Time;
use callbackd::sinks::Sink;
use callbackd::sources::Source;

mod answers;
mod configured;
mod credentials;
mod listed;
mod peer;
mod programs;
mod read;
mod times;
mod twins;

/// What a target does with one input. Panics when something that is promised does not hold.
pub(crate) type Body = fn(&[u8]);

/// Every target, by its name.
pub(crate) const TARGETS: &[(&str, Body)] = &[
    ("astrom_api", answers::astrom),
    ("ci_answers", answers::ci),
    ("config", configured::config),
    ("cos_json", read::cos_json),
    ("cos_xml", read::cos_xml),
    ("credentials", credentials::credentials),
    ("filters", listed::filters),
    ("jq", programs::jq),
    ("port_action", read::port_action),
    ("port_api", answers::port),
    ("secmaster_api", answers::secmaster),
    ("tencent_api", answers::tencent),
    ("times", times::times),
    ("trapper", answers::trapper),
    ("webhook_api", answers::webhook),
    ("zabbix_api", answers::zabbix),
    ("zabbix_apply", answers::zabbix_apply),
];

/// Part of every secret here, and of nothing else.
const NEEDLE: &str = "hunter2";

/// Tuesday, 14 November 2023, 22:13:20 UTC.
const NOW: Time = Time::from_seconds(1_700_000_000);

/// The text that `bytes` are, cut where they are none any more.
fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).expect("valid so far"),
    }
}

fn configuration(text: &str) -> Config {
    Config::from_toml(text, &Environment::default()).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// The one source that the text configures.
fn source_of(text: &str) -> Box<dyn Source> {
    let built = app::sources(&configuration(text), &Environment::default());
    let mut sources = built.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    sources.pop().expect("a source").1.source
}

/// The one sink that the text configures.
fn sink_of(text: &str) -> Box<dyn Sink> {
    let built = app::sinks(&configuration(text), &Environment::default());
    let mut sinks = built.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    sinks.pop().expect("a sink").1
}

/// Whether an input holds itself what no text may: then nothing can be told by it.
fn holds_the_needle(input: &[u8]) -> bool {
    input.windows(NEEDLE.len()).any(|window| window == NEEDLE.as_bytes())
}

/// Nothing that is said to people may hold a secret, or be longer than a row of a table has room for.
fn must_be_fit_to_say(said: &str) {
    assert!(!said.contains(NEEDLE), "a secret is said: {said}");
    assert!(said.len() <= 4096, "{} bytes are said: {said}", said.len());
}
