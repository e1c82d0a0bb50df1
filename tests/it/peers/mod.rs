//! Peers that the daemon and its parts are tested against: strict, or broken on purpose.

pub(crate) mod ci;
pub(crate) mod hook;
pub(crate) mod port;
pub(crate) mod scripted;
