//! What the store holds already of an execution that a callback speaks of.

use serde_json::Value;

use crate::cli::Failure;
use crate::model::{Link, State};
use crate::store::{Queries, StoreError};

/// The store as far as there is one: without it every execution is new.
pub(super) struct Known(Option<Box<dyn Queries>>);

/// One execution, before the callback.
#[derive(Default)]
pub(super) struct Held {
    pub(super) key: String,
    /// 0 for one that is not stored.
    pub(super) id: i64,
    pub(super) state: Option<State>,
    pub(super) links: Vec<Link>,
    pub(super) changes: u32,
}

impl Known {
    pub(super) fn new(queries: Option<Box<dyn Queries>>) -> Known {
        Known(queries)
    }

    /// What is held of the execution of that source and key.
    pub(super) async fn look(&self, source: &str, key: &str) -> Result<Held, Failure> {
        let unknown = || Held { key: key.to_owned(), ..Held::default() };
        let Some(queries) = &self.0 else { return Ok(unknown()) };
        match queries.execution(key.to_owned()).await {
            Ok(found) => Ok(read(source, key, &found).unwrap_or_else(unknown)),
            Err(StoreError::NotFound(_)) => Ok(unknown()),
            Err(e) => Err(e.into()),
        }
    }
}

/// `None` when what was found is another source's, or an id that looks like the key.
fn read(source: &str, key: &str, found: &Value) -> Option<Held> {
    let state = State {
        execution: serde_json::from_value(found["execution"].clone()).ok()?,
        tasks: serde_json::from_value(found["tasks"].clone()).ok()?,
    };
    if state.execution.source != source || state.execution.key != key {
        return None;
    }
    Some(Held {
        key: key.to_owned(),
        id: found["execution"]["id"].as_str()?.parse().ok()?,
        state: Some(state),
        links: serde_json::from_value(found["execution"]["links"].clone()).unwrap_or_default(),
        changes: found["changes"].as_array().map_or(0, |all| u32::try_from(all.len()).unwrap_or(u32::MAX)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Status;

    #[test]
    fn only_the_same_source_and_key_is_held() {
        let found = json!({
            "execution": {"id": "7", "source": "media", "key": "12", "status": "running", "attributes": {}, "links": [],
                          "inputs": null, "created_at": "2026-11-21T10:31:07Z"},
            "tasks": [{"key": "t", "status": "pending"}],
            "changes": [{}, {}],
        });
        let held = read("media", "12", &found).expect("held");
        assert_eq!((held.id, held.changes), (7, 2));
        let state = held.state.expect("a state");
        assert_eq!((state.execution.status, state.tasks[0].status), (Status::Running, Status::Pending));
        assert!(read("portal", "12", &found).is_none());
        assert!(read("media", "7", &found).is_none());
    }
}
