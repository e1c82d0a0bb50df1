//! `zabbix apply`: what the sink needs at Zabbix is there, and is as it should be: host group, host, item, trigger,
//! event correlation, and the actions.
//!
//! Each is looked for by its name first, created where it is missing, and updated where it differs; so a second time
//! nothing is to be done. A dry run asks the same and changes nothing. Nothing is ever deleted.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::action::{Kind, ScriptMembers};
use super::api::{Api, ApiError, Version};
use crate::model::Time;

mod actions;
mod compare;
mod objects;
mod scripts;
mod wanted;

pub(super) use wanted::{Wanted, Written};

use actions::Known;
use objects::Is;

/// What is told while it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Who is spoken to.
    Peer(String),
    /// Something that is changed, or would be.
    Change(String),
    /// Something to know.
    Note(String),
}

/// A frontend that works answers a call within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The id of what a dry run does not create.
const NOT_YET: &str = "(new)";

/// One run.
struct Run<'a> {
    api: &'a Api,
    version: Version,
    dry: bool,
    now: Time,
    say: &'a mut (dyn FnMut(Said) + Send),
    changes: usize,
    known: Known,
}

/// Applies it, and says how many changes that takes.
pub(super) async fn apply(
    api: &Api,
    wanted: &Wanted,
    dry: bool,
    now: Time,
    say: &mut (dyn FnMut(Said) + Send),
) -> Result<usize, String> {
    let version = in_time(api.version(now)).await.map_err(|e| e.to_string())?;
    say(Said::Peer(format!("Zabbix {version} at {}", api.url())));
    if version < super::action::OLDEST {
        return Err(format!("Zabbix {version} is too old to be set up; {} or newer is needed", super::action::OLDEST));
    }
    let mut run = Run { api, version, dry, now, say, changes: 0, known: Known::default() };
    let done = run.all(wanted).await;
    let changes = run.changes;
    // A session that is left open stays for long; that it could not be closed is no failure.
    let _ = in_time(api.logout(now)).await;
    done.map(|()| changes)
}

impl Run<'_> {
    async fn all(&mut self, wanted: &Wanted) -> Result<(), String> {
        let group = self.group(&wanted.group).await?;
        let host = self.host(&wanted.host, &group, &wanted.group).await?;
        self.known.ids.insert((Kind::HostGroup, wanted.group.clone()), group);
        self.known.ids.insert((Kind::Host, wanted.host.clone()), host.clone());
        let (item, is) = self.item(wanted, &host).await?;
        let rest = self.of_item(wanted, &item).await;
        // Whatever became of the rest: a disabled item looks as if somebody wanted it so.
        if is == Is::New {
            self.enable(&item).await?;
        }
        rest
    }

    /// What makes something of the item's values.
    async fn of_item(&mut self, wanted: &Wanted, item: &str) -> Result<(), String> {
        self.trigger(wanted, item).await?;
        self.correlation(wanted).await?;
        for action in &wanted.actions {
            self.action(action).await?;
        }
        Ok(())
    }

    fn note(&mut self, text: impl Into<String>) {
        (self.say)(Said::Note(text.into()));
    }

    async fn call(&self, method: &str, params: &Value) -> Result<Value, ApiError> {
        in_time(self.api.call(method, params, self.now)).await
    }

    /// Asks for objects.
    async fn get(&self, method: &str, params: Value) -> Result<Vec<Value>, String> {
        match self.call(method, &params).await.map_err(|e| e.to_string())? {
            Value::Array(objects) => Ok(objects),
            _ => Err(format!("the answer to {method} is no list")),
        }
    }

    /// The one that `params` ask for, if there is one.
    async fn one(&self, what: &str, method: &str, params: Value) -> Result<Option<Value>, String> {
        let mut found = self.get(method, params).await?;
        match found.len() {
            0 | 1 => Ok(found.pop()),
            more => Err(format!("there are {more} of {what}; write the id of one")),
        }
    }

    /// Creates or updates something, unless this is a dry run; its id is the first of the answer's `ids`.
    async fn change(&mut self, what: String, method: &str, params: Value, ids: &str) -> Result<String, String> {
        self.changes += 1;
        (self.say)(Said::Change(what));
        if self.dry {
            return Ok(NOT_YET.to_owned());
        }
        let answer = self.call(method, &params).await.map_err(|e| match e {
            ApiError::Refused { data, .. } if data.contains("already exists") => {
                format!(
                    "{data} The credential's user does not see it: give the user rights to it, or another name here"
                )
            }
            e => e.to_string(),
        })?;
        let id = answer.get(ids).and_then(|ids| ids.get(0)).and_then(id_text);
        id.ok_or_else(|| format!("the answer to {method} has no {ids}"))
    }

    /// The same of what can be done without: where the user may not do it, `otherwise` is noted.
    async fn change_if_allowed(
        &mut self,
        what: String,
        method: &str,
        params: Value,
        otherwise: &str,
    ) -> Result<(), String> {
        if !self.dry {
            match self.call(method, &params).await {
                Ok(_) => {}
                Err(ApiError::Auth { reason }) => {
                    self.note(format!("{otherwise} ({reason})"));
                    return Ok(());
                }
                Err(e) => return Err(e.to_string()),
            }
        }
        self.changes += 1;
        (self.say)(Said::Change(what));
        Ok(())
    }

    /// Updates what differs from what is wanted.
    async fn update(
        &mut self,
        what: &str,
        (class, id_member): (&str, &str),
        found: &Value,
        wanted: &Map<String, Value>,
    ) -> Result<(), String> {
        let differences = compare::differences(wanted, found);
        if differences.is_empty() {
            return Ok(());
        }
        let id = found.get(id_member).cloned().unwrap_or_default();
        let mut params = wanted.clone();
        params.insert(id_member.to_owned(), id);
        let text = format!("update {what}: {}", differences.join("; "));
        let method = format!("{class}.update");
        self.change(text, &method, Value::Object(params), &format!("{id_member}s")).await.map(drop)
    }
}

/// An answer that does not come is none.
async fn in_time<T>(answer: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s; what was changed until then stays", ANSWER_TIMEOUT.as_secs());
        Err(ApiError::Retry { after_ms: None, reason })
    })
}

/// Ids are texts, and in some answers numbers.
fn id_text(id: &Value) -> Option<String> {
    match id {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A member that is a text.
fn member(object: &Value, name: &str) -> String {
    object.get(name).and_then(id_text).unwrap_or_default()
}

/// A script as it is looked for.
fn script_params(name: &str, members: &ScriptMembers) -> Map<String, Value> {
    let mut out = members.clone();
    out.insert("name".into(), json!(name));
    out
}
