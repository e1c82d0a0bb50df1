//! Which configuration holds: since when, and whether a newer one was refused.

use std::path::{Path, PathBuf};

use super::Measures;
use crate::model::Time;
use crate::options::Size;

/// The configuration that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The file it was read from, wherever one looks from.
    pub file: Option<PathBuf>,
    /// What the store may take of its disk.
    pub disk_max: Option<Size>,
    /// When it was read.
    pub read_at: Time,
    /// What came of reading it again since, if that did not do.
    pub refused: Option<Refused>,
}

/// A configuration that does not hold, because something is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it was read.
    pub at: Time,
    /// What is wrong.
    pub reason: String,
}

impl Measures {
    /// The configuration that holds.
    pub fn configuration(&self) -> Configuration {
        super::locked(&self.configuration).clone()
    }

    /// This file holds from now on.
    pub fn is_configured(&self, file: Option<&Path>, disk_max: Size, now: Time) {
        let file = file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        *super::locked(&self.configuration) =
            Configuration { file, disk_max: Some(disk_max), read_at: now, refused: None };
    }

    /// It was read again, and does not do.
    pub fn is_refused(&self, reason: &str, now: Time) {
        // One fault a line; here they stand in one.
        let reason = reason.replace('\n', "; ");
        super::locked(&self.configuration).refused = Some(Refused { at: now, reason });
    }
}
