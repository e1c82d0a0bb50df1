//! The configuration: loaded in layers, validated whole, printed without secrets.
//!
//! Defaults, then the file, then variables like `CALLBACKD__SERVER__LISTEN`, merged by the `config` crate. A second,
//! spanned pass over the file finds everything that is wrong at once, each with its line. This is the only module
//! that reads the environment, and `app` the only one that reads this.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::options::{Section, Size, Span};
use crate::secret::SecretSpec;

mod build;
mod document;
mod faults;
mod judge;
mod layers;
mod load;
mod otlp;
mod proxies;
mod salvage;
mod schema;
mod tree;

pub use build::{Adapters, Report, check};
pub use faults::{Faults, no_such};
pub use load::Environment;
pub use otlp::Otlp;
pub use salvage::Broken;
pub use schema::SCHEMA;
#[cfg(test)]
pub(crate) use schema::blessed;

/// What the variables that belong to the configuration begin with.
const PREFIX: &str = "CALLBACKD";

/// The whole configuration, merged; what belongs to one adapter is still to be read by it.
pub struct Config {
    /// The file it came from, if one was read.
    pub file: Option<PathBuf>,
    /// Where senders reach us, and the limits on them.
    pub server: Server,
    /// Where operators reach us.
    pub admin: Admin,
    /// Where everything is kept.
    pub store: Store,
    /// How peers are reached.
    pub outbound: Outbound,
    /// What is logged, and how.
    pub log: Log,
    /// Where traces are told, if anywhere.
    pub otlp: Option<Otlp>,
    /// `[sources.NAME]`, in the order of their names.
    pub sources: Vec<SourceEntry>,
    /// `[sinks.NAME]`, in the order of their names.
    pub sinks: Vec<SinkEntry>,
    /// `[[routes]]`, in the file's order.
    pub routes: Vec<RouteEntry>,
    /// `[[links]]`, in the file's order.
    pub links: Vec<LinkEntry>,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<String>,
    /// Something in it is wrong, and this is what could be read all the same.
    pub is_partial: bool,
    places: document::Places,
}

/// `[server]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// `address:port`, `unix:/path`, or `systemd` for a socket handed over by systemd.
    pub listen: String,
    /// Serves TLS when set.
    pub tls: Option<Tls>,
    /// This callbackd's name in CloudEvents' `source`; default: the machine's host name.
    pub instance: Option<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "nets")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub trusted_proxies: Vec<IpNet>,
    /// A larger body is refused with 413, in bytes.
    pub body_bytes_max: usize,
    /// A larger head is refused with 431, in bytes.
    pub head_bytes_max: usize,
    /// All bodies being received at one time, in bytes; beyond that, 503.
    pub bodies_bytes_max: usize,
    /// Connections at one time; for further ones, those that are silent make room.
    pub connections_max: usize,
    /// Connections of one address at one time; 0 for no limit.
    pub connections_per_address_max: usize,
    /// A head has to be complete within this time.
    pub head_timeout: Span,
    /// A body has to be complete within this time.
    pub body_timeout: Span,
    /// What is not on disk within this time after its body came is answered 503.
    pub answer_timeout: Span,
    /// An idle connection is closed after this time.
    pub idle_timeout: Span,
    /// On shutdown, what was begun may take this long.
    pub drain_timeout: Span,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: "127.0.0.1:8480".to_owned(),
            tls: None,
            instance: None,
            trusted_proxies: Vec::new(),
            body_bytes_max: 4 << 20,
            head_bytes_max: 64 << 10,
            bodies_bytes_max: 64 << 20,
            connections_max: 1024,
            connections_per_address_max: 0,
            head_timeout: Span::seconds(10),
            body_timeout: Span::seconds(30),
            answer_timeout: Span::seconds(10),
            idle_timeout: Span::seconds(75),
            drain_timeout: Span::seconds(20),
        }
    }
}

/// `tls = { cert, key }`: PEM files, read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, and those between it and the root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[admin]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// `address:port` or `unix:/path`.
    pub listen: String,
    /// Asked for as `Authorization: Bearer …`; an address beyond loopback does not start without it.
    pub token: Option<SecretSpec>,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { listen: "127.0.0.1:8481".to_owned(), token: None }
    }
}

/// `[store]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// `sqlite:PATH`, or `postgres://…`.
    pub url: String,
    /// PostgreSQL's, where the address holds none.
    pub password: Option<SecretSpec>,
    /// Certificates to be trusted beside those of this machine.
    pub ca_file: Option<PathBuf>,
    /// Connections to PostgreSQL beside the writer's and the listener's.
    pub connections: usize,
    /// A PostgreSQL that may lose what it said was kept is taken all the same.
    pub may_lose: bool,
    /// How long what belongs to a finished and delivered execution is kept.
    pub keep: Span,
    /// What it takes of its disk; above that, what is finished and delivered goes sooner.
    pub disk_max: Size,
    /// A folder in which what goes is kept as files.
    pub export: Option<PathBuf>,
    /// The size at which the log beside the file is copied into it; nothing said: by the size of the disk.
    pub log_bytes: Option<u64>,
    /// Callbacks waiting to be committed at one time; beyond that, 503.
    pub queue_max: usize,
    /// Connections that read beside the writer.
    pub readers: usize,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            url: "sqlite:callbackd.db".to_owned(),
            password: None,
            ca_file: None,
            connections: 8,
            may_lose: false,
            keep: Span::seconds(90 * 86_400),
            disk_max: Size::Percent(80),
            export: None,
            log_bytes: None,
            queue_max: 4096,
            readers: 3,
        }
    }
}

impl Store {
    /// Whether it is a PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        ["postgres:", "postgresql:"].iter().any(|scheme| self.url.starts_with(scheme))
    }
}

/// `[outbound]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// `http://host:port`, for every peer; may hold a credential. Default: what the environment says.
    pub proxy: Option<SecretSpec>,
    /// Hosts, domains and networks that are reached without a proxy. Default: what the environment says.
    pub no_proxy: Option<Vec<String>>,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[cfg_attr(test, schemars(extend("enum" = ["error", "warn", "info", "debug", "trace"])))]
    pub level: String,
    /// `text` or `json`.
    #[cfg_attr(test, schemars(extend("enum" = ["text", "json"])))]
    pub format: String,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: "text".to_owned() }
    }
}

/// One `[sources.NAME]`.
pub struct SourceEntry {
    /// NAME.
    pub name: String,
    /// `kind`, as the kind spells it.
    pub kind: String,
    /// What every source has.
    pub common: SourceCommon,
    /// The rest: the kind's own options.
    pub section: Section,
}

/// The keys of every source.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SourceCommon {
    /// The path it is registered under.
    pub path: String,
    /// Addresses that may call; empty for all.
    #[serde(default, deserialize_with = "nets")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub allow: Vec<IpNet>,
    /// Requests a second at the most, over all senders; 0 for no limit.
    #[serde(default)]
    pub rate: u32,
    /// The vendor is asked before a callback is believed.
    #[serde(default)]
    pub confirm: bool,
    /// An execution that is not finished within this time is overdue.
    pub expect_within: Option<Span>,
    /// The same for those of a workflow, by its id or name.
    #[serde(default)]
    pub expect: BTreeMap<String, Span>,
}

/// One `[sinks.NAME]`.
#[derive(Clone, PartialEq)]
pub struct SinkEntry {
    /// NAME.
    pub name: String,
    /// `kind`, as the kind spells it (an alias is resolved).
    pub kind: String,
    /// What every sink has.
    pub common: SinkCommon,
    /// The rest: the kind's own options.
    pub section: Section,
}

/// The keys of every sink.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SinkCommon {
    /// Deliveries under way at one time.
    pub concurrency: usize,
    /// One try may take this long.
    pub timeout: Span,
    /// The first retry comes after at most this long.
    pub retry_first: Span,
    /// No two tries are further apart than this.
    pub retry_longest: Span,
    /// A delivery older than this is given up.
    pub age_max: Span,
    /// A delivery tried this often is given up.
    pub attempts_max: u32,
    /// So many failures in a row stop all but a probe.
    pub breaker_failures: u32,
    /// How often a stopped sink is probed.
    pub breaker_probe: Span,
    /// A waiting delivery that a newer change overtakes is discarded as `superseded`.
    pub coalesce: bool,
}

impl Default for SinkCommon {
    fn default() -> SinkCommon {
        SinkCommon {
            concurrency: 32,
            timeout: Span::seconds(30),
            retry_first: Span::seconds(1),
            retry_longest: Span::seconds(300),
            age_max: Span::seconds(3 * 86_400),
            attempts_max: 10_000,
            breaker_failures: 10,
            breaker_probe: Span::seconds(5),
            coalesce: false,
        }
    }
}

/// One `[[routes]]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// Names of sources.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub from: Vec<String>,
    /// jq over the `data` of the normalized change.
    pub when: Option<String>,
    /// Names of sinks.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub to: Vec<String>,
}

/// One `[[links]]`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LinkEntry {
    /// The source whose executions look for a partner.
    pub of: String,
    /// jq: what they are known by.
    pub key: String,
    /// The partner's source.
    pub with: String,
    /// jq: what a partner is known by.
    pub with_key: String,
}

/// Networks; an address alone is a network of one.
fn nets<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    struct Net(IpNet);

    impl<'de> Deserialize<'de> for Net {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Net, D::Error> {
            let text = String::deserialize(d)?;
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            let net = net.map_err(|_| {
                let hint = "write a network like 10.0.0.0/8, or an address like 10.1.2.3 or fd00::1";
                serde::de::Error::custom(format!("{text:?} is no network; {hint}"))
            })?;
            Ok(Net(net))
        }
    }

    Ok(Vec::<Net>::deserialize(d)?.into_iter().map(|net| net.0).collect())
}
