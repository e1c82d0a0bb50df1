//! Log lines of a run: few requests for many of them, and those that are held back while Port has little room.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::run::RunId;
use crate::model::Status;

/// Of one request. A character takes at most six bytes in JSON, and Port takes 1 MiB.
const REQUEST_CHARS_MAX: usize = 100_000;
/// Of all runs; the oldest make room.
const HELD_MAX: usize = 2_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) status: Status,
}

/// The body that says `lines`: an action's run has one text, a node's a list.
pub(super) fn body(run: &RunId, lines: &[Line]) -> Value {
    if run.is_node {
        let level = |status| match status {
            Status::Failed => "ERROR",
            Status::Cancelled => "WARN",
            _ => "INFO",
        };
        let logs: Vec<_> = lines.iter().map(|l| json!({"level": level(l.status), "message": l.text})).collect();
        return json!({"logs": logs});
    }
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    json!({"message": texts.join("\n")})
}

/// The same lines in as many parts as they need requests.
pub(super) fn requests(mut lines: &[Line]) -> Vec<&[Line]> {
    let mut parts = Vec::new();
    while !lines.is_empty() {
        let mut chars = 0;
        let fits = |line: &&Line| {
            chars += line.text.chars().count() + 1;
            chars <= REQUEST_CHARS_MAX
        };
        let (part, rest) = lines.split_at(lines.iter().take_while(fits).count().max(1));
        parts.push(part);
        lines = rest;
    }
    parts
}

/// Lines of several runs that go out with each run's next report. They are progress: a restart may lose them, for the
/// last report says what failed.
#[derive(Default)]
pub(super) struct Held(Mutex<VecDeque<(RunId, Line)>>);

impl Held {
    fn queue(&self) -> MutexGuard<'_, VecDeque<(RunId, Line)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `run`.
    pub(super) fn of(&self, run: &RunId) -> Vec<Line> {
        self.queue().iter().filter(|(of, _)| of == run).map(|(_, line)| line.clone()).collect()
    }

    pub(super) fn hold(&self, run: &RunId, lines: &[Line]) {
        let mut queue = self.queue();
        queue.extend(lines.iter().map(|line| (run.clone(), line.clone())));
        let over = queue.len().saturating_sub(HELD_MAX);
        queue.drain(..over);
    }

    /// The oldest `count` of `run` were told, or are of no use any more.
    pub(super) fn drop_first(&self, run: &RunId, mut count: usize) {
        self.queue().retain(|(of, _)| {
            let told = count > 0 && of == run;
            count -= usize::from(told);
            !told
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize, chars: usize) -> Vec<Line> {
        let line = |n| Line { text: format!("{n}{}", "x".repeat(chars - 1)), status: Status::Succeeded };
        (0..count).map(line).collect()
    }

    #[test]
    fn few_requests_say_all_lines_in_their_order_below_a_mebibyte() {
        for (count, chars, expected) in [(0, 1, 0), (1, 200_000, 1), (1000, 10, 1), (100, 2_000, 3), (3, 99_999, 3)] {
            let all = lines(count, chars);
            let parts = requests(&all);
            assert_eq!((parts.len(), parts.concat()), (expected, all), "{count} of {chars}");
        }
        let worst = vec![Line { text: "\u{1}".repeat(2_000), status: Status::Failed }; 200];
        for run in ["r_1", "wfnr_1"] {
            let run = RunId::parse(run).expect("a run");
            for part in requests(&worst) {
                assert!(body(&run, part).to_string().len() < 1 << 20);
            }
        }
    }

    #[test]
    fn held_lines_are_their_runs_own_and_bounded() {
        let [a, b] = ["r_a", "r_b"].map(|id| RunId::parse(id).expect("a run"));
        let held = Held::default();
        let some = lines(3, 1);
        held.hold(&a, &some[..2]);
        held.hold(&b, &some[..1]);
        held.hold(&a, &some[2..]);
        assert_eq!((held.of(&a), held.of(&b)), (some.clone(), some[..1].to_vec()));
        held.drop_first(&a, 2);
        assert_eq!((held.of(&a), held.of(&b).len()), (some[2..].to_vec(), 1));
        held.hold(&b, &lines(HELD_MAX, 1));
        assert_eq!((held.of(&a).len(), held.of(&b).len()), (0, HELD_MAX));
    }
}
