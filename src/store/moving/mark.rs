//! What a store says of itself to who would use it, and how stores name one another.
//!
//! A store is known by what it is, not by how its URL is spelled: a file by its canonical path, a database by the server's
//! own identifier, its name and its schema. The URL is kept beside that, without a password, for commands that can be pasted.

use crate::store::StoreError;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// As it was reached, without a password.
    pub(crate) url: String,
    /// What it is, however it is reached.
    pub(crate) store: String,
    /// What marks call it that hold no more than a URL.
    pub(crate) formerly: String,
}

/// What a mark calls another store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) url: String,
    pub(crate) store: Option<String>,
}

impl Place {
    pub(crate) fn name(&self) -> Name {
        Name { url: self.url.clone(), store: Some(self.store.clone()) }
    }

    /// Whether it is this one that is meant.
    pub(crate) fn is(&self, name: &Name) -> bool {
        match &name.store {
            Some(store) => *store == self.store,
            None => name.url == self.formerly,
        }
    }
}

/// What a store says of itself to who would use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is to be used.
    #[default]
    Plain,
    /// It is being filled out of that one, and not whole.
    Filling(Name),
    /// It is being moved to that one, and not to be used any more.
    Leaving(Name),
    /// It was moved to that one.
    Moved(Name),
    /// That one is used again in its stead.
    Left(Name),
}

impl Mark {
    /// As it is stored: a word and a name; `None` for what needs no mark.
    pub(crate) fn parts(&self) -> Option<(&'static str, &Name)> {
        match self {
            Mark::Plain => None,
            Mark::Filling(from) => Some(("filling", from)),
            Mark::Leaving(to) => Some(("leaving", to)),
            Mark::Moved(to) => Some(("moved", to)),
            Mark::Left(other) => Some(("left", other)),
        }
    }

    pub(crate) fn of(state: &str, name: Name) -> Mark {
        match state {
            "filling" => Mark::Filling(name),
            "leaving" => Mark::Leaving(name),
            "left" => Mark::Left(name),
            _ => Mark::Moved(name),
        }
    }

    /// Why no callbackd begins on a store that says so.
    pub(crate) fn refusal(&self, place: &Place) -> Result<(), StoreError> {
        let here = &place.url;
        Err(StoreError::Unusable(match self {
            Mark::Plain => return Ok(()),
            Mark::Filling(from) => format!(
                "{here} is not whole: it is being filled out of {}; {} goes on with it",
                from.url,
                moving(&from.url, here)
            ),
            Mark::Leaving(to) => format!(
                "{here} is being moved to {}; {} ends that, and {} gives it up",
                to.url,
                moving(here, &to.url),
                undoing(here)
            ),
            Mark::Moved(to) => format!(
                "{here} was moved to {}: make that the store.url; {} lets this one be used again, without what the other has \
                 taken since",
                to.url,
                undoing(here)
            ),
            Mark::Left(other) => format!(
                "{here} was left for {}: make that the store.url; where that one refuses, too, {} ends what was begun; {} \
                 lets this one be used again instead, without what the other has taken since",
                other.url,
                undoing(&other.url),
                undoing(here)
            ),
        }))
    }
}

fn moving(from: &str, to: &str) -> String {
    format!("`callbackd move --from {} --to {}`", shell(from), shell(to))
}

/// As a person types it.
pub(super) fn undoing(here: &str) -> String {
    format!("`callbackd move --undo --from {}`", shell(here))
}

/// A URL, as a shell takes it.
fn shell(url: &str) -> String {
    let is_plain = url.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@,=%+".contains(&b));
    if is_plain { url.to_owned() } else { format!("'{}'", url.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str, store: &str) -> Place {
        Place { url: url.to_owned(), store: store.to_owned(), formerly: url.replace("u@", "") }
    }

    #[test]
    fn a_store_that_is_not_to_be_used_says_what_to_do() {
        let (here, other) = (place("sqlite:a.db", "1"), place("postgres://u@h/d?options=-csearch_path%3Ds", "2"));
        let why = |mark: Mark| mark.refusal(&here).expect_err("refused").to_string();
        assert!(why(Mark::Moved(other.name())).contains("was moved to postgres://u@h/d"));
        let filling = why(Mark::Filling(other.name()));
        let go_on = "`callbackd move --from 'postgres://u@h/d?options=-csearch_path%3Ds' --to sqlite:a.db`";
        assert!(filling.contains(go_on), "{filling}");
        assert!(why(Mark::Leaving(other.name())).contains("`callbackd move --undo --from sqlite:a.db`"));
        assert!(why(Mark::Left(other.name())).contains("was left for postgres://u@h/d"));
        Mark::Plain.refusal(&here).expect("to be used");
        let name = Name { url: "x".to_owned(), store: None };
        let marks =
            [Mark::Filling(name.clone()), Mark::Leaving(name.clone()), Mark::Left(name.clone()), Mark::Moved(name)];
        for mark in marks {
            let (state, name) = mark.parts().expect("stored");
            assert_eq!(Mark::of(state, name.clone()), mark);
        }
    }

    #[test]
    fn a_store_is_known_by_what_it_is_and_by_its_url_where_a_mark_holds_no_more() {
        let here = place("postgres://u@localhost/d", "postgres:7/d/public");
        assert!(here.is(&place("postgres://other@127.0.0.1:5432/d", "postgres:7/d/public").name()));
        assert!(!here.is(&place("postgres://u@localhost/d", "postgres:8/d/public").name()));
        assert!(here.is(&Name { url: "postgres://localhost/d".to_owned(), store: None }));
        assert!(!here.is(&Name { url: "postgres://127.0.0.1/d".to_owned(), store: None }));
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(shell("sqlite:/var/lib/a-b_c.db"), "sqlite:/var/lib/a-b_c.db");
        assert_eq!(shell("sqlite:/it's $HOME"), "'sqlite:/it'\\''s $HOME'");
    }
}
