//! The black-box tests: the library's seams from outside, and the built binary.

mod admin;
mod astrom;
mod callbacks;
mod circle;
mod config;
mod contract;
mod daemon;
mod forward;
mod full_disk;
mod inquire;
mod layers;
mod life;
mod nothing_lost;
mod outbound;
mod peers;
mod port_entity;
mod port_run;
mod proxy;
mod readme;
mod rig;
mod secmaster;
mod senders;
mod server;
mod store;
mod stub;
mod wire;
