//! Going over a syntax tree.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Pattern, Term};
use jaq_core::path::Part;

/// The terms that stand directly in a term.
fn inner<'t, 's>(term: &'t Term<&'s str>) -> Vec<&'t Term<&'s str>> {
    let mut inner = Vec::new();
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Var(_) => {}
        Term::Str(_, parts) => inner.extend(parts.iter().filter_map(|part| match part {
            StrPart::Term(term) => Some(term),
            _ => None,
        })),
        Term::Arr(items) => inner.extend(items.as_deref()),
        Term::Obj(entries) => {
            inner.extend(entries.iter().flat_map(|(key, value)| [Some(key), value.as_ref()]).flatten())
        }
        Term::Neg(term) | Term::Label(_, term) => inner.push(term),
        Term::BinOp(left, op, right) => {
            inner.extend([&**left, &**right]);
            if let BinaryOp::Pipe(Some(pattern)) = op {
                keys(pattern, &mut inner);
            }
        }
        Term::Fold(_, items, pattern, args) => {
            inner.push(items);
            keys(pattern, &mut inner);
            inner.extend(args);
        }
        Term::TryCatch(term, catch) => inner.extend([Some(&**term), catch.as_deref()].into_iter().flatten()),
        Term::IfThenElse(cases, other) => {
            inner.extend(cases.iter().flat_map(|(condition, then)| [condition, then]));
            inner.extend(other.as_deref());
        }
        Term::Def(defs, term) => {
            inner.extend(defs.iter().map(|def| &def.body));
            inner.push(term);
        }
        Term::Call(_, args) => inner.extend(args),
        Term::Path(term, path) => {
            inner.push(term);
            inner.extend(path.0.iter().flat_map(|(part, _)| {
                match part {
                    Part::Index(index) => [Some(index), None],
                    Part::Range(from, to) => [from.as_ref(), to.as_ref()],
                }
                .into_iter()
                .flatten()
            }));
        }
    }
    inner
}

/// The terms that stand as keys in a pattern.
fn keys<'t, 's>(pattern: &'t Pattern<&'s str>, terms: &mut Vec<&'t Term<&'s str>>) {
    match pattern {
        Pattern::Var(_) => {}
        Pattern::Arr(patterns) => patterns.iter().for_each(|pattern| keys(pattern, terms)),
        Pattern::Obj(entries) => {
            for (key, pattern) in entries {
                terms.push(key);
                keys(pattern, terms);
            }
        }
    }
}

/// Calls `judge` on a term and on all that stand in it, until it refuses.
pub(super) fn walk<'s>(
    term: &Term<&'s str>,
    judge: &mut dyn FnMut(&Term<&'s str>) -> Result<(), String>,
) -> Result<(), String> {
    judge(term)?;
    inner(term).into_iter().try_for_each(|term| walk(term, judge))
}

/// How deep the tree is.
pub(super) fn levels(term: &Term<&str>) -> usize {
    1 + inner(term).into_iter().map(levels).max().unwrap_or(0)
}
