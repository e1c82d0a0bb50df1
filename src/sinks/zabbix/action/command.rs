//! What an operation runs: since 5.4 a script that is kept for operations, before also a command of its own.

use serde_json::{Map, Value, json};

use super::Command;
use super::translate::Writer;
use super::words::{self, Word};
use crate::secret::SecretSpec;
use crate::sinks::zabbix::api::Version;

/// From here on operations run scripts only, and scripts have a scope.
pub(in crate::sinks::zabbix) const SCRIPTS: Version = Version { major: 5, minor: 4 };

const OF_ITS_OWN: i64 = 0;
const IPMI: i64 = 1;
const SSH: i64 = 2;
const TELNET: i64 = 3;
const GLOBAL_SCRIPT: i64 = 4;

/// A script as `script.create` takes it, less its name and scope.
pub(in crate::sinks::zabbix) type ScriptMembers = Map<String, Value>;

/// The script that an operation is to run.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sinks::zabbix) enum Script {
    /// One that the server has: its id or its name. Where operations cannot run it, one that does the same.
    Existing(String),
    /// One that is to do this.
    Own { name: String, members: ScriptMembers },
}

impl Writer<'_> {
    /// `opcommand`; `key` is the operation's.
    pub(super) fn command(&mut self, key: &str, command: &Command) -> Option<Value> {
        let key_of = |name: &str| format!("{key}.opcommand.{name}");
        let scriptid = command.scriptid.as_ref().filter(|word| !matches!(&*word.0, "" | "0"));
        let kind = match &command.kind {
            Some(written) => self.number(&key_of("type"), words::COMMAND_TYPE, written)?,
            None if scriptid.is_some() => GLOBAL_SCRIPT,
            None => OF_ITS_OWN,
        };
        if kind == GLOBAL_SCRIPT {
            let Some(Word(script)) = scriptid else {
                self.fault(&key_of("scriptid"), "has to be written: the id or the name of a script");
                return None;
            };
            if command.command.is_some() {
                self.fault(&key_of("command"), "stands beside a scriptid; write one of them");
            }
            let id = self.ids.script(Script::Existing(script.trim().to_owned()));
            let type_too = self.version < SCRIPTS;
            return Some(if type_too {
                json!({"type": GLOBAL_SCRIPT, "scriptid": id})
            } else {
                json!({"scriptid": id})
            });
        }
        if scriptid.is_some() {
            self.fault(&key_of("scriptid"), "stands beside a type that runs no script; leave one of them out");
        }
        let members = self.members(&key_of, command, kind)?;
        if self.version < SCRIPTS {
            return Some(Value::Object(members));
        }
        let name = format!("{}, {}", self.action.name, in_words(key));
        self.note(&key_of("command"), format!("operations run scripts only now: this one is kept as {name:?}"));
        let id = self.ids.script(Script::Own { name, members });
        Some(json!({"scriptid": id}))
    }

    fn members(&mut self, key_of: &dyn Fn(&str) -> String, command: &Command, kind: i64) -> Option<ScriptMembers> {
        let mut out = Map::from_iter([("type".to_owned(), json!(kind))]);
        match &command.command {
            Some(text) if !text.trim().is_empty() => drop(out.insert("command".into(), json!(text))),
            _ => {
                self.fault(&key_of("command"), "has to be written: what is run; or scriptid, for a script");
                return None;
            }
        }
        let mut belong = |name: &str, is_written: bool, kinds: &[i64]| {
            let belongs = kinds.contains(&kind);
            if is_written && !belongs {
                let word = words::word(words::COMMAND_TYPE, kind);
                self.fault(&key_of(name), format!("does not belong to a command of the type {word:?}"));
            }
            is_written && belongs
        };
        let execute_on = belong("execute_on", command.execute_on.is_some(), &[OF_ITS_OWN]);
        let port = belong("port", command.port.is_some(), &[SSH, TELNET]);
        let authtype = belong("authtype", command.authtype.is_some(), &[SSH]);
        let username = belong("username", command.username.is_some(), &[SSH, TELNET]);
        let password = belong("password", command.password.is_some(), &[SSH, TELNET]);
        let publickey = belong("publickey", command.publickey.is_some(), &[SSH]);
        let privatekey = belong("privatekey", command.privatekey.is_some(), &[SSH]);
        debug_assert!(kind != IPMI || !(execute_on || port || username));
        for (name, is_written, written, words) in [
            ("execute_on", execute_on, &command.execute_on, words::EXECUTE_ON),
            ("authtype", authtype, &command.authtype, words::AUTHTYPE),
        ] {
            if let Some(written) = written.as_ref().filter(|_| is_written)
                && let Some(number) = self.number(&key_of(name), words, written)
            {
                out.insert(name.into(), json!(number));
            }
        }
        let port = command.port.as_ref().filter(|_| port).map(|word| &word.0);
        for (name, text) in [
            ("port", port),
            ("username", command.username.as_ref().filter(|_| username)),
            ("publickey", command.publickey.as_ref().filter(|_| publickey)),
            ("privatekey", command.privatekey.as_ref().filter(|_| privatekey)),
        ] {
            if let Some(text) = text {
                out.insert(name.into(), json!(text));
            }
        }
        if let Some(spec) = command.password.as_ref().filter(|_| password) {
            match spec {
                SecretSpec::Plain(secret) => drop(out.insert("password".into(), json!(secret.expose()))),
                _ => self.fault(&key_of("password"), "was not found"),
            }
        }
        if matches!(kind, SSH | TELNET) && !username {
            self.fault(&key_of("username"), "has to be written with this type");
        }
        Some(out)
    }
}

/// `operations[1]`: "operation 2".
fn in_words(key: &str) -> String {
    let (list, position) = key.trim_end_matches(']').split_once('[').unwrap_or((key, "0"));
    let which = match list {
        "operations" => "operation",
        "recovery_operations" => "recovery operation",
        _ => "update operation",
    };
    format!("{which} {}", position.parse::<usize>().unwrap_or(0) + 1)
}
