//! Placeholder.
use super::Kind;
pub(super) const KIND: Kind = Kind { name: "webhook", aliases: &[], build: |_, _| Err(vec![]), examine: |_| Ok(()) };
