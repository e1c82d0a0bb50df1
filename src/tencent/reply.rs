//! A reply of CI, read into a small tree: errors, lists and ids are a handful of elements.
//!
//! Read by events and bounded in elements and depth; a document type is refused and nothing is expanded beyond XML's own
//! five entities. Elements that are still open at the end are closed there: one page of the vendor's documentation
//! prints a reply whose last tag opens the root once more.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, Event};

const ELEMENTS_MAX: usize = 20_000;
const DEPTH_MAX: usize = 32;

/// One element.
#[derive(Debug, Default)]
pub struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a reply. What is returned holds the root, and has no name.
    pub fn read(xml: &str) -> Result<Element, String> {
        let (root, read) = Element::read_start(xml);
        // What is no XML at all is one text.
        if root.children.is_empty() { Err("it holds no element".to_owned()) } else { read.map(|()| root) }
    }

    /// As much as there is before whatever is wrong with it.
    pub(super) fn read_start(xml: &str) -> (Element, Result<(), String>) {
        let mut open = vec![Element::default()];
        let read = read_into(&mut open, xml);
        while open.len() > 1 {
            close(&mut open);
        }
        (open.pop().expect("the first is never closed"), read)
    }

    /// The elements of that name in it.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first element on that path; `None` where there is none, or nothing but blanks.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        match path {
            [] => Some(self.text.trim()).filter(|text| !text.is_empty()),
            [name, rest @ ..] => self.all(name).find_map(|child| child.text(rest)),
        }
    }

    /// The same with the blanks around it, which an object's key may have.
    pub fn text_as_it_is(&self, name: &str) -> Option<&str> {
        self.all(name).map(|child| child.text.as_str()).find(|text| !text.is_empty())
    }
}

fn read_into(open: &mut Vec<Element>, xml: &str) -> Result<(), String> {
    let mut elements = 0;
    let mut reader = Reader::from_str(xml);
    loop {
        match reader.read_event().map_err(|e| format!("not well-formed XML: {e}"))? {
            Event::Start(tag) => begin(open, &mut elements, tag.name().as_ref())?,
            Event::Empty(tag) => {
                begin(open, &mut elements, tag.name().as_ref())?;
                close(open);
            }
            Event::End(_) => close(open),
            Event::Text(text) => add(open, &text.into_inner()),
            Event::CData(text) => add(open, &text.into_inner()),
            Event::GeneralRef(reference) => add(open, &resolved(&reference)?),
            Event::DocType(_) => return Err("it declares a document type".to_owned()),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return Ok(()),
        }
    }
}

fn begin(open: &mut Vec<Element>, elements: &mut usize, name: &str) -> Result<(), String> {
    *elements += 1;
    if *elements > ELEMENTS_MAX || open.len() > DEPTH_MAX {
        return Err("more or deeper elements than any reply has".to_owned());
    }
    open.push(Element { name: name.to_owned(), ..Element::default() });
    Ok(())
}

fn add(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// The last of them is complete. The reader refuses an end without a beginning, so that the first stays.
fn close(open: &mut Vec<Element>) {
    if let Some(element) = open.pop()
        && let Some(parent) = open.last_mut()
    {
        parent.children.push(element);
    }
}

fn resolved<'a>(reference: &BytesRef<'a>) -> Result<Cow<'a, str>, String> {
    if let Some(text) = resolve_xml_entity(reference) {
        return Ok(Cow::Borrowed(text));
    }
    match reference.resolve_char_ref() {
        Ok(Some(c)) => Ok(Cow::Owned(c.to_string())),
        _ => Err("it holds an entity that is none of XML's five".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_is_asked_for_by_its_path() {
        let text = "<?xml version=\"1.0\"?>\n<Response><RequestId>r</RequestId><Empty/>\
                    <List><Object> a &amp; b&#33;</Object><Other><RunId>no</RunId></Other><RunId>\n i1 </RunId></List>\
                    <List><RunId><![CDATA[i2]]></RunId></List></Response>";
        let root = Element::read(text).expect("a reply");
        assert_eq!(root.text(&["Response", "RequestId"]), Some("r"));
        assert_eq!((root.text(&["Response", "Empty"]), root.text(&["RequestId"])), (None, None));
        let response = root.all("Response").next().expect("one");
        let runs: Vec<_> = response.all("List").map(|e| e.text(&["RunId"])).collect();
        assert_eq!(runs, [Some("i1"), Some("i2")]);
        assert_eq!(response.all("List").next().and_then(|e| e.text_as_it_is("Object")), Some(" a & b!"));
    }

    #[test]
    fn a_root_that_is_opened_twice_is_read_and_what_is_no_reply_is_not() {
        let slip = "<Response><RequestId>r</RequestId><InstanceId>i1=</InstanceId><Response>";
        assert_eq!(Element::read(slip).expect("a reply").text(&["Response", "InstanceId"]), Some("i1="));
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        let wide = format!("<a>{}</a>", "<b></b>".repeat(ELEMENTS_MAX));
        for bad in [
            "",
            "ok",
            "{\"ok\": true}",
            "<a></b>",
            "</a>",
            "<a>&boom;</a>",
            "<!DOCTYPE a [<!ENTITY boom \"x\">]><a>x</a>",
            &deep,
            &wide,
        ] {
            Element::read(bad).expect_err(bad);
        }
    }
}
