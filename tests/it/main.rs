//! The black-box tests.

mod admin;
mod server;
mod stub;
mod wire;
