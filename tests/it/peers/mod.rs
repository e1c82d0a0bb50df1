//! Peers that the daemon and its parts are tested against: strict, or broken on purpose.

pub(crate) mod astrom;
pub(crate) mod ci;
pub(crate) mod hook;
pub(crate) mod port;
pub(crate) mod proxy;
pub(crate) mod scripted;
pub(crate) mod secmaster;
mod served;
pub(crate) mod zabbix;
