//! Options, the exact request, and what each answer is taken for.

use std::cell::RefCell;

use super::*;
use crate::options::{Fault as Wrong, Section};
use crate::secret::Resolver;

const NOW: Time = Time::from_seconds(1_700_000_060);

fn access() -> Access {
    Access {
        secret_id: SecretSpec::Plain(Secret::new("AKIDexampleExampleExampleExample0000")),
        secret_key: SecretSpec::Plain(Secret::new("exampleSecretKeyForTestVectors00")),
        security_token: None,
        region: Some("ap-chongqing".to_owned()),
        url: None,
        ca_file: None,
        answer_bytes_max: 1 << 20,
    }
}

fn build(access: Access) -> Result<Ci, Vec<Wrong>> {
    let table = ::config::Value::from(std::collections::HashMap::<String, ::config::Value>::new());
    let section = Section { key: "sinks.ci".to_owned(), table };
    let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
    let outbound = Settings::default();
    let context = BuildContext { name: "ci", instance: "test", secrets: &secrets, sources: &[], outbound: &outbound };
    let mut faults = Faults::of(&section);
    let ci = access.build(&context, &mut faults);
    faults.finish(ci)
}

fn call() -> Call<'static> {
    let query = vec![
        ("workflowId", "web6ac56c1ef54dbfa44d7f4103203be9".to_owned()),
        ("object", "wk-test/游戏 1+2.mp4".to_owned()),
    ];
    Call { bucket: "examplebucket-1250000000", method: Method::POST, path: "/triggerworkflow".to_owned(), query }
}

#[test]
fn a_request_goes_to_the_buckets_host_with_a_signature_of_now() {
    let ci = build(access()).expect("built");
    let request = ci.request(&call(), NOW).expect("a request");
    assert_eq!(
        request.url.to_string(),
        "https://examplebucket-1250000000.ci.ap-chongqing.myqcloud.com/triggerworkflow\
         ?workflowId=web6ac56c1ef54dbfa44d7f4103203be9&object=wk-test%2F%E6%B8%B8%E6%88%8F%201%2B2.mp4"
    );
    assert_eq!(request.headers[HOST], "examplebucket-1250000000.ci.ap-chongqing.myqcloud.com");
    let authorization = request.headers[AUTHORIZATION].to_str().expect("ASCII");
    assert!(request.headers[AUTHORIZATION].is_sensitive());
    let begin = "q-sign-algorithm=sha1&q-ak=AKIDexampleExampleExampleExample0000&q-sign-time=1700000000;1700000900&\
                 q-key-time=1700000000;1700000900&q-header-list=host&q-url-param-list=object;workflowid&q-signature=";
    assert!(authorization.starts_with(begin), "{authorization}");
    assert_eq!(request.headers.len(), 2, "{:?}", request.headers);

    let token = Some(SecretSpec::Plain(Secret::new("a token")));
    let ci = build(Access { security_token: token, ..access() }).expect("built");
    let request = ci.request(&call(), NOW).expect("a request");
    assert_eq!(request.headers["x-cos-security-token"], "a token");
    let authorization = request.headers[AUTHORIZATION].to_str().expect("ASCII");
    assert!(authorization.contains("&q-header-list=host;x-cos-security-token&"), "{authorization}");
}

#[test]
fn the_host_that_is_signed_is_the_one_that_is_sent() {
    for (url, host, shown) in [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://ci.example:80/", "ci.example", "http://ci.example:80"),
        ("https://ci.example:443", "ci.example", "https://ci.example:443"),
    ] {
        let ci = build(Access { url: Some(url.to_owned()), region: None, ..access() }).expect("built");
        assert_eq!(ci.request(&call(), NOW).expect("a request").headers[HOST], host);
        assert!(ci.shown(&call()).starts_with(&format!("POST {shown}/triggerworkflow?")), "{}", ci.shown(&call()));
    }
}

#[test]
fn wrong_options_are_named() {
    let text = |text: &str| Some(text.to_owned());
    let cases = [
        (Access { region: None, ..access() }, "sinks.ci.region", "like \"ap-chongqing\""),
        (Access { region: text("ap-x.evil.example/"), ..access() }, "sinks.ci.region", "no name of Tencent's"),
        (Access { url: text("ci.example"), ..access() }, "sinks.ci.url", "http or https URL"),
        (Access { url: text("https://ci.example/path"), ..access() }, "sinks.ci.url", "without a path"),
        (Access { secret_id: SecretSpec::Env("NONE".to_owned()), ..access() }, "sinks.ci.secret_id", "not set"),
        (
            Access { security_token: Some(SecretSpec::Plain(Secret::new("a\nb"))), ..access() },
            "sinks.ci.security_token",
            "line break",
        ),
        (Access { ca_file: Some("/nonexistent".into()), ..access() }, "sinks.ci.ca_file", "/nonexistent"),
    ];
    for (access, key, part) in cases {
        let Err(faults) = build(access) else { panic!("{key}: nothing wrong") };
        let [fault] = &faults[..] else { panic!("{key}: {faults:?}") };
        assert!(fault.key == key && fault.message.contains(part), "{fault}");
    }
    for bucket in ["", "-a", "a-", "A", "a.b", "a/b", "a b", "桶", &"a".repeat(64)] {
        part_of_a_host(bucket.to_owned()).expect_err(bucket);
    }
}

#[test]
fn a_refusal_is_taken_for_what_it_is() {
    let cases = [
        (403, "SignatureDoesNotMatch", "halt", "check secret_key"),
        (403, "InvalidAccessKeyId", "halt", "check secret_id"),
        (403, "AccessDenied", "halt", "has to be allowed"),
        (401, "AuthFailure", "halt", "has to be allowed"),
        (403, "RequestTimeTooSkewed", "retry", "clock"),
        (404, "NoSuchBucket", "halt", "check bucket and region"),
        (404, "NoSuchWorkflow", "missing", "NoSuchWorkflow"),
        (400, "InvalidArgument", "refused", "InvalidArgument"),
        (409, "Conflict", "refused", "Conflict"),
    ];
    for (status, code, expected, part) in cases {
        let error = Error { code: code.to_owned(), message: String::new(), request: None };
        let (found, reason) = match refused(status, format!("answered {status}: {error}"), Some(&error)) {
            Fault::Retry { reason, in_doubt: false, .. } => ("retry", reason),
            Fault::Halt { reason } => ("halt", reason),
            Fault::Missing { reason } => ("missing", reason),
            Fault::Refused { reason, in_its_words: true } => ("refused", reason),
            other => panic!("{other:?}"),
        };
        assert!(found == expected && reason.contains(part), "{code}: {found}, {reason}");
    }
    for (status, halts) in [(401, true), (403, false), (404, false)] {
        assert_eq!(matches!(refused(status, String::new(), None), Fault::Halt { .. }), halts, "{status}");
    }
}

#[test]
fn of_an_error_only_its_words_are_kept() {
    let ci = build(access()).expect("built");
    let body = "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n<Code>SignatureDoesNotMatch</Code>\n\
                <Message>The Signature of AKIDexampleExampleExampleExample0000 is invalid</Message><RequestId>NjJm</RequestId>\
                <StringToSign>sha1\n1700000000;1700000900\nabc\n</StringToSign><FormatString>post\n/x\na=b&c=d</FormatString>\
                <Resource>/x</Resource><TraceId>t</TraceId></Error>";
    let answer = Answer { status: 403, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) };
    let error = Error::of(&ci.redacted(&answer, "…&q-signature=abc")).expect("an error");
    assert_eq!(error.to_string(), "SignatureDoesNotMatch: The Signature of [secret] is invalid (request NjJm)");
    let echo = Answer { body: Bytes::from_static(b"exampleSecretKeyForTestVectors00 0123abcd"), ..answer };
    assert_eq!(ci.redacted(&echo, "…&q-signature=0123abcd").body, "[secret] [secret]");
    assert!(Error::of(&echo).is_none());
}
