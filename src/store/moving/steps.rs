//! The move, step by step. Each may be the last that a process does: the next one goes on.
//!
//! 1. The other store is marked as being filled: no callbackd begins on it.
//! 2. Rows are copied while the store is used, from the greatest id that the other has on; then, where it is used still, what
//!    has changed behind that.
//! 3. The store is held: nobody uses it, and nobody begins to.
//! 4. All rows of both are compared, and what differs is written.
//! 5. The store is marked as moved, then the other as whole. In between neither can be used, and never both.

use super::pass::{How, Tally, pass};
use super::{Ground, Mark};
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
        (self.from.place(), self.to.place())
    }

    /// Looks whether this move may be made, and marks the other store as being filled.
    pub async fn begin(&mut self) -> Result<Begun, StoreError> {
        let (here, there) = (self.from.place().to_owned(), self.to.place().to_owned());
        if here == there {
            return Err(StoreError::Refused(format!("{here} is both where from and where to")));
        }
        let (from, to) = (self.from.mark().await?, self.to.mark().await?);
        let refused = |why: String| Err(StoreError::Refused(why));
        match &from {
            Mark::Plain => {}
            Mark::Leaving(to) | Mark::Moved(to) if *to == there => {}
            other => {
                other.refusal(&here)?;
            }
        }
        match to {
            Mark::Filling(from) if from == here => Ok(Begun::Again),
            Mark::Filling(from) => refused(format!("{there} is being filled out of {from}; name another store")),
            Mark::Plain if matches!(from, Mark::Moved(_)) => {
                refused(format!("{here} was moved to {there} already, which is whole: nothing is left to do"))
            }
            Mark::Plain if self.to.count().await? > 0 => {
                refused(format!("{there} is in use: it holds rows that no move has brought; name an empty one"))
            }
            // The way back: what was moved here from there holds nothing that the other has not.
            Mark::Moved(to) | Mark::Leaving(to) if to != here => {
                refused(format!("{there} is a store that goes to {to}; name another one"))
            }
            Mark::Plain | Mark::Moved(_) | Mark::Leaving(_) => {
                if !self.to.hold(here.clone()).await? {
                    return refused(format!("{there} is in use by a callbackd; stop it first, or name another store"));
                }
                self.to.set_mark(Mark::Filling(here)).await?;
                Ok(Begun::Anew)
            }
        }
    }

    /// Copies what comes after all that the other has, while the store may be used.
    pub async fn fill(&mut self, watch: Watch<'_>) -> Result<(), StoreError> {
        self.all = self.from.count().await?;
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
        let to = self.to.place().to_owned();
        self.from.hold(to).await
    }

    /// Compares all rows, writes what differs, and gives the other store the word. Only what is held may be ended.
    pub async fn end(&mut self, watch: Watch<'_>) -> Result<Tally, StoreError> {
        let all = self.all;
        let tally = pass(&mut *self.from, &mut *self.to, How::Whole, &mut |seen| watch(seen, all)).await?;
        self.to.settle().await?;
        let there = self.to.place().to_owned();
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
        self.0.place()
    }

    /// Lets a store that was moved, or was to be, be used again: where it had gone.
    pub async fn undo(&mut self) -> Result<String, StoreError> {
        let place = self.place().to_owned();
        let refused = |why: String| Err(StoreError::Refused(why));
        let went = match self.0.mark().await? {
            Mark::Plain => return refused(format!("{place} was not moved: nothing is to be undone")),
            Mark::Moved(to) | Mark::Leaving(to) => to,
            Mark::Filling(from) => {
                return refused(format!(
                    "{place} is not whole: it is being filled out of {from}; to give that up, delete it"
                ));
            }
        };
        if !self.0.hold(went.clone()).await? {
            return refused(format!("{place} is in use"));
        }
        self.0.set_mark(Mark::Plain).await?;
        Ok(went)
    }
}
