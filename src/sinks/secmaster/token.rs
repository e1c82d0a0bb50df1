//! IAM's token: fetched with a password, shared by all deliveries, fetched anew shortly before it ends ("Identity and
//! Access Management API Reference", Obtaining a User Token Through Password Authentication).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::api::Seen;
use super::said::{Fault, Said};
use crate::model::Time;
use crate::outbound::{self, Client, Request, Verdict};
use crate::secret::Secret;

/// A token is no longer used so long before it ends: what is begun with it has to be finished.
const RESERVE_MS: u64 = 300_000;
/// How long one is used whose end cannot be read.
const UNDATED_MS: u64 = 3_600_000;

/// Who asks IAM for tokens.
pub(super) struct Account {
    pub(super) iam: String,
    pub(super) domain: String,
    pub(super) user: String,
    pub(super) password: Secret,
    /// Names the project that the token is for, as a regional service needs it: the region's name, mostly.
    pub(super) project: String,
    /// Locked while one is fetched, so that all who need one share the fetch.
    pub(super) held: Mutex<Option<Token>>,
}

/// One token.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: Secret,
    pub(super) header: HeaderValue,
    renew_at: Time,
}

#[derive(Deserialize)]
struct Body {
    token: Dated,
}

#[derive(Deserialize)]
struct Dated {
    expires_at: Time,
}

impl Account {
    /// The shared token, and whether it was issued just now. Fetches one when there is none, when it nears its end, or
    /// when it is still the one that was `refused`.
    pub(super) async fn token(
        &self,
        client: &Client,
        refused: Option<&Token>,
        now: Time,
        seen: &mut Seen,
    ) -> Result<(Token, bool), Fault> {
        let mut held = self.held.lock().await;
        if let Some(token) = &*held
            && now < token.renew_at
            && refused.is_none_or(|refused| refused.text != token.text)
        {
            return Ok((token.clone(), false));
        }
        *held = None;
        let token = self.fetch(client, now, seen).await?;
        *held = Some(token.clone());
        Ok((token, true))
    }

    async fn fetch(&self, client: &Client, now: Time, seen: &mut Seen) -> Result<Token, Fault> {
        let user = json!({
            "domain": {"name": self.domain}, "name": self.user, "password": self.password.expose(),
        });
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": self.project}},
        }});
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf8"));
        let url = format!("{}/v3/auth/tokens?nocatalog=true", self.iam);
        let url = url.parse().expect("a checked base makes a URL");
        let sent =
            client.send(Request { method: Method::POST, url, headers, body: Bytes::from(body.to_string()) }).await;
        let said = seen.note(&sent, &[self.password.expose()]);
        let words = said.as_ref().map_or(String::new(), Said::words);
        match outbound::judge(&sent, now) {
            Verdict::Taken => {}
            Verdict::Retry { after_ms, reason } => {
                return Err(Fault::Retry { after_ms, reason: format!("no token: {reason}{words}") });
            }
            Verdict::Unauthorized { reason } => {
                let reason = format!("IAM refuses domain, user and password: {reason}{words}");
                return Err(Fault::Halt { reason });
            }
            Verdict::Reject { reason } => {
                let reason = format!("no token; check iam_url, domain, user and project: {reason}{words}");
                return Err(Fault::Halt { reason });
            }
        }
        // What this answer says is the credential: nothing of it is kept.
        seen.answer = None;
        let unusable = || Fault::Retry { after_ms: None, reason: "no token: the answer is not IAM's".to_owned() };
        let answer = sent.map_err(|_| unusable())?;
        let mut header = answer.headers.get("x-subject-token").ok_or_else(unusable)?.clone();
        let text = Secret::new(header.to_str().map_err(|_| unusable())?);
        if text.expose().is_empty() {
            return Err(unusable());
        }
        header.set_sensitive(true);
        let ends = serde_json::from_slice::<Body>(&answer.body).map(|body| body.token.expires_at);
        let valid_ms = ends.map_or(UNDATED_MS, |ends| ends.ms_since(now));
        Ok(Token { text, header, renew_at: now.plus_ms(valid_ms - RESERVE_MS.min(valid_ms / 10)) })
    }
}
