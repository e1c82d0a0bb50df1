//! Whether a callback says what its vendor says: the rule of `confirm`.
//!
//! The vendor's answer is the truth. What decides is what cannot be taken back: a finished status, of the execution or
//! of a task. An answer that is merely behind the callback neither confirms nor refutes it, for vendors' own copies
//! catch up with a delay. All else that both speak of is recorded in the vendor's words: a callback cannot put a true
//! end under a false name.

use super::update::short;
use super::{Advance, Status, Task, Update};

/// What an answer means for a callback.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// All that the callback claims is so.
    Agrees,
    /// Not so yet, and it still may come to be.
    NotYet(String),
    /// It is otherwise, for good.
    Contradicts(String),
}

impl Update {
    /// Judges what a callback claims by what its vendor answered of the same execution.
    pub fn agrees_with(&self, truth: &Update) -> Agreement {
        let (claims, holds) = (&self.execution, &truth.execution);
        let of_execution = claims.status.map_or(Agreement::Agrees, |claimed| {
            compare("the execution", claimed, holds.status.unwrap_or(Status::Running))
        });
        // Whether an answer lists every task of a run that is over is the vendor's affair.
        let is_over = of_execution == Agreement::Agrees && claims.status.is_some_and(Status::is_finished);
        let of_tasks = self.tasks.iter().map(|task| match truth.task(&task.key) {
            Some(held) => compare(&format!("task {}", short(&task.key)), task.status, held.status),
            None if task.status.is_finished() && !is_over => {
                Agreement::NotYet(format!("the vendor does not list task {}", short(&task.key)))
            }
            None => Agreement::Agrees,
        });
        std::iter::once(of_execution).chain(of_tasks).max_by_key(Agreement::weight).unwrap_or(Agreement::Agrees)
    }

    /// A confirmed callback as it is recorded: the vendor's words stand over the callback's own, which add what the
    /// answer leaves out.
    #[must_use]
    pub fn in_words_of(mut self, truth: &Update) -> Update {
        let (part, theirs) = (&mut self.execution, &truth.execution);
        // What the callback leaves open stays open: of a task it tells that task.
        if part.status.is_some_and(Status::is_finished) {
            over(&mut part.vendor_status, &theirs.vendor_status);
            over(&mut part.finished_at, &theirs.finished_at);
        }
        over(&mut part.name, &theirs.name);
        over(&mut part.workflow, &theirs.workflow);
        over(&mut part.subject, &theirs.subject);
        over(&mut part.inputs, &theirs.inputs);
        let said = theirs.attributes.iter().filter(|(_, value)| !value.is_null());
        part.attributes.extend(said.map(|(key, value)| (key.clone(), value.clone())));
        over(&mut part.created_at, &theirs.created_at);
        over(&mut part.started_at, &theirs.started_at);
        let told = std::mem::take(&mut self.tasks);
        self.tasks = if part.status.is_some_and(Status::is_finished) && !truth.tasks.is_empty() {
            // Of a run that is over, the vendor's list is the list.
            let told = |theirs: &Task| told.iter().find(|task| task.key == theirs.key).cloned();
            truth
                .tasks
                .iter()
                .map(|theirs| told(theirs).unwrap_or_else(|| theirs.clone()).in_words_of(theirs))
                .collect()
        } else {
            let in_their_words = |task: Task| match truth.task(&task.key) {
                Some(theirs) if task.status.is_finished() => task.in_words_of(theirs),
                _ => task,
            };
            told.into_iter().map(in_their_words).collect()
        };
        self
    }

    fn task(&self, key: &str) -> Option<&Task> {
        self.tasks.iter().find(|task| task.key == key)
    }
}

impl Task {
    fn in_words_of(mut self, theirs: &Task) -> Task {
        self.status = theirs.status;
        over(&mut self.name, &theirs.name);
        over(&mut self.kind, &theirs.kind);
        over(&mut self.vendor_status, &theirs.vendor_status);
        over(&mut self.created_at, &theirs.created_at);
        over(&mut self.started_at, &theirs.started_at);
        over(&mut self.finished_at, &theirs.finished_at);
        over(&mut self.template, &theirs.template);
        over(&mut self.outputs, &theirs.outputs);
        over(&mut self.error, &theirs.error);
        self
    }
}

impl Agreement {
    fn weight(&self) -> u8 {
        match self {
            Agreement::Agrees => 0,
            Agreement::NotYet(_) => 1,
            Agreement::Contradicts(_) => 2,
        }
    }
}

fn compare(what: &str, claimed: Status, held: Status) -> Agreement {
    let text = || format!("the vendor says that {what} is {held}, this says {claimed}");
    if !claimed.is_finished() {
        // What was unfinished once may be anything by now.
        return Agreement::Agrees;
    }
    match held.advance(claimed) {
        Advance::Same => Agreement::Agrees,
        Advance::Conflict => Agreement::Contradicts(text()),
        Advance::Forward | Advance::Stale => Agreement::NotYet(text()),
    }
}

fn over<T: Clone>(held: &mut Option<T>, theirs: &Option<T>) {
    if theirs.is_some() {
        held.clone_from(theirs);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{ExecutionPart, Time};

    fn says(status: Option<Status>, tasks: &[(&str, Status)]) -> Update {
        Update {
            key: "i1".to_owned(),
            execution: ExecutionPart { status, ..ExecutionPart::default() },
            tasks: tasks.iter().map(|(key, status)| Task::new((*key).to_owned(), *status)).collect(),
            ..Update::default()
        }
    }

    #[test]
    fn only_what_is_final_decides() {
        use Status::{Cancelled, Failed, Running, Succeeded, Unknown};
        let cases = [
            (Some(Succeeded), Some(Succeeded), "agrees"),
            (Some(Succeeded), Some(Failed), "contradicts"),
            (Some(Failed), Some(Cancelled), "contradicts"),
            (Some(Succeeded), Some(Running), "not yet"),
            (Some(Succeeded), Some(Unknown), "not yet"),
            (Some(Succeeded), None, "not yet"),
            (Some(Running), Some(Running), "agrees"),
            (Some(Running), Some(Failed), "agrees"),
            (Some(Unknown), Some(Failed), "agrees"),
            (None, Some(Running), "agrees"),
        ];
        let word = |agreement| match agreement {
            Agreement::Agrees => "agrees",
            Agreement::NotYet(_) => "not yet",
            Agreement::Contradicts(_) => "contradicts",
        };
        for (claimed, held, expected) in cases {
            let judged = says(claimed, &[]).agrees_with(&says(held, &[]));
            assert_eq!(word(judged), expected, "{claimed:?} beside {held:?}");
        }
        let claims = says(None, &[("a", Succeeded), ("b", Running)]);
        for (held, expected) in [
            (&[("a", Succeeded)][..], "agrees"),
            (&[("a", Failed)], "contradicts"),
            (&[("a", Running), ("b", Succeeded)], "not yet"),
            (&[], "not yet"),
        ] {
            assert_eq!(word(claims.agrees_with(&says(Some(Running), held))), expected, "{held:?}");
        }
        let over = says(Some(Succeeded), &[("a", Succeeded)]);
        assert_eq!(over.agrees_with(&says(Some(Succeeded), &[])), Agreement::Agrees);
        let whole = says(Some(Succeeded), &[("a", Failed)]);
        let judged = whole.agrees_with(&says(Some(Running), &[("a", Succeeded)]));
        assert_eq!(
            judged,
            Agreement::Contradicts("the vendor says that task a is succeeded, this says failed".to_owned())
        );
    }

    #[test]
    fn the_vendors_words_stand_over_the_callbacks() {
        let (failed, running) = (Status::Failed, Status::Running);
        let claims = |status| {
            let mut claims = says(status, &[("a", failed), ("b", running), ("forged", failed)]);
            claims.tasks[0].error = Some(json!({"code": "Forged"}));
            claims.tasks[0].outputs = Some(json!({"objects": []}));
            let attributes = [("headers", json!({"a": "b"})), ("object", "forged.mp4".into())];
            claims.execution.attributes = attributes.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
            claims.execution.subject = Some("media/forged.mp4".to_owned());
            claims
        };
        let mut truth = says(Some(failed), &[("a", failed), ("b", Status::Succeeded), ("c", failed)]);
        truth.tasks[0].error = Some(json!({"code": "Real"}));
        truth.execution.started_at = Some(Time::from_seconds(7));
        truth.execution.subject = Some("media/real.mp4".to_owned());
        truth.execution.attributes.insert("object".to_owned(), "real.mp4".into());
        truth.execution.attributes.insert("headers".to_owned(), serde_json::Value::Null);
        let tasks = |recorded: &Update| recorded.tasks.iter().map(|t| (t.key.clone(), t.status)).collect::<Vec<_>>();
        let pair = |(key, status): (&str, Status)| (key.to_owned(), status);

        let recorded = claims(Some(failed)).in_words_of(&truth);
        assert_eq!(tasks(&recorded), [("a", failed), ("b", Status::Succeeded), ("c", failed)].map(pair));
        assert_eq!(recorded.tasks[0].error, Some(json!({"code": "Real"})));
        assert!(recorded.tasks[0].outputs.is_some(), "what the answer leaves out");
        let e = recorded.execution;
        assert_eq!((e.subject.as_deref(), e.started_at), (Some("media/real.mp4"), Some(Time::from_seconds(7))));
        assert_eq!(serde_json::Value::Object(e.attributes), json!({"headers": {"a": "b"}, "object": "real.mp4"}));

        // News of a task stays news of that task.
        let mut one = claims(None);
        one.tasks.truncate(2);
        let recorded = one.in_words_of(&truth);
        assert_eq!(
            (tasks(&recorded), recorded.execution.status),
            ([("a", failed), ("b", running)].map(pair).into(), None)
        );
        assert_eq!(recorded.tasks[0].error, Some(json!({"code": "Real"})));
        // An answer without a list says nothing of it.
        truth.tasks.clear();
        assert_eq!(tasks(&claims(Some(failed)).in_words_of(&truth)).len(), 3);
    }
}
