//! Zabbix's trapper protocol: one value in one request on one connection (Zabbix documentation, "Sender protocol" and
//! "Header and data length").
//!
//! That an answer says `success` means nothing: a server that knows neither host nor item says it, too. What counts is
//! how many values it says to have processed.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::api::words;
use crate::model::Outcome;
use crate::outbound::{Dial, Duplex};

/// Where a server or a proxy listens by default.
pub(super) const PORT: u16 = 10_051;
const MAGIC: &[u8; 4] = b"ZBXD";
/// Header flags: the protocol itself, which is always set.
const FLAG_PROTOCOL: u8 = 1;
const FLAG_COMPRESSED: u8 = 2;
/// Lengths of eight bytes instead of four.
const FLAG_LARGE: u8 = 4;
/// An answer counts values in a line.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Speaks to one server or proxy.
pub(super) struct Trapper {
    dial: Dial,
}

/// How many values were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    processed: u64,
    failed: u64,
}

impl Trapper {
    pub(super) fn new(dial: Dial) -> Trapper {
        Trapper { dial }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        self.dial.to_string()
    }

    /// Sends a request and reads its answer: whole, or why there is none.
    pub(super) async fn ask(&self, request: &Value) -> Result<String, String> {
        let mut stream = self.dial.connect().await.map_err(|failure| failure.to_string())?;
        exchange(&mut *stream, &framed(&request.to_string())).await
    }

    /// Sends nothing in particular, which changes nothing.
    pub(super) async fn probe(&self) -> Result<String, String> {
        let answer = self.ask(&request(json!([]))).await?;
        match read(&answer) {
            Ok(_) => Ok(format!("the trapper at {} answers", self.dial)),
            Err(Said { reason, .. }) => Err(reason),
        }
    }
}

/// The request that carries these values.
pub(super) fn request(values: Value) -> Value {
    json!({"request": "sender data", "data": values})
}

fn framed(json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).expect("a value is far below 4 GB");
    let mut frame = Vec::with_capacity(13 + json.len());
    frame.extend_from_slice(MAGIC);
    frame.push(FLAG_PROTOCOL);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(json.as_bytes());
    frame
}

async fn exchange(stream: &mut dyn Duplex, frame: &[u8]) -> Result<String, String> {
    let broke = |e: std::io::Error| {
        match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            "the trapper closed the connection before its answer was complete; see Zabbix's log, and whether this is its \
             trapper port, and takes connections with or without TLS"
                .to_owned()
        }
        _ => format!("the connection to the trapper broke: {e}"),
    }
    };
    stream.write_all(frame).await.map_err(broke)?;
    stream.flush().await.map_err(broke)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.map_err(broke)?;
    let flags = head[4];
    if head[..4] != *MAGIC || flags & FLAG_PROTOCOL == 0 {
        return Err("what answers is no Zabbix trapper".to_owned());
    }
    let length = if flags & FLAG_LARGE == 0 {
        let mut lengths = [0; 8];
        stream.read_exact(&mut lengths).await.map_err(broke)?;
        u64::from(u32::from_le_bytes([lengths[0], lengths[1], lengths[2], lengths[3]]))
    } else {
        let length = stream.read_u64_le().await.map_err(broke)?;
        stream.read_u64_le().await.map_err(broke)?;
        length
    };
    if flags & FLAG_COMPRESSED != 0 {
        return Err("the trapper's answer is compressed, which only a compressed request asks for".to_owned());
    }
    if length > ANSWER_BYTES_MAX {
        return Err(format!("the trapper's answer is longer than {ANSWER_BYTES_MAX} bytes"));
    }
    let mut body = Vec::with_capacity(length as usize);
    let read = stream.take(length).read_to_end(&mut body).await.map_err(broke)?;
    if read as u64 != length {
        return Err(broke(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// An answer without counts: why, and whether the request itself was refused.
struct Said {
    reason: String,
    is_refusal: bool,
}

/// What follows from the answer to one value.
pub(super) fn judge(answer: &str) -> Outcome {
    let retry = |reason: String| Outcome::Retry { after_ms: None, reason, resume: None };
    match read(answer) {
        Ok(Counts { processed: 1.., failed: 0 }) => Outcome::Delivered { note: None, learned: Vec::new() },
        Ok(_) => retry(
            "Zabbix took no value: it does not know the host or the item, or not yet, the item is no trapper item, or it \
             does not allow this address or this kind of connection; run `callbackd zabbix apply`"
                .to_owned(),
        ),
        Err(Said { reason, is_refusal: true }) => Outcome::Reject { reason },
        Err(Said { reason, .. }) => retry(reason),
    }
}

fn read(answer: &str) -> Result<Counts, Said> {
    let strange = || Said { reason: "the trapper's answer counts no values".to_owned(), is_refusal: false };
    let answer: Value = serde_json::from_str(answer).map_err(|_| strange())?;
    // A proxy of a group says which of them monitors the host.
    if let Some(elsewhere) = answer.pointer("/redirect/address").and_then(Value::as_str) {
        let reason = format!("the proxy says that {} monitors the host; set trapper to it", words(elsewhere));
        return Err(Said { reason, is_refusal: false });
    }
    let info = answer.get("info").and_then(Value::as_str).ok_or_else(strange)?;
    if answer.get("response").and_then(Value::as_str) != Some("success") {
        return Err(Said { reason: format!("the trapper refuses the request: {}", words(info)), is_refusal: true });
    }
    let count = |name: &str| {
        let of_name = |part: &str| part.trim().strip_prefix(name)?.strip_prefix(": ")?.parse::<u64>().ok();
        info.split(';').find_map(of_name).ok_or_else(strange)
    };
    Ok(Counts { processed: count("processed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Retry { .. } => "retry",
            Outcome::Reject { .. } => "reject",
            _ => "else",
        }
    }

    #[test]
    fn an_answer_is_what_it_counts() {
        let success = |info: &str| json!({"response": "success", "info": info}).to_string();
        let cases = [
            (success("processed: 1; failed: 0; total: 1; seconds spent: 0.000198"), "delivered"),
            (success("processed: 0; failed: 1; total: 1; seconds spent: 0.000198"), "retry"),
            (success("processed: 0; failed: 0; total: 0; seconds spent: 0.000011"), "retry"),
            (success("Processed 1 Failed 0 Total 1"), "retry"),
            (success("processed: many; failed: 0; total: 1"), "retry"),
            (success(""), "retry"),
            (r#"{"response":"success"}"#.to_owned(), "retry"),
            (r#"{"response":"failed","info":"cannot find pair with name \"data\""}"#.to_owned(), "reject"),
            (r#"{"response":"failed","info":"cannot parse as a valid JSON object: x"}"#.to_owned(), "reject"),
            (r#"{"response":"failed","redirect":{"revision":3,"address":"192.0.2.7:10051"}}"#.to_owned(), "retry"),
            ("OK".to_owned(), "retry"),
            (String::new(), "retry"),
        ];
        for (answer, expected) in cases {
            assert_eq!(word(&judge(&answer)), expected, "{answer}");
        }
        let Outcome::Retry { reason, .. } = judge(&success("processed: 0; failed: 1; total: 1")) else { panic!() };
        assert!(reason.contains("callbackd zabbix apply"), "{reason}");
    }

    async fn answered(answer: Vec<u8>) -> Result<String, String> {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let frame = framed("{}");
        let (found, ()) = tokio::join!(exchange(&mut near, &frame), async {
            let mut seen = [0; 15];
            far.read_exact(&mut seen).await.expect("a request");
            assert_eq!(&seen, b"ZBXD\x01\x02\0\0\0\0\0\0\0{}");
            far.write_all(&answer).await.expect("written");
            drop(far);
        });
        found
    }

    #[tokio::test]
    async fn a_frame_is_read_as_its_header_says() {
        let framed_as =
            |flags: u8, length: &[u8], body: &str| [b"ZBXD", &[flags][..], length, body.as_bytes()].concat();
        let small = |length: u32| [length.to_le_bytes(), [0; 4]].concat();
        let large = |length: u64| [length.to_le_bytes(), [0; 8]].concat();
        assert_eq!(answered(framed_as(1, &small(5), "hello")).await, Ok("hello".to_owned()));
        assert_eq!(answered(framed_as(1, &small(5), "hello and more")).await, Ok("hello".to_owned()));
        assert_eq!(answered(framed_as(5, &large(5), "hello")).await, Ok("hello".to_owned()));
        let cases = [
            (Vec::new(), "closed"),
            (b"ZBX".to_vec(), "closed"),
            (framed_as(1, &[5, 0], ""), "closed"),
            (framed_as(1, &small(9), "hello"), "closed"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "no Zabbix trapper"),
            (framed_as(0, &small(5), "hello"), "no Zabbix trapper"),
            (framed_as(3, &small(5), "hello"), "compressed"),
            (framed_as(1, &small(u32::MAX), "hello"), "longer than 65536"),
            (framed_as(5, &large(u64::MAX), "hello"), "longer than 65536"),
        ];
        for (answer, expected) in cases {
            let said = answered(answer.clone()).await.expect_err(expected);
            assert!(said.contains(expected), "{answer:?}: {said}");
        }
    }
}
