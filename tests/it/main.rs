//! The black-box tests: the library's seams from outside, and the built binary.

mod admin;
mod callbacks;
mod circle;
mod config;
mod contract;
mod cos_trigger;
mod daemon;
mod forward;
mod full_disk;
mod inquire;
mod layers;
mod life;
mod nothing_lost;
mod outbound;
mod peers;
mod port_run;
mod readme;
mod rig;
mod senders;
mod server;
mod store;
mod stub;
mod way_back;
mod whole_circle;
mod wire;
