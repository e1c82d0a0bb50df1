//! The black-box tests.

mod outbound;
mod peers;
mod port_run;
