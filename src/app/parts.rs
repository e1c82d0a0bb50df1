//! What a configuration describes, built: everything but what is opened or bound.

use std::sync::Arc;

use super::files;
use crate::config::{Adapters, Config, Environment, Faults, Outbound, SinkCommon, SinkEntry, SourceEntry};
use crate::jq::Jq;
use crate::measure::Measures;
use crate::model::{Expectation, LinkRule, Program, RetryPolicy, Route, Rules, SinkRule, Time};
use crate::options::{Fault, Span};
use crate::pipeline::forward::Service;
use crate::pipeline::ingest::{Intake, Rate};
use crate::secret::Secret;
use crate::server::Limits;
use crate::sinks::Sink;
use crate::sources::Source;

/// Each under its configured name.
pub type Named<T> = Vec<(String, T)>;

/// What runs, under the names and paths that the configuration gives it.
pub(super) struct Parts {
    pub(super) intakes: Vec<(String, Intake)>,
    pub(super) sinks: Vec<(SinkEntry, Arc<dyn Sink>, Service)>,
    pub(super) outbound: Outbound,
    pub(super) rules: Arc<Rules>,
    pub(super) limits: Limits,
    pub(super) admin_token: Option<Secret>,
}

impl Parts {
    pub(super) fn build(config: &Config, adapters: Adapters, measures: &Measures) -> Result<Parts, Faults> {
        let Adapters { sources, sinks, admin_token, warnings, .. } = adapters;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let rules = Arc::new(rules(config)?);
        let named = config.sinks.iter().zip(sinks);
        let sinks = named.map(|(entry, sink)| (entry.clone(), sink.into(), service(&entry.common))).collect();
        let (intakes, limits, outbound) = (intakes(config, sources, measures), limits(config), config.outbound.clone());
        Ok(Parts { intakes, sinks, outbound, rules, limits, admin_token })
    }
}

fn intakes(config: &Config, sources: Vec<Box<dyn Source>>, measures: &Measures) -> Vec<(String, Intake)> {
    let entries = config.sources.iter().zip(sources);
    let intake = |(entry, source): (&SourceEntry, _)| {
        let intake = Intake {
            name: entry.name.as_str().into(),
            source,
            allow: entry.common.allow.clone(),
            rate: (entry.common.rate > 0).then(|| Rate::new(entry.common.rate)),
            confirm: entry.common.confirm,
            measures: measures.source(&entry.name),
        };
        (entry.common.path.clone(), intake)
    };
    entries.map(intake).collect()
}

/// The configured sources, each under its path.
pub fn sources(config: &Config, env: &Environment) -> Result<Vec<(String, Intake)>, Faults> {
    Ok(intakes(config, config.adapters(env)?.sources, &Measures::new(Time::default())))
}

/// The configured sinks, each under its name.
pub fn sinks(config: &Config, env: &Environment) -> Result<Named<Box<dyn Sink>>, Faults> {
    let named = config.sinks.iter().map(|entry| entry.name.clone());
    Ok(named.zip(config.adapters(env)?.sinks).collect())
}

/// Routes, links and what is to be known of sinks in the storing transaction.
pub fn rules(config: &Config) -> Result<Rules, Faults> {
    // Judged when the configuration was loaded; the fault is kept all the same, should the two ever differ.
    let compile = |key: String, program: &str| {
        let fault = |text| Faults { file: config.file.clone(), faults: vec![Fault::new(key, text)] };
        Jq::compile_bounded(program).map(|jq| Box::new(jq) as Box<dyn Program>).map_err(fault)
    };
    let mut rules = Rules::default();
    for (position, route) in config.routes.iter().enumerate() {
        let when = route.when.as_ref().map(|program| compile(format!("routes[{position}].when"), program));
        rules.routes.push(Route { from: route.from.clone(), when: when.transpose()?, to: route.to.clone() });
    }
    for (position, link) in config.links.iter().enumerate() {
        rules.links.push(LinkRule {
            of: link.of.clone(),
            key: compile(format!("links[{position}].key"), &link.key)?,
            with: link.with.clone(),
            with_key: compile(format!("links[{position}].with_key"), &link.with_key)?,
        });
    }
    let sink = |entry: &SinkEntry| SinkRule { name: entry.name.clone(), coalesce: entry.common.coalesce };
    rules.sinks.extend(config.sinks.iter().map(sink));
    rules.expectations.extend(config.sources.iter().filter_map(expectation));
    Ok(rules)
}

/// By when the executions of a source are to be finished, if anything is expected of them.
fn expectation(entry: &SourceEntry) -> Option<Expectation> {
    let within_ms = entry.common.expect_within.map(Span::ms);
    let of: Vec<_> = entry.common.expect.iter().map(|(workflow, span)| (workflow.clone(), span.ms())).collect();
    (within_ms.is_some() || !of.is_empty()).then(|| Expectation { source: entry.name.clone(), within_ms, of })
}

fn service(common: &SinkCommon) -> Service {
    Service {
        concurrency: common.concurrency,
        timeout: common.timeout.0,
        retry: RetryPolicy {
            first_ms: common.retry_first.ms(),
            longest_ms: common.retry_longest.ms(),
            age_max_ms: common.age_max.ms(),
            attempts_max: common.attempts_max,
        },
        breaker_failures: common.breaker_failures,
        breaker_probe: common.breaker_probe.0,
    }
}

/// What the callbacks' door lets in.
pub(super) fn limits(config: &Config) -> Limits {
    let server = &config.server;
    Limits {
        trusted_proxies: server.trusted_proxies.clone(),
        body_bytes_max: server.body_bytes_max,
        head_bytes_max: server.head_bytes_max,
        bodies_bytes_max: server.bodies_bytes_max,
        connections_max: files::connections(server.connections_max),
        connections_per_address_max: server.connections_per_address_max,
        head_timeout: server.head_timeout.0,
        body_timeout: server.body_timeout.0,
        answer_timeout: server.answer_timeout.0,
        idle_timeout: server.idle_timeout.0,
        drain_timeout: server.drain_timeout.0,
    }
}
