//! Files of variables, in the form of systemd's `EnvironmentFile=`.
//!
//! A line is `NAME=VALUE`. Blank lines and lines that begin with `#` or `;` count for nothing. A value may stand in single or double
//! quotes; a backslash makes the next character part of the value, and at the end of a line joins it with the next.

use core::fmt;
use std::path::Path;

use crate::operator_file::{self, OperatorFileError};

/// What is wrong in a file of variables. What it is about is passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// The variable, as far as the line has one.
    pub variable: Option<String>,
    /// What is wrong.
    pub problem: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(variable) = &self.variable {
            write!(f, ", {variable}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Variables in the order of their file.
pub type Vars = Vec<(String, String)>;

/// Reads a file of variables. Of two lines with one name the later counts.
pub fn read(path: &Path) -> Result<(Vars, Vec<BadLine>), OperatorFileError> {
    Ok(parse(&operator_file::read(path)?))
}

/// Reads the text of such a file.
pub fn parse(text: &[u8]) -> (Vars, Vec<BadLine>) {
    let mut reader = Reader { rest: text.iter().copied().peekable(), line: 1 };
    let (mut vars, mut bad): (Vars, _) = (Vec::new(), Vec::new());
    while let Some(assignment) = reader.next_assignment() {
        let Assignment { line, name, value, closed } = assignment;
        let name = String::from_utf8_lossy(&name).trim_end().to_string();
        let mut refuse = |variable: Option<&str>, problem| {
            bad.push(BadLine { line, variable: variable.map(escaped), problem });
        };
        let Some(value) = value else {
            refuse(Some(&name), "is no NAME=VALUE");
            continue;
        };
        if !is_name(&name) {
            let problem = if name.starts_with("export ") {
                "is no name of a variable: leave \"export\" out"
            } else {
                "is no name of a variable: expected letters, digits and underscores, a digit not first"
            };
            refuse(Some(&name), problem);
            continue;
        }
        if !closed {
            refuse(Some(&name), "has a quotation mark that is not closed");
            continue;
        }
        match String::from_utf8(value) {
            Ok(value) if value.contains('\0') => refuse(Some(&name), "contains a zero byte"),
            Ok(value) => {
                if let Some(at) = vars.iter().position(|(before, _)| *before == name) {
                    vars.remove(at);
                    refuse(Some(&name), "was set by an earlier line, which no longer counts");
                }
                vars.push((name, value));
            }
            Err(_) => refuse(Some(&name), "has a value that is not UTF-8"),
        }
    }
    (vars, bad)
}

fn escaped(name: &str) -> String {
    // A bad line may be long, and its end says nothing more.
    name.escape_debug().take(80).collect()
}

/// Returns whether a text is the name of a variable as systemd and shells take it.
fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Assignment {
    line: usize,
    name: Vec<u8>,
    /// None if there is no `=`.
    value: Option<Vec<u8>>,
    /// Whether every quotation mark has its second.
    closed: bool,
}

struct Reader<I: Iterator<Item = u8>> {
    rest: core::iter::Peekable<I>,
    line: usize,
}

impl<I: Iterator<Item = u8>> Reader<I> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.rest.next()?;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn next_assignment(&mut self) -> Option<Assignment> {
        loop {
            while self.rest.next_if(|byte| matches!(byte, b' ' | b'\t' | b'\r')).is_some() {}
            match self.rest.peek()? {
                b'\n' => drop(self.next()),
                b'#' | b';' => self.skip_comment(),
                _ => break,
            }
        }
        let line = self.line;
        let mut name = Vec::new();
        loop {
            match self.next() {
                Some(b'=') => break,
                Some(b'\n') | None => {
                    return Some(Assignment { line, name, value: None, closed: true });
                }
                Some(byte) => name.push(byte),
            }
        }
        let (value, closed) = self.value();
        Some(Assignment { line, name, value: Some(value), closed })
    }

    /// A backslash at its end makes the next line part of it.
    fn skip_comment(&mut self) {
        while let Some(byte) = self.next() {
            match byte {
                b'\n' => break,
                b'\\' => drop(self.next()),
                _ => {}
            }
        }
    }

    /// Reads a value to the end of its line, and tells whether its quotation marks are closed.
    fn value(&mut self) -> (Vec<u8>, bool) {
        let mut value = Vec::new();
        loop {
            // Between quoted parts, and before the first part.
            while self.rest.next_if(|byte| matches!(byte, b' ' | b'\t' | b'\r')).is_some() {}
            match self.next() {
                None | Some(b'\n') => return (value, true),
                Some(quote @ (b'"' | b'\'')) => {
                    if !self.quoted(quote, &mut value) {
                        return (value, false);
                    }
                }
                Some(byte) => {
                    self.unquoted(byte, &mut value);
                    return (value, true);
                }
            }
        }
    }

    /// Reads to the end of the line, with quotation marks as they are and without the blanks at the end.
    fn unquoted(&mut self, first: u8, value: &mut Vec<u8>) {
        let (mut byte, mut kept) = (Some(first), value.len());
        while let Some(now) = byte {
            match now {
                b'\n' => break,
                b'\\' => match self.next() {
                    Some(b'\n') | None => {}
                    Some(next) => {
                        value.push(next);
                        kept = value.len();
                    }
                },
                b' ' | b'\t' | b'\r' => value.push(now),
                now => {
                    value.push(now);
                    kept = value.len();
                }
            }
            byte = self.next();
        }
        value.truncate(kept);
    }

    /// Reads to the second quotation mark, and tells whether there is one.
    fn quoted(&mut self, quote: u8, value: &mut Vec<u8>) -> bool {
        while let Some(byte) = self.next() {
            match byte {
                byte if byte == quote => return true,
                b'\\' if quote == b'"' => match self.next() {
                    Some(b'\n') => {}
                    Some(next @ (b'"' | b'\\' | b'`' | b'$')) => value.push(next),
                    Some(next) => value.extend([b'\\', next]),
                    None => return false,
                },
                byte => value.push(byte),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `systemd-run --property=EnvironmentFile=` of systemd 252 reads them.
    #[test]
    fn values_are_read_as_systemd_reads_them() {
        let cases: [(&str, &str); 20] = [
            ("A=b", "b"),
            ("A=", ""),
            ("  A=b  ", "b"),
            ("A =b", "b"),
            ("A= b c ", "b c"),
            ("A=b # c", "b # c"),
            ("A='b \\c'", "b \\c"),
            ("A=\"b \\\"c\\\" \\$d \\e\"", "b \"c\" $d \\e"),
            ("A=\"b\"'c' \"d\"", "bcd"),
            ("A=\"b\"c", "bc"),
            ("A=b\"c\"", "b\"c\""),
            ("A='b\nc'", "b\nc"),
            ("A=b\\\nc", "bc"),
            ("A=\"b\\\nc\"", "bc"),
            ("A=b\\ ", "b "),
            ("A=b\\nc", "bnc"),
            ("A=b=c", "b=c"),
            ("A=b\r\n", "b"),
            ("# B=1\n; C=2\n\nA=b\n", "b"),
            ("# comment \\\nB=1\nA={\"k\": \"v\"}", "{\"k\": \"v\"}"),
        ];
        for (text, expected) in cases {
            let (vars, bad) = parse(text.as_bytes());
            assert_eq!(vars, [("A".to_string(), expected.to_string())], "{text:?}");
            assert_eq!(bad, [], "{text:?}");
        }
    }

    #[test]
    fn bad_line_is_named_with_its_variable_and_passed_over() {
        let cases: [(&[u8], &str); 8] = [
            (b"WARM_IP_TARGET 5\n", "line 1, WARM_IP_TARGET 5: is no NAME=VALUE"),
            (
                b"\n\nexport A=5\n",
                "line 3, export A: is no name of a variable: leave \"export\" out",
            ),
            (b"1A=5\n", "line 1, 1A: is no name of a variable"),
            (b"=5\n", "line 1, : is no name of a variable"),
            (b"A=\xff\n", "line 1, A: has a value that is not UTF-8"),
            (b"A=a\0b\n", "line 1, A: contains a zero byte"),
            (b"B\xff=1\n", "is no name of a variable"),
            (b"A=1\nC='5\n", "line 2, C: has a quotation mark that is not closed"),
        ];
        for (text, expected) in cases {
            // The lines around it count.
            let text = [text, b"\nGOOD=1\n"].concat();
            let (vars, bad) = parse(&text);
            let bad: Vec<String> = bad.iter().map(ToString::to_string).collect();
            assert_eq!(bad.len(), 1, "{expected}: {bad:?}");
            assert!(bad[0].contains(expected), "{expected}: {bad:?}");
            let good = ("GOOD".to_string(), "1".to_string());
            // An open quotation goes on to the end.
            assert_eq!(
                vars.contains(&good),
                !expected.contains("not closed"),
                "{expected}: {vars:?}"
            );
        }
    }

    #[test]
    fn later_line_counts_and_the_earlier_is_named() {
        let (vars, bad) = parse(b"A=1\nB=2\nA=3\n");
        let var = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(vars, [var("B", "2"), var("A", "3")]);
        assert_eq!(
            bad[0].to_string(),
            "line 3, A: was set by an earlier line, which no longer counts"
        );
    }
}
