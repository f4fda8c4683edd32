//! Taking secrets out of what leaves the node.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::variables::KNOWN;

/// What stands where a secret was.
const REMOVED: &str = "(removed)";
/// Shorter values could stand anywhere by chance.
const SECRET_MIN: usize = 8;
/// What is percent-encoded in a password: all that RFC 3986 (2.3) does not leave as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// As much of a file of secrets is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Parts of names, in lower case, of keys and variables whose values are secrets.
const SECRET_NAMES: [&str; 8] = [
    "secret",
    "token",
    "password",
    "passwd",
    "credential",
    "access_key",
    "private",
    "authorization",
];

/// Takes secrets out of text: those that the variables and files of the daemon hold, and what looks like one.
#[derive(Debug)]
pub(super) struct Scrub {
    /// The longest first: one may be part of another.
    secrets: Vec<String>,
}

impl Scrub {
    /// Learns the secrets that variables hold, and the files that they name.
    pub(super) fn of(vars: &[(String, String)]) -> Self {
        let mut secrets = BTreeSet::new();
        for (name, value) in vars {
            if is_secret_name(name) && !is_file_name(name) {
                secrets.insert(value.trim().to_string());
            }
            if let Some(password) = password(value) {
                secrets.insert(password.to_string());
            }
            if is_proxy_name(name) {
                secrets.extend(secrets_of_proxy(value));
            }
        }
        for path in files(vars) {
            let mut text = String::new();
            let read = File::open(path).and_then(|it| it.take(FILE_MAX).read_to_string(&mut text));
            if read.is_err() {
                continue;
            }
            // A token alone, or lines `name = value`.
            if !text.contains(char::is_whitespace) || text.trim().lines().count() == 1 {
                secrets.insert(text.trim().to_string());
            }
            for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
                if is_secret_name(name) {
                    secrets.insert(value.trim().to_string());
                }
            }
        }
        let mut secrets: Vec<String> =
            secrets.into_iter().filter(|secret| secret.len() >= SECRET_MIN).collect();
        secrets.sort_by_key(|secret| core::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    /// Returns text without secrets.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_string();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REMOVED);
            }
        }
        let text = without_user_info(&text);
        let text = without_blocks(&text);
        without_words(&text)
    }

    /// Returns JSON without the values of keys that are named like secrets.
    pub(super) fn json(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if is_secret_name(key) && !value.is_boolean() && !value.is_null() {
                        *value = REMOVED.into();
                    } else {
                        Self::json(value);
                    }
                }
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(Self::json),
            _ => {}
        }
    }

    /// Returns the lines that show variables: of those that vpc-ipamd does not know, the names alone.
    pub(super) fn variables(&self, vars: &[(String, String)]) -> String {
        let mut lines: Vec<String> = vars
            .iter()
            .map(|(name, value)| {
                let known = KNOWN.iter().any(|known| known.name == name);
                if is_secret_name(name) {
                    format!("{name}=(not shown)")
                } else if is_proxy_name(name) {
                    format!("{name}={}", self.text(&proxy_without_user_info(value)))
                } else if known {
                    format!("{name}={}", self.text(value))
                } else {
                    format!("{name}=(not shown)")
                }
            })
            .collect();
        lines.sort();
        lines.join("\n") + "\n"
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace(['-', ' '], "_");
    SECRET_NAMES.iter().any(|part| name.contains(part)) || name.contains("accesskey")
}

fn is_file_name(name: &str) -> bool {
    name.ends_with("_FILE")
}

/// Returns the files of secrets that the AWS SDK reads, as far as variables name them.
fn files(vars: &[(String, String)]) -> Vec<PathBuf> {
    let names = [
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ];
    let mut files: Vec<PathBuf> = Vec::new();
    for (name, value) in vars {
        if names.contains(&name.as_str()) {
            files.push(value.into());
        }
        if name == "HOME" {
            files.extend(
                ["config", "credentials"].map(|it| PathBuf::from(value).join(".aws").join(it)),
            );
        }
    }
    // A pipe would be waited for.
    files.retain(|path| std::fs::metadata(path).is_ok_and(|found| found.is_file()));
    files
}

/// Returns the user information of a URL that holds some, without the name before the colon.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user_info, _) = authority.rsplit_once('@')?;
    Some(user_info.split_once(':').map_or(user_info, |(_, password)| password))
}

fn is_proxy_name(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("_proxy")
}

/// Splits what names a proxy, `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT]`, after the scheme.
fn scheme_of_proxy(proxy: &str) -> (&str, &str) {
    let is_scheme = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    match proxy.find("://") {
        Some(end) if is_scheme(&proxy[..end]) => proxy.split_at(end + 3),
        _ => ("", proxy),
    }
}

/// Returns what names a proxy without its user information. A password may hold each character that ends an authority, and an `@`
/// may be percent-encoded: rather too much is removed than too little.
fn proxy_without_user_info(proxy: &str) -> String {
    let (scheme, rest) = scheme_of_proxy(proxy.trim());
    let decoded = decoded(rest);
    match rest.rsplit_once('@').or_else(|| decoded.rsplit_once('@')) {
        Some((_, host)) => format!("{scheme}{REMOVED}@{host}"),
        None => proxy.to_string(),
    }
}

/// Returns the user information of what names a proxy and the password in it, each as it stands there, decoded and percent-encoded:
/// a log may show any of these.
fn secrets_of_proxy(proxy: &str) -> BTreeSet<String> {
    let (_, rest) = scheme_of_proxy(proxy.trim());
    let decoded_rest = decoded(rest);
    let mut secrets = BTreeSet::new();
    for text in [rest, &decoded_rest] {
        let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
        for (user_info, _) in [authority, text].iter().filter_map(|it| it.rsplit_once('@')) {
            for user_info in [user_info, &decoded(user_info)] {
                let password = user_info.split_once(':').map(|(_, password)| password);
                for secret in [Some(user_info), password].into_iter().flatten() {
                    let decoded = decoded(secret);
                    secrets.extend([secret.to_string(), encoded(&decoded), decoded]);
                }
            }
        }
    }
    secrets
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Returns text in which no URL names a user or a password.
fn without_user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| {
                c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '\\' | '<' | '>')
            })
            .unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(at) => {
                out.push_str(REMOVED);
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    out + rest
}

/// Returns text without private keys.
fn without_blocks(text: &str) -> String {
    const END: &str = "PRIVATE KEY-----";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("-----BEGIN ") {
        let (before, block) = rest.split_at(at);
        let first = block.find('\n').map_or(block, |end| &block[..end]);
        if !first.contains(END) {
            out.push_str(before);
            out.push_str("-----BEGIN ");
            rest = &block["-----BEGIN ".len()..];
            continue;
        }
        out.push_str(before);
        out.push_str(REMOVED);
        let body = block.find("-----END ").map_or("", |end| &block[end..]);
        rest = body.find(END).map_or("", |end| &body[end + END.len()..]);
    }
    out + rest
}

/// Returns text without words that look like a key of AWS or a token.
fn without_words(text: &str) -> String {
    let is_part =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '=');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        if looks_secret(word) {
            out.push_str(REMOVED);
        } else {
            out.push_str(word);
        }
        rest = after;
    }
    out + rest
}

fn looks_secret(word: &str) -> bool {
    // The name of a parameter may stand before it.
    let value =
        word.rsplit_once('=').filter(|(_, value)| !value.is_empty()).map_or(word, |it| it.1);
    let value = value.trim_end_matches('.');
    let is_key_id = value.len() == 20
        && ["AKIA", "ASIA"].iter().any(|prefix| value.starts_with(prefix))
        && value.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    // A JSON web token: three parts of base64, the first a JSON object.
    let is_web_token = word.contains("eyJ") && word.matches('.').count() >= 2 && word.len() > 40;
    is_key_id || is_web_token
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(vars: &[(&str, &str)]) -> Vec<(String, String)> {
        vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn what_looks_like_a_secret_is_removed_wherever_it_stands() {
        let cases = [
            ("proxy http://user:pass@proxy:3128/x", "proxy http://(removed)@proxy:3128/x"),
            ("\"https://token@host\", \"http://b\"", "\"https://(removed)@host\", \"http://b\""),
            ("http://a/b@c stays", "http://a/b@c stays"),
            ("http://p:a@b@host", "http://(removed)@host"),
            ("key AKIAIOSFODNN7EXAMPLE.", "key (removed)"),
            ("key=ASIAIOSFODNN7EXAMPLE;", "(removed);"),
            ("\"AKIAIOSFODNN7EXAMPLE\"", "\"(removed)\""),
            (
                "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06In0.c2lnbmF0dXJl end",
                "Bearer (removed) end",
            ),
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb",
                "a\n(removed)\nb",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMIIE", "(removed)"),
            ("-----BEGIN CERTIFICATE-----\nMIIE", "-----BEGIN CERTIFICATE-----\nMIIE"),
            ("eni-0953aeb70673e29cb 10.0.0.1/32 é", "eni-0953aeb70673e29cb 10.0.0.1/32 é"),
        ];
        let scrub = Scrub::of(&[]);
        for (text, expected) in cases {
            assert_eq!(scrub.text(text), expected, "{text}");
        }
    }

    #[test]
    fn variables_that_set_nothing_up_are_named_alone() {
        let vars = vars(&[
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
            ("AWS_SESSION_TOKEN", "abc"),
            ("WARM_IP_TARGET", "5"),
            ("HTTPS_PROXY", "http://me:hunter22@proxy:1"),
            ("MY_PASSWORD", "hunter2222"),
            ("OTHER", "x"),
        ]);
        let scrub = Scrub::of(&vars);
        assert_eq!(
            scrub.variables(&vars),
            "AWS_SECRET_ACCESS_KEY=(not shown)\nAWS_SESSION_TOKEN=(not shown)\n\
             HTTPS_PROXY=http://(removed)@proxy:1\nMY_PASSWORD=(not shown)\nOTHER=(not shown)\nWARM_IP_TARGET=5\n"
        );
        // Nor elsewhere.
        assert_eq!(
            scrub.text("signed with wJalrXUtnFEMI by hunter22"),
            "signed with (removed) by (removed)"
        );
    }

    #[test]
    fn user_and_password_of_a_proxy_are_removed_in_every_form_of_its_name() {
        let cases = [
            ("user:hunter22@proxy:3128", "(removed)@proxy:3128"),
            ("http://user:hunter22@proxy:3128", "http://(removed)@proxy:3128"),
            ("HTTPS://user:hunter22@proxy/", "HTTPS://(removed)@proxy/"),
            ("socks5h://user:hunter22@[fd00::1]:1080", "socks5h://(removed)@[fd00::1]:1080"),
            ("//user:hunter22@proxy", "(removed)@proxy"),
            (" user:hunter22@proxy\n", "(removed)@proxy"),
            (":hunter22@proxy", "(removed)@proxy"),
            ("hunter22@proxy", "(removed)@proxy"),
            ("user:hunter22@x@proxy", "(removed)@proxy"),
            ("user:hunter22@proxy/a@b", "(removed)@b"),
            ("user:/hunter22?#@proxy", "(removed)@proxy"),
            ("user:://hunter22@proxy", "(removed)@proxy"),
            ("user%3Ahunter22@proxy", "(removed)@proxy"),
            ("user:%68unter22@proxy", "(removed)@proxy"),
            ("user:hunter22%40proxy:3128", "(removed)@proxy:3128"),
            ("a:b@proxy", "(removed)@proxy"),
            ("proxy:3128", "proxy:3128"),
            ("http://proxy:3128/", "http://proxy:3128/"),
        ];
        for name in ["HTTPS_PROXY", "https_proxy", "All_Proxy", "FTP_PROXY"] {
            for (value, shown) in cases {
                let vars = vars(&[(name, value)]);
                assert_eq!(Scrub::of(&vars).variables(&vars), format!("{name}={shown}\n"));
            }
        }
        let list = vars(&[("NO_PROXY", "localhost,10.0.0.0/8,.example")]);
        assert_eq!(Scrub::of(&list).variables(&list), "NO_PROXY=localhost,10.0.0.0/8,.example\n");
    }

    #[test]
    fn password_of_a_proxy_is_removed_elsewhere_in_each_encoding() {
        for value in [
            "me:p@ss:w/rd é@proxy:3128",
            "http://me:p%40ss%3aw%2frd%20%C3%A9@proxy:3128",
            "me%3Ap%40ss%3Aw%2Frd%20%C3%A9@proxy",
        ] {
            let scrub = Scrub::of(&vars(&[("https_proxy", value)]));
            for said in ["p@ss:w/rd é", "p%40ss%3Aw%2Frd%20%C3%A9"] {
                assert_eq!(scrub.text(&format!("by '{said}'.")), "by '(removed)'.", "{value}");
            }
            assert!(!scrub.text(&format!("connect to {value}")).contains("ss"), "{value}");
        }
        // Too short to stand alone, and long enough with the user.
        let scrub = Scrub::of(&vars(&[("HTTP_PROXY", "someone:abc@proxy")]));
        assert_eq!(scrub.text("someone:abc@proxy abc"), "(removed)@proxy abc");
    }

    #[test]
    fn secrets_of_the_files_that_variables_name_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = folder.path().join("credentials");
        std::fs::write(
            &credentials,
            "[default]\naws_access_key_id = id-of-a-key\naws_secret_access_key=s3cr3t/of+the/file\nregion = eu-west-1\n",
        )
        .unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "opaque-token-of-a-pod\n").unwrap();
        let vars = vars(&[
            ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ]);
        let text = "s3cr3t/of+the/file, opaque-token-of-a-pod, id-of-a-key, eu-west-1";
        assert_eq!(Scrub::of(&vars).text(text), "(removed), (removed), (removed), eu-west-1");
    }

    #[test]
    fn keys_of_json_that_are_named_like_secrets_lose_their_values() {
        let mut value = serde_json::json!({
            "plugins": [{"type": "x", "apiToken": "abc", "kubernetes": {"password": "p", "tokenRefresh": true}}],
        });
        Scrub::json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({
                "plugins": [{"type": "x", "apiToken": "(removed)", "kubernetes": {"password": "(removed)", "tokenRefresh": true}}],
            })
        );
    }
}
