//! `explain`: which source takes a callback, what it would change, and who would be told what. Nothing is stored or
//! sent; the store is only looked at.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::reach::{Context, queries};
use super::replay::fixture::read_headers;
use super::{Failure, block_on, print};
use crate::config::Config;
use crate::model::{Change, ChangeMeta, Delivery, Rules, State, Time, Update, Verdict};
use crate::pipeline::ingest::Intake;
use crate::sinks::Sink;
use crate::{app, clock};

mod asked;
mod held;
mod seen;

use held::{Held, Known};
use seen::{Link, Reading, Route, Seen, Told};

/// What its exit code means: not what becomes of the callback.
const EXIT: &str = "Exit codes: 0 when it was explained, whatever would become of the callback: that it would be refused, \
                    quarantined or a repeat is told, and with --json in `refused_with`, `quarantined` and `updates`; 1 when it \
                    could not be (no such file, no such source); 2 usage; 78 bad configuration.";

#[derive(Args, Debug)]
#[command(after_help = EXIT)]
pub(super) struct Explain {
    /// The callback's body
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The headers it came with: lines of "Name: value". Where they hold no credential, it is made now, as its sender would;
    /// where they do, it is taken as it is
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// The URL it came to, or its path and query: taken as it is
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The address it came from, for `allow`
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// When it came, for the age of a signature; default: now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Time>,
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
        let target = self.url.as_deref().map(asked::Target::of);
        if let Some(target) = &target {
            target.only_where_it_leads(&mut intakes, self.source.as_deref()).map_err(Failure::Failed)?;
        } else if let Some(name) = &self.source {
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
            known: Known::new(queries(&config, context.env).ok()),
            config,
            now: self.at.unwrap_or_else(clock::now),
        };
        let asked = asked::Asked { body: body.into(), headers, target, from: self.from };
        let read = block_on(async {
            let mut read = Vec::with_capacity(intakes.len());
            for (path, intake) in &intakes {
                read.push(world.read(path, intake, &asked).await?);
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
    async fn read(&self, path: &str, intake: &Intake, asked: &asked::Asked) -> Result<Reading, Failure> {
        let name = intake.name.to_string();
        let kind = self.config.sources.iter().find(|s| s.name == name).map(|s| s.kind.clone()).unwrap_or_default();
        let mut reading = Reading { source: name, kind, path: path.to_owned(), ..Reading::default() };
        if let Some(refused) = asked.refused_address(intake) {
            (reading.refused, reading.refused_with) = (Some(refused), 403);
        }
        let request = asked.request(path, intake, self.now);
        let remarks = if asked.is_exact() { intake.source.why(&request, self.now) } else { Vec::new() };
        let is_given_whole = asked.target.is_some();
        let receipt = match intake.source.authenticate(request, self.now) {
            Ok(receipt) => {
                // Of a token that was made for it there is nothing to say.
                reading.remarks = if is_given_whole { remarks } else { Vec::new() };
                reading.verified = asked.verified_by().to_owned();
                receipt
            }
            Err(e) => {
                reading.remarks = remarks;
                if reading.refused.is_none() {
                    (reading.refused, reading.refused_with) = (Some(e.to_string()), 401);
                }
                // What it would mean is worth knowing all the same.
                match intake.source.authenticate(asked.as_sender(intake, self.now), self.now) {
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

/// As `--at` is written.
fn time(text: &str) -> Result<Time, String> {
    Time::parse(text).ok_or_else(|| "write a time like \"2026-11-21T10:00:00Z\"".to_owned())
}
