//! The black-box tests: the library's seams from outside, and the built binary.

mod config;
mod admin;
mod layers;
mod outbound;
mod peers;
mod port_run;
mod server;
mod store;
mod stub;
mod wire;
