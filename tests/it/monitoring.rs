//! The example that tells Klyuch-ASTROM and Zabbix how Tencent's workflows end, with the built daemon.

use serde_json::{Value, json};

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::astrom::{self, FakeAstrom};
use crate::peers::zabbix::{self, FakeZabbix};

#[test]
fn a_failure_and_the_success_after_it_reach_both() {
    let (astrom, zabbix) = (FakeAstrom::start(), FakeZabbix::start("6.0.14"));
    let mut daemon = Daemon::prepare();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/tencent_to_astrom_and_zabbix.toml");
    daemon.write("callbackd.toml", &std::fs::read_to_string(example).expect("the example"));
    let environment = [
        ("MEDIA_TOKEN", "hunter2-callback-token"),
        ("ASTROM_TOKEN", astrom::TOKEN),
        ("ZABBIX_TOKEN", zabbix::TOKEN),
        ("CALLBACKD__SERVER__LISTEN", "127.0.0.1:0"),
        ("CALLBACKD__ADMIN__LISTEN", "127.0.0.1:0"),
        ("CALLBACKD__STORE__URL", "sqlite:callbackd.db"),
        ("CALLBACKD__LOG__FORMAT", "json"),
        ("CALLBACKD__SINKS__ASTROM__URL", &astrom.url()),
        ("CALLBACKD__SINKS__ZBX__URL", &zabbix.url()),
        ("CALLBACKD__SINKS__ZBX__TRAPPER", &zabbix.trapper().to_string()),
    ];
    daemon.environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    daemon.start();

    // The same object, worked on again.
    let callback = |step, run: &str| cos(step, run).replace(&format!("in/{run}.mp4"), "in/clip.mp4");
    for (step, run) in [(Step::Failed, "first"), (Step::Success, "second")] {
        let answer = daemon.post("/callbacks/media/hunter2-callback-token", &[], callback(step, run));
        assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")));
        let open = || daemon.list(&["deliveries", "list", "--status", "waiting,leased"]);
        soon("both are told", || open().is_empty().then_some(()));
    }

    let events = astrom.events();
    let told: Vec<_> = events.iter().map(|e| (&e["eventType"], &e["properties"]["callbackd.run_id"])).collect();
    let expected = [(json!("ERROR_EVENT"), json!("first")), (json!("CUSTOM_INFO"), json!("second"))];
    assert_eq!(told, expected.iter().map(|(kind, run)| (kind, run)).collect::<Vec<_>>());
    let values: Vec<Value> =
        zabbix.pushed().iter().map(|pushed| serde_json::from_str(&pushed.value).expect("JSON")).collect();
    let [failed, succeeded] = &values[..] else { panic!("two values: {values:?}") };
    assert_eq!((&failed["state"], &succeeded["state"]), (&json!("failed"), &json!("succeeded")));
    assert_eq!(failed["thing"], succeeded["thing"], "the success closes the problem of the failure");
    assert!(daemon.list(&["deliveries", "list", "--status", "dead,discarded"]).is_empty());
}
