//! `cos_trigger`: starts a Tencent Cloud CI workflow for the change that begins an execution, as a Port action does.
//!
//! CI is asked by `POST /triggerworkflow` (the page "Trigger Workflow" of its documentation; "Testing a Workflow" in
//! later ones). What it starts becomes an execution of the COS source, linked to the one that asked, so that a sink
//! like `port_run` reports on it there; its callbacks are merged with it, whichever comes first.
//!
//! CI knows no idempotent request, and an answer can be lost. Each delivery therefore has a name of its own, which CI
//! keeps with what it starts; and before anything is started CI is asked whether something of that name was ("Get
//! Workflow Instance List"). Whether its filter `name` means this is not documented without doubt. So when an earlier
//! try may have started something and none of that name is found, what began on the same object since then is looked
//! at, too: where there is any, the delivery becomes a dead letter that names it, and an operator's retry starts anew.

use std::borrow::Cow;

use http::Method;
use serde_json::{Map, json};

use super::{Kind, Preview, Sink, Tried, cut, starts_nothing};
use crate::Boxed;
use crate::clock;
use crate::jq::Jq;
use crate::model::{Delivery, ExecutionPart, Learned, Outcome, Program, Status, Time, Update};
use crate::options::{BuildContext, Fault as Wrong, Faults, Section};
use crate::tencent::{self, Access, Call, Ci, Element, Fault, Seen};

mod options;

use options::Options;

/// `kind = "cos_trigger"`.
pub(super) const KIND: Kind = Kind {
    name: "cos_trigger",
    aliases: &[],
    build,
    examine: crate::options::examine::<Options>,
    starts: starts_nothing,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

/// The source kind whose executions are started.
const SOURCE_KIND: &str = "cos_workflow";
const DEFAULT_OBJECT: &str = ".execution.inputs.object";
const NAME_CHARS_MAX: usize = 128;
/// As long as COS lets a key be.
const OBJECT_BYTES_MAX: usize = 1024;
/// CI's clock is behind ours by no more, or it would refuse our signature.
const SKEW_S: i64 = 60;
const PAGE: usize = 100;
const PAGES_MAX: usize = 10;

struct CosTrigger {
    ci: Ci,
    bucket: String,
    region: Option<String>,
    source: String,
    workflow: Workflow,
    object: Jq,
    name: Option<Jq>,
    when: Option<Jq>,
    instance: String,
}

enum Workflow {
    Id(String),
    Program(Jq),
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Wrong>> {
    let options: Options = section.read()?;
    let mut faults = Faults::of(section);
    let (secret_id, secret_key, security_token) = (options.secret_id, options.secret_key, options.security_token);
    let (region, url, ca_file) = (options.region.clone(), options.url, options.ca_file);
    let answer_bytes_max = 1 << 20;
    let access = Access { secret_id, secret_key, security_token, region, url, ca_file, answer_bytes_max };
    let ci = access.build(context, &mut faults);
    let bucket = faults.keep("bucket", tencent::part_of_a_host(options.bucket));
    let source = faults.keep("source", source_of(options.source, context.sources));
    let workflow = faults.keep("workflow_id", workflow_of(options.workflow_id));
    let object = faults.keep("object", Jq::compile(options.object.as_deref().unwrap_or(DEFAULT_OBJECT)));
    let mut program = |key, text: Option<String>| text.and_then(|text| faults.keep(key, Jq::compile(&text)));
    let (name, when) = (program("name", options.name), program("when", options.when));
    let built = || {
        Some(Box::new(CosTrigger {
            ci: ci?,
            bucket: bucket?,
            region: options.region,
            source: source?,
            workflow: workflow?,
            object: object?,
            name,
            when,
            instance: context.instance.to_owned(),
        }) as Box<dyn Sink>)
    };
    faults.finish(built())
}

/// The source whose execution it becomes: the named one, or the only one.
fn source_of(named: Option<String>, all: &[(String, String)]) -> Result<String, String> {
    let known: Vec<_> = all.iter().filter(|(_, kind)| kind == SOURCE_KIND).map(|(name, _)| name).collect();
    match (named, &known[..]) {
        (Some(named), known) if known.contains(&&named) => Ok(named),
        (None, [only]) => Ok((*only).clone()),
        (None, []) => {
            Err(format!("there is no source of kind {SOURCE_KIND} to which the workflow calls back; add one"))
        }
        (None, several) => Err(format!("to which of {several:?} does the workflow call back? write source = \"…\"")),
        (Some(named), known) => Err(format!("no source of kind {SOURCE_KIND} is called {named:?}; there is {known:?}")),
    }
}

/// An id as it stands; whatever cannot be one is a program.
fn workflow_of(text: String) -> Result<Workflow, String> {
    let is_id = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if is_id { Ok(Workflow::Id(text)) } else { Jq::compile(&text).map(Workflow::Program) }
}

/// What is to be started.
struct Plan {
    workflow: String,
    object: String,
    name: String,
}

/// An execution in CI's list.
struct Listed {
    run: String,
    object: String,
}

impl CosTrigger {
    /// What this delivery starts; nothing when it is not the beginning. An `Err` is a fault of a program, or of what it
    /// found.
    fn plan(&self, delivery: &Delivery) -> Result<Option<Plan>, String> {
        let change = &*delivery.change;
        let execution = &change.state.execution;
        let is_own = execution.source == self.source;
        let data = serde_json::to_value(change).map_err(|e| e.to_string())?;
        let begins = match &self.when {
            Some(when) => when.test(&data).map_err(|fault| format!("when: {fault}"))?,
            // What was started begins, too.
            None => {
                change.meta.sequence == 1 && matches!(execution.status, Status::Pending | Status::Running) && !is_own
            }
        };
        if !begins {
            return Ok(None);
        }
        let text = |key: &str, jq: &Jq| {
            let text = jq.text(&data).map_err(|fault| format!("{key}: {fault}"))?;
            Ok::<_, String>(text.filter(|text| !text.is_empty()))
        };
        let workflow = match &self.workflow {
            Workflow::Id(id) => id.clone(),
            Workflow::Program(jq) => text("workflow_id", jq)?.ok_or("workflow_id: this change names no workflow")?,
        };
        let object = text("object", &self.object)?
            .ok_or("object: this change names no object to work on; write a jq program that finds it")?;
        if object.len() > OBJECT_BYTES_MAX {
            return Err(format!("object: no object's key is longer than {OBJECT_BYTES_MAX} bytes"));
        }
        let has = |key: &str| execution.attributes.get(key).and_then(|value| value.as_str());
        if is_own && execution.workflow.as_ref() == Some(&workflow) && has("object") == Some(&object) {
            return Err("this would start what it comes of over again, without an end".to_owned());
        }
        let label = match &self.name {
            Some(jq) => text("name", jq)?,
            None => None,
        };
        let label = label.unwrap_or_else(|| format!("callbackd-{}", self.instance));
        Ok(Some(Plan { workflow, object, name: name_of(&label, delivery.id) }))
    }

    fn list(&self, workflow: &str, more: Vec<(&'static str, String)>) -> Call<'_> {
        let query = [vec![("workflowId", workflow.to_owned())], more].concat();
        Call { bucket: &self.bucket, method: Method::GET, path: "/workflowexecution".to_owned(), query }
    }

    /// What has our name.
    fn ours(&self, plan: &Plan, delivery: &Delivery) -> Call<'_> {
        // An operator's retry makes the delivery young again, never its change.
        let since = filter_time(delivery.change.meta.received_at);
        let named = vec![("name", plan.name.clone()), ("startCreationTime", since)];
        self.list(&plan.workflow, named)
    }

    fn trigger(&self, plan: &Plan) -> Call<'_> {
        let query =
            vec![("workflowId", plan.workflow.clone()), ("object", plan.object.clone()), ("name", plan.name.clone())];
        Call { bucket: &self.bucket, method: Method::POST, path: "/triggerworkflow".to_owned(), query }
    }

    async fn start(&self, plan: &Plan, delivery: &Delivery, now: Time, seen: &mut Seen) -> Outcome {
        let known = match self.ci.call(&self.ours(plan, delivery), now, seen).await.and_then(|reply| listed(&reply)) {
            Ok((known, _)) => known,
            Err(fault) => return failed(fault, delivery, false),
        };
        if let Some(ours) = known.iter().find(|listed| self.is_object(listed, plan)) {
            return self.started(plan, &ours.run, "started already, by an earlier try");
        }
        if tries_in_doubt(delivery) {
            match self.began_since(plan, delivery, now, seen).await {
                Ok(runs) if runs.is_empty() => {}
                Ok(runs) => return Outcome::Reject { reason: doubtful(&runs) },
                Err(fault) => return failed(fault, delivery, false),
            }
        }
        let reply = match self.ci.call(&self.trigger(plan), now, seen).await {
            Ok(reply) => reply,
            Err(fault) => return failed(fault, delivery, true),
        };
        let root = Element::read(&reply);
        // One page prints it with an equals sign behind it, which no RunId has.
        let run = root.as_ref().ok().and_then(|root| root.text(&["Response", "InstanceId"]));
        match run.map(|run| run.trim_end_matches('=')).filter(|run| !run.is_empty()) {
            Some(run) => self.started(plan, run, "started"),
            // Next time it is found by its name.
            None => Outcome::Retry {
                after_ms: None,
                reason: "the answer to what may have started the workflow holds no InstanceId".to_owned(),
                resume: delivery.resume.clone(),
            },
        }
    }

    /// The executions on this object that began since the delivery's first try.
    async fn began_since(
        &self,
        plan: &Plan,
        delivery: &Delivery,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Vec<String>, Fault> {
        let since = filter_time(delivery.created_at);
        let (mut runs, mut token) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let mut more = vec![
                ("startCreationTime", since.clone()),
                ("orderByTime", "Asc".to_owned()),
                ("size", PAGE.to_string()),
            ];
            more.extend(token.take().map(|token| ("nextToken", token)));
            let (page, next) = listed(&self.ci.call(&self.list(&plan.workflow, more), now, seen).await?)?;
            runs.extend(page.into_iter().filter(|listed| self.is_object(listed, plan)).map(|listed| listed.run));
            token = next;
            if token.is_none() || !runs.is_empty() {
                return Ok(runs);
            }
        }
        // Ours may be behind them: that it was not seen does not say that there is none.
        let reason = "an earlier try may have started the workflow, and too many began since to look through; \
                      `callbackd deliveries retry` starts it once more";
        Err(Fault::Refused { reason: reason.to_owned(), in_its_words: false })
    }

    fn is_object(&self, listed: &Listed, plan: &Plan) -> bool {
        tencent::key_of(Cow::Borrowed(&listed.object), &self.bucket) == plan.object
    }

    fn started(&self, plan: &Plan, run: &str, how: &str) -> Outcome {
        let attributes = Map::from_iter([
            ("bucket".to_owned(), json!(self.bucket)),
            ("object".to_owned(), json!(plan.object)),
            ("region".to_owned(), json!(self.region)),
        ]);
        let execution = ExecutionPart {
            workflow: Some(plan.workflow.clone()),
            subject: Some(format!("{}/{}", self.bucket, plan.object)),
            status: Some(Status::Running),
            attributes,
            ..ExecutionPart::default()
        };
        let update = Update { key: run.to_owned(), execution, ..Update::default() };
        let learned = vec![Learned { source: self.source.clone(), update, linked: true }];
        Outcome::Delivered { note: Some(format!("{how} as {}", cut(run, NAME_CHARS_MAX))), learned }
    }
}

/// Letters, digits, hyphens and underscores are what a name is made of; its end is the delivery's own.
fn name_of(label: &str, id: i64) -> String {
    let end = format!("-{id}");
    let plain = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '-' };
    label.chars().take(NAME_CHARS_MAX - end.len()).map(plain).chain(end.chars()).collect()
}

/// What began then or later, as the list's filter writes it: `2001-01-01T00:00:00+0000`.
fn filter_time(from: Time) -> String {
    Time::from_seconds(from.seconds() - SKEW_S).to_string().replace('Z', "+0000")
}

/// A page of the list, and what the next one is asked for with.
fn listed(reply: &str) -> Result<(Vec<Listed>, Option<String>), Fault> {
    let strange = |what: &str| Fault::Retry {
        after_ms: None,
        reason: format!("the list of executions is not CI's: {what}"),
        in_doubt: false,
    };
    let root = Element::read(reply).map_err(|e| strange(&e))?;
    let response = root.all("Response").next().ok_or_else(|| strange("it holds no Response"))?;
    let one = |entry: &Element| {
        let object = entry.text_as_it_is("Object").unwrap_or_default().to_owned();
        entry.text(&["RunId"]).map(|run| Listed { run: run.to_owned(), object })
    };
    let next = response.text(&["NextToken"]).map(str::to_owned);
    Ok((response.all("WorkflowExecutionList").filter_map(one).collect(), next))
}

/// Whether an earlier try may have started something. `resume` says how many tries certainly have not; one that was cut
/// off, and so could say nothing, counts as a try all the same. An operator's retry lets tries be counted anew, so that
/// what was counted before says nothing of those that follow.
fn tries_in_doubt(delivery: &Delivery) -> bool {
    u64::from(delivery.attempts) > certain(delivery)
}

fn certain(delivery: &Delivery) -> u64 {
    let counted = delivery.resume.as_ref().filter(|resume| resume["since"] == delivery.created_at.micros());
    counted.and_then(|resume| resume["certain"].as_u64()).unwrap_or(0)
}

fn doubtful(runs: &[String]) -> String {
    let shown = cut(&runs.join(", "), 300);
    format!(
        "an earlier try may have started the workflow: {shown} began on this object since; `callbackd deliveries retry` \
         starts it once more, if that is another's"
    )
}

/// What follows from a fault; `triggers` when the call was the one that starts something.
fn failed(fault: Fault, delivery: &Delivery, triggers: bool) -> Outcome {
    match fault {
        Fault::Retry { after_ms, reason, in_doubt } => {
            let doubtful = tries_in_doubt(delivery) || triggers && in_doubt;
            let certain = || Some(json!({ "certain": delivery.attempts + 1, "since": delivery.created_at.micros() }));
            let resume = if doubtful { delivery.resume.clone() } else { certain() };
            Outcome::Retry { after_ms, reason, resume }
        }
        Fault::Halt { reason } => Outcome::Halt { reason, resume: delivery.resume.clone() },
        Fault::Missing { reason } | Fault::Refused { reason, .. } => Outcome::Reject { reason },
    }
}

impl Sink for CosTrigger {
    fn preview(&self, delivery: &Delivery, _: Time) -> Vec<Preview> {
        let action = match self.plan(delivery) {
            Ok(Some(plan)) => self.ci.shown(&self.trigger(&plan)),
            Ok(None) => NOTHING.to_owned(),
            Err(reason) => format!("reject: {reason}"),
        };
        vec![Preview { action, body: String::new() }]
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let mut seen = Seen::default();
            let outcome = match self.plan(delivery) {
                Ok(Some(plan)) => self.start(&plan, delivery, now, &mut seen).await,
                Ok(None) => Outcome::Discard { reason: NOTHING.to_owned() },
                Err(reason) => Outcome::Reject { reason },
            };
            Tried { outcome, status: seen.status, answer: seen.answer }
        })
    }

    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        Box::pin(async {
            let Workflow::Id(id) = &self.workflow else {
                return Ok("nothing to probe: the change names the workflow".to_owned());
            };
            let call = self.list(id, vec![("size", "1".to_owned())]);
            let reply = self.ci.call(&call, clock::now(), &mut Seen::default()).await;
            match reply.and_then(|reply| listed(&reply)) {
                Ok(_) => Ok(format!("may list the executions of {id}; whether it may trigger shows when it does")),
                Err(
                    Fault::Retry { reason, .. }
                    | Fault::Halt { reason }
                    | Fault::Missing { reason }
                    | Fault::Refused { reason, .. },
                ) => Err(reason),
            }
        })
    }
}

const NOTHING: &str = "not the beginning of an execution: nothing to start";
