//! What a Zabbix is set up with: objects that are created, told back with all that the server adds, and updated; each
//! call as strict as in the version at hand (Zabbix documentation, "API changes" of 5.2 to 7.0; 6.0.14 as it answered).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Map, Value, json};

use super::{Answered, FakeZabbix, No, State, no, only, unexpected};

/// Name of a class, and of its ids.
const CLASSES: &[(&str, &str)] = &[
    ("hostgroup", "groupid"),
    ("host", "hostid"),
    ("item", "itemid"),
    ("trigger", "triggerid"),
    ("correlation", "correlationid"),
    ("action", "actionid"),
    ("script", "scriptid"),
    ("usergroup", "usrgrpid"),
    ("user", "userid"),
    ("mediatype", "mediatypeid"),
];

/// All that there is, by class, in the order of creation.
#[derive(Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<BTreeMap<&'static str, Vec<Value>>>>);

impl Objects {
    /// Gives `zabbix` its methods, and what every Zabbix has from the start.
    pub(crate) fn of(zabbix: &FakeZabbix) -> Objects {
        let objects = Objects::default();
        let scope = json!("2");
        let detect = json!({"scriptid": "3", "name": "Detect operating system", "command": "nmap -O {HOST.CONN}",
            "type": "0", "execute_on": "2", "scope": scope, "groupid": "0", "host_access": "2", "usrgrpid": "7"});
        objects.all("script").push(detect);
        objects.all("usergroup").push(json!({"usrgrpid": "7", "name": "Zabbix administrators"}));
        for &(class, id) in CLASSES {
            let at = |verb: &str| &*Box::leak(format!("{class}.{verb}").into_boxed_str());
            let (get, create, update) = (objects.clone(), objects.clone(), objects.clone());
            zabbix.method(at("get"), move |state, params| get.get(state, class, params));
            zabbix.method(at("create"), move |state, params| create.create(state, class, id, params));
            zabbix.method(at("update"), move |state, params| update.update(state, class, id, params));
        }
        objects
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<Value>>> {
        self.0.lock().expect("no panic")
    }

    fn all(&self, class: &'static str) -> Class<'_> {
        Class(self.map(), class)
    }

    /// The objects of a class, as they were created.
    pub(crate) fn list(&self, class: &'static str) -> Vec<Value> {
        self.map().get(class).cloned().unwrap_or_default()
    }

    fn get(&self, state: &State, class: &'static str, params: &Value) -> Answered {
        only("/", params, &gettable(state, class))?;
        let wanted = |object: &Value| {
            let filter = params["filter"].as_object().cloned().unwrap_or_default();
            let by_id = CLASSES.iter().filter_map(|(_, id)| Some((*id, params.get(format!("{id}s"))?)));
            // Which item a trigger is about stands in its expression; there is one only.
            let by_id = by_id.filter(|(id, _)| (class, *id) != ("trigger", "itemid"));
            let filtered = filter.iter().map(|(name, values)| (name.as_str(), values)).chain(by_id);
            filtered.into_iter().all(|(name, values)| {
                let has = object.get(name).map(text).unwrap_or_default();
                match values {
                    Value::Array(values) => values.iter().any(|value| text(value) == has),
                    value => text(value) == has,
                }
            })
        };
        Ok(self.list(class).iter().filter(|object| wanted(object)).map(|object| told(state, class, object)).collect())
    }

    fn create(&self, state: &State, class: &'static str, id: &str, params: &Value) -> Answered {
        self.validate(state, class, params)?;
        let name = ["name", "host", "key_", "description"].into_iter().find_map(|name| params.get(name)).cloned();
        let name_of = |object: &Value| {
            ["name", "host", "key_", "description"].into_iter().find_map(|name| object.get(name)).cloned()
        };
        let mut all = self.all(class);
        if class != "item" && all.get().iter().any(|object| name_of(object) == name) {
            return Err(no(-32602, format!("{class} {} already exists.", name.unwrap_or_default())));
        }
        let number = (all.get().len() + 101).to_string();
        let mut object = params.clone();
        object[id] = json!(number);
        all.push(object);
        let member = format!("{id}s");
        Ok(json!({member: [number]}))
    }

    fn update(&self, state: &State, class: &'static str, id: &str, params: &Value) -> Answered {
        let mut all = self.all(class);
        let known = all.get().iter_mut().find(|object| object[id] == params[id]);
        let known = known.ok_or_else(|| no(-32602, "No permissions to referred object or it does not exist!"))?;
        let mut merged = known.clone();
        let given = params.as_object().expect("an object").clone();
        merged.as_object_mut().expect("an object").extend(given);
        let mut checked = merged.clone();
        checked.as_object_mut().expect("an object").remove(id);
        drop(all);
        self.validate(state, class, &checked)?;
        let mut all = self.all(class);
        let known = all.get().iter_mut().find(|object| object[id] == params[id]).expect("it was there");
        *known = merged;
        let member = format!("{id}s");
        Ok(json!({member: [params[id]]}))
    }

    fn validate(&self, state: &State, class: &'static str, params: &Value) -> Result<(), No> {
        match class {
            "host" => {
                only("/1", params, &["host", "groups", "interfaces"])?;
                if !state.is_from(5, 2) && params.get("interfaces").is_none() {
                    return Err(no(-32602, "No interfaces for host \"x\"."));
                }
                Ok(())
            }
            "item" => {
                let names = ["hostid", "name", "key_", "type", "value_type", "trapper_hosts", "status"];
                only("/1", params, &names)
            }
            "trigger" => {
                let is_new = params["expression"].as_str().is_some_and(|e| e.starts_with("find(/"));
                let is_old = params["expression"].as_str().is_some_and(|e| e.starts_with("{callbackd:"));
                match state.is_from(5, 4) {
                    true if !is_new => Err(no(-32602, "Invalid parameter \"/1/expression\": incorrect expression")),
                    false if !is_old => Err(no(-32602, "Incorrect trigger expression.")),
                    _ => Ok(()),
                }
            }
            "script" => {
                let by_hand = ["menu_path", "usrgrpid", "host_access", "confirmation"];
                match by_hand.into_iter().find(|name| params.get(name).is_some()) {
                    Some(name) if params["scope"] == "1" => Err(unexpected("/1", name)),
                    _ => Ok(()),
                }
            }
            "action" => self.validate_action(state, params),
            _ => Ok(()),
        }
    }

    fn validate_action(&self, state: &State, params: &Value) -> Result<(), No> {
        let update = if state.is_from(6, 0) { "update_operations" } else { "acknowledge_operations" };
        let mut names =
            vec!["name", "eventsource", "status", "esc_period", "filter", "operations", "recovery_operations"];
        names.extend([update, "pause_suppressed"]);
        names.extend(state.is_from(6, 0).then_some("notify_if_canceled"));
        names.extend(state.is_from(6, 4).then_some("pause_symptoms"));
        only("/1", params, &names)?;
        for (at, condition) in list(&params["filter"]["conditions"]) {
            let at = format!("/1/filter/conditions/{at}");
            let formula = params["filter"]["evaltype"] == 3;
            let id: &[&str] = if formula { &["formulaid"] } else { &[] };
            only(&at, condition, &[&["conditiontype", "operator", "value", "value2"], id].concat())?;
        }
        for operations in ["operations", "recovery_operations", update] {
            for (at, operation) in list(&params[operations]) {
                self.validate_operation(state, operations, &format!("/1/{operations}/{at}"), operation)?;
            }
        }
        Ok(())
    }

    fn validate_operation(&self, state: &State, list: &str, at: &str, operation: &Value) -> Result<(), No> {
        let escalation = ["esc_period", "esc_step_from", "esc_step_to", "evaltype", "opconditions"];
        let plain = [
            "operationtype",
            "opmessage",
            "opmessage_grp",
            "opmessage_usr",
            "opcommand",
            "opcommand_grp",
            "opcommand_hst",
        ];
        let names = if list == "operations" { [&plain[..], &escalation].concat() } else { plain.to_vec() };
        only(at, operation, &names)?;
        let missing =
            |name: &str| no(-32602, format!("Invalid parameter \"{at}\": the parameter \"{name}\" is missing."));
        let kind = text(&operation["operationtype"]);
        if ["0", "11", "12"].contains(&&*kind) {
            let message = operation.get("opmessage").ok_or_else(|| missing("opmessage"))?;
            let media: &[&str] = if kind == "11" { &[] } else { &["mediatypeid"] };
            let own: &[&str] = match message.get("default_msg").map(text).as_deref() {
                Some("0") => &["subject", "message"],
                _ => &[],
            };
            only(&format!("{at}/opmessage"), message, &[&["default_msg"], media, own].concat())?;
        } else {
            let command = operation.get("opcommand").ok_or_else(|| missing("opcommand"))?;
            if !state.is_from(5, 4) {
                return command.get("type").map(drop).ok_or_else(|| missing("type"));
            }
            only(&format!("{at}/opcommand"), command, &["scriptid"])?;
            let scripts = self.list("script");
            let is_meant = |s: &&Value| s["scriptid"] == command["scriptid"] && text(&s["scope"]) == "1";
            if !scripts.iter().any(|s| is_meant(&s)) {
                let text =
                    "Specified script does not exist or you do not have rights on it for action operation command.";
                return Err(no(-32602, text));
            }
        }
        Ok(())
    }
}

struct Class<'a>(MutexGuard<'a, BTreeMap<&'static str, Vec<Value>>>, &'static str);

impl Class<'_> {
    fn get(&mut self) -> &mut Vec<Value> {
        self.0.entry(self.1).or_default()
    }

    fn push(&mut self, object: Value) {
        self.get().push(object);
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate().map(|(at, one)| (at + 1, one))
}

/// What can be asked with.
fn gettable(state: &State, class: &str) -> Vec<&'static str> {
    let mut names = vec!["output", "filter"];
    names.extend(match class {
        "host" if !state.is_from(6, 2) => &["selectGroups"][..],
        "host" if !state.is_from(7, 0) => &["selectGroups", "selectHostGroups"],
        "host" => &["selectHostGroups"],
        "item" => &["hostids", "host"],
        "trigger" => &["itemids", "selectTags", "expandExpression"],
        "script" => &["scriptids"],
        "correlation" => &["selectFilter", "selectOperations"],
        "action" if state.is_from(6, 0) => {
            &["selectFilter", "selectOperations", "selectRecoveryOperations", "selectUpdateOperations"]
        }
        "action" => &["selectFilter", "selectOperations", "selectRecoveryOperations", "selectAcknowledgeOperations"],
        _ => &[],
    });
    names
}

/// An object as the server tells it: numbers as texts, with everything that it makes up.
fn told(state: &State, class: &str, object: &Value) -> Value {
    let mut out = texts(object);
    match class {
        "host" => {
            let groups = if state.is_from(6, 2) { "hostgroups" } else { "groups" };
            let of = out.as_object_mut().and_then(|host| host.remove("groups")).unwrap_or_default();
            out[groups] = of;
            out["status"] = json!("0");
        }
        "action" => {
            out["filter"]["eval_formula"] = json!("A and B");
            let formula = out["filter"].get("formula").cloned().unwrap_or(json!(""));
            out["filter"]["formula"] = formula;
            let conditions = out["filter"]["conditions"].as_array_mut().expect("a list");
            conditions.reverse();
            for (at, condition) in conditions.iter_mut().enumerate() {
                let letter = char::from(b'A' + at as u8).to_string();
                add(condition, json!({"formulaid": letter, "value2": "", "operator": "0"}));
            }
            let lists = ["operations", "recovery_operations", "update_operations", "acknowledge_operations"];
            for list in lists {
                for operation in out.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    add(operation, json!({"operationid": "9", "actionid": "8", "evaltype": "0", "opconditions": []}));
                    if list == "operations" {
                        add(operation, json!({"esc_period": "0", "esc_step_from": "1", "esc_step_to": "1"}));
                    }
                    if let Some(message) = operation.get_mut("opmessage") {
                        add(message, json!({"subject": "", "message": "", "mediatypeid": "0"}));
                        add(operation, json!({"opmessage_grp": [], "opmessage_usr": []}));
                    }
                    for group in operation.get_mut("opcommand_grp").and_then(Value::as_array_mut).into_iter().flatten()
                    {
                        add(group, json!({"opcommand_grpid": "5"}));
                    }
                    if let Some(command) = operation.get_mut("opcommand").filter(|_| !state.is_from(5, 4)) {
                        let more = json!({"execute_on": "0", "port": "", "authtype": "0", "username": "", "password": "",
                            "publickey": "", "privatekey": "", "command": ""});
                        add(command, more);
                    }
                }
            }
        }
        _ => {}
    }
    out
}

/// What is not there yet.
fn add(to: &mut Value, more: Value) {
    let (Value::Object(to), Value::Object(more)) = (to, more) else { return };
    for (name, value) in more {
        to.entry(name).or_insert(value);
    }
}

fn texts(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            Value::Object(members.iter().map(|(n, v)| (n.clone(), texts(v))).collect::<Map<_, _>>())
        }
        Value::Array(list) => list.iter().map(texts).collect(),
        scalar => json!(text(scalar)),
    }
}
