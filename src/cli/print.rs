//! What commands write: tables for people, JSON lines for programs, both safe to show on a terminal.
//!
//! Whatever could steer one is shown escaped (`model::words`). Nothing here panics when stdout is closed, as `println!` would.

use std::io::{self, BufWriter, IsTerminal, Write};

use comfy_table::Table;
use serde::Serialize;
use serde_json::Value;

use super::Failure;
use crate::config::Environment;
use crate::model::Time;
use crate::model::words;
pub(super) use crate::model::words::{plain, size};

/// A cell longer than this is cut: `show` and `--json` have it whole.
const CELL_CHARS_MAX: usize = 120;

/// Writes to stdout through `write`, and finds out whether all of it arrived.
pub(super) fn stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    out.flush()?;
    Ok(())
}

/// Whether colours are seen: on a terminal, and by those who want them (`NO_COLOR`, `TERM=dumb`).
pub(super) fn colours(env: &Environment) -> bool {
    let is_unwanted = env.get("NO_COLOR").is_some_and(|text| !text.is_empty());
    io::stdout().is_terminal() && !is_unwanted && env.get("TERM").is_some_and(|term| term != "dumb")
}

/// Writes a remark to stderr. It has no reader who could be told that this failed.
pub(super) fn complain(text: &str) {
    let mut err = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(err, "{}", plain(line));
    }
}

/// One JSON object on one line.
pub(super) fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::other)?;
    writeln!(out, "{}", words::json(&text))
}

/// A table: two spaces between columns, no lines.
pub(super) fn table<const N: usize>(
    out: &mut dyn Write,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.map(str::to_uppercase));
    for row in rows {
        table.add_row(row.iter().map(|cell| cut(&plain(cell))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A heading and a table under it, if there is anything in it.
pub(super) fn section<const N: usize>(
    out: &mut dyn Write,
    title: &str,
    header: [&str; N],
    rows: Vec<[String; N]>,
) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{title}")?;
    table(out, header, rows)
}

/// Names and values, one a line, the values aligned; what has no value is left out.
pub(super) fn fields(out: &mut dyn Write, fields: &[(&str, String)]) -> io::Result<()> {
    let shown = || fields.iter().filter(|(_, value)| !value.is_empty() && value != NONE);
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in shown() {
        writeln!(out, "{name:width$}  {}", plain(value))?;
    }
    Ok(())
}

/// What stands where there is nothing.
const NONE: &str = "-";

/// A JSON value in a cell: text as it is, nothing as `-`, a time as people read it, anything else as JSON.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => NONE.to_owned(),
        Value::Object(all) if all.is_empty() => NONE.to_owned(),
        Value::Array(all) if all.iter().all(Value::is_string) => {
            all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// Something that may not be there, in a cell.
pub(super) fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |v| v.to_string())
}

/// A time in a cell: `2026-11-21 10:31:07`, UTC.
pub(super) fn when(time: Option<Time>) -> String {
    or_none(time.map(|t| {
        let text = t.to_string();
        text.get(..19).map_or(text.clone(), |seconds| seconds.replace('T', " "))
    }))
}

/// A JSON time in a cell.
pub(super) fn when_json(value: &Value) -> String {
    match value.as_str().and_then(Time::parse) {
        Some(time) => when(Some(time)),
        None => cell(value),
    }
}

/// How long ago, in the largest unit that it fills: `45s`, `7m`, `3h`, `12d`.
pub(super) fn age(time: Option<Time>, now: Time) -> String {
    or_none(time.map(|t| {
        let s = now.ms_since(t) / 1000;
        match s {
            0..60 => format!("{s}s"),
            60..3_600 => format!("{}m", s / 60),
            3_600..86_400 => format!("{}h", s / 3_600),
            _ => format!("{}d", s / 86_400),
        }
    }))
}

/// A span as people read it: `850 ms`, `12 s`, `4m 13s`, `2h 05m`, `3d 4h`.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3_600 => format!("{}m {:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3_600),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_lines() {
        let mut out = Vec::new();
        let rows = [["a".to_owned(), "视频".to_owned(), "x".repeat(500)], ["long".into(), "b\n".into(), "-".into()]];
        table(&mut out, ["one", "two", "three"], rows).expect("written");
        let out = String::from_utf8(out).expect("UTF-8");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "ONE   TWO   THREE");
        assert_eq!(lines[1], format!("a     视频  {}…", "x".repeat(CELL_CHARS_MAX)));
        assert_eq!(lines[2], "long  b\\n   -");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10 << 20, "10 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (59_999, "59 s"),
            (253_000, "4m 13s"),
            (7_500_000, "2h 05m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn times_are_short_and_ages_round_down() {
        let now = Time::from_seconds(1_795_257_067);
        assert_eq!(when(Some(now.plus_ms(250))), "2026-11-21 10:31:07");
        assert_eq!(when(None), "-");
        for (s, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m"), (7_200, "2h"), (172_799, "1d")] {
            assert_eq!(age(Some(Time::from_seconds(now.seconds() - s)), now), text);
        }
        assert_eq!(age(Some(now.plus_ms(5_000)), now), "0s", "clocks differ");
    }
}
