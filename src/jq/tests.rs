use serde_json::{Value, json};

use super::Jq;
use crate::model::Program;

fn data() -> Value {
    json!({
        "execution": {
            "id": "1", "source": "media", "key": "i5f17", "status": "failed", "finished_at": null,
            "inputs": {"object": "in/游戏 1.mp4", "count": 3},
            "attributes": {"bucket": "wk-test", "object": "in/游戏 1.mp4", "headers": {"x-cos-meta-port-run-id": "r_1"}},
            "links": []
        },
        "tasks": [
            {"key": "j1", "name": "Snapshot", "status": "succeeded", "error": null},
            {"key": "j2", "name": "Transcode", "status": "failed", "error": {"code": "X", "message": "no audio"}}
        ],
        "change": {"type": "callbackd.execution.failed", "sequence": 2, "overdue": false}
    })
}

fn bounded(program: &str) -> Jq {
    Jq::compile_bounded(program).unwrap_or_else(|fault| panic!("{program}: {fault}"))
}

fn any(program: &str) -> Jq {
    Jq::compile(program).unwrap_or_else(|fault| panic!("{program}: {fault}"))
}

#[test]
fn bounded_programs_say_what_jq_says() {
    for (program, expected) in [
        (".execution.status", json!(["failed"])),
        (".execution.status == \"failed\"", json!([true])),
        (".execution[\"status\"]", json!(["failed"])),
        (".tasks[0].name", json!(["Snapshot"])),
        (".tasks[-1].name", json!(["Transcode"])),
        (".tasks[].status", json!(["succeeded", "failed"])),
        (".tasks[1:] | length", json!([1])),
        (".execution.key[:2]", json!(["i5"])),
        (".nothing.at.all", json!([null])),
        (".tasks.name?", json!([])),
        ("try .tasks.name", json!([])),
        ("[.tasks[] | select(.status == \"failed\") | .name]", json!([["Transcode"]])),
        ("any(.tasks[]; .status == \"failed\")", json!([true])),
        ("all(.tasks[]; .error == null)", json!([false])),
        (".tasks | any(.status == \"failed\")", json!([true])),
        (".tasks | map(.key) | join(\",\")", json!(["j1,j2"])),
        (".execution.status | test(\"^f\")", json!([true])),
        (".execution.status | test(\"^F\"; \"i\")", json!([true])),
        (".execution.key | capture(\"(?<n>[0-9]+)\") | .n", json!(["5"])),
        (".execution.key | match(\"f\").offset", json!([2])),
        (".execution.key | sub(\"^i\"; \"o\")", json!(["o5f17"])),
        (".execution.key | gsub(\"[0-9]\"; \"\")", json!(["if"])),
        (".execution.inputs.object | split(\"/\") | last", json!(["游戏 1.mp4"])),
        (".execution.inputs.object | ltrimstr(\"in/\") | rtrimstr(\".mp4\")", json!(["游戏 1"])),
        (".execution.inputs.object | startswith(\"in/\") and endswith(\".mp4\")", json!([true])),
        (".execution.attributes.headers[\"x-cos-meta-port-run-id\"] // empty", json!(["r_1"])),
        (".execution.finished_at // .execution.key", json!(["i5f17"])),
        ("if .change.sequence > 1 then \"again\" else \"first\" end", json!(["again"])),
        ("if .change.overdue then 1 elif .change.sequence == 2 then 2 else 3 end", json!([2])),
        ("\"\\(.execution.source)/\\(.execution.key)\"", json!(["media/i5f17"])),
        (".execution.source + \"/\" + .execution.key", json!(["media/i5f17"])),
        (".change.sequence + 1 - 2", json!([1])),
        ("-(.change.sequence)", json!([-2])),
        (".execution as {$source, key: $k} | [$source, $k]", json!([["media", "i5f17"]])),
        (".tasks as [$first] | $first.key", json!(["j1"])),
        (
            "{status: .execution.status, (.execution.key): 1, \"a b\": 2}",
            json!([{"status": "failed", "i5f17": 1, "a b": 2}]),
        ),
        (".execution | {source, status}", json!([{"source": "media", "status": "failed"}])),
        (".execution.key as $k | {$k}", json!([{"k": "i5f17"}])),
        (".execution.status | IN(\"failed\", \"cancelled\")", json!([true])),
        ("IN(.tasks[].key; \"j2\")", json!([true])),
        (".execution | has(\"status\")", json!([true])),
        ("\"status\" | in({\"status\": 1})", json!([true])),
        (".execution.inputs | keys", json!([["count", "object"]])),
        ("[.tasks[].name] | index(\"Transcode\")", json!([1])),
        ("[.tasks[].key] | contains([\"j1\"])", json!([true])),
        ("[\"j1\"] | inside([\"j1\", \"j2\"])", json!([true])),
        ("[.tasks[].name | length] | add, min, max", json!([17, 8, 9])),
        ("add(.tasks[].name | length)", json!([17])),
        ("first(.tasks[].key), last(.tasks[].key)", json!(["j1", "j2"])),
        (".execution.inputs.count | tostring | tonumber", json!([3])),
        (".execution.inputs | type, tojson", json!(["object", "{\"count\":3,\"object\":\"in/游戏 1.mp4\"}"])),
        (".execution.links | isempty(.[])", json!([true])),
        (".execution.status | ascii_upcase | ascii_downcase | not", json!([false])),
        ("[.tasks[].error | values | .code]", json!([["X"]])),
        ("@base64 \"\\(.execution.key)\"", json!(["aTVmMTc="])),
        (".execution.key | @uri", json!(["i5f17"])),
        ("true, false, null, 1.5, [], {}", json!([true, false, null, 1.5, [], {}])),
        ("9007199254740993, 18446744073709551615", json!([9007199254740993_u64, 18446744073709551615_u64])),
        ("empty", json!([])),
        ("# a word beside it\n.execution.key", json!(["i5f17"])),
    ] {
        let results = bounded(program).run(&data()).unwrap_or_else(|fault| panic!("{program}: {fault}"));
        assert_eq!(Value::Array(results), expected, "{program}");
    }
}

#[test]
fn what_is_not_known_to_end_is_refused_by_name() {
    for (program, named) in [
        ("def f: 1; f", "`def`"),
        ("..", "`..`"),
        (".. | .a?", "`..`"),
        ("recurse", "`recurse`"),
        ("[recurse(.[]?)]", "`recurse`"),
        ("range(10)", "`range`"),
        ("limit(3; .tasks[])", "`limit`"),
        ("while(true; .)", "`while`"),
        ("until(false; .)", "`until`"),
        ("repeat(1)", "`repeat`"),
        ("reduce .tasks[] as $t (0; . + 1)", "`reduce`"),
        ("foreach .tasks[] as $t (0; . + 1)", "`foreach`"),
        ("label $x | break $x", "`label`"),
        ("input", "`input`"),
        ("[inputs]", "`inputs`"),
        ("env.HOME", "`env`"),
        ("now", "`now`"),
        ("debug", "`debug`"),
        ("error", "`error`"),
        ("\"x\" * 10", "`*`"),
        ("1 / 2", "`/`"),
        ("1 % 2", "`%`"),
        (".a = 1", "`=`"),
        (".a |= 1", "`|=`"),
        (".a += 1", "`+=`"),
        (".a //= 1", "`//=`"),
        ("walk(.)", "`walk`"),
        ("failed", "`failed`"),
        ("test(1; 2; 3)", "`test/3`"),
        ("@sh \"\\(.x)\"", "`@sh`"),
        ("{(range(3) | tostring): 1}", "`range`"),
        ("\"\\(range(3))\"", "`range`"),
        (".[range(3)]", "`range`"),
        (". as {(repeat(\"a\")): $x} | $x", "`repeat`"),
        (". as [$a, {b: $c}] | if $a then [$c, -(now)] else 1 end", "`now`"),
        ("$x", "`$x`"),
        ("$ENV.HOME", "`$ENV`"),
    ] {
        let fault = Jq::compile_bounded(program).map(drop).expect_err(program);
        assert!(fault.starts_with(named), "{program}: {fault}");
    }
}

#[test]
fn what_is_not_jq_is_said() {
    for (program, said) in [
        ("", "expected term at its end"),
        (".a ==", "expected term at its end"),
        (".a b", "expected nothing more, found \"b\""),
        ("(.a", "expected closing parenthesis"),
        ("\"a", "expected closing quote"),
        ("'a'", "found \"'a'\""),
        ("if .a then 1", "expected else or end"),
        ("import \"x\" as x; .", "expected"),
        ("failed", "`failed` is no function of jq here (a text stands in double quotes)"),
        ("execution.status", "`execution` is no function of jq here (write `.execution`, with a dot)"),
        ("sucess", "`sucess` is no function of jq here; a text stands in double quotes"),
        ("input", "`input` is no function"),
        ("env", "`env` is no function"),
        ("now", "`now` is no function"),
        ("debug", "`debug` is no function"),
        ("halt", "`halt` is no function"),
        ("$ENV", "`$ENV` is no variable"),
        ("callbackd_program", "the program cannot call itself"),
        ("def f: 1 + f; f", "`def f` calls itself"),
        ("def f(g): def h: f(g); h; f(1)", "`def f` calls itself"),
        (".a *= 2", "`*=` cannot be used"),
    ] {
        let fault = Jq::compile(program).map(drop).expect_err(program);
        assert!(fault.contains(said), "{program}: {fault}");
    }
    let long = format!("\"{}\"", "a".repeat(super::PROGRAM_BYTES_MAX));
    assert!(Jq::compile_bounded(&long).map(drop).expect_err("too long").contains("4096 bytes"));
}

/// Whatever is written, a compiler or a run does not exhaust the stack of a thread.
#[test]
fn deep_programs_are_refused_or_run() {
    let chain = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    for n in [60, 120, 330, 990, 2000] {
        for program in [
            chain("(", ")", n),
            chain("[", "]", n),
            chain("{a:", "}", n),
            chain("-", "", n),
            chain("1+", "", n),
            chain("1,", "", n),
            chain("1|", "", n),
            chain("1 as $x|", "", n),
            chain("1 or ", "", n),
            chain("1//", "", n),
            chain("try ", "", n),
            chain("if ", " then 1 end", n),
            chain("if 1 then ", " end", n),
            format!("1{}", ".a".repeat(n)),
            format!("1{}", "?".repeat(n)),
            format!("\"{}\"", "\\(1)".repeat(n)),
        ] {
            if let Ok(jq) = Jq::compile_bounded(&program) {
                let _ = jq.run(&Value::Null);
            }
        }
    }
}

#[test]
fn a_fault_on_the_data_is_said_without_the_data() {
    for (program, said) in [
        (".execution.finished_at | test(\"^f\")", "cannot use null as string"),
        (".execution.status.word", "cannot index a text with \"word\""),
        (".execution.key[0]", "cannot index a text with 0"),
        (".execution.inputs[.execution.key]?, .tasks[.execution.key]", "cannot index an array with a text"),
        (".execution.inputs + 1", "cannot calculate an object + a number"),
        (".execution.inputs - .tasks", "cannot calculate an object - an array"),
        (".execution.key | tonumber", "cannot parse a text as JSON"),
        (".execution.key | test(\"(\")", "invalid regex"),
        (".change.overdue | length", "no length"),
        (".execution.inputs | ascii_downcase", "cannot use an object as string"),
    ] {
        let fault = bounded(program).run(&data()).expect_err(program);
        assert!(fault.contains(said), "{program}: {fault}");
        assert!(!fault.contains("mp4"), "{program}: {fault}");
    }
}

/// Each of these would outlast the machine or its memory.
#[test]
fn what_multiplies_is_stopped() {
    // A run takes as long as it has steps; these programs would use up any number of them.
    const STEPS: u64 = 100_000;
    let big = json!({"items": vec![json!({"name": "n".repeat(100)}); 5000]});
    let doubled = |step: &str| vec![step; 30].join(" | ");
    for program in [
        doubled("(., .)"),
        doubled(". as $x | (1, 2) | $x"),
        format!("\"a\" | {}", doubled(". + .")),
        format!("[1] | {}", doubled(". + .")),
        format!("[1] | {}", doubled("[., .]")),
        format!("{{}} | {}", doubled("{a: ., b: .}")),
        format!("\"a\" | {}", doubled("\"\\(.)\\(.)\"")),
        format!("\"a\" | {}", doubled("gsub(\"a\"; \"aa\")")),
        format!("\"a\" | {}", doubled("[., .] | join(\"\")")),
        format!("any({}; false)", doubled("(., .)")),
        format!("isempty({} | empty)", doubled("(., .)")),
        format!("first({} | empty)", doubled("(., .)")),
        format!("[{} | error?]", doubled("(., .)")).replace("error?", ".a.b.c?"),
        format!("(try ({} | .a.b) ) // ({} | empty)", doubled("(., .)"), doubled("(., .)")),
        "[.items[] as $a | .items[] as $b | .items[] as $c | $a == $c]".to_owned(),
        ". as $all | [.items[] | [$all, $all, $all] | tojson | length]".to_owned(),
        ". as $all | [.items[] | $all == $all]".to_owned(),
    ] {
        let fault = bounded(&program).run_within(STEPS, &big).expect_err(&program);
        assert!(fault.starts_with("stopped: this is too much work"), "{program}: {fault}");
    }
    for program in [
        "repeat(empty), repeat(.) | empty",
        "[range(1e15)]",
        "last(range(1e15))",
        "until(false; .)",
        "while(true; .) | empty",
        "[recurse(.)]",
        "\"x\" * 1e15",
        "\"x\" * 1000000000000",
        "reduce range(1e9) as $i (1; . + 1)",
        "reduce range(1e9) as $i (\"x\"; . + .)",
        "reduce range(1e9) as $i (2; . * .)",
        "def f(g): g | g; f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(f(.)))))))))))))))))))))))) | empty",
        "try repeat(.) catch 1",
        "limit(1e15; repeat(1)) | empty",
        "[.items[] | . as $x | [1, 2, 3, 4, 5, 6, 7] | combinations(7)]",
    ] {
        let fault = any(program).run_within(STEPS, &big).expect_err(program);
        assert!(fault.starts_with("stopped"), "{program}: {fault}");
    }
    let deep = any("reduce range(100000) as $i (1; [.])").run(&Value::Null).expect_err("deep");
    assert_eq!(deep, "stopped: a value became too deep");
    let many = bounded(".items[]").run(&big).expect_err("many");
    assert_eq!(many, "the program has more than 1000 results");
}

/// What the limits are for: a body with as many elements as are taken.
#[test]
fn a_large_change_is_judged() {
    let tasks: Vec<Value> = (0..20_000).map(|n| json!({"key": format!("j{n}"), "status": "succeeded"})).collect();
    let large = json!({"execution": {"status": "succeeded"}, "tasks": tasks});
    assert_eq!(bounded("any(.tasks[]; .status == \"failed\")").test(&large), Ok(false));
    assert_eq!(bounded("[.tasks[] | select(.key == \"j7\")] | length").text(&large), Ok(Some("1".to_owned())));
    assert_eq!(bounded(".tasks | map(.key) | join(\",\") | length > 100000").test(&large), Ok(true));
}

#[test]
fn sinks_programs_may_do_more() {
    for (program, expected) in [
        ("reduce .tasks[] as $t (0; . + 1)", json!([2])),
        ("def double: . * 2; .change.sequence | double", json!([4])),
        ("[range(3)]", json!([[0, 1, 2]])),
        ("[limit(3; repeat(1))]", json!([[1, 1, 1]])),
        ("last(limit(10000; repeat(1)))", json!([1])),
        (".tasks |= map(.key) | .tasks", json!([["j1", "j2"]])),
        ("[.. | .key? // empty]", json!([["i5f17", "j1", "j2"]])),
        ("[.tasks | to_entries[] | \"\\(.key): \\(.value.name)\"]", json!([["0: Snapshot", "1: Transcode"]])),
        ("[paths | select(length == 1)]", json!([[["change"], ["execution"], ["tasks"]]])),
        ("del(.tasks, .execution) | keys", json!([["change"]])),
        (".tasks[].name |= ascii_upcase | .tasks[0].name", json!(["SNAPSHOT"])),
        ("\"ab\" * 3, 7 / 2, 7 % 2", json!(["ababab", 3.5, 1])),
        ("[.tasks[] | {(.key): .status}] | add", json!([{"j1": "succeeded", "j2": "failed"}])),
        ("try error(\"no\") catch .", json!(["no"])),
        ("[10, 1] | sort, group_by(.), unique", json!([[1, 10], [[1], [10]], [1, 10]])),
        ("last(range(100000))", json!([99_999])),
        ("[1, [2, [3]]] | flatten", json!([[1, 2, 3]])),
        ("label $out | 1, break $out, 2", json!([1])),
        ("first(range(10; 0; -3))", json!([10])),
    ] {
        let results = any(program).run(&data()).unwrap_or_else(|fault| panic!("{program}: {fault}"));
        assert_eq!(Value::Array(results), expected, "{program}");
    }
    assert_eq!(any("error(\"no such thing\")").run(&data()).expect_err("an error"), "no such thing");
}

#[test]
fn a_test_is_as_jqs_if_has_it() {
    for (program, expected) in [
        ("true", true),
        ("false", false),
        ("null", false),
        ("empty", false),
        ("0", true),
        ("\"\"", true),
        ("[]", true),
        ("false, null", false),
        ("false, 1", true),
        (".tasks[].status == \"failed\"", true),
    ] {
        assert_eq!(bounded(program).test(&data()), Ok(expected), "{program}");
    }
    bounded(".tasks[].status, (.execution.key | tonumber)").test(&data()).expect_err("a fault after a result");
}

#[test]
fn a_key_is_a_text() {
    for (program, expected) in [
        (".execution.key", Ok(Some("i5f17"))),
        (".execution.finished_at", Ok(None)),
        ("empty", Ok(None)),
        (".change.sequence", Ok(Some("2"))),
        ("1.5", Ok(Some("1.5"))),
        (".change.overdue", Ok(Some("false"))),
        ("\"\"", Ok(Some(""))),
        (".tasks[].key", Ok(Some("j1"))),
        (".tasks", Err("a key must be a text, and this is an array")),
        (".execution", Err("a key must be a text, and this is an object")),
    ] {
        let expected = expected.map(|key| key.map(str::to_owned)).map_err(str::to_owned);
        assert_eq!(bounded(program).text(&data()), expected, "{program}");
    }
}

#[test]
fn runs_in_several_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let jq = bounded(".execution.key");
    shared(&jq);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| jq.text(&data()))).collect();
        for run in runs {
            assert_eq!(run.join().expect("a thread"), Ok(Some("i5f17".to_owned())));
        }
    });
}

#[test]
fn every_function_of_the_library_finds_what_it_is_built_on() {
    for def in super::meter::whole_library() {
        let args = vec!["."; def.args.len()].join("; ");
        let program = if args.is_empty() { def.name.to_owned() } else { format!("{}({args})", def.name) };
        if let Err(fault) = Jq::compile(&program) {
            panic!("{program}: {fault}");
        }
    }
}
