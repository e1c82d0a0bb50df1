//! SecMaster's API as one set of credentials sees it: signed or with a token, and never tried on once it is refused.
//!
//! Two refusals say that something else than the credential is wrong, and each is followed up once: a signature's date
//! that is too far from the gateway's clock, by signing with that clock; a token that has ended, by another token.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

use super::gate::{Gate, SIGNED_MAX, Since};
use super::said::{Fault, Said, TOKEN_ENDED};
use super::sign::{self, Signing};
use super::token::{Account, Token};
use crate::model::Time;
use crate::outbound::{self, Answer, Client, Failure, Request, Verdict};
use crate::secret::Secret;

/// Calls under way at one time with a token that works: more than any sink makes.
const WITH_TOKEN_MAX: usize = 1 << 20;
/// A clock that is off by less than this, in seconds, is not why a signature's date is refused.
const CLOCK_OFF_S_MIN: i64 = 60;
const JSON: &str = "application/json";

/// What calls are made with.
pub(super) enum Auth {
    /// Every request is signed.
    Key { access_key: Secret, secret_key: Secret, security_token: Option<Secret> },
    /// Every request carries IAM's token.
    Password(Account),
}

/// Speaks to SecMaster.
pub(super) struct Api {
    client: Client,
    base: String,
    host: String,
    project_id: String,
    auth: Auth,
    gate: Gate,
    /// How far the gateway's clock is ahead of this machine's, in seconds, as far as it mattered.
    clock_off_s: AtomicI64,
}

/// One call.
pub(super) struct Call {
    pub(super) method: Method,
    /// Below the base; its characters stand for themselves in a URL.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

/// One try of a delivery, which may make several calls.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    pub(super) now: Time,
    since: Since,
}

/// What is kept of a try: the last answer.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) status: Option<u16>,
    pub(super) answer: Option<String>,
    /// Under which Huawei's support finds the last call.
    pub(super) request_id: Option<String>,
}

impl Seen {
    /// Notes an answer without `secrets`, should the peer repeat them, and reads what it says.
    pub(super) fn note(&mut self, sent: &Result<Answer, Failure>, secrets: &[&str]) -> Option<Said> {
        let answer = match sent {
            Ok(answer) => answer,
            Err(failure) => {
                *self = Seen { status: failure.status(), ..Seen::default() };
                return None;
            }
        };
        let text = redacted(String::from_utf8_lossy(&answer.body).into_owned(), secrets);
        let said = Said::read(&answer.headers, &text);
        self.status = Some(answer.status);
        self.request_id.clone_from(&said.request_id);
        self.answer = Some(match said.repeats_the_request() {
            true => said.kept(),
            false => outbound::answer_text(&Answer { body: text.into(), ..answer.clone() }),
        });
        Some(said)
    }
}

/// Without the secrets, as they are and as JSON writes them. Redacted before anything is cut: half a secret is one.
fn redacted(mut text: String, secrets: &[&str]) -> String {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let quoted = serde_json::Value::from(*secret).to_string();
        for form in [secret, &quoted[1..quoted.len() - 1]] {
            if text.contains(form) {
                text = text.replace(form, "[secret]");
            }
        }
    }
    text
}

/// A request that was answered, or not.
struct Sent {
    result: Result<Answer, Failure>,
    said: Said,
    /// What was signed, as the answer would repeat it.
    canonical: Option<String>,
    clock_off_s: i64,
}

impl Api {
    /// `base` is a [`outbound::base_url`].
    pub(super) fn new(client: Client, base: String, project_id: String, auth: Auth) -> Api {
        let host = host(&base);
        let calls_max = if matches!(auth, Auth::Key { .. }) { SIGNED_MAX } else { WITH_TOKEN_MAX };
        let (gate, clock_off_s) = (Gate::new(calls_max), AtomicI64::new(0));
        Api { client, base, host, project_id, auth, gate, clock_off_s }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// A try begins.
    pub(super) fn turn(&self, now: Time) -> Turn {
        Turn { now, since: self.gate.since() }
    }

    /// How far this machine's clock is off, where the gateway did not take it as it is.
    pub(super) fn clock_off_s(&self) -> i64 {
        self.clock_off_s.load(Ordering::Relaxed)
    }

    /// Calls SecMaster. An empty answer is null.
    pub(super) async fn call(&self, call: &Call, turn: Turn, seen: &mut Seen) -> Result<Value, Fault> {
        let waited = self.gate.enter(turn.since).await;
        let _pass = waited.map_err(|reason| Fault::Halt { reason: format!("not tried, after a refusal: {reason}") })?;
        let called = self.call_in_turn(call, turn.now, seen).await;
        match &called {
            Ok(_) => self.gate.open(),
            Err(Fault::Halt { reason }) => self.gate.refuse(reason),
            Err(_) => {}
        }
        called
    }

    async fn call_in_turn(&self, call: &Call, now: Time, seen: &mut Seen) -> Result<Value, Fault> {
        let mut token = match &self.auth {
            Auth::Password(account) => Some(account.token(&self.client, None, now, seen).await?),
            Auth::Key { .. } => None,
        };
        let (mut is_corrected, mut is_renewed) = (false, false);
        loop {
            let sent = self.send(call, token.as_ref().map(|(token, _)| token), now, seen).await;
            let Sent { result, said, canonical, clock_off_s } = sent;
            let answer = match result {
                Ok(answer) if answer.status == 401 => answer,
                other => {
                    if said.is_secmasters() {
                        self.gate.open();
                    }
                    return read(other, &said, now);
                }
            };
            self.gate.close();
            if said.is_expired() && !is_corrected && self.correct_clock(&said, &answer.headers, clock_off_s, now) {
                is_corrected = true;
                continue;
            }
            if let (Auth::Password(account), Some((held, issued_now))) = (&self.auth, &token)
                && said.is(TOKEN_ENDED)
            {
                if !is_renewed {
                    is_renewed = true;
                    token = Some(account.token(&self.client, Some(held), now, seen).await?);
                    continue;
                }
                if !issued_now {
                    // Somebody else's, which has met the same fate since.
                    return Err(Fault::Retry { after_ms: None, reason: said.refusal(None) });
                }
            }
            return Err(Fault::Halt { reason: said.refusal(canonical.as_deref()) });
        }
    }

    /// Takes the gateway's clock, if it is another than the request was signed with.
    fn correct_clock(&self, said: &Said, headers: &HeaderMap, signed_off_s: i64, now: Time) -> bool {
        let Some(server) = said.server_time(headers) else { return false };
        let off_s = server.seconds().saturating_sub(now.seconds());
        self.clock_off_s.store(off_s, Ordering::Relaxed);
        off_s.abs_diff(signed_off_s) >= CLOCK_OFF_S_MIN.unsigned_abs()
    }

    async fn send(&self, call: &Call, token: Option<&Token>, now: Time, seen: &mut Seen) -> Sent {
        let clock_off_s = self.clock_off_s();
        let query = sign::encoded_query(call.query.iter().map(|(key, value)| (*key, value.as_str())));
        let mark = if query.is_empty() { "" } else { "?" };
        let url: Uri = format!("{}{}{mark}{query}", self.base, call.path).parse().expect("checked parts make a URL");
        let mut headers = vec![("host", self.host.as_str()), ("x-project-id", &self.project_id)];
        if !call.body.is_empty() {
            headers.push((CONTENT_TYPE.as_str(), JSON));
        }
        let date = sign::date(Time::from_seconds(now.seconds().saturating_add(clock_off_s)));
        let (mut canonical, mut authorization) = (None, String::new());
        if let Auth::Key { access_key, secret_key, security_token } = &self.auth {
            headers.extend(security_token.iter().map(|token| ("x-security-token", token.expose())));
            let (method, path, query) = (call.method.as_str(), url.path(), &call.query[..]);
            let signing = Signing { method, path, query, headers: &headers, date: &date, body: &call.body };
            canonical = Some(signing.canonical());
            authorization = signing.authorization(access_key.expose(), secret_key.expose());
            headers.push((sign::DATE, &date));
            headers.push((AUTHORIZATION.as_str(), &authorization));
        }
        let mut wire: HeaderMap = headers.iter().map(|(name, value)| header(name, value)).collect();
        wire.extend(token.map(|token| (HeaderName::from_static("x-auth-token"), token.header.clone())));
        let secrets = self.secrets(token, &authorization);
        let request = Request { method: call.method.clone(), url, headers: wire, body: call.body.clone() };
        let result = self.client.send(request).await;
        let said = seen.note(&result, &secrets).unwrap_or_default();
        Sent { result, said, canonical: canonical.map(|text| redacted(text, &secrets)), clock_off_s }
    }

    /// What a request holds that nobody else may know. A signature is good for a while.
    fn secrets<'s>(&'s self, token: Option<&'s Token>, authorization: &'s str) -> Vec<&'s str> {
        let signature = authorization.rsplit_once('=').map(|(_, signature)| signature);
        let held = match &self.auth {
            Auth::Key { access_key, secret_key, security_token } => {
                [Some(secret_key), Some(access_key), security_token.as_ref()]
            }
            Auth::Password(account) => [Some(&account.password), token.map(|token| &token.text), None],
        };
        held.into_iter().flatten().map(Secret::expose).chain(signature).collect()
    }
}

fn header(name: &str, value: &str) -> (HeaderName, HeaderValue) {
    let name = HeaderName::try_from(name).expect("a header's name");
    let mut value = HeaderValue::try_from(value).expect("credentials and ids were checked to be fit for a header");
    value.set_sensitive(name == AUTHORIZATION || name == "x-security-token");
    (name, value)
}

/// The `Host` that goes over the wire for this base: with its port, if that is not the scheme's own.
fn host(base: &str) -> String {
    let url: Uri = base.parse().expect("a checked base is a URL");
    let own = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let host = url.host().unwrap_or_default();
    match url.port_u16().filter(|port| *port != own) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn read(sent: Result<Answer, Failure>, said: &Said, now: Time) -> Result<Value, Fault> {
    let verdict = outbound::judge(&sent, now);
    let answer = match (&verdict, sent) {
        (_, Ok(answer)) => answer,
        // It was taken, and the answer is only too long to be read.
        (Verdict::Taken, Err(_)) => return Ok(Value::Null),
        (_, Err(failure)) => return Err(said.judge(failure.status().unwrap_or(0), verdict)),
    };
    if verdict != Verdict::Taken {
        return Err(said.judge(answer.status, verdict));
    }
    if answer.body.is_empty() {
        return Ok(Value::Null);
    }
    match serde_json::from_slice::<Value>(&answer.body) {
        Ok(Value::Object(object)) => {
            // A `code` alone may also say that all is well; those of faults begin with who speaks.
            let of_a_fault = |code: &Value| {
                code.as_str().is_some_and(|code| code.starts_with("SecMaster.") || code.starts_with("APIGW."))
            };
            let is_no = object.get("success") == Some(&Value::Bool(false))
                || object.get("code").is_some_and(of_a_fault)
                || ["error_code", "errorCode"].iter().any(|key| object.get(*key).is_some_and(|code| !code.is_null()));
            if is_no { Err(said.judge(answer.status, verdict)) } else { Ok(Value::Object(object)) }
        }
        _ => {
            let reason = format!("answered {} with something that is not SecMaster's JSON", answer.status);
            Err(Fault::Retry { after_ms: None, reason })
        }
    }
}
