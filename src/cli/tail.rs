//! `callbackd tail`: what happens, as it happens, from the running daemon.
//!
//! It goes on where it was when the daemon is started again or the connection breaks, and misses nothing by that.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::list::{Selection, know_names};
use super::listen::{Stream, Told};
use super::reach::{Context, Daemon, queries};
use super::{Failure, block_on, print};
use crate::clock;
use crate::config::{Config, Environment};
use crate::model::{DeliveryStatus, Status};
use crate::store::Filter;

/// So often it is tried whether the daemon is there again.
const AGAIN: Duration = Duration::from_secs(1);

/// What happens, as it happens; ends at Ctrl-C
#[derive(Args, Debug)]
pub(super) struct Tail {
    #[command(flatten)]
    selection: Selection,
    /// Only executions and deliveries that stand so (failed, overdue, delivered, dead, …); several with commas
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status)]
    status: Vec<String>,
    /// One JSON object a line: {"change": …} or {"delivery": …}
    #[arg(long)]
    json: bool,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

fn status(word: &str) -> Result<String, String> {
    let words = || {
        Status::ALL
            .map(Status::as_str)
            .into_iter()
            .chain(["overdue"])
            .chain(DeliveryStatus::ALL.map(DeliveryStatus::as_str))
    };
    if words().any(|known| known == word) {
        return Ok(word.to_owned());
    }
    Err(format!("there are {}", words().collect::<Vec<_>>().join(", ")))
}

impl Tail {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let config = context.places()?;
        block_on(self.know_names(&config, context.env))?;
        let daemon = Daemon::of(&config, context.env)?;
        let form = match (self.json, io::stdout().is_terminal() && context.env.get("NO_COLOR").is_none()) {
            (true, _) => Form::Json,
            (false, true) => Form::Colours,
            (false, false) => Form::Plain,
        };
        block_on(async {
            tokio::select! {
                ended = self.follow(&daemon, &config.admin.listen, form) => ended,
                interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
            }
        })
    }

    /// That its names are names: what is not there would be waited for in silence.
    async fn know_names(&self, config: &Config, env: &Environment) -> Result<(), Failure> {
        let Selection { source, sink, .. } = &self.selection;
        // The daemon may keep its store where only it can read; it is asked all the same.
        let Ok(store) = queries(config, env) else { return Ok(()) };
        let of = Filter { source: source.clone(), ..Filter::default() };
        let to = Filter { sink: sink.clone(), ..Filter::default() };
        know_names(config, &of, &|filter| store.executions(filter)).await?;
        know_names(config, &to, &|filter| store.deliveries(filter)).await
    }

    /// What is asked for, but for how much is still wanted.
    fn query(&self) -> String {
        let mut query = String::from("/api/v1/stream?");
        let since = self.selection.since.map(|since| since.at(clock::now()).to_string());
        let status = (!self.status.is_empty()).then(|| self.status.join(","));
        for (name, value) in
            [("source", &self.selection.source), ("sink", &self.selection.sink), ("status", &status), ("since", &since)]
        {
            if let Some(value) = value {
                query.push_str(&format!("{name}={}&", urlencoding::encode(value)));
            }
        }
        query.pop();
        query
    }

    async fn follow(&self, daemon: &Daemon, address: &str, form: Form) -> Result<(), Failure> {
        let query = self.query();
        let none = || format!("no daemon listens at admin.listen = {address:?}: start it, or name its --config");
        let mut stream = daemon.listen(&query, None).await?.ok_or_else(|| Failure::Failed(none()))?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        loop {
            while let Some(told) = stream.next().await {
                print::stdout(|out| form.write(out, &told))?;
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
            print::complain("the daemon has ended the stream; waiting for it to go on");
            stream = again(daemon, &query, stream.cursor.as_deref()).await;
        }
    }
}

/// Listens again as soon as the daemon is there. What it refuses now, it may take a second later: it is starting, or full.
async fn again(daemon: &Daemon, query: &str, cursor: Option<&str>) -> Stream {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Ok(Some(stream)) = daemon.listen(query, cursor).await {
            return stream;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Plain,
    Colours,
}

impl Form {
    fn write(self, out: &mut dyn Write, told: &Told) -> io::Result<()> {
        if self == Form::Json {
            return print::json_line(out, &json!({ &told.kind: told.row }));
        }
        let row = &told.row;
        let text = |value: &Value| print::plain(&print::cell(value)).into_owned();
        let (at, key) = (
            print::when_json(&row["at"]),
            text(if told.kind == "change" { &row["execution"]["key"] } else { &row["key"] }),
        );
        let (whom, status, rest) = match told.kind.as_str() {
            "change" => {
                let execution = &row["execution"];
                let rest = ["subject", "name"].into_iter().find(|name| !execution[name].is_null());
                let status = if row["type"] == "callbackd.execution.overdue" {
                    "overdue".to_owned()
                } else {
                    text(&execution["status"])
                };
                (text(&execution["source"]), status, rest.map(|name| text(&execution[name])).unwrap_or_default())
            }
            _ => {
                let tried = row["outcome"].as_str().filter(|outcome| Some(*outcome) != row["status"].as_str());
                let said = [tried, row["reason"].as_str()]
                    .into_iter()
                    .flatten()
                    .map(|said| print::plain(said))
                    .collect::<Vec<_>>();
                (format!("→ {}", text(&row["sink"])), text(&row["status"]), said.join(": "))
            }
        };
        let (begin, end) = if self == Form::Colours { (colour(&status), "\u{1b}[0m") } else { ("", "") };
        writeln!(out, "{}", format!("{at}  {whom:<14}  {begin}{status:<9}{end}  {key}  {rest}").trim_end())
    }
}

/// Green for what went well, red for what did not, yellow for what somebody may have to look at.
fn colour(status: &str) -> &'static str {
    match status {
        "succeeded" | "delivered" => "\u{1b}[32m",
        "failed" | "dead" => "\u{1b}[31m",
        "overdue" | "unknown" | "paused" => "\u{1b}[33m",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_what_and_why() {
        let change = json!({"id": "1", "type": "callbackd.execution.failed", "at": "2026-11-21T10:31:07.25Z",
            "execution": {"source": "media", "key": "i\u{1b}1", "status": "failed", "subject": "b/in.mp4", "name": "n"}});
        let overdue = json!({"type": "callbackd.execution.overdue", "at": "2026-11-21T10:31:07Z",
            "execution": {"source": "media", "key": "i1", "status": "running", "subject": null, "name": null}});
        let dead = json!({"sink": "portal", "status": "dead", "key": "i1", "outcome": "reject", "reason": "422",
            "at": "2026-11-21T10:31:08Z"});
        let line = |form: Form, kind: &str, row: &Value| {
            let mut out = Vec::new();
            form.write(&mut out, &Told { kind: kind.to_owned(), row: row.clone() }).expect("written");
            String::from_utf8(out).expect("UTF-8")
        };
        for (form, kind, row, expected) in [
            (Form::Plain, "change", &change, "2026-11-21 10:31:07  media           failed     i\\u{1b}1  b/in.mp4\n"),
            (Form::Plain, "change", &overdue, "2026-11-21 10:31:07  media           overdue    i1\n"),
            (Form::Plain, "delivery", &dead, "2026-11-21 10:31:08  → portal        dead       i1  reject: 422\n"),
            (
                Form::Colours,
                "delivery",
                &dead,
                "2026-11-21 10:31:08  → portal        \u{1b}[31mdead     \u{1b}[0m  i1  reject: 422\n",
            ),
        ] {
            assert_eq!(line(form, kind, row), expected);
        }
        assert!(line(Form::Json, "delivery", &dead).starts_with(r#"{"delivery":{"#));
    }
}
