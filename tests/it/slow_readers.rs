//! Many who ask the operators' door for much and take none of it: what that costs is bounded, and who asks how the daemon
//! does is told all the same.

use serde_json::json;

use crate::callbacks::signed;
use crate::daemon::{Connection, Daemon, request, soon};

const PORTAL: &str = "/callbacks/portal";
const SECRET: &str = "hush-secret";

/// More than what is made, held, and kept beside it takes in a build without optimization, and less than half of what the
/// unit lets the daemon have.
const MOST_KIB: usize = 220 << 10;

#[test]
fn who_asks_for_much_and_takes_nothing_fills_neither_memory_nor_the_door() {
    let mut daemon = Daemon::prepare();
    daemon.configure(&format!("[sources.portal]\nkind = \"port_action\"\npath = {PORTAL:?}\nsecret = \"{SECRET}\"\n"));
    // Of a Unix socket, little is in the machine's hands.
    let door = format!("unix:{}", daemon.path("admin.sock").display());
    daemon.environment.push(("CALLBACKD__ADMIN__LISTEN".to_owned(), door));
    daemon.start();
    let mut all = Vec::new();
    for n in 0..8 {
        let properties: serde_json::Map<_, _> =
            (0..120).map(|k| (format!("k{k}"), "<&\"x".repeat(5000).into())).collect();
        let run = format!("r_much{n:012}");
        let body = json!({ "context": { "runId": run }, "payload": { "properties": properties } }).to_string();
        let signature = signed(SECRET, body.as_bytes(), 0);
        let headers = signature.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = daemon.post(PORTAL, &headers, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        all.push(answer.json()["execution"].as_str().expect("an id").to_owned());
    }
    let much = format!("/api/v1/executions/{}", all[0]);
    assert!(daemon.look(&much).body.len() > 5 << 20);

    // They come until who asks like them is refused.
    let mut others = Vec::new();
    soon("no more room", || {
        for id in &all {
            for path in [format!("/api/v1/executions/{id}"), "/api/v1/executions?limit=1000".to_owned()] {
                let mut one = Connection::to(&daemon.admin);
                one.send(request("GET", &path, &[], b"")).expect("sent");
                others.push(one);
            }
        }
        (daemon.look(&much).status == 503).then_some(())
    });
    for path in ["/", "/sinks", "/deliveries", "/executions", "/livez", "/readyz", "/metrics", "/api/v1/sinks"] {
        let answer = daemon.look(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let page = daemon.look(&format!("/executions/{}", all[1]));
    assert_eq!(page.status, 200, "people have room of their own");
    let (_, most) = daemon.memory_kib();
    assert!(most < MOST_KIB, "{most} KiB for {} who take nothing", others.len());

    // Nobody leaves by itself.
    soon("room again", || (daemon.look(&much).status == 200).then_some(()));
    drop(others);
}
