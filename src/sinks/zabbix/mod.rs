//! Zabbix: what is known of its API, and what a change becomes there.

mod action;
pub mod api;
pub mod apply;
pub mod value;
