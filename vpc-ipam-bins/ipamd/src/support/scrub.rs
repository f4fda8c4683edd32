//! Taking secrets out of what leaves the node.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use crate::variables::KNOWN;

/// What stands where a secret was.
const REMOVED: &str = "(removed)";
/// Shorter values could stand anywhere by chance.
const SECRET_MIN: usize = 8;
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
                let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
                let shown = KNOWN.iter().any(|known| known.name == name);
                if (shown || is_proxy) && !is_secret_name(name) {
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
