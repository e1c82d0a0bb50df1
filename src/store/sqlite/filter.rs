//! A list's filter as SQL: the same words for executions, receipts and deliveries, each with its own columns.

use rusqlite::types::Value as Sql;

use crate::store::Filter;

/// Where each of a filter's words is looked for.
pub(super) struct Columns {
    id: &'static str,
    status: &'static str,
    source: &'static str,
    since: &'static str,
    execution: &'static str,
    /// What the word `overdue` means, which is a mark and no status.
    overdue: Option<&'static str>,
    /// A condition with `?` for the sink.
    sink: &'static str,
}

pub(super) const EXECUTIONS: Columns = Columns {
    id: "h.id",
    status: "h.status",
    source: "h.source",
    since: "h.id", // ids tell the time
    execution: "h.id",
    overdue: Some(
        "h.id IN (SELECT id FROM inquiries WHERE overdue_at IS NOT NULL) AND h.status NOT IN ('succeeded', 'failed', 'cancelled')",
    ),
    sink: "EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = h.id AND d.sink = ?)",
};

pub(super) const RECEIPTS: Columns = Columns {
    id: "id",
    status: "status",
    source: "source",
    since: "received_at",
    execution: "execution",
    overdue: None,
    sink: "EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = receipts.execution AND d.sink = ?)",
};

pub(super) const DELIVERIES: Columns = Columns {
    id: "d.id",
    status: "d.status",
    source: "h.source",
    since: "d.created_at",
    execution: "d.execution",
    overdue: None,
    sink: "d.sink = ?",
};

/// The WHERE clause of a filter, and its values in the order of their marks.
pub(super) fn conditions(filter: &Filter, columns: &Columns) -> (String, Vec<Sql>) {
    let (mut wheres, mut values) = (Vec::new(), Vec::new());
    if !filter.status.is_empty() {
        // The words that have an index of their own stand in the text, as in the index.
        if filter.status == ["dead"] && columns.status == DELIVERIES.status {
            wheres.push("d.status = 'dead'".to_owned());
        } else {
            if columns.status == RECEIPTS.status && !filter.status.iter().any(|word| word == "accepted") {
                wheres.push("status <> 'accepted'".to_owned());
            }
            let marks = vec!["?"; filter.status.len()].join(", ");
            let one_of = format!("{} IN ({marks})", columns.status);
            wheres.push(match columns.overdue.filter(|_| filter.status.iter().any(|word| word == "overdue")) {
                Some(overdue) => format!("({one_of} OR {overdue})"),
                None => one_of,
            });
            values.extend(filter.status.iter().cloned().map(Sql::Text));
        }
    }
    let mut add = |condition: String, value: Option<Sql>| {
        if let Some(value) = value {
            wheres.push(condition);
            values.push(value);
        }
    };
    add(format!("{} = ?", columns.source), filter.source.clone().map(Sql::Text));
    add(columns.sink.to_owned(), filter.sink.clone().map(Sql::Text));
    add(format!("{} = ?", columns.execution), filter.execution.map(Sql::Integer));
    add(format!("{} >= ?", columns.since), filter.since.map(|t| Sql::Integer(t.micros())));
    add(format!("{} < ?", columns.id), filter.before.map(Sql::Integer));
    add(format!("{} > ?", columns.id), filter.after.map(Sql::Integer));
    let clause = if wheres.is_empty() { String::new() } else { format!("WHERE {}", wheres.join(" AND ")) };
    (clause, values)
}
