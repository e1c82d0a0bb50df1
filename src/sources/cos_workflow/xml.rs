//! Reads an XML body by events, borrowed from the body: no tree, and nothing allocated for what is skipped.
//!
//! Stricter than the parser beneath it: what is declared but never closed, a document type, an entity beyond XML's own
//! five, another encoding than UTF-8 and characters that XML does not allow are refused. Looser in one thing: the
//! vendor's page shows two elements side by side without a root around them.

use std::borrow::Cow;
use std::io::BufRead;

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
    // The names of the elements that are open: not the reader's business, since it does not see all of them.
    let mut open: Vec<&str> = Vec::with_capacity(8);
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = false;
    reader.config_mut().allow_unmatched_ends = true;
    // Before its first event, the reader drops a byte order mark wherever it stands.
    if text.is_ascii() {
        plain(&mut reader, text, &mut open, &mut draft)?;
    }
    loop {
        // Blanks between elements make no event, and those of a value stay.
        reader.config_mut().trim_text_start = !draft.wants_text();
        match reader.read_event().map_err(|e| ParseError(format!("not well-formed XML: {e}")))? {
            Event::Start(tag) => {
                let begin = text.len() - reader.get_ref().len() - tag.len() - 1;
                let name = named(&text[begin..begin + tag.name().as_ref().len()])?;
                draft.open(name)?;
                open.push(name);
                plain(&mut reader, text, &mut open, &mut draft)?;
            }
            Event::Empty(tag) => {
                draft.open(named(tag.name().as_ref())?)?;
                draft.close()?;
            }
            Event::End(tag) => {
                let (begun, ended) = (open.pop(), tag.name());
                if begun != Some(ended.as_ref()) {
                    let begun = begun.map_or("nothing".to_owned(), quote);
                    return Err(ParseError(format!("not well-formed XML: {begun} ends as {}", quote(ended.as_ref()))));
                }
                draft.close()?;
                plain(&mut reader, text, &mut open, &mut draft)?;
            }
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

/// Takes `<Name>`, `</Name>` and `<Name>text</Name>` with nothing more to them, as nearly all are, without the reader,
/// whose events look at each byte several times more. It goes on behind them, with whatever is not that plain. The
/// reader stands at the beginning or behind a tag: anywhere else it has already seen what comes.
fn plain<'a>(
    reader: &mut Reader<&'a [u8]>,
    text: &'a str,
    open: &mut Vec<&'a str>,
    draft: &mut Draft<'a>,
) -> Result<(), ParseError> {
    let bytes = text.as_bytes();
    let from = text.len() - reader.get_ref().len();
    let mut at = from;
    while !draft.wants_text() {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        let [b'<', inside @ ..] = &bytes[at..] else { break };
        if let [b'/', end @ ..] = inside {
            let Some(name) = open.last().filter(|name| ends(end, name.as_bytes())) else { break };
            at += name.len() + 3;
            open.pop();
            draft.close()?;
            continue;
        }
        let Some(length) = distance(inside, [b'>', b'>']) else { break };
        let (name_end, text_begin) = (at + 1 + length, at + 2 + length);
        let name = &text[at + 1..name_end];
        let Some(length) = distance(&bytes[text_begin..], [b'<', b'&']) else { break };
        let text_end = text_begin + length;
        let is_closed = matches!(&bytes[text_end..], [b'<', b'/', end @ ..] if ends(end, name.as_bytes()));
        if is_closed && draft.plain(name, &text[text_begin..text_end])? {
            at = text_end + name.len() + 3;
        } else if name.bytes().all(|b| b.is_ascii_alphanumeric()) && !name.is_empty() {
            draft.open(name)?;
            open.push(name);
            at = text_begin;
        } else {
            break;
        }
    }
    if at > from {
        reader.stream().consume(at - from);
    }
    Ok(())
}

/// Whether `end` begins with the rest of an end tag of that name.
fn ends(end: &[u8], name: &[u8]) -> bool {
    end.get(name.len()) == Some(&b'>') && end.starts_with(name)
}

/// How many bytes stand before the first that is one of the two. Eight are looked at in one step, so that none is found
/// among the last seven: there only the outermost element ends.
fn distance(bytes: &[u8], sought: [u8; 2]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let [one, other] = sought.map(|byte| u64::from(byte) * ONES);
    let words = bytes.as_chunks::<8>().0;
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The highest bit of each byte that is one of them, and of none before the first of these.
        let found = ((word ^ one).wrapping_sub(ONES) | (word ^ other).wrapping_sub(ONES)) & !word & (ONES << 7);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    None
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
