//! The way back without the rows: a store that was moved, or left, is used again, and the other is not any more.
//!
//! First the other is marked as left, then this one as to be used: in between neither can be used, and never both. Killed
//! there, it goes on when it is run again.

use super::Mark;
use super::mark::undoing;
use super::steps::{Opened, refused};
use crate::store::StoreError;

/// The store that may have been used since.
pub enum Other {
    /// What stands where it went.
    There(Opened),
    /// This is it, says who has to know: it is reached otherwise now.
    Named(Opened),
    /// It is gone for good, says who has to know.
    Gone,
}

/// What was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// Where the store had gone.
    pub went: String,
    /// Whether a move to there had not been ended.
    pub was_under_way: bool,
}

impl Opened {
    /// Where it went, and might be used; `None` where nobody can use the other anyway. Refused where it went nowhere.
    pub async fn went(&mut self) -> Result<Option<String>, StoreError> {
        let place = self.0.place().clone();
        match self.0.stand().await?.mark {
            Mark::Plain => refused(format!("{} was not moved: nothing is to be undone", place.url)),
            Mark::Filling(from) => refused(format!(
                "{} is not whole: it is being filled out of {}; to give that up, delete it",
                place.url, from.url
            )),
            Mark::Leaving(_) => Ok(None),
            Mark::Moved(other) | Mark::Left(other) => Ok(Some(other.url)),
        }
    }

    /// Lets it be used again, and the other not any more; that is left out only where nobody can use it.
    pub async fn undo(&mut self, other: Option<Other>) -> Result<Undone, StoreError> {
        let mark = self.0.stand().await?.mark;
        let Some((_, went)) = mark.parts().map(|(state, name)| (state, name.clone())) else {
            return refused(format!("{} was not moved: nothing is to be undone", self.place()));
        };
        let place = self.0.place().clone();
        let mut was_under_way = matches!(mark, Mark::Leaving(_));
        if matches!(mark, Mark::Filling(_)) || other.is_none() && !was_under_way {
            return refused(format!("{} cannot be used without a look at {}", place.url, went.url));
        }
        if !self.0.hold(mark).await? {
            return refused(format!(
                "{} is in use, by a callbackd that begins, or by another `callbackd move`",
                place.url
            ));
        }
        match other {
            Some(Other::There(other)) if !other.0.place().is(&went) => {
                return refused(format!("{} is not the store that {} went to", other.place(), place.url));
            }
            Some(Other::There(other) | Other::Named(other)) if !was_under_way => {
                was_under_way = self.leave(other).await?;
            }
            _ => {}
        }
        self.0.set_mark(Mark::Plain).await?;
        Ok(Undone { went: went.url, was_under_way })
    }

    /// Marks the other as left for this one; whether it was not whole anyway.
    async fn leave(&mut self, mut other: Opened) -> Result<bool, StoreError> {
        let (here, there) = (self.0.place().clone(), other.0.place().clone());
        if here.store == there.store {
            return refused(format!("{} is both the one and the other", here.url));
        }
        let left = Mark::Left(here.name());
        let (left, is_under_way) = match other.0.stand().await?.mark {
            Mark::Plain => (left, false),
            Mark::Left(of) | Mark::Moved(of) | Mark::Leaving(of) if here.is(&of) => (left, false),
            // Killed between its last two words.
            filling @ Mark::Filling(_) if matches!(&filling, Mark::Filling(of) if here.is(of)) => (filling, true),
            Mark::Filling(of) => {
                return refused(format!("{} is being filled out of {}, and is another store now", there.url, of.url));
            }
            Mark::Left(on) | Mark::Moved(on) | Mark::Leaving(on) => {
                return refused(format!(
                    "{} went on to {}, which may be used; first {}, or move that one here",
                    there.url,
                    on.url,
                    undoing(&there.url)
                ));
            }
        };
        if !other.0.hold(left.clone()).await? {
            // Nobody's lock outlives him; that he is silent is noticed late.
            let killed =
                if there.url.starts_with("sqlite:") { "" } else { " (one that was killed counts for another 30 s)" };
            return refused(format!(
                "{} is in use; stop every callbackd that uses it{killed}, and run this again",
                there.url
            ));
        }
        other.0.set_mark(left).await?;
        Ok(is_under_way)
    }
}
