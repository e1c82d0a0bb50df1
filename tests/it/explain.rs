//! Why a callback is refused: said to who holds the configuration, without a word of what was expected.

use callbackd::{clock, signature};

use crate::callbacks::{Step, cos, port, signed};
use crate::daemon::{Daemon, Done};

const TOKEN: &str = "hush-t0ken+of media";
const TOKEN_IN_URL: &str = "hush-t0ken%2Bof%20media";
const OLDER: &str = "hush-older-t0ken";
const SECRET: &str = "hush-secret-of-portal";
const OTHER: &str = "hush-secret-before";

fn daemon() -> Daemon {
    let daemon = Daemon::prepare();
    daemon.configure(&format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = [\"{TOKEN}\", \"{OLDER}\"]\n\
         allow = [\"10.0.0.0/8\"]\n\
         [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/portal\"\nsecret = [\"{SECRET}\", \"{OTHER}\"]\n"
    ));
    daemon
}

/// What is said, in which no secret may stand, nor what it would have signed.
fn explained(daemon: &Daemon, body: &[u8], headers: &[(&str, String)], args: &[&str]) -> Done {
    std::fs::write(daemon.path("body"), body).expect("written");
    let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    daemon.write("headers", &head);
    let given: &[&str] = if headers.is_empty() { &[] } else { &["--headers", "headers"] };
    let done = daemon.cli(&[&["explain", "body"], given, args].concat());
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), done.stderr);
    let timestamps: Vec<&str> =
        headers.iter().filter(|(name, _)| *name == "x-port-timestamp").map(|(_, t)| t.as_str()).collect();
    for secret in [TOKEN, TOKEN_IN_URL, OLDER, SECRET, OTHER, "hush"] {
        assert!(!said.contains(secret), "{secret} in\n{said}");
        for timestamp in &timestamps {
            let mac = signature::hmac_sha256(secret.as_bytes(), &[timestamp.as_bytes(), b".", body]);
            assert!(!said.contains(&signature::base64(&mac)) && !said.contains(&signature::hex(&mac)), "{said}");
        }
    }
    done
}

fn says(done: &Done, what: &str) {
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), done.stderr);
    assert!(said.contains(what), "{what:?} is not in\n{said}");
}

#[test]
fn what_is_wrong_with_a_signature() {
    let daemon = daemon();
    let body = port("r_1").replace("clip", "clip-ü");
    let source = ["--source", "portal"];
    let signed_as = |secret: &str, body: &str, seconds| signed(secret, body.as_bytes(), seconds).to_vec();
    let right = signed_as(SECRET, &body, 0);
    let check = |sent: &str, headers: &[(&str, String)], what: &str| {
        says(&explained(&daemon, sent.as_bytes(), headers, &source), what);
    };
    check(&body, &right, "verified: its own credential");
    check(&body, &signed_as(OTHER, &body, 0), "verified: its own credential");
    check(&body, &right[..1], "x-port-signature: not there");
    check(&body, &right[1..], "x-port-timestamp: not there");
    check(&body, &signed_as(SECRET, &body, -1000), "s old, which is ");
    check(&body, &signed_as(SECRET, &body, 1000), "s in the future, which is ");
    check(&body, &signed_as(SECRET, &body, -1000), "fits, by secret 1 of 2");
    check(&body, &signed_as("wrong", &body, 0), "does not fit under any of the 2 configured secrets");
    let with = |place: usize, value: String| {
        let mut headers = right.clone();
        headers[place].1 = value;
        headers
    };
    let milliseconds = format!("{}000", clock::now().seconds());
    check(&body, &with(0, milliseconds), "looks like milliseconds");
    check(&body, &with(0, "today".into()), "no number of seconds");
    check(&body, &with(1, right[1].1.replace("v1,", "")), "does not begin with \"v1,\"");
    check(&body, &with(1, format!("v1,{}", "a1".repeat(32))), "in hexadecimal digits");
    check(&body, &with(1, "v1,c2hvcnQ=".into()), "too short");
    check(&body, &with(1, right[1].1.trim_end_matches('=').to_owned()), "was it cut off?");

    // Blanks between what JSON is made of are no matter where it was signed without them.
    check(&format!("{body}\n"), &right, "verified: its own credential");
    let lines = body.replace(',', ",\n");
    for (sent, made, what) in [
        (format!("{lines}\n"), lines.clone(), "would fit the body without the line end at its end, by secret 1 of 2"),
        (lines.clone(), format!("{lines}\n"), "with a line end at its end"),
        (
            lines.replace('\n', "\r\n").replace("{\"", "{ \""),
            lines.replace("{\"", "{ \""),
            "with LF where it has CR LF",
        ),
        (lines.clone(), lines.replace('\n', "\r\n"), "with CR LF where it has LF"),
        (format!("\u{feff}{body}"), body.clone(), "without the byte order mark"),
        (body.clone(), body.replace("\":", "\": ").replace(",\"", ", \""), "with blanks after commas and colons"),
        (body.clone(), body.replace('ü', "\\u00fc"), "with \\u and digits for all that is not ASCII"),
        (body.replace('ü', "\\u00fc"), body.clone(), "with letters where it has \\u and digits"),
    ] {
        check(&sent, &signed_as(SECRET, &made, 0), what);
    }
    // As of when it came.
    let old = signed_as(SECRET, &body, -86_400);
    let at = callbackd::model::Time::from_seconds(clock::now().seconds() - 86_400).to_string();
    says(&explained(&daemon, body.as_bytes(), &old, &["--source", "portal", "--at", &at]), "verified: its own");
    // Without a credential in what is given, the sender's is made.
    says(&explained(&daemon, body.as_bytes(), &[], &source), "verified: a credential made now");
}

#[test]
fn what_is_wrong_with_a_token() {
    let daemon = daemon();
    let body = cos(Step::Success, "r1");
    let check = |headers: &[(&str, String)], url: &str, what: &str| {
        says(&explained(&daemon, body.as_bytes(), headers, &["--url", url]), what);
    };
    let base = "https://a.example/callbacks/media";
    check(&[], &format!("{base}?token={TOKEN_IN_URL}"), "the query's token is the newest one");
    check(&[], &format!("{base}/{OLDER}"), "the path's last part is an older one that is still taken");
    check(&[], base, "no token came");
    check(&[], &format!("{base}?Token={TOKEN_IN_URL}"), "under a name with other letters");
    check(&[], &format!("{base}?key={OLDER}"), "under another name or without one");
    check(&[("authorization", format!("Bearer {OLDER}"))], base, "came in the header authorization");
    check(&[], &format!("{base}?token={OLDER}%0A"), "has a blank or a line end around it");
    check(&[], &format!("{base}?token={}", TOKEN_IN_URL.replace('%', "%25")), "is percent-encoded twice");
    check(&[], &format!("{base}?token=%3C{OLDER}%3E"), "stands in quotes or brackets");
    check(&[], &format!("{base}?token={}", OLDER.to_uppercase()), "right but for capital and small letters");
    check(&[], &format!("{base}?token=x"), "is too short");
    check(&[], &format!("{base}?token={}", "x".repeat(200)), "is too long");
    check(&[], &format!("{base}?token={}", "x".repeat(OLDER.len())), "is none of this source's");
}

#[test]
fn where_a_url_leads_and_who_may_call() {
    let daemon = daemon();
    let body = cos(Step::Success, "r1");
    let refused = |args: &[&str], what: &str| {
        let done = explained(&daemon, body.as_bytes(), &[], args);
        says(&done, what);
        done
    };
    let right = format!("/callbacks/media?token={TOKEN_IN_URL}");
    for (url, what) in [
        ("/callbacks/portal/", "it is not /callbacks/portal: the slash at its end is too much"),
        ("/Callbacks/Portal", "capital and small letters differ"),
        ("/hooks/callbacks/media", "something stands before it"),
        ("/media", "its beginning is missing"),
        ("/callbacks/portal/x/y", "too much stands behind it"),
        ("/elsewhere", "there are: /callbacks/media, /callbacks/portal"),
    ] {
        assert_eq!(refused(&["--url", url], what).code, Some(1), "{url}");
    }
    refused(&["--url", &right, "--from", "192.0.2.1"], "would be refused with 403: 192.0.2.1 is not in `allow`");
    refused(&["--url", &right, "--from", "10.1.2.3"], "verified: its own credential");
    assert_eq!(refused(&["--url", &right, "--source", "portal"], "which is not \"portal\"").code, Some(1));
}
