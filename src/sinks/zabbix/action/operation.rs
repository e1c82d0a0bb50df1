//! An action's operations.

use serde_json::{Map, Value, json};

use super::translate::Writer;
use super::words::{
    self, AUTOREGISTRATION, COMMAND, DISCOVERY, EVENT_ACKNOWLEDGED, INTERNAL, MESSAGE, RECOVERY_MESSAGE, SERVICE,
    TRIGGER, UPDATE_MESSAGE, Word,
};
use super::{Kind, Message, Operation, Ref};
use crate::sinks::zabbix::api::Version;

const HOST_TAGS: Version = Version { major: 7, minor: 0 };

/// What can be done for events of this source, in this list.
fn allowed(source: i64, list: &str) -> &'static [i64] {
    match (source, list) {
        (TRIGGER | SERVICE, "operations") => &[MESSAGE, COMMAND],
        (TRIGGER | SERVICE, "recovery_operations") => &[MESSAGE, COMMAND, RECOVERY_MESSAGE],
        (TRIGGER | SERVICE, _) => &[MESSAGE, COMMAND, UPDATE_MESSAGE],
        (INTERNAL, "operations") => &[MESSAGE],
        (INTERNAL, "recovery_operations") => &[MESSAGE, RECOVERY_MESSAGE],
        (DISCOVERY | AUTOREGISTRATION, "operations") => &[MESSAGE, COMMAND, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14],
        _ => &[],
    }
}

impl Writer<'_> {
    /// One operation; `key` is where it stands, and begins with the list.
    pub(super) fn operation(&mut self, key: &str, operation: &Operation) -> Option<Value> {
        let list = key.split('[').next().unwrap_or_default();
        let type_key = format!("{key}.operationtype");
        let mut number = self.number(&type_key, words::OPERATIONTYPE, &operation.operationtype)?;
        // The same words for both, in the frontend too.
        if number == RECOVERY_MESSAGE && !allowed(self.source, list).contains(&number) && list != "operations" {
            number = UPDATE_MESSAGE;
        }
        if !allowed(self.source, list).contains(&number) {
            let there: Vec<_> =
                allowed(self.source, list).iter().map(|n| words::word(words::OPERATIONTYPE, *n)).collect();
            let source = words::word(words::EVENTSOURCE, self.source);
            let text = format!("is none for {list} of an action for {source} events; there are: {}", there.join(", "));
            self.fault(&type_key, text);
            return None;
        }
        let mut out = Map::from_iter([("operationtype".to_owned(), json!(number))]);
        self.escalation(key, list, operation, &mut out);
        self.opconditions(key, list, operation, &mut out);
        match number {
            MESSAGE | RECOVERY_MESSAGE | UPDATE_MESSAGE => self.message(key, number, operation, &mut out),
            COMMAND => self.run(key, operation, &mut out),
            4 | 5 => self.refs(key, "opgroup", "groupid", Kind::HostGroup, &operation.opgroup, true, &mut out),
            6 | 7 => self.refs(key, "optemplate", "templateid", Kind::Template, &operation.optemplate, true, &mut out),
            10 => self.inventory(key, operation, &mut out),
            13 | 14 => self.tags(key, operation, &mut out),
            _ => {}
        }
        self.strangers(key, number, operation);
        Some(Value::Object(out))
    }

    fn escalation(&mut self, key: &str, list: &str, operation: &Operation, out: &mut Map<String, Value>) {
        let Operation { esc_period, esc_step_from, esc_step_to, .. } = operation;
        if esc_period.is_none() && esc_step_from.is_none() && esc_step_to.is_none() {
            return;
        }
        if list != "operations" || matches!(self.source, DISCOVERY | AUTOREGISTRATION) {
            self.note(key, "escalation steps are left out: only operations for problems escalate");
            return;
        }
        if let Some(Word(period)) = esc_period {
            out.insert("esc_period".into(), json!(period));
        }
        let mut step = |name: &str, written: &Option<Word>| {
            let number = written.as_ref().map(|word| word.0.trim().parse::<u32>());
            match number {
                Some(Ok(number)) if number <= 99_999 => Some(number),
                None => None,
                Some(_) => {
                    self.fault(&format!("{key}.{name}"), "has to be a whole number, at most 99999");
                    None
                }
            }
        };
        let (from, to) = (step("esc_step_from", esc_step_from), step("esc_step_to", esc_step_to));
        // The server takes them together only.
        let from_step = from.unwrap_or(1).max(1);
        let to_step = to.unwrap_or(from_step);
        if from.is_some() || to.is_some() {
            if to_step != 0 && to_step < from_step {
                self.fault(&format!("{key}.esc_step_to"), "is before esc_step_from; 0 is without an end");
            }
            out.insert("esc_step_from".into(), json!(from_step));
            out.insert("esc_step_to".into(), json!(to_step));
        }
    }

    fn opconditions(&mut self, key: &str, list: &str, operation: &Operation, out: &mut Map<String, Value>) {
        let can = list == "operations" && self.source == TRIGGER;
        if !can {
            if !operation.opconditions.is_empty() {
                self.fault(&format!("{key}.opconditions"), "are only for operations of an action for trigger events");
            }
            return;
        }
        if let Some(evaltype) = &operation.evaltype
            && let Some(evaltype) = self.number(&format!("{key}.evaltype"), words::EVALTYPE, evaltype)
        {
            out.insert("evaltype".into(), json!(evaltype));
        }
        let mut conditions = Vec::new();
        for (position, condition) in operation.opconditions.iter().enumerate() {
            let key = format!("{key}.opconditions[{position}]");
            let number = self.number(&format!("{key}.conditiontype"), words::CONDITIONTYPE, &condition.conditiontype);
            if number.is_some_and(|number| number != EVENT_ACKNOWLEDGED) {
                self.fault(
                    &format!("{key}.conditiontype"),
                    "has to be \"event acknowledged\" (14): an operation asks for nothing else",
                );
            }
            let nobody = Word("0".to_owned());
            let value = condition.value.as_ref().unwrap_or(&nobody);
            if let Some(value) = self.number(&format!("{key}.value"), words::ACKNOWLEDGED, value) {
                conditions
                    .push(json!({"conditiontype": EVENT_ACKNOWLEDGED, "operator": 0, "value": value.to_string()}));
            }
        }
        if !conditions.is_empty() {
            out.insert("opconditions".into(), json!(conditions));
        }
    }

    fn message(&mut self, key: &str, number: i64, operation: &Operation, out: &mut Map<String, Value>) {
        let none = Message::default();
        let message = operation.opmessage.as_ref().unwrap_or(&none);
        let key_of = |name: &str| format!("{key}.opmessage.{name}");
        let has_text = message.subject.is_some() || message.message.is_some();
        let is_default = match &message.default_msg {
            Some(written) => self.number(&key_of("default_msg"), words::NO_YES, written) == Some(1),
            None => !has_text,
        };
        let own = |subject: &str, message: &str| json!({"default_msg": 0, "subject": subject, "message": message});
        let mut written = match (is_default, self.default_text(key)) {
            (true, Some((subject, message))) => own(subject, message),
            (true, None) => {
                if has_text {
                    self.note(
                        &key_of("default_msg"),
                        "is 1, so subject and message are left out: the media type's own text is sent",
                    );
                } else if self.is_old() {
                    self.note(
                        key,
                        "has no text: the media type's own one is sent; a media type without one sends nothing",
                    );
                }
                json!({"default_msg": 1})
            }
            (false, _) => {
                own(message.subject.as_deref().unwrap_or_default(), message.message.as_deref().unwrap_or_default())
            }
        };
        if let Some(media) = message.mediatypeid.as_ref().filter(|word| word.0 != "0") {
            if number == RECOVERY_MESSAGE {
                self.note(&key_of("mediatypeid"), "is left out: all involved are told as they were before");
            } else if let Some(id) = self.id(&key_of("mediatypeid"), Kind::MediaType, media) {
                written["mediatypeid"] = json!(id);
            }
        }
        out.insert("opmessage".into(), written);
        if number == MESSAGE {
            if operation.opmessage_grp.is_empty() && operation.opmessage_usr.is_empty() {
                self.fault(key, "tells nobody; write opmessage_grp = [{ usrgrpid = \"…\" }] or opmessage_usr = [{ userid = \"…\" }]");
            }
            self.refs(key, "opmessage_grp", "usrgrpid", Kind::UserGroup, &operation.opmessage_grp, false, out);
            self.refs(key, "opmessage_usr", "userid", Kind::User, &operation.opmessage_usr, false, out);
        }
    }

    fn run(&mut self, key: &str, operation: &Operation, out: &mut Map<String, Value>) {
        let Some(command) = &operation.opcommand else {
            self.fault(&format!("{key}.opcommand"), "has to be written: { scriptid = \"…\" }");
            return;
        };
        if let Some(written) = self.command(key, command) {
            out.insert("opcommand".into(), written);
        }
        if self.source == SERVICE {
            return;
        }
        if operation.opcommand_grp.is_empty() && operation.opcommand_hst.is_empty() {
            self.fault(key, "runs nowhere; write opcommand_grp = [{ groupid = \"…\" }], or opcommand_hst = [{ hostid = 0 }] for the host of the event");
        }
        self.refs(key, "opcommand_grp", "groupid", Kind::HostGroup, &operation.opcommand_grp, false, out);
        self.refs(key, "opcommand_hst", "hostid", Kind::Host, &operation.opcommand_hst, false, out);
    }

    /// A list of `[{ id }]`.
    #[expect(clippy::too_many_arguments, reason = "one row of a table: what the list is called, and what it lists")]
    fn refs(
        &mut self,
        key: &str,
        list: &str,
        member: &str,
        kind: Kind,
        refs: &[Ref],
        needed: bool,
        out: &mut Map<String, Value>,
    ) {
        let mut written = Vec::new();
        for (position, one) in refs.iter().enumerate() {
            let key = format!("{key}.{list}[{position}]");
            let members = [
                ("usrgrpid", &one.usrgrpid),
                ("userid", &one.userid),
                ("groupid", &one.groupid),
                ("hostid", &one.hostid),
                ("templateid", &one.templateid),
            ];
            for (name, _) in members.iter().filter(|(name, word)| *name != member && word.is_some()) {
                self.fault(&format!("{key}.{name}"), format!("does not belong here; write {member}"));
            }
            match members.iter().find(|(name, _)| *name == member) {
                Some((_, Some(word))) => {
                    if let Some(id) = self.id(&format!("{key}.{member}"), kind, word) {
                        written.push(json!({member: id}));
                    }
                }
                _ => self.fault(&format!("{key}.{member}"), "has to be written, and is missing"),
            }
        }
        if !written.is_empty() {
            out.insert(list.to_owned(), json!(written));
        } else if needed && refs.is_empty() {
            self.fault(&format!("{key}.{list}"), format!("has to be written: [{{ {member} = \"…\" }}]"));
        }
    }

    fn inventory(&mut self, key: &str, operation: &Operation, out: &mut Map<String, Value>) {
        let key = format!("{key}.opinventory.inventory_mode");
        match &operation.opinventory {
            Some(inventory) => {
                if let Some(mode) = self.number(&key, words::INVENTORY_MODE, &inventory.inventory_mode) {
                    out.insert("opinventory".into(), json!({"inventory_mode": mode}));
                }
            }
            None => self.fault(&key, "has to be written: \"manual\" or \"automatic\""),
        }
    }

    fn tags(&mut self, key: &str, operation: &Operation, out: &mut Map<String, Value>) {
        if self.version < HOST_TAGS {
            self.fault(key, format!("Zabbix {} gives hosts no tags by actions; {HOST_TAGS} does", self.version));
        }
        if operation.optag.is_empty() {
            self.fault(&format!("{key}.optag"), "has to be written: [{ tag = \"…\", value = \"…\" }]");
        }
        let tags: Vec<_> = operation.optag.iter().map(|t| json!({"tag": t.tag, "value": t.value})).collect();
        out.insert("optag".into(), json!(tags));
    }

    /// What belongs to another kind of operation is a mistake.
    fn strangers(&mut self, key: &str, number: i64, operation: &Operation) {
        let rows = [
            ("opmessage", operation.opmessage.is_some(), matches!(number, MESSAGE | RECOVERY_MESSAGE | UPDATE_MESSAGE)),
            ("opmessage_grp", !operation.opmessage_grp.is_empty(), number == MESSAGE),
            ("opmessage_usr", !operation.opmessage_usr.is_empty(), number == MESSAGE),
            ("opcommand", operation.opcommand.is_some(), number == COMMAND),
            ("opcommand_grp", !operation.opcommand_grp.is_empty(), number == COMMAND),
            ("opcommand_hst", !operation.opcommand_hst.is_empty(), number == COMMAND),
            ("opgroup", !operation.opgroup.is_empty(), matches!(number, 4 | 5)),
            ("optemplate", !operation.optemplate.is_empty(), matches!(number, 6 | 7)),
            ("opinventory", operation.opinventory.is_some(), number == 10),
            ("optag", !operation.optag.is_empty(), matches!(number, 13 | 14)),
        ];
        for (name, is_written, belongs) in rows {
            if is_written && !belongs {
                let word = words::word(words::OPERATIONTYPE, number);
                self.fault(&format!("{key}.{name}"), format!("does not belong to an operation {word:?}"));
            }
        }
    }
}
