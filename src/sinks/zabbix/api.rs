//! Zabbix's JSON-RPC API, for whoever asks something of a frontend (Zabbix documentation, "API").
//!
//! Every answer is HTTP 200, an error too: what counts is its `error` member, and there `data`. How a call is
//! authorized depends on the version, so that is asked first, without any credential, which this one method refuses:
//! a member `auth` of the body before 6.4, the header `Authorization: Bearer` since. API tokens are known from 5.4 on;
//! before, and where somebody prefers it, a session is opened with user and password.
//!
//! What is said of an answer is short, has no secret in it, and none of the SQL that Zabbix lets slip.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::model::Time;
use crate::outbound::{self, Answer, Client, Request, Verdict};
use crate::secret::Secret;

pub use super::said::{ApiError, words};
pub use super::version::Version;

use super::said::{ID, NoResult, kept, read, refused};

/// The file below a frontend's address that answers.
const FILE: &str = "/api_jsonrpc.php";

/// What authorizes a call.
#[derive(Clone, Debug)]
pub enum Credential {
    /// An API token.
    Token(Secret),
    /// A session is opened with these.
    Login {
        /// The user's name.
        user: String,
        /// The user's password.
        password: Secret,
    },
}

/// What is kept of a try: the last answer.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its HTTP status.
    pub status: Option<u16>,
    /// Its start, without secrets.
    pub answer: Option<String>,
}

/// The API of one frontend. Share it: it asks for the version once, and holds one session.
pub struct Api {
    client: Client,
    url: Uri,
    credential: Credential,
    /// Locked while it is made, so that all who need it share that.
    access: Mutex<Option<Access>>,
}

/// How calls are authorized now.
#[derive(Clone, PartialEq)]
struct Access {
    version: Version,
    token: Secret,
}

/// Reads the frontend's address; the file's name may be left out.
pub fn read_url(text: &str) -> Result<Uri, String> {
    let base = outbound::base_url(text, "https://zabbix.example.com/zabbix/api_jsonrpc.php")?;
    let whole = if base.ends_with(".php") { base } else { base + FILE };
    whole.parse().map_err(|_| "is too long".to_owned())
}

impl Api {
    /// Nothing is asked yet. `url` is one of [`read_url`].
    pub fn new(client: Client, url: Uri, credential: Credential) -> Api {
        Api { client, url, credential, access: Mutex::new(None) }
    }

    /// Where it is called.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// What Zabbix says that it is. Asked without any credential, and anew each time.
    pub async fn version(&self, now: Time) -> Result<Version, ApiError> {
        self.ask_version(now, &mut Seen::default()).await
    }

    /// Calls a method, with the credential where the version wants it.
    pub async fn call(&self, method: &str, params: &Value, now: Time) -> Result<Value, ApiError> {
        self.call_seen(method, params, now, &mut Seen::default()).await
    }

    /// [`Api::call`], for who keeps what was answered last.
    pub async fn call_seen(&self, method: &str, params: &Value, now: Time, seen: &mut Seen) -> Result<Value, ApiError> {
        let access = self.access(None, now, seen).await?;
        let said = match self.send(method, params, Some(&access), now, seen).await {
            Err(NoResult::Said(said)) if said.is_of_access() => said,
            sent => return sent.map_err(|no| no.into_error(method)),
        };
        let newer = self.access(Some(&access), now, seen).await?;
        if newer == access {
            return Err(said.into_error(method));
        }
        self.send(method, params, Some(&newer), now, seen).await.map_err(|no| no.into_error(method))
    }

    /// The version that calls are shaped for; asked once.
    pub async fn known_version(&self, now: Time, seen: &mut Seen) -> Result<Version, ApiError> {
        Ok(self.access(None, now, seen).await?.version)
    }

    /// Ends the session, where one was opened; Zabbix keeps them else.
    pub async fn logout(&self, now: Time) -> Result<(), ApiError> {
        let Some(access) = self.access.lock().await.take() else { return Ok(()) };
        if matches!(self.credential, Credential::Token(_)) {
            return Ok(());
        }
        let (method, mut seen) = ("user.logout", Seen::default());
        let ended = self.send(method, &json!([]), Some(&access), now, &mut seen).await;
        ended.map(drop).map_err(|no| no.into_error(method))
    }

    /// How calls are authorized: what we hold, unless that is what Zabbix `refused`.
    async fn access(&self, refused: Option<&Access>, now: Time, seen: &mut Seen) -> Result<Access, ApiError> {
        let mut held = self.access.lock().await;
        if let Some(access) = &*held
            && refused != Some(access)
        {
            return Ok(access.clone());
        }
        *held = None;
        let version = self.ask_version(now, seen).await?;
        let token = match &self.credential {
            Credential::Token(_) if version < Version::TOKENS => {
                let reason = format!("Zabbix {version} knows no API tokens; write user and password instead of token");
                return Err(ApiError::Auth { reason });
            }
            Credential::Token(token) => token.clone(),
            Credential::Login { user, password } => self.login(user, password, version, now, seen).await?,
        };
        let access = Access { version, token };
        *held = Some(access.clone());
        Ok(access)
    }

    async fn ask_version(&self, now: Time, seen: &mut Seen) -> Result<Version, ApiError> {
        let method = "apiinfo.version";
        let sent = self.send(method, &json!([]), None, now, seen).await.map_err(|no| no.into_error(method))?;
        sent.as_str().and_then(Version::parse).ok_or_else(|| ApiError::Retry {
            after_ms: None,
            reason: "the answer to apiinfo.version is no version: is this Zabbix?".to_owned(),
        })
    }

    /// Tried once: Zabbix blocks a user for a while after a few wrong passwords.
    async fn login(
        &self,
        user: &str,
        password: &Secret,
        version: Version,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Secret, ApiError> {
        let method = "user.login";
        let name = if version < Version::TOKENS { "user" } else { "username" };
        let sent = self.send(method, &json!({name: user, "password": password.expose()}), None, now, seen).await;
        match sent {
            Ok(Value::String(session)) if !session.is_empty() => {
                // What this answer says is the credential: it is not kept.
                seen.answer = None;
                Ok(Secret::new(session))
            }
            Ok(_) => {
                seen.answer = None;
                let reason = "the answer to user.login is no session".to_owned();
                Err(ApiError::Retry { after_ms: None, reason })
            }
            Err(no) => Err(match no.into_error(method) {
                ApiError::Refused { data, .. } => {
                    ApiError::Auth { reason: format!("Zabbix refuses user and password: {data}") }
                }
                other => other,
            }),
        }
    }

    async fn send(
        &self,
        method: &str,
        params: &Value,
        access: Option<&Access>,
        now: Time,
        seen: &mut Seen,
    ) -> Result<Value, NoResult> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Anything else is answered 412.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json-rpc"));
        let mut body = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": ID});
        match access {
            None => {}
            Some(access) if access.version < Version::HEADER => body["auth"] = json!(access.token.expose()),
            Some(access) => {
                let value = HeaderValue::try_from(format!("Bearer {}", access.token.expose()));
                let mut value = value.map_err(|_| ApiError::Auth {
                    reason: "the token has a character that no header may have; copy it again".to_owned(),
                })?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
        }
        let body = Bytes::from(body.to_string());
        let sent = self.client.send(Request { method: Method::POST, url: self.url.clone(), headers, body }).await;
        let verdict = outbound::judge(&sent, now);
        let answer = match sent {
            Ok(answer) => self.redacted(&answer, access),
            Err(failure) => {
                *seen = Seen { status: failure.status(), answer: None };
                let reason = failure.to_string();
                return Err(match verdict {
                    Verdict::Reject { .. } | Verdict::Unauthorized { .. } => refused(method, seen.status, reason),
                    // Whatever a huge answer said, a repetition is harmless.
                    _ => ApiError::Retry { after_ms: None, reason },
                }
                .into());
            }
        };
        *seen = Seen { status: Some(answer.status), answer: Some(kept(&answer)) };
        match verdict {
            Verdict::Taken => read(&answer),
            Verdict::Retry { after_ms, reason } => Err(ApiError::Retry { after_ms, reason }.into()),
            // Zabbix itself answers 200 to everything else than a wrong content type: this is a proxy.
            Verdict::Unauthorized { reason } if answer.status == 401 => {
                Err(ApiError::Auth { reason: format!("what stands in front of Zabbix {reason}") }.into())
            }
            Verdict::Unauthorized { reason } | Verdict::Reject { reason } => {
                Err(refused(method, seen.status, reason).into())
            }
        }
    }

    /// The answer without our credentials, and without SQL. Redacted before it is cut: half a secret is one.
    fn redacted(&self, answer: &Answer, access: Option<&Access>) -> Answer {
        let own = match &self.credential {
            Credential::Token(secret) | Credential::Login { password: secret, .. } => secret,
        };
        let mut text = String::from_utf8_lossy(&answer.body).into_owned();
        for secret in [Some(own), access.map(|access| &access.token)].into_iter().flatten().map(Secret::expose) {
            // As it stands in JSON, too.
            let quoted = Value::from(secret).to_string();
            for form in [secret, quoted.trim_matches('"')] {
                if !form.is_empty() && text.contains(form) {
                    text = text.replace(form, "[secret]");
                }
            }
        }
        Answer { body: Bytes::from(text), ..answer.clone() }
    }
}
