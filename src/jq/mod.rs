//! jq: the one small language in which routes, links and sinks select and shape. Its input is the `data` of the
//! normalized change.
//!
//! A program is compiled once and run from several threads. It sees its input and nothing else: no file, no
//! environment, no clock, no further input. Every run is metered (`meter`), so that it ends and stays small whatever
//! the program and the data are; what runs in the storing transaction must, beyond that, end by construction
//! (`bounded`). Faults name the data by its type, never by its content, which may be personal.
//!
//! The language is that of the jq manual, as far as jaq takes it.

use std::cell::Cell;

use jaq_core::load::lex::{Lexer, Tok, Token};
use jaq_core::load::parse::{Def, Parser, Term};
use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Filter, Vars};
use serde_json::Value;

use crate::model;
use meter::{Metered, Work};

mod bounded;
mod meter;
mod said;
mod tree;
mod value;

/// A longer program is refused, in bytes.
const PROGRAM_BYTES_MAX: usize = 4096;
/// So are more words and signs, and deeper brackets: the parser calls itself for each, on a stack that is large enough.
const TOKENS_MAX: usize = 1000;
const NESTING_MAX: usize = 64;
const STACK_BYTES: usize = 32 << 20;
/// What is read on the caller's own stack.
const SHORT_BYTES_MAX: usize = 200;
const SHORT_BRACKETS_MAX: usize = 8;
/// A run calls itself for each level of the program, on whatever stack it is given.
const LEVELS_MAX: usize = 100;
/// More results are a fault.
const RESULTS_MAX: usize = 1000;
/// What a run may cost, in the steps of [`meter`]: some tenths of a second, and 64 MB.
const STEPS_MAX: u64 = 1_000_000;

/// What the program is called as, by the one word of the main module.
const MAIN: &str = "callbackd_program";

/// Says what of a program cannot be used.
type Refuse = fn(&Term<&str>) -> Result<(), String>;

/// A compiled jq program.
pub struct Jq {
    text: String,
    filter: Filter<Metered>,
}

impl Jq {
    /// Compiles any program: for a sink, which runs it outside of the storing transaction, under a deadline.
    pub fn compile(program: &str) -> Result<Jq, String> {
        Jq::build(program, meter::refuse)
    }

    /// Compiles a program that ends by construction: paths, comparisons, tests and string functions; no `def`,
    /// `recurse`, `range` or loop. For what runs in the storing transaction.
    pub fn compile_bounded(program: &str) -> Result<Jq, String> {
        Jq::build(program, bounded::refuse)
    }

    fn build(text: &str, refuse: Refuse) -> Result<Jq, String> {
        let not_jq = || Err("this is not jq".to_owned());
        // A short one needs no more stack than any thread has, and a thread leaves memory behind.
        if text.len() <= SHORT_BYTES_MAX && text.bytes().filter(|b| b"([{".contains(b)).count() <= SHORT_BRACKETS_MAX {
            return std::panic::catch_unwind(|| Jq::build_here(text, refuse)).unwrap_or_else(|_| not_jq());
        }
        std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("jq".to_owned()).stack_size(STACK_BYTES);
            let thread = builder.spawn_scoped(scope, || Jq::build_here(text, refuse));
            let thread = thread.map_err(|e| format!("no thread to read this program: {e}"))?;
            thread.join().unwrap_or_else(|_| not_jq())
        })
    }

    fn build_here(text: &str, refuse: Refuse) -> Result<Jq, String> {
        if text.len() > PROGRAM_BYTES_MAX {
            return Err(format!("a jq program is at most {PROGRAM_BYTES_MAX} bytes long"));
        }
        let deep = text.bytes().try_fold(0, |depth: usize, byte| match byte {
            b'(' | b'[' | b'{' => Some(depth + 1).filter(|&d| d <= NESTING_MAX),
            b')' | b']' | b'}' => Some(depth.saturating_sub(1)),
            _ => Some(depth),
        });
        let tokens = Lexer::new(text).lex().map_err(|faults| said::of_words(&faults))?;
        if deep.is_none() || count(&tokens) > TOKENS_MAX {
            return Err(format!("a jq program has at most {TOKENS_MAX} words and signs, {NESTING_MAX} brackets deep"));
        }
        let parsed = Parser::new(&tokens).parse(|p| p.term());
        let term = parsed.map_err(|faults| said::of_sentence(&faults))?;
        if tree::levels(&term) > LEVELS_MAX {
            return Err(format!("a jq program is at most {LEVELS_MAX} levels deep; shorten its longest chain"));
        }
        refuse(&term)?;

        let library = meter::library(&term);
        let body = meter::metered(term, meter::By::Program);
        let program = Def { name: MAIN, args: Vec::new(), body };
        let arena = Arena::default();
        let loaded = Loader::new(library.into_iter().chain([program])).load(&arena, File { code: MAIN, path: () });
        // Nothing is read from elsewhere, and the one word of the main module is jq.
        let modules = loaded.map_err(|_| "this is not jq".to_owned())?;
        let filter = Compiler::default().with_funs(meter::natives()).compile(modules);
        let filter = filter.map_err(|faults| said::of_names(&faults))?;
        Ok(Jq { text: text.to_owned(), filter })
    }

    /// Its results on `data`.
    pub fn run(&self, data: &Value) -> Result<Vec<Value>, String> {
        self.run_within(STEPS_MAX, data)
    }

    fn run_within(&self, steps: u64, data: &Value) -> Result<Vec<Value>, String> {
        let left = Cell::new(steps);
        let work = Work { lut: &self.filter.lut, left: &left };
        let context = Ctx::<Metered>::new(work, Vars::new([]));
        let mut results = Vec::new();
        for result in self.filter.id.run((context, value::from_json(data))) {
            let value = result.and_then(|value| work.weigh(&value).map(|()| value));
            results.push(value::into_json(&value.map_err(|exception| said::of_run(exception, &self.text))?));
            if results.len() > RESULTS_MAX {
                return Err(format!("the program has more than {RESULTS_MAX} results"));
            }
        }
        Ok(results)
    }
}

/// How many tokens there are, those in brackets and in strings included.
fn count(tokens: &[Token<&str>]) -> usize {
    let inner = tokens.iter().map(|Token(_, token)| match token {
        Tok::Block(inner) => count(inner),
        Tok::Str(parts) => parts.len().saturating_mul(2),
        _ => 0,
    });
    tokens.len() + inner.sum::<usize>()
}

impl model::Program for Jq {
    fn written(&self) -> &str {
        &self.text
    }

    /// As jq's `if` has it: anything but `null` and `false`; of several results, any.
    fn test(&self, data: &Value) -> Result<bool, String> {
        Ok(self.run(data)?.iter().any(|result| !matches!(result, Value::Null | Value::Bool(false))))
    }

    fn text(&self, data: &Value) -> Result<Option<String>, String> {
        match self.run(data)?.into_iter().next() {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(plain @ (Value::Bool(_) | Value::Number(_))) => Ok(Some(plain.to_string())),
            Some(Value::Array(_)) => Err("a key must be a text, and this is an array".to_owned()),
            Some(Value::Object(_)) => Err("a key must be a text, and this is an object".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
