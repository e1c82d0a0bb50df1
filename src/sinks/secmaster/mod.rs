//! Starts a workflow of Huawei Cloud SecMaster for a change, and follows it to its end where that is asked for.
//!
//! "SecMaster API Reference", CreateWorkflowInstance: `POST …/soc/workflows/{workflow_id}/instances`, signed with an
//! access key or with IAM's token. The call has no token of its own against repetition, so each start has an
//! `action_instance_id` that is the delivery's: the same at each try, and before a start is tried again SecMaster is
//! asked whether there is such an instance.
//!
//! A followed instance is an execution of its own, whose source is the sink: linked to the execution that it was
//! started for, and told of as the sink's routes say.

use std::path::PathBuf;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Kind, Preview, Sink, Tried, cut};
use crate::jq::Jq;
use crate::model::{Delivery, Time};
use crate::options::{self, BuildContext, Fault as Wrong, Faults, Section, Span};
use crate::outbound::{self, Client, Settings};
use crate::secret::{Resolver, Secret, SecretSpec};
use crate::{Boxed, clock};

mod api;
mod attempt;
mod gate;
mod instance;
mod said;
mod sign;
mod token;

use api::{Api, Auth, Call, Seen, Turn};
use attempt::Attempt;
use instance::Followed;
use said::Fault;
use token::Account;

/// `kind = "secmaster"`.
pub(super) const KIND: Kind = Kind {
    name: "secmaster",
    aliases: &[],
    build,
    examine: options::examine::<Options>,
    starts,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

/// The gateway takes no larger body.
const BODY_BYTES_MAX: usize = 12 << 20;
/// What `ListWorkflows` shows at one time, and how far it can be paged through.
const PAGE: usize = 100;
const OFFSET_MAX: usize = 10_000;

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Options {
    /// A region of Huawei Cloud, or `url`.
    region: Option<String>,
    /// The base URL, for clouds of partners.
    url: Option<String>,
    /// The project.
    project_id: String,
    /// The workspace.
    workspace_id: String,
    /// The workflow of which instances are started.
    workflow_id: String,
    /// An access key, which signs every request.
    access_key: Option<SecretSpec>,
    /// The key that belongs to `access_key`.
    secret_key: Option<SecretSpec>,
    /// Of a temporary access key.
    security_token: Option<SecretSpec>,
    /// The domain of an IAM user, instead of a key.
    domain: Option<String>,
    /// The IAM user.
    user: Option<String>,
    /// The IAM user's password.
    password: Option<SecretSpec>,
    /// The project that the token is for; default: the region.
    project: Option<String>,
    /// Where tokens are had, beside `url`.
    iam_url: Option<String>,
    /// The data class of what the workflow is given; "" names none.
    #[serde(default = "default_dataclass")]
    dataclass: String,
    /// Its id.
    dataclass_id: Option<String>,
    /// jq over the change: an object; default: the change's `data`.
    content: Option<String>,
    /// Follows the instance until it ends.
    #[serde(default)]
    follow: bool,
    /// So often it is looked at.
    #[serde(default = "default_follow_every")]
    follow_every: Span,
    /// What still runs then becomes `unknown`.
    #[serde(default = "default_follow_within")]
    follow_within: Span,
    /// A PEM file of certificates that are trusted beside this machine's.
    ca_file: Option<PathBuf>,
}

const DEFAULT_REGION: &str = "cn-north-4";

fn default_dataclass() -> String {
    "Alert".to_owned()
}

fn default_follow_every() -> Span {
    Span::seconds(10)
}

fn default_follow_within() -> Span {
    Span::seconds(86_400)
}

/// Only what is followed becomes an execution.
fn starts(section: &Section) -> bool {
    let follow = section.table.clone().into_table().ok().and_then(|mut table| table.remove("follow"));
    follow.is_some_and(|follow| follow.into_bool().unwrap_or(false))
}

struct Secmaster {
    api: Api,
    /// Its configured name: the source of what it starts.
    name: String,
    /// `…/soc/workflows`, below the base.
    workflows: String,
    workflow_id: String,
    dataclass: Option<Value>,
    content: Option<Jq>,
    follow: Option<Following>,
}

/// How instances are followed.
#[derive(Clone, Copy)]
struct Following {
    every: Span,
    within: Span,
}

/// The key that says where SecMaster is.
fn place_key(options: &Options) -> &'static str {
    if options.url.is_some() { "url" } else { "region" }
}

/// Where Huawei Cloud has its services.
fn at(service: &str, region: &str) -> String {
    format!("https://{service}.{region}.myhuaweicloud.com")
}

/// The base URL of a service: as it is written, else the region's.
fn place(service: &str, url: Option<&str>, region: Option<&str>) -> Result<String, String> {
    let example = at(service, DEFAULT_REGION);
    let is_region = |region: &str| region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match (url, region) {
        (Some(url), _) => outbound::base_url(url, &example),
        (None, Some(region)) if !region.is_empty() && is_region(region) => Ok(at(service, region)),
        (None, Some(_)) => Err(format!("is no region; write it like {DEFAULT_REGION:?}")),
        (None, None) => {
            Err(format!("has to be written, like {DEFAULT_REGION:?}; or a url, where the cloud is a partner's"))
        }
    }
}

/// An access key, or what IAM gives a token for.
fn auth(options: &Options, secrets: &Resolver<'_>, faults: &mut Faults<'_>) -> Option<Auth> {
    let by_key = [&options.access_key, &options.secret_key, &options.security_token].iter().any(|key| key.is_some());
    let by_password = options.user.is_some() || options.domain.is_some() || options.password.is_some();
    match (by_key, by_password) {
        (true, false) => {}
        (false, true) => return account(options, secrets, faults).map(Auth::Password),
        (true, true) => {
            faults.add("user", "is another way to authenticate than access_key; write one of the two");
            return None;
        }
        (false, false) => {
            faults.add("access_key", "has to be written, with secret_key; or domain, user and password");
            return None;
        }
    }
    let mut secret = |key: &str, spec: &Option<SecretSpec>| match spec {
        Some(spec) => faults.keep(key, secrets.resolve(spec).and_then(fit_for_a_header)),
        None => {
            faults.add(key, "has to be written: access_key and secret_key belong together");
            None
        }
    };
    let (access_key, secret_key) =
        (secret("access_key", &options.access_key), secret("secret_key", &options.secret_key));
    let security_token = match &options.security_token {
        Some(_) => Some(secret("security_token", &options.security_token)?),
        None => None,
    };
    Some(Auth::Key { access_key: access_key?, secret_key: secret_key?, security_token })
}

fn fit_for_a_header(secret: Secret) -> Result<Secret, String> {
    match secret.expose().bytes().all(|b| b.is_ascii_graphic() && b != b',') {
        true => Ok(secret),
        false => Err("has a blank, a comma or another character that no key has; copy it again".to_owned()),
    }
}

fn account(options: &Options, secrets: &Resolver<'_>, faults: &mut Faults<'_>) -> Option<Account> {
    let (iam_url, region) = (options.iam_url.as_deref(), options.region.as_deref());
    let iam = match (iam_url, region) {
        (None, None) => Err(format!("has to be written beside url, like {:?}", at("iam", DEFAULT_REGION))),
        _ => place("iam", iam_url, region),
    };
    let iam = faults.keep(if region.is_some() && iam_url.is_none() { "region" } else { "iam_url" }, iam);
    let mut text = |key: &str, text: Option<&String>, hint: &str| {
        let text = text.filter(|text| !text.is_empty()).cloned();
        faults.keep(key, text.ok_or_else(|| format!("has to be written: {hint}")))
    };
    let domain = text("domain", options.domain.as_ref(), "the account that the IAM user belongs to");
    let user = text("user", options.user.as_ref(), "the IAM user's name");
    let project = options.project.as_ref().or(options.region.as_ref());
    let project = text("project", project, "the project that the token is for, mostly the region's name");
    let password = options.password.as_ref().ok_or_else(|| "has to be written: the IAM user's".to_owned());
    let password = faults.keep("password", password.and_then(|spec| secrets.resolve(spec)));
    let held = tokio::sync::Mutex::default();
    Some(Account { iam: iam?, domain: domain?, user: user?, password: password?, project: project?, held })
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Wrong>> {
    let options: Options = section.read()?;
    let mut faults = Faults::of(section);
    let base = faults.keep(place_key(&options), place("secmaster", options.url.as_deref(), options.region.as_deref()));
    let ids = [
        ("project_id", &options.project_id),
        ("workspace_id", &options.workspace_id),
        ("workflow_id", &options.workflow_id),
    ];
    for (key, id) in ids {
        if !instance::is_id(id) {
            faults.add(key, "is no id; copy it from the console: letters, digits and -");
        }
    }
    let auth = auth(&options, context.secrets, &mut faults);
    let settings = Settings { ca_file: options.ca_file, ..context.outbound.clone() };
    let client = faults.keep("ca_file", Client::new(&settings));
    let content = options.content.and_then(|text| faults.keep("content", Jq::compile(&text)));
    if options.follow_every.ms() == 0 {
        faults.add("follow_every", "leaves no time at all; write a time like \"10s\"");
    }
    let name = Some(options.dataclass).filter(|name| !name.is_empty());
    let dataclass: serde_json::Map<_, _> = [("id", options.dataclass_id), ("name", name)]
        .into_iter()
        .filter_map(|(key, text)| Some((key.to_owned(), json!(text?))))
        .collect();
    let built = || {
        Some(Box::new(Secmaster {
            workflows: format!("/v1/{}/workspaces/{}/soc/workflows", options.project_id, options.workspace_id),
            api: Api::new(client?, base?, options.project_id, auth?),
            name: context.name.to_owned(),
            workflow_id: options.workflow_id,
            dataclass: (!dataclass.is_empty()).then_some(Value::Object(dataclass)),
            content,
            follow: options.follow.then_some(Following { every: options.follow_every, within: options.follow_within }),
        }) as Box<dyn Sink>)
    };
    faults.finish(built())
}

impl Sink for Secmaster {
    fn preview(&self, delivery: &Delivery, _: Time) -> Vec<Preview> {
        let call = match Followed::of(delivery) {
            Some(followed) => Ok(self.show(&followed.instance)),
            None => self.start(delivery, &instance::id_of(delivery)),
        };
        let (action, body) = match call {
            Ok(call) => (
                format!("{} {}{}", call.method, self.api.base(), call.path),
                String::from_utf8_lossy(&call.body).into_owned(),
            ),
            Err(reason) => (format!("reject: {reason}"), String::new()),
        };
        vec![Preview { action, body }]
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let mut attempt = Attempt { sink: self, delivery, turn: self.api.turn(now), seen: Seen::default() };
            let outcome = attempt.run().await;
            Tried { outcome, status: attempt.seen.status, answer: attempt.seen.answer }
        })
    }

    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        Box::pin(async {
            // Nobody hands a probe the time, and a signature needs it.
            let turn = self.api.turn(clock::now());
            let found = match self.find_workflow(turn).await {
                Ok(found) => found,
                Err(
                    Fault::Retry { reason, .. }
                    | Fault::Halt { reason }
                    | Fault::Forbidden { reason }
                    | Fault::Missing { reason }
                    | Fault::Refused { reason },
                ) => Err(reason),
            };
            match self.api.clock_off_s() {
                0 => found,
                off_s => found.map(|found| format!("{found}; this machine's clock is {} s off", -off_s)),
            }
        })
    }
}

impl Secmaster {
    /// CreateWorkflowInstance.
    fn start(&self, delivery: &Delivery, id: &str) -> Result<Call, String> {
        let change = serde_json::to_value(&*delivery.change).map_err(|e| e.to_string())?;
        let content = match &self.content {
            None => change,
            Some(jq) => match jq.run(&change).map_err(|fault| format!("content: {fault}"))?.into_iter().next() {
                Some(object @ Value::Object(_)) => object,
                _ => return Err("content: the program's result is no object, as SecMaster wants it".to_owned()),
            },
        };
        let mut data_object = json!({"content": content});
        if let Some(dataclass) = &self.dataclass {
            data_object["dataclass"] = dataclass.clone();
        }
        let body = json!({
            "command_type": "ActionInstanceRunCommand", "action_type": "workflow", "action_id": self.workflow_id,
            "action_instance_id": id, "playbook_context": {"data_object": data_object},
        });
        let body = Bytes::from(body.to_string());
        if body.len() > BODY_BYTES_MAX {
            return Err(format!(
                "{} bytes are more than SecMaster takes; write a `content` that says less",
                body.len()
            ));
        }
        let path = format!("{}/{}/instances", self.workflows, self.workflow_id);
        Ok(Call { method: Method::POST, path, query: Vec::new(), body })
    }

    /// ShowAopWorkflowInstance.
    fn show(&self, instance: &str) -> Call {
        let path = format!("{}/instances/{instance}", self.workflows);
        Call { method: Method::GET, path, query: Vec::new(), body: Bytes::new() }
    }

    /// Looks for the configured workflow among those of the workspace (ListWorkflows): what it is, or what is wrong.
    async fn find_workflow(&self, turn: Turn) -> Result<Result<String, String>, Fault> {
        let mut offset = 0;
        while offset <= OFFSET_MAX {
            let query = vec![("limit", PAGE.to_string()), ("offset", offset.to_string())];
            let call = Call { method: Method::GET, path: self.workflows.clone(), query, body: Bytes::new() };
            let answer = self.api.call(&call, turn, &mut Seen::default()).await?;
            let Some(page) = answer.get("data").and_then(Value::as_array) else {
                return Ok(Err("the answer has no list of workflows: is url SecMaster's?".to_owned()));
            };
            if let Some(workflow) = page.iter().find(|workflow| workflow["id"] == self.workflow_id.as_str()) {
                let name = workflow["name"].as_str().map_or(String::new(), |name| format!(" {:?}", cut(name, 80)));
                return Ok(match workflow["enabled"] {
                    Value::Bool(false) => Err(format!("workflow{name} is there, but not enabled")),
                    Value::Bool(true) => Ok(format!("workflow{name} is there and enabled")),
                    _ => Ok(format!("workflow{name} is there; SecMaster does not say whether it is enabled")),
                });
            }
            offset += page.len();
            let total = answer.get("total").and_then(Value::as_u64);
            if page.is_empty()
                || total.is_some_and(|total| offset as u64 >= total)
                || (total.is_none() && page.len() < PAGE)
            {
                break;
            }
        }
        Ok(Err(format!("the workspace has no workflow {}, but {offset} others", self.workflow_id)))
    }
}
