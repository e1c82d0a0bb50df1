//! jq: any program, on any data.

use std::sync::LazyLock;

use callbackd::jq::Jq;
use callbackd::model::Program;
use serde_json::{Value, json};

use super::{NEEDLE, text};

static DATA: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "execution": {
            "id": "5", "key": "i1", "status": "failed", "subject": "media/in.mp4", "name": null,
            "inputs": {"object": "in.mp4", "mail": "hunter2@example.com"},
            "attributes": {"headers": {"a": "b"}, "n": 3.5}, "links": [],
        },
        "tasks": [{"key": "j1", "status": "failed"}, {"key": "j2", "status": "succeeded", "outputs": {"size": 12}}],
        "change": {"type": "callbackd.execution.failed", "sequence": 2, "overdue": false},
    })
});

/// A program; behind a NUL, the data in JSON.
pub(super) fn jq(bytes: &[u8]) {
    let (program, data) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (text(&bytes[..at]), serde_json::from_slice(&bytes[at + 1..]).ok()),
        None => (text(bytes), None),
    };
    let data: &Value = data.as_ref().unwrap_or(&DATA);
    let is_said_by_program = program.contains("h");
    let fit = |said: &str| {
        assert!(said.len() <= 4096 + program.len(), "{} bytes are said of {program}", said.len());
        assert!(is_said_by_program || !said.contains(NEEDLE), "the data is said: {said}\n{program}");
    };
    let bounded = Jq::compile_bounded(program);
    let any = Jq::compile(program);
    match (&bounded, &any) {
        (Ok(_), Err(e)) => panic!("only bounded: {e}\n{program}"),
        (Err(e), _) => fit(e),
        _ => {}
    }
    let jq = match any {
        Ok(jq) => jq,
        Err(e) => return fit(&e),
    };
    let once = jq.run(data);
    match &once {
        Ok(results) => {
            assert!(results.len() <= 1000, "{} results: {program}", results.len());
            let bytes: usize = results.iter().map(|result| result.to_string().len()).sum();
            assert!(bytes <= 64 << 20, "{bytes} bytes: {program}");
        }
        Err(e) => fit(e),
    }
    assert_eq!(once, jq.run(data), "nothing but its input decides: {program}");
    if let Ok(bounded) = bounded {
        assert_eq!(once, bounded.run(data), "{program}");
        let _ = bounded.test(data).map_err(|e| fit(&e));
        let _ = bounded.text(data).map_err(|e| fit(&e));
    }
}
