//! `zabbix apply` as an operator has it, against each version; and what a version refuses of the others' spelling.

use serde_json::{Value, json};

use crate::daemon::{Daemon, Done};
use crate::peers::zabbix::objects::Objects;
use crate::peers::zabbix::{FakeZabbix, How, PASSWORD, TOKEN, USER, no};

const EXAMPLE_OF_4: &str = include_str!("../../src/sinks/zabbix/action/example-4.json");
const NOTHING: &str = "sinks.zbx: nothing to do";

struct Setup {
    zabbix: FakeZabbix,
    objects: Objects,
    daemon: Daemon,
}

impl Setup {
    fn new(version: &str, options: &str) -> Setup {
        let zabbix = FakeZabbix::start(version);
        let objects = Objects::of(&zabbix);
        let setup = Setup { zabbix, objects, daemon: Daemon::prepare() };
        setup.configure(options);
        setup
    }

    fn configure(&self, options: &str) {
        // 5.0 and 5.2 know no tokens.
        let has_tokens = self.zabbix.state().is_from(5, 4);
        let credential =
            if has_tokens { format!("token = {TOKEN:?}") } else { format!("user = {USER:?}\npassword = {PASSWORD:?}") };
        let url = self.zabbix.url();
        self.daemon.configure(&format!("[sinks.zbx]\nkind = \"zabbix\"\nurl = {url:?}\n{credential}\n{options}\n"));
    }

    fn apply(&self, more: &[&str]) -> Done {
        let done = self.daemon.cli(&[&["zabbix", "apply"], more].concat());
        assert!(!format!("{}{:?}", done.stderr, String::from_utf8_lossy(&done.stdout)).contains("hunter2"), "{done:?}");
        done
    }

    fn last_line(&self, more: &[&str]) -> String {
        let done = self.apply(more);
        done.said().lines().last().expect("a line").to_owned()
    }

    fn refused(&self, more: &[&str], part: &str) {
        let done = self.apply(more);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains(part), "{part} in {done:?}");
    }
}

#[test]
fn every_version_is_set_up_once() {
    for version in ["5.0.30", "5.2.7", "5.4.0", "6.0.14", "6.4.0", "7.0.0rc1", "7.4.1", "7.10.0"] {
        let setup = Setup::new(version, "");
        assert_eq!(
            setup.last_line(&["--dry-run"]),
            "sinks.zbx: 6 changes to be made; nothing was changed",
            "{version}"
        );
        assert!(setup.objects.list("hostgroup").is_empty(), "{version}");
        assert_eq!(setup.last_line(&[]), "sinks.zbx: 6 changes made", "{version}");
        assert_eq!(setup.last_line(&[]), NOTHING, "{version}");
        let trigger = &setup.objects.list("trigger")[0];
        let expected = match version {
            "5.0.30" | "5.2.7" => "{callbackd:callbackd.execution.str(\"\\\"state\\\":\\\"succeeded\\\"\")}=1",
            _ => "find(/callbackd/callbackd.execution,,\"like\",\"\\\"state\\\":\\\"succeeded\\\"\")=1",
        };
        assert_eq!(trigger["recovery_expression"], expected, "{version}");
        assert_eq!(trigger["correlation_tag"], "thing");
        let sessions = setup.zabbix.state().sessions();
        assert_eq!(sessions, 0, "{version}: no session is left open");
        let creates = setup.zabbix.requests().iter().filter(|r| r.method.ends_with(".create")).count();
        assert_eq!(creates, 6, "{version}: nothing is created twice");
        assert!(setup.zabbix.requests().iter().all(|r| r.code == 0), "{version}: nothing was refused");
    }
}

#[test]
fn the_example_of_4_is_applied_to_every_version() {
    for version in ["5.0.30", "5.4.0", "6.0.14", "6.4.0", "7.0.0", "7.4.1"] {
        let setup = Setup::new(version, "action = \"action.json\"");
        setup.daemon.write("action.json", EXAMPLE_OF_4);
        let done = setup.apply(&[]);
        assert!(done.said().contains("create action \"Trigger action\""), "{version}: {done:?}");
        assert_eq!(setup.last_line(&[]), NOTHING, "{version}");
        let action = &setup.objects.list("action")[0];
        let update = if version < "6" { "acknowledge_operations" } else { "update_operations" };
        let sizes =
            ["operations", "recovery_operations", update].map(|list| action[list].as_array().map_or(0, Vec::len));
        assert_eq!(sizes, [2, 1, 1], "{version}: {action}");
        let command = &action["operations"][1]["opcommand"];
        let script = if version < "5.4" { json!({"type": 4, "scriptid": "3"}) } else { json!({"scriptid": "102"}) };
        assert_eq!(command, &script, "{version}");
        setup.configure("action = [{ name = \"Trigger action\", recovery_operations = [{ operationtype = 11 }] }]");
        let done = setup.apply(&[]);
        assert!(done.said().contains("update action \"Trigger action\": "), "{version}: {done:?}");
        assert_eq!(setup.last_line(&[]), NOTHING, "{version}");
    }
}

/// One refusal after the other, word for word what 6.0.14 said.
#[test]
fn what_6_refuses_of_4_is_refused() {
    let mut request: Value = serde_json::from_str(EXAMPLE_OF_4).expect("JSON");
    let mut params = request["params"].take();
    let zabbix = FakeZabbix::start("6.0.14");
    let _objects = Objects::of(&zabbix);
    let create = |params: &Value| said(&zabbix, "action.create", params);
    let unexpected = |at: &str, name: &str| format!("Invalid parameter \"{at}\": unexpected parameter \"{name}\".");
    for name in ["def_longdata", "def_shortdata"] {
        // The order in which they are told is JSON's here.
        let told = create(&params);
        assert!([unexpected("/1", name), unexpected("/1", "acknowledge_operations")].contains(&told), "{told}");
        params.as_object_mut().expect("an object").remove(name);
    }
    assert_eq!(create(&params), unexpected("/1", "acknowledge_operations"));
    let update = params.as_object_mut().expect("an object").remove("acknowledge_operations").expect("a list");
    params["update_operations"] = update;
    assert_eq!(create(&params), unexpected("/1/operations/2/opcommand", "type"));
    params["operations"][1]["opcommand"] = json!({"scriptid": "3"});
    let text = "Specified script does not exist or you do not have rights on it for action operation command.";
    assert_eq!(create(&params), text);
    params["operations"].as_array_mut().expect("a list").pop();
    assert_eq!(
        create(&params),
        "Invalid parameter \"/1/recovery_operations/1\": the parameter \"opmessage\" is missing."
    );
    params["recovery_operations"][0]["opmessage"] = json!({"default_msg": 1});
    let told = create(&params);
    assert!(told.starts_with("Invalid parameter \"/1/update_operations/1/opmessage\": unexpected parameter"), "{told}");
    params["update_operations"][0]["opmessage"]["default_msg"] = json!(0);
    assert_eq!(create(&params), "");
    assert!(create(&params).ends_with("already exists."));
}

/// The `data` of the error, or nothing.
fn said(zabbix: &FakeZabbix, method: &str, params: &Value) -> String {
    use callbackd::outbound::{Client, Settings};
    use callbackd::secret::Secret;
    use callbackd::sinks::zabbix::api::{Api, ApiError, Credential, read_url};

    let client = Client::new(&Settings::default()).expect("a client");
    let api = Api::new(client, read_url(&zabbix.url()).expect("a URL"), Credential::Token(Secret::new(TOKEN)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(api.call(method, params, callbackd::clock::now())) {
        Ok(_) => String::new(),
        Err(ApiError::Refused { data, .. }) => data,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let setup = Setup::new("6.0.14", "");
    setup.zabbix.script("correlation.create", How::No(no(-32602, "No permissions to call \"correlation.create\".")));
    let done = setup.apply(&[]);
    let lines = done.said();
    assert!(lines.contains("  note: no event correlation, which needs a super administrator: "), "{lines}");
    assert!(lines.ends_with("sinks.zbx: 5 changes made\n"), "{lines}");
    assert_eq!(setup.last_line(&[]), "sinks.zbx: 1 change made", "with the rights it is made");

    let setup = Setup::new("6.0.14", "");
    setup.zabbix.script("host.create", How::No(no(-32602, "Host with the same name \"callbackd\" already exists.")));
    setup.refused(&[], "already exists. The credential's user does not see it");
    assert_eq!(setup.objects.list("hostgroup").len(), 1, "what was done is done");
    assert_eq!(setup.last_line(&[]), "sinks.zbx: 5 changes made");

    setup.zabbix.disable_token();
    setup.refused(&["--dry-run"], "Zabbix refuses the credential");
    setup.zabbix.script("apiinfo.version", How::Http(502, "text/html", "<html>hunter2</html>".to_owned()));
    setup.refused(&[], "502");
    setup.zabbix.state().version = "4.4.10".to_owned();
    setup.refused(&[], "Zabbix 4.4 is too old to be set up; 5.0 or newer is needed");
}

#[test]
fn which_sinks_are_meant_is_checked_first() {
    let setup = Setup::new("7.0.0", "");
    assert_eq!(
        setup.last_line(&["--sink", "zbx", "--dry-run"]),
        "sinks.zbx: 6 changes to be made; nothing was changed"
    );
    setup.refused(&["--sink", "other"], "no sink of kind \"zabbix\" is called \"other\"; there are: zbx");
    setup.daemon.configure("[sinks.out]\nkind = \"stdout\"\n");
    setup.refused(&[], "no sink of kind \"zabbix\" is configured");
    setup.daemon.configure("[sinks.zbx]\nkind = \"zabbix\"\ntrapper = \"127.0.0.1:10051\"\n");
    setup.refused(&[], "url has to be written");
    let bad = "action = { name = \"x\", operations = [{ operationtype = \"massage\" }] }";
    setup.configure(bad);
    let done = setup.apply(&[]);
    assert_eq!(done.code, Some(78), "{done:?}");
    assert!(
        done.stderr.contains("sinks.zbx.action.operations[0].operationtype: \"massage\" is none of these"),
        "{done:?}"
    );
    assert!(done.stderr.contains("callbackd.toml:8: "), "{done:?}");
    assert_eq!(setup.daemon.cli(&["check"]).stderr, done.stderr, "check says the same");
}
