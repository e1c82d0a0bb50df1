//! A [`Body`] while it is read, whichever format it came in.
//!
//! XML and JSON both call [`Draft::open`], [`Draft::text`] and [`Draft::close`], so they cannot come to mean different
//! things: a JSON member is an element, an array is its element repeated, a number is its text, `null` is nothing.
//! Depth and number of elements are bounded here, for both. What is ambiguous is refused, never repaired: a value said
//! twice and differently, or one that holds elements.

use std::borrow::Cow;

use super::super::ParseError;
use super::wire::{Body, Node, Place, Text};

/// How large a body may be, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) elements_max: usize,
    pub(super) depth_max: usize,
}

/// Workflow runs, jobs and tasks of one body. What a body costs beside its bytes is bounded by them: the rows it makes,
/// and what has to be compared with one another. The largest workflow that can be drawn has some dozens of nodes.
const PARTS_MAX: usize = 1000;

pub(super) struct Draft<'a> {
    body: Body<'a>,
    limits: Limits,
    elements: usize,
    depth: usize,
    /// The known element that is open.
    at: Place<'a>,
    /// What holds it, when it is a text.
    around: Node,
    /// How many elements are open that we do not know.
    skipped: usize,
    text: Text<'a>,
    wrapped: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(limits: Limits) -> Draft<'a> {
        Draft {
            body: Body::default(),
            limits,
            elements: 0,
            depth: 0,
            at: Place::In(Node::Document),
            around: Node::Document,
            skipped: 0,
            text: None,
            wrapped: false,
        }
    }

    /// An element begins.
    pub(super) fn open(&mut self, name: &str) -> Result<(), ParseError> {
        self.deepen()?;
        if self.skipped > 0 {
            self.skipped += 1;
            return Ok(());
        }
        let Place::In(node) = self.at else {
            return Err(ParseError(format!("{} stands where a text has to be", quote(name))));
        };
        if node == Node::Document && self.outer(name)? {
            self.at = Place::In(Node::Response);
            return Ok(());
        }
        match self.body.place(node, name) {
            Some(place) => {
                (self.at, self.around) = (place, node);
                if self.body.parts > PARTS_MAX {
                    return Err(too_many());
                }
            }
            None => {
                self.skipped = 1;
                if matches!(node, Node::Document | Node::Response) && self.body.stranger.is_none() {
                    self.body.stranger = Some(quote(name));
                }
            }
        }
        Ok(())
    }

    /// Text inside the element that is open; it may come in pieces.
    pub(super) fn text(&mut self, more: Cow<'a, str>) -> Result<(), ParseError> {
        if self.skipped > 0 {
            return Ok(());
        }
        match (self.at, &mut self.text) {
            (Place::In(Node::Document), _) if !more.trim_ascii().is_empty() => {
                return Err(ParseError(format!("{} stands outside of any element", quote(&more))));
            }
            (Place::In(_), _) => {}
            (_, held @ None) => *held = Some(more),
            (_, Some(held)) => held.to_mut().push_str(&more),
        }
        Ok(())
    }

    /// The element that was opened last ends.
    pub(super) fn close(&mut self) -> Result<(), ParseError> {
        self.depth -= 1;
        if self.skipped > 0 {
            self.skipped -= 1;
            return Ok(());
        }
        let (slot, text) = match self.at {
            Place::In(node) => {
                self.at = Place::In(node.parent(self.wrapped));
                return Ok(());
            }
            Place::Word(slot) => (slot, self.text.take().map(trimmed)),
            Place::Free(slot) => (slot, self.text.take()),
        };
        self.at = Place::In(self.around);
        // A slot is asked for even when there is nothing to keep: an empty `Value` still belongs to its `Key`.
        keep(slot(&mut self.body), text)
    }

    /// An element that holds nothing but text, opened and closed at once. Nothing is done, and `false` told, where it is
    /// not known, or not to be expected.
    pub(super) fn plain(&mut self, name: &str, text: &'a str) -> Result<bool, ParseError> {
        let (Place::In(node), 0) = (self.at, self.skipped) else {
            return Ok(false);
        };
        if node == Node::Document {
            return Ok(false);
        }
        let Some(place) = self.body.place(node, name) else {
            return Ok(false);
        };
        if self.body.parts > PARTS_MAX {
            return Err(too_many());
        }
        self.deepen()?;
        self.rise();
        match place {
            Place::In(_) => {}
            Place::Word(slot) => keep(slot(&mut self.body), Some(Cow::Borrowed(text.trim_ascii())))?,
            Place::Free(slot) => keep(slot(&mut self.body), Some(Cow::Borrowed(text)))?,
        }
        Ok(true)
    }

    /// A list begins: it is no element, but as deep as one.
    pub(super) fn deepen(&mut self) -> Result<(), ParseError> {
        self.elements += 1;
        self.depth += 1;
        if self.elements > self.limits.elements_max {
            return Err(ParseError(format!("more than {} elements", self.limits.elements_max)));
        }
        if self.depth > self.limits.depth_max {
            return Err(ParseError(format!("more than {} elements inside each other", self.limits.depth_max)));
        }
        Ok(())
    }

    /// The list ends.
    pub(super) fn rise(&mut self) {
        self.depth -= 1;
    }

    /// Whether text is wanted where we are.
    pub(super) fn wants_text(&self) -> bool {
        self.skipped == 0 && !matches!(self.at, Place::In(_))
    }

    /// Whether nothing but what may stand before the first element was read.
    pub(super) fn is_new(&self) -> bool {
        self.elements == 0
    }

    /// What was read, once the input is at its end.
    pub(super) fn finish(self) -> Result<Body<'a>, ParseError> {
        if self.depth > 0 {
            return Err(ParseError("ends inside an element".to_owned()));
        }
        Ok(self.body)
    }

    /// Whether an outermost element is the wrapper. The 2025 page shows none, so that several may stand side by side;
    /// but where there is one, it is all.
    fn outer(&mut self, name: &str) -> Result<bool, ParseError> {
        let wrapper = name == "Response";
        if self.wrapped || (wrapper && self.elements > 1) {
            return Err(ParseError(format!("{} stands beside the root element", quote(name))));
        }
        self.wrapped |= wrapper;
        Ok(wrapper)
    }
}

fn too_many() -> ParseError {
    ParseError(format!("more than {PARTS_MAX} workflow runs, jobs and tasks"))
}

fn keep<'a>(held: &mut Text<'a>, text: Text<'a>) -> Result<(), ParseError> {
    let Some(text) = text.filter(|text| !text.bytes().all(|b| b.is_ascii_whitespace())) else {
        return Ok(());
    };
    match held {
        None => *held = Some(text),
        Some(held) if *held == text => {}
        Some(held) => {
            return Err(ParseError(format!("one value is said to be {} and {}", quote(held), quote(&text))));
        }
    }
    Ok(())
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_ascii()),
        Cow::Owned(text) => Cow::Owned(text.trim_ascii().to_owned()),
    }
}

/// A sender's word, short and printable enough for a reason.
pub(super) fn quote(text: &str) -> String {
    let end = text.char_indices().nth(100).map_or(text.len(), |(at, _)| at);
    format!("{:?}", &text[..end])
}
