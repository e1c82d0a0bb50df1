//! The black-box tests: the library's seams from outside, and the built binary.

mod admin;
mod config;
mod layers;
mod outbound;
mod peers;
mod port_run;
mod readme;
mod server;
mod store;
mod stub;
mod wire;
