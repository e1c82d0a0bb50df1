//! The actions, and the names in them.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{NOT_YET, Run, id_text, member};
use crate::sinks::zabbix::action::{self, Action, Ids, Kind, Script};
use crate::sinks::zabbix::api::Version;

/// From here on a user's name is called `username`.
const USERNAME: Version = Version { major: 5, minor: 4 };
/// From here on a proxy's name is called `name`.
const PROXY_NAME: Version = Version { major: 7, minor: 0 };

/// The ids that are known by now.
#[derive(Default)]
pub(super) struct Known {
    pub(super) ids: HashMap<(Kind, String), String>,
    scripts: Vec<(Script, String)>,
}

/// What a translation asks for, and is not known yet.
struct Asked<'a> {
    known: &'a Known,
    ids: Vec<(Kind, String)>,
    scripts: Vec<Script>,
}

impl Ids for Asked<'_> {
    fn id(&mut self, kind: Kind, name: &str) -> String {
        let asked = (kind, name.to_owned());
        self.known.ids.get(&asked).cloned().unwrap_or_else(|| {
            self.ids.push(asked);
            NOT_YET.to_owned()
        })
    }

    fn script(&mut self, script: Script) -> String {
        let known = self.known.scripts.iter().find(|(s, _)| *s == script);
        known.map(|(_, id)| id.clone()).unwrap_or_else(|| {
            self.scripts.push(script);
            NOT_YET.to_owned()
        })
    }
}

impl Run<'_> {
    pub(super) async fn action(&mut self, described: &Action) -> Result<(), String> {
        let name = described.name().to_owned();
        // The first time tells what has to be known, the second time all of it is.
        let translated = loop {
            let mut asked = Asked { known: &self.known, ids: Vec::new(), scripts: Vec::new() };
            let translated = action::translate(described, self.version, &mut asked);
            let Asked { ids, scripts, .. } = asked;
            let translated = translated.map_err(|faults| {
                let faults: Vec<_> = faults.into_iter().map(|(key, text)| format!("{key}: {text}")).collect();
                format!("action {name:?}: {}", faults.join("; "))
            })?;
            if ids.is_empty() && scripts.is_empty() {
                break translated;
            }
            for (kind, written) in ids {
                let id = self.id(kind, &written).await.map_err(|text| format!("action {name:?}: {text}"))?;
                self.known.ids.insert((kind, written), id);
            }
            for script in scripts {
                let id = self.script(&script).await.map_err(|text| format!("action {name:?}: {text}"))?;
                self.known.scripts.push((script, id));
            }
        };
        for note in translated.notes {
            self.note(format!("action {name:?}: {note}"));
        }
        let Value::Object(mut wanted) = translated.params else { return Ok(()) };
        let update = if self.version < action::UPDATE_OPERATIONS {
            "selectAcknowledgeOperations"
        } else {
            "selectUpdateOperations"
        };
        let params = json!({
            "output": "extend", "filter": {"name": [name]}, "selectFilter": "extend", "selectOperations": "extend",
            "selectRecoveryOperations": "extend", update: "extend",
        });
        let Some(found) = self.one(&format!("action {name:?}"), "action.get", params).await? else {
            let params = Value::Object(wanted);
            return self
                .change(format!("create action {name:?}"), "action.create", params, "actionids")
                .await
                .map(drop);
        };
        let eventsource = wanted.remove("eventsource").unwrap_or_default();
        if id_text(&eventsource) != found.get("eventsource").and_then(id_text) {
            let text = "is for events of another source, which cannot be changed; write another name, or delete it";
            return Err(format!("action {name:?}: the one that Zabbix has {text}"));
        }
        self.update(&format!("action {name:?}"), ("action", "actionid"), &found, &wanted).await?;
        if !described.has_status() && member(&found, "status") == "1" {
            self.note(format!("action {name:?} is disabled: it does nothing"));
        }
        Ok(())
    }

    /// The id of what bears a name.
    async fn id(&self, kind: Kind, name: &str) -> Result<String, String> {
        let (what, class, id, names): (&str, &str, &str, &[&str]) = match kind {
            Kind::HostGroup => ("host group", "hostgroup", "groupid", &["name"]),
            // By the technical name, or the one that the frontend shows.
            Kind::Host => ("host", "host", "hostid", &["host", "name"]),
            Kind::Template => ("template", "template", "templateid", &["host", "name"]),
            Kind::Trigger => ("trigger", "trigger", "triggerid", &["description"]),
            Kind::User if self.version < USERNAME => ("user", "user", "userid", &["alias"]),
            Kind::User => ("user", "user", "userid", &["username"]),
            Kind::UserGroup => ("user group", "usergroup", "usrgrpid", &["name"]),
            Kind::MediaType => ("media type", "mediatype", "mediatypeid", &["name"]),
            Kind::DiscoveryRule => ("discovery rule", "drule", "druleid", &["name"]),
            Kind::Proxy if self.version < PROXY_NAME => ("proxy", "proxy", "proxyid", &["host"]),
            Kind::Proxy => ("proxy", "proxy", "proxyid", &["name"]),
            Kind::Service => ("service", "service", "serviceid", &["name"]),
        };
        for by in names {
            let params = json!({"output": [id], "filter": {*by: [name]}});
            if let Some(found) = self.one(&format!("{what} {name:?}"), &format!("{class}.get"), params).await? {
                return Ok(member(&found, id));
            }
        }
        Err(format!("there is no {what} {name:?}, or the credential's user does not see it"))
    }
}
