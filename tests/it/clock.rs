//! A clock that jumps under the running daemon: Debian's `faketime`, which `make tools` installs, tells it the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use callbackd::model::{Expectation, Rules, Status};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Inquiry, Parsed, Store};
use tempfile::TempDir;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Closed, Hook, Reply};
use crate::rig::receipt;
use crate::store::{at, update};

const MEDIA: &str = "/callbacks/media/t0ken";
const DAY: i64 = 86_400;

/// The library, where it is installed: it has to be where root runs the tests, or a machine that is there for them.
pub(crate) fn faketime() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;

    let folders = fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    #[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let is_root = fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0);
    assert!(found.is_some() || !(is_ci || is_root), "faketime is not installed: make tools");
    if found.is_none() {
        eprintln!("left out: a clock that jumps (needs faketime)");
    }
    found
}

/// A daemon whose clock stands in a file, `seconds` off.
pub(crate) struct Clock {
    pub(crate) daemon: Daemon,
}

impl Clock {
    /// One that is right, as yet.
    pub(crate) fn new(library: &Path, config: &str) -> Clock {
        let mut daemon = Daemon::prepare();
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        daemon.environment = vec![
            ("LD_PRELOAD".to_owned(), text(library)),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), text(&daemon.path("clock"))),
            ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            // Files keep their true times.
            ("NO_FAKE_STAT".to_owned(), "1".to_owned()),
        ];
        let mut clock = Clock { daemon };
        clock.set(0);
        clock.daemon.configure(config);
        clock.daemon.start();
        clock
    }

    /// In one step: a file that is half written says another time.
    pub(crate) fn set(&mut self, seconds: i64) {
        fs::write(self.daemon.path("clock.new"), format!("{seconds:+}\n")).expect("written");
        fs::rename(self.daemon.path("clock.new"), self.daemon.path("clock")).expect("renamed");
    }

    fn post(&self, step: Step, run: &str) -> i64 {
        let answer = self.daemon.post(MEDIA, &[], cos(step, run));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["receipt"].as_str().expect("an id").parse().expect("a number")
    }

    fn waiting(&self) -> Vec<serde_json::Value> {
        self.daemon.list(&["deliveries", "list", "--status", "waiting,leased"])
    }
}

fn config(url: &str, more: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.hook]\nkind = \"webhook\"\nurl = \"{url}\"\nbreaker_failures = 1000\n{more}\n\
         [[routes]]\nfrom = [\"media\"]\nto = [\"hook\"]\n"
    )
}

const RUNS: [&str; 4] = ["r1", "r2", "r3", "r4"];

/// All told, each execution in order.
fn all_told(hook: &Hook) {
    soon("all told", || {
        let taken = hook.taken();
        RUNS.iter()
            .all(|run| {
                let told: Vec<_> =
                    taken.iter().filter(|(key, _)| key == run).map(|(_, status)| status.as_str()).collect();
                told.last() == Some(&"succeeded")
            })
            .then_some(())
    });
    for run in RUNS {
        let mut told: Vec<_> =
            hook.taken().into_iter().filter(|(key, _)| key == run).map(|(_, status)| status).collect();
        told.dedup();
        assert_eq!(told, ["running", "succeeded"], "{run}");
    }
}

#[test]
fn retries_do_not_wait_for_a_clock_that_was_set_back() {
    let Some(library) = faketime() else { return };
    let away = Closed::reserve();
    // What waits for a retry is due within these seconds, or a day later.
    let mut clock = Clock::new(&library, &config(&away.url(), "retry_longest = \"2s\""));
    let mut ids: Vec<i64> = RUNS
        .iter()
        .flat_map(|run| [(Step::Start, run), (Step::Success, run)])
        .map(|(step, run)| clock.post(step, run))
        .collect();
    soon("tried", || clock.waiting().iter().any(|row| row["attempts"].as_i64() > Some(0)).then_some(()));
    clock.set(-DAY);
    clock.daemon.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("the clock was set back")));
    ids.push(clock.post(Step::Start, "r5"));
    assert!(ids.is_sorted(), "{ids:?}");
    // Once more, while nobody runs.
    clock.daemon.kill9();
    clock.set(-3 * DAY);
    clock.daemon.start();
    ids.push(clock.post(Step::Start, "r6"));
    assert!(ids.is_sorted(), "{ids:?}");
    let hook = away.open(|| Reply::Status(200));
    all_told(&hook);
    soon("nothing waits", || clock.waiting().is_empty().then_some(()));
}

#[test]
fn a_clock_that_was_set_forward_makes_nothing_too_old_and_repeats_at_most() {
    let Some(library) = faketime() else { return };
    let hook = Closed::reserve();
    let url = hook.url();
    let is_well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hook = hook.open({
        let is_well = std::sync::Arc::clone(&is_well);
        move || Reply::Status(if is_well.load(std::sync::atomic::Ordering::Relaxed) { 200 } else { 503 })
    });
    let mut clock = Clock::new(&library, &config(&url, "retry_longest = \"1s\"\nage_max = \"3d\""));
    for run in RUNS {
        clock.post(Step::Start, run);
        clock.post(Step::Success, run);
    }
    let tries = || hook.seen().len();
    soon("tried", || (tries() >= RUNS.len()).then_some(()));
    // Past every lease, and past what a delivery may be old.
    clock.set(5 * DAY);
    let before = tries();
    soon("tried since", || (tries() >= before + 4 * RUNS.len()).then_some(()));
    assert!(clock.daemon.list(&["deliveries", "list", "--status", "dead"]).is_empty());
    is_well.store(true, std::sync::atomic::Ordering::Relaxed);
    all_told(&hook);
    soon("nothing waits", || clock.waiting().is_empty().then_some(()));
    // What came five days ago, by this clock, and what comes now.
    clock.post(Step::Start, "new");
    let since = clock.daemon.list(&["executions", "list", "--since", "2h"]);
    assert_eq!(since.iter().map(|row| row["key"].as_str()).collect::<Vec<_>>(), [Some("new")]);
    assert_eq!(clock.daemon.list(&["executions", "list", "--since", "6d"]).len(), 5);
}

/// What a vendor is to be asked about waits no longer either; what is expected to end is not late too soon.
#[tokio::test]
async fn questions_do_not_wait_for_a_clock_that_was_set_back() {
    const SET_BACK: u64 = 100_000;
    let expects = Expectation { source: "slow".to_owned(), within_ms: Some(60_000), of: Vec::new() };
    let rules = Arc::new(Rules { expectations: vec![expects], ..Rules::default() });
    for (by_ms, due) in [(None, (1, 0)), (Some(SET_BACK * 1000), (1, 1))] {
        let folder = TempDir::new().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens");
        let before = at(SET_BACK);
        let updates = |key| vec![update(key, Status::Running)];
        for (key, parsed) in [("held", Parsed::Held(updates("held"))), ("runs", Parsed::Updates(updates("runs")))] {
            store.record(receipt("slow", before, key), parsed, Arc::clone(&rules)).await.expect("recorded");
        }
        let claim = async |now| {
            let claimed = store.claim_inquiries("slow".to_owned(), 10, 1000, true, now).await.expect("claimed");
            let held = claimed.due.iter().filter(|one| matches!(one, Inquiry::Held(_))).count();
            (held, claimed.due.len() - held)
        };
        let now = at(60);
        assert_eq!(claim(now).await, (0, 0), "due when the clock is where it was");
        store.set_back_inquiries("slow".to_owned(), by_ms, now).await.expect("moved");
        assert_eq!(claim(now).await, due, "{by_ms:?}");
        store.close().await;
    }
}
