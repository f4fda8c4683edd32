//! Filters of the describing operations.

use std::collections::BTreeMap;

use vpc_ipam_core::sim::{Instance, NetworkInterface};
use vpc_ipam_core::{Limits, ObservedSubnet};

use super::query::{Query, Refusal};
use super::render;

/// What every item of an answer fulfils: for each filter, one of its values.
pub(super) struct Filters(Vec<(String, Vec<String>)>);

/// What a filter can be asked of: the values that the thing has for a filter's name, `None` if EC2 has no such filter.
pub(super) trait Filtered {
    fn values(&self, name: &str) -> Option<Vec<String>>;
}

impl Filters {
    pub(super) fn take(query: &mut Query) -> Result<Self, Refusal> {
        let take = |mut filter: Query| {
            let pair = (filter.required("Name")?, filter.list("Value")?);
            filter.finish()?;
            Ok(pair)
        };
        let filters = query.structures("Filter").into_iter().map(take);
        filters.collect::<Result<_, _>>().map(Self)
    }

    /// Drops what does not match.
    pub(super) fn apply<T: Filtered>(&self, items: &mut Vec<T>) -> Result<(), Refusal> {
        for (name, wanted) in &self.0 {
            let mut unknown = false;
            items.retain(|item| match item.values(name) {
                Some(values) => {
                    wanted.iter().any(|pattern| values.iter().any(|value| matches(pattern, value)))
                }
                None => {
                    unknown = true;
                    true
                }
            });
            if unknown {
                return Err(Refusal::new(
                    "InvalidParameterValue",
                    format!("The filter '{name}' is invalid"),
                ));
            }
        }
        Ok(())
    }
}

/// Returns whether a value matches a pattern, in which `*` stands for any text and `?` for one character.
fn matches(pattern: &str, value: &str) -> bool {
    let (pattern, value) = (pattern.as_bytes(), value.as_bytes());
    // Where to go on when what follows the last star does not match: the star takes one character more.
    let mut retry = None;
    let (mut p, mut v) = (0, 0);
    while v < value.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, v));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                v += 1;
            }
            Some(byte) if *byte == value[v] => {
                p += 1;
                v += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    v = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl Filtered for NetworkInterface {
    fn values(&self, name: &str) -> Option<Vec<String>> {
        if let Some(values) = tag_values(&self.tags, name) {
            return Some(values);
        }
        let attachment = self.attachment.as_ref();
        let own = self.primary_ipv4.map(|address| address.to_string());
        Some(match name {
            "network-interface-id" => vec![self.id.to_string()],
            "status" => vec![render::status(self).into()],
            "subnet-id" => vec![self.subnet.to_string()],
            "vpc-id" => vec![self.vpc.to_string()],
            "availability-zone" => vec![self.zone.to_string()],
            "description" => vec![self.description.clone()],
            "interface-type" => vec![render::interface_type(self.interface_type).into()],
            "mac-address" => vec![self.mac.to_string()],
            "group-id" => strings(&self.security_groups),
            "private-ip-address" => own.into_iter().collect(),
            "addresses.private-ip-address" => {
                let secondary = self.ipv4.iter().filter(|net| net.prefix_len() == 32);
                own.into_iter().chain(secondary.map(|net| net.addr().to_string())).collect()
            }
            "attachment.attachment-id" => strings(attachment.map(|found| found.id)),
            "attachment.instance-id" => strings(attachment.map(|found| found.instance)),
            "attachment.device-index" => strings(attachment.map(|found| found.device.0)),
            "attachment.status" => {
                strings(attachment.map(|found| render::attachment_status(found.status)))
            }
            "attachment.delete-on-termination" => {
                strings(attachment.map(|found| found.delete_on_termination))
            }
            _ => return None,
        })
    }
}

impl Filtered for Instance {
    fn values(&self, name: &str) -> Option<Vec<String>> {
        if let Some(values) = tag_values(&self.tags, name) {
            return Some(values);
        }
        Some(match name {
            "instance-id" => vec![self.node.instance.to_string()],
            "instance-type" => vec![self.node.instance_type.to_string()],
            "instance-state-name" => vec!["running".into()],
            "availability-zone" => vec![self.node.zone.to_string()],
            "subnet-id" => vec![self.node.subnet.to_string()],
            "vpc-id" => vec![self.node.vpc.to_string()],
            _ => return None,
        })
    }
}

impl Filtered for ObservedSubnet {
    fn values(&self, name: &str) -> Option<Vec<String>> {
        if let Some(values) = tag_values(&self.tags, name) {
            return Some(values);
        }
        Some(match name {
            "subnet-id" => vec![self.id.to_string()],
            "vpc-id" => vec![self.vpc.to_string()],
            "availability-zone" | "availabilityZone" => vec![self.zone.to_string()],
            "cidr-block" | "cidr" | "cidrBlock" => vec![self.ipv4_cidr.to_string()],
            "state" => vec!["available".into()],
            _ => return None,
        })
    }
}

impl Filtered for Limits {
    fn values(&self, name: &str) -> Option<Vec<String>> {
        Some(match name {
            "instance-type" => vec![self.instance_type.to_string()],
            "bare-metal" => vec![self.bare_metal.to_string()],
            "hypervisor" => strings(render::hypervisor(self.hypervisor)),
            _ => return None,
        })
    }
}

fn tag_values(tags: &BTreeMap<String, String>, name: &str) -> Option<Vec<String>> {
    match name.strip_prefix("tag:") {
        Some(key) => Some(tags.get(key).cloned().into_iter().collect()),
        None if name == "tag-key" => Some(tags.keys().cloned().collect()),
        None => None,
    }
}

fn strings<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_are_wildcards() {
        let cases = [
            ("aws-K8S-*", "aws-K8S-i-0", true),
            ("aws-K8S-*", "aws-k8s-i-0", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*b", "abab", true),
            ("*b*b", "aba", false),
            ("a*", "ba", false),
        ];
        for (pattern, value, expected) in cases {
            assert_eq!(matches(pattern, value), expected, "{pattern:?} {value:?}");
        }
    }
}
