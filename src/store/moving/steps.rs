//! The move, step by step. Each may be the last that a process does: the next one goes on.
//!
//! 1. The other store is marked as being filled: no callbackd begins on it.
//! 2. Rows are copied while the store is used, from the greatest id that the other has on; then, where it is used still, what
//!    has changed behind that.
//! 3. The store is held: nobody uses it, and nobody begins to.
//! 4. All rows of both are compared, and what differs is written.
//! 5. The store is marked as moved, then the other as whole. In between neither can be used, and never both.

use super::mark::undoing;
use super::pass::{How, Tally, pass};
use super::{Ground, Mark, Standing};
use crate::store::StoreError;

/// Told how many rows of how many were seen.
type Watch<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// A store that was opened to be moved, or to be filled.
pub struct Opened(pub(crate) Box<dyn Ground>);

/// A store, and where it goes.
pub struct Move {
    from: Box<dyn Ground>,
    to: Box<dyn Ground>,
    /// Rows that there were when somebody counted: to be counted takes long.
    all: u64,
}

/// How a move stands at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing of it was done.
    Anew,
    /// It goes on.
    Again,
}

impl Move {
    /// Nothing is done yet.
    pub fn of(from: Opened, to: Opened) -> Move {
        Move { from: from.0, to: to.0, all: 0 }
    }

    /// Where from, and where to.
    pub fn places(&self) -> (&str, &str) {
        (&self.from.place().url, &self.to.place().url)
    }

    /// Looks whether this move may be made, and marks the other store as being filled. Until then nothing is made or changed.
    pub async fn begin(&mut self) -> Result<Begun, StoreError> {
        let (from, to) = (self.from.stand().await?, self.to.stand().await?);
        let begun = self.judge(&from, &to)?;
        // What cannot be read is no reason to mark the other.
        self.all = self.from.count().await?;
        let (here, there) = (self.from.place().name(), self.to.place().url.clone());
        if !self.to.hold(Mark::Filling(here.clone())).await? {
            return refused(format!("{there} is in use; stop who uses it, or name another store"));
        }
        // Somebody may have begun on it, and ended, since it was looked at.
        if to.is_empty && to.mark == Mark::Plain && self.to.count().await? > 0 {
            self.to.set_mark(Mark::Plain).await?;
            return refused(in_use(&there));
        }
        self.to.set_mark(Mark::Filling(here)).await?;
        Ok(begun)
    }

    fn judge(&self, from: &Standing, to: &Standing) -> Result<Begun, StoreError> {
        let (from_place, to_place) = (self.from.place(), self.to.place());
        let (here, there) = (&from_place.url, &to_place.url);
        if from_place.store == to_place.store {
            return refused(format!("{here} is both where from and where to"));
        }
        match &from.mark {
            Mark::Plain => {}
            Mark::Leaving(to) | Mark::Moved(to) if to_place.is(to) => {}
            other => other.refusal(from_place)?,
        }
        match &to.mark {
            Mark::Filling(from) if from_place.is(from) => Ok(Begun::Again),
            Mark::Filling(from) => refused(format!("{there} is being filled out of {}; name another store", from.url)),
            Mark::Plain if matches!(from.mark, Mark::Moved(_)) => {
                refused(format!("{here} was moved to {there} already, which is whole: nothing is left to do"))
            }
            Mark::Plain if !to.is_empty => refused(in_use(there)),
            Mark::Plain => Ok(Begun::Anew),
            // The way back: what was moved here from there holds nothing that the other has not; unless that was lost since.
            Mark::Moved(other) if from_place.is(other) && from.is_empty && !to.is_empty => refused(format!(
                "{here} holds nothing, and {there}, which was moved to it, would hold nothing afterwards; {} lets that one be \
                 used again",
                undoing(there)
            )),
            Mark::Moved(other) if from_place.is(other) => Ok(Begun::Anew),
            // It may hold what nobody else does.
            Mark::Moved(other) | Mark::Leaving(other) | Mark::Left(other) => refused(format!(
                "{there} is a store with rows of its own, which goes to {}; name another one, or delete it first",
                other.url
            )),
        }
    }

    /// Copies what comes after all that the other has, while the store may be used.
    pub async fn fill(&mut self, watch: Watch<'_>) -> Result<(), StoreError> {
        let (all, had) = (self.all, self.to.count().await?);
        let (from, to) = (&mut *self.from, &mut *self.to);
        pass(from, to, How::Fill, &mut |seen| watch(had + seen, all)).await.map(drop)
    }

    /// The same again, of what has come meanwhile.
    pub async fn catch_up(&mut self) -> Result<(), StoreError> {
        pass(&mut *self.from, &mut *self.to, How::Fill, &mut |_| {}).await.map(drop)
    }

    /// Writes what has changed behind that meanwhile, so that little is left for the end.
    pub async fn sweep(&mut self, watch: Watch<'_>) -> Result<(), StoreError> {
        let all = self.all;
        pass(&mut *self.from, &mut *self.to, How::Whole, &mut |seen| watch(seen, all)).await.map(drop)
    }

    /// Whether the store is nobody's from now on.
    pub async fn hold(&mut self) -> Result<bool, StoreError> {
        let to = self.to.place().name();
        self.from.hold(Mark::Leaving(to)).await
    }

    /// Compares all rows, writes what differs, and gives the other store the word. Only what is held may be ended.
    pub async fn end(&mut self, watch: Watch<'_>) -> Result<Tally, StoreError> {
        let all = self.all;
        let tally = pass(&mut *self.from, &mut *self.to, How::Whole, &mut |seen| watch(seen, all)).await?;
        self.to.settle().await?;
        let (here, there) = (self.from.place().name(), self.to.place().name());
        // Before anything is given up: that it is still this one who fills it, and that its standbys have what was written.
        self.to.set_mark(Mark::Filling(here)).await?;
        self.from.set_mark(Mark::Moved(there)).await?;
        self.to.set_mark(Mark::Plain).await?;
        Ok(tally)
    }

    /// Compares all rows, and writes nothing.
    pub async fn verify(&mut self, watch: Watch<'_>) -> Result<Tally, StoreError> {
        let all = self.from.count().await?;
        pass(&mut *self.from, &mut *self.to, How::Look, &mut |seen| watch(seen, all)).await
    }
}

impl Opened {
    /// Where it is, without secrets.
    pub fn place(&self) -> &str {
        &self.0.place().url
    }
}

fn in_use(place: &str) -> String {
    format!("{place} is in use: it holds rows that no move has brought; name an empty one")
}

pub(super) fn refused<T>(why: String) -> Result<T, StoreError> {
    Err(StoreError::Refused(why))
}
