//! The black-box tests: the library's seams from outside, and the built binary.

mod admin;
mod circle;
mod config;
mod contract;
mod forward;
mod layers;
mod outbound;
mod peers;
mod port_run;
mod rig;
mod server;
mod store;
mod stub;
mod wire;
