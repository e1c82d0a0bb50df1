//! `/openapi.json`: what can be asked here, for programs that make clients, tests and pages out of it (OpenAPI 3.1).
//!
//! It is made from the table of operations and from the types that are answered, by the tests, which compare it with the
//! file that the program holds: `BLESS=1 cargo test --lib openapi` writes it anew.

/// The description, as it is served.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests;
