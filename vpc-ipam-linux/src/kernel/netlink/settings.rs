//! Settings of one link that travel in one message.

use crate::{KernelChange, LinkIndex, Object};

/// Settings of one link, so many as one message sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LinkSettings<'a> {
    /// Of changes that only name the link that is all.
    pub(super) name: &'a str,
    pub(super) index: Option<LinkIndex>,
    /// MTU, and whether it is up.
    pub(super) mtu_and_up: Option<(u32, bool)>,
    pub(super) alias: Option<&'a str>,
    /// Numbers of linux/ip.h, and values.
    pub(super) ipv4: Vec<(u16, u32)>,
}

impl<'a> LinkSettings<'a> {
    /// Returns the settings that the first of some changes make, one and the same link's, and how many changes those are; `None` if
    /// the first makes none.
    pub(super) fn of(changes: &'a [KernelChange]) -> Option<(Self, usize)> {
        let mut settings = Self::default();
        let taken = changes.iter().take_while(|change| settings.take(change)).count();
        (taken > 0).then_some((settings, taken))
    }

    fn take(&mut self, change: &'a KernelChange) -> bool {
        match change {
            KernelChange::Set(Object::Link { link, mtu, up }) if self.mtu_and_up.is_none() => {
                self.is_of(&link.name, Some(link.index)) && {
                    self.mtu_and_up = Some((*mtu, *up));
                    true
                }
            }
            KernelChange::Set(Object::Alias { link, alias }) if self.alias.is_none() => {
                self.is_of(&link.name, Some(link.index)) && {
                    self.alias = Some(alias);
                    true
                }
            }
            KernelChange::Set(Object::Sysctl(sysctl)) => {
                let Some((link, name)) = sysctl.key.as_ipv4_of_link() else { return false };
                let (Some(number), Ok(value)) = (number(name), sysctl.value.parse()) else {
                    return false;
                };
                self.is_of(link, None) && {
                    self.ipv4.push((number, value));
                    true
                }
            }
            _ => false,
        }
    }

    fn is_of(&mut self, name: &'a str, index: Option<LinkIndex>) -> bool {
        let first = self.name.is_empty();
        let same =
            self.name == name && (self.index.is_none() || index.is_none() || self.index == index);
        if first || same {
            self.name = name;
            self.index = self.index.or(index);
        }
        first || same
    }
}

/// Returns the number that rtnetlink has for an IPv4 variable of a link, from linux/ip.h.
///
/// Of those alone that are no more than a value. What else happens when `forwarding` is set happens by the file only.
fn number(variable: &str) -> Option<u16> {
    Some(match variable {
        "proxy_arp" => 3,
        "accept_redirects" => 4,
        "send_redirects" => 6,
        "rp_filter" => 8,
        "accept_source_route" => 9,
        "accept_local" => 23,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkId, Sysctl, SysctlKey};

    #[test]
    fn settings_of_one_link_go_together_and_no_others() {
        let link = |index| LinkId::new(LinkIndex(index), &format!("l{index}"));
        let ipv4 = |link: &str, name: &str| {
            let key = SysctlKey::ipv4_of_link(link, name);
            KernelChange::Set(Object::Sysctl(Sysctl { key, value: "0".to_owned(), optional: true }))
        };
        let up = |index| KernelChange::Set(Object::Link { link: link(index), mtu: 1500, up: true });
        let alias =
            |index| KernelChange::Set(Object::Alias { link: link(index), alias: "a".to_owned() });
        // How many of the changes, and for which link.
        let cases = [
            (vec![], None),
            (vec![up(1)], Some((1, "l1", Some(1)))),
            (vec![ipv4("l1", "rp_filter"), alias(1), up(1)], Some((3, "l1", Some(1)))),
            (
                vec![ipv4("l1", "rp_filter"), ipv4("l1", "proxy_arp"), ipv4("l2", "proxy_arp")],
                Some((2, "l1", None)),
            ),
            (vec![ipv4("l1", "rp_filter"), up(2)], Some((1, "l1", None))),
            (vec![alias(1), up(2)], Some((1, "l1", Some(1)))),
            (vec![up(1), up(1)], Some((1, "l1", Some(1)))),
            // By its file alone.
            (vec![ipv4("l1", "forwarding")], None),
            (vec![ipv4("all", "rp_filter")], None),
            (vec![KernelChange::Remove(Object::Link { link: link(1), mtu: 1500, up: true })], None),
        ];
        for (changes, expected) in cases {
            let settings = LinkSettings::of(&changes);
            let actual = settings
                .as_ref()
                .map(|(it, count)| (*count, it.name, it.index.map(|index| index.0)));
            assert_eq!(actual, expected, "{changes:?}");
        }
    }
}
