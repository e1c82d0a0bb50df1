//! One way through all rows of two stores, in the order of their ids: what differs is written, or named.
//!
//! Rows are compared by their digests, as either store gives them. What was written is read again, so that at the end of
//! a whole pass every row of the one was seen in the other. A few thousand rows are in memory at one time.

use std::collections::BTreeMap;

use super::{Digest, Ground, ROWS, Row, TABLES, Table};
use crate::signature;
use crate::store::StoreError;

/// What a pass does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Copies what comes after all that the other has.
    Fill,
    /// Makes the other the same, and looks whether it is.
    Whole,
    /// Writes nothing.
    Look,
}

/// A table after a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Its name.
    pub name: &'static str,
    /// Rows in the store that is moved.
    pub rows: u64,
    /// The digest of all of them, in hex.
    pub digest: String,
    /// Rows that were written, or taken away.
    pub written: u64,
    /// Rows that differ, where nothing was written.
    pub differ: u64,
}

/// The first row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Of which table.
    pub table: &'static str,
    /// Which one.
    pub id: i64,
    /// How.
    pub how: String,
}

/// What a pass has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Each table.
    pub tables: Vec<Counted>,
    /// Where the two are not the same.
    pub first: Option<Difference>,
}

impl Tally {
    /// All rows.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// Rows of one id, by it.
type Groups = BTreeMap<i64, Vec<(Digest, Row)>>;

fn groups(rows: Vec<Row>, end: i64) -> Groups {
    let mut groups = Groups::new();
    for row in rows.into_iter().take_while(|row| row.id <= end) {
        groups.entry(row.id).or_default().push((row.digest(), row));
    }
    // Where several have one id, their order is nobody's.
    groups
        .values_mut()
        .filter(|group| group.len() > 1)
        .for_each(|group| group.sort_unstable_by_key(|(digest, _)| *digest));
    groups
}

fn is_same(here: Option<&Vec<(Digest, Row)>>, there: Option<&Vec<(Digest, Row)>>) -> bool {
    let digests = |group: &[(Digest, Row)]| group.iter().map(|(digest, _)| *digest).collect::<Vec<_>>();
    here.map(|group| digests(group)) == there.map(|group| digests(group))
}

/// Goes through all tables. `watch` is told how many rows it has seen.
pub(super) async fn pass(
    from: &mut dyn Ground,
    to: &mut dyn Ground,
    how: How,
    watch: &mut (dyn FnMut(u64) + Send),
) -> Result<Tally, StoreError> {
    let (mut tally, mut seen) = (Tally::default(), 0);
    for table in TABLES {
        let mut counted = Counted { name: table.name, rows: 0, digest: String::new(), written: 0, differ: 0 };
        let mut digest: Digest = [0; 32];
        let mut after = match how {
            How::Fill => to.last(table).await?,
            How::Whole | How::Look => 0,
        };
        loop {
            let here = from.page(table, after).await?;
            // Beyond its greatest id there is nothing.
            let there = if how == How::Fill { Vec::new() } else { to.page(table, after).await? };
            let ends = [&here, &there].into_iter().filter_map(|rows| rows.last().map(|row| row.id));
            let Some(end) = ends.min() else { break };
            let (here, there) = (groups(here, end), groups(there, end));
            for (row_digest, _) in here.values().flatten() {
                digest = signature::sha256([digest, *row_digest].concat().as_slice());
                counted.rows += 1;
            }
            let ids: Vec<i64> = here.keys().chain(there.keys()).copied().collect();
            let mut differ: Vec<i64> = ids.into_iter().filter(|id| !is_same(here.get(id), there.get(id))).collect();
            differ.sort_unstable();
            differ.dedup();
            match (how, differ.first()) {
                (_, None) => {}
                (How::Look, Some(&first)) => {
                    counted.differ += differ.len() as u64;
                    tally.first.get_or_insert_with(|| difference(table, first, &here, &there));
                }
                (How::Fill | How::Whole, Some(_)) => {
                    counted.written += differ.len() as u64;
                    write(to, table, &differ, here, &there, how).await?;
                }
            }
            seen = counted.rows + tally.rows();
            watch(seen);
            after = end;
        }
        counted.digest = signature::hex(&digest);
        tally.tables.push(counted);
    }
    watch(seen);
    Ok(tally)
}

/// Makes these rows the same, and looks whether they are.
async fn write(
    to: &mut dyn Ground,
    table: &'static Table,
    differ: &[i64],
    mut here: Groups,
    there: &Groups,
    how: How,
) -> Result<(), StoreError> {
    for ids in differ.chunks(ROWS) {
        let gone = ids.iter().copied().filter(|id| there.contains_key(id)).collect();
        let groups: Groups = ids.iter().filter_map(|id| here.remove_entry(id)).collect();
        let rows = groups.values().flatten().map(|(_, row)| row.clone()).collect();
        to.put(table, gone, rows).await?;
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { continue };
        if how == How::Fill {
            continue;
        }
        let (mut written, mut after) = (Groups::new(), first - 1);
        while after < last {
            let page = to.page(table, after).await?;
            let Some(end) = page.last().map(|row| row.id) else { break };
            written.append(&mut self::groups(page, end.min(last)));
            after = end;
        }
        if let Some(&wrong) = ids.iter().find(|id| !is_same(groups.get(id), written.get(id))) {
            let Difference { table, id, how } = difference(table, wrong, &groups, &written);
            return Err(StoreError::Unusable(format!(
                "{table} {id} was written to {}, and reads otherwise: {how}; nothing was given up, and the store is where it was",
                to.place().url
            )));
        }
    }
    Ok(())
}

/// How the rows of an id differ, by the names of columns: what stands in them may be anybody's secret.
fn difference(table: &'static Table, id: i64, here: &Groups, there: &Groups) -> Difference {
    let how = match (here.get(&id).map(Vec::as_slice), there.get(&id).map(Vec::as_slice)) {
        (Some(_), None) => "is missing".to_owned(),
        (None, _) => "is there, and was not moved".to_owned(),
        (Some([(_, here)]), Some([(_, there)])) => {
            let cells = here.cells.iter().zip(&there.cells).zip(table.columns);
            let names: Vec<_> = cells.filter(|((h, t), _)| h != t).map(|(_, (name, _))| *name).collect();
            format!("is another in {}", names.join(", "))
        }
        (Some(here), Some(there)) => {
            format!("has {} rows, and they are not the same as these {}", there.len(), here.len())
        }
    };
    Difference { table: table.name, id, how }
}
