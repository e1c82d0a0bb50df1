//! Peers that are reached through a proxy: as the configuration says, as the environment says, or not at all.

use bytes::Bytes;
use callbackd::config::{Config, Environment};
use callbackd::outbound::{Answer, Client, Except, Failure, Proxies, Proxy, Request, Settings, answer_text};
use http::{HeaderMap, Method};

use crate::outbound::tls_peer;
use crate::peers::hook::Closed;
use crate::peers::proxy::{FakeProxy, Policy};
use crate::peers::scripted::{Act, Scripted, send};
use crate::rig::PATIENCE;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// `me:hunter2 pass`
const CREDENTIAL: &str = "Basic bWU6aHVudGVyMiBwYXNz";

fn post(url: &str) -> Request {
    let url = url.parse().expect("a URL");
    Request { method: Method::POST, url, headers: HeaderMap::new(), body: Bytes::from_static(b"{}") }
}

fn client(proxy: &FakeProxy, user: &str, settings: Settings) -> Client {
    client_by(&proxy.address().to_string(), user, settings)
}

fn client_by(proxy: &str, user: &str, settings: Settings) -> Client {
    let proxy = Proxy::parse(&format!("http://{user}{proxy}")).expect("a proxy");
    let except = vec![Except::parse("direct.example").expect("a host")];
    let proxies = Proxies::new(Some(proxy.clone()), Some(proxy), except);
    Client::new(&Settings { proxies, ..settings }).expect("a client")
}

/// One request in time; whatever comes of it holds no credential.
async fn ask(client: &Client, url: &str) -> Result<Answer, Failure> {
    let sent = tokio::time::timeout(PATIENCE, client.send(post(url))).await.expect("an end");
    let said = format!("{sent:?} {}", sent.as_ref().map(answer_text).unwrap_or_default());
    assert!(!said.contains("hunter2") && !said.contains(&CREDENTIAL[6..]), "{said}");
    sent
}

#[tokio::test]
async fn a_plain_url_is_asked_of_the_proxy_whole() {
    let peer = Scripted::start(vec![vec![Act::Read, send(OK)]; 2]).await;
    let proxy = FakeProxy::start(Policy::Serve(peer.address(), CREDENTIAL)).await;
    let client = client(&proxy, "me:hunter2%20pass@", Settings::default());
    // A name that nobody knows here: the proxy looks it up.
    for path in ["/a/b?c=d", "/"] {
        assert_eq!(ask(&client, &format!("http://peer.example:8080{path}")).await.expect("an answer").status, 200);
    }
    assert_eq!(
        proxy.lines(),
        ["POST http://peer.example:8080/a/b?c=d HTTP/1.1", "POST http://peer.example:8080/ HTTP/1.1"]
    );
    assert!(proxy.seen().iter().all(|head| head.contains(&format!("proxy-authorization: {CREDENTIAL}\r\n"))));
    let met = peer.requests();
    assert!(
        met[0].starts_with("POST /a/b?c=d HTTP/1.1\r\n") && met[0].contains("host: peer.example:8080\r\n"),
        "{met:?}"
    );
}

#[tokio::test]
async fn a_secure_url_goes_through_a_tunnel_in_which_the_peer_is_verified() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, pem) = tls_peer(&["peer.example"]).await;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, pem).expect("written");
    let proxy = FakeProxy::start(Policy::Serve(address, CREDENTIAL)).await;
    let trusting = Settings { ca_file: Some(ca_file), ..Settings::default() };
    let client = client(&proxy, "me:hunter2%20pass@", trusting.clone());
    assert_eq!(ask(&client, "https://peer.example/a").await.expect("an answer").status, 200);
    let head = proxy.seen().remove(0);
    let expected = format!(
        "CONNECT peer.example:443 HTTP/1.1\r\nHost: peer.example:443\r\nProxy-Authorization: {CREDENTIAL}\r\n\r\n"
    );
    assert_eq!(head, expected, "and nothing of the request");

    let failure = ask(&client, "https://other.example:8443/").await.expect_err("another name");
    assert!(matches!(failure, Failure::Tls(_)), "{failure}");
    assert!(proxy.lines()[1].starts_with("CONNECT other.example:8443 "), "{:?}", proxy.lines());
    let doubting = self::client(&proxy, "me:hunter2%20pass@", Settings::default());
    let failure = ask(&doubting, "https://peer.example/").await.expect_err("nobody vouches for it");
    assert!(matches!(failure, Failure::Tls(_)), "{failure}");
}

#[tokio::test]
async fn what_is_excepted_or_here_is_not_asked_of_the_proxy() {
    let peer = Scripted::start(vec![vec![Act::Read, send(OK)]; 2]).await;
    let proxy = FakeProxy::start(Policy::Say("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned())).await;
    let client = client(&proxy, "", Settings::default());
    assert_eq!(ask(&client, &format!("http://{}/", peer.address())).await.expect("an answer").status, 200);
    let failure = ask(&client, "http://direct.example/").await.expect_err("no such host");
    assert!(matches!(failure, Failure::Connect(_)), "{failure}");
    assert_eq!(proxy.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_said_to_and_costs_no_delivery() {
    let page = "<html>hunter2</html>";
    let say = |head: &str| {
        Policy::Say(format!("{head}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}", page.len()))
    };
    let elsewhere = Policy::Serve("127.0.0.1:9".parse().expect("an address"), "Basic b3RoZXI=");
    for (policy, said) in [
        (say("HTTP/1.1 403 Forbidden"), "cannot connect: the proxy answered 403, and opened no tunnel"),
        (say("HTTP/1.1 502 Bad Gateway"), "cannot connect: the proxy answered 502, and opened no tunnel"),
        (elsewhere.clone(), "cannot connect: the proxy wants a credential, or another one (407)"),
        (say("HTTP/1.1 200 OK"), "cannot connect: the proxy sent something into the tunnel that it opened"),
        (
            Policy::Say("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()),
            "cannot connect: the proxy's answer to CONNECT is not HTTP",
        ),
        (Policy::Say(page.to_owned()), "cannot connect: the proxy closed the connection instead of opening a tunnel"),
        (Policy::Say("x".repeat(100_000)), "cannot connect: the proxy's answer to CONNECT is too long"),
    ] {
        let proxy = FakeProxy::start(policy).await;
        let failure = ask(&client(&proxy, "me:hunter2%20pass@", Settings::default()), "https://peer.example/").await;
        assert_eq!(failure.expect_err(said).to_string(), said);
    }
    // Of a plain URL, its page is an answer like the peer's own; that it wants a credential is not.
    let proxy = FakeProxy::start(say("HTTP/1.1 502 Bad Gateway").clone()).await;
    let user = "me:hunter2@";
    assert_eq!(
        ask(&client(&proxy, user, Settings::default()), "http://peer.example/").await.expect("a page").status,
        502
    );
    let proxy = FakeProxy::start(elsewhere).await;
    let failure = ask(&client(&proxy, user, Settings::default()), "http://peer.example/").await.expect_err("407");
    assert_eq!(failure.to_string(), "cannot connect: the proxy wants a credential, or another one (407)");

    let gone = Closed::reserve();
    let client = client_by(&gone.address().to_string(), "", Settings::default());
    for url in ["http://peer.example/", "https://peer.example/"] {
        let failure = ask(&client, url).await.expect_err("nobody there").to_string();
        assert!(failure.starts_with("cannot connect: the proxy cannot be reached: "), "{failure}");
    }
}

/// Where `[outbound]` and the environment lead to, and what is said of them.
async fn told(text: &str, environment: &[(&str, &str)], url: &str) -> Result<(), String> {
    let text = format!("{text}\n[sinks.any]\nkind = \"webhook\"\nurl = {url:?}\n");
    let env: Environment = environment.iter().copied().collect();
    let config = Config::from_toml(&text, &env).map_err(|faults| faults.to_string())?;
    let adapters = config.adapters(&env).map_err(|faults| faults.to_string())?;
    assert_eq!(adapters.warnings.len(), 2, "no source, no route: {:?}", adapters.warnings);
    let delivery = crate::contract::sinks::delivery();
    let tried = adapters.sinks[0].deliver(&delivery, callbackd::clock::now()).await;
    match tried.status {
        Some(200) => Ok(()),
        _ => Err(format!("{:?}", tried.outcome)),
    }
}

#[tokio::test]
async fn the_configuration_stands_over_the_environment() {
    let peer = Scripted::start(vec![vec![Act::Read, send(OK)]; 20]).await;
    let serve = Policy::Serve(peer.address(), "");
    let (one, two) = (FakeProxy::start(serve.clone()).await, FakeProxy::start(serve).await);
    let (to_one, to_two) = (format!("http://{}", one.address()), two.address().to_string());
    let configured = format!("[outbound]\nproxy = {to_one:?}");
    let secret = "[outbound]\nproxy = { env = \"THE_PROXY\" }";
    let url = "http://peer.invalid/";
    // What is said, and how often each of the two is asked.
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, (usize, usize));
    let cases: [Case<'_>; 10] = [
        ("", vec![], (0, 0)),
        (&configured, vec![], (1, 0)),
        (&configured, vec![("HTTP_PROXY", &to_two)], (1, 0)),
        (secret, vec![("THE_PROXY", &to_one)], (1, 0)),
        ("", vec![("HTTP_PROXY", &to_two)], (0, 1)),
        ("", vec![("http_proxy", &to_one), ("HTTP_PROXY", &to_two)], (1, 0)),
        ("", vec![("all_proxy", &to_two), ("HTTP_PROXY", "")], (0, 1)),
        ("", vec![("HTTPS_PROXY", &to_two)], (0, 0)),
        ("", vec![("HTTP_PROXY", &to_two), ("no_proxy", "a.test, .invalid")], (0, 0)),
        ("[outbound]\nno_proxy = []", vec![("HTTP_PROXY", &to_two), ("NO_PROXY", "*")], (0, 1)),
    ];
    for (text, environment, expected) in cases {
        let before = (one.seen().len(), two.seen().len());
        let told = told(text, &environment, url).await;
        let found = (one.seen().len() - before.0, two.seen().len() - before.1);
        assert_eq!((found, told.is_ok()), (expected, expected != (0, 0)), "{text} {environment:?}: {told:?}");
    }
}

#[test]
fn what_is_wrong_with_a_proxy_is_a_fault_of_the_configuration_and_a_doubt_of_the_environment() {
    let faults = |text: &str| {
        let config = Config::from_toml(text, &Environment::default()).unwrap_or_else(|faults| panic!("{faults}"));
        config.adapters(&Environment::default()).map(drop).expect_err("faults").to_string()
    };
    let said =
        faults("[outbound]\nproxy = \"socks5://me:hunter2@proxy:1\"\nno_proxy = [\"good.test\", \"not good\"]\n");
    assert!(said.starts_with("line 2: outbound.proxy: is no HTTP proxy; write one like"), "{said}");
    assert!(said.contains("line 3: outbound.no_proxy[1]: \"not good\" is no host"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let env: Environment = [("ALL_PROXY", "socks5://me:hunter2@proxy:1"), ("NO_PROXY", "a b")].into_iter().collect();
    let config = Config::from_toml("", &env).unwrap_or_else(|faults| panic!("{faults}"));
    let warnings = config.adapters(&env).unwrap_or_else(|faults| panic!("{faults}")).warnings.join("\n");
    assert!(warnings.contains("the environment variable ALL_PROXY is no HTTP proxy"), "{warnings}");
    assert!(warnings.contains("NO_PROXY \"a b\" is no host") && !warnings.contains("hunter2"), "{warnings}");
    assert_eq!(warnings.matches("ALL_PROXY").count(), 1, "{warnings}");
    let shown =
        format!("{:?}", Config::from_toml("[outbound]\nproxy = 'http://me:hunter2@p'", &env).map(|c| c.outbound).ok());
    assert!(!shown.contains("hunter2"), "{shown}");
}
