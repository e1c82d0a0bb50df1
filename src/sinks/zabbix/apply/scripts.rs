//! The scripts that operations run.
//!
//! Since 5.4 a script is for one purpose, and an operation can only run one that is for operations: scope 1 (Zabbix
//! documentation, "Script object"). What is wanted of another scope is kept a second time, for operations.

use serde_json::{Map, Value, json};

use super::{Run, compare, member, script_params};
use crate::sinks::zabbix::action::{SCRIPTS, Script, ScriptMembers};

const FOR_OPERATIONS: &str = "1";

/// What a script is, beside name, scope, and who may start it by hand. The second says for which types.
const MEMBERS: &[(&str, &[&str])] = &[
    ("type", &["0", "1", "2", "3", "5"]),
    ("command", &["0", "1", "2", "3", "5"]),
    ("execute_on", &["0"]),
    ("port", &["2", "3"]),
    ("authtype", &["2"]),
    ("username", &["2", "3"]),
    ("password", &["2", "3"]),
    ("publickey", &["2"]),
    ("privatekey", &["2"]),
    ("timeout", &["5"]),
    ("parameters", &["5"]),
];

impl Run<'_> {
    /// The id of a script that an operation can run, and that does what is wanted.
    pub(super) async fn script(&mut self, script: &Script) -> Result<String, String> {
        let (name, members) = match script {
            Script::Own { name, members } => (name.clone(), members.clone()),
            Script::Existing(written) => {
                let found = self.find_script(written).await?;
                let id = member(&found, "scriptid");
                if self.version < SCRIPTS || member(&found, "scope") == FOR_OPERATIONS {
                    return Ok(id);
                }
                (format!("{} (action operation)", member(&found, "name")), members_of(&found))
            }
        };
        let id = self.script_for_operations(&name, &members).await?;
        if let Script::Existing(written) = script {
            self.note(format!(
                "operations cannot run script {written:?}, which is of another scope: they run {name:?}"
            ));
        }
        Ok(id)
    }

    async fn find_script(&self, written: &str) -> Result<Value, String> {
        let is_id = written.bytes().all(|b| b.is_ascii_digit());
        let mut params = json!({"output": "extend"});
        if is_id {
            params["scriptids"] = json!([written]);
        } else {
            params["filter"] = json!({"name": [written]});
        }
        let found = self.one(&format!("script {written:?}"), "script.get", params).await?;
        found.ok_or_else(|| format!("there is no script {written:?}, or the credential's user does not see it"))
    }

    /// One of that name, or another that does the same.
    async fn script_for_operations(&mut self, name: &str, members: &ScriptMembers) -> Result<String, String> {
        let params = json!({"output": "extend", "filter": {"name": [name]}});
        let named = self.one(&format!("script {name:?}"), "script.get", params).await?;
        let mut wanted = members.clone();
        wanted.insert("scope".into(), json!(FOR_OPERATIONS));
        let is_alike = |script: &Value| compare::differences(&wanted, script).is_empty();
        if let Some(script) = named.as_ref().filter(|script| is_alike(script)) {
            return Ok(member(script, "scriptid"));
        }
        if let Some(script) = named {
            let wanted = script_params(name, &wanted);
            self.update(&format!("script {name:?}"), ("script", "scriptid"), &script, &wanted).await?;
            return Ok(member(&script, "scriptid"));
        }
        let filter = json!({"scope": [FOR_OPERATIONS], "command": members.get("command")});
        let alike = self.get("script.get", json!({"output": "extend", "filter": filter})).await?;
        if let Some(script) = alike.iter().find(|script| is_alike(script)) {
            self.note(format!("script {:?} does the same as {name:?} would, and is run", member(script, "name")));
            return Ok(member(script, "scriptid"));
        }
        let params = Value::Object(script_params(name, &wanted));
        self.change(format!("create script {name:?}"), "script.create", params, "scriptids").await
    }
}

/// What makes a second script do the same.
fn members_of(script: &Value) -> ScriptMembers {
    let kind = member(script, "type");
    let of_kind = MEMBERS.iter().filter(|(_, kinds)| kinds.contains(&&*kind));
    let written = of_kind.filter_map(|(name, _)| Some(((*name).to_owned(), script.get(name)?.clone())));
    let mut out: Map<_, _> = written.collect();
    // "0" is every host group: the default.
    if !matches!(&*member(script, "groupid"), "" | "0") {
        out.insert("groupid".into(), json!(member(script, "groupid")));
    }
    out
}
