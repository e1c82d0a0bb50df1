//! `[otlp]`: where traces are told. Its keys are the same in every build; what uses them is the feature `otlp`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::options::Fault;
use crate::outbound::Settings;
use crate::secret::{Resolver, SecretSpec};

/// `[otlp]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// A collector that takes OTLP over HTTP; /v1/traces is appended.
    pub endpoint: String,
    /// Further headers, each with a secret: `authorization = { file = "…" }`.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretSpec>,
    /// A PEM file of certificates to be trusted beside those of this machine.
    pub ca_file: Option<PathBuf>,
}

/// The collector that the section describes, if it is there.
#[cfg(feature = "otlp")]
pub(super) fn collector(
    otlp: Option<&Otlp>,
    secrets: &Resolver<'_>,
    outbound: &Settings,
    faults: &mut Vec<Fault>,
) -> Option<crate::otlp::Collector> {
    use http::HeaderName;

    let otlp = otlp?;
    let before = faults.len();
    let mut fault = |key: &str, text: String| faults.push(Fault::new(format!("otlp.{key}"), text));
    let url = crate::otlp::Collector::url(&otlp.endpoint).map_err(|text| fault("endpoint", text));
    let mut headers = http::HeaderMap::new();
    for (name, spec) in &otlp.headers {
        let read = name.parse::<HeaderName>().map_err(|_| format!("{name:?} is no header name"));
        let read = read.and_then(|name| match name.as_str() {
            "content-type" | "content-length" | "transfer-encoding" | "host" | "connection" => {
                Err("callbackd sets this header itself; take it out".to_owned())
            }
            _ => Ok((name, crate::outbound::secret_value(&secrets.resolve(spec)?)?)),
        });
        match read {
            Ok((name, value)) => drop(headers.insert(name, value)),
            Err(text) => fault(&format!("headers.{name}"), text),
        }
    }
    let built = crate::otlp::Collector::new(url.ok()?, headers, otlp.ca_file.clone(), outbound);
    let built = built.map_err(|text| fault("ca_file", text)).ok();
    built.filter(|_| faults.len() == before)
}

/// Nothing here tells traces.
#[cfg(not(feature = "otlp"))]
pub(super) fn collector(otlp: Option<&Otlp>, _: &Resolver<'_>, _: &Settings, faults: &mut Vec<Fault>) {
    if otlp.is_some() {
        let text = "this callbackd was built without otlp; build with `--features otlp`, or take the section out";
        faults.push(Fault::new("otlp", text));
    }
}
