//! `webhook`: any URL is told each change, as a CloudEvent by POST, signed as Standard Webhooks.
//!
//! The envelope is CloudEvents 1.0 ("HTTP Protocol Binding"): structured, or binary with `ce-*` headers. Each try has
//! the headers of Standard Webhooks (github.com/standard-webhooks): `webhook-id`, which is the delivery's and stays
//! the same at every try, `webhook-timestamp`, which is this try's, and with a secret `webhook-signature`, HMAC-SHA256
//! over `{id}.{timestamp}.{body}` once for each secret, so that a receiver may know either while it is rotated.
//!
//! A secret written `whsec_<base64>` is decoded to its key, as the standard wants it; any other text is the key as it
//! stands. What is taken, what is tried again and what is given up is [`outbound::judge`]'s; and an endpoint that says
//! 410 Gone, or 401 because it does not know us, is left alone until an operator resumes it. A change whose callback was sent in a trace (W3C Trace Context)
//! is told in the same one, each try as a span of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use serde::Deserialize;

use super::cloudevent::Envelope;
use super::{Kind, Preview, Sink, Tried, starts_nothing};
use crate::Boxed;
use crate::model::{Delivery, Outcome, Status, Time, Trace};
use crate::options::{self, BuildContext, Fault, Section};
use crate::outbound::{self, Answer, Client, Request, Settings, Verdict};
use crate::secret::{Resolver, Secret, SecretSpec, SecretSpecs};
use crate::signature;

pub(super) const KIND: Kind = Kind {
    name: "webhook",
    aliases: &[],
    build,
    examine: options::examine::<Options>,
    starts: starts_nothing,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Options {
    /// Where to POST.
    url: String,
    /// What signs; two while it is rotated, newest first. Without it nothing is signed.
    #[serde(default)]
    secret: SecretSpecs,
    /// `structured` or `binary`.
    #[serde(default)]
    mode: Mode,
    /// Further headers, each with a secret: `authorization = { file = "…" }`.
    #[serde(default)]
    headers: BTreeMap<String, SecretSpec>,
    /// A PEM file of certificates to be trusted beside those of this machine.
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Deserialize, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Structured,
    Binary,
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Fault>> {
    Webhook::new(section, context).map(|webhook| Box::new(webhook) as Box<dyn Sink>)
}

fn read_url(text: &str) -> Result<Uri, String> {
    // The text itself is not quoted: it may hold a credential.
    let url = text.parse::<Uri>().ok().filter(|url| {
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        is_http && text.is_ascii() && url.host().is_some_and(|host| !host.is_empty())
    });
    let url = url.ok_or(
        "this is no http or https URL; write one like \"https://example.com/hooks/callbackd\", and percent-encode in it \
         what is not ASCII",
    )?;
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("credentials in a URL end up in logs; write headers.authorization = { file = \"…\" }".to_owned());
    }
    Ok(url)
}

/// The key that a secret stands for.
fn key(secret: &Secret) -> Result<Vec<u8>, String> {
    match secret.expose().strip_prefix("whsec_") {
        None => Ok(secret.expose().as_bytes().to_vec()),
        Some(encoded) => signature::from_base64(encoded).filter(|key| !key.is_empty()).ok_or_else(|| {
            "what follows whsec_ is not base64; copy the secret again, or take the prefix off".to_owned()
        }),
    }
}

fn read_header(name: &str, spec: &SecretSpec, secrets: &Resolver<'_>) -> Result<(HeaderName, HeaderValue), String> {
    let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
    let ours =
        [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::HOST, header::CONNECTION];
    if ours.contains(&name) || ["webhook-", "ce-"].iter().any(|prefix| name.as_str().starts_with(prefix)) {
        return Err("callbackd sets this header itself; take it out".to_owned());
    }
    Ok((name, outbound::secret_value(&secrets.resolve(spec)?)?))
}

struct Webhook {
    url: Uri,
    /// Newest first; empty when nothing is signed.
    keys: Vec<Vec<u8>>,
    mode: Mode,
    /// The configured ones; each value is a secret.
    headers: HeaderMap,
    instance: String,
    client: Client,
}

impl Webhook {
    fn new(section: &Section, context: &BuildContext<'_>) -> Result<Webhook, Vec<Fault>> {
        let options: Options = section.read()?;
        let mut faults = Vec::new();
        let url = read_url(&options.url).map_err(|message| faults.push(section.fault("url", message)));
        let keys = context.secrets.resolve_all(&options.secret).and_then(|secrets| secrets.iter().map(key).collect());
        let keys = keys.map_err(|message| faults.push(section.fault("secret", message)));
        let mut headers = HeaderMap::new();
        for (name, spec) in &options.headers {
            match read_header(name, spec, context.secrets) {
                Ok((name, value)) => drop(headers.insert(name, value)),
                Err(message) => faults.push(section.fault(&format!("headers.{name}"), message)),
            }
        }
        let client = Client::new(&Settings { ca_file: options.ca_file, ..context.outbound.clone() });
        let client = client.map_err(|message| faults.push(section.fault("ca_file", message)));
        match (url, keys, client) {
            (Ok(url), Ok(keys), Ok(client)) if faults.is_empty() => {
                let instance = context.instance.to_owned();
                Ok(Webhook { url, keys, mode: options.mode, headers, instance, client })
            }
            _ => Err(faults),
        }
    }

    fn request(&self, delivery: &Delivery, now: Time) -> Request {
        let envelope = Envelope::new(&delivery.change, &self.instance);
        let mut headers = self.headers.clone();
        let (content_type, body) = match self.mode {
            Mode::Structured => ("application/cloudevents+json; charset=utf-8", envelope.structured()),
            Mode::Binary => {
                headers.extend(envelope.headers().map(|(name, value)| (HeaderName::from_static(name), value)));
                ("application/json", envelope.binary())
            }
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("webhook-id", delivery.id.into());
        headers.insert("webhook-timestamp", now.seconds().into());
        if let Some(signatures) = self.sign(delivery.id, now.seconds(), &body) {
            headers.insert("webhook-signature", signatures);
        }
        Request { method: Method::POST, url: self.url.clone(), headers, body: Bytes::from(body) }
    }

    fn sign(&self, id: i64, timestamp: i64, body: &[u8]) -> Option<HeaderValue> {
        let head = format!("{id}.{timestamp}.");
        let one = |key: &Vec<u8>| {
            let mac = signature::hmac_sha256(key, &[head.as_bytes(), body]);
            format!("v1,{}", signature::base64(&mac))
        };
        let all: Vec<String> = self.keys.iter().map(one).collect();
        (!all.is_empty()).then(|| HeaderValue::try_from(all.join(" ")).expect("base64 is ASCII"))
    }

    /// The start of the answer, without our secrets: some endpoints answer with what they were sent.
    fn answer_text(&self, answer: &Answer) -> String {
        let start = &answer.body[..answer.body.len().min(8192)];
        let mut text = String::from_utf8_lossy(start).into_owned();
        let headers = self.headers.values().filter_map(|value| value.to_str().ok()).flat_map(str::split_whitespace);
        // Not the names of the query's parameters, which explain more than they give away.
        let query = self.url.query().unwrap_or_default().split('&');
        let query = query.map(|parameter| parameter.split_once('=').map_or(parameter, |(_, value)| value));
        for secret in headers.chain(query).filter(|secret| secret.len() >= 8) {
            text = text.replace(secret, "[secret]");
        }
        outbound::answer_text(&Answer { body: text.into(), ..answer.clone() })
    }
}

impl Sink for Webhook {
    fn preview(&self, delivery: &Delivery, now: Time) -> Vec<Preview> {
        let request = self.request(delivery, now);
        let scheme = self.url.scheme_str().unwrap_or_default();
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        // The query may hold a credential.
        let query = if self.url.query().is_some() { "?…" } else { "" };
        let action = format!("{} {scheme}://{authority}{}{query}", request.method, self.url.path());
        vec![Preview { action, body: String::from_utf8_lossy(&request.body).into_owned() }]
    }

    fn harmless(&self) -> Option<Status> {
        Some(Status::Succeeded)
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let mut request = self.request(delivery, now);
            if let (Some(trace), Some(span)) = (&delivery.trace, delivery.span(now)) {
                follow(&mut request.headers, trace, span);
            }
            let sent = self.client.send(request).await;
            let status = sent.as_ref().map_or_else(|failure| failure.status(), |answer| Some(answer.status));
            let outcome = outcome(outbound::judge(&sent, now), status);
            Tried { outcome, status, answer: sent.ok().map(|answer| self.answer_text(&answer)) }
        })
    }
}

/// Has the request stand in the trace of the callback that caused it, as a span of its own.
fn follow(headers: &mut HeaderMap, trace: &Trace, span: u64) {
    let parent = Some(trace.child(span));
    for (name, value) in [(Trace::PARENT, parent.as_deref()), (Trace::STATE, trace.state())] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            // One that the configuration sets is what its operator wants.
            headers.entry(name).or_insert(value);
        }
    }
}

fn outcome(verdict: Verdict, status: Option<u16>) -> Outcome {
    match verdict {
        Verdict::Taken => Outcome::Delivered { note: None, learned: Vec::new() },
        Verdict::Retry { after_ms, reason } => Outcome::Retry { after_ms, reason, resume: None },
        // Standard Webhooks: the receiver wants no more of it, so stop calling.
        Verdict::Reject { .. } if status == Some(410) => {
            Outcome::Halt { reason: "the endpoint says that it is gone (410)".to_owned(), resume: None }
        }
        // RFC 9110, 15.5.2: the credential is not taken, whatever it is shown with, so the next change would fare no better.
        Verdict::Unauthorized { reason } if status == Some(401) => {
            let reason = format!("{reason}: the endpoint does not take the credential; check secret and headers");
            Outcome::Halt { reason, resume: None }
        }
        // With 403, an endpoint of somebody's own may refuse one change and take the next, so this halts nothing.
        Verdict::Unauthorized { reason } | Verdict::Reject { reason } => Outcome::Reject { reason },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::Value;
    use standardwebhooks::Webhook as Verifier;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::cloudevent::delivery;
    use super::*;
    use crate::clock;

    const URL: &str = "url = \"https://example.com/hooks?token=hush-hush\"\n";
    const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn sink(options: &str) -> Result<Webhook, String> {
        let file = ::config::File::from_str(options, ::config::FileFormat::Toml);
        let table = ::config::Config::builder().add_source(file).build().expect("TOML").cache;
        let env = |name: &str| match name {
            "TOKEN" => Some("Bearer very-secret-token".to_owned()),
            "BROKEN" => Some("line\nbreak".to_owned()),
            _ => None,
        };
        let secrets = Resolver { env: &env, warnings: RefCell::default() };
        let context = BuildContext {
            name: "any",
            instance: "edge",
            secrets: &secrets,
            sources: &[],
            outbound: &Settings::default(),
        };
        Webhook::new(&Section { key: "sinks.any".to_owned(), table }, &context)
            .map_err(|faults| faults.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n"))
    }

    fn header<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
        request.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    #[test]
    fn an_independent_verifier_knows_each_secret() {
        let cases = [
            (format!("secret = {NEW:?}"), vec![NEW], 1),
            (format!("secret = [{NEW:?}, {OLD:?}]"), vec![NEW, OLD], 2),
            (format!("mode = \"binary\"\nsecret = [{NEW:?}, {OLD:?}]"), vec![NEW, OLD], 2),
        ];
        for (options, secrets, signatures) in cases {
            let sink = sink(&format!("{URL}{options}")).expect("a sink");
            let request = sink.request(&delivery("r_1"), clock::now());
            assert_eq!(header(&request, "webhook-signature").expect("a signature").split(' ').count(), signatures);
            for secret in secrets {
                Verifier::new(secret).expect("a key").verify(&request.body, &request.headers).expect(secret);
            }
            let other = Verifier::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").expect("a key");
            other.verify(&request.body, &request.headers).expect_err("another secret");
            let mut changed = request.body.to_vec();
            changed[0] ^= 1;
            Verifier::new(NEW).expect("a key").verify(&changed, &request.headers).expect_err("another body");
        }
        // Without the prefix the text itself is the key.
        let sink = sink(&format!("{URL}secret = \"plain text\"")).expect("a sink");
        let request = sink.request(&delivery("r_1"), clock::now());
        let verifier = Verifier::from_bytes(b"plain text".to_vec()).expect("a key");
        verifier.verify(&request.body, &request.headers).expect("verified");
    }

    #[test]
    fn a_retry_has_the_same_id_and_its_own_time() {
        let sink = sink(&format!("{URL}secret = {NEW:?}")).expect("a sink");
        let first = sink.request(&delivery("r_1"), Time::from_seconds(1_700_000_000));
        let again = sink.request(&delivery("r_1"), Time::from_seconds(1_700_000_600));
        for request in [&first, &again] {
            assert_eq!(header(request, "webhook-id"), Some("99"), "the delivery's id");
        }
        assert_eq!(header(&first, "webhook-timestamp"), Some("1700000000"));
        assert_eq!(header(&again, "webhook-timestamp"), Some("1700000600"));
        assert_ne!(header(&first, "webhook-signature"), header(&again, "webhook-signature"));
        assert_eq!(first.body, again.body);
    }

    #[test]
    fn the_envelope_is_in_the_body_or_in_the_headers() {
        let now = Time::from_seconds(1_700_000_000);
        let key = "游戏 \"1\" 100%";
        let structured = sink(URL).expect("a sink").request(&delivery(key), now);
        let binary = sink(&format!("{URL}mode = \"binary\"")).expect("a sink").request(&delivery(key), now);
        let both = [("webhook-id", Some("99")), ("webhook-timestamp", Some("1700000000")), ("webhook-signature", None)];
        let cases = [
            ("content-type", Some("application/cloudevents+json; charset=utf-8"), Some("application/json")),
            ("ce-specversion", None, Some("1.0")),
            ("ce-id", None, Some("41")),
            ("ce-source", None, Some("callbackd/edge/media")),
            ("ce-type", None, Some("callbackd.execution.failed")),
            ("ce-subject", None, Some("%E6%B8%B8%E6%88%8F%20%221%22%20100%25")),
            ("ce-time", None, Some("2023-11-14T22:13:20Z")),
            ("ce-datacontenttype", None, None),
        ];
        let both = both.map(|(name, value)| (name, value, value));
        for (name, in_structured, in_binary) in cases.into_iter().chain(both) {
            assert_eq!(header(&structured, name), in_structured, "structured {name}");
            assert_eq!(header(&binary, name), in_binary, "binary {name}");
        }
        let envelope: Value = serde_json::from_slice(&structured.body).expect("JSON");
        let data: Value = serde_json::from_slice(&binary.body).expect("JSON");
        assert_eq!(envelope["data"], data);
        assert_eq!(data["execution"]["key"], key);
        assert_eq!(envelope["subject"], key);
        for request in [structured, binary] {
            assert_eq!(request.method, Method::POST);
            assert_eq!(request.url, "https://example.com/hooks?token=hush-hush");
        }
    }

    #[test]
    fn secrets_are_sent_and_never_shown() {
        let options = format!("{URL}secret = {NEW:?}\nheaders = {{ Authorization = {{ env = \"TOKEN\" }} }}");
        let sink = sink(&options).expect("a sink");
        let request = sink.request(&delivery("r_1"), Time::default());
        assert_eq!(header(&request, "authorization"), Some("Bearer very-secret-token"));
        assert!(request.headers["authorization"].is_sensitive());
        let previews = sink.preview(&delivery("r_1"), Time::default());
        assert_eq!(previews[0].action, "POST https://example.com/hooks?…");
        let echo = Answer {
            status: 400,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"what is \"Bearer very-secret-token\" at /hooks?token=hush-hush?"),
        };
        assert_eq!(sink.answer_text(&echo), "what is \"Bearer [secret]\" at /hooks?token=[secret]?");
        let shown = format!("{request:?} {previews:?}");
        for secret in ["very-secret", "MfKQ9r8"] {
            assert!(!shown.contains(secret), "{secret}");
        }
    }

    /// A peer that takes one request, checks its signature on what came over the wire, and answers.
    async fn deliver_to(answer: &'static str) -> Tried {
        let peer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("url = \"http://{}/\"\nsecret = {NEW:?}", peer.local_addr().expect("an address"));
        let taken = async {
            let (mut stream, _) = peer.accept().await.expect("a connection");
            let mut seen = Vec::new();
            let body_at = loop {
                assert_ne!(stream.read_buf(&mut seen).await.expect("bytes"), 0, "the head is complete");
                if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end + 4;
                }
            };
            let head = String::from_utf8(seen[..body_at].to_vec()).expect("UTF-8");
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            let fields =
                fields.map(|(name, value)| (name.parse::<HeaderName>().expect(name), value.parse().expect(name)));
            let headers: HeaderMap = fields.collect();
            let length: usize = headers["content-length"].to_str().expect("ASCII").parse().expect("a number");
            while seen.len() < body_at + length {
                assert_ne!(stream.read_buf(&mut seen).await.expect("bytes"), 0, "the body is complete");
            }
            assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
            Verifier::new(NEW).expect("a key").verify(&seen[body_at..], &headers).expect("signed");
            stream.write_all(answer.as_bytes()).await.expect("answered");
        };
        let sink = sink(&url).expect("a sink");
        let delivery = delivery("r_1");
        let (tried, ()) = tokio::join!(sink.deliver(&delivery, clock::now()), taken);
        tried
    }

    #[tokio::test]
    async fn the_peer_is_told_and_its_answer_kept() {
        let tried = deliver_to("HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok").await;
        assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
        assert_eq!((tried.status, tried.answer.as_deref()), (Some(202), Some("ok")));
        let tried = deliver_to("HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(tried.outcome, Outcome::Retry { after_ms: Some(7000), .. }), "{tried:?}");
        let tried = deliver_to("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(tried.outcome, Outcome::Halt { .. }), "{tried:?}");
        let tried = deliver_to("HTTP/1.1 200").await;
        assert!(matches!(tried.outcome, Outcome::Retry { .. }), "{tried:?}");
        assert_eq!((tried.status, tried.answer), (None, None));
    }

    #[test]
    fn a_verdict_becomes_an_outcome() {
        let reason = || "why".to_owned();
        let word = |verdict, status| match outcome(verdict, status) {
            Outcome::Delivered { .. } => "delivered".to_owned(),
            Outcome::Retry { after_ms, reason, .. } => format!("retry {after_ms:?} {reason}"),
            Outcome::Halt { reason, .. } => format!("halt {reason}"),
            Outcome::Reject { reason } => format!("reject {reason}"),
            other => format!("{other:?}"),
        };
        assert_eq!(word(Verdict::Taken, Some(204)), "delivered");
        let retry = Verdict::Retry { after_ms: Some(7000), reason: reason() };
        assert_eq!(word(retry, Some(429)), "retry Some(7000) why");
        let unknown = word(Verdict::Unauthorized { reason: reason() }, Some(401));
        assert_eq!(unknown, "halt why: the endpoint does not take the credential; check secret and headers");
        assert_eq!(word(Verdict::Unauthorized { reason: reason() }, Some(403)), "reject why");
        assert_eq!(word(Verdict::Reject { reason: reason() }, Some(404)), "reject why");
        assert_eq!(
            word(Verdict::Reject { reason: reason() }, Some(410)),
            "halt the endpoint says that it is gone (410)"
        );
    }

    #[test]
    fn wrong_options_are_named_with_what_to_write() {
        let cases = [
            ("", "url"),
            ("url = \"example.com/hooks\"", "sinks.any.url: this is no http or https URL; write one like"),
            ("url = \"/hooks\"", "sinks.any.url: this is no http or https URL"),
            ("url = \"ftp://example.com/\"", "sinks.any.url: this is no http or https URL"),
            ("url = \"https://example.com/游戏\"", "percent-encode in it"),
            ("url = \"https://me:hush@example.com/\"", "write headers.authorization"),
            ("url = \"https://example.com/\"\nsecret = \"whsec_hush!\"", "sinks.any.secret: what follows whsec_"),
            ("url = \"https://example.com/\"\nsecret = { env = \"NONE\" }", "sinks.any.secret: the environment"),
            ("url = \"https://example.com/\"\nmode = \"batch\"", "batch"),
            ("url = \"https://example.com/\"\nca_file = \"/nonexistent\"", "sinks.any.ca_file: "),
            ("url = \"https://example.com/\"\n[headers]\nce-id = \"hush\"", "sinks.any.headers.ce-id: callbackd sets"),
            ("url = \"https://example.com/\"\n[headers]\n\"a b\" = \"hush\"", "is no header name"),
            (
                "url = \"https://example.com/\"\n[headers]\nx = { env = \"BROKEN\" }",
                "sinks.any.headers.x: its value has",
            ),
            ("url = \"https://example.com/\"\nretries = 3", "retries"),
        ];
        for (options, expected) in cases {
            let faults = sink(options).err().expect(options);
            assert!(faults.contains(expected), "{options}: {faults}");
            assert!(!faults.contains("hush") && !faults.contains("line\nbreak"), "{faults}");
        }
        let all = sink("url = \"x\"\nsecret = \"whsec_!\"\nca_file = \"/nonexistent\"").err().expect("faults");
        assert_eq!(all.lines().count(), 3, "all at once: {all}");
        sink("url = \"http://[::1]:8080\"").expect("loopback without TLS is an operator's own tool");
    }
}
