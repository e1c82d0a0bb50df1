//! The black-box tests.

mod config;
