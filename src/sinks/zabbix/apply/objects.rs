//! Host group, host, item, trigger and event correlation.
//!
//! The item takes every value as text ([`value`]); one trigger makes a problem of each value that tells of a failure,
//! and closes it by the next one that tells of the same thing's success, by a tag that holds the thing (Zabbix
//! documentation, "Trigger-based event correlation"). A thing that fails again while its problem is open stays one
//! problem, by a global event correlation, of which only a super administrator may speak.

use serde_json::{Map, Value, json};

use super::{NOT_YET, Run, Wanted, compare, member};
use crate::sinks::zabbix::api::Version;
use crate::sinks::zabbix::value;

/// From here on a host needs no interface.
const NO_INTERFACE: Version = Version { major: 5, minor: 2 };
/// From here on an expression is `find(/host/key,…)`; before, `{host:key.str(…)}`.
const FIND: Version = Version { major: 5, minor: 4 };
/// From here on a host tells its groups as `hostgroups`.
const HOST_GROUPS: Version = Version { major: 6, minor: 2 };

/// Whether something was there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    Old,
    New,
}

const ENABLED: i64 = 0;
const DISABLED: i64 = 1;
const TRAPPER: i64 = 2;
const TEXT: i64 = 4;
/// The tag that ties a success to the failures before it.
const THING: &str = "thing";
/// The tag that holds the host: what another callbackd tells of is not the same thing.
const OWN: &str = "callbackd";

/// Conditions of an event correlation, and what it does.
const SAME_TAG: i64 = 3;
const OLD_TAG: i64 = 4;
const NEW_TAG: i64 = 5;
const AND: i64 = 1;
const CLOSE_NEW: i64 = 1;

impl Run<'_> {
    pub(super) async fn group(&mut self, name: &str) -> Result<String, String> {
        let params = json!({"output": ["groupid"], "filter": {"name": [name]}});
        match self.one(&format!("host group {name:?}"), "hostgroup.get", params).await? {
            Some(group) => Ok(member(&group, "groupid")),
            None => {
                let what = format!("create host group {name:?}");
                self.change(what, "hostgroup.create", json!({"name": name}), "groupids").await
            }
        }
    }

    pub(super) async fn host(&mut self, name: &str, group: &str, group_name: &str) -> Result<String, String> {
        let (select, groups) =
            if self.version < HOST_GROUPS { ("selectGroups", "groups") } else { ("selectHostGroups", "hostgroups") };
        let params = json!({"output": "extend", "filter": {"host": [name]}, select: ["groupid"]});
        let Some(host) = self.one(&format!("host {name:?}"), "host.get", params).await? else {
            let mut params = json!({"host": name, "groups": [{"groupid": group}]});
            if self.version < NO_INTERFACE {
                params["interfaces"] =
                    json!([{"type": 1, "main": 1, "useip": 1, "ip": "127.0.0.1", "dns": "", "port": "10050"}]);
            }
            let what = format!("create host {name:?} in host group {group_name:?}");
            return self.change(what, "host.create", params, "hostids").await;
        };
        let id = member(&host, "hostid");
        let is_in = |groups: &Value| groups.as_array().is_some_and(|g| g.iter().any(|g| member(g, "groupid") == group));
        if !host.get(groups).is_some_and(is_in) {
            let what = format!("update host {name:?}: into host group {group_name:?}");
            let params = json!({"groups": [{"groupid": group}], "hosts": [{"hostid": id}]});
            self.change(what, "hostgroup.massadd", params, "groupids").await?;
        }
        if member(&host, "status") == "1" {
            self.note(format!("host {name:?} is disabled: Zabbix takes no values for it"));
        }
        let is_set = |name: &str| !matches!(&*member(&host, name), "" | "0");
        if ["proxy_hostid", "proxyid", "proxy_groupid"].into_iter().any(is_set) {
            self.note(format!("host {name:?} is monitored by a proxy: values for it have to be sent to that one"));
        }
        Ok(id)
    }

    /// A new one is disabled: values are to be taken when what makes something of them is there as well. The server reads
    /// its configuration at any moment, and a failure that comes between would be nobody's.
    pub(super) async fn item(&mut self, wanted: &Wanted, host: &str) -> Result<(String, Is), String> {
        let key = &wanted.key;
        let mut members = Map::from_iter([("type".to_owned(), json!(TRAPPER)), ("value_type".to_owned(), json!(TEXT))]);
        if let Some(hosts) = &wanted.allowed_hosts {
            members.insert("trapper_hosts".into(), json!(hosts));
        }
        let params = json!({"output": "extend", "hostids": [host], "filter": {"key_": [key]}});
        let found = if host == NOT_YET { None } else { self.one(&format!("item {key}"), "item.get", params).await? };
        let Some(item) = found else {
            members.insert("hostid".into(), json!(host));
            members.insert("key_".into(), json!(key));
            members.insert("name".into(), json!("What callbackd was told of"));
            members.insert("status".into(), json!(DISABLED));
            let what = format!("create item {key} on host {:?}", wanted.host);
            let id = self.change(what, "item.create", Value::Object(members), "itemids").await?;
            return Ok((id, Is::New));
        };
        self.update(&format!("item {key}"), ("item", "itemid"), &item, &members).await?;
        if member(&item, "status") == "1" {
            self.note(format!("item {key} is disabled: Zabbix takes no values for it"));
        }
        Ok((member(&item, "itemid"), Is::Old))
    }

    pub(super) async fn enable(&mut self, item: &str) -> Result<(), String> {
        if item == NOT_YET {
            return Ok(());
        }
        let params = json!({"itemid": item, "status": ENABLED});
        self.api.call("item.update", &params, self.now).await.map(drop).map_err(|e| e.to_string())
    }

    pub(super) async fn trigger(&mut self, wanted: &Wanted, item: &str) -> Result<(), String> {
        let members = trigger(self.version, wanted);
        let what = format!("trigger on item {}", wanted.key);
        // Known by its tag: its name may have been another, or have been translated.
        let params = json!({
            "output": "extend", "itemids": [item], "filter": {"correlation_tag": [THING]},
            "selectTags": "extend", "expandExpression": true,
        });
        let found = if item == NOT_YET { None } else { self.one(&what, "trigger.get", params).await? };
        let Some(trigger) = found else {
            let what = format!("create {what}");
            return self.change(what, "trigger.create", Value::Object(members), "triggerids").await.map(drop);
        };
        self.update(&what, ("trigger", "triggerid"), &trigger, &members).await?;
        if member(&trigger, "status") == "1" {
            self.note(format!("the {what} is disabled: nothing becomes a problem"));
        }
        Ok(())
    }
}

impl Run<'_> {
    pub(super) async fn correlation(&mut self, wanted: &Wanted) -> Result<(), String> {
        let name = format!("One problem for each thing that fails on {}", wanted.host);
        let params = json!({"output": "extend", "filter": {"name": [name]}, "selectFilter": "extend", "selectOperations": "extend"});
        let what = format!("event correlation {name:?}");
        let found = self.one(&what, "correlation.get", params).await?;
        let own = |kind: i64| json!({"type": kind, "tag": OWN, "operator": 0, "value": wanted.host});
        let members = object(json!({
            "name": name,
            "filter": {"evaltype": AND, "conditions": [
                own(OLD_TAG), own(NEW_TAG), {"type": SAME_TAG, "oldtag": THING, "newtag": THING},
            ]},
            "operations": [{"type": CLOSE_NEW}],
        }));
        let otherwise = "no event correlation, which needs a super administrator: what fails again while its problem is \
                         open has a second one, closed together with the first";
        let Some(found) = found else {
            let params = Value::Object(members);
            return self.change_if_allowed(format!("create {what}"), "correlation.create", params, otherwise).await;
        };
        let differences = compare::differences(&members, &found);
        if differences.is_empty() {
            return Ok(());
        }
        let mut params = Value::Object(members);
        params["correlationid"] = json!(member(&found, "correlationid"));
        let what = format!("update {what}: {}", differences.join("; "));
        self.change_if_allowed(what, "correlation.update", params, otherwise).await
    }
}

fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// A problem's name: what has failed, or is overdue, and of what.
fn name() -> String {
    format!("{} {}", of_value(value::TITLE_PATTERN), of_value(value::STATE_PATTERN))
}

fn trigger(version: Version, wanted: &Wanted) -> Map<String, Value> {
    let holds = |text: &str| holds(version, &wanted.host, &wanted.key, text);
    let opens: Vec<String> = value::OPENS.iter().map(|text| holds(text)).collect();
    let tag = |name: &str, value: String| json!({"tag": name, "value": value});
    object(json!({
        "description": name(),
        "expression": opens.join(" or "),
        "recovery_mode": 1,
        "recovery_expression": holds(value::CLOSES),
        "priority": wanted.severity,
        // A problem for each failure, also while another one is open.
        "type": 1,
        "correlation_mode": 1,
        "correlation_tag": THING,
        "manual_close": 1,
        "tags": [
            tag(THING, of_value(value::THING_PATTERN)),
            // A thing begins with its source.
            tag("source", of_value(&value::THING_PATTERN.replace(r#"([^"]+)""#, "([^/]+)/"))),
            tag("state", of_value(value::STATE_PATTERN)),
            tag(OWN, wanted.host.clone()),
        ],
    }))
}

/// An expression: whether the latest value holds this text.
fn holds(version: Version, host: &str, key: &str, text: &str) -> String {
    let text = text.replace('"', "\\\"");
    if version < FIND {
        format!("{{{host}:{key}.str(\"{text}\")}}=1")
    } else {
        format!("find(/{host}/{key},,\"like\",\"{text}\")=1")
    }
}

/// A macro: what the pattern captures in the value.
fn of_value(pattern: &str) -> String {
    format!("{{{{ITEM.VALUE}}.regsub(\"{}\",\"\\1\")}}", pattern.replace('"', "\\\""))
}
