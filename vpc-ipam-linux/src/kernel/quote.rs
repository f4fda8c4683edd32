//! Names of links as words of nft, of iptables and of the shell.
//!
//! The kernel refuses a slash, a colon and white space in the name of a link, and nothing else: quotes, semicolons, wildcards
//! and control characters may be in it, and another program may have given it.

use std::borrow::Cow;

/// Returns whether rules of nft and iptables can speak of the link of this name, and of no other.
///
/// nft has no way to write a quotation mark within a string, and iptables takes a plus sign at the end for any ending.
pub(crate) fn rules_can_name(link: &str) -> bool {
    !link.contains('"') && !link.ends_with('+')
}

/// Writes a name as a string of nft, for which a star at the end is any ending unless it is escaped.
pub(crate) fn nft(name: &str) -> String {
    match name.strip_suffix('*') {
        Some(beginning) => format!(r#""{beginning}\*""#),
        None => format!(r#""{name}""#),
    }
}

/// Writes a name as a word of iptables-restore.
pub(crate) fn iptables(name: &str) -> Cow<'_, str> {
    if is_plain(name) {
        return name.into();
    }
    format!(r#""{}""#, name.replace('\\', r"\\").replace('"', r#"\""#)).into()
}

/// Writes a text as one word of the shell, as bash and its like read it.
pub(crate) fn shell(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return text.into();
    }
    if text.chars().any(char::is_control) {
        let escaped = text.chars().map(|c| match c {
            '\\' | '\'' => format!("\\{c}"),
            // Control characters are below U+00A0.
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        });
        return format!("$'{}'", escaped.collect::<String>()).into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

/// Returns whether a text means itself everywhere.
fn is_plain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/@:,=%".contains(&b);
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_word_wherever_it_stands() {
        // The name; then for nft, for iptables and for the shell.
        let cases = [
            ("eth0.100", r#""eth0.100""#, "eth0.100", "eth0.100"),
            ("e;$(x)", r#""e;$(x)""#, r#""e;$(x)""#, "'e;$(x)'"),
            ("e*", r#""e\*""#, r#""e*""#, "'e*'"),
            (r"e\", r#""e\""#, r#""e\\""#, r"'e\'"),
            ("it's", r#""it's""#, r#""it's""#, r"'it'\''s'"),
            ("e\x1b[m", "\"e\x1b[m\"", "\"e\x1b[m\"", r"$'e\u001b[m'"),
            ("-j", r#""-j""#, r#""-j""#, "'-j'"),
        ];
        for (name, for_nft, for_iptables, for_shell) in cases {
            assert!(rules_can_name(name), "{name:?}");
            assert_eq!(nft(name), for_nft, "{name:?}");
            assert_eq!(iptables(name), for_iptables, "{name:?}");
            assert_eq!(shell(name), for_shell, "{name:?}");
        }
        for name in [r#"e"x"#, "eth+"] {
            assert!(!rules_can_name(name), "{name}");
        }
    }
}
