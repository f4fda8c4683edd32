use std::fmt;

use quick_xml::Writer;
use quick_xml::escape::partial_escape;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// Writes the elements that EC2's answers are made of: text or children, no attributes but the namespace.
pub(super) struct Xml(Writer<Vec<u8>>);

impl Xml {
    /// Returns a document with this root element, in EC2's namespace if it is an answer of EC2.
    pub(super) fn document(
        root: &str,
        namespace: Option<&str>,
        children: impl FnOnce(&mut Self),
    ) -> Vec<u8> {
        let mut xml = Self(Writer::new(br#"<?xml version="1.0" encoding="UTF-8"?>"#.to_vec()));
        let mut start = BytesStart::new(root);
        if let Some(namespace) = namespace {
            start.push_attribute(("xmlns", namespace));
        }
        xml.write(Event::Start(start));
        children(&mut xml);
        xml.write(Event::End(BytesEnd::new(root)));
        xml.0.into_inner()
    }

    /// Writes an element with children.
    pub(super) fn element(&mut self, name: &str, children: impl FnOnce(&mut Self)) {
        self.write(Event::Start(BytesStart::new(name)));
        children(self);
        self.write(Event::End(BytesEnd::new(name)));
    }

    /// Writes an element with text.
    pub(super) fn text(&mut self, name: &str, text: impl fmt::Display) {
        let text = text.to_string();
        // EC2 leaves quotes as they are.
        let escaped = BytesText::from_escaped(partial_escape(&text));
        self.element(name, |xml| xml.write(Event::Text(escaped)));
    }

    /// Writes a list in EC2's way: an element that holds an `item` for each value.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = T>,
        mut item: impl FnMut(&mut Self, T),
    ) {
        self.element(name, |xml| {
            for value in values {
                xml.element("item", |xml| item(xml, value));
            }
        });
    }

    /// Writes a list of plain values.
    pub(super) fn texts<T: fmt::Display>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) {
        self.element(name, |xml| {
            for value in values {
                xml.text("item", value);
            }
        });
    }

    fn write(&mut self, event: Event<'_>) {
        self.0.write_event(event).expect("writing to a vector does not fail");
    }
}
