//! How far long work is: one line on a terminal, and nothing anywhere else. It stands on stderr, so that what a command
//! has to say is not mixed with it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The line is written again after this time, not sooner.
const EVERY: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// One line, written over and over; gone when this is dropped.
pub(super) struct Progress {
    what: &'static str,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn of(what: &'static str) -> Progress {
        Progress { what, shown: None, is_terminal: std::io::stderr().is_terminal() }
    }

    /// `done` of `all`.
    pub(super) fn at(&mut self, done: u64, all: u64) {
        self.show(|what| line(what, done, all));
    }

    /// What goes on, where nobody knows how long it takes.
    pub(super) fn doing(&mut self, step: &str) {
        self.show(|what| format!("{what}: {step}"));
    }

    fn show(&mut self, text: impl FnOnce(&str) -> String) {
        if !self.is_terminal || self.shown.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        // Whoever cannot see it misses nothing that matters.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", text(self.what));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, all: u64) -> String {
    let (done, all) = (done.min(all), all.max(1));
    let filled = usize::try_from(u128::from(done) * WIDTH as u128 / u128::from(all)).unwrap_or(WIDTH);
    let percent = u128::from(done) * 100 / u128::from(all);
    format!("{what} [{}{}] {percent:3} %  {done} of {all}", "#".repeat(filled), ".".repeat(WIDTH - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        assert_eq!(line("copying", 0, 4), "copying [..............................]   0 %  0 of 4");
        assert_eq!(line("copying", 2, 4), "copying [###############...............]  50 %  2 of 4");
        assert_eq!(line("copying", 9, 4), "copying [##############################] 100 %  4 of 4");
        assert_eq!(line("copying", 0, 0), "copying [..............................]   0 %  0 of 1");
    }
}
