use serde_json::json;

use super::*;
use crate::sinks::zabbix::api::Version;

/// The documentation's own example of 4.x, as a request.
const EXAMPLE_OF_4: &str = include_str!("example-4.json");

/// Knows every name: the id of "x" is "<host group x>".
#[derive(Default)]
struct EveryId(Vec<Script>);

impl Ids for EveryId {
    fn id(&mut self, kind: Kind, name: &str) -> String {
        format!("<{kind:?} {name}>")
    }

    fn script(&mut self, script: Script) -> String {
        self.0.push(script);
        format!("<script {}>", self.0.len())
    }
}

fn version(text: &str) -> Version {
    Version::parse(text).expect(text)
}

fn of_toml(text: &str) -> Vec<Action> {
    toml::from_str::<Table>(text).unwrap_or_else(|e| panic!("{e}\n{text}")).action.actions().expect("actions")
}

#[derive(Debug, Deserialize)]
struct Table {
    action: Described,
}

struct Done {
    params: Value,
    notes: Vec<String>,
    scripts: Vec<Script>,
}

fn done(action: &Action, to: &str) -> Done {
    let mut ids = EveryId::default();
    let translated = translate(action, version(to), &mut ids).unwrap_or_else(|faults| panic!("{faults:?}"));
    Done { params: translated.params, notes: translated.notes, scripts: ids.0 }
}

fn faults(text: &str, to: &str) -> Vec<String> {
    let [action] = &of_toml(text)[..] else { panic!("one action") };
    let faults = translate(action, version(to), &mut EveryId::default()).err().unwrap_or_default();
    faults.into_iter().map(|(key, text)| format!("{key}: {text}")).collect()
}

const MESSAGE: &str = "operations = [{ operationtype = 0, opmessage_grp = [{ usrgrpid = 7 }] }]";

#[test]
fn the_example_of_4_becomes_one_of_6() {
    let [action] = &of_json(EXAMPLE_OF_4).expect("an action")[..] else { panic!("one action") };
    let Done { params, notes, scripts } = done(action, "6.0.14");
    let expected = json!({
        "name": "Trigger action", "eventsource": 0, "status": 0, "esc_period": "2m",
        "filter": {"evaltype": 0, "conditions": [
            {"conditiontype": 1, "operator": 0, "value": "10084"},
            {"conditiontype": 3, "operator": 2, "value": "memory"},
        ]},
        "operations": [
            {"operationtype": 0, "esc_period": "0s", "esc_step_from": 1, "esc_step_to": 2, "evaltype": 0,
             "opmessage": {"default_msg": 0, "mediatypeid": "1", "subject": "{TRIGGER.NAME}: {TRIGGER.STATUS}",
                "message": "{TRIGGER.NAME}: {TRIGGER.STATUS}\r\nLast value: {ITEM.LASTVALUE}\r\n\r\n{TRIGGER.URL}"},
             "opmessage_grp": [{"usrgrpid": "7"}]},
            {"operationtype": 1, "esc_step_from": 3, "esc_step_to": 4, "evaltype": 0,
             "opconditions": [{"conditiontype": 14, "operator": 0, "value": "0"}],
             "opcommand": {"scriptid": "<script 1>"}, "opcommand_grp": [{"groupid": "2"}]},
        ],
        "recovery_operations": [{"operationtype": 11, "opmessage": {"default_msg": 1}}],
        "update_operations": [{"operationtype": 12, "opmessage": {"default_msg": 0,
            "subject": "Custom acknowledge operation message subject",
            "message": "Custom acknowledge operation message body"}}],
    });
    assert_eq!(params, expected);
    assert_eq!(scripts, [Script::Existing("3".to_owned())]);
    assert!(matches!(&notes[..], [note] if note.starts_with("recovery_operations[0]: has no text")), "{notes:?}");

    let older = done(action, "5.0.30").params;
    assert_eq!(older["operations"][1]["opcommand"], json!({"type": 4, "scriptid": "<script 1>"}));
    assert_eq!(older["acknowledge_operations"], expected["update_operations"]);
    assert_eq!(older.get("update_operations"), None);
    assert_eq!(done(action, "5.4.0").params["operations"], expected["operations"]);
    for newer in ["6.4.0", "7.0.0", "7.4.1", "7.10"] {
        assert_eq!(done(action, newer).params, expected, "{newer}");
    }
}

/// The same in TOML, with the API's numbers and with words and names.
#[test]
fn toml_and_json_say_the_same() {
    let numbers: Value = serde_json::from_str(EXAMPLE_OF_4).expect("JSON");
    let mut table = toml::Table::new();
    table.insert("action".to_owned(), toml::Value::try_from(&numbers["params"]).expect("TOML"));
    let [in_json] = &of_json(EXAMPLE_OF_4).expect("an action")[..] else { panic!("one action") };
    let [in_toml] = &of_toml(&table.to_string())[..] else { panic!("one action") };
    assert_eq!(done(in_toml, "6.0").params, done(in_json, "6.0").params);
    let words = r#"
        [action]
        name = "Trigger action"
        eventsource = "trigger"
        status = "enabled"
        esc_period = "2m"
        def_shortdata = "{TRIGGER.NAME}: {TRIGGER.STATUS}"
        def_longdata = "{TRIGGER.NAME}: {TRIGGER.STATUS}\r\nLast value: {ITEM.LASTVALUE}\r\n\r\n{TRIGGER.URL}"
        [action.filter]
        evaltype = "and/or"
        conditions = [
            { conditiontype = "host", operator = "=", value = "10084" },
            { conditiontype = "trigger name", operator = "contains", value = "memory" },
        ]
        [[action.operations]]
        operationtype = "message"
        esc_period = "0s"
        esc_step_from = 1
        esc_step_to = 2
        evaltype = "and/or"
        opmessage_grp = [{ usrgrpid = 7 }]
        opmessage = { default_msg = true, mediatypeid = 1 }
        [[action.operations]]
        operationtype = "remote command"
        esc_step_from = 3
        esc_step_to = 4
        evaltype = "And/Or"
        opconditions = [{ conditiontype = "event acknowledged", operator = "=", value = "not acknowledged" }]
        opcommand_grp = [{ groupid = 2 }]
        opcommand = { type = "global script", scriptid = 3 }
        [[action.recovery_operations]]
        operationtype = "notify all involved"
        [[action.update_operations]]
        operationtype = "notify all involved"
        [action.update_operations.opmessage]
        message = "Custom acknowledge operation message body"
        subject = "Custom acknowledge operation message subject"
    "#;
    let [in_words] = &of_toml(words)[..] else { panic!("one action") };
    assert_eq!(done(in_words, "6.0").params, done(in_json, "6.0").params);
    let named = format!("[action]\nname = 'a'\n{}", MESSAGE.replace('7', "'Zabbix administrators'"));
    let params = done(&of_toml(&named)[0], "6.0").params;
    assert_eq!(params["operations"][0]["opmessage_grp"], json!([{"usrgrpid": "<UserGroup Zabbix administrators>"}]));
}

#[test]
fn an_action_has_every_form() {
    let one = r#"{"name": "a", "operations": []}"#;
    let names = |text: &str| of_toml(text).into_iter().map(|a| a.name).collect::<Vec<_>>();
    assert_eq!(names("[action]\nname = 'a'"), ["a"]);
    assert_eq!(names("[[action]]\nname = 'a'\n[[action]]\nname = 'b'"), ["a", "b"]);
    assert_eq!(names("action = []"), Vec::<String>::new());
    assert_eq!(names(&format!("action = '{one}'")), ["a"]);
    assert_eq!(names(&format!("action = '[{one}, {one}]'")), ["a", "a"]);
    assert_eq!(names(&format!("action = '{{\"method\": \"action.create\", \"params\": {one}}}'")), ["a"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("action.json");
    std::fs::write(&file, one).expect("written");
    assert_eq!(names(&format!("action = {file:?}")), ["a"]);
    let missing = toml::from_str::<Table>("action = '/nonexistent/a.json'").expect("a path").action.actions();
    assert!(missing.expect_err("no file").starts_with("/nonexistent/a.json: "));
    for (text, part) in [
        ("action = '{'", "is no JSON"),
        ("action = '{\"nam\": 1}'", "unknown field \"nam\""),
        ("action = 5", "an action as a table"),
        ("[action]\nname = 'a'\nopperations = []", "unknown field `opperations`"),
    ] {
        let said = toml::from_str::<Table>(text).expect_err(text).to_string();
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn default_text_belongs_to_the_operations_now() {
    let text = r#"
        [action]
        name = "a"
        def_shortdata = "S"
        def_longdata = "L"
        r_shortdata = "RS"
        r_longdata = "RL"
        ack_longdata = "AL"
        [[action.operations]]
        operationtype = 0
        opmessage = { default_msg = 1 }
        opmessage_usr = [{ userid = "Admin" }]
        [[action.operations]]
        operationtype = 0
        opmessage = { default_msg = 0, subject = "own" }
        opmessage_usr = [{ userid = "Admin" }]
        [[action.recovery_operations]]
        operationtype = 11
        opmessage = { mediatypeid = "Email" }
        [[action.acknowledge_operations]]
        operationtype = 0
        opmessage_usr = [{ userid = "Admin" }]
        opmessage = { mediatypeid = "Email" }
    "#;
    let Done { params, notes, .. } = done(&of_toml(text)[0], "7.0");
    let text = |at: &str| params.pointer(at).cloned().unwrap_or_default();
    assert_eq!(text("/operations/0/opmessage"), json!({"default_msg": 0, "subject": "S", "message": "L"}));
    assert_eq!(text("/operations/1/opmessage"), json!({"default_msg": 0, "subject": "own", "message": ""}));
    assert_eq!(text("/recovery_operations/0/opmessage"), json!({"default_msg": 0, "subject": "RS", "message": "RL"}));
    let media = json!({"default_msg": 0, "subject": "", "message": "AL", "mediatypeid": "<MediaType Email>"});
    assert_eq!(text("/update_operations/0/opmessage"), media);
    assert!(matches!(&notes[..], [note] if note.contains("mediatypeid: is left out")), "{notes:?}");
}

#[test]
fn what_has_no_equivalent_is_noted() {
    let cases = [
        (
            "maintenance_mode = 1",
            "6.0",
            "maintenance_mode: is called pause_suppressed now",
            "/pause_suppressed",
            json!(1),
        ),
        (
            "notify_if_canceled = 'no'",
            "5.4",
            "notify_if_canceled: is left out: Zabbix 5.4",
            "/notify_if_canceled",
            json!(null),
        ),
        ("pause_symptoms = true", "6.0", "pause_symptoms: is left out: Zabbix 6.0", "/pause_symptoms", json!(null)),
        ("esc_period = '0s'", "6.0", "esc_period: 0 is left out", "/esc_period", json!(null)),
        ("r_shortdata = 'x'", "6.0", "r_shortdata: is left out", "/recovery_operations", json!([])),
        (
            "filter.conditions = [{ conditiontype = 5, value = 1 }]",
            "6.0",
            "filter.conditions[0]: \"trigger value\" is left out",
            "/filter/conditions",
            json!([]),
        ),
        (
            "filter.conditions = [{ conditiontype = 15, operator = 2, value = 'MySQL' }]",
            "6.0",
            "filter.conditions[0]: an application is an item's tag",
            "/filter/conditions/0",
            json!({"conditiontype": 26, "operator": 2, "value": "MySQL", "value2": "Application"}),
        ),
        (
            "filter.conditions = [{ conditiontype = 16, operator = 7 }]",
            "6.0",
            "filter.conditions[0]: maintenance is asked for",
            "/filter/conditions/0",
            json!({"conditiontype": 16, "operator": 11}),
        ),
    ];
    for (member, to, note, at, expected) in cases {
        let Done { params, notes, .. } = done(&of_toml(&format!("[action]\nname = 'a'\n{member}\n{MESSAGE}"))[0], to);
        assert!(matches!(&notes[..], [n] if n.starts_with(note)), "{member}: {notes:?}");
        assert_eq!(params.pointer(at).cloned().unwrap_or_default(), expected, "{member}");
    }
    let text =
        format!("[action]\nname = 'a'\nfilter.conditions = [{{ conditiontype = 15, value = 'MySQL' }}]\n{MESSAGE}");
    let params = done(&of_toml(&text)[0], "5.2").params;
    assert_eq!(params["filter"]["conditions"][0]["conditiontype"], 15, "5.2 has applications");
    let text = "[action]\nname = 'a'\npause_symptoms = true\noperations = [{ operationtype = 0, \
                opmessage = { default_msg = 1, subject = 's' }, opmessage_grp = [{ usrgrpid = 7 }] }]";
    let Done { params, notes, .. } = done(&of_toml(text)[0], "6.4");
    assert_eq!(
        (&params["pause_symptoms"], &params["operations"][0]["opmessage"]),
        (&json!(1), &json!({"default_msg": 1}))
    );
    assert!(matches!(&notes[..], [n] if n.contains("subject and message are left out")), "{notes:?}");
}

#[test]
fn a_formula_has_the_servers_letters() {
    let filter = |formula: &str| {
        format!(
            "[action]\nname = 'a'\n{MESSAGE}\n[action.filter]\nevaltype = 'custom expression'\nformula = '{formula}'\n\
             conditions = [{{ conditiontype = 'tag', value = 'x', formulaid = 'A' }}, \
             {{ conditiontype = 'tag', value = 'y', formulaid = 'ZZ' }}]"
        )
    };
    let params = done(&of_toml(&filter("ZZ and (A or not ZZ)"))[0], "6.0").params;
    assert_eq!(params["filter"]["formula"], "A and (B or not A)");
    let ids: Vec<_> =
        params["filter"]["conditions"].as_array().expect("a list").iter().map(|c| &c["formulaid"]).collect();
    assert_eq!(ids, ["B", "A"]);
    for (formula, part) in [("A and B and ZZ", "names B"), ("A", "does not name \"ZZ\"")] {
        let said = faults(&filter(formula), "6.0");
        assert!(matches!(&said[..], [one] if one.contains(part)), "{said:?}");
    }
    // Without a formula they are the server's alone.
    let plain = filter("").replace("evaltype = 'custom expression'", "evaltype = 1");
    assert_eq!(done(&of_toml(&plain)[0], "6.0").params["filter"]["conditions"][0].get("formulaid"), None);
}

#[test]
fn a_command_becomes_a_script() {
    let text = r#"
        [action]
        name = "Restart"
        [[action.operations]]
        operationtype = "remote command"
        opcommand_hst = [{ hostid = 0 }]
        opcommand = { type = "ssh", command = "reboot", port = 22, authtype = "password", username = "u", password = "hunter2" }
        [[action.recovery_operations]]
        operationtype = "remote command"
        opcommand_hst = [{ hostid = "Zabbix server" }]
        opcommand = { command = "true", execute_on = "server" }
    "#;
    let action = &of_toml(text)[0];
    let Done { params, notes, scripts } = done(action, "5.4");
    assert_eq!(params["operations"][0]["opcommand"], json!({"scriptid": "<script 1>"}));
    assert_eq!(params["recovery_operations"][0]["opcommand_hst"], json!([{"hostid": "<Host Zabbix server>"}]));
    let [Script::Own { name, members }, Script::Own { name: second, members: theirs }] = &scripts[..] else {
        panic!("{scripts:?}")
    };
    assert_eq!((&**name, &**second), ("Restart, operation 1", "Restart, recovery operation 1"));
    let expected =
        json!({"type": 2, "command": "reboot", "port": "22", "authtype": 0, "username": "u", "password": "hunter2"});
    assert_eq!(Value::Object(members.clone()), expected);
    assert_eq!(Value::Object(theirs.clone()), json!({"type": 0, "command": "true", "execute_on": 1}));
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(!format!("{notes:?}{action:?}").contains("hunter2"));
    let Done { params, scripts, .. } = done(action, "5.2");
    assert_eq!(params["operations"][0]["opcommand"], expected);
    assert!(scripts.is_empty());
}

/// `action.get` of 4.4, as people copy it.
#[test]
fn what_a_server_told_is_read() {
    let text = r#"{"actionid": "7", "name": "a", "eventsource": "0", "status": "0", "esc_period": "1h",
        "def_shortdata": "S", "def_longdata": "L", "r_shortdata": "", "r_longdata": "", "ack_shortdata": "", "ack_longdata": "",
        "pause_suppressed": "1",
        "filter": {"evaltype": "0", "formula": "", "eval_formula": "A",
            "conditions": [{"conditiontype": "4", "operator": "5", "value": "3", "value2": "", "formulaid": "A"}]},
        "operations": [{"operationid": "1", "actionid": "7", "operationtype": "1", "esc_period": "0", "esc_step_from": "1",
            "esc_step_to": "1", "evaltype": "0", "recovery": "0", "opconditions": [],
            "opcommand_hst": [{"opcommand_hstid": "1", "operationid": "1", "hostid": "0"}], "opcommand_grp": [],
            "opcommand": {"operationid": "1", "type": "0", "scriptid": "0", "execute_on": "1", "port": "", "authtype": "0",
                "username": "", "password": "", "publickey": "", "privatekey": "", "command": "true"}}],
        "recovery_operations": [], "acknowledge_operations": []}"#;
    let mut actions = of_json(text).expect("an action");
    let env = |_: &str| None;
    let secrets = Resolver { env: &env, warnings: std::cell::RefCell::default() };
    assert_eq!(check(&mut actions[0], &secrets), []);
    let Done { params, scripts, .. } = done(&actions[0], "6.0");
    let [Script::Own { members, .. }] = &scripts[..] else { panic!("{scripts:?}") };
    assert_eq!(Value::Object(members.clone()), json!({"type": 0, "command": "true", "execute_on": 1}));
    assert_eq!(params["operations"][0]["opcommand_hst"], json!([{"hostid": "0"}]));
    assert_eq!(params["operations"][0]["opcommand"], json!({"scriptid": "<script 1>"}));
}

#[test]
fn the_other_event_sources_are_translated() {
    let discovery = r#"
        [action]
        name = "d"
        eventsource = "discovery"
        esc_period = "1h"
        [action.filter]
        conditions = [
            { conditiontype = "host ip", value = "192.168.0.1-254" },
            { conditiontype = "discovered service type", value = "zabbix agent" },
            { conditiontype = "discovery status", value = "up" },
            { conditiontype = "discovery rule", operator = "<>", value = "Local network" },
            { conditiontype = "discovery object", value = "host" },
        ]
        [[action.operations]]
        operationtype = "add to host group"
        opgroup = [{ groupid = "Linux servers" }]
        [[action.operations]]
        operationtype = "link to template"
        optemplate = [{ templateid = "Linux by Zabbix agent" }]
        [[action.operations]]
        operationtype = "set host inventory mode"
        opinventory = { inventory_mode = "automatic" }
        [[action.operations]]
        operationtype = "add host"
    "#;
    let Done { params, notes, .. } = done(&of_toml(discovery)[0], "6.0");
    let expected = json!({
        "name": "d", "eventsource": 1,
        "filter": {"evaltype": 0, "conditions": [
            {"conditiontype": 7, "operator": 0, "value": "192.168.0.1-254"},
            {"conditiontype": 8, "operator": 0, "value": "9"},
            {"conditiontype": 10, "operator": 0, "value": "0"},
            {"conditiontype": 18, "operator": 1, "value": "<DiscoveryRule Local network>"},
            {"conditiontype": 21, "operator": 0, "value": "1"},
        ]},
        "operations": [
            {"operationtype": 4, "opgroup": [{"groupid": "<HostGroup Linux servers>"}]},
            {"operationtype": 6, "optemplate": [{"templateid": "<Template Linux by Zabbix agent>"}]},
            {"operationtype": 10, "opinventory": {"inventory_mode": 1}},
            {"operationtype": 2},
        ],
    });
    assert_eq!(params, expected);
    assert!(matches!(&notes[..], [n] if n.starts_with("esc_period: is left out")), "{notes:?}");
    let tags = "[action]\nname = 'r'\neventsource = 'autoregistration'\n\
                filter.conditions = [{ conditiontype = 'host metadata', operator = 'matches', value = 'linux' }]\n\
                operations = [{ operationtype = 'add host tags', optag = [{ tag = 'a' }] }]";
    assert_eq!(done(&of_toml(tags)[0], "7.0").params["operations"][0]["optag"], json!([{"tag": "a", "value": ""}]));
    assert!(faults(tags, "6.4")[0].contains("gives hosts no tags"));
    let internal = "[action]\nname = 'i'\neventsource = 3\nfilter.conditions = [{ conditiontype = 'event type', value = \
                    'item not supported' }]\noperations = [{ operationtype = 0, opmessage_grp = [{ usrgrpid = 7 }] }]\n\
                    recovery_operations = [{ operationtype = 11 }]";
    let params = done(&of_toml(internal)[0], "6.0").params;
    assert_eq!(params.get("update_operations"), None);
    assert_eq!(params["filter"]["conditions"], json!([{"conditiontype": 23, "operator": 0, "value": "0"}]));
    let service = format!("[action]\nname = 's'\neventsource = 'service'\n{MESSAGE}");
    assert_eq!(done(&of_toml(&service)[0], "6.0").params["eventsource"], 4);
    assert!(faults(&service, "5.4")[0].starts_with("eventsource: Zabbix 5.4 has no actions for services"));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let cases = [
        ("", "operations: are none"),
        (
            "eventsource = 'triger'\noperations = [{ operationtype = 0 }]",
            "eventsource: \"triger\" is none of these: \"trigger\" (0)",
        ),
        ("operations = [{ operationtype = 'massage' }]", "operations[0].operationtype: \"massage\" is none of these"),
        ("operations = [{ operationtype = 0 }]", "operations[0]: tells nobody"),
        ("operations = [{ operationtype = 1, opcommand = { scriptid = 3 } }]", "operations[0]: runs nowhere"),
        ("operations = [{ operationtype = 11 }]", "operations[0].operationtype: is none for operations"),
        ("operations = [{ operationtype = 2 }]", "operations[0].operationtype: is none for operations"),
        (
            "recovery_operations = [{ operationtype = 11, opgroup = [{ groupid = 2 }] }]",
            "recovery_operations[0].opgroup: does not belong",
        ),
        (
            "operations = [{ operationtype = 0, opmessage_grp = [{ userid = 7 }] }]",
            "operations[0].opmessage_grp[0].userid: does not belong here; write usrgrpid",
        ),
        (
            "filter.conditions = [{ conditiontype = 'trigger severity', operator = 'contains', value = 'high' }]",
            "filter.conditions[0].operator: is none for \"trigger severity\"; there are: =, <>, >=, <=",
        ),
        (
            "filter.conditions = [{ conditiontype = 'severity', operator = '>=', value = 'hihg' }]",
            "filter.conditions[0].value: \"hihg\" is none of these: \"not classified\" (0)",
        ),
        (
            "filter.conditions = [{ conditiontype = 'host ip', value = '10.0.0.1' }]",
            "filter.conditions[0].conditiontype: an action for trigger events has no condition \"host ip\"",
        ),
        (
            "filter.conditions = [{ conditiontype = 'tag value', value = 'x' }]",
            "filter.conditions[0].value2: has to be",
        ),
        ("filter.conditions = [{ conditiontype = 5, value = 0 }]", "filter.conditions[0]: there is no condition"),
        ("filter.conditions = [{ conditiontype = 'host' }]", "filter.conditions[0].value: has to be written"),
        (
            "eventsource = 'discovery'\nrecovery_operations = [{ operationtype = 11 }]",
            "recovery_operations: an action for discovery",
        ),
        (
            "update_operations = [{ operationtype = 12 }]\nacknowledge_operations = [{ operationtype = 12 }]",
            "acknowledge_operations: is what update_operations was called",
        ),
        (
            "operations = [{ operationtype = 0, opmessage_grp = [{ usrgrpid = 7 }], esc_step_from = 4, esc_step_to = 2 }]",
            "operations[0].esc_step_to: is before",
        ),
        (
            "operations = [{ operationtype = 1, opcommand_hst = [{ hostid = 0 }], opcommand = { type = 1, command = 'x', username = 'u' } }]",
            "operations[0].opcommand.username: does not belong",
        ),
    ];
    for (members, expected) in cases {
        let text = format!("[action]\nname = 'a'\n{members}");
        let said = faults(&text, "6.0");
        assert!(said.iter().any(|fault| fault.starts_with(expected)), "{members}:\n{}", said.join("\n"));
    }
}

#[test]
fn the_default_action_is_right_everywhere() {
    for to in ["5.0", "5.4", "6.0", "6.4", "7.0", "7.4"] {
        let Done { params, notes, .. } = done(&default_action("edge"), to);
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(
            params["filter"]["conditions"],
            json!([{"conditiontype": 26, "operator": 0, "value": "edge", "value2": "callbackd"}])
        );
        assert_eq!(
            params["operations"][0]["opmessage_grp"],
            json!([{"usrgrpid": "<UserGroup Zabbix administrators>"}])
        );
    }
}

#[test]
fn the_manual_shows_the_default_action() {
    let manual = include_str!("../../../../config/callbackd.toml");
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', ':']) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let whole: toml::Table = manual.lines().map(on).collect::<String>().parse().expect("TOML");
    let shown = Action::deserialize(whole["sinks"]["zbx"]["action"].clone()).expect("an action");
    assert_eq!(format!("{shown:?}"), format!("{:?}", default_action("callbackd")));
}
