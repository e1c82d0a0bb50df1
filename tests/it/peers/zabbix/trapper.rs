//! The trapper's side: one request on a connection, counted and not explained.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::State;

/// One value that was kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pushed {
    pub(crate) host: String,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) clock: i64,
    pub(crate) ns: i64,
}

impl Pushed {
    pub(crate) fn read(value: &Value) -> Pushed {
        let text = |name: &str| value[name].as_str().expect(name).to_owned();
        let number = |name: &str| value[name].as_i64().expect("a clock of one's own");
        Pushed { host: text("host"), key: text("key"), value: text("value"), clock: number("clock"), ns: number("ns") }
    }
}

impl State {
    /// A second value of an item at the same point in time is dropped without a word, whatever it is.
    pub(super) fn keep(&mut self, new: Pushed) {
        let point = |value: &Pushed| (value.host.clone(), value.key.clone(), value.clock, value.ns);
        if !self.pushed.iter().any(|kept| point(kept) == point(&new)) {
            self.pushed.push(new);
        }
    }

    fn take(&mut self, body: &[u8]) -> Option<Value> {
        let Ok(request) = serde_json::from_slice::<Value>(body) else {
            return Some(json!({"response": "failed", "info": "cannot parse as a valid JSON object: invalid"}));
        };
        if request["request"] != "sender data" {
            return None;
        }
        let Some(values) = request.get("data").and_then(Value::as_array) else {
            return Some(json!({"response": "failed", "info": "cannot find pair with name \"data\""}));
        };
        let (mut processed, mut failed) = (0, 0);
        for value in values {
            let is_it = |item: &&super::Item| value["host"] == item.host && value["key"] == item.key;
            match self.items.iter().find(is_it) {
                Some(item) if item.kind == 2 && item.is_enabled && item.is_synced => {
                    processed += 1;
                    if value.get("value").is_some() {
                        self.keep(Pushed::read(value));
                    }
                }
                _ => failed += 1,
            }
        }
        let total = values.len();
        let info = format!("processed: {processed}; failed: {failed}; total: {total}; seconds spent: 0.000198");
        Some(json!({"response": "success", "info": info}))
    }
}

pub(super) async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let Some(body) = read(&mut stream).await else { return };
            let (answer, twist) = {
                let mut state = state.lock().expect("no panic");
                let twist = state.trapper_twists.pop_front();
                (state.take(&body), twist)
            };
            let framed = answer.map(|answer| {
                let body = answer.to_string();
                [b"ZBXD\x01", &(body.len() as u32).to_le_bytes()[..], &[0; 4], body.as_bytes()].concat()
            });
            if let Some(bytes) = twist.or(framed) {
                let _ = stream.write_all(&bytes).await;
            }
        });
    }
}

/// A whole request; closed without a word where it is none.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut head = [0; 13];
    stream.read_exact(&mut head).await.ok()?;
    if head[..5] != *b"ZBXD\x01" || head[9..] != [0; 4] {
        return None;
    }
    let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
    let mut body = vec![0; length.min(1 << 20)];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}
