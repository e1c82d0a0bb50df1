//! From an action as it is described to what `action.create` of one version takes; pure.
//!
//! What a version calls otherwise is renamed, what it keeps elsewhere is moved there, and what it does not know is left
//! out with a note; nothing that changes when an action fires is left out silently. What cannot be right in any version
//! is a fault of the description.

use serde_json::{Map, Value, json};

use super::words::{self, AUTOREGISTRATION, DISCOVERY, INTERNAL, SERVICE, TRIGGER, Word, Words};
use super::{Action, Kind, Script};
use crate::sinks::zabbix::api::Version;

/// Knows the ids of what has a name.
pub(in crate::sinks::zabbix) trait Ids {
    /// The id, or something that stands in for it where it is not known (yet).
    fn id(&mut self, kind: Kind, name: &str) -> String;
    /// The id of a script that an operation can run.
    fn script(&mut self, script: Script) -> String;
}

/// What a version takes.
#[derive(Debug)]
pub(in crate::sinks::zabbix) struct Translated {
    /// The parameters of `action.create`.
    pub(in crate::sinks::zabbix) params: Value,
    /// What became different, or was left out.
    pub(in crate::sinks::zabbix) notes: Vec<String>,
}

/// Since 6.0.
pub(in crate::sinks::zabbix) const UPDATE_OPERATIONS: Version = Version { major: 6, minor: 0 };
/// The oldest version that is spoken.
pub(in crate::sinks::zabbix) const OLDEST: Version = Version { major: 5, minor: 0 };
const SERVICE_ACTIONS: Version = Version { major: 6, minor: 0 };
const NOTIFY_IF_CANCELED: Version = Version { major: 6, minor: 0 };
const PAUSE_SYMPTOMS: Version = Version { major: 6, minor: 4 };

/// Translates, or says everything that is wrong, each with the key below the action.
pub(in crate::sinks::zabbix) fn translate(
    action: &Action,
    version: Version,
    ids: &mut dyn Ids,
) -> Result<Translated, Vec<(String, String)>> {
    let mut writer = Writer { version, ids, notes: Vec::new(), faults: Vec::new(), source: TRIGGER, action };
    let params = writer.action();
    let Writer { notes, faults, .. } = writer;
    if faults.is_empty() { Ok(Translated { params: Value::Object(params), notes }) } else { Err(faults) }
}

/// One translation under way.
pub(super) struct Writer<'a> {
    pub(super) version: Version,
    pub(super) ids: &'a mut dyn Ids,
    pub(super) action: &'a Action,
    /// The action's event source.
    pub(super) source: i64,
    notes: Vec<String>,
    faults: Vec<(String, String)>,
}

impl Writer<'_> {
    pub(super) fn note(&mut self, key: &str, text: impl AsRef<str>) {
        self.notes.push(format!("{key}: {}", text.as_ref()));
    }

    pub(super) fn fault(&mut self, key: &str, text: impl Into<String>) {
        self.faults.push((key.to_owned(), text.into()));
    }

    /// The number that is written at `key`; what it cannot be is a fault.
    pub(super) fn number(&mut self, key: &str, words: Words, written: &Word) -> Option<i64> {
        words::number(words, written).map_err(|text| self.fault(key, text)).ok()
    }

    /// The id that is written, or that of what bears the name.
    pub(super) fn id(&mut self, key: &str, kind: Kind, written: &Word) -> Option<String> {
        match written.0.trim() {
            "" => {
                self.fault(key, "is empty; write an id or a name");
                None
            }
            id if id.bytes().all(|b| b.is_ascii_digit()) => Some(id.to_owned()),
            name => Some(self.ids.id(kind, name)),
        }
    }

    fn action(&mut self) -> Map<String, Value> {
        let action = self.action;
        let mut out = Map::new();
        if action.name.trim().is_empty() || action.name.chars().count() > 255 {
            self.fault("name", "has to be 1 to 255 characters long: an action is found again by its name");
        }
        out.insert("name".into(), json!(action.name));
        let source = action.eventsource.as_ref().map(|w| self.number("eventsource", words::EVENTSOURCE, w));
        let Some(source) = source.unwrap_or(Some(TRIGGER)) else { return out };
        self.source = source;
        out.insert("eventsource".into(), json!(source));
        if source == SERVICE && self.version < SERVICE_ACTIONS {
            self.fault("eventsource", format!("Zabbix {} has no actions for services; 6.0 has", self.version));
        }
        if let Some(status) = &action.status
            && let Some(status) = self.number("status", words::STATUS, status)
        {
            out.insert("status".into(), json!(status));
        }
        self.esc_period(&mut out);
        self.switches(&mut out);
        let filter = self.filter(action.filter.as_ref());
        out.insert("filter".into(), filter);
        self.operations_of(&mut out);
        out
    }

    fn esc_period(&mut self, out: &mut Map<String, Value>) {
        let Some(Word(period)) = &self.action.esc_period else { return };
        if matches!(self.source, DISCOVERY | AUTOREGISTRATION) {
            self.note("esc_period", "is left out: only actions for triggers, internal ones and services escalate");
        } else if matches!(period.as_str(), "0" | "0s") {
            self.note("esc_period", "0 is left out: an action has the server's default of 1h then");
        } else {
            out.insert("esc_period".into(), json!(period));
        }
    }

    fn switches(&mut self, out: &mut Map<String, Value>) {
        let action = self.action;
        let mut pause = ("pause_suppressed", action.pause_suppressed.as_ref());
        if let Some(mode) = &action.maintenance_mode {
            if pause.1.is_some() {
                self.fault("maintenance_mode", "is what pause_suppressed was called until 3.4; write one of them");
            }
            pause = ("maintenance_mode", Some(mode));
            self.note("maintenance_mode", "is called pause_suppressed now");
        }
        let rows = [
            (pause, "pause_suppressed", OLDEST),
            (("notify_if_canceled", action.notify_if_canceled.as_ref()), "notify_if_canceled", NOTIFY_IF_CANCELED),
            (("pause_symptoms", action.pause_symptoms.as_ref()), "pause_symptoms", PAUSE_SYMPTOMS),
        ];
        for ((key, written), member, since) in rows {
            let Some(written) = written else { continue };
            let Some(number) = self.number(key, words::NO_YES, written) else { continue };
            if self.source != TRIGGER {
                self.note(key, "is left out: only actions for triggers have it");
            } else if self.version < since {
                self.note(key, format!("is left out: Zabbix {} has no such thing, {since} has", self.version));
            } else {
                out.insert(member.into(), json!(number));
            }
        }
    }

    fn operations_of(&mut self, out: &mut Map<String, Value>) {
        let action = self.action;
        let has_recovery = matches!(self.source, TRIGGER | INTERNAL | SERVICE);
        let has_update = matches!(self.source, TRIGGER | SERVICE);
        let (update_key, update) = match (action.update_operations.is_empty(), action.acknowledge_operations.is_empty())
        {
            (false, false) => {
                self.fault(
                    "acknowledge_operations",
                    "is what update_operations was called until 5.4; write one of them",
                );
                return;
            }
            (true, false) => ("acknowledge_operations", &action.acknowledge_operations),
            _ => ("update_operations", &action.update_operations),
        };
        let member = if self.version < UPDATE_OPERATIONS { "acknowledge_operations" } else { "update_operations" };
        if action.operations.is_empty() && action.recovery_operations.is_empty() && update.is_empty() {
            self.fault("operations", "are none: an action has to do something; write [[….action.operations]]");
        }
        let rows = [
            ("operations", "operations", &action.operations, true),
            ("recovery_operations", "recovery_operations", &action.recovery_operations, has_recovery),
            (update_key, member, update, has_update),
        ];
        for (key, member, list, has) in rows {
            if has {
                let written: Vec<Value> = list
                    .iter()
                    .enumerate()
                    .filter_map(|(position, operation)| self.operation(&format!("{key}[{position}]"), operation))
                    .collect();
                // An empty list as well: what an earlier description asked for is to go away.
                out.insert(member.into(), Value::Array(written));
            } else if !list.is_empty() {
                let source = words::word(words::EVENTSOURCE, self.source);
                self.fault(key, format!("an action for {source} events has none of these"));
            }
        }
        self.unused_texts(update.is_empty());
    }

    /// What was an action's default text until 4.4 belongs to each operation now, so without one it is nowhere.
    fn unused_texts(&mut self, no_update: bool) {
        let action = self.action;
        let rows = [
            ("def_shortdata", &action.def_shortdata, &action.def_longdata, action.operations.is_empty()),
            ("r_shortdata", &action.r_shortdata, &action.r_longdata, action.recovery_operations.is_empty()),
            ("ack_shortdata", &action.ack_shortdata, &action.ack_longdata, no_update),
        ];
        for (key, subject, message, unused) in rows {
            if unused && (subject.is_some() || message.is_some()) {
                self.note(key, "is left out: an action has no text of its own any more, and no operation here uses it");
            }
        }
    }

    /// The action's default text, of 4.x, for the operations in the list that `key` stands in.
    pub(super) fn default_text(&self, key: &str) -> Option<(&str, &str)> {
        let action = self.action;
        let (subject, message) = match key.split('[').next() {
            Some("operations") => (&action.def_shortdata, &action.def_longdata),
            Some("recovery_operations") => (&action.r_shortdata, &action.r_longdata),
            _ => (&action.ack_shortdata, &action.ack_longdata),
        };
        let has = subject.is_some() || message.is_some();
        has.then(|| (subject.as_deref().unwrap_or_default(), message.as_deref().unwrap_or_default()))
    }

    /// Whether the action is written as until 4.4.
    pub(super) fn is_old(&self) -> bool {
        let action = self.action;
        action.def_shortdata.is_some() || action.def_longdata.is_some()
    }
}
