//! The page without a browser: every view, what it is sent with, and what its forms do. `tests/peers/page.mjs` looks at it
//! in Chromium.

use serde_json::Value;

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request, soon};
use crate::peers::hook::{Hook, Reply};
use crate::wire::Answer;

const TOKEN: &str = "operators' own: 0123456789abcdef";

/// In a callback; and as nothing but text may stand in a page.
const HOSTILE: &str = "&lt;/td&gt;&lt;img src=x onerror=alert(1)&gt;&quot;'\u{202e}";
const SHOWN: &str = "&lt;/td&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#39;\\u{202e}";

fn config(url: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{url}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

/// A daemon whose sink refuses everything, with dead letters and a quarantined receipt.
fn refused(runs: usize) -> (Daemon, Hook) {
    let hook = Hook::start(|| Reply::Status(400));
    let daemon = Daemon::run(&config(&hook.url()));
    for run in 0..runs {
        let run = format!("run {run} {HOSTILE}");
        assert_eq!(daemon.post("/callbacks/media/t0ken", &[], cos(Step::Failed, run)).status, 200);
    }
    assert_eq!(daemon.post("/callbacks/media/t0ken", &[], format!("<Odd>{HOSTILE}</Odd>")).status, 200);
    soon("all are given up", || (dead(&daemon).len() == runs).then_some(()));
    (daemon, hook)
}

fn dead(daemon: &Daemon) -> Vec<Value> {
    daemon.list(&["deliveries", "list", "--status", "dead"])
}

fn ask(daemon: &Daemon, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    Connection::to(&daemon.admin).ask(&request(method, path, headers, body.as_bytes())).expect("an answer")
}

fn submit(daemon: &Daemon, path: &str, form: &str) -> Answer {
    ask(daemon, "POST", path, &[("Content-Type", "application/x-www-form-urlencoded")], form)
}

/// The page at a path, with everything that any page has to be.
fn view(daemon: &Daemon, path: &str) -> String {
    let answer = ask(daemon, "GET", path, &[("Accept", "text/html")], "");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
    sound(path, &answer);
    answer.body
}

fn sound(path: &str, answer: &Answer) {
    let policy = answer.header("content-security-policy").expect("a policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.split("; ").any(|held| held == part), "{path}: {part} is missing in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    let tags = tags(&answer.body);
    for tag in &tags {
        let foreign = tag.contains("http://") || tag.contains("https://") || tag.contains("javascript:");
        // What stands outside of the quotes: the names of attributes.
        let names: String = tag.split('"').step_by(2).collect();
        let acts = names.split_ascii_whitespace().any(|name| name.starts_with("style=") || name.starts_with("on"));
        assert!(!tag.starts_with("img") && !acts && !foreign, "{path}: <{tag}>");
    }
    assert_eq!(tags.iter().filter(|tag| tag.starts_with("script")).count(), 1, "{path}: ours alone");
    assert!(!answer.body.contains(['\u{202e}', '\u{1b}']), "{path}");
}

/// What stands between angle brackets; they have to be closed in the order in which they were opened.
fn tags(page: &str) -> Vec<&str> {
    const ENDLESS: [&str; 4] = ["!doctype", "meta", "link", "input"];
    let (mut tags, mut open) = (Vec::new(), Vec::new());
    for part in page.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("<{part} is not closed"));
        assert!(!text.contains('>'), "a bare > in {text}");
        let name = tag.split(' ').next().expect("a name");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "in\n{page}"),
            None if ENDLESS.contains(&name) => {}
            None => open.push(name),
        }
        tags.push(tag);
    }
    assert!(open.is_empty(), "{open:?} stay open");
    tags
}

#[test]
fn every_view_is_sound_whatever_strangers_say() {
    let (daemon, _hook) = refused(3);
    let delivery = dead(&daemon)[0].clone();
    let [id, execution] = ["id", "execution"].map(|name| delivery[name].as_str().expect("an id").to_owned());
    let quarantined =
        daemon.list(&["receipts", "list", "--status", "quarantined"])[0]["id"].as_str().expect("an id").to_owned();
    let overview = view(&daemon, "/");
    for part in [
        "3 dead letters for any.",
        "callbackd deliveries retry --sink any",
        "1 callback was not understood, the newest ",
    ] {
        assert!(overview.contains(part), "{part} is missing in\n{overview}");
    }
    for (path, parts) in [
        ("/executions".to_owned(), &["1 failed", SHOWN][..]),
        ("/executions?status=&source=media&sink=any&since=2h".to_owned(), &[SHOWN]),
        ("/executions?status=running".to_owned(), &["None."]),
        (
            format!("/executions/{execution}"),
            &[SHOWN, "Transcode_1", "answered 400", "any: failed", "action=\"/deliveries/"],
        ),
        ("/deliveries".to_owned(), &[SHOWN, "answered 400"]),
        ("/deliveries?status=dead".to_owned(), &["Dead letters", "Retry all that the filter shows", SHOWN]),
        (format!("/deliveries/{id}"), &["answered 400", SHOWN]),
        ("/sinks".to_owned(), &["any", "href=\"/deliveries?status=dead&amp;sink=any\"", "action=\"/sinks/any/pause\""]),
        ("/receipts".to_owned(), &["accepted", "quarantined"]),
        ("/receipts?status=quarantined".to_owned(), &["Quarantined", "/replay"]),
        (format!("/receipts/{quarantined}"), &["&lt;Odd&gt;&amp;lt;/td&amp;gt;", "/replay", "Download"]),
    ] {
        let page = view(&daemon, &path);
        for part in parts {
            assert!(page.contains(part), "{part} is missing at {path}:\n{page}");
        }
    }
    for (path, kind) in [("/style.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")] {
        let answer = daemon.look(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").is_some_and(|found| found.starts_with(kind)), "{path}");
    }
    for path in ["/executions/none", "/receipts/x", "/nothing", "/executions?status=ded", "/deliveries?cursor=x"] {
        let answer = ask(&daemon, "GET", path, &[("Accept", "text/html,*/*")], "");
        assert!([400, 404].contains(&answer.status), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        sound(path, &answer);
        assert_eq!(
            daemon.look(path).header("content-type"),
            Some("application/problem+json"),
            "a program's, at {path}"
        );
    }
}

#[test]
fn a_list_goes_on_where_its_page_ended() {
    let (daemon, _hook) = refused(5);
    let (mut path, mut keys) = ("/executions?limit=2&source=media".to_owned(), Vec::new());
    loop {
        let page = view(&daemon, &path);
        let found: Vec<_> = (0..5).filter(|run| page.contains(&format!("run {run} "))).collect();
        keys.extend(found);
        let Some(older) = page.split('"').find(|text| text.contains("cursor=") && *text != path.replace('&', "&amp;"))
        else {
            break;
        };
        path = older.replace("&amp;", "&");
        assert!(keys.len() <= 5, "it does not end");
    }
    keys.sort_unstable();
    assert_eq!(keys, [0, 1, 2, 3, 4]);
}

#[test]
fn a_form_does_what_it_says_and_leads_back() {
    let (daemon, _hook) = refused(4);
    let ids: Vec<String> = dead(&daemon).iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect();
    let status = |id: &str| daemon.look(&format!("/api/v1/deliveries/{id}")).json()["delivery"]["status"].clone();
    let paused = || daemon.look("/api/v1/sinks").json()["items"][0]["paused"].clone();

    // Nothing is tried meanwhile.
    let answer = submit(&daemon, "/sinks/any/pause", "reason=upgrade+%3Cb%3E&back=%2Fsinks");
    assert_eq!((answer.status, answer.header("location")), (303, Some("/sinks?done=paused")));
    assert_eq!(paused(), "upgrade <b>");
    assert!(view(&daemon, "/sinks?done=paused").contains("paused: upgrade &lt;b&gt;"));
    assert!(view(&daemon, "/").contains("callbackd sinks resume any"));

    let answer = submit(&daemon, &format!("/deliveries/{}/retry", ids[0]), "back=%2Fdeliveries%3Fstatus%3Ddead");
    assert_eq!((answer.status, answer.header("location")), (303, Some("/deliveries?status=dead&done=retried.1")));
    assert_eq!(status(&ids[0]), "waiting");
    assert!(view(&daemon, "/deliveries?status=dead&done=retried.1").contains("1 delivery due again."));
    let answer = submit(&daemon, &format!("/deliveries/{}/discard", ids[1]), "back=https%3A%2F%2Fattacker.example");
    let own = format!("/deliveries/{}?done=discarded.1", ids[1]);
    assert_eq!((answer.status, answer.header("location")), (303, Some(own.as_str())), "only our own addresses");
    assert_eq!(status(&ids[1]), "discarded");
    let answer = submit(&daemon, "/deliveries/retry", "status=dead&sink=another&back=%2F");
    assert_eq!(answer.header("location"), Some("/?done=retried.0"), "the filter holds");
    let answer = submit(&daemon, "/deliveries/retry", "status=dead&sink=any&source=&back=%2F");
    assert_eq!(answer.header("location"), Some("/?done=retried.2"));
    assert!(dead(&daemon).is_empty());
    let answer = submit(&daemon, "/sinks/any/resume", "");
    assert_eq!((answer.status, answer.header("location")), (303, Some("/sinks?done=resumed")));
    assert_eq!(paused(), Value::Null);
    soon("they are tried again", || (dead(&daemon).len() == 3).then_some(()));

    let receipt =
        daemon.list(&["receipts", "list", "--status", "quarantined"])[0]["id"].as_str().expect("an id").to_owned();
    let answer = submit(&daemon, &format!("/receipts/{receipt}/replay"), "");
    let back = format!("/receipts/{receipt}?done=replayed.quarantined");
    assert_eq!((answer.status, answer.header("location")), (303, Some(back.as_str())));

    for (path, form, status) in [
        ("/deliveries/1/retry", "", 404),
        ("/deliveries/retry", "sinc=any", 400),
        ("/deliveries/retry", "sink=%ff", 400),
        ("/sinks/another/pause", "", 404),
        ("/receipts/1/replay", "", 404),
        ("/sinks", "", 405),
    ] {
        assert_eq!(submit(&daemon, path, form).status, status, "{path} {form}");
    }
    assert_eq!(daemon.look("/deliveries/retry").status, 405, "a link changes nothing");
    assert_eq!(dead(&daemon).len(), 3);
}

#[test]
fn a_browser_logs_in_with_the_token_and_is_no_bridge() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&format!("admin.token = \"{TOKEN}\"\n{}", config(&hook.url())));
    let refused = ask(&daemon, "GET", "/", &[("Accept", "text/html")], "");
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").is_some_and(|ways| ways.contains("Basic realm=\"callbackd\"")));
    assert!(refused.body.contains("log in with any name") && !refused.body.contains(TOKEN));
    let basic = |password: &str| format!("Basic {}", callbackd::signature::base64(format!("me:{password}").as_bytes()));
    let (right, wrong) = (basic(TOKEN), basic("guessed"));
    let get = |password: &str| ask(&daemon, "GET", "/", &[("Accept", "text/html"), ("Authorization", password)], "");
    assert_eq!((get(&right).status, get(&wrong).status), (200, 401));
    let pause = |headers: &[(&str, &str)]| {
        ask(&daemon, "POST", "/sinks/any/pause", &[headers, &[("Authorization", right.as_str())]].concat(), "").status
    };
    assert_eq!(pause(&[("Origin", "https://attacker.example")]), 403);
    assert_eq!(pause(&[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]), 403);
    assert_eq!(pause(&[("Origin", "http://localhost")]), 303);
}
