//! The black-box tests: the library's seams from outside, and the built binary.

mod store;
