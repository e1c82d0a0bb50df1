//! Tells Port how a run goes: progress as log lines, then exactly one final report.
//!
//! Port's API is described by its OpenAPI document (port-labs/port-docs, `static/apispec.yaml`): an action's run is
//! reported on by `PATCH /v1/actions/runs/{run_id}` and `POST …/logs`, a workflow node's run by
//! `/v1/workflows/nodes/runs/{id}` with other words. Unknown keys are refused, and after a final status nothing more
//! is taken; so what Port refuses, and a final report whose fate is unknown, is settled by reading the run.
//!
//! A change belongs to a run by a header, by a link, or not (yet) at all; [`run::find`] says which.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Kind, Preview, Sink, Tried};
use crate::Boxed;
use crate::jq::Jq;
use crate::model::{Delivery, Outcome, Time, WaitFor};
use crate::options::{self, BuildContext, Fault as Wrong, Faults, Section, Span};
use crate::outbound::{self, Client, Settings};
use crate::secret::SecretSpec;

mod api;
mod plan;
mod report;
mod run;

use api::{Api, Fault, Seen};
use plan::{Plan, Shape};
use report::Report;
use run::Found;

/// `kind = "port_run"`.
pub(super) const KIND: Kind = Kind { name: "port_run", aliases: &[], build, examine: options::examine::<Options> };

/// The source kind whose executions are Port's runs.
const SOURCE_KIND: &str = "port_action";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default = "default_url")]
    url: String,
    client_id: SecretSpec,
    client_secret: SecretSpec,
    run_id: Option<String>,
    #[serde(default)]
    unlinked: Unlinked,
    #[serde(default = "default_link_within")]
    link_within: Span,
    #[serde(default)]
    terminal: Terminal,
    summary: Option<String>,
    link: Option<String>,
    status_label: Option<String>,
    #[serde(default = "default_progress")]
    progress: bool,
    source: Option<Vec<String>>,
    ca_file: Option<PathBuf>,
}

/// What becomes of a change that no run was found for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unlinked {
    #[default]
    Discard,
    Dead,
}

/// What carries an action run's final status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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

fn default_link_within() -> Span {
    Span::seconds(86_400)
}

fn default_progress() -> bool {
    true
}

struct PortRun {
    api: Api,
    run_id: Option<Jq>,
    unlinked: Unlinked,
    link_within: Span,
    shape: Shape,
    sources: Vec<String>,
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
    let run_id = program("run_id", options.run_id);
    let summary = program("summary", options.summary);
    let link = program("link", options.link);
    let status_label = program("status_label", options.status_label);
    let shape = Shape { terminal: options.terminal, summary, link, status_label, progress: options.progress };
    let built = || {
        Some(Box::new(PortRun {
            api: Api::new(client?, base?, client_id?, client_secret?),
            run_id,
            unlinked: options.unlinked,
            link_within: options.link_within,
            shape,
            sources: sources?,
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
    fn preview(&self, delivery: &Delivery, _: Time) -> Vec<Preview> {
        let nothing = |why: String| vec![Preview { action: why, body: String::new() }];
        match self.plan(delivery) {
            Ok(Planned::Report(plan)) => {
                let show = |step: &plan::Step| Preview {
                    action: format!("{} {}{}", step.method, self.api.base(), step.path),
                    body: step.body.to_string(),
                };
                plan.steps.iter().map(show).collect()
            }
            Ok(Planned::Own(note)) => nothing(note.to_owned()),
            Ok(Planned::Unlinked) => nothing("wait for a link to a Port run".to_owned()),
            Err(reason) => nothing(format!("reject: {reason}")),
        }
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let mut seen = Seen::default();
            let outcome = match self.plan(delivery) {
                Ok(Planned::Report(plan)) => Report::new(self, delivery, *plan, now).run(&mut seen).await,
                Ok(Planned::Own(note)) => Outcome::Delivered { note: Some(note.to_owned()), learned: Vec::new() },
                Ok(Planned::Unlinked) => self.unlinked(delivery, now),
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
    Unlinked,
}

impl PortRun {
    fn plan(&self, delivery: &Delivery) -> Result<Planned, String> {
        let change = &*delivery.change;
        let data = serde_json::to_value(change).map_err(|e| e.to_string())?;
        Ok(match run::find(self.run_id.as_ref(), &self.sources, change, &data)? {
            Found::Run(run) => Planned::Report(Box::new(Plan::of(&self.shape, run, change, &data))),
            Found::Own if change.state.execution.status.is_finished() => Planned::Own("the run itself; it is reported"),
            Found::Own => Planned::Own("the run itself; nothing to report yet"),
            Found::Nothing => Planned::Unlinked,
        })
    }

    fn unlinked(&self, delivery: &Delivery, now: Time) -> Outcome {
        let until = delivery.created_at.plus_ms(self.link_within.ms());
        let reason = || "no Port run".to_owned();
        match self.unlinked {
            _ if now < until => {
                let resume = delivery.resume.clone();
                Outcome::Wait { wait_for: WaitFor::Link, until, resume, learned: Vec::new() }
            }
            Unlinked::Discard => Outcome::Discard { reason: reason() },
            Unlinked::Dead => Outcome::Reject { reason: reason() },
        }
    }
}
