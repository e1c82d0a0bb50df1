//! A disk for SQLite that records what it is asked, and fails where it is told to.
//!
//! [`register`] puts it under every SQLite connection of the process, in front of the system's own: whatever the store
//! does to its files passes through here. `callbackd-on-vfs` is the daemon's own command line on it, steered from outside:
//!
//! - `DISK_TAPE` names a file to which every change of the store's files is appended ([`tape`]);
//! - `DISK_FAULTS` names a file that says which calls fail, and how ([`faults`]). It is read before each call, so
//!   another process changes it while the daemon runs.
//!
//! This is the only crate here that may be unsafe, and only in `vfs.rs`: that is how SQLite is spoken to.

pub mod faults;
pub mod tape;
mod vfs;

pub use vfs::register;

/// The environment variable that names the tape.
pub const TAPE: &str = "DISK_TAPE";
/// The environment variable that names the file of faults.
pub const FAULTS: &str = "DISK_FAULTS";
