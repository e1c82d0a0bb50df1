//! What every source and every sink keeps to, walked over both tables of kinds: one that is added and not described
//! here fails, so that nobody forgets it.

use std::path::Path;

use callbackd::app;
use callbackd::config::{Config, Environment};

pub(crate) mod sinks;
mod sources;

/// Part of every secret in these tests, and of nothing else.
const NEEDLE: &str = "hunter2";

fn config(text: &str) -> Config {
    Config::from_toml(text, &Environment::default()).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures"))
}

/// The one source that the text configures.
fn source_of(text: &str) -> Box<dyn callbackd::sources::Source> {
    let built = app::sources(&config(text), &Environment::default());
    let mut sources = built.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    sources.pop().expect("a source").1.source
}

/// The one sink that the text configures.
fn sink_of(text: &str) -> Box<dyn callbackd::sinks::Sink> {
    let built = app::sinks(&config(text), &Environment::default());
    let mut sinks = built.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    sinks.pop().expect("a sink").1
}
