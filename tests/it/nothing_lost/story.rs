//! What senders tell: whole lives of executions, callback after callback, and what has to become of them.

use std::fmt::Write;

use fastrand::Rng;

use crate::callbacks::{Step, cos, port};

/// One callback.
#[derive(Clone, Debug)]
pub(super) struct Callback {
    /// Of the execution that it speaks of.
    pub(super) key: String,
    /// Unlike those of the others of its execution.
    pub(super) name: String,
    pub(super) body: String,
    /// Port's, which are signed; else Tencent's.
    pub(super) signed: bool,
    pub(super) means: Means,
}

/// What a callback has to be taken for when it comes for the first time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Means {
    News,
    /// Older than what is held.
    Stale,
    Contradiction,
}

/// An execution of Tencent's, and the run at Port that asked for it, if one did.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) key: String,
    /// In the order in which they are told.
    pub(super) callbacks: Vec<Callback>,
    pub(super) succeeds: bool,
    /// Port's run.
    pub(super) asked: Option<String>,
    /// Names of the tasks that call back themselves.
    pub(super) tasks: Vec<String>,
    /// Whether its start is told before its end.
    pub(super) starts: bool,
}

impl Story {
    /// Any of those that there can be. `name` is letters and digits.
    pub(super) fn any(name: &str, rng: &mut Rng) -> Story {
        let asked = (rng.u32(0..3) == 0).then(|| format!("r_{name}"));
        // Routes can tell those that were asked for.
        let key = format!("run-{name}{}", if asked.is_some() { "p" } else { "" });
        let callback = |name: &str, body: String, means| Callback {
            key: key.clone(),
            name: name.to_owned(),
            body,
            signed: false,
            means,
        };
        let (starts, succeeds) = (rng.u32(0..4) > 0, rng.u32(0..4) > 0);
        let count = [0, 0, 1, 2, 4][rng.usize(0..5)];
        let tasks: Vec<String> = (1..=count).map(|n| format!("T{n}")).collect();
        let end = |succeeds| finish(&key, &tasks, succeeds);
        let mut callbacks = Vec::new();
        if starts {
            callbacks.push(callback("start", cos(Step::Start, &key), Means::News));
        }
        callbacks.extend(tasks.iter().map(|task| callback(task, task_finish(&key, task), Means::News)));
        callbacks.push(callback("end", end(succeeds), Means::News));
        match rng.u32(0..8) {
            0 if !starts => callbacks.push(callback("start", cos(Step::Start, &key), Means::Stale)),
            1 => callbacks.push(callback("other end", end(!succeeds), Means::Contradiction)),
            _ => {}
        }
        if let Some(run) = &asked {
            let body = port(run).replace("in/clip.mp4", &format!("in/{key}.mp4"));
            let ask = Callback { key: run.clone(), name: "ask".to_owned(), body, signed: true, means: Means::News };
            // Mostly first; but the one who asks may be slower than the work.
            let at = if rng.bool() { 0 } else { rng.usize(0..=callbacks.len()) };
            callbacks.insert(at, ask);
        }
        Story { key, callbacks, succeeds, asked, tasks, starts }
    }

    /// One callback: a success at once.
    pub(super) fn short(name: &str) -> Story {
        let key = format!("run-{name}");
        let body = finish(&key, &[], true);
        let end = Callback { key: key.clone(), name: "end".to_owned(), body, signed: false, means: Means::News };
        Story { key, callbacks: vec![end], succeeds: true, asked: None, tasks: Vec::new(), starts: false }
    }

    pub(super) fn end(&self) -> &'static str {
        if self.succeeds { "succeeded" } else { "failed" }
    }

    /// How many changes Tencent's callbacks make.
    pub(super) fn changes(&self) -> i64 {
        let news = |callback: &&Callback| !callback.signed && callback.means == Means::News;
        self.callbacks.iter().filter(news).count() as i64
    }

    /// Key, status and number of changes of each of its executions in the end. When Port's run has been told its end, so
    /// has its own execution.
    pub(super) fn executions(&self) -> Vec<(&str, &'static str, i64)> {
        let of_port = self.asked.as_deref().map(|run| (run, self.end(), 2));
        [(&*self.key, self.end(), self.changes())].into_iter().chain(of_port).collect()
    }

    /// Which of its changes it is that shows this status and so many tasks.
    pub(super) fn place(&self, status: &str, tasks: i64) -> i64 {
        if status == self.end() { self.changes() } else { i64::from(self.starts) + tasks }
    }
}

/// A `TaskFinish`.
fn task_finish(run: &str, task: &str) -> String {
    cos(Step::TaskFinish, run)
        .replace(&format!("<JobId>j-{run}<"), &format!("<JobId>j-{run}-{task}<"))
        .replace("Transcode_1", task)
}

/// A `WorkflowFinish` with all of its tasks, and one more that decides how it ends.
fn finish(run: &str, tasks: &[String], succeeds: bool) -> String {
    let (step, state) = if succeeds { (Step::Success, "Success") } else { (Step::Failed, "Failed") };
    let mut told = String::new();
    for (task, state) in tasks.iter().map(|task| (&**task, "Success")).chain([("Last", state)]) {
        write!(
            told,
            "<Tasks><Type>Transcode</Type><CreateTime>2020-12-01 11:00:42+0800</CreateTime>\
             <EndTime>2020-12-01 11:00:45+0800</EndTime><State>{state}</State><JobId>j-{run}-{task}</JobId>\
             <Name>{task}</Name></Tasks>"
        )
        .expect("a text");
    }
    let whole = cos(step, run);
    let (from, to) =
        (whole.find("<Tasks>").expect("tasks"), whole.rfind("</Tasks>").expect("tasks") + "</Tasks>".len());
    format!("{}{told}{}", &whole[..from], &whole[to..])
}
