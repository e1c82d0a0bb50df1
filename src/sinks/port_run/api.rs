//! Port's API as one organization sees it: the token that all deliveries share, the rate limit that all share, and
//! what an answer means.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::model::Time;
use crate::outbound::{self, Answer, Client, Failure, Request, Verdict};
use crate::secret::Secret;
use crate::sinks::cut;

/// However long a peer says that its limit lasts, it is asked again after this time.
const QUIET_MS_MAX: u64 = 600_000;
const WORDS_CHARS_MAX: usize = 300;
/// When less than this part of a limit is left, progress is held back.
const SCARCE_BELOW_PERCENT: u64 = 10;

/// Speaks to Port.
pub(super) struct Api {
    client: Client,
    base: String,
    client_id: Secret,
    client_secret: Secret,
    /// Locked while a token is fetched, so that all who need one share the fetch.
    token: Mutex<Option<Token>>,
    /// Microseconds since the epoch: the organization's limit is used up until then.
    quiet_until: AtomicI64,
    /// So it is nearly, for what runs are told; entities have a limit of their own.
    scarce_until: AtomicI64,
}

#[derive(Clone)]
struct Token {
    text: Secret,
    header: HeaderValue,
    valid_s: u64,
    refresh_at: Time,
}

/// What is kept of a try: the last answer.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) status: Option<u16>,
    pub(super) answer: Option<String>,
}

/// Why a call did not do what it should.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Worth another try.
    Retry { after_ms: Option<u64>, reason: String },
    /// Every call would fail alike.
    Halt { reason: String },
    /// 404.
    Missing { reason: String },
    /// Port will not do this.
    Refused(Refusal),
}

/// Port's no.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// Port's own word for it, where it gave one: `run_synchronized_error`.
    pub(super) error: Option<String>,
    pub(super) reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenAnswer {
    access_token: String,
    expires_in: f64,
}

impl Api {
    pub(super) fn new(client: Client, base: String, client_id: Secret, client_secret: Secret) -> Api {
        let [quiet_until, scarce_until] = [i64::MIN; 2].map(AtomicI64::new);
        Api { client, base, client_id, client_secret, token: Mutex::new(None), quiet_until, scarce_until }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Until when the rest of the organization's limit is for final reports, if it is.
    pub(super) fn scarce_until(&self, now: Time) -> Option<Time> {
        let until = Time::from_micros(self.scarce_until.load(Ordering::Relaxed));
        (now < until).then_some(until)
    }

    /// Calls Port, once more with a new token when it refuses the one we have.
    pub(super) async fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Value, Fault> {
        let (mut token, _) = self.token(None, now, seen).await?;
        let mut sent = self.send(method, path, Some(&token), body, now, seen).await?;
        if matches!(&sent, Ok(answer) if answer.status == 401) {
            let (newer, issued_now) = self.token(Some(&token), now, seen).await?;
            token = newer;
            sent = self.send(method, path, Some(&token), body, now, seen).await?;
            if let Ok(answer) = &sent
                && answer.status == 401
            {
                let said = self.words(answer, Some(&token)).1;
                return Err(if issued_now {
                    Fault::Halt { reason: format!("Port refuses the token that it just issued{said}") }
                } else {
                    Fault::Retry { after_ms: None, reason: format!("Port refuses the token{said}") }
                });
            }
        }
        self.read(sent, &token, now)
    }

    /// Fetches a token and says for how many seconds it is valid.
    pub(super) async fn probe(&self) -> Result<u64, Fault> {
        // A probe is not part of a try: it neither keeps the token nor looks at the clock.
        self.fetch(Time::default(), &mut Seen::default()).await.map(|token| token.valid_s)
    }

    /// The shared token, and whether it was issued just now. Fetches one when there is none, when it nears its end, or
    /// when it is still the one that Port `refused`.
    async fn token(&self, refused: Option<&Token>, now: Time, seen: &mut Seen) -> Result<(Token, bool), Fault> {
        let mut held = self.token.lock().await;
        if let Some(token) = &*held
            && now < token.refresh_at
            && refused.is_none_or(|r| r.text != token.text)
        {
            return Ok((token.clone(), false));
        }
        *held = None;
        let token = self.fetch(now, seen).await?;
        *held = Some(token.clone());
        Ok((token, true))
    }

    async fn fetch(&self, now: Time, seen: &mut Seen) -> Result<Token, Fault> {
        let body = json!({"clientId": self.client_id.expose(), "clientSecret": self.client_secret.expose()});
        let sent = self.send(&Method::POST, "/v1/auth/access_token", None, Some(&body), now, seen).await?;
        let said = || sent.as_ref().map_or(String::new(), |answer| self.words(answer, None).1);
        match outbound::judge(&sent, now) {
            Verdict::Taken => {}
            Verdict::Retry { after_ms, reason } => {
                return Err(Fault::Retry { after_ms, reason: format!("no token: {reason}{}", said()) });
            }
            Verdict::Unauthorized { reason } => {
                return Err(Fault::Halt {
                    reason: format!("Port refuses client_id and client_secret: {reason}{}", said()),
                });
            }
            // The wrong region or a wrong URL also ends here.
            Verdict::Reject { reason } => {
                return Err(Fault::Halt { reason: format!("no token; check url and client_id: {reason}{}", said()) });
            }
        }
        // What this answer says is the credential: it is not kept.
        seen.answer = None;
        let reason = format!("no token: the answer is not Port's{}", said());
        let unusable = || Fault::Retry { after_ms: None, reason: reason.clone() };
        let body = sent.map_err(|_| unusable())?.body;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| unusable())?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", answer.access_token)).map_err(|_| unusable())?;
        header.set_sensitive(true);
        // Port hands out the same token until it ends, so it may end soon; renewed a little before.
        let valid_ms = (answer.expires_in.clamp(0.0, 1e9) * 1000.0) as u64;
        let refresh_at = now.plus_ms(valid_ms - (valid_ms / 10).min(60_000));
        Ok(Token { text: Secret::new(answer.access_token), header, valid_s: valid_ms / 1000, refresh_at })
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        token: Option<&Token>,
        body: Option<&Value>,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Result<Answer, Failure>, Fault> {
        let quiet_until = Time::from_micros(self.quiet_until.load(Ordering::Relaxed));
        if now < quiet_until {
            let reason = format!("Port's rate limit is used up until {quiet_until}");
            return Err(Fault::Retry { after_ms: Some(quiet_until.ms_since(now)), reason });
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.header.clone());
        }
        let body = body.map_or(Bytes::new(), |body| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(body.to_string())
        });
        let url = format!("{}{path}", self.base).parse().expect("a checked base and an encoded path make a URL");
        let sent = self.client.send(Request { method: method.clone(), url, headers, body }).await;
        match &sent {
            Ok(answer) => {
                seen.status = Some(answer.status);
                seen.answer = Some(outbound::answer_text(&self.redacted(answer, token)));
                if path.contains("/runs/") {
                    let until = scarce_until(&answer.headers)
                        .map_or(i64::MIN, |until| until.micros().min(now.plus_ms(QUIET_MS_MAX).micros()));
                    self.scarce_until.store(until, Ordering::Relaxed);
                }
                if let Some(pause_ms) = outbound::asked_pause_ms(&answer.headers, now) {
                    let until = now.plus_ms(pause_ms.min(QUIET_MS_MAX));
                    self.quiet_until.fetch_max(until.micros(), Ordering::Relaxed);
                }
            }
            Err(failure) => *seen = Seen { status: failure.status(), answer: None },
        }
        Ok(sent)
    }

    fn read(&self, sent: Result<Answer, Failure>, token: &Token, now: Time) -> Result<Value, Fault> {
        let verdict = outbound::judge(&sent, now);
        let answer = match (&verdict, sent) {
            (_, Ok(answer)) => answer,
            // It was taken, and the answer is only too long to be read.
            (Verdict::Taken, Err(_)) => return Ok(Value::Null),
            (Verdict::Retry { .. }, Err(failure)) => {
                return Err(Fault::Retry { after_ms: None, reason: failure.to_string() });
            }
            (_, Err(failure)) => {
                let (status, reason) = (failure.status().unwrap_or(0), failure.to_string());
                return Err(Fault::Refused(Refusal { status, error: None, reason }));
            }
        };
        let status = answer.status;
        let words = || self.words(&answer, Some(token));
        match verdict {
            Verdict::Taken if answer.body.is_empty() => Ok(Value::Null),
            Verdict::Taken => match serde_json::from_slice::<Value>(&self.redacted(&answer, Some(token)).body) {
                // An answer to many entities says of each how it went.
                Ok(value) if value.get("ok") == Some(&Value::Bool(false)) && value.get("errors").is_none() => {
                    let (error, said) = words();
                    let reason = format!("answered {status}, and yet that it is not ok{said}");
                    Err(Fault::Refused(Refusal { status, error, reason }))
                }
                Ok(value) if value.is_object() => Ok(value),
                _ => {
                    let reason = format!("answered {status} with something that is not Port's JSON");
                    Err(Fault::Retry { after_ms: None, reason })
                }
            },
            Verdict::Retry { after_ms, reason } => Err(Fault::Retry { after_ms, reason: reason + &words().1 }),
            Verdict::Reject { reason } if status == 404 => Err(Fault::Missing { reason: reason + &words().1 }),
            Verdict::Unauthorized { reason } | Verdict::Reject { reason } => {
                let (error, said) = words();
                Err(Fault::Refused(Refusal { status, error, reason: reason + &said }))
            }
        }
    }

    /// Port's word for an error, and all that it says of it, to be appended to a reason. `error` is a text, or an
    /// object with `name` and `message`.
    fn words(&self, answer: &Answer, token: Option<&Token>) -> (Option<String>, String) {
        let Ok(value) = serde_json::from_slice::<Value>(&self.redacted(answer, token).body) else {
            return (None, String::new());
        };
        let text = |at: &str| value.pointer(at).and_then(Value::as_str);
        let error = text("/error").or_else(|| text("/error/name"));
        let message = text("/message").or_else(|| text("/error/message"));
        let said = [error, message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let said = cut(&said, WORDS_CHARS_MAX).replace(char::is_control, " ");
        (error.map(str::to_owned), if said.is_empty() { said } else { format!(": {said}") })
    }

    /// The answer without our credentials, should Port repeat them. Redacted before it is cut: half a secret is one.
    fn redacted(&self, answer: &Answer, token: Option<&Token>) -> Answer {
        let mut text = String::from_utf8_lossy(&answer.body).into_owned();
        let secrets = [Some(&self.client_secret), token.map(|token| &token.text)];
        for secret in secrets.into_iter().flatten().map(Secret::expose).filter(|s| !s.is_empty()) {
            if text.contains(secret) {
                text = text.replace(secret, "[secret]");
            }
        }
        Answer { body: Bytes::from(text), ..answer.clone() }
    }
}

/// When a limit begins anew of which little is left: `x-ratelimit-*`, the reset in seconds since the epoch.
fn scarce_until(headers: &HeaderMap) -> Option<Time> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let (limit, remaining) = (number("x-ratelimit-limit")?, number("x-ratelimit-remaining")?);
    let is_scarce = remaining.saturating_mul(100) < limit.saturating_mul(SCARCE_BELOW_PERCENT);
    let reset = i64::try_from(number("x-ratelimit-reset")?).ok()?;
    is_scarce.then(|| Time::from_seconds(reset))
}
