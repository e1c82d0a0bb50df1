//! An action's filter.

use serde_json::{Map, Value, json};

use super::translate::Writer;
use super::words::{self, APPLICATION, EVENT_TAG_VALUE, Holds, SUPPRESSED, TRIGGER_VALUE, Word};
use super::{Condition, Filter};
use crate::sinks::zabbix::api::Version;

/// Since 5.4 items have tags where they had applications.
const ITEM_TAGS: Version = Version { major: 5, minor: 4 };
const FORMULA: i64 = 3;

impl Writer<'_> {
    /// The filter; one that lets everything through where there is none, so that an earlier one goes away.
    pub(super) fn filter(&mut self, filter: Option<&Filter>) -> Value {
        let Some(filter) = filter else { return json!({"evaltype": 0, "conditions": []}) };
        let evaltype = match &filter.evaltype {
            Some(written) => self.number("filter.evaltype", words::FILTER_EVALTYPE, written),
            None => Some(if filter.formula.as_ref().is_some_and(|f| !f.is_empty()) { FORMULA } else { 0 }),
        };
        let Some(evaltype) = evaltype else { return Value::Null };
        let mut conditions = Vec::new();
        for (position, condition) in filter.conditions.iter().enumerate() {
            let key = format!("filter.conditions[{position}]");
            let Some(mut written) = self.condition(&key, condition, evaltype) else { continue };
            match (&condition.formulaid, evaltype) {
                (Some(id), FORMULA) => drop(written.insert("formulaid".into(), json!(id))),
                (None, FORMULA) => self.fault(&key, "has no formulaid, by which the formula could name it"),
                // The server's own: it has one for each condition, and takes none back.
                _ => {}
            }
            conditions.push(written);
        }
        let mut out = Map::from_iter([("evaltype".to_owned(), json!(evaltype))]);
        match &filter.formula {
            Some(formula) if evaltype == FORMULA => {
                let formula = self.formula(formula, &mut conditions);
                out.insert("formula".into(), json!(formula));
            }
            None if evaltype == FORMULA => {
                self.fault("filter.formula", "has to be written with this evaltype, like \"A and (B or C)\"");
            }
            Some(formula) if !formula.is_empty() => {
                self.fault("filter.formula", "is only for evaltype = \"custom expression\"");
            }
            _ => {}
        }
        out.insert("conditions".into(), json!(conditions));
        Value::Object(out)
    }

    /// The formula with the letters that the server gives its conditions: A for the first that it names, and so on.
    fn formula(&mut self, formula: &str, conditions: &mut [Map<String, Value>]) -> String {
        let (mut out, mut order) = (String::new(), Vec::<String>::new());
        let mut rest = formula;
        while let Some(start) = rest.find(|c: char| c.is_ascii_uppercase()) {
            let end = rest[start..].find(|c: char| !c.is_ascii_uppercase()).map_or(rest.len(), |length| start + length);
            let id = &rest[start..end];
            let position = order.iter().position(|known| known == id).unwrap_or_else(|| {
                order.push(id.to_owned());
                order.len() - 1
            });
            out += &rest[..start];
            out += &letters(position);
            rest = &rest[end..];
        }
        out += rest;
        let is_of = |condition: &Map<String, Value>, id: &str| condition.get("formulaid").is_some_and(|f| f == id);
        for id in order.iter().filter(|id| !conditions.iter().any(|c| is_of(c, id))) {
            self.fault("filter.formula", format!("names {id}, and no condition has that formulaid"));
        }
        for condition in conditions {
            match order.iter().position(|id| is_of(condition, id)) {
                Some(position) => drop(condition.insert("formulaid".into(), json!(letters(position)))),
                None => self.fault("filter.formula", format!("does not name {}", condition["formulaid"])),
            }
        }
        out
    }

    fn condition(&mut self, key: &str, condition: &Condition, evaltype: i64) -> Option<Map<String, Value>> {
        let mut number =
            self.number(&format!("{key}.conditiontype"), words::CONDITIONTYPE, &condition.conditiontype)?;
        let operator_key = format!("{key}.operator");
        let mut operator = match &condition.operator {
            Some(written) => Some(self.number(&operator_key, words::OPERATOR, written)?),
            None => None,
        };
        let mut tag = condition.value2.as_ref().map(|word| word.0.clone()).unwrap_or_default();
        match number {
            TRIGGER_VALUE => {
                self.trigger_value(key, condition, evaltype);
                return None;
            }
            APPLICATION if self.version < ITEM_TAGS => {
                let value = condition.value.as_ref().map_or("", |word| &word.0);
                return Some(row(number, operator.unwrap_or(0), Some(json!(value))));
            }
            APPLICATION => {
                self.note(key, "an application is an item's tag \"Application\" now; the condition asks for that tag");
                (number, tag) = (EVENT_TAG_VALUE, "Application".to_owned());
            }
            SUPPRESSED if matches!(operator, Some(4 | 7)) => {
                operator = operator.map(|o| if o == 4 { 10 } else { 11 });
                self.note(key, "maintenance is asked for as \"problem is suppressed\" now, by yes or no");
            }
            _ => {}
        }
        let word = words::word(words::CONDITIONTYPE, number);
        let source = words::word(words::EVENTSOURCE, self.source);
        let kind = words::CONDITIONS.iter().find(|c| c.number == number && c.sources.contains(&self.source));
        let Some(kind) = kind else {
            let there = words::CONDITIONS.iter().filter(|c| c.sources.contains(&self.source));
            let there: Vec<_> = there.map(|c| words::word(words::CONDITIONTYPE, c.number)).collect();
            let text =
                format!("an action for {source} events has no condition {word:?}; there are: {}", there.join(", "));
            self.fault(&format!("{key}.conditiontype"), text);
            return None;
        };
        let operator = operator.unwrap_or(kind.operators[0]);
        if !kind.operators.contains(&operator) {
            let there: Vec<_> = kind.operators.iter().map(|o| words::word(words::OPERATOR, *o)).collect();
            self.fault(&operator_key, format!("is none for {word:?}; there are: {}", there.join(", ")));
        }
        let value = self.value(&format!("{key}.value"), kind.holds, condition.value.as_ref(), number);
        let mut out = row(number, operator, value);
        if number == EVENT_TAG_VALUE {
            if tag.is_empty() {
                self.fault(&format!("{key}.value2"), "has to be the tag's name; `value` is its value");
            }
            out.insert("value2".into(), json!(tag));
        } else if !tag.is_empty() {
            self.fault(&format!("{key}.value2"), "is only for \"event tag value\"");
        }
        Some(out)
    }

    fn value(&mut self, key: &str, holds: Holds, written: Option<&Word>, number: i64) -> Option<Value> {
        match (holds, written) {
            (Holds::Nothing, _) => None,
            (_, None) if number == EVENT_TAG_VALUE => Some(json!("")),
            (_, None) => {
                self.fault(key, "has to be written, and is missing");
                None
            }
            (Holds::Id(kind), Some(written)) => self.id(key, kind, written).map(Value::String),
            (Holds::Number(words), Some(written)) => self.number(key, words, written).map(|n| json!(n.to_string())),
            (Holds::Text, Some(Word(text))) => Some(json!(text)),
        }
    }

    /// Until 3.2 an action was told of the problem and of its end; this condition chose.
    fn trigger_value(&mut self, key: &str, condition: &Condition, evaltype: i64) {
        let is_problem =
            condition.value.as_ref().is_none_or(|value| matches!(&*value.0.to_lowercase(), "1" | "problem"));
        if !is_problem || evaltype == FORMULA {
            self.fault(key, "there is no condition \"trigger value\" any more: what is done at the end of a problem stands in recovery_operations");
        } else {
            self.note(key, "\"trigger value\" is left out: operations are only for problems now");
        }
    }
}

fn row(number: i64, operator: i64, value: Option<Value>) -> Map<String, Value> {
    let mut out =
        Map::from_iter([("conditiontype".to_owned(), json!(number)), ("operator".to_owned(), json!(operator))]);
    if let Some(value) = value {
        out.insert("value".into(), value);
    }
    out
}

/// A, B … Z, AA, AB …
fn letters(position: usize) -> String {
    let last = char::from(b'A' + (position % 26) as u8);
    if position < 26 { last.to_string() } else { letters(position / 26 - 1) + &last.to_string() }
}
