//! Reads a JSON body as it comes, without a tree: every member is an element of the same name.
//!
//! Lists that were collapsed to their only entry, numbers written as texts and texts as numbers, and `null` for what is
//! absent need no rule of their own that way.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::super::ParseError;
use super::draft::{Draft, Limits};
use super::wire::Body;

/// Reads `text` to its end.
pub(super) fn read(text: &str, limits: Limits) -> Result<Body<'_>, ParseError> {
    let mut draft = Draft::new(limits);
    let mut json = serde_json::Deserializer::from_str(text);
    let outermost = Entry { draft: &mut draft, name: None };
    outermost.deserialize(&mut json).and_then(|()| json.end()).map_err(|e| ParseError(format!("in JSON: {e}")))?;
    draft.finish()
}

/// The value of the member `name`, or the outermost one.
struct Entry<'d, 'n, 'a> {
    draft: &'d mut Draft<'a>,
    name: Option<&'n str>,
}

impl<'a> Entry<'_, '_, 'a> {
    fn value<E: Error>(self, text: Cow<'a, str>) -> Result<(), E> {
        if text.contains('\0') {
            return Err(E::custom("a text holds U+0000, which no store keeps"));
        }
        self.element(|draft| draft.text(text).map_err(E::custom))
    }

    fn element<E: Error>(self, inside: impl FnOnce(&mut Draft<'a>) -> Result<(), E>) -> Result<(), E> {
        let Some(name) = self.name else {
            return inside(self.draft);
        };
        self.draft.open(name).map_err(E::custom)?;
        inside(self.draft)?;
        self.draft.close().map_err(E::custom)
    }
}

impl<'a> DeserializeSeed<'a> for Entry<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Entry<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a callback")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<(), E> {
        self.value(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.value(Cow::Owned(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<(), E> {
        self.value(Cow::Owned(truth.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.value(Cow::Owned(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.value(Cow::Owned(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.value(Cow::Owned(number.to_string()))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut list: S) -> Result<(), S::Error> {
        self.draft.deepen().map_err(S::Error::custom)?;
        while list.next_element_seed(Entry { draft: &mut *self.draft, name: self.name })?.is_some() {}
        self.draft.rise();
        Ok(())
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<(), M::Error> {
        self.element(|draft| {
            while let Some(Name(name)) = members.next_key_seed(Name::default())? {
                members.next_value_seed(Entry { draft: &mut *draft, name: Some(&name) })?;
            }
            Ok(())
        })
    }
}

/// The name of a member, borrowed where it holds no escape.
#[derive(Default)]
struct Name<'a>(Cow<'a, str>);

impl<'a> DeserializeSeed<'a> for Name<'a> {
    type Value = Name<'a>;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Name<'a>, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name<'a> {
    type Value = Name<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'a str) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name<'a>, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}
