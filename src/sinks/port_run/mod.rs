//! Tells Port how a run goes: progress as log lines, the entities that it made, then exactly one final report.
//!
//! Port's API is described by its OpenAPI document (port-labs/port-docs, `static/apispec.yaml`): an action's run is
//! reported on by `PATCH /v1/actions/runs/{run_id}` and `POST …/logs`, a workflow node's run by
//! `/v1/workflows/nodes/runs/{id}` with other words. Unknown keys are refused, and after a final status nothing more
//! is taken; so what Port refuses, and a final report whose fate is unknown, is settled by reading the run.
//!
//! A change belongs to a run by a header, by a link, or not (yet) at all; [`run::find`] says which.

use std::path::PathBuf;

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{Kind, Preview, Sink, Tried, starts_nothing};
use crate::Boxed;
use crate::jq::Jq;
use crate::model::{Delivery, Outcome, Time, WaitFor};
use crate::options::{self, BuildContext, Fault as Wrong, Faults, Section, Span};
use crate::outbound::{self, Client, Settings};
use crate::secret::SecretSpec;

mod api;
mod entity;
mod lines;
mod plan;
mod report;
mod run;

use api::{Api, Fault, Refusal, Seen};
use entity::{Answered, Entities, Gather};
use lines::Held;
use plan::{Plan, Shape};
use report::Report;
use run::Found;

/// `kind = "port_run"`.
pub(super) const KIND: Kind = Kind {
    name: "port_run",
    aliases: &[],
    build,
    examine: options::examine::<Options>,
    starts: starts_nothing,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

/// The source kind whose executions are Port's runs.
const SOURCE_KIND: &str = "port_action";

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Options {
    /// The API of Port's region.
    #[serde(default = "default_url")]
    url: String,
    /// The organization's client id.
    client_id: SecretSpec,
    /// The organization's client secret.
    client_secret: SecretSpec,
    /// jq over the change: the id of the run to report on; default: the linked run.
    run_id: Option<String>,
    /// `false` makes entities only, and reports on no run.
    #[serde(default = "default_true")]
    reports: bool,
    /// What a change makes in Port's catalog.
    entity: Option<entity::Options>,
    /// What becomes of a change that belongs to no run within `link_within`.
    unlinked: Option<Unlinked>,
    /// So long a change waits for its run to be known.
    link_within: Option<Span>,
    /// What carries the final status: the last log line, or an update of the run.
    #[serde(default)]
    terminal: Terminal,
    /// jq over the change: the run's summary.
    summary: Option<String>,
    /// jq over the change: the link on the run's page.
    link: Option<String>,
    /// jq over the change: the run's status label.
    status_label: Option<String>,
    /// `false` leaves out the log line of each finished task.
    #[serde(default = "default_true")]
    progress: bool,
    /// Sources of kind port_action whose executions are this organization's runs; default: all of them.
    source: Option<Vec<String>>,
    /// A PEM file of certificates that are trusted beside this machine's.
    ca_file: Option<PathBuf>,
}

/// What becomes of a change that no run was found for.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Unlinked {
    Discard,
    Dead,
    /// Its entities are made all the same.
    Entity,
}

/// What carries an action run's final status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "lowercase")]
enum Terminal {
    #[default]
    Log,
    Patch,
}

const DEFAULT_URL: &str = "https://api.port.io";

fn default_url() -> String {
    DEFAULT_URL.to_owned()
}

fn default_true() -> bool {
    true
}

struct PortRun {
    api: Api,
    run_id: Option<Jq>,
    unlinked: Unlinked,
    link_within: Span,
    shape: Shape,
    sources: Vec<String>,
    held: Held,
    gather: Gather,
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Wrong>> {
    let options: Options = section.read()?;
    let mut faults = Faults::of(section);
    let base = faults.keep("url", outbound::base_url(&options.url, DEFAULT_URL));
    let client_id = faults.keep("client_id", context.secrets.resolve(&options.client_id));
    let client_secret = faults.keep("client_secret", context.secrets.resolve(&options.client_secret));
    let settings = Settings { ca_file: options.ca_file, ..context.outbound.clone() };
    let client = faults.keep("ca_file", Client::new(&settings));
    let sources = faults.keep("source", sources_of(options.source, context.sources));
    let mut program = |key, text: Option<String>| text.and_then(|text| faults.keep(key, Jq::compile(&text)));
    let has_entity = options.entity.is_some();
    let run_id = program("run_id", options.run_id);
    let summary = program("summary", options.summary);
    let link = program("link", options.link);
    let status_label = program("status_label", options.status_label);
    let Options { reports, terminal, progress, .. } = options;
    let entities = options.entity.and_then(|options| Entities::new(options, &mut faults));
    // Who keeps entities only has nothing to wait for.
    let (unlinked, link_within) = if reports { (Unlinked::Discard, 86_400) } else { (Unlinked::Entity, 0) };
    let unlinked = options.unlinked.unwrap_or(unlinked);
    if !has_entity && (!reports || unlinked == Unlinked::Entity) {
        let key = if reports { "unlinked" } else { "reports" };
        faults.add(key, "without entities this sink would do nothing; write [sinks.NAME.entity] with its blueprint");
    }
    let shape = Shape { reports, terminal, summary, link, status_label, progress, entities };
    let built = || {
        Some(Box::new(PortRun {
            api: Api::new(client?, base?, client_id?, client_secret?),
            run_id,
            unlinked,
            link_within: options.link_within.unwrap_or(Span::seconds(link_within)),
            shape,
            sources: sources?,
            held: Held::default(),
            gather: Gather::default(),
        }) as Box<dyn Sink>)
    };
    faults.finish(built())
}

fn sources_of(named: Option<Vec<String>>, all: &[(String, String)]) -> Result<Vec<String>, String> {
    let known = || all.iter().filter(|(_, kind)| kind == SOURCE_KIND).map(|(name, _)| name.clone());
    let Some(named) = named else { return Ok(known().collect()) };
    match named.iter().find(|name| !known().any(|k| k == **name)) {
        Some(name) => Err(format!(
            "no source of kind {SOURCE_KIND} is called {name:?}; there is {:?}",
            known().collect::<Vec<_>>()
        )),
        None => Ok(named),
    }
}

impl Sink for PortRun {
    fn preview(&self, delivery: &Delivery, now: Time) -> Vec<Preview> {
        let nothing = |why: String| vec![Preview { action: why, body: String::new() }];
        let show = |(method, path, body): (Method, String, Option<Value>)| Preview {
            action: format!("{method} {}{path}", self.api.base()),
            body: body.map_or(String::new(), |body| body.to_string()),
        };
        match self.plan(delivery) {
            Ok(Planned::Report(plan)) => plan.requests(&self.shape).into_iter().map(show).collect(),
            Ok(Planned::Own(note)) => nothing(note.to_owned()),
            Ok(Planned::Unlinked(data)) => match &self.shape.entities {
                Some(entities) if self.unlinked == Unlinked::Entity && now >= self.link_until(delivery) => {
                    let made = entities.make(&data);
                    let calls = entities.calls(&made.entities, None).into_iter();
                    calls.map(|call| show((call.method, call.path, call.body))).collect()
                }
                _ => nothing("wait for a link to a Port run".to_owned()),
            },
            Err(reason) => nothing(format!("reject: {reason}")),
        }
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let mut seen = Seen::default();
            let outcome = match self.plan(delivery) {
                Ok(Planned::Report(plan)) => Report::new(self, delivery, *plan, now).run(&mut seen).await,
                Ok(Planned::Own(note)) => Outcome::Delivered { note: Some(note.to_owned()), learned: Vec::new() },
                Ok(Planned::Unlinked(data)) => self.unlinked(delivery, &data, now, &mut seen).await,
                Err(reason) => Outcome::Reject { reason },
            };
            Tried { outcome, status: seen.status, answer: seen.answer }
        })
    }

    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        Box::pin(async {
            match self.api.probe().await {
                Ok(seconds) => Ok(format!("token valid for {seconds} s")),
                Err(Fault::Retry { reason, .. } | Fault::Halt { reason } | Fault::Missing { reason }) => Err(reason),
                Err(Fault::Refused(refusal)) => Err(refusal.reason),
            }
        })
    }
}

/// What a delivery comes to.
enum Planned {
    Report(Box<Plan>),
    /// A change of the run's own execution: Port began it, and what ended it was reported already.
    Own(&'static str),
    /// A change of no run, as programs see it.
    Unlinked(Value),
}

impl PortRun {
    fn plan(&self, delivery: &Delivery) -> Result<Planned, String> {
        let change = &*delivery.change;
        let data = serde_json::to_value(change).map_err(|e| e.to_string())?;
        Ok(match run::find(self.run_id.as_ref(), &self.sources, change, &data)? {
            Found::Run(run) => Planned::Report(Box::new(Plan::of(&self.shape, run, change, &data))),
            Found::Own if change.state.execution.status.is_finished() => Planned::Own("the run itself; it is reported"),
            Found::Own => Planned::Own("the run itself; nothing to report yet"),
            Found::Nothing => Planned::Unlinked(data),
        })
    }

    fn link_until(&self, delivery: &Delivery) -> Time {
        delivery.created_at.plus_ms(self.link_within.ms())
    }

    async fn unlinked(&self, delivery: &Delivery, data: &Value, now: Time, seen: &mut Seen) -> Outcome {
        let until = self.link_until(delivery);
        let reason = || "no Port run".to_owned();
        match (self.unlinked, &self.shape.entities) {
            _ if now < until => {
                let resume = delivery.resume.clone();
                Outcome::Wait { wait_for: WaitFor::Link, until, resume, learned: Vec::new() }
            }
            (Unlinked::Entity, Some(entities)) => {
                self.make_untied(entities, data, now, seen).await.unwrap_or_else(|early| early)
            }
            (Unlinked::Dead, _) => Outcome::Reject { reason: reason() },
            (Unlinked::Discard | Unlinked::Entity, _) => Outcome::Discard { reason: reason() },
        }
    }

    /// Makes the entities of a change that belongs to no run.
    async fn make_untied(
        &self,
        entities: &Entities,
        data: &Value,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Outcome, Outcome> {
        let made = entities.make(data);
        let (mut refused, count) = (made.refused, made.entities.len());
        let mut take = |answered: Result<Answered, Fault>| match answered {
            // There is one blueprint, so that every delivery would fail alike.
            Ok(answered) if answered.forbidden => {
                Err(Outcome::Halt { reason: entity::reasons(&answered.reasons()), resume: None })
            }
            Ok(answered) => {
                refused.extend(answered.reasons());
                Ok(())
            }
            Err(Fault::Halt { reason }) => Err(Outcome::Halt { reason, resume: None }),
            Err(Fault::Retry { after_ms, reason }) => Err(Outcome::Retry { after_ms, reason, resume: None }),
            Err(Fault::Missing { reason } | Fault::Refused(Refusal { reason, .. })) => Err(Outcome::Reject { reason }),
        };
        if count == 1 && entities.is_bulk() {
            for entity in made.entities {
                take(self.gather.send(&self.api, entities, entity, now, seen).await)?;
            }
        } else {
            for call in entities.calls(&made.entities, None) {
                take(entity::send(&self.api, &call, now, seen).await)?;
            }
        }
        if !refused.is_empty() {
            return Ok(Outcome::Reject { reason: entity::reasons(&refused) });
        }
        let note = if count == 0 { "no Port run, and no entity" } else { "no Port run; its entities only" };
        Ok(Outcome::Delivered { note: Some(note.to_owned()), learned: Vec::new() })
    }
}
