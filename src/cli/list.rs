//! What all lists share: the filters, the pages, and the choice of table or JSON.

use clap::Args;
use serde::Serialize;

use super::{Failure, print};
use crate::Boxed;
use crate::config::{self, Config};
use crate::model::Time;
use crate::options::Since;
use crate::store::{Filter, StoreError};

/// Rows fetched at a time: `--limit` has no cap, memory has.
const PAGE: u64 = 1000;

/// Rows of a table when nobody asks for more.
const TABLE_LIMIT: u64 = 50;

/// What is meant, beside its status.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Selection {
    /// Only of this source
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,
    /// Only to this sink
    #[arg(long, value_name = "NAME")]
    pub(super) sink: Option<String>,
    /// Only what came within this span (90s, 30m, 2h, 7d), or since this time (RFC 3339)
    #[arg(long, value_name = "SPAN|TIME")]
    pub(super) since: Option<Since>,
}

impl Selection {
    /// As the store reads it.
    pub(super) fn filter(&self, status: &[String], now: Time) -> Filter {
        Filter {
            status: status.to_vec(),
            source: self.source.clone(),
            sink: self.sink.clone(),
            since: self.since.map(|since| since.at(now)),
            ..Filter::default()
        }
    }
}

/// How much of it, and in which form.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Form {
    /// One JSON object a line, instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// At most so many, newest first; default: 50 in a table, all with --json
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u64>,
}

impl Form {
    fn limit(&self) -> u64 {
        self.limit.unwrap_or(if self.json { u64::MAX } else { TABLE_LIMIT })
    }
}

/// Fetches what `filter` means page by page, newest first, and shows each page before the next is fetched. Returns
/// whether there is more than `limit`.
async fn pages<'q, T>(
    mut filter: Filter,
    limit: u64,
    fetch: impl Fn(Filter) -> Boxed<'q, Result<Vec<T>, StoreError>>,
    id: impl Fn(&T) -> Option<i64>,
    mut show: impl FnMut(Vec<T>) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut left = limit;
    loop {
        // One more than is wanted tells whether that was all.
        let wanted = PAGE.min(left.saturating_add(1));
        filter.limit = Some(wanted);
        let mut rows = fetch(filter.clone()).await?;
        let last_page = (rows.len() as u64) < wanted;
        filter.before = rows.last().and_then(&id);
        let more = rows.len() as u64 > left;
        rows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= rows.len() as u64;
        if !rows.is_empty() {
            show(rows)?;
        }
        if more {
            return Ok(true);
        }
        if last_page || filter.before.is_none() {
            return Ok(false);
        }
    }
}

/// Prints a whole list in the form that was asked for.
pub(super) async fn list<'q, T: Serialize, const N: usize>(
    config: &Config,
    form: &Form,
    filter: Filter,
    fetch: impl Fn(Filter) -> Boxed<'q, Result<Vec<T>, StoreError>>,
    id: impl Fn(&T) -> Option<i64>,
    header: [&str; N],
    row: impl Fn(&T) -> [String; N],
) -> Result<(), Failure> {
    let mut is_empty = true;
    let more = pages(filter.clone(), form.limit(), &fetch, id, |rows| {
        is_empty = false;
        print::stdout(|out| match form.json {
            true => rows.iter().try_for_each(|r| print::json_line(out, r)),
            false => print::table(out, header, rows.iter().map(&row)),
        })
    })
    .await?;
    if more && form.limit.is_none() {
        print::complain(&format!("… there is more; --limit N shows more than {TABLE_LIMIT}, --json shows all"));
    }
    if is_empty { know_names(config, &filter, &fetch).await } else { Ok(()) }
}

/// Where nothing was found: that the filter's names are names, of the configuration or of what is kept.
pub(super) async fn know_names<'q, T>(
    config: &Config,
    filter: &Filter,
    fetch: &impl Fn(Filter) -> Boxed<'q, Result<Vec<T>, StoreError>>,
) -> Result<(), Failure> {
    let sinks = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let of_source = Filter { source: filter.source.clone(), ..Filter::default() };
    let to_sink = Filter { sink: filter.sink.clone(), ..Filter::default() };
    for (what, name, known, all) in
        [("source", &filter.source, config.origins(), of_source), ("sink", &filter.sink, sinks, to_sink)]
    {
        let is_unknown = |name: &&str| !config.is_partial && !known.contains(name);
        let Some(name) = name.as_deref().filter(is_unknown) else { continue };
        if fetch(Filter { limit: Some(1), ..all }).await?.is_empty() {
            return Err(Failure::Failed(config::no_such(what, name, &known)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows what a store of the ids `1..=stored` has to give, in how many pages, and whether there is more.
    fn paged(stored: i64, limit: u64) -> (Vec<i64>, Vec<u64>, bool) {
        let asked = std::cell::RefCell::new(Vec::new());
        let mut shown = Vec::new();
        let fetch = |filter: Filter| -> Boxed<'static, Result<Vec<i64>, StoreError>> {
            let limit = filter.limit.expect("bounded");
            asked.borrow_mut().push(limit);
            let below = filter.before.unwrap_or(i64::MAX).min(stored + 1);
            let rows = (1..below).rev().take(limit as usize).collect();
            Box::pin(async { Ok(rows) })
        };
        let more = super::super::block_on(pages(
            Filter::default(),
            limit,
            fetch,
            |id| Some(*id),
            |rows| {
                shown.extend(rows);
                Ok(())
            },
        ));
        (shown, asked.into_inner(), more.expect("no failure"))
    }

    #[test]
    fn pages_are_bounded_and_nothing_is_left_out_or_shown_twice() {
        for (stored, limit, rows, more) in [
            (0, 50, 0, false),
            (50, 50, 50, false),
            (51, 50, 50, true),
            (999, 1000, 999, false),
            (1000, 1000, 1000, false),
            (2500, u64::MAX, 2500, false),
            (2500, 2000, 2000, true),
            (3000, u64::MAX, 3000, false),
            (3, 0, 0, true),
        ] {
            let (shown, asked, had_more) = paged(stored, limit);
            let expected: Vec<i64> = (1..=stored).rev().take(rows).collect();
            assert_eq!(shown, expected, "{stored} stored, {limit} wanted");
            assert_eq!(had_more, more, "{stored} stored, {limit} wanted");
            assert!(asked.iter().all(|n| *n <= PAGE), "{asked:?}");
        }
    }
}
