//! Placeholder.
use super::Kind;
pub(super) const KIND: Kind = Kind { name: "port_run", aliases: &[], build: |_, _| Err(vec![]), examine: |_| Ok(()) };
