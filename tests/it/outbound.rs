//! The HTTP client against peers that are slow, broken, hostile, or not who they say they are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use callbackd::outbound::{Answer, Client, Failure, Request, Settings, answer_text};
use http::{HeaderMap, HeaderValue, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

use crate::peers::scripted::{Act, Scripted, send};
use crate::rig::PATIENCE;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn client() -> Client {
    Client::new(&Settings { answer_bytes_max: 10_000, ..Settings::default() }).expect("a client")
}

fn post(url: &str) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("x-one", HeaderValue::from_static("1"));
    Request { method: Method::POST, url: url.parse().expect("a URL"), headers, body: Bytes::from_static(b"{}") }
}

fn url_of(peer: &Scripted) -> String {
    format!("http://user:hunter2@{}/a/b?token=hunter2", peer.address())
}

/// Sends one request to a peer of that script. A client that never returns is a failed test.
async fn one(script: Vec<Act>) -> Result<Answer, Failure> {
    let peer = Scripted::start(vec![script]).await;
    let sent = tokio::time::timeout(PATIENCE, client().send(post(&url_of(&peer)))).await;
    sent.expect("an end")
}

#[tokio::test]
async fn what_is_sent_is_exact() {
    let peer = Scripted::start(vec![vec![Act::Read, send(OK)]]).await;
    let answer = client().send(post(&format!("http://{}/a/b?c=d", peer.address()))).await.expect("an answer");
    assert_eq!((answer.status, answer_text(&answer).as_str()), (200, "ok"));
    let request = peer.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /a/b?c=d HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: {}", peer.address());
    let agent = concat!("user-agent: callbackd/", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["content-length: 2", &host, agent, "x-one: 1"]);
    assert_eq!(body, "{}");
}

#[tokio::test]
async fn a_broken_answer_is_a_failure_that_says_which() {
    let reset = "the connection broke before the answer was complete";
    let garbage = "the answer is not HTTP";
    let cases = [
        ("closed unread", vec![], reset),
        ("closed after reading", vec![Act::Read], reset),
        ("half-closed after reading", vec![Act::Read, Act::HalfClose, Act::Hang], reset),
        ("reset after reading", vec![Act::Read, Act::Reset], reset),
        ("half a head", vec![Act::Read, send("HTTP/1.1 200 OK\r\ncontent-le")], reset),
        ("half a body", vec![Act::Read, send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")], reset),
        ("half a chunk", vec![Act::Read, send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab")], reset),
        ("no HTTP", vec![Act::Read, send("220 mail.example ESMTP\r\n\r\n"), Act::Hang], garbage),
        ("not even text", vec![Act::Read, Act::Send(vec![0xff; 64]), Act::Hang], garbage),
        ("an endless head", vec![Act::Read, send("HTTP/1.1 200 OK\r\nx: "), Act::Flood(vec![b'a'; 4096])], garbage),
        ("many headers", vec![Act::Read, send("HTTP/1.1 200 OK\r\n"), Act::Flood(b"a: b\r\n".to_vec())], garbage),
    ];
    for (name, script, expected) in cases {
        let failure = one(script).await.expect_err(name).to_string();
        assert!(failure.starts_with(expected), "{name}: {failure}");
        assert!(!failure.contains("hunter2"), "{name}: {failure}");
    }
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let flood = Act::Flood(b"5\r\nabcde\r\n".to_vec());
    let chunked = "HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n";
    let cases = [
        (vec![Act::Read, send(chunked), flood], 500),
        (vec![Act::Read, send("HTTP/1.1 200 OK\r\n\r\n"), Act::Flood(vec![b'a'; 4096])], 200),
        (vec![Act::Read, send("HTTP/1.1 202 Accepted\r\ncontent-length: 10001\r\n\r\n"), Act::Hang], 202),
    ];
    for (script, status) in cases {
        let failure = one(script).await.expect_err("too large");
        assert_eq!(failure, Failure::TooLarge { status, bytes_max: 10_000 });
    }
    let full = format!("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n{}", "a".repeat(10_000));
    assert_eq!(one(vec![Act::Read, send(&full)]).await.expect("just fits").body.len(), 10_000);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Scripted::start(vec![]).await;
    let moved = format!("HTTP/1.1 307 Moved\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", elsewhere.address());
    assert_eq!(one(vec![Act::Read, send(&moved)]).await.expect("an answer").status, 307);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_connection_is_used_again_and_a_stale_one_costs_nothing() {
    let peer = Scripted::start(vec![
        vec![Act::Read, send(OK), Act::Read, send(OK), Act::Reset],
        vec![Act::Read, send(OK), Act::Hang],
    ])
    .await;
    let client = client();
    for (sent, connections) in [(1, 1), (2, 1), (3, 2)] {
        assert_eq!(client.send(post(&url_of(&peer))).await.expect("an answer").status, 200);
        assert_eq!((peer.requests().len(), peer.connections()), (sent, connections));
        if sent == 2 {
            peer.ended(1).await;
            // Loopback has delivered the reset by now; the pool has to get round to reading it.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_dropped_request_closes_its_connection() {
    let peer = Scripted::start(vec![vec![Act::Read, Act::Hang]]).await;
    let client = client();
    let sending = client.send(post(&url_of(&peer)));
    tokio::select! {
        sent = sending => panic!("nobody answered, but {sent:?}"),
        () = async { while peer.requests().is_empty() { tokio::task::yield_now().await } } => {}
    }
    tokio::time::timeout(PATIENCE, peer.ended(1)).await.expect("closed");
}

#[tokio::test]
async fn nobody_there_and_no_url() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let failure = client().send(post(&format!("http://{free}/?token=hunter2"))).await.expect_err("nobody there");
    assert!(matches!(&failure, Failure::Connect(why) if why.contains("refused")), "{failure}");
    for bad in ["/relative", "ftp://example.com/"] {
        let failure = client().send(post(bad)).await.expect_err(bad);
        assert!(matches!(failure, Failure::Url(_)), "{bad}: {failure}");
    }
}

/// Answers one request on each TLS connection.
pub(crate) async fn tls_peer(names: &[&str]) -> (SocketAddr, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>())
            .expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(OK.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (address, cert.pem())
}

fn trusting(folder: &tempfile::TempDir, pem: &str) -> Client {
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).expect("written");
    Client::new(&Settings { ca_file: Some(file), ..Settings::default() }).expect("a client")
}

#[tokio::test]
async fn tls_is_verified_always() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, pem) = tls_peer(&["localhost"]).await;
    let by_name = format!("https://localhost:{}/", address.port());
    let answer = trusting(&folder, &pem).send(post(&by_name)).await.expect("trusted by ca_file");
    assert_eq!(answer.status, 200);

    let by_address = format!("https://127.0.0.1:{}/", address.port());
    let failure = trusting(&folder, &pem).send(post(&by_address)).await.expect_err("another name");
    assert!(matches!(failure, Failure::Tls(_)), "{failure}");

    let (_, other) = tls_peer(&["localhost"]).await;
    let failure = trusting(&folder, &other).send(post(&by_name)).await.expect_err("another certificate");
    assert!(matches!(failure, Failure::Tls(_)), "{failure}");
}

#[test]
fn a_ca_file_that_is_none_is_said_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    };
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (file, expected) in [
        (PathBuf::from("/nonexistent/ca.pem"), "No such file"),
        (write("empty.pem", ""), "holds no certificate"),
        (write("broken.pem", broken), "not a usable certificate"),
    ] {
        let said =
            Client::new(&Settings { ca_file: Some(file.clone()), ..Settings::default() }).err().expect("a fault");
        assert!(said.contains(expected) && said.contains(file.to_str().expect("UTF-8")), "{said}");
    }
}
