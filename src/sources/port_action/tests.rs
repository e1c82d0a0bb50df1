use std::collections::BTreeMap;
use std::path::Path;

use http::HeaderName;
use serde_json::{Value, json};

use super::body::{is_json, without_whitespace};
use super::*;
use crate::model::{ReceiptStatus, State, Verdict};
use crate::secret::Resolver;

const OURS: &str = "port-client-secret-example";

/// When the vectors were signed.
const SIGNED_AT: Time = Time::from_seconds(1_700_000_000);

/// A source of these options (TOML), or the keys that are at fault.
fn source(options: &str) -> Result<Box<dyn Source>, Vec<String>> {
    let file = ::config::File::from_str(options, ::config::FileFormat::Toml);
    let table = ::config::Config::builder().add_source(file).build().expect("TOML").cache;
    let env = |_: &str| None;
    let secrets = Resolver { env: &env, warnings: Default::default() };
    let context = BuildContext {
        name: "portal",
        instance: "test",
        secrets: &secrets,
        sources: &[],
        outbound: &crate::outbound::Settings::default(),
    };
    build(&Section { key: "sources.portal".to_owned(), table }, &context)
        .map_err(|faults| faults.iter().map(|f| f.to_string()).collect())
}

fn portal() -> Box<dyn Source> {
    source(&format!("secret = {OURS:?}")).expect("a source")
}

fn request(headers: HeaderMap, body: &[u8]) -> RawRequest {
    RawRequest {
        method: Method::POST,
        rest: String::new(),
        query: None,
        headers,
        body: Bytes::copy_from_slice(body),
        peer: [127, 0, 0, 1].into(),
    }
}

fn signed(timestamp: &str, signature: &str, body: &[u8]) -> RawRequest {
    let mut headers = HeaderMap::new();
    headers.insert(TIMESTAMP, timestamp.parse().expect("a header"));
    headers.insert(SIGNATURE, signature.parse().expect("a header"));
    request(headers, body)
}

/// Signs as Port does.
fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let mac = signature::hmac_sha256(secret.as_bytes(), &[timestamp.as_bytes(), b".", body]);
    format!("v1,{}", signature::base64(&mac))
}

/// What is said of an authentic body.
fn read(source: &dyn Source, headers: &[(&'static str, &str)], body: &str) -> Result<Update, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.parse().expect("a header"));
    }
    let sent = source.as_sender(Bytes::copy_from_slice(body.as_bytes()), map, SIGNED_AT);
    let receipt = source.authenticate(request(sent.headers, &sent.body), SIGNED_AT).expect("authentic");
    let mut updates = source.parse(&receipt).map_err(|e| e.to_string())?;
    assert_eq!(updates.len(), 1);
    Ok(updates.remove(0))
}

const CLASSIC: &str = r#"{"action":"create_microservice","resourceType":"run","status":"TRIGGERED","context":{"entity":null,"blueprint":"microservice","runId":"r_QOz6WoOB1Q2lmhZZ"},"payload":{"entity":null,"properties":{"name":"my-microservice","region":"eu-west-1"}}}"#;
const CLASSIC_SIGNATURE: &str = "v1,gDHuK+Fp8kAwo3kxENGZ1k2MFggJkUm0cItl5LtRWmw=";

/// As the agent sends it; what it signed has none of the blanks outside of strings.
const RELAYED: &str = r#"{"action": "transcode", "context": {"runId": "r_0123456789abcdef", "entity": null}, "payload": {"properties": {"object": "wk-test/\u6e38\u620f 1.mp4", "n": 1.5, "esc": "a \" b, c: d"}}}"#;
const RELAYED_SIGNATURE: &str = "v1,IpSyGLErK1DBvn/fhN5NfZkRjHBFjb7Ed5iRf19lVHc=";

#[test]
fn known_signatures_are_taken() {
    let template = r#"{"port_context":{"run_id":"r_0123456789abcdef"},"object":"wk-test/游戏 1.mp4"}"#;
    let vectors = [
        (CLASSIC, 243, CLASSIC_SIGNATURE),
        (template, 80, "v1,c8YsClVtW6+ZdhZhbUQsFvfD9UhPqqpJO/+R9QRZZcg="),
        ("", 0, "v1,YQmwiQqbd59M8zFxa/aDLIwJA5bH2ILEWbmtBJ72y7Q="),
        (RELAYED, 185, RELAYED_SIGNATURE),
        (RELAYED, 185, "v1,tJ1ElIEBc0+74NpDFtyzeJwHILC6FQthmSrI56hAxjg="),
    ];
    for (body, bytes, signature) in vectors {
        assert_eq!(body.len(), bytes);
        let receipt = portal().authenticate(signed("1700000000", signature, body.as_bytes()), SIGNED_AT).expect(body);
        assert_eq!((receipt.body.as_ref(), receipt.source.as_ref()), (body.as_bytes(), "portal"));
        assert_eq!(receipt.headers, [(TIMESTAMP.to_owned(), "1700000000".to_owned())], "no credential is kept");
    }
    assert_eq!(sign(OURS, "1700000000", CLASSIC.as_bytes()), CLASSIC_SIGNATURE);
}

#[test]
fn what_is_not_signed_right_is_refused() {
    let body = CLASSIC.as_bytes();
    let mac = CLASSIC_SIGNATURE.strip_prefix("v1,").expect("a prefix");
    let off = |seconds: &str| sign(OURS, seconds, body);
    let cases: [(&str, String, &str); 20] = [
        ("1700000000", sign("another secret", "1700000000", body), "does not fit"),
        ("1700000001", CLASSIC_SIGNATURE.to_owned(), "does not fit"),
        ("1700000000", format!("v2,{mac}"), "v1,<base64"),
        ("1700000000", format!("V1,{mac}"), "v1,<base64"),
        ("1700000000", mac.to_owned(), "v1,<base64"),
        ("1700000000", format!("v1, {mac}"), "v1,<base64"),
        ("1700000000", format!("v1,{mac},{mac}"), "v1,<base64"),
        ("1700000000", format!("v1,{}", mac.trim_end_matches('=')), "v1,<base64"),
        // The last digit has two bits to spare; only zeros are right.
        ("1700000000", format!("v1,{}", mac.replace("mw=", "mx=")), "v1,<base64"),
        ("1700000000", format!("v1,{}", mac.replace('+', "-")), "v1,<base64"),
        ("1700000000", "v1,".to_owned(), "v1,<base64"),
        ("1700000000", format!("v1,{}", signature::base64(&[0; 31])), "v1,<base64"),
        ("1700000000", String::new(), "v1,<base64"),
        ("1700000000000", off("1700000000000"), "in seconds"),
        ("", off(""), "not a number"),
        ("17e8", off("17e8"), "not a number"),
        ("+1700000000", off("+1700000000"), "not a number"),
        ("-1700000000", off("-1700000000"), "not a number"),
        ("1700000000.0", off("1700000000.0"), "not a number"),
        ("99999999999999999999", off("99999999999999999999"), "not a number"),
    ];
    for (timestamp, signature, reason) in cases {
        let error = portal().authenticate(signed(timestamp, &signature, body), SIGNED_AT).expect_err(&signature);
        let text = error.to_string();
        assert!(text.contains(reason), "{timestamp:?} {signature:?}: {text}");
        assert!(!text.contains(mac) && !text.contains(OURS), "{text}");
        assert_eq!(matches!(error, AuthError::Stale(_)), reason == "in seconds", "{text}");
    }
}

#[test]
fn a_signature_has_to_be_there_once() {
    for name in [TIMESTAMP, SIGNATURE] {
        let mut raw = signed("1700000000", CLASSIC_SIGNATURE, CLASSIC.as_bytes());
        raw.headers.remove(name);
        let error = portal().authenticate(raw, SIGNED_AT).expect_err(name);
        assert!(matches!(&error, AuthError::Missing(text) if text.contains(name)), "{error}");
        let mut raw = signed("1700000000", CLASSIC_SIGNATURE, CLASSIC.as_bytes());
        let value = raw.headers[name].clone();
        raw.headers.append(name, value);
        assert!(matches!(portal().authenticate(raw, SIGNED_AT), Err(AuthError::Wrong(_))), "{name} twice");
    }
    let mut raw = signed("1700000000", CLASSIC_SIGNATURE, CLASSIC.as_bytes());
    raw.rest = "other".to_owned();
    portal().authenticate(raw, SIGNED_AT).expect_err("another path");
}

#[test]
fn age_is_judged_in_both_directions_after_the_signature() {
    let call = || signed("1700000000", CLASSIC_SIGNATURE, CLASSIC.as_bytes());
    let forged = || signed("1700000000", &sign("another", "1700000000", b""), CLASSIC.as_bytes());
    for (now, taken) in [(299, true), (300, true), (301, false), (-300, true), (-301, false), (86_400, false)] {
        let now = Time::from_seconds(SIGNED_AT.seconds() + now);
        let outcome = portal().authenticate(call(), now);
        assert_eq!(outcome.is_ok(), taken, "{now}");
        assert!(taken || matches!(outcome, Err(AuthError::Stale(_))));
        assert!(matches!(portal().authenticate(forged(), now), Err(AuthError::Wrong(_))), "{now}");
    }
    let strict = source(&format!("secret = {OURS:?}\ntolerance = \"5s\"")).expect("a source");
    let late = SIGNED_AT.plus_ms(5_001);
    assert!(matches!(strict.authenticate(call(), late), Err(AuthError::Stale(text)) if text.contains("5s")));
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    for (body, signature) in [(CLASSIC, CLASSIC_SIGNATURE), (RELAYED, RELAYED_SIGNATURE)] {
        for at in 0..body.len() {
            let mut flipped = body.as_bytes().to_vec();
            flipped[at] ^= 1;
            let outcome = portal().authenticate(signed("1700000000", signature, &flipped), SIGNED_AT);
            assert!(matches!(outcome, Err(AuthError::Wrong(_))), "byte {at}");
        }
    }
}

#[test]
fn blanks_are_only_forgiven_where_they_mean_nothing() {
    let taken = |body: &str| {
        let signature = sign(OURS, "1700000000", &without_whitespace(body.as_bytes()));
        portal().authenticate(signed("1700000000", &signature, body.as_bytes()), SIGNED_AT).is_ok()
    };
    assert!(taken("{\"a\": 1,\r\n\t\"b\": [true, null]} "));
    for outside_json in ["1 2", "{\"a\": tru e}", "a b", "{\"a\": 1", "{\"a\": 1}}", "\"a\" \"b\""] {
        assert!(!is_json(outside_json.as_bytes()));
        assert!(!taken(outside_json), "{outside_json}");
    }
}

#[test]
fn either_of_two_secrets_is_taken_and_the_first_signs() {
    let both = source(r#"secret = ["the new one", "port-client-secret-example"]"#).expect("a source");
    both.authenticate(signed("1700000000", CLASSIC_SIGNATURE, CLASSIC.as_bytes()), SIGNED_AT).expect("the old one");
    both.authenticate(signed("1700000000", RELAYED_SIGNATURE, RELAYED.as_bytes()), SIGNED_AT).expect("relayed");
    let sent = both.as_sender(Bytes::from_static(CLASSIC.as_bytes()), HeaderMap::new(), SIGNED_AT);
    assert_eq!(sent.headers[SIGNATURE], sign("the new one", "1700000000", CLASSIC.as_bytes()));
    both.authenticate(request(sent.headers, &sent.body), SIGNED_AT).expect("the new one");
}

#[test]
fn whitespace_is_dropped_outside_of_strings_only() {
    let cases: [(&str, &str); 9] = [
        ("", ""),
        (" { } ", "{}"),
        ("{\"a\" : [ 1 ,\t2 ,\r\n3 ] }", "{\"a\":[1,2,3]}"),
        (r#"{"a b": " c "}"#, r#"{"a b":" c "}"#),
        (r#"{"a": "\" b", "c": 1}"#, r#"{"a":"\" b","c":1}"#),
        (r#"{"a": "\\", "b": " "}"#, r#"{"a":"\\","b":" "}"#),
        (r#"{"a": "\\\" , ", "b": 1}"#, r#"{"a":"\\\" , ","b":1}"#),
        (r#"{"a": "\u0022 , 游 戏"}"#, r#"{"a":"\u0022 , 游 戏"}"#),
        // Not whitespace to JSON: stays, and is then no JSON.
        ("{\"a\":\u{a0}1,\u{c} 2}", "{\"a\":\u{a0}1,\u{c}2}"),
    ];
    for (json, compact) in cases {
        assert_eq!(without_whitespace(json.as_bytes()), compact.as_bytes(), "{json}");
    }
}

#[test]
fn the_run_id_is_found_where_the_configuration_says() {
    let at = |run_id: &str| source(&format!("secret = \"s\"\nrun_id = {run_id}")).expect("a source");
    let pointer = at("\"/meta/runs/0\"");
    let key = |outcome: Result<Update, String>| outcome.map(|update| update.key);
    assert_eq!(key(read(&*pointer, &[], r#"{"meta":{"runs":["run 7"]}}"#)), Err(no_run_id("at /meta/runs/0")));
    assert_eq!(key(read(&*pointer, &[], r#"{"meta":{"runs":["run-7"]},"runId":"r_1"}"#)), Ok("run-7".to_owned()));
    assert_eq!(key(read(&*pointer, &[], r#"{"runId":"r_1"}"#)), Err(no_run_id("at /meta/runs/0")));
    assert_eq!(key(read(&*pointer, &[], r#"{"meta":{"runs":[7]}}"#)), Err(no_run_id("at /meta/runs/0")));
    let long = format!(r#"{{"meta":{{"runs":["{}"]}}}}"#, "r".repeat(201));
    assert_eq!(key(read(&*pointer, &[], &long)), Err(no_run_id("at /meta/runs/0")));
    // A pointer fits the body as it is sent, and as it is without its wrapping.
    let wrapped = r#"{"payload":{"context":{"runId":"r_1"}}}"#;
    for place in ["/payload/context/runId", "/context/runId"] {
        assert_eq!(key(read(&*at(&format!("{place:?}")), &[], wrapped)), Ok("r_1".to_owned()));
    }
    let header = at("{ header = \"X-Run\" }");
    assert_eq!(key(read(&*header, &[("x-run", "run-7")], r#"{"runId":"r_1"}"#)), Ok("run-7".to_owned()));
    assert_eq!(key(read(&*header, &[("run_id", "r_2")], r#"{"runId":"r_1"}"#)), Err(no_run_id("in the header x-run")));
    // The body comes before the header, and only what looks like a run id is one.
    let usual = at("{ header = \"RUN_ID\" }");
    assert_eq!(key(read(&*usual, &[("run_id", "run-7")], "{}")), Ok("run-7".to_owned()));
    assert_eq!(key(read(&*portal(), &[("run_id", "r_2")], r#"{"runId":"r_1"}"#)), Ok("r_1".to_owned()));
    for doubtful in ["r_", "wfnr_", "wfr_1", "R_1", "r_1-2", "r_1 ", "x"] {
        read(&*portal(), &[("run_id", doubtful)], "{}").expect_err(doubtful);
    }
}

fn no_run_id(place: &str) -> String {
    format!("no run id {place}, where run_id says it is")
}

#[test]
fn a_body_has_limits() {
    let nested = |depth: usize| format!(r#"{{"runId":"r_1","a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    read(&*portal(), &[], &nested(64)).expect("as deep as may be");
    assert!(read(&*portal(), &[], &nested(65)).expect_err("too deep").contains("deeper than 64"));
    let tight = source("secret = \"s\"\ndepth_max = 3\nelements_max = 5").expect("a source");
    read(&*tight, &[], r#"{"runId":"r_1","a":["[[[[,,,,{{{{\"[["]}"#).expect("brackets and commas in a string");
    assert!(read(&*tight, &[], r#"{"runId":"r_1","a":[1,2,3]}"#).expect_err("too many").contains("more than 5"));
    let deepest = source("secret = \"s\"\ndepth_max = 127").expect("a source");
    read(&*deepest, &[], &nested(127)).expect("what the limit allows can be read");
}

#[test]
fn errors_quote_nothing_of_a_body() {
    let bodies = [
        r#"{"pin": "4711-hush", }"#,
        r#"{"pin": 4711-hush}"#,
        r#""4711-hush""#,
        r#"{"runId": "4711-hush"}"#,
        "{\"pin\": \"4711-hush\n\"}",
        r#"{"pin": "4711-hush\ud800"}"#,
    ];
    for body in bodies {
        let error = read(&*portal(), &[], body).expect_err(body);
        assert!(!error.contains("4711") && !error.contains("hush"), "{error}");
    }
}

#[test]
fn a_truncated_body_is_read_or_refused_but_never_a_panic() {
    for (_, body, _) in fixtures() {
        for end in 0..body.len() {
            let receipt = Receipt {
                source: "portal".into(),
                received_at: SIGNED_AT,
                peer: String::new(),
                headers: Vec::new(),
                body: body.slice(..end),
            };
            if let Ok(updates) = portal().parse(&receipt) {
                assert!(body[end..].trim_ascii().is_empty(), "{updates:?}");
            }
        }
    }
}

#[test]
fn wrong_options_are_named_with_what_to_write() {
    let cases = [
        ("", "sources.portal.secret: without it anybody could call; write secret = { file"),
        ("secret = []", "allow_unauthenticated = true"),
        ("secret = { env = \"NONE\" }", "sources.portal.secret: the environment variable NONE"),
        ("secret = \"s\"\nrun_id = \"runId\"", "sources.portal.run_id: \"runId\" is no JSON pointer"),
        ("secret = \"s\"\nrun_id = { header = \"run id\" }", "sources.portal.run_id: \"run id\" is no header name"),
        ("secret = \"s\"\nrun_id = { header = \"X-Port-Signature\" }", "sources.portal.run_id: x-port-signature holds"),
        ("secret = \"s\"\nrun_id = 7", "{ header = \"RUN_ID\" }"),
        ("secret = \"s\"\ndepth_max = 128", "sources.portal.depth_max: 128 is out of range"),
        ("secret = \"s\"\nelements_max = 0", "sources.portal.elements_max"),
        ("secret = \"s\"\ntolerance = \"5\"", "no span of time"),
        ("secret = \"s\"\nsecrets = \"s\"", "secrets"),
    ];
    for (options, expected) in cases {
        let faults = source(options).err().expect(options).join("\n");
        assert!(faults.contains(expected), "{options}: {faults}");
    }
    let both = source("depth_max = 0\nrun_id = \"x\"").err().expect("faults");
    assert_eq!(both.len(), 3, "all at once: {both:?}");
    let known =
        r#"{ secret = [{ file = "f" }, "s"], run_id = { header = "RUN_ID" }, tolerance = "1m", depth_max = 9 }"#;
    for (table, is_known) in [(known, true), ("{ run_id = \"/runId\" }", true), ("{ run = \"/runId\" }", false)] {
        let table = toml::de::ValueDeserializer::parse(table).expect("TOML");
        assert_eq!((KIND.examine)(table).is_ok(), is_known);
    }
    let open = source("allow_unauthenticated = true").expect("a source");
    open.authenticate(request(HeaderMap::new(), b"{}"), SIGNED_AT).expect("anybody");
    assert!(open.as_sender(Bytes::new(), HeaderMap::new(), SIGNED_AT).headers.get(SIGNATURE).is_none());
}

/// Each fixture: its name, body and headers, in the order of the names.
fn fixtures() -> Vec<(String, Bytes, HeaderMap)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/port_action");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the fixtures") {
        let file = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        let Some(name) = file.strip_suffix(".json").filter(|name| !name.ends_with(".expect")) else { continue };
        let body = std::fs::read(folder.join(&file)).expect("a body");
        let lines = std::fs::read_to_string(folder.join(format!("{name}.headers"))).unwrap_or_default();
        let headers = lines.lines().map(|line| {
            let (name, value) = line.split_once(": ").expect("Name: value");
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        });
        found.push((name.to_owned(), body.into(), headers.collect()));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn described(outcome: ReceiptStatus, state: &State) -> Value {
    let mut execution = json!(state.execution);
    execution.as_object_mut().expect("an object").remove("source");
    json!({"outcome": outcome, "executions": [{"execution": execution, "tasks": state.tasks}]})
}

#[test]
fn fixtures_become_what_they_are_expected_to() {
    let mut held: BTreeMap<String, State> = BTreeMap::new();
    for (name, body, headers) in fixtures() {
        let sent = portal().as_sender(body, headers, SIGNED_AT);
        let receipt = portal().authenticate(request(sent.headers, &sent.body), SIGNED_AT).expect(&name);
        let actual = match portal().parse(&receipt) {
            Err(e) => json!({"outcome": ReceiptStatus::Quarantined, "reason": e.0}),
            Ok(mut updates) => {
                let update = updates.remove(0);
                assert!(updates.is_empty());
                match held.get(&update.key) {
                    Some(state) => {
                        assert_eq!(state.judge(["run"].into_iter(), &update), Verdict::Duplicate, "{name}");
                        described(ReceiptStatus::Duplicate, state)
                    }
                    None => {
                        let state = held.entry(update.key.clone()).or_insert(State::begin("portal", update).state);
                        described(ReceiptStatus::Accepted, state)
                    }
                }
            }
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/port_action/{name}.expect.json"));
        #[expect(clippy::disallowed_methods, reason = "BLESS=1 rewrites what is expected")]
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, format!("{actual:#}\n")).expect("written");
        }
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; BLESS=1 makes it", path.display()));
        let expected: Value = serde_json::from_str(&text).expect(&name);
        match (expected["reason"].as_str(), actual["reason"].as_str()) {
            (Some(part), Some(reason)) => assert!(reason.contains(part), "{name}: {reason}"),
            _ => assert_eq!(actual, expected, "{name}"),
        }
    }
    assert!(held.len() >= 16, "the fixtures are there");
}
