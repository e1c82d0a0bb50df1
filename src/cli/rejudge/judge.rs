//! One configuration's reading of stored receipts, in a store of its own.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::app;
use crate::cli::Failure;
use crate::config::{Config, Environment};
use crate::model::{Change, Delivery, ReceiptStatus, Rules, State};
use crate::pipeline::ingest::Intake;
use crate::sinks::Sink;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Parsed, Queries, ReceiptRow, Recorded, Store};

/// Histories that are remembered: neighbours speak of the same executions.
const HISTORIES: usize = 64;

pub(super) struct Judge {
    intakes: Vec<Intake>,
    sinks: Vec<(String, Box<dyn Sink>)>,
    rules: Arc<Rules>,
    store: SqliteStore,
    /// What became of each receipt, by its id in the store that it is from.
    judged: HashMap<i64, Judged>,
    histories: HashMap<i64, Rc<Value>>,
}

struct Judged {
    recorded: Option<Recorded>,
    /// Whether its vendor would be asked first.
    is_held: bool,
    reason: Option<String>,
}

impl Judge {
    pub(super) fn new(config: &Config, env: &Environment, path: &Path) -> Result<Judge, Failure> {
        Ok(Judge {
            intakes: app::sources(config, env)?.into_iter().map(|(_, intake)| intake).collect(),
            sinks: app::sinks(config, env)?,
            rules: Arc::new(app::rules(config)?),
            store: SqliteStore::open(path, &Options::default())?,
            judged: HashMap::new(),
            histories: HashMap::new(),
        })
    }

    fn intake(&self, source: &str) -> Option<&Intake> {
        self.intakes.iter().find(|intake| *intake.name == *source)
    }

    /// Keys of the executions that a receipt speaks of.
    pub(super) fn keys(&self, row: &ReceiptRow, body: &[u8]) -> Vec<String> {
        let updates = self
            .intake(&row.source)
            .map(|intake| intake.source.parse(&row.clone().into_receipt(body.to_vec())).unwrap_or_default());
        updates.unwrap_or_default().into_iter().map(|update| update.key).collect()
    }

    /// Judges one receipt, after all that came before it.
    pub(super) async fn take(&mut self, id: i64, row: &ReceiptRow, body: &[u8]) -> Result<(), Failure> {
        let Some(intake) = self.intake(&row.source) else {
            self.judged.insert(id, Judged { recorded: None, is_held: false, reason: None });
            return Ok(());
        };
        let receipt = row.clone().into_receipt(body.to_vec());
        let parsed = match intake.source.parse(&receipt) {
            // What a vendor confirmed is believed again; nobody is asked.
            Ok(updates) if intake.confirm && is_unconfirmed(row.status) => Parsed::Held(updates),
            Ok(updates) => Parsed::Updates(updates),
            Err(e) => Parsed::Quarantined(e.to_string()),
        };
        let is_held = intake.confirm && !matches!(parsed, Parsed::Quarantined(_));
        let recorded = self.store.record(receipt, parsed, Arc::clone(&self.rules)).await?;
        let (own, _) = self.store.receipt(recorded.receipt).await?;
        self.judged.insert(id, Judged { recorded: Some(recorded), is_held, reason: own.reason });
        Ok(())
    }

    /// What it means, without what is only this store's own: ids, and the receipt's.
    pub(super) async fn meaning(&mut self, id: i64) -> Result<Option<Value>, Failure> {
        let Some(Judged { recorded, is_held, reason }) = self.judged.get(&id) else { return Ok(None) };
        let Some(recorded) = recorded.clone() else {
            return Ok(Some(json!({ "outcome": "no such source", "executions": {} })));
        };
        let mut meaning =
            json!({ "outcome": recorded.outcome, "reason": reason, "asks_first": is_held, "executions": {} });
        if recorded.outcome == ReceiptStatus::Held {
            // Why it waits names nothing but its execution.
            meaning["reason"] = Value::Null;
        }
        for execution in &recorded.executions {
            let history = self.history(*execution).await?;
            let key = history["execution"]["key"].as_str().unwrap_or_default().to_owned();
            meaning["executions"][key] = self.changes(&history, &recorded.receipt.to_string());
        }
        Ok(Some(meaning))
    }

    async fn history(&mut self, execution: i64) -> Result<Rc<Value>, Failure> {
        if let Some(known) = self.histories.get(&execution) {
            return Ok(Rc::clone(known));
        }
        let history = Rc::new(self.store.execution(execution.to_string()).await?);
        if self.histories.len() >= HISTORIES {
            self.histories.clear();
        }
        self.histories.insert(execution, Rc::clone(&history));
        Ok(history)
    }

    /// What that receipt changed, and who would be told what.
    fn changes(&self, history: &Value, receipt: &str) -> Value {
        let all = |name: &str| history[name].as_array().into_iter().flatten();
        let of_receipt = all("changes").filter(|change| change["data"]["change"]["receipt"] == receipt);
        of_receipt
            .map(|change| {
                let mut told: Vec<(&str, Option<&str>)> = all("deliveries")
                    .filter(|delivery| delivery["change"] == change["id"])
                    .filter_map(|d| {
                        let fault = d["reason"].as_str().filter(|_| d["status"] == "dead");
                        Some((d["sink"].as_str()?, fault))
                    })
                    .collect();
                told.sort_unstable();
                let mut change = change_of(&change["data"]);
                // What it is linked to has an id of this store's, too.
                let links = change.iter_mut().flat_map(|change| &mut change.links);
                links.for_each(|link| link.execution.clear());
                let mut data = json!(change);
                let status = data.pointer_mut("/execution/status").map(Value::take);
                let mut requests = json!({});
                for (sink, _) in told.iter().filter(|(_, fault)| fault.is_none()) {
                    requests[*sink] = self.requests(sink, change.clone());
                }
                let routes = told.iter().map(|(sink, fault)| match fault {
                    Some(fault) => format!("{sink} (a dead letter: {fault})"),
                    None => (*sink).to_owned(),
                });
                json!({ "status": status, "change": data, "routes": routes.collect::<Vec<_>>(), "requests": requests })
            })
            .collect()
    }

    fn requests(&self, sink: &str, change: Option<Change>) -> Value {
        let (Some((_, sink)), Some(change)) = (self.sinks.iter().find(|(name, _)| name == sink), change) else {
            return Value::Null;
        };
        let received_at = change.meta.received_at;
        let delivery = Delivery {
            id: 0,
            change: Arc::new(change),
            attempts: 0,
            created_at: received_at,
            resume: None,
            trace: None,
        };
        let requests = sink.preview(&delivery, received_at).into_iter().map(|request| {
            // Place by place where it is JSON, else as it is.
            let body = serde_json::from_str(&request.body).unwrap_or(Value::String(request.body));
            json!({ "action": request.action, "body": body })
        });
        requests.collect()
    }

    pub(super) async fn close(self) {
        self.store.close().await;
    }
}

/// The change as sinks get it, with nothing of the store's own.
fn change_of(data: &Value) -> Option<Change> {
    let state = State {
        execution: serde_json::from_value(data["execution"].clone()).ok()?,
        tasks: serde_json::from_value(data["tasks"].clone()).ok()?,
    };
    let mut meta: crate::model::ChangeMeta = serde_json::from_value(data["change"].clone()).ok()?;
    meta.receipt = None;
    let links = serde_json::from_value(data["execution"]["links"].clone()).unwrap_or_default();
    Some(Change { id: 0, execution_id: 0, state, links, meta })
}

fn is_unconfirmed(status: ReceiptStatus) -> bool {
    matches!(status, ReceiptStatus::Held | ReceiptStatus::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    #[test]
    fn what_a_vendor_never_confirmed_is_held_again() {
        assert!(is_unconfirmed(ReceiptStatus::Held) && is_unconfirmed(ReceiptStatus::Refused));
        assert!(!is_unconfirmed(ReceiptStatus::Accepted) && !is_unconfirmed(ReceiptStatus::Conflict));
    }

    #[test]
    fn a_change_is_read_back_without_ids() {
        let data = json!({
            "execution": {"id": "7", "source": "media", "key": "r1", "status": "running", "attributes": {},
                          "links": [{"source": "portal", "key": "p", "execution": "9"}], "inputs": null},
            "tasks": [],
            "change": {"type": "t", "sequence": 1, "previous_status": null, "changed_tasks": [], "overdue": false,
                       "receipt": "5", "received_at": Time::from_seconds(1)},
        });
        let change = change_of(&data).expect("a change");
        assert_eq!((change.execution_id, change.links.len(), change.meta.receipt), (0, 1, None));
    }
}
