//! A real Zabbix: what `zabbix apply` makes there, and what becomes of the values that the daemon sends.
//!
//! `tests/peers/zabbix.sh` starts one and runs these; they find it by `ZABBIX_URL`, `ZABBIX_TOKEN` and `ZABBIX_TRAPPER`.
//! Each has a host and actions of its own.

use std::env;
use std::time::{Duration, Instant};

use bytes::Bytes;
use callbackd::outbound::{Client, Request, Settings};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, Done};

mod problems;

const EXAMPLE_OF_4: &str = include_str!("../../src/sinks/zabbix/action/example-4.json");
const MEDIA: &str = "/callbacks/media/hush-t0ken-of-media";
/// Zabbix reads its configuration every second, and looks at what is to be sent every three.
const PATIENCE: Duration = Duration::from_secs(40);

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run tests/peers/zabbix.sh"))
}

/// Without the order of lists, in which Zabbix is free.
fn in_order(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let mut list: Vec<_> = list.iter().map(in_order).collect();
            list.sort();
            format!("[{}]", list.join(","))
        }
        Value::Object(members) => {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}: {}", in_order(value))).collect();
            format!("{{{}}}", members.join(","))
        }
        plain => plain.to_string(),
    }
}

/// Asks again and again, a few times a second: Zabbix is another program, and a busy one.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The real one, as its administrator sees it, and a daemon that tells it.
struct Zabbix {
    runtime: Runtime,
    client: Client,
    host: String,
    daemon: Daemon,
}

impl Zabbix {
    fn new(host: &str, options: &str) -> Zabbix {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = Client::new(&Settings::default()).expect("a client");
        let daemon = Daemon::prepare();
        daemon.write("zabbix.token", &variable("ZABBIX_TOKEN"));
        let zabbix = Zabbix { runtime, client, host: host.to_owned(), daemon };
        zabbix.configure("token = { file = \"zabbix.token\" }", options);
        zabbix
    }

    fn configure(&self, credential: &str, options: &str) {
        self.daemon.configure(&format!(
            "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"hush-t0ken-of-media\"\n\
             [[routes]]\nfrom = [\"media\"]\nto = [\"zbx\"]\n\
             [sinks.zbx]\nkind = \"zabbix\"\nurl = {:?}\n{credential}\ntrapper = {:?}\nhost = {:?}\n\
             retry_first = \"100ms\"\nretry_longest = \"500ms\"\n{options}\n",
            variable("ZABBIX_URL"),
            variable("ZABBIX_TRAPPER"),
            self.host,
        ));
    }

    fn call(&self, method: &str, params: &Value) -> Value {
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params, "auth": variable("ZABBIX_TOKEN")});
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json-rpc"));
        let url = variable("ZABBIX_URL").parse().expect("a URL");
        let request = Request { method: Method::POST, url, headers, body: Bytes::from(body.to_string()) };
        let answer = self.runtime.block_on(self.client.send(request)).expect("an answer");
        let mut answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(answer.get("result").is_some(), "{method} {params}: {answer}");
        answer["result"].take()
    }

    fn get(&self, method: &str, params: &Value) -> Vec<Value> {
        self.call(method, params).as_array().expect("a list").clone()
    }

    fn apply(&self, more: &[&str]) -> Done {
        self.daemon.cli(&[&["zabbix", "apply"], more].concat())
    }

    /// What the last line says, and what was done before it.
    fn applied(&self, more: &[&str]) -> (String, Vec<String>) {
        let done = self.apply(more);
        let mut lines: Vec<String> = done.said().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("sinks.zbx: Zabbix "), "{lines:?}");
        let last = lines.pop().expect("a line");
        (last, lines.split_off(1))
    }

    /// Everything that there is, for dry runs to leave as it is.
    fn all(&self) -> String {
        let of = |class: &str, more: Value| {
            let mut params = json!({"output": "extend"});
            params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            self.call(&format!("{class}.get"), &params)
        };
        in_order(&json!([
            of("hostgroup", json!({})),
            of("host", json!({"selectGroups": ["groupid"], "output": ["host"]})),
            of("item", json!({"output": ["key_", "type", "value_type", "trapper_hosts"]})),
            of("trigger", json!({"output": ["description", "expression", "priority"], "selectTags": "extend"})),
            of(
                "action",
                json!({"selectFilter": "extend", "selectOperations": "extend",
                "selectRecoveryOperations": "extend", "selectUpdateOperations": "extend"})
            ),
            of("script", json!({})),
            of("correlation", json!({"selectFilter": "extend"})),
        ]))
    }

    /// The daemon is told that `run` on `object` ended like this.
    fn ended(&self, step: Step, run: &str, object: &str) {
        let body = cos(step, run).replace(&format!("in/{run}.mp4"), object);
        let answer = self.daemon.post(MEDIA, &[], body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Ids and names of the host's open problems.
    fn problems(&self) -> Vec<(String, String)> {
        let hosts = self.get("host.get", &json!({"output": ["hostid"], "filter": {"host": [self.host]}}));
        let params = json!({"output": ["eventid", "name"], "hostids": [hosts[0]["hostid"]], "sortfield": "eventid"});
        let text = |problem: &Value, name: &str| problem[name].as_str().expect(name).to_owned();
        self.get("problem.get", &params).iter().map(|p| (text(p, "eventid"), text(p, "name"))).collect()
    }

    fn until_problems(&self, expected: &[&str]) -> Vec<(String, String)> {
        let wanted: Vec<_> = expected.iter().map(|object| format!("test: media-1250000000/{object} failed")).collect();
        eventually(&format!("problems of {expected:?}"), || {
            let problems = self.problems();
            let names: Vec<_> = problems.iter().map(|(_, name)| name).collect();
            (names == wanted.iter().collect::<Vec<_>>()).then_some(problems)
        })
    }

    /// The subjects of what was sent about a problem.
    fn alerts(&self, problem: &str) -> Vec<String> {
        let params = json!({"output": ["subject"], "eventids": [problem], "sortfield": "alertid"});
        self.get("alert.get", &params).iter().map(|a| a["subject"].as_str().expect("a text").to_owned()).collect()
    }
}

#[test]
#[ignore = "needs a real Zabbix: tests/peers/zabbix.sh"]
fn real_failures_become_problems_and_successes_close_them() {
    let mut zabbix = Zabbix::new("edge one", "");
    let before = zabbix.all();
    let (last, plan) = zabbix.applied(&["--dry-run"]);
    assert!(last.ends_with("changes to be made; nothing was changed"), "{last}");
    assert!(zabbix.all() == before, "a dry run changes nothing");
    let (last, done) = zabbix.applied(&[]);
    assert_eq!(done, plan, "what was announced is done");
    assert!(last.ends_with("changes made"), "{last}");
    for part in
        ["create host \"edge one\" in host group \"callbackd\"", "create item callbackd.execution", "create action"]
    {
        assert!(done.iter().any(|line| line.contains(part)), "{part} in {done:?}");
    }
    for more in [&["--dry-run"][..], &[], &["--sink", "zbx"]] {
        assert_eq!(zabbix.applied(more), ("sinks.zbx: nothing to do".to_owned(), vec![]), "{more:?}");
    }
    let probe = zabbix.daemon.cli(&["check", "--probe"]);
    assert!(probe.said().contains("is ready"), "{probe:?}");

    zabbix.daemon.start();
    zabbix.ended(Step::Failed, "run-1", "in/one \"{$X}\".mp4");
    zabbix.ended(Step::Failed, "run-2", "in/two 游戏.mp4");
    let named = ["in/one '{$X}'.mp4", "in/two 游戏.mp4"];
    let problems = zabbix.until_problems(&named);
    for (id, name) in &problems {
        eventually("an alert", || (zabbix.alerts(id) == [name.clone()]).then_some(()));
    }
    // Failed again, in another run: still the same problem.
    zabbix.ended(Step::Failed, "run-3", "in/two 游戏.mp4");
    // What is no end of anything closes nothing.
    zabbix.ended(Step::Start, "run-4", "in/one \"{$X}\".mp4");
    zabbix.ended(Step::Success, "run-4", "in/one \"{$X}\".mp4");
    let left = zabbix.until_problems(&named[1..]);
    assert_eq!(left, problems[1..], "exactly the other one, and no second of it");
    eventually("a word of its end", || {
        let alerts = zabbix.alerts(&problems[0].0);
        // Told to whom the problem was told; whoever has no media is told nothing.
        (!alerts.is_empty()).then_some(())
    });

    // By hand: 1 closes, 4 says something.
    let close = json!({"eventids": [left[0].0], "action": 5, "message": "looked at it"});
    zabbix.call("event.acknowledge", &close);
    zabbix.until_problems(&[]);
    // And it can fail anew.
    zabbix.ended(Step::Failed, "run-5", "in/two 游戏.mp4");
    let again = zabbix.until_problems(&named[1..]);
    assert_ne!(again, left);
    assert_eq!(zabbix.daemon.list(&["deliveries", "list", "--status", "dead"]), Vec::<Value>::new());
}

#[test]
#[ignore = "needs a real Zabbix: tests/peers/zabbix.sh"]
fn real_differences_are_mended() {
    let zabbix = Zabbix::new("edge-mended", "host_group = \"mended\"\nseverity = \"average\"");
    zabbix.applied(&[]);
    let hosts = zabbix.get("host.get", &json!({"output": ["hostid"], "filter": {"host": ["edge-mended"]}}));
    let items = zabbix.get("item.get", &json!({"output": ["itemid"], "hostids": [hosts[0]["hostid"]]}));
    let triggers = zabbix.get("trigger.get", &json!({"output": ["priority"], "hostids": [hosts[0]["hostid"]]}));
    assert_eq!(triggers[0]["priority"], "3");
    zabbix.call("item.update", &json!({"itemid": items[0]["itemid"], "value_type": 1}));
    zabbix.call(
        "trigger.update",
        &json!({"triggerid": triggers[0]["triggerid"], "manual_close": 0, "tags": [{"tag": "thing", "value": "x"}]}),
    );
    zabbix.configure(
        "token = { file = \"zabbix.token\" }",
        "severity = 4\nallowed_hosts = \"127.0.0.1\"\nhost_group = \"mended, too\"",
    );
    let (_, plan) = zabbix.applied(&["--dry-run"]);
    let (last, done) = zabbix.applied(&[]);
    assert_eq!((plan, &*last), (done.clone(), "sinks.zbx: 4 changes made"), "{done:?}");
    for part in [
        "create host group \"mended, too\"",
        "update host \"edge-mended\": into host group \"mended, too\"",
        "update item callbackd.execution: ",
        "value_type: 1 → 4",
        "trapper_hosts: none → \"127.0.0.1\"",
        "priority: 3 → 4",
        "manual_close: 0 → 1",
        "tags: without {\"tag\":\"thing\",\"value\":\"x\"}",
    ] {
        assert!(done.iter().any(|line| line.contains(part)), "{part} in {done:?}");
    }
    assert_eq!(zabbix.applied(&[]).0, "sinks.zbx: nothing to do");
    zabbix.call("host.update", &json!({"hostid": hosts[0]["hostid"], "status": 1}));
    let (last, notes) = zabbix.applied(&[]);
    assert_eq!(last, "sinks.zbx: nothing to do");
    assert!(matches!(&notes[..], [note] if note.contains("is disabled: Zabbix takes no values")), "{notes:?}");
}

/// The documentation's own example of 4.x, as JSON, and then the same in TOML: nothing is left to do.
#[test]
#[ignore = "needs a real Zabbix: tests/peers/zabbix.sh"]
fn real_the_example_of_4_ends_as_a_working_action() {
    let zabbix = Zabbix::new("edge-example", "action = \"action.json\"");
    zabbix.daemon.write("action.json", EXAMPLE_OF_4);
    let (last, done) = zabbix.applied(&[]);
    assert!(last.ends_with("changes made"), "{last}");
    assert!(
        done.iter().any(|line| line.contains("create script \"Detect operating system (action operation)\"")),
        "{done:?}"
    );

    let params = json!({
        "output": "extend", "filter": {"name": "Trigger action"}, "selectFilter": "extend", "selectOperations": "extend",
        "selectRecoveryOperations": "extend", "selectUpdateOperations": "extend",
    });
    let found = zabbix.get("action.get", &params);
    let text = |at: &str| found[0].pointer(at).unwrap_or_else(|| panic!("{at} in {found:?}")).clone();
    assert_eq!(text("/operations").as_array().map(Vec::len), Some(2));
    assert_eq!(text("/operations/0/opmessage/subject"), "{TRIGGER.NAME}: {TRIGGER.STATUS}");
    assert_eq!(text("/operations/0/opmessage/default_msg"), "0");
    assert_eq!(text("/operations/0/opmessage/mediatypeid"), "1");
    assert_eq!(text("/operations/0/esc_step_to"), "2");
    assert_eq!(text("/operations/1/esc_step_from"), "3");
    assert_eq!(text("/operations/1/opconditions/0/value"), "0");
    assert_eq!(text("/operations/1/opcommand_grp/0/groupid"), "2");
    assert_eq!(text("/recovery_operations/0/operationtype"), "11");
    assert_eq!(text("/update_operations/0/operationtype"), "12");
    assert_eq!(text("/update_operations/0/opmessage/message"), "Custom acknowledge operation message body");
    assert_eq!(text("/filter/conditions").as_array().map(Vec::len), Some(2));
    let script = text("/operations/1/opcommand/scriptid");
    let scripts = zabbix.get("script.get", &json!({"output": "extend", "scriptids": [script]}));
    assert_eq!(
        (&scripts[0]["scope"], &scripts[0]["command"]),
        (&json!("1"), &json!("sudo /usr/bin/nmap -O {HOST.CONN}"))
    );

    assert_eq!(zabbix.applied(&[]).0, "sinks.zbx: nothing to do");
    let example: Value = serde_json::from_str(EXAMPLE_OF_4).expect("JSON");
    let table =
        toml::Table::from_iter([("action".to_owned(), toml::Value::try_from(&example["params"]).expect("TOML"))]);
    let text = table.to_string().replace("[action", "[sinks.zbx.action").replace("[[action", "[[sinks.zbx.action");
    zabbix.configure("token = { file = \"zabbix.token\" }", &text);
    assert_eq!(zabbix.applied(&[]).0, "sinks.zbx: nothing to do");
}

/// Words, names and every event source.
const ACTIONS: &str = r#"
    [[sinks.zbx.action]]
    name = "By formula"
    status = "disabled"
    pause_suppressed = false
    notify_if_canceled = "no"
    [sinks.zbx.action.filter]
    evaltype = "custom expression"
    formula = "Y and (X or not Z)"
    conditions = [
        { formulaid = "X", conditiontype = "host group", operator = "<>", value = "actions" },
        { formulaid = "Y", conditiontype = "trigger severity", operator = ">=", value = "high" },
        { formulaid = "Z", conditiontype = "event tag value", value2 = "thing", operator = "contains", value = "media" },
    ]
    [[sinks.zbx.action.operations]]
    operationtype = "message"
    opmessage_usr = [{ userid = "Admin" }]
    opmessage_grp = [{ usrgrpid = "Zabbix administrators" }, { usrgrpid = "Guests" }]
    opmessage = { subject = "s", message = "m", mediatypeid = "Email" }
    [[sinks.zbx.action.operations]]
    operationtype = "remote command"
    esc_step_from = 2
    opcommand_hst = [{ hostid = 0 }, { hostid = "edge-actions" }]
    opcommand = { type = "ssh", command = "reboot", authtype = "password", username = "u", password = { file = "ssh" } }
    [[sinks.zbx.action.update_operations]]
    operationtype = "notify all involved"

    [[sinks.zbx.action]]
    name = "Found"
    eventsource = "discovery"
    [sinks.zbx.action.filter]
    conditions = [
        { conditiontype = "host ip", value = "192.168.0.1-254" },
        { conditiontype = "discovery rule", value = "Local network" },
        { conditiontype = "uptime or downtime duration", operator = ">=", value = 600 },
        { conditiontype = "discovery status", value = "up" },
    ]
    [[sinks.zbx.action.operations]]
    operationtype = "add host"
    [[sinks.zbx.action.operations]]
    operationtype = "add to host group"
    opgroup = [{ groupid = "Linux servers" }]
    [[sinks.zbx.action.operations]]
    operationtype = "link to template"
    optemplate = [{ templateid = "Linux by Zabbix agent" }]
    [[sinks.zbx.action.operations]]
    operationtype = "set host inventory mode"
    opinventory = { inventory_mode = "automatic" }

    [[sinks.zbx.action]]
    name = "Registered"
    eventsource = "autoregistration"
    filter.conditions = [{ conditiontype = "host metadata", operator = "matches", value = "linux" }]
    operations = [{ operationtype = "enable host" }]

    [[sinks.zbx.action]]
    name = "Internal"
    eventsource = "internal"
    esc_period = "2m"
    filter.conditions = [{ conditiontype = "event type", value = "trigger unknown" }]
    operations = [{ operationtype = "message", opmessage_grp = [{ usrgrpid = "Zabbix administrators" }] }]
    recovery_operations = [{ operationtype = "notify all involved" }]

    [[sinks.zbx.action]]
    name = "Of services"
    eventsource = "service"
    filter.conditions = [{ conditiontype = "service name", operator = "contains", value = "shop" }]
    operations = [{ operationtype = "message", opmessage_grp = [{ usrgrpid = "Zabbix administrators" }] }]
"#;

#[test]
#[ignore = "needs a real Zabbix: tests/peers/zabbix.sh"]
fn real_every_kind_of_action_is_applied_once() {
    let first = "host_group = \"actions\"\n";
    let zabbix = Zabbix::new("edge-actions", &format!("{first}{ACTIONS}"));
    zabbix.daemon.write("ssh", "hunter2");
    zabbix.applied(&["--dry-run"]);
    let (_, done) = zabbix.applied(&[]);
    for name in ["By formula", "Found", "Registered", "Internal", "Of services"] {
        assert!(done.iter().any(|line| line == &format!("  create action {name:?}")), "{name}: {done:?}");
    }
    assert_eq!(zabbix.applied(&[]).0, "sinks.zbx: nothing to do");

    zabbix.daemon.write("ssh", "hunter3");
    let changed = ACTIONS
        .replace("subject = \"s\"", "subject = \"t\"")
        .replace("{ usrgrpid = \"Guests\" }", "")
        .replace("not Z", "Z")
        .replace("value = 600", "value = 900")
        .replace("esc_period = \"2m\"", "esc_period = \"3m\"");
    zabbix.configure("token = { file = \"zabbix.token\" }", &format!("{first}{changed}"));
    let (last, done) = zabbix.applied(&[]);
    assert_eq!(last, "sinks.zbx: 4 changes made", "{done:?}");
    for part in [
        "update script \"By formula, operation 2\": password: [secret] → [secret]",
        "update action \"By formula\": filter.formula: ",
        "operations[].opmessage.subject: s → t",
        "operations[].opmessage_grp: without {\"usrgrpid\":",
        "update action \"Found\": filter.conditions[].value: 600 → 900",
        "update action \"Internal\": esc_period: 2m → 3m",
    ] {
        assert!(done.iter().any(|line| line.contains(part)), "{part} in {done:#?}");
    }
    assert!(!format!("{done:?}").contains("hunter"), "{done:?}");
    assert_eq!(zabbix.applied(&[]).0, "sinks.zbx: nothing to do");

    // What is for other events cannot become this.
    let other =
        "action = { name = \"Found\", operations = [{ operationtype = 0, opmessage_grp = [{ usrgrpid = 7 }] }] }";
    zabbix.configure("token = { file = \"zabbix.token\" }", &format!("{first}{other}"));
    let refused = zabbix.apply(&[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is for events of another source"), "{refused:?}");
    // A name that nothing bears.
    let nobody =
        "action = { name = \"x\", operations = [{ operationtype = 0, opmessage_grp = [{ usrgrpid = \"Nobody\" }] }] }";
    zabbix.configure("token = { file = \"zabbix.token\" }", &format!("{first}{nobody}"));
    let refused = zabbix.apply(&["--dry-run"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is no user group \"Nobody\""), "{refused:?}");
}

/// Who may not do all of it is told what he may not.
#[test]
#[ignore = "needs a real Zabbix: tests/peers/zabbix.sh"]
fn real_rights_decide_what_can_be_done() {
    let zabbix = Zabbix::new("edge-rights", "host_group = \"rights\"\naction = []");
    zabbix.applied(&[]);
    let groups = zabbix.get("hostgroup.get", &json!({"output": ["groupid"], "filter": {"name": ["rights"]}}));
    let rights = json!([{"id": groups[0]["groupid"], "permission": 3}]);
    let users = zabbix.call("usergroup.create", &json!({"name": "edge", "rights": rights}));
    for (name, role) in [("edge-admin", 2), ("edge-user", 1)] {
        let user = json!({"username": name, "passwd": "a-Long-passw0rd!", "roleid": role.to_string(),
            "usrgrps": [{"usrgrpid": users["usrgrpids"][0]}]});
        zabbix.call("user.create", &user);
    }
    let as_user = |zabbix: &Zabbix, name: &str, options: &str| {
        let credential = format!("user = {name:?}\npassword = \"a-Long-passw0rd!\"");
        zabbix.configure(&credential, &format!("host_group = \"rights\"\naction = []\n{options}"));
    };
    as_user(&zabbix, "edge-admin", "");
    assert_eq!(zabbix.applied(&[]), ("sinks.zbx: nothing to do".to_owned(), vec![]));
    as_user(&zabbix, "edge-admin", "severity = \"disaster\"");
    assert_eq!(zabbix.applied(&[]).0, "sinks.zbx: 1 change made");
    let other = Zabbix::new("edge-rights-too", "");
    as_user(&other, "edge-admin", "");
    let (last, done) = other.applied(&[]);
    assert_eq!(last, "sinks.zbx: 3 changes made", "{done:?}");
    assert!(done[3].starts_with("  note: no event correlation, which needs a super administrator"), "{done:?}");
    as_user(&zabbix, "edge-user", "severity = \"high\"");
    let refused = zabbix.apply(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(!refused.stderr.contains("passw0rd"), "{refused:?}");
}
