//! What Zabbix says of a call, and what follows from it.

use bytes::Bytes;
use serde_json::Value;

use crate::outbound::{self, Answer};
use crate::sinks::cut;

const WORDS_CHARS_MAX: usize = 300;
/// What a request is known by, one at a time on its connection. A result has to name it (JSON-RPC 2.0, section 5).
pub(super) const ID: i64 = 1;

/// Why a call has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer, or none of Zabbix's: worth another try.
    #[error("{reason}")]
    Retry {
        /// Not before this many milliseconds, where the peer said so.
        after_ms: Option<u64>,
        /// Why.
        reason: String,
    },
    /// The credential is refused, or is not allowed to call this: every call would fail alike.
    #[error("{reason}")]
    Auth {
        /// Why, and what to do.
        reason: String,
    },
    /// Zabbix will not do this.
    #[error("Zabbix refuses {method}: {data} ({code})")]
    Refused {
        /// What was called.
        method: String,
        /// JSON-RPC's code; where something in front of Zabbix refused, the HTTP status.
        code: i64,
        /// The text that explains it.
        data: String,
    },
}

/// Zabbix's own error.
pub(super) struct Said {
    code: i64,
    data: String,
}

/// Not a result: Zabbix's error, or none of its answers.
pub(super) enum NoResult {
    Said(Said),
    Other(ApiError),
}

impl From<ApiError> for NoResult {
    fn from(error: ApiError) -> NoResult {
        NoResult::Other(error)
    }
}

impl Said {
    /// Both spellings, and that of a session that has ended. Codes do not tell: they are those of a bad request.
    fn is_logged_out(&self) -> bool {
        ["Not authorized", "Not authorised", "Session terminated, re-login"].iter().any(|t| self.data.starts_with(t))
    }

    /// What another credential, or another place for it, may mend: Zabbix may have been upgraded under us.
    pub(super) fn is_of_access(&self) -> bool {
        self.is_logged_out() || (self.code == -32600 && self.data.contains("\"auth\""))
    }

    pub(super) fn into_error(self, method: &str) -> ApiError {
        let Said { code, data } = &self;
        if self.is_of_access() || data.starts_with("API token expired") {
            let hint = "renew the token, and see whether a web server in front of Zabbix takes Authorization away";
            return ApiError::Auth { reason: format!("Zabbix refuses the credential: {data} ({hint})") };
        }
        if data.starts_with("No permissions to call") {
            return ApiError::Auth { reason: format!("the role of the credential's user does not do: {data}") };
        }
        if *code == 1 {
            return ApiError::Retry { after_ms: None, reason: format!("Zabbix itself is in trouble: {data}") };
        }
        ApiError::Refused { method: method.to_owned(), code: self.code, data: self.data }
    }
}

impl NoResult {
    pub(super) fn into_error(self, method: &str) -> ApiError {
        match self {
            NoResult::Said(said) => said.into_error(method),
            NoResult::Other(error) => error,
        }
    }
}

/// Something in front of Zabbix refused.
pub(super) fn refused(method: &str, status: Option<u16>, data: String) -> ApiError {
    ApiError::Refused { method: method.to_owned(), code: status.unwrap_or_default().into(), data }
}

/// The result, or the error, of an answer whose HTTP status is fine.
pub(super) fn read(answer: &Answer) -> Result<Value, NoResult> {
    let not_zabbix = || {
        let reason = format!("answered {} with something that is not Zabbix's JSON", answer.status);
        NoResult::Other(ApiError::Retry { after_ms: None, reason })
    };
    let mut value: Value = serde_json::from_slice(&answer.body).map_err(|_| not_zabbix())?;
    if let Some(error) = value.get("error") {
        let text = |name: &str| error.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let data = text("data").or_else(|| text("message")).ok_or_else(not_zabbix)?;
        let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
        return Err(NoResult::Said(Said { code, data: words(data) }));
    }
    if value.get("id").is_none_or(|id| *id != ID) {
        let reason = format!("answered {} with the answer to another request", answer.status);
        return Err(ApiError::Retry { after_ms: None, reason }.into());
    }
    match value.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(not_zabbix()),
    }
}

/// What is kept of an answer that has no secret in it any more.
pub(super) fn kept(answer: &Answer) -> String {
    let body = Bytes::from(without_sql(&String::from_utf8_lossy(&answer.body)));
    outbound::answer_text(&Answer { body, ..answer.clone() })
}

/// What Zabbix says, in a line and without SQL.
pub fn words(text: &str) -> String {
    cut(&without_sql(text), WORDS_CHARS_MAX).replace(char::is_control, " ")
}

fn without_sql(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let statements = ["sql statement", "insert into ", "select ", "delete from ", "update ", "[sql"];
    let looks = |at: &usize| {
        let rest = &lower[*at..];
        let pairs = [("select ", " from "), ("update ", " set ")];
        pairs.iter().all(|(verb, also)| !rest.starts_with(verb) || rest.contains(also))
    };
    match statements.iter().filter_map(|statement| lower.find(statement).filter(looks)).min() {
        None => text.to_owned(),
        Some(at) => format!("{}[a database error; its SQL is left out]", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;

    fn answered(body: &str) -> Result<Value, ApiError> {
        let answer = Answer { status: 200, headers: HeaderMap::new(), body: Bytes::from(body.to_owned()) };
        read(&answer).map_err(|no| no.into_error("action.create"))
    }

    fn error(code: i64, data: &str) -> Result<Value, ApiError> {
        let error = json!({"code": code, "message": "Application error.", "data": data});
        answered(&json!({"jsonrpc": "2.0", "error": error, "id": 1}).to_string())
    }

    #[test]
    fn the_text_decides_where_the_code_does_not() {
        let cases = [
            (-32602, "Not authorized.", "auth"),
            (-32602, "Not authorised.", "auth"),
            (-32602, "Session terminated, re-login, please.", "auth"),
            (-32500, "API token expired.", "auth"),
            (-32602, "No permissions to call \"action.create\".", "auth"),
            (-32500, "No permissions to call \"action.create\".", "auth"),
            (-32600, "Invalid parameter \"/\": unexpected parameter \"auth\".", "auth"),
            (-32600, "Invalid parameter \"/\": unexpected parameter \"x\".", "refused"),
            (-32601, "Incorrect method \"history.push\".", "refused"),
            (-32602, "Action \"Not authorized.\" already exists.", "refused"),
            (-32602, "No permissions to referred object or it does not exist!", "refused"),
            (1, "Error connecting to database", "retry"),
        ];
        for (code, data, expected) in cases {
            let found = match error(code, data).expect_err(data) {
                ApiError::Auth { reason } => {
                    assert!(reason.contains(data), "{reason}");
                    "auth"
                }
                ApiError::Retry { .. } => "retry",
                ApiError::Refused { method, code: its, data: text } => {
                    assert_eq!((&*method, its, &*text), ("action.create", code, data));
                    "refused"
                }
            };
            assert_eq!(found, expected, "{code} {data}");
        }
    }

    #[test]
    fn what_is_no_answer_of_zabbix_is_asked_again() {
        for body in [
            "",
            "<html>502</html>",
            "[]",
            "{}",
            "null",
            "{\"ok\":true}",
            "{\"error\":{}}",
            "{\"error\":\"no\"}",
            "{\"id\":1}",
        ] {
            assert!(matches!(answered(body), Err(ApiError::Retry { .. })), "{body}");
        }
        assert_eq!(answered("{\"jsonrpc\":\"2.0\",\"result\":[],\"id\":1}"), Ok(json!([])));
        assert_eq!(answered("{\"result\":null,\"id\":1}"), Ok(Value::Null));
        let message = answered("{\"error\":{\"code\":-32603,\"message\":\"Internal error.\",\"data\":\"\"}}");
        assert!(message.expect_err("an error").to_string().contains("Internal error."));
    }

    #[test]
    fn the_answer_to_another_request_is_none() {
        for id in [json!(2), json!("1"), Value::Null] {
            let body = json!({"jsonrpc": "2.0", "result": {"response": "success"}, "id": id}).to_string();
            let error = answered(&body).expect_err("no result");
            assert!(
                matches!(&error, ApiError::Retry { reason, .. } if reason.contains("another request")),
                "{error:?}"
            );
        }
    }

    #[test]
    fn sql_and_length_are_left_out() {
        for sql in [
            "SQL statement execution has failed \"INSERT INTO opmessage (x) VALUES ('hush')\"",
            "INSERT INTO opmessage (x) VALUES ('hush')",
            "Error in query [SELECT u.hush FROM users u] [ERROR: hush]",
            "Error in query [UPDATE users SET hush='1']",
            "DELETE FROM hush",
        ] {
            let said = error(-32500, &format!("Wrong. {sql}")).expect_err(sql).to_string();
            assert!(said.contains("Wrong. ") && said.contains("a database error") && !said.contains("hush"), "{said}");
        }
        assert_eq!(words("Please select one.\nUpdate it"), "Please select one. Update it");
        assert_eq!(words(&"游".repeat(400)).chars().count(), WORDS_CHARS_MAX);
        let body = json!({"error": {"data": format!("INSERT INTO hush {}", "x".repeat(900))}}).to_string();
        let kept = kept(&Answer { status: 200, headers: HeaderMap::new(), body: Bytes::from(body) });
        assert!(!kept.contains("hush"), "{kept}");
    }
}
