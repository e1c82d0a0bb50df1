//! A list's filter as SQL: the same words for executions, receipts and deliveries, each with its own columns.

use crate::store::Filter;

/// A value of a condition.
#[derive(Clone, Debug)]
pub(crate) enum Term {
    Number(i64),
    Text(String),
}

/// Where each of a filter's words is looked for.
pub(crate) struct Columns {
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

pub(crate) const EXECUTIONS: Columns = Columns {
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

pub(crate) const RECEIPTS: Columns = Columns {
    id: "id",
    status: "status",
    source: "source",
    since: "received_at",
    execution: "execution",
    overdue: None,
    sink: "EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = receipts.execution AND d.sink = ?)",
};

pub(crate) const DELIVERIES: Columns = Columns {
    id: "d.id",
    status: "d.status",
    source: "h.source",
    since: "d.created_at",
    execution: "d.execution",
    overdue: None,
    sink: "d.sink = ?",
};

/// The WHERE clause of a filter, and its values in the order of their marks: `sign` and a number, from 1.
pub(crate) fn conditions(filter: &Filter, columns: &Columns, sign: char) -> (String, Vec<Term>) {
    let (mut wheres, mut values) = (Vec::new(), Vec::new());
    if !filter.status.is_empty() {
        // The words that have an index of their own stand in the text, as in the index.
        if filter.status == ["dead"] && columns.status == DELIVERIES.status {
            wheres.push("d.status = 'dead'".to_owned());
        } else {
            if columns.status == RECEIPTS.status && !filter.status.iter().any(|word| word == "accepted") {
                wheres.push("status <> 'accepted'".to_owned());
            }
            let (marked, words): (Vec<_>, Vec<_>) =
                filter.status.iter().partition(|word| columns.overdue.is_some() && *word == "overdue");
            let marks = (1..=words.len()).map(|n| format!("{sign}{n}")).collect::<Vec<_>>().join(", ");
            let one_of = format!("{} IN ({marks})", columns.status);
            wheres.push(match columns.overdue.filter(|_| !marked.is_empty()) {
                // By their marks alone, which are few, and not by looking at everything.
                Some(overdue) if words.is_empty() => overdue.to_owned(),
                Some(overdue) => format!("({one_of} OR {overdue})"),
                None => one_of,
            });
            values.extend(words.into_iter().cloned().map(Term::Text));
        }
    }
    let mut add = |condition: String, value: Option<Term>| {
        if let Some(value) = value {
            values.push(value);
            wheres.push(condition.replace('?', &format!("{sign}{}", values.len())));
        }
    };
    add(format!("{} = ?", columns.source), filter.source.clone().map(Term::Text));
    add(columns.sink.to_owned(), filter.sink.clone().map(Term::Text));
    add(format!("{} = ?", columns.execution), filter.execution.map(Term::Number));
    add(format!("{} >= ?", columns.since), filter.since.map(|t| Term::Number(t.micros())));
    add(format!("{} < ?", columns.id), filter.before.map(Term::Number));
    add(format!("{} > ?", columns.id), filter.after.map(Term::Number));
    let clause = if wheres.is_empty() { String::new() } else { format!("WHERE {}", wheres.join(" AND ")) };
    (clause, values)
}
