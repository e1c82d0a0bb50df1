//! What a run costs, and that it costs no more than it may.
//!
//! Before a program is compiled, its syntax tree and that of jq's library get counters wherever work can multiply:
//! where a stream forks (`,`, `.[]`, `range`), where a definition is entered, where values grow, are compared or handed
//! to a native function. A counter takes from what is left; when nothing is, the run stops in a way that no `try` and
//! no `//` catches. A counter changes neither the results nor what is a path, and stands where tail calls stay such.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::OnceLock;

use jaq_core::box_iter::box_once;
use jaq_core::data::HasLut;
use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Term};
use jaq_core::native::{Fun, bome, v};
use jaq_core::ops::Math;
use jaq_core::path::{Part, Path};
use jaq_core::{DataT, Exn, Lut, Native, load};
use jaq_json::{Num, Val};

use super::tree::walk;

/// Values with what their run may still cost.
pub(super) struct Metered;

impl DataT for Metered {
    type V<'a> = Val;
    type Data<'a> = Work<'a>;
}

/// One run.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) lut: &'a Lut<Metered>,
    pub(super) left: &'a Cell<u64>,
}

impl<'a> HasLut<'a, Metered> for Work<'a> {
    fn lut(&self) -> &'a Lut<Metered> {
        self.lut
    }
}

/// Why a run was stopped, as the code of jq's `halt`.
pub(super) const OUT_OF_STEPS: i32 = 1;
pub(super) const TOO_DEEP: i32 = 2;

/// Deeper values are refused: whatever walks them calls itself for each level.
const DEPTH_MAX: usize = 200;

impl Work<'_> {
    fn take(&self, steps: usize) -> Result<(), Exn<'static, Val>> {
        let left = self.left.get().checked_sub(steps as u64);
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or_else(|| Exn::halt(OUT_OF_STEPS))
    }

    /// Takes for all of a value, shared parts as often as they occur.
    pub(super) fn weigh(&self, value: &Val) -> Result<(), Exn<'static, Val>> {
        self.weigh_below(value, 0)
    }

    fn weigh_below(&self, value: &Val, depth: usize) -> Result<(), Exn<'static, Val>> {
        if depth > DEPTH_MAX {
            return Err(Exn::halt(TOO_DEEP));
        }
        self.take(1 + surface(value))?;
        match value {
            Val::Arr(items) => items.iter().try_for_each(|item| self.weigh_below(item, depth + 1)),
            Val::Obj(entries) => entries.iter().try_for_each(|(key, value)| {
                self.weigh_below(key, depth + 1)?;
                self.weigh_below(value, depth + 1)
            }),
            _ => Ok(()),
        }
    }
}

/// What it costs to make a value anew from parts that exist: a step for every 64 bytes.
fn surface(value: &Val) -> usize {
    match value {
        Val::BStr(bytes) | Val::TStr(bytes) => bytes.len() / STEP_BYTES,
        Val::Arr(items) => items.len() / 4,
        Val::Obj(entries) => entries.len(),
        Val::Num(Num::BigInt(integer)) => usize::try_from(integer.bits() / 512).unwrap_or(usize::MAX),
        _ => 0,
    }
}

const STEP_BYTES: usize = 64;

/// One step.
const TICK: &str = "!tick";
/// The whole value.
const WEIGH: &str = "!weigh";
/// The value's surface.
const MADE: &str = "!made";
/// `*`, which repeats texts, after its result was paid for.
const TIMES: &str = "!times";

/// A native filter that gives its input back after a counter has taken for it.
macro_rules! counter {
    ($name:expr, $take:expr) => {{
        let native = Native::<Metered>::new(|cv| {
            let taken: Result<(), Exn<'static, Val>> = $take(cv.0.data(), &cv.1);
            box_once(taken.map(|()| cv.1))
        });
        let native = native.with_paths(|cv| {
            let taken: Result<(), Exn<'static, Val>> = $take(cv.0.data(), &cv.1.0);
            box_once(taken.map(|()| cv.1))
        });
        let native = native.with_update(|cv, f| {
            let taken: Result<(), Exn<'static, Val>> = $take(cv.0.data(), &cv.1);
            match taken {
                Ok(()) => f(cv.1),
                Err(stop) => box_once(Err(stop)),
            }
        });
        ($name, v(0), native)
    }};
}

/// What reads something else than its input, or acts: none of it is there.
const SHUT_OUT: [&str; 10] = [
    "env",
    "now",
    "halt",
    "debug_empty",
    "stderr_empty",
    "localtime",
    "strflocaltime",
    "debug",
    "stderr",
    "halt_error",
];

/// The functions that jq's library is built on, and the counters.
pub(super) fn natives() -> impl Iterator<Item = Fun<Metered>> {
    let times = Native::<Metered>::new(|mut cv| {
        let (by, value) = (cv.0.pop_var(), cv.0.pop_var());
        let repeated = match (&value, &by) {
            (Val::TStr(text) | Val::BStr(text), Val::Num(number))
            | (Val::Num(number), Val::TStr(text) | Val::BStr(text)) => {
                let times = number.as_isize().unwrap_or(isize::MAX).max(0).unsigned_abs();
                times.saturating_mul(text.len()) / STEP_BYTES
            }
            _ => surface(&value) + surface(&by),
        };
        match cv.0.data().take(1 + repeated) {
            Ok(()) => bome(value * by),
            Err(stop) => box_once(Err(stop)),
        }
    });
    let counters = [
        counter!(TICK, |work: &Work<'_>, _: &Val| work.take(1)),
        counter!(WEIGH, |work: &Work<'_>, value: &Val| work.weigh(value)),
        counter!(MADE, |work: &Work<'_>, value: &Val| work.take(1 + surface(value))),
        (TIMES, v(2), times),
    ];
    let library = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    library.filter(|(name, ..)| !SHUT_OUT.contains(name)).chain(counters)
}

/// What `program` uses of jq's library, metered. The rest would stand compiled beside each program for as long as it
/// lives, at a quarter of a megabyte.
pub(super) fn library<'s>(program: &Term<&'s str>) -> Vec<Def<&'s str>> {
    let mut used = HashSet::new();
    calls_of(program, &mut used);
    if used.is_empty() {
        // Most programs are paths and comparisons: for them the library is not even read.
        return Vec::new();
    }
    // A definition uses only what stands before it, or itself.
    let mut kept = Vec::new();
    for def in whole_library().into_iter().rev() {
        if used.contains(def.name) {
            calls_of(&def.body, &mut used);
            kept.push(metered_def(def, By::Library));
        }
    }
    kept.reverse();
    kept
}

/// All of it, before it is metered.
pub(super) fn whole_library() -> Vec<Def<&'static str>> {
    // Two that the jq manual has and jaq has not.
    const MORE: &str = "def IN(s): any(s == .; .); def IN(source; s): any(source == s; .);";
    let more = load::parse(MORE, |p| p.defs()).expect("two definitions in jq");
    let all = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()).chain(more);
    all.filter(|def| !SHUT_OUT.contains(&def.name)).collect()
}

/// Adds the names of all that the term calls.
fn calls_of<'s>(term: &Term<&'s str>, names: &mut HashSet<&'s str>) {
    let judged = walk(term, &mut |term| {
        match term {
            Term::Call(name, _) => names.insert(name),
            Term::Str(Some(format), _) => names.insert(format),
            _ => false,
        };
        Ok(())
    });
    debug_assert!(judged.is_ok(), "nothing is refused");
}

/// Refuses what cannot be metered: a definition that calls itself goes as deep as the stack, and `*=` repeats texts.
pub(super) fn refuse(term: &Term<&str>) -> Result<(), String> {
    walk(term, &mut |term| match term {
        Term::Def(defs, _) => defs.iter().try_for_each(|def| match calls(&def.body, def.name, def.args.len()) {
            true => Err(format!("`def {}` calls itself; use reduce, recurse, while or until", def.name)),
            false => Ok(()),
        }),
        Term::BinOp(_, BinaryOp::UpdateMath(Math::Mul), _) => Err("`*=` cannot be used; write `|= . * …`".to_owned()),
        Term::Call(super::MAIN, _) => Err("the program cannot call itself".to_owned()),
        _ => Ok(()),
    })
}

fn calls(term: &Term<&str>, name: &str, arity: usize) -> bool {
    let found = walk(term, &mut |term| match term {
        Term::Call(called, args) if *called == name && args.len() == arity => Err(String::new()),
        _ => Ok(()),
    });
    found.is_err()
}

fn metered_def(def: Def<&str>, by: By) -> Def<&str> {
    Def { body: pipe(call(TICK), metered(def.body, by)), ..def }
}

fn call(name: &'static str) -> Term<&'static str> {
    Term::Call(name, Vec::new())
}

fn pipe<'s>(left: Term<&'s str>, right: Term<&'s str>) -> Term<&'s str> {
    Term::BinOp(Box::new(left), BinaryOp::Pipe(None), Box::new(right))
}

/// Who wrote a term. What jq's library adds up, it adds to something that nobody else has, so only what is added
/// costs: a text is joined in linear time. A program may add to the same value again and again.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum By {
    Library,
    Program,
}

/// The same program, with counters.
pub(super) fn metered<'s>(term: Term<&'s str>, by: By) -> Term<&'s str> {
    let metered = |term: Term<&'s str>| metered(term, by);
    let inner = |term: Box<Term<&'s str>>| Box::new(metered(*term));
    match term {
        Term::Id | Term::Num(_) | Term::Var(_) | Term::Break(_) => term,
        Term::Recurse => pipe(Term::Recurse, call(TICK)),
        Term::Str(format, parts) => {
            let plain = parts.iter().all(|part| !matches!(part, StrPart::Term(_)));
            let parts = parts.into_iter().map(|part| match part {
                StrPart::Term(term) => StrPart::Term(pipe(metered(term), call(WEIGH))),
                other => other,
            });
            let text = Term::Str(format, parts.collect());
            if plain { text } else { pipe(text, call(MADE)) }
        }
        Term::Arr(items) => pipe(Term::Arr(items.map(inner)), call(WEIGH)),
        Term::Obj(entries) => {
            // `{$x}` and `{"a"}` say by their form what the value is.
            let entries = entries.into_iter().map(|(key, value)| match value {
                Some(value) => (metered(key), Some(metered(value))),
                None => (key, None),
            });
            pipe(Term::Obj(entries.collect()), call(WEIGH))
        }
        Term::Neg(term) => Term::Neg(inner(term)),
        Term::BinOp(left, op, right) => metered_op(metered(*left), op, metered(*right), by),
        Term::Label(name, term) => Term::Label(name, inner(term)),
        Term::Fold(name, items, pattern, args) => {
            Term::Fold(name, inner(items), pattern, args.into_iter().map(metered).collect())
        }
        Term::TryCatch(term, catch) => Term::TryCatch(inner(term), catch.map(inner)),
        Term::IfThenElse(cases, other) => {
            let cases = cases.into_iter().map(|(condition, then)| (metered(condition), metered(then)));
            Term::IfThenElse(cases.collect(), other.map(inner))
        }
        Term::Def(defs, term) => Term::Def(defs.into_iter().map(|def| metered_def(def, by)).collect(), inner(term)),
        Term::Call(name, args) => {
            let called = Term::Call(name, args.into_iter().map(metered).collect());
            if !is_native(name) {
                called
            } else if SIZE_DOES_NOT_MATTER.contains(&name) {
                pipe(called, call(TICK))
            } else {
                pipe(call(WEIGH), pipe(called, call(WEIGH)))
            }
        }
        Term::Path(term, Path(parts)) => {
            let many = parts.iter().any(|(part, _)| matches!(part, Part::Range(..)));
            let parts = parts.into_iter().map(|(part, optional)| {
                let part = match part {
                    Part::Index(term) => Part::Index(metered(term)),
                    Part::Range(from, to) => Part::Range(from.map(metered), to.map(metered)),
                };
                (part, optional)
            });
            let path = Term::Path(inner(term), Path(parts.collect()));
            if many { pipe(path, call(TICK)) } else { path }
        }
    }
}

fn metered_op<'s>(left: Term<&'s str>, op: BinaryOp<&'s str>, right: Term<&'s str>, by: By) -> Term<&'s str> {
    let weighed = |term: Term<&'s str>| match term {
        Term::Num(_) | Term::Str(..) => term,
        other => pipe(other, call(WEIGH)),
    };
    match op {
        BinaryOp::Math(Math::Mul) => Term::Call(TIMES, vec![left, right]),
        BinaryOp::Math(Math::Add) if by == By::Library => {
            Term::BinOp(Box::new(left), op, Box::new(pipe(right, call(MADE))))
        }
        BinaryOp::Math(_) => pipe(Term::BinOp(Box::new(left), op, Box::new(right)), call(MADE)),
        BinaryOp::Cmp(_) => Term::BinOp(Box::new(weighed(left)), op, Box::new(weighed(right))),
        BinaryOp::Comma => Term::BinOp(Box::new(left), op, Box::new(pipe(call(TICK), right))),
        op => Term::BinOp(Box::new(left), op, Box::new(right)),
    }
}

/// Natives that do the same whatever the size of their input, or that leave the work to their argument.
const SIZE_DOES_NOT_MATTER: [&str; 10] =
    ["length", "has", "first", "last", "limit", "skip", "path", "path_value", "range", "error_empty"];

fn is_native(name: &str) -> bool {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| natives().map(|(name, ..)| name).collect()).contains(name)
}
