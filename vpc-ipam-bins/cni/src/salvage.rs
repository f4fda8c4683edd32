//! What can be told of a configuration that is no JSON, or too long to be kept.

use std::io::{self, BufRead as _, BufReader, Read};

/// More brackets within each other than any configuration has; what is deeper is not followed.
const DEPTH_MAX: usize = 1024;

/// The longest text that is looked for, in bytes, with its escapes.
const TEXT_MAX: usize = 1 << 16;

/// Returns the texts that an object has under some keys, `None` for those that it does not seem to have.
///
/// It reads as far as it has to, and keeps nothing else. Where brackets are missing, a closing one closes all up to its own kind:
/// what is broken deeper down does not hide what follows.
pub(super) fn texts_of<const N: usize>(
    json: impl Read,
    keys: [&str; N],
) -> io::Result<[Option<String>; N]> {
    let mut found = [const { None }; N];
    let mut scanner = Scanner::default();
    let mut json = BufReader::new(json);
    loop {
        let bytes = json.fill_buf()?;
        if bytes.is_empty() {
            return Ok(found);
        }
        let len = bytes.len();
        for &byte in bytes {
            let Some((key, text)) = scanner.next(byte) else { continue };
            if let Some(place) = keys.iter().position(|it| *it == key) {
                found[place].get_or_insert(text);
            }
            if found.iter().all(Option::is_some) {
                return Ok(found);
            }
        }
        json.consume(len);
    }
}

#[derive(Default)]
struct Scanner {
    /// The brackets that are open.
    open: Vec<u8>,
    /// The text that is being read, from its first quotation mark on. Of one that is not looked for only that is kept.
    text: Option<Vec<u8>>,
    escaped: bool,
    /// The last text of the object itself.
    last: Option<String>,
    /// The key whose value comes next.
    key: Option<String>,
}

impl Scanner {
    /// Takes a byte, and returns a key of the object itself and its value, if that is a text and ended here.
    fn next(&mut self, byte: u8) -> Option<(String, String)> {
        if let Some(text) = &mut self.text {
            if self.open.len() == 1 && text.len() < TEXT_MAX {
                text.push(byte);
            }
            let ends = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            return if ends { self.text_ended() } else { None };
        }
        match byte {
            b'"' => self.text = Some(vec![byte]),
            b'{' | b'[' if self.open.len() < DEPTH_MAX => self.open.push(byte),
            b'}' => self.close(b'{'),
            b']' => self.close(b'['),
            _ => {}
        }
        match byte {
            b':' if self.open.len() == 1 => self.key = self.last.take(),
            b'"' | b' ' | b'\t' | b'\r' | b'\n' => {}
            // A value of another kind, or the end of one.
            _ => (self.key, self.last) = (None, None),
        }
        None
    }

    fn text_ended(&mut self) -> Option<(String, String)> {
        let text = self.text.take().filter(|_| self.open.len() == 1)?;
        let text = serde_json::from_slice::<String>(&text).ok();
        match self.key.take() {
            Some(key) => Some((key, text?)),
            None => {
                self.last = text;
                None
            }
        }
    }

    fn close(&mut self, kind: u8) {
        if let Some(place) = self.open.iter().rposition(|open| *open == kind) {
            // The object itself ends with the text.
            self.open.truncate(place.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_whatever_is_broken_elsewhere() {
        let cases = [
            (r#"{"name":"n","socket":"s"}"#, Some("n"), Some("s")),
            (r#" { "name" : "n" , "socket" : "s" } "#, Some("n"), Some("s")),
            (r#"{"name":"a\"b\u00e9","socket":"/x\\y"}"#, Some("a\"bé"), Some("/x\\y")),
            // Deeper down they are another's.
            (r#"{"a":{"name":"x","socket":"y"},"name":"n"}"#, Some("n"), None),
            (r#"{"a":["name","x",{"name":"y"}],"socket":"s"}"#, None, Some("s")),
            (r#"{"a":"\"name\":\"x\"","name":"n"}"#, Some("n"), None),
            // Values are no keys, and of two the first counts.
            (r#"{"a":"name","b":"x","name":"n","name":"m"}"#, Some("n"), None),
            (r#"{"name":7,"socket":null}"#, None, None),
            (r#"{"name":["n"],"socket":{"socket":"s"}}"#, None, None),
            // Broken.
            (r#"{"name":"n","prevResult":{"ips":[},"socket":"s"}"#, Some("n"), Some("s")),
            (r#"{"name":"n","prevResult":{"ips":]},"socket":"s"}"#, Some("n"), Some("s")),
            (r#"{"name":"n","prevResult":nonsense,"socket":"s"}"#, Some("n"), Some("s")),
            (r#"{"name":"n","prevResult":{"ips":[{"address":"10."#, Some("n"), None),
            (r#"{"name":"n"}}}]]"#, Some("n"), None),
            (r#"{"name":"n"#, None, None),
            ("", None, None),
            ("[]", None, None),
            ("\u{0}\u{1}{", None, None),
        ];
        for (json, name, socket) in cases {
            let [actual_name, actual_socket] =
                texts_of(json.as_bytes(), ["name", "socket"]).unwrap();
            assert_eq!(
                (actual_name.as_deref(), actual_socket.as_deref()),
                (name, socket),
                "{json}"
            );
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = format!(
            r#"{{"name":"n","a":{}1{},"socket":"s"}}"#,
            "[".repeat(1 << 20),
            "]".repeat(1 << 20)
        );
        let [name, socket] = texts_of(deep.as_bytes(), ["name", "socket"]).unwrap();
        assert_eq!((name.as_deref(), socket.as_deref()), (Some("n"), Some("s")));

        let long = format!(r#"{{"name":"{}","socket":"s"}}"#, "n".repeat(1 << 20));
        let [name, socket] = texts_of(long.as_bytes(), ["name", "socket"]).unwrap();
        assert_eq!((name, socket.as_deref()), (None, Some("s")));
    }
}
