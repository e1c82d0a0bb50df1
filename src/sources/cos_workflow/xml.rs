//! Reads an XML body by events, borrowed from the body: no tree, and nothing allocated for what is skipped.
//!
//! Stricter than the parser beneath it: what is declared but never closed, a document type, an entity beyond XML's own
//! five, another encoding than UTF-8 and characters that XML does not allow are refused. Looser in one thing: the
//! vendor's page shows two elements side by side without a root around them.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesDecl, BytesRef, Event};

use super::super::ParseError;
use super::draft::{Draft, Limits, quote};
use super::wire::Body;

/// Reads `text` to its end.
pub(super) fn read(text: &str, limits: Limits) -> Result<Body<'_>, ParseError> {
    // Without a branch or an early end, so that many bytes are looked at in one step; and the least of them says it all
    // where there is no line break.
    let bad = |b: u8| u8::from(b < b' ') & u8::from(b != b'\t') & u8::from(b != b'\n') & u8::from(b != b'\r');
    if text.bytes().fold(u8::MAX, u8::min) < b' ' && text.bytes().fold(0, |found, b| found | bad(b)) != 0 {
        return Err(ParseError("holds a control character, which XML does not allow".to_owned()));
    }
    let mut draft = Draft::new(limits);
    let mut reader = Reader::from_str(text);
    loop {
        // Blanks between elements make no event, and those of a value stay.
        reader.config_mut().trim_text_start = !draft.wants_text();
        match reader.read_event().map_err(|e| ParseError(format!("not well-formed XML: {e}")))? {
            Event::Start(tag) => draft.open(named(tag.name().as_ref())?)?,
            Event::Empty(tag) => {
                draft.open(named(tag.name().as_ref())?)?;
                draft.close()?;
            }
            Event::End(_) => draft.close()?,
            Event::Text(text) => draft.text(text.into_inner())?,
            Event::CData(text) => draft.text(text.into_inner())?,
            Event::GeneralRef(reference) => draft.text(resolved(&reference)?)?,
            Event::Decl(declaration) if draft.is_new() => check(&declaration)?,
            Event::Decl(_) => return Err(ParseError("an XML declaration stands in the middle".to_owned())),
            Event::DocType(_) => return Err(ParseError("declares a document type, which no callback has".to_owned())),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return draft.finish(),
        }
    }
}

fn named(name: &str) -> Result<&str, ParseError> {
    if name.is_empty() {
        return Err(ParseError("not well-formed XML: an element has no name".to_owned()));
    }
    Ok(name)
}

/// One of XML's five entities, or a character by its number.
fn resolved<'a>(reference: &BytesRef<'a>) -> Result<Cow<'a, str>, ParseError> {
    let unknown = || ParseError(format!("the entity {} is none of XML's five", quote(reference)));
    if let Some(text) = resolve_xml_entity(reference) {
        return Ok(Cow::Borrowed(text));
    }
    match reference.resolve_char_ref().map_err(|e| ParseError(format!("not well-formed XML: {e}")))? {
        Some(c) if c >= ' ' || matches!(c, '\t' | '\n' | '\r') => Ok(Cow::Owned(c.to_string())),
        Some(_) => Err(ParseError("refers to a control character, which XML does not allow".to_owned())),
        None => Err(unknown()),
    }
}

/// The body is read as UTF-8, whatever it says of itself; so it must not say something else.
fn check(declaration: &BytesDecl<'_>) -> Result<(), ParseError> {
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(name)) if name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("us-ascii") => Ok(()),
        Some(Ok(name)) => Err(ParseError(format!("is declared to be in {}, but only UTF-8 is read", quote(&name)))),
        Some(Err(e)) => Err(ParseError(format!("not well-formed XML: {e}"))),
    }
}
