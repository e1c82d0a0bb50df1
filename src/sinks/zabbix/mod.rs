//! Zabbix: what is known of its API, and what a change becomes there.

pub mod api;
pub mod value;
