//! `explain`: which source takes a callback, what it would change, and who would be told what. Nothing is stored or
//! sent; the store is only looked at.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http::HeaderMap;

use super::reach::{Context, store_path};
use super::replay::fixture::read_headers;
use super::{Failure, block_on, print};
use crate::config::Config;
use crate::model::{Change, ChangeMeta, Delivery, Receipt, Rules, State, Time, Update, Verdict};
use crate::pipeline::ingest::Intake;
use crate::sinks::Sink;
use crate::sources::{AuthError, RawRequest, SenderRequest};
use crate::store::sqlite;
use crate::{app, clock};

mod held;
mod seen;

use held::{Held, Known};
use seen::{Link, Reading, Route, Seen, Told};

#[derive(Args, Debug)]
pub(super) struct Explain {
    /// The callback's body
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The headers it came with: lines of "Name: value". What they leave out is made now, as its sender would
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// Only as this source would take it
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let body = fs::read(&self.file).map_err(|e| Failure::Failed(format!("{}: {e}", self.file.display())))?;
        let headers = self.headers.as_deref().map(read_headers).transpose().map_err(Failure::Failed)?;
        let config = context.config()?;
        let body_bytes_max = config.server.body_bytes_max;
        if body.len() > body_bytes_max {
            let why = format!("{} bytes: refused with 413, server.body_bytes_max is {body_bytes_max}", body.len());
            return Err(Failure::Failed(why));
        }
        let mut intakes = app::sources(&config, context.env)?;
        if let Some(name) = &self.source {
            intakes.retain(|(_, intake)| *intake.name == **name);
        }
        if intakes.is_empty() {
            let names: Vec<_> = config.sources.iter().map(|s| s.name.as_str()).collect();
            let asked = self.source.as_deref().map_or("no source is configured".to_owned(), |name| {
                format!("no source is called {name:?}; there are: {}", names.join(", "))
            });
            return Err(Failure::Failed(asked));
        }
        let world = World {
            rules: app::rules(&config)?,
            sinks: app::sinks(&config, context.env)?,
            known: Known::new(store_path(&config).ok().and_then(|path| sqlite::open_read_only(path).ok())),
            config,
            now: clock::now(),
        };
        let read = block_on(async {
            let mut read = Vec::with_capacity(intakes.len());
            for (path, intake) in &intakes {
                read.push(world.read(path, intake, Bytes::from(body.clone()), headers.as_ref()).await?);
            }
            Ok(read)
        })?;
        print::stdout(
            |out| if self.json { print::json_line(out, &Seen { sources: &read }) } else { seen::show(out, &read) },
        )
    }
}

/// What a callback would meet.
struct World {
    config: Config,
    rules: Rules,
    sinks: Vec<(String, Box<dyn Sink>)>,
    known: Known,
    now: Time,
}

impl World {
    /// Reads the body as `intake` would.
    async fn read(
        &self,
        path: &str,
        intake: &Intake,
        body: Bytes,
        headers: Option<&HeaderMap>,
    ) -> Result<Reading, Failure> {
        let name = intake.name.to_string();
        let kind = self.config.sources.iter().find(|s| s.name == name).map(|s| s.kind.clone()).unwrap_or_default();
        let mut reading = Reading { source: name, kind, path: path.to_owned(), ..Reading::default() };
        let receipt = match self.authenticate(intake, &body, headers) {
            Ok(receipt) => {
                reading.verified = match headers {
                    Some(_) => "the given headers, and a credential made now where they hold none".to_owned(),
                    None => "a credential made now, as its sender would".to_owned(),
                };
                receipt
            }
            Err(e) => {
                reading.refused = Some(e.to_string());
                // What it would mean is worth knowing all the same.
                let unsigned = without_credentials(headers);
                match self.authenticate(intake, &body, unsigned.as_ref()) {
                    Ok(receipt) => receipt,
                    Err(_) => return Ok(reading),
                }
            }
        };
        reading.headers = receipt.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        match intake.source.parse(&receipt) {
            Ok(updates) => {
                reading.held = intake.confirm;
                reading.updates = self.follow(&intake.name, updates).await?;
            }
            Err(e) => {
                reading.quarantined = Some(e.to_string());
                reading.status = Some(intake.source.quarantined().as_u16());
            }
        }
        Ok(reading)
    }

    /// Authenticates the request that the real sender would make, with the given headers over the sender's own.
    fn authenticate(&self, intake: &Intake, body: &Bytes, headers: Option<&HeaderMap>) -> Result<Receipt, AuthError> {
        let given = headers.cloned().unwrap_or_default();
        let mut request = intake.source.as_sender(body.clone(), given.clone(), self.now);
        for name in given.keys() {
            request.headers.remove(name);
            for value in given.get_all(name) {
                request.headers.append(name, value.clone());
            }
        }
        intake.source.authenticate(as_received(request), self.now)
    }

    /// What follows from the updates, one after the other, as the store would decide it.
    async fn follow(&self, source: &str, updates: Vec<Update>) -> Result<Vec<Told>, Failure> {
        let mut states: Vec<Held> = Vec::new();
        let mut told = Vec::with_capacity(updates.len());
        for update in updates {
            let position = match states.iter().position(|held| held.key == update.key) {
                Some(position) => position,
                None => {
                    states.push(self.known.look(source, &update.key).await?);
                    states.len() - 1
                }
            };
            told.push(self.judge(source, &mut states[position], update));
        }
        Ok(told)
    }

    fn judge(&self, source: &str, held: &mut Held, update: Update) -> Told {
        let verdict = match &held.state {
            None => Verdict::Accepted(Box::new(State::begin(source, update))),
            // Readers do not see the identities applied so far; a repeat is known by saying nothing new.
            Some(state) => state.judge(std::iter::empty(), &update),
        };
        let accepted = match verdict {
            Verdict::Duplicate => return Told::nothing(&held.key, "duplicate", None),
            Verdict::Conflict(why) => return Told::nothing(&held.key, "conflict", Some(why)),
            Verdict::Accepted(accepted) => *accepted,
        };
        held.changes += 1;
        held.state = Some(accepted.state.clone());
        let change = Change {
            id: 0,
            execution_id: held.id,
            links: held.links.clone(),
            meta: ChangeMeta {
                kind: Change::kind_of(&accepted).to_owned(),
                sequence: held.changes,
                previous_status: accepted.previous_status,
                changed_tasks: accepted.changed_tasks(),
                overdue: false,
                receipt: None,
                received_at: self.now,
            },
            state: accepted.state,
        };
        self.tell(source, &held.key, change)
    }

    /// Who would be told of `change`, and what.
    fn tell(&self, source: &str, key: &str, change: Change) -> Told {
        let data = serde_json::to_value(&change).unwrap_or_default();
        let mut told = Told::nothing(key, "accepted", None);
        for (i, route) in self.rules.routes.iter().enumerate().filter(|(_, r)| r.from.iter().any(|f| f == source)) {
            let judged = route.when.as_ref().map_or(Ok(true), |when| when.test(&data));
            told.routes.push(Route {
                route: i,
                when: self.config.routes.get(i).and_then(|r| r.when.clone()),
                to: route.to.clone(),
                matches: *judged.as_ref().unwrap_or(&false),
                fault: judged.err(),
            });
        }
        for (i, rule) in self.rules.links.iter().enumerate() {
            let mut known_by = |program: &dyn crate::model::Program, with: &str| {
                let (text, fault) = match program.text(&data) {
                    Ok(text) => (text, None),
                    Err(fault) => (None, Some(fault)),
                };
                told.links.push(Link { link: i, with: with.to_owned(), known_by: text, fault });
            };
            if rule.of == source {
                known_by(&*rule.key, &rule.with);
            }
            if rule.with == source {
                known_by(&*rule.with_key, &rule.of);
            }
        }
        let delivery =
            Delivery { id: 0, change: Arc::new(change), attempts: 0, created_at: self.now, resume: None, trace: None };
        for name in self.rules.targets(source, &data).sinks {
            let sink = self.sinks.iter().find(|(n, _)| *n == name);
            let requests = sink.map(|(_, sink)| sink.preview(&delivery, self.now)).unwrap_or_default();
            told.sinks.push(seen::Asked { sink: name, requests });
        }
        told.change = Some(data);
        told
    }
}

/// The sender's request as the server would hand it to its source.
fn as_received(request: SenderRequest) -> RawRequest {
    let (rest, query) = match request.suffix.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (request.suffix.as_str(), None),
    };
    RawRequest {
        method: request.method,
        rest: rest.trim_start_matches('/').to_owned(),
        query,
        headers: request.headers,
        body: request.body,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// The given headers without those that could be a credential, so that the sender's own are made anew.
fn without_credentials(headers: Option<&HeaderMap>) -> Option<HeaderMap> {
    let mut kept = headers?.clone();
    let names: Vec<_> = kept.keys().cloned().collect();
    for name in names {
        let word = name.as_str();
        if ["signature", "timestamp", "authorization", "token"].iter().any(|part| word.contains(part)) {
            kept.remove(name);
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn a_senders_suffix_is_taken_apart_as_the_server_does() {
        for (suffix, rest, query) in [
            ("", "", None),
            ("/secret", "secret", None),
            ("?token=a/b?c", "", Some("token=a/b?c")),
            ("/secret?x=1", "secret", Some("x=1")),
        ] {
            let request = SenderRequest {
                method: Method::POST,
                suffix: suffix.to_owned(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            let raw = as_received(request);
            assert_eq!((raw.rest.as_str(), raw.query.as_deref()), (rest, query), "{suffix}");
        }
    }
}
