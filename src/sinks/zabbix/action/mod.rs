//! A Zabbix action as the configuration describes it: with the members of the API's action object (Zabbix
//! documentation, "Action object"), words for its numbers, and names for its ids.
//!
//! Every spelling from 4.0 to 7.4 is read; [`translate()`] writes the one that a given version takes.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::api::Version;
use crate::secret::{Resolver, SecretSpec};

mod command;
mod condition;
mod operation;
#[cfg(test)]
mod schema;
mod translate;
pub(super) mod words;

pub(super) use command::{SCRIPTS, Script, ScriptMembers};
pub(super) use translate::{Ids, OLDEST, UPDATE_OPERATIONS, translate};

use words::Word;

/// A longer file is no description of actions.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What an id in an action is the id of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    HostGroup,
    Host,
    Trigger,
    Template,
    User,
    UserGroup,
    MediaType,
    DiscoveryRule,
    Proxy,
    Service,
}

/// `[sinks.NAME.action]`: one action, a list of them, JSON, or the path of a file with JSON.
#[derive(Clone, Debug)]
pub(super) enum Described {
    Here(Vec<Action>),
    File(PathBuf),
}

impl Described {
    /// The actions themselves.
    pub(super) fn actions(&self) -> Result<Vec<Action>, String> {
        match self {
            Described::Here(actions) => Ok(actions.clone()),
            Described::File(path) => {
                let said = |e: &dyn fmt::Display| format!("{}: {e}", path.display());
                let bytes = std::fs::metadata(path).map_err(|e| said(&e))?.len();
                if bytes > FILE_BYTES_MAX {
                    return Err(said(&format!("is longer than {FILE_BYTES_MAX} bytes: this describes no action")));
                }
                of_json(&std::fs::read_to_string(path).map_err(|e| said(&e))?).map_err(|e| said(&e))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Described {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Described, D::Error> {
        struct Form;

        impl<'de> de::Visitor<'de> for Form {
            type Value = Described;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an action as a table, a list of them, JSON in a text, or the path of a file with JSON")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Described, A::Error> {
                let one = Action::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Described::Here(vec![one]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Described, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Described::Here)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Described, E> {
                if text.trim_start().starts_with(['{', '[']) {
                    return of_json(text).map(Described::Here).map_err(E::custom);
                }
                if text.is_empty() {
                    return Err(E::custom("names no file; write the path of one with JSON, or a table"));
                }
                Ok(Described::File(Path::new(text).to_owned()))
            }
        }

        d.deserialize_any(Form)
    }
}

/// Reads what `action.create` takes: one action, a list, or the whole request around them.
fn of_json(text: &str) -> Result<Vec<Action>, String> {
    let mut json: Value = serde_json::from_str(text).map_err(|e| format!("is no JSON: {e}"))?;
    if let Some(params) = json.get_mut("params") {
        json = params.take();
    }
    let list = match json {
        Value::Array(list) => list,
        one => vec![one],
    };
    let read = |(position, one): (usize, Value)| {
        Action::deserialize(one).map_err(|e| format!("action {}: {e}", position + 1).replace('`', "\""))
    };
    list.into_iter().enumerate().map(read).collect()
}

/// An action. Members whose names begin with `_` are the server's own: they are read, and not needed.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixAction"))]
pub(super) struct Action {
    name: String,
    eventsource: Option<Word>,
    status: Option<Word>,
    esc_period: Option<Word>,
    filter: Option<Filter>,
    #[serde(default)]
    operations: Vec<Operation>,
    #[serde(default)]
    recovery_operations: Vec<Operation>,
    #[serde(default)]
    update_operations: Vec<Operation>,
    pause_suppressed: Option<Word>,
    pause_symptoms: Option<Word>,
    notify_if_canceled: Option<Word>,
    // Until 5.4.
    #[serde(default)]
    acknowledge_operations: Vec<Operation>,
    // Until 4.4.
    def_shortdata: Option<String>,
    def_longdata: Option<String>,
    r_shortdata: Option<String>,
    r_longdata: Option<String>,
    ack_shortdata: Option<String>,
    ack_longdata: Option<String>,
    // Until 3.4.
    maintenance_mode: Option<Word>,
    #[serde(rename = "actionid")]
    _actionid: Option<Word>,
}

/// Finds the action's secrets, and everything that is wrong with it in any version, each with its key.
pub(super) fn check(action: &mut Action, secrets: &Resolver<'_>) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (list, operations) in [
        ("operations", &mut action.operations),
        ("recovery_operations", &mut action.recovery_operations),
        ("update_operations", &mut action.update_operations),
        ("acknowledge_operations", &mut action.acknowledge_operations),
    ] {
        for (position, operation) in operations.iter_mut().enumerate() {
            let Some(command) = &mut operation.opcommand else { continue };
            let found = match &command.password {
                None => continue,
                // As the server tells of every command.
                Some(SecretSpec::Plain(secret)) if secret.expose().is_empty() => Ok(None),
                Some(spec) => secrets.resolve(spec).map(|secret| Some(SecretSpec::Plain(secret))),
            };
            command.password = found.unwrap_or_else(|text| {
                faults.push((format!("{list}[{position}].opcommand.password"), text));
                None
            });
        }
    }
    // The newest takes all that any takes.
    let newest = Version { major: u32::MAX, minor: 0 };
    faults.extend(translate(action, newest, &mut AnyIds).err().unwrap_or_default());
    faults
}

/// Takes every name.
struct AnyIds;

impl Ids for AnyIds {
    fn id(&mut self, _: Kind, name: &str) -> String {
        name.to_owned()
    }

    fn script(&mut self, _: Script) -> String {
        String::new()
    }
}

impl Action {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is said that it is enabled, or that it is not.
    pub(super) fn has_status(&self) -> bool {
        self.status.is_some()
    }
}

/// Which events an action is for.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixFilter"))]
pub(super) struct Filter {
    evaltype: Option<Word>,
    formula: Option<String>,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(rename = "eval_formula")]
    _eval_formula: Option<String>,
}

/// One condition of a filter, or of an operation.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixCondition"))]
pub(super) struct Condition {
    conditiontype: Word,
    operator: Option<Word>,
    value: Option<Word>,
    value2: Option<Word>,
    formulaid: Option<String>,
    #[serde(rename = "conditionid")]
    _conditionid: Option<Word>,
    #[serde(rename = "opconditionid")]
    _opconditionid: Option<Word>,
    #[serde(rename = "actionid")]
    _actionid: Option<Word>,
    #[serde(rename = "operationid")]
    _operationid: Option<Word>,
}

/// What is done.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixOperation"))]
pub(super) struct Operation {
    operationtype: Word,
    esc_period: Option<Word>,
    esc_step_from: Option<Word>,
    esc_step_to: Option<Word>,
    evaltype: Option<Word>,
    #[serde(default)]
    opconditions: Vec<Condition>,
    opmessage: Option<Message>,
    #[serde(default)]
    opmessage_grp: Vec<Ref>,
    #[serde(default)]
    opmessage_usr: Vec<Ref>,
    opcommand: Option<Command>,
    #[serde(default)]
    opcommand_grp: Vec<Ref>,
    #[serde(default)]
    opcommand_hst: Vec<Ref>,
    #[serde(default)]
    opgroup: Vec<Ref>,
    #[serde(default)]
    optemplate: Vec<Ref>,
    opinventory: Option<Inventory>,
    #[serde(default)]
    optag: Vec<Tag>,
    #[serde(rename = "recovery")]
    _recovery: Option<Word>,
    #[serde(rename = "operationid")]
    _operationid: Option<Word>,
    #[serde(rename = "actionid")]
    _actionid: Option<Word>,
}

/// What a message says, and by which media type.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixMessage"))]
struct Message {
    default_msg: Option<Word>,
    subject: Option<String>,
    message: Option<String>,
    mediatypeid: Option<Word>,
    #[serde(rename = "operationid")]
    _operationid: Option<Word>,
}

/// Whom or what an operation is about: one of the ids, or a name for it.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixRef"))]
struct Ref {
    usrgrpid: Option<Word>,
    userid: Option<Word>,
    groupid: Option<Word>,
    hostid: Option<Word>,
    templateid: Option<Word>,
    #[serde(rename = "operationid")]
    _operationid: Option<Word>,
    #[serde(rename = "opcommand_grpid")]
    _opcommand_grpid: Option<Word>,
    #[serde(rename = "opcommand_hstid")]
    _opcommand_hstid: Option<Word>,
}

/// What is run: a script, or, until 5.2, a command of the operation's own.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixCommand"))]
struct Command {
    #[serde(rename = "type")]
    kind: Option<Word>,
    scriptid: Option<Word>,
    command: Option<String>,
    execute_on: Option<Word>,
    port: Option<Word>,
    authtype: Option<Word>,
    username: Option<String>,
    password: Option<SecretSpec>,
    publickey: Option<String>,
    privatekey: Option<String>,
    #[serde(rename = "operationid")]
    _operationid: Option<Word>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixInventory"))]
struct Inventory {
    inventory_mode: Word,
    #[serde(rename = "operationid")]
    _operationid: Option<Word>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, schemars(rename = "ZabbixTag"))]
struct Tag {
    tag: String,
    #[serde(default)]
    value: String,
}

/// What is applied where nobody describes an action: it tells Zabbix's administrators of what failed.
pub(super) fn default_action(host: &str) -> Action {
    let begin = "{EVENT.NAME}\n\nSeverity: {EVENT.SEVERITY}\nSince: {EVENT.DATE} {EVENT.TIME}";
    let failed = format!("{begin}\nWhat callbackd said: {{ITEM.VALUE}}");
    let resolved = format!("{begin}\nResolved: {{EVENT.RECOVERY.DATE}} {{EVENT.RECOVERY.TIME}}");
    let action = serde_json::json!({
        "name": format!("Report problems of {host} to Zabbix administrators"),
        "eventsource": "trigger",
        // By the trigger's tag: the host may be one that has other problems too.
        "filter": {"evaltype": "and", "conditions": [
            {"conditiontype": "event tag value", "value2": "callbackd", "operator": "=", "value": host},
        ]},
        "operations": [{
            "operationtype": "message",
            "opmessage_grp": [{"usrgrpid": "Zabbix administrators"}],
            "opmessage": {"subject": "{EVENT.NAME}", "message": failed},
        }],
        "recovery_operations": [{
            "operationtype": "recovery message",
            "opmessage": {"subject": "Resolved: {EVENT.NAME}", "message": resolved},
        }],
    });
    Action::deserialize(action).expect("an action")
}

#[cfg(test)]
mod tests;
