use super::*;
use crate::options::Section;

fn entities(options: &str) -> Entities {
    let file = ::config::File::from_str(options, ::config::FileFormat::Toml);
    let table = ::config::Config::builder().add_source(file).build().expect("TOML").cache;
    let section = Section { key: "sinks.port".to_owned(), table };
    let mut faults = Faults::of(&section);
    let built = Entities::new(section.read().expect("options"), &mut faults);
    faults.finish(built).expect("no faults")
}

fn made(options: &str, data: &Value) -> (Vec<Value>, Vec<String>) {
    let made = entities(&format!("blueprint = \"media\"\n{options}")).make(data);
    (made.entities.into_iter().map(|entity| entity.body).collect(), made.refused)
}

#[test]
fn programs_make_what_port_takes() {
    let data =
        json!({"execution": {"subject": "media/a b"}, "n": 5, "tasks": [{"key": "j1"}, {"key": "j2"}, {"key": null}]});
    let cases = [
        ("", json!([{"identifier": legal("media/a b")}])),
        ("identifier = '.n'", json!([{"identifier": "5"}])),
        ("identifier = '.none'", json!([])),
        ("identifier = '\"\"'", json!([])),
        ("each = 'select(.n > 5)'", json!([])),
        ("each = '.tasks[]'\nidentifier = '.key'", json!([{"identifier": "j1"}, {"identifier": "j2"}])),
        ("each = '.tasks[]'\nidentifier = '\"same\"'\ntitle = '.key'", json!([{"identifier": "same"}])),
        (
            "identifier = '\"x\"'\ntitle = '.n'\nicon = '\"Box\"'\nteam = '[\"a\", \"b\"]'",
            json!([{"identifier": "x", "title": "5", "icon": "Box", "team": ["a", "b"]}]),
        ),
        (
            "identifier = '\"x\"'\nproperties = '{state: null, \"a-b@_=\\\\\": [1, {b: \"é\"}]}'",
            json!([{"identifier": "x", "properties": {"state": null, "a-b@_=\\": [1, {"b": "é"}]}}]),
        ),
        (
            "identifier = '\"x\"'\nrelations = '{one: .execution.subject, many: [\"a\"], none: null}'",
            json!([{"identifier": "x", "relations": {"one": legal("media/a b"), "many": ["a"], "none": null}}]),
        ),
        (
            "identifier = '\"x\"'\nrelations = '{r: {combinator: \"and\", rules: []}}'",
            json!([{"identifier": "x", "relations": {"r": {"combinator": "and", "rules": []}}}]),
        ),
    ];
    for (options, expected) in cases {
        assert_eq!(made(options, &data), (expected.as_array().expect("a list").clone(), vec![]), "{options}");
    }
}

#[test]
fn what_port_would_refuse_is_refused_here_with_its_reason() {
    let data = json!({"execution": {"subject": "x"}});
    for (options, said) in [
        ("each = 'error(\"boom\")'", "entity.each: "),
        ("identifier = '{}'", "entity.identifier: has to be a text"),
        ("identifier = 'error(\"boom\")'", "entity.identifier: "),
        ("title = '[]'", "entity x: entity.title: has to be a text"),
        ("team = '[{}]'", "entity x: entity.team: "),
        ("properties = '\"x\"'", "entity x: entity.properties: "),
        ("properties = '{\"a b\": 1}'", "A-Z, a-z, 0-9, @"),
        ("properties = '{\"\": 1}'", "entity.properties: "),
        ("properties = 'error(\"boom\")'", "entity.properties: "),
        ("relations = '{a: 1}'", "entity x: entity.relations: "),
        ("relations = '{a: [null]}'", "entity x: entity.relations: "),
        ("properties = '{a: [range(150) | \"x\" * 9000]}'", "entity x: is larger than Port takes"),
        ("each = 'range(201)'\nidentifier = '.'", "a change makes at most 200 entities"),
    ] {
        let (made, refused) = made(options, &data);
        assert!(refused.len() == 1 && refused[0].contains(said), "{options}: {refused:?}");
        assert_eq!(made.len(), if options.contains("201") { 200 } else { 0 }, "{options}");
    }
    // One that cannot be made costs the others nothing.
    let (all, refused) = made("each = '1, {}, 3'\nidentifier = '.'", &data);
    assert_eq!((all.len(), refused.len()), (2, 1));
    let (all, _) = made("properties = '{a: {b: [\"é\" * 20000]}}'", &data);
    assert_eq!(all[0]["properties"]["a"]["b"][0].as_str().expect("a text").chars().count(), 10_000);
}

#[test]
fn calls_are_few_bounded_and_tied() {
    let run = RunId::parse("r_1").expect("a run");
    let lines = |options: &str, data: &Value, run: Option<&RunId>| {
        let entities = entities(&format!("blueprint = \"a/b\"\neach = '.[]'\nidentifier = '.id'\n{options}"));
        let made = entities.make(data);
        let show = |call: Call<'_>| {
            let count = call.body.as_ref().map_or(0, |body| body["entities"].as_array().map_or(1, Vec::len));
            assert!(call.body.is_none_or(|body| body.to_string().len() < 1 << 20));
            (format!("{} {}", call.method, call.path), count)
        };
        entities.calls(&made.entities, run).into_iter().map(show).collect::<Vec<_>>()
    };
    let some = |count| (0..count).map(|n| json!({"id": format!("x/{n}")})).collect::<Value>();
    let base = "POST /v1/blueprints/a%2Fb/entities";
    let query = "?upsert=true&merge=true";
    assert_eq!(lines("", &some(1), None), [(format!("{base}{query}"), 1)]);
    let bulk = format!("{base}/bulk{query}&run_id=r_1");
    assert_eq!(lines("", &some(40), Some(&run)), [(bulk.clone(), 20), (bulk.clone(), 20)]);
    assert_eq!(lines("", &some(21), Some(&run)), [(bulk, 20), (format!("{base}{query}&run_id=r_1"), 1)]);
    let replaced = format!("{base}/bulk?upsert=true&merge=false&create_missing_related_entities=true");
    let options = "action = \"replace\"\ncreate_missing_related_entities = true";
    assert_eq!(lines(options, &some(2), None), [(replaced, 2)]);
    let gone = |n: usize, dependents: bool, run: &str| {
        (format!("DELETE /v1/blueprints/a%2Fb/entities/x%2F{n}?delete_dependents={dependents}{run}"), 0)
    };
    assert_eq!(lines("action = \"delete\"", &some(2), Some(&run)), [0, 1].map(|n| gone(n, false, "&run_id=r_1")));
    assert_eq!(lines("action = \"delete\"\ndelete_dependents = true", &some(1), None), [gone(0, true, "")]);
    // What is large goes in smaller parts.
    let large = (0..20).map(|n| json!({"id": n, "text": ["x".repeat(10_000)]})).collect::<Value>();
    let sizes: Vec<_> =
        lines("properties = '{t: [range(20) as $n | .text[0]]}'", &large, None).into_iter().map(|(_, n)| n).collect();
    assert_eq!(sizes, [4, 4, 4, 4, 4]);
}
