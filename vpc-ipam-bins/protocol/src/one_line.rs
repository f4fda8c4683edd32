//! Text of other origin on one line of output.

use core::fmt::{self, Display, Write};

/// Shows a value on one line: a character that ends a line, moves the cursor or turns the direction of writing is shown as it
/// would be written in Rust.
///
/// Messages of endpoints, names of links and of pods come from outside, and could otherwise forge lines of our log.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<T>(pub T);

impl<T: Display> Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writes on, with what would leave the line escaped.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| leaves_the_line(*c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

fn leaves_the_line(c: char) -> bool {
    // The separators of lines and paragraphs, and what embeds, overrides or isolates a direction.
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_on_its_line() {
        let cases = [
            ("throttled by EC2", "throttled by EC2"),
            ("é and ∞ stay", "é and ∞ stay"),
            ("a\n2026-01-01 INFO forged", r"a\n2026-01-01 INFO forged"),
            ("\r\x1b[2K\x07\t", r"\r\u{1b}[2K\u{7}\t"),
            ("\u{85}\u{9b}1m\u{2028}\u{202e}", r"\u{85}\u{9b}1m\u{2028}\u{202e}"),
        ];
        for (text, expected) in cases {
            assert_eq!(OneLine(text).to_string(), expected, "{text:?}");
        }
    }
}
