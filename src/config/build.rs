//! From a configuration to what it describes: every adapter built, every secret found, or everything that is wrong.

use std::cell::RefCell;
use std::path::Path;

use super::load::{add, read, take};
use super::{Config, Environment, Faults, SinkEntry, otlp, proxies};
use crate::options::{BuildContext, Fault, Section};
use crate::secret::{Resolver, Secret, SecretSpec};
use crate::sinks::{self, Sink};
use crate::sources::{self, Source};

/// What a configuration describes, in its order.
pub struct Adapters {
    /// One for each of [`Config::sources`].
    pub sources: Vec<Box<dyn Source>>,
    /// One for each of [`Config::sinks`].
    pub sinks: Vec<Box<dyn Sink>>,
    /// What the admin address asks for.
    pub admin_token: Option<Secret>,
    /// PostgreSQL's.
    pub store_password: Option<Secret>,
    /// Where traces are told.
    #[cfg(feature = "otlp")]
    pub collector: Option<crate::otlp::Collector>,
    /// What is doubtful, for the operator.
    pub warnings: Vec<String>,
}

/// A configuration in which nothing is wrong.
pub struct Report {
    /// The configuration.
    pub config: Config,
    /// What it describes.
    pub adapters: Adapters,
}

/// Loads, validates and builds: everything that is wrong with file, environment and what they name, at once.
pub fn check(file: Option<&Path>, environment: &Environment) -> Result<Report, Faults> {
    let text = read(file)?;
    let (config, mut faults) = take(&text, file, environment);
    match config.adapters(environment) {
        Ok(adapters) if faults.is_empty() => return Ok(Report { config, adapters }),
        Ok(_) => {}
        Err(more) => more.faults.into_iter().for_each(|fault| add(&mut faults, fault)),
    }
    Err(Faults::new(config.file, faults))
}

impl Config {
    /// Builds every adapter and finds every secret.
    pub fn adapters(&self, environment: &Environment) -> Result<Adapters, Faults> {
        let env = |name: &str| environment.get(name);
        let secrets = Resolver { env: &env, warnings: RefCell::default() };
        let (instance, names) = (self.instance(), self.source_names());
        let mut faults = Vec::new();
        let outbound = proxies::settings(&self.outbound, &secrets, &mut faults);
        let context =
            |name| BuildContext { name, instance: &instance, secrets: &secrets, sources: &names, outbound: &outbound };

        let mut sources = Vec::new();
        for entry in &self.sources {
            let kind = sources::KINDS.iter().find(|k| k.name == entry.kind);
            let built = kind.map(|kind| (kind.build)(&entry.section, &context(&entry.name)));
            if let Some(Ok(source)) = &built
                && entry.common.confirm
                && source.inquire().is_none()
            {
                faults.push(entry.section.fault(
                    "confirm",
                    "needs a vendor that can be asked, and the credential to ask with: for kind = \"cos_workflow\" \
                     write secret_id and secret_key; no other kind can be asked, so leave confirm out there",
                ));
            }
            keep(built, &entry.section, &mut sources, &mut faults);
        }
        let mut sinks = Vec::new();
        for entry in &self.sinks {
            let kind = sinks::KINDS.iter().find(|k| k.name == entry.kind);
            let built = kind.map(|kind| (kind.build)(&entry.section, &context(&entry.name)));
            keep(built, &entry.section, &mut sinks, &mut faults);
        }
        let mut secret = |key: &str, spec: &Option<SecretSpec>| {
            spec.as_ref().and_then(|spec| secrets.resolve(spec).map_err(|text| faults.push(Fault::new(key, text))).ok())
        };
        let admin_token = secret("admin.token", &self.admin.token);
        let store_password = secret("store.password", &self.store.password);
        if let Some(tls) = &self.server.tls {
            for (key, path) in [("cert", &tls.cert), ("key", &tls.key)] {
                if let Err(e) = std::fs::File::open(path) {
                    faults.push(Fault::new(format!("server.tls.{key}"), format!("{}: {e}", path.display())));
                }
            }
        }
        #[cfg_attr(not(feature = "otlp"), expect(clippy::let_unit_value, reason = "there is none without the feature"))]
        let _collector = otlp::collector(self.otlp.as_ref(), &secrets, &outbound, &mut faults);
        if !faults.is_empty() {
            return Err(self.placed(faults));
        }
        let warnings = self.warnings.iter().cloned().chain(secrets.warnings.into_inner()).collect();
        Ok(Adapters {
            sources,
            sinks,
            admin_token,
            store_password,
            #[cfg(feature = "otlp")]
            collector: _collector,
            warnings,
        })
    }

    /// Builds something of one sink's section, as the sink itself is built.
    pub fn of_sink<T>(
        &self,
        sink: &SinkEntry,
        environment: &Environment,
        build: impl FnOnce(&Section, &BuildContext<'_>) -> Result<T, Vec<Fault>>,
    ) -> Result<T, Faults> {
        let env = |name: &str| environment.get(name);
        let secrets = Resolver { env: &env, warnings: RefCell::default() };
        let (instance, names) = (self.instance(), self.source_names());
        let mut faults = Vec::new();
        let outbound = proxies::settings(&self.outbound, &secrets, &mut faults);
        let context = BuildContext {
            name: &sink.name,
            instance: &instance,
            secrets: &secrets,
            sources: &names,
            outbound: &outbound,
        };
        let built = build(&sink.section, &context).map_err(|found| faults.extend(found));
        built.ok().filter(|_| faults.is_empty()).ok_or_else(|| self.placed(faults))
    }

    /// Name and kind of every source.
    fn source_names(&self) -> Vec<(String, String)> {
        self.sources.iter().map(|s| (s.name.clone(), s.kind.clone())).collect()
    }

    /// Faults with their lines.
    fn placed(&self, faults: Vec<Fault>) -> Faults {
        Faults::new(self.file.clone(), faults.into_iter().map(|fault| self.places.mark(fault)).collect())
    }

    /// This callbackd's name, as it stands in CloudEvents' `source`: as configured, else the machine's.
    pub fn instance(&self) -> String {
        let configured = self.server.instance.clone();
        configured.unwrap_or_else(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            if name.trim().is_empty() { "callbackd".to_owned() } else { name.trim().to_owned() }
        })
    }
}

fn keep<T: ?Sized>(
    built: Option<Result<Box<T>, Vec<Fault>>>,
    section: &Section,
    adapters: &mut Vec<Box<T>>,
    faults: &mut Vec<Fault>,
) {
    match built {
        Some(Ok(adapter)) => adapters.push(adapter),
        Some(Err(found)) => faults.extend(found),
        None => faults.push(section.fault("kind", "no such kind")),
    }
}
