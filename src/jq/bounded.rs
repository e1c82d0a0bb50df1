//! Which programs end by construction: judged on the syntax tree, construct by construct. What is not known to end is
//! refused, with its name and with what can be used instead.

use jaq_core::load::parse::{BinaryOp, Term};
use jaq_core::ops::Math;

use super::said;
use super::tree::walk;

/// Functions that go over their input once, by name and number of arguments. (`test` and its like take time linear in
/// the text: the regular expressions are automata.)
const FUNCTIONS: [(&str, &[usize]); 48] = [
    ("add", &[0, 1]),
    ("all", &[0, 1, 2]),
    ("any", &[0, 1, 2]),
    ("ascii_downcase", &[0]),
    ("ascii_upcase", &[0]),
    ("capture", &[1, 2]),
    ("contains", &[1]),
    ("empty", &[0]),
    ("endswith", &[1]),
    ("false", &[0]),
    ("first", &[0, 1]),
    ("gsub", &[2, 3]),
    ("has", &[1]),
    ("IN", &[1, 2]),
    ("in", &[1]),
    ("index", &[1]),
    ("inside", &[1]),
    ("isempty", &[1]),
    ("join", &[1]),
    ("keys", &[0]),
    ("last", &[0, 1]),
    ("length", &[0]),
    ("ltrimstr", &[1]),
    ("map", &[1]),
    ("match", &[1, 2]),
    ("max", &[0]),
    ("min", &[0]),
    ("not", &[0]),
    ("null", &[0]),
    ("rtrimstr", &[1]),
    ("select", &[1]),
    ("split", &[1, 2]),
    ("startswith", &[1]),
    ("sub", &[2, 3]),
    ("test", &[1, 2]),
    ("tojson", &[0]),
    ("tonumber", &[0]),
    ("tostring", &[0]),
    ("trim", &[0]),
    ("true", &[0]),
    ("type", &[0]),
    ("values", &[0]),
    ("@text", &[0]),
    ("@json", &[0]),
    ("@uri", &[0]),
    ("@html", &[0]),
    ("@base64", &[0]),
    ("@base64d", &[0]),
];

/// Refuses a program that is not known to end.
pub(super) fn refuse(program: &Term<&str>) -> Result<(), String> {
    walk(program, &mut |term| match construct(term) {
        None => Ok(()),
        Some(name) => Err(refusal(&name)),
    })
}

fn refusal(name: &str) -> String {
    let functions: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    format!(
        "`{name}` cannot be used here{}; a program has to end by construction, and what can be used is: paths, literals, \
         [ ], {{ }}, comparisons, and, or, //, if, + and -, `as $x`, and {}",
        said::instead(name),
        functions.join(", ")
    )
}

/// The name of a construct that cannot be used.
fn construct(term: &Term<&str>) -> Option<String> {
    let name = match term {
        Term::Call(name, args) => {
            let arity = args.len();
            return match FUNCTIONS.iter().find(|(known, _)| known == name) {
                Some((_, arities)) if arities.contains(&arity) => None,
                Some(_) => Some(format!("{name}/{arity}")),
                None => Some((*name).to_owned()),
            };
        }
        Term::Str(Some(format), _) if !FUNCTIONS.iter().any(|(known, _)| known == format) => *format,
        Term::Recurse => "..",
        Term::Def(..) => "def",
        Term::Fold(name, ..) => name,
        Term::Label(..) => "label",
        Term::Break(_) => "break",
        Term::BinOp(_, op, _) => match op {
            BinaryOp::Math(math @ (Math::Mul | Math::Div | Math::Rem)) => math.as_str(),
            BinaryOp::Assign => "=",
            BinaryOp::Update => "|=",
            BinaryOp::UpdateMath(math) => return Some(format!("{}=", math.as_str())),
            BinaryOp::UpdateAlt => "//=",
            BinaryOp::Pipe(_)
            | BinaryOp::Comma
            | BinaryOp::Alt
            | BinaryOp::Or
            | BinaryOp::And
            | BinaryOp::Math(Math::Add | Math::Sub)
            | BinaryOp::Cmp(_) => return None,
        },
        Term::Id
        | Term::Num(_)
        | Term::Str(..)
        | Term::Arr(_)
        | Term::Obj(_)
        | Term::Neg(_)
        | Term::TryCatch(..)
        | Term::IfThenElse(..)
        | Term::Var(_)
        | Term::Path(..) => return None,
    };
    Some(name.to_owned())
}
