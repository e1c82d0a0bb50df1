//! The black-box tests.

mod outbound;
mod peers;
