//! Many callers at once, and what they were told.

use std::collections::HashMap;
use std::fs;
use std::thread;

use callbackd_vfs::{FAULTS, TAPE};

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request, soon};
use crate::peers::hook::{Hook, Reply};
use crate::wire::Answer;

const PATH: &str = "/callbacks/media/t0ken";

/// At one time.
pub(crate) const CALLERS: usize = 16;

/// The daemon on its disk, its senders and its sink.
pub(crate) struct Senders {
    pub(crate) daemon: Daemon,
    hook: Hook,
    runs: usize,
    /// By receipt, what was acknowledged: its run and its size.
    kept: HashMap<String, (usize, usize)>,
    refused: Vec<(usize, usize)>,
}

/// A body of at least so many bytes.
fn body(run: usize, bytes: usize) -> String {
    let much = format!("<Extra>{}</Extra></Response>", "x".repeat(bytes));
    cos(Step::Success, format_args!("run-{run}")).replace("</Response>", &much)
}

impl Senders {
    pub(crate) fn new(config: &str) -> Senders {
        Senders::on(config, &[(FAULTS, "faults")])
    }

    /// The same, and all that is done to the store's files is written down in the file `tape`.
    pub(crate) fn taped() -> Senders {
        Senders::on("", &[(FAULTS, "faults"), (TAPE, "tape")])
    }

    fn on(config: &str, files: &[(&str, &str)]) -> Senders {
        let hook = Hook::start(|| Reply::Status(200));
        let mut daemon = Daemon::prepare();
        for (variable, name) in files {
            let path = daemon.path(name).to_str().expect("UTF-8").to_owned();
            daemon.environment.push(((*variable).to_owned(), path));
        }
        daemon.configure(&format!(
            "store.log_bytes = 16777216\n{config}\
             [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
             [sinks.any]\nkind = \"webhook\"\nurl = \"{}\"\nretry_longest = \"1s\"\n\
             [[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n",
            hook.url()
        ));
        daemon.start();
        Senders { daemon, hook, runs: 0, kept: HashMap::new(), refused: Vec::new() }
    }

    /// From now on these calls fail.
    pub(crate) fn faults(&self, rules: &str) {
        let (fresh, faults) = (self.daemon.path("faults.new"), self.daemon.path("faults"));
        fs::write(&fresh, rules).expect("written");
        fs::rename(fresh, faults).expect("renamed");
    }

    /// All callers at once, each with news: how many were refused.
    pub(crate) fn burst(&mut self) -> usize {
        self.send(100)
    }

    /// The same with bodies that fill the log.
    pub(crate) fn large_burst(&mut self) -> usize {
        self.send(200_000)
    }

    fn send(&mut self, bytes: usize) -> usize {
        let first = self.runs;
        self.runs += CALLERS;
        let runs: Vec<_> = (first..self.runs).map(|run| (run, bytes)).collect();
        let refused = self.refused.len();
        self.tell(&runs);
        self.refused.len() - refused
    }

    /// Whoever was refused sends again until it is kept: how that was called.
    pub(crate) fn again(&mut self) -> Vec<String> {
        let mut outcomes = Vec::new();
        soon("everything is kept in the end", || {
            let refused = std::mem::take(&mut self.refused);
            outcomes.extend(self.tell(&refused));
            self.refused.is_empty().then_some(())
        });
        outcomes
    }

    /// Sends all of them at the same time.
    fn tell(&mut self, runs: &[(usize, usize)]) -> Vec<String> {
        let address = &self.daemon.listen;
        let ask = |run, bytes| {
            let request = request("POST", PATH, &[], body(run, bytes).as_bytes());
            Connection::to(address).ask(&request).unwrap_or_else(|e| panic!("run-{run} got no answer: {e}"))
        };
        let answers: Vec<((usize, usize), Answer)> = thread::scope(|scope| {
            let callers: Vec<_> =
                runs.iter().map(|&(run, bytes)| scope.spawn(move || ((run, bytes), ask(run, bytes)))).collect();
            callers.into_iter().map(|caller| caller.join().expect("a caller")).collect()
        });
        let mut outcomes = Vec::new();
        for (run, answer) in answers {
            if answer.status == 200 {
                let said = answer.json();
                let receipt = said["receipt"].as_str().expect("a receipt").to_owned();
                let outcome = said["outcome"].as_str().expect("an outcome").to_owned();
                assert!(["accepted", "duplicate"].contains(&&*outcome), "{said}");
                self.kept.insert(receipt, run);
                outcomes.push(outcome);
            } else {
                assert_eq!(answer.status, 503, "{answer:?}");
                let again = answer.header("retry-after").and_then(|s| s.parse::<u32>().ok());
                assert!(again.is_some_and(|seconds| seconds > 0), "{answer:?}");
                self.refused.push(run);
            }
        }
        outcomes
    }

    /// Starts on a disk that may fail: it runs, and is killed, or ends by itself and says why. How often it did not run.
    pub(crate) fn starts_or_says_why(&mut self) -> usize {
        match self.daemon.try_start() {
            None => {
                self.daemon.kill9();
                0
            }
            Some(status) => {
                assert_eq!(status.code(), Some(1));
                let log = self.daemon.log();
                let why = log.lines().rev().nth(1).unwrap_or_default();
                assert!(why.contains("callbackd.db"), "{why}");
                1
            }
        }
    }

    /// That everything that was acknowledged is there, once and byte for byte, and was told.
    pub(crate) fn hold(mut self) {
        assert!(self.refused.is_empty());
        soon("everything delivered", || {
            let waiting = self.daemon.list(&["deliveries", "list", "--status", "waiting,leased,dead", "--limit", "1"]);
            waiting.is_empty().then_some(())
        });
        self.daemon.kill9();
        let conn = rusqlite::Connection::open(self.daemon.path("callbackd.db")).expect("opens");
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
        assert_eq!(check, "ok");
        let mut receipts = conn.prepare("SELECT status, body FROM receipts WHERE id = ?1").expect("prepared");
        for (receipt, (run, bytes)) in &self.kept {
            let row: (String, Option<Vec<u8>>) = receipts
                .query_row([receipt], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap_or_else(|e| panic!("receipt {receipt} of run-{run} was acknowledged and is lost: {e}"));
            match row.1 {
                Some(kept) => assert_eq!(kept, body(*run, *bytes).into_bytes()),
                None => assert_eq!(row.0, "duplicate"),
            }
        }
        let executions: usize = conn
            .query_row("SELECT count(*) FROM executions", [], |row| row.get(0).map(|n: i64| n as usize))
            .expect("counted");
        assert_eq!(executions, self.runs, "each once");
        let told: std::collections::HashSet<_> = self.hook.taken().into_iter().collect();
        for run in 0..self.runs {
            assert!(told.contains(&(format!("run-{run}"), "succeeded".to_owned())), "run-{run} was not told");
        }
    }
}
