//! `zabbix`: each change becomes a value of one text item; what Zabbix makes of it is its triggers' and actions'.
//!
//! A value goes over the trapper protocol, which every version speaks, or by `history.push`, from 7.0 on. Its `clock` is
//! the second in which the callback was recorded, its `ns` comes of the delivery: so a repetition is the same point in
//! time, which Zabbix keeps once, and another delivery never meets it. (Zabbix drops a second value of the same item,
//! `clock` and `ns` without a word.)
//!
//! Zabbix counts a value as processed before it knows what becomes of it; that the item is one for text is what
//! `callbackd check --probe` looks at.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Kind, Preview, Sink, Tried, cut, starts_nothing};
use crate::Boxed;
use crate::model::{Delivery, Outcome, Status, Time};
use crate::options::{self, BuildContext, Fault, Faults, Section};
use crate::outbound::{Client, Dial, Settings, TlsFiles};
use crate::secret::SecretSpec;

mod action;
pub mod api;
mod apply;
mod push;
mod said;
mod trapper;
pub mod value;
mod version;

use api::{Api, ApiError, Credential, Seen, Version};
pub use apply::Said;

use action::Described;
use action::words::Word;
use apply::{Wanted, Written};
use trapper::Trapper;

/// `kind = "zabbix"`.
pub(crate) const KIND: Kind = Kind {
    name: "zabbix",
    aliases: &[],
    build,
    examine: options::examine::<Options>,
    starts: starts_nothing,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

const ANSWER_CHARS_MAX: usize = 500;
/// Zabbix's own bounds for a host's technical name and an item's key.
const HOST_CHARS_MAX: usize = 128;
const KEY_CHARS_MAX: usize = 255;
/// Item types that take values from outside: trapper, HTTP agent; and the value type for texts.
const TYPE_TRAPPER: &str = "2";
const TYPE_HTTP_AGENT: &str = "19";
const VALUE_TYPE_TEXT: &str = "4";

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Options {
    /// The frontend.
    url: Option<String>,
    /// An API token.
    token: Option<SecretSpec>,
    /// A user, instead of a token.
    user: Option<String>,
    /// The user's password.
    password: Option<SecretSpec>,
    /// How values are told; default: trapper, where it is written.
    via: Option<Via>,
    /// Where the server, or the proxy that monitors the host, takes values: host:port.
    trapper: Option<String>,
    /// TLS for the trapper, with certificates on both sides.
    trapper_tls: Option<TrapperTls>,
    /// The technical name of the host of the item.
    #[serde(default = "default_host")]
    host: String,
    /// The item's key.
    #[serde(default = "default_key")]
    key: String,
    /// The host group in which `zabbix apply` makes them.
    #[serde(default = "default_host_group")]
    host_group: String,
    /// The severity of the trigger: "high", for example.
    #[serde(default = "default_severity")]
    severity: Word,
    /// Who may send values to the item.
    allowed_hosts: Option<String>,
    /// What tells people; a list, or the path of a file with what action.create takes.
    action: Option<Described>,
    /// A PEM file of certificates that are trusted beside this machine's.
    ca_file: Option<PathBuf>,
}

/// How values get there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Via {
    Trapper,
    History,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct TrapperTls {
    /// The certificates of which one has signed the server's.
    ca: PathBuf,
    /// Our certificate.
    cert: PathBuf,
    /// Its private key.
    key: PathBuf,
    /// The name in the server's certificate; default: the host that is called.
    name: Option<String>,
}

fn default_host() -> String {
    value::HOST.to_owned()
}

fn default_key() -> String {
    value::KEY.to_owned()
}

fn default_host_group() -> String {
    "callbackd".to_owned()
}

fn default_severity() -> Word {
    Word("high".to_owned())
}

/// What a section of this kind comes to: where Zabbix is, the item that is told, and what is to be there.
pub struct Zabbix {
    api: Option<Arc<Api>>,
    way: Way,
    host: String,
    key: String,
    wanted: Wanted,
}

/// Where a value goes.
enum Way {
    Trapper(Trapper),
    History(Arc<Api>),
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Fault>> {
    Zabbix::read(section, context).map(|zabbix| Box::new(zabbix) as Box<dyn Sink>)
}

impl Zabbix {
    /// Reads a section, or says everything that is wrong with it.
    pub fn read(section: &Section, context: &BuildContext<'_>) -> Result<Zabbix, Vec<Fault>> {
        let options: Options = section.read()?;
        let mut faults = Faults::of(section);
        for (key, text, chars_max) in [("host", &options.host, HOST_CHARS_MAX), ("key", &options.key, KEY_CHARS_MAX)] {
            if text.trim().is_empty() || text.chars().count() > chars_max {
                faults.add(key, format!("write 1 to {chars_max} characters"));
            }
        }
        let trapper = options.trapper.as_deref().and_then(|address| {
            let dial = faults.keep("trapper", Dial::new(address, trapper::PORT))?;
            let Some(TrapperTls { ca, cert, key, name }) = &options.trapper_tls else { return Some(dial) };
            let with_tls = dial.with_tls(&TlsFiles { ca, cert, key, name: name.as_deref() });
            with_tls.map_err(|(key, message)| faults.add(&format!("trapper_tls.{key}"), message)).ok()
        });
        if options.trapper.is_none() && options.trapper_tls.is_some() {
            faults.add("trapper_tls", "means nothing without trapper = \"host:10051\"");
        }
        let via = options.via.unwrap_or(if options.trapper.is_some() { Via::Trapper } else { Via::History });
        match via {
            Via::Trapper if options.trapper.is_none() => {
                faults.add("trapper", "has to be written for via = \"trapper\", like \"zabbix.example.com:10051\"");
            }
            Via::History if options.url.is_none() => {
                faults.add("url", "has to be written, or trapper = \"host:10051\" instead");
            }
            _ => {}
        }
        let api = match &options.url {
            Some(url) => {
                let url = faults.keep("url", api::read_url(url));
                let credential = credential(&options, context, &mut faults);
                let settings = Settings { ca_file: options.ca_file.clone(), ..context.outbound.clone() };
                let client = faults.keep("ca_file", Client::new(&settings));
                client.zip(url).zip(credential).map(|((client, url), credential)| Api::new(client, url, credential))
            }
            None => {
                let unused = [
                    ("token", options.token.is_some()),
                    ("user", options.user.is_some()),
                    ("password", options.password.is_some()),
                    ("ca_file", options.ca_file.is_some()),
                ];
                for (key, _) in unused.iter().filter(|(_, is_written)| *is_written) {
                    faults.add(key, "means nothing without url; the trapper asks for no credential");
                }
                None
            }
        };
        let written = Written {
            host: &options.host,
            key: &options.key,
            host_group: &options.host_group,
            severity: &options.severity,
            allowed_hosts: options.allowed_hosts.as_deref(),
            action: options.action.as_ref(),
        };
        let wanted = Wanted::read(&written, context.secrets, &mut faults);
        let api = api.map(Arc::new);
        let way = match via {
            Via::Trapper => trapper.map(|dial| Way::Trapper(Trapper::new(dial))),
            Via::History => api.clone().map(Way::History),
        };
        let built = way.zip(wanted);
        faults.finish(built.map(|(way, wanted)| Zabbix { api, way, host: options.host, key: options.key, wanted }))
    }

    /// Creates and updates what is to be there, says each step to `say`, and returns how many there were. A dry run
    /// changes nothing.
    pub async fn apply(&self, dry: bool, now: Time, say: &mut (dyn FnMut(Said) + Send)) -> Result<usize, String> {
        match &self.api {
            Some(api) => apply::apply(api, &self.wanted, dry, now, say).await,
            None => Err("url has to be written, and token: they say where Zabbix's API is".to_owned()),
        }
    }

    /// The API, where there is a `url`.
    pub fn api(&self) -> Option<&Api> {
        self.api.as_deref()
    }

    /// The technical name of the host that holds the item.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The item's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The one value of a delivery, in a list, as both ways of sending it want it.
    fn values(&self, delivery: &Delivery) -> Value {
        json!([{
            "host": self.host,
            "key": self.key,
            "value": value::of(&delivery.change),
            "clock": delivery.change.meta.received_at.seconds(),
            "ns": delivery.id.rem_euclid(1_000_000_000),
        }])
    }

    /// Asks whether the host and the item are there, and such that values arrive whole.
    async fn look(&self, api: &Api, now: Time) -> Result<String, String> {
        let said = |error: ApiError| error.to_string();
        let version = api.version(now).await.map_err(said)?;
        let pushes = matches!(self.way, Way::History(_));
        if pushes && version < Version::HISTORY_PUSH {
            return Err(push::too_old(version));
        }
        let (host, key, apply) = (&self.host, &self.key, "run `callbackd zabbix apply`");
        let hosts = json!({"output": ["hostid", "status"], "filter": {"host": [host]}});
        let hosts = api.call("host.get", &hosts, now).await.map_err(said)?;
        match hosts.pointer("/0/status").and_then(Value::as_str) {
            None => return Err(format!("Zabbix {version} shows no host {host:?} to this user; {apply}")),
            Some("0") => {}
            Some(_) => return Err(format!("Zabbix {version} has the host {host:?} disabled")),
        }
        let output = ["itemid", "type", "value_type", "status"];
        let items = json!({"output": output, "host": host, "filter": {"key_": key}});
        let items = api.call("item.get", &items, now).await.map_err(said)?;
        let field = |name: &str| items.pointer(&format!("/0/{name}")).and_then(Value::as_str);
        let item = format!("Zabbix {version}: on host {host:?}, the item {key:?}");
        match (field("type"), field("value_type"), field("status")) {
            (None, ..) => Err(format!("{item} is missing; {apply}")),
            (Some(kind), ..) if kind != TYPE_TRAPPER && !(pushes && kind == TYPE_HTTP_AGENT) => {
                Err(format!("{item} is no trapper item; {apply}"))
            }
            (_, Some(kind), _) if kind != VALUE_TYPE_TEXT => Err(format!("{item} is not of type Text; {apply}")),
            (.., Some(status)) if status != "0" => Err(format!("{item} is disabled")),
            _ => Ok(format!("{item} is ready")),
        }
    }
}

fn credential(options: &Options, context: &BuildContext<'_>, faults: &mut Faults<'_>) -> Option<Credential> {
    match (&options.token, &options.user, &options.password) {
        (Some(token), None, None) => faults.keep("token", context.secrets.resolve(token)).map(Credential::Token),
        (None, Some(user), Some(password)) => {
            let password = faults.keep("password", context.secrets.resolve(password))?;
            Some(Credential::Login { user: user.clone(), password })
        }
        (None, None, None) => {
            faults.add("token", "has to be written, or user and password where Zabbix is older than 5.4");
            None
        }
        (Some(_), ..) => {
            faults.add("token", "stands beside user or password; write one or the other");
            None
        }
        (None, None, Some(_)) => {
            faults.add("user", "has to be written beside password");
            None
        }
        (None, Some(_), None) => {
            faults.add("password", "has to be written beside user");
            None
        }
    }
}

impl Sink for Zabbix {
    fn preview(&self, delivery: &Delivery, _: Time) -> Vec<Preview> {
        let values = self.values(delivery);
        let (action, body) = match &self.way {
            Way::Trapper(trapper) => (format!("TRAPPER {}", trapper.address()), trapper::request(values)),
            Way::History(api) => (format!("POST {} {}", api.url(), push::METHOD), values),
        };
        vec![Preview { action, body: body.to_string() }]
    }

    fn harmless(&self) -> Option<Status> {
        Some(Status::Succeeded)
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let values = self.values(delivery);
            match &self.way {
                Way::Trapper(trapper) => match trapper.ask(&trapper::request(values)).await {
                    Ok(answer) => {
                        let kept = cut(&answer, ANSWER_CHARS_MAX).replace(char::is_control, " ");
                        Tried { outcome: trapper::judge(&answer), status: None, answer: Some(kept) }
                    }
                    Err(reason) => Outcome::Retry { after_ms: None, reason, resume: None }.into(),
                },
                Way::History(api) => {
                    let mut seen = Seen::default();
                    let outcome = push::push(api, &values, now, &mut seen).await;
                    Tried { outcome, status: seen.status, answer: seen.answer }
                }
            }
        })
    }

    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        Box::pin(async {
            let mut found = Vec::new();
            if let Some(api) = &self.api {
                // A probe is no part of a try, and looks at no clock.
                let now = Time::default();
                let looked = self.look(api, now).await;
                // A session that stays open ends by itself after a while.
                let _ = api.logout(now).await;
                found.push(looked?);
            }
            if let Way::Trapper(trapper) = &self.way {
                found.push(trapper.probe().await?);
            }
            Ok(found.join("; "))
        })
    }
}
