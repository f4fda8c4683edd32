//! Names: of the links of pods, by which Calico finds them, and of the pods that links belong to.
//!
//! The name of a link has room for 44 bits of the SHA-1 of a pod's names, and who may choose names finds two pods with the same bits
//! in seconds. So a link also says in full whose it is, as its alias, and a pod never takes the link of another.

use core::fmt::Write as _;

use sha1::{Digest as _, Sha1};
use vpc_ipam_core::{Lease, Pod};

use crate::VethPrefix;

/// With four characters of prefix the longest name that a link can have.
const DIGITS: usize = 11;

/// Begins the aliases of pods' links.
const OURS: &str = "vpc-ipam ";

/// The longest alias that the kernel takes with the end that netlink gives it, in bytes (`IFALIASZ` less two).
const ALIAS_MAX: usize = 254;

/// Returns the names of the host's links of a pod with so many interfaces, the first of which is what Calico expects.
pub fn host_links(
    pod: &Pod,
    interfaces: usize,
    prefix: &VethPrefix,
) -> impl Iterator<Item = String> {
    // A pod has 250 at most.
    (0..=u8::MAX).take(interfaces).map(|number| host_name(prefix, pod, number))
}

/// Returns the names of the host's links of a pod that has a lease: as they were found of one that was imported, and none where another
/// plugin makes its links.
pub fn links_of_lease(lease: &Lease, prefix: &VethPrefix) -> Vec<String> {
    if lease.addresses_only {
        return Vec::new();
    }
    let names = host_links(&lease.pod, lease.interfaces().count(), prefix);
    let found = |(number, name): (usize, String)| match lease.found.get(number) {
        Some(found) => found.name.clone(),
        None => name,
    };
    names.enumerate().map(found).collect()
}

/// Returns whether the name of a host's link is that of a pod's interface of this number, whatever its prefix.
pub fn is_link_of(link: &str, pod: &Pod, number: usize) -> bool {
    let number = u8::try_from(number).ok();
    parts_of_host_name(link)
        .zip(number)
        .is_some_and(|((_, digits), number)| digits == self::digits(pod, number))
}

/// Names the host's end as amazon-vpc-cni-k8s does and Calico expects: from the pod's names, not its key.
pub(super) fn host_name(prefix: &VethPrefix, pod: &Pod, number: u8) -> String {
    format!("{prefix}{}", digits(pod, number))
}

fn digits(pod: &Pod, number: u8) -> String {
    let mut text = format!("{}.{}", pod.namespace, pod.name);
    if number > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, ".{number}");
    }
    let mut digits = hex(&Sha1::digest(text.as_bytes())[..6]);
    digits.truncate(DIGITS);
    digits
}

/// Returns the prefix and the digits of the name of a host's end, if it has the form of one.
pub(crate) fn parts_of_host_name(name: &str) -> Option<(&str, &str)> {
    let (prefix, digits) = name.split_at_checked(name.len().checked_sub(DIGITS)?)?;
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digits.bytes().all(digit).then_some((prefix, digits))
}

/// Returns the alias by which the links of a pod say whose they are; of names that are too long for it, the beginning and a digest.
pub(super) fn alias(pod: &Pod) -> String {
    let mut alias = format!("{OURS}{}/{}", one_word(&pod.namespace), one_word(&pod.name));
    if alias.len() > ALIAS_MAX {
        let digest = format!("... sha1 {}", hex(&Sha1::digest(alias.as_bytes())));
        alias.truncate(alias.floor_char_boundary(ALIAS_MAX - digest.len()));
        alias += &digest;
    }
    alias
}

/// Escapes what would break a line, and what stands between two names.
fn one_word(name: &str) -> String {
    let mut word = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '/' | '\\' => word.extend(['\\', c]),
            c if c.is_control() => word.extend(c.escape_default()),
            c => word.push(c),
        }
    }
    word
}

/// Returns the names of the pod that an alias tells of, if it is one of ours.
pub(super) fn of_alias(alias: &str) -> Option<&str> {
    alias.strip_prefix(OURS)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_those_that_calico_expects() {
        let cases = [
            ("default", "p1", 0, "eni182c452fe96"),
            ("kube-system", "coredns-5d78c9869d-abcde", 0, "eni4d5f75c480c"),
            ("default", "p1", 1, "eni09a57617d5a"),
        ];
        for (namespace, name, number, expected) in cases {
            let actual = host_name(&VethPrefix::default(), &pod(namespace, name), number);
            assert_eq!(actual, expected, "{namespace}/{name} {number}");
        }
    }

    #[test]
    fn aliases_differ_where_names_do_and_fit_into_the_kernel() {
        let long = "x".repeat(300);
        let names = [
            ("default", "web"),
            ("default", "web.1"),
            ("default.web", "1"),
            ("default", "we\nb"),
            ("default", "we\\nb"),
            ("default/we", "b"),
            ("default", "we/b"),
            ("default", &long),
            ("default", &long[1..]),
            ("default", &"é".repeat(150)),
            (&long, &long),
        ];
        let aliases: BTreeSet<_> = names.iter().map(|(a, b)| alias(&pod(a, b))).collect();
        assert_eq!(aliases.len(), names.len(), "{aliases:?}");
        for alias in aliases {
            assert!(alias.len() <= ALIAS_MAX && !alias.contains(char::is_control), "{alias:?}");
            assert!(of_alias(&alias).is_some());
        }
        assert_eq!(of_alias(&alias(&pod("default", "web"))), Some("default/web"));
        assert_eq!(of_alias("uplink to the office"), None);
    }

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod::new(namespace.to_owned(), name.to_owned())
    }
}
