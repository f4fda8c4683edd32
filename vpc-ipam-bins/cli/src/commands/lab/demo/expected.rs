//! What a node should come to, by its type and its settings.

use vpc_ipam_core::capacity::{Cap, Footprint, Shape, address_footprint, max_pods};
use vpc_ipam_core::{Card, Config, Families, Ipv4Kind, Limits};

/// On how many ENIs there are to be pods, where the node takes as many.
const ENIS_WANTED: u32 = 3;
/// How many pods there are at most, so that all pairs of them are tried within seconds.
const PODS_MAX: u32 = 64;
/// How many pods there are where one prefix of IPv6 serves them all: the next is as the one before.
const PODS_MAX_IPV6: u32 = 16;
/// How many pods have an interface on every network card, where there are several.
const PODS_ON_EVERY_CARD: u32 = 2;

/// What a node should come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// How many pods get an interface on every network card.
    pub(super) pods_on_every_card: u32,
    /// How many pods get addresses in all.
    pub(super) pods: u32,
    /// On how many ENIs they are; with several network cards that depends on which has an address first.
    pub(super) enis: Option<u32>,
    /// On how many network cards they are.
    pub(super) cards: u32,
    /// What is held once they are gone.
    pub(super) left: Left,
}

/// What a node holds without pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// ENIs, the primary included.
    pub(super) enis: u32,
    /// IPv4 addresses for pods.
    pub(super) addresses: u32,
    /// Prefixes of IPv6.
    pub(super) ipv6_prefixes: u32,
}

impl Left {
    /// The same with so many more ENIs, each of which has a prefix of IPv6 where pods get IPv6.
    pub(super) fn with_more_enis(self, more: u32, ipv6: bool) -> Self {
        let prefixes = if ipv6 { more } else { 0 };
        Self { enis: self.enis + more, ipv6_prefixes: self.ipv6_prefixes + prefixes, ..self }
    }
}

impl Expected {
    pub(super) fn of(limits: &Limits, config: &Config) -> Self {
        let shape = Shape::from(config)
            .with_host_network_pods(0)
            .with_cap(config.pods_max.map_or(Cap::None, Cap::Fixed));
        let most = max_pods(limits, &shape).max_pods;
        let Footprint { enis, for_pods, ipv6_prefixes, .. } =
            address_footprint(limits, config, 0, most).at_boot;
        let left = Left { enis, addresses: for_pods, ipv6_prefixes };
        let cards = limits.cards();
        if config.multi_nic && cards.len() > 1 {
            Self { left, ..Self::on_cards(limits, config, &cards, most) }
        } else {
            Self { left, ..Self::on_one_card(limits, config, most) }
        }
    }

    fn on_one_card(limits: &Limits, config: &Config, most: u32) -> Self {
        let one_eni = Shape::default()
            .with_families(config.families)
            .with_enis_max(Some(1))
            .with_host_network_pods(0);
        let per_eni = max_pods(limits, &one_eni).max_pods.max(1);
        let pods = match config.families {
            Families::Ipv6 => PODS_MAX_IPV6.min(most),
            // The last ENI needs one to be there. ENIs are filled one after the other.
            Families::Ipv4(_) | Families::Dual(_) => {
                ((ENIS_WANTED - 1) * per_eni + 1).min(most).min(PODS_MAX)
            }
        };
        Self {
            pods_on_every_card: 0,
            pods,
            enis: Some(pods.div_ceil(per_eni)),
            cards: 1,
            left: Left { enis: 0, addresses: 0, ipv6_prefixes: 0 },
        }
    }

    fn on_cards(limits: &Limits, config: &Config, cards: &[Card], most: u32) -> Self {
        let number = cards.len() as u32;
        let on_others: u32 = cards
            .iter()
            .filter(|card| **card != limits.default_card)
            .map(|card| pods_of_other_card(limits, config, *card))
            .sum();
        let every = PODS_ON_EVERY_CARD;
        // Each of those takes one address of every card.
        let room = (most + on_others).saturating_sub(every * (number - 1));
        let wanted = (PODS_MAX / number).max(2 * every);
        Self {
            pods_on_every_card: every,
            pods: wanted.min(room).min(config.pods_max.unwrap_or(u32::MAX)),
            enis: None,
            cards: number,
            left: Left { enis: 0, addresses: 0, ipv6_prefixes: 0 },
        }
    }
}

/// Returns for how many pods a network card other than the default one has addresses.
fn pods_of_other_card(limits: &Limits, config: &Config, card: Card) -> u32 {
    let enis = u32::from(limits.enis(card)).min(config.enis_max.map_or(u32::MAX, u32::from));
    let per_slot = match config.families.ipv4() {
        Some(Ipv4Kind::Prefixes) if limits.prefixes() => 16,
        Some(_) => 1,
        None => return PODS_MAX,
    };
    enis * u32::from(limits.ipv4_slots()) * per_slot
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(instance_type: &str, vars: &[(&str, &str)]) -> Expected {
        let limits = Limits::lookup(instance_type.parse().unwrap()).unwrap();
        let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let (config, _) = Config::from_vars(vars);
        Expected::of(&limits, &config)
    }

    #[test]
    fn expected_follows_type_and_variables() {
        let prefixes = ("ENABLE_PREFIX_DELEGATION", "true");
        let ipv6 = ("ENABLE_IPv6", "true");
        let ipv4 = ("ENABLE_IPv4", "true");
        let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
        let cases: [(&str, &[(&str, &str)], _); 15] = [
            ("m5.large", &[], (19, 3, (1, 9, 0))),
            ("m5.large", &[("WARM_IP_TARGET", "5")], (19, 3, (1, 5, 0))),
            ("m5.large", &[("MAX_ENI", "2")], (18, 2, (1, 9, 0))),
            ("m5.large", &[prefixes], (64, 1, (1, 16, 0))),
            // A type of the older hypervisor takes no prefixes.
            ("m4.large", &[prefixes], (18, 2, (1, 1, 0))),
            ("t3.nano", &[], (2, 2, (1, 1, 0))),
            ("t3.nano", &[prefixes], (32, 2, (1, 16, 0))),
            ("c5.4xlarge", &[], (59, 3, (1, 29, 0))),
            ("m5.large", &[ipv6], (16, 1, (1, 0, 1))),
            ("m5.large", &[ipv6, ipv4], (19, 3, (1, 9, 1))),
            ("m5.large", &[ipv6, ipv4, prefixes], (64, 1, (1, 16, 1))),
            ("m5.large", &[custom], (18, 2, (2, 9, 0))),
            ("m5.large", &[custom, prefixes], (64, 1, (2, 16, 0))),
            ("m5.large", &[custom, ipv6, ipv4], (18, 2, (2, 9, 1))),
            ("t3.small", &[], (7, 3, (1, 3, 0))),
        ];
        for (instance_type, vars, (pods, enis, left)) in cases {
            let found = expected(instance_type, vars);
            let left_found = (found.left.enis, found.left.addresses, found.left.ipv6_prefixes);
            assert_eq!(
                (found.pods, found.enis, left_found),
                (pods, Some(enis), left),
                "{instance_type} {vars:?}"
            );
            assert_eq!((found.pods_on_every_card, found.cards), (0, 1), "{instance_type}");
        }
    }

    #[test]
    fn several_cards_have_pods_on_each() {
        let multi = ("ENABLE_MULTI_NIC", "true");
        let cases: [(&str, &[(&str, &str)], _); 4] = [
            ("c6in.32xlarge", &[multi], (32, 2, (2, 50, 0))),
            ("p4d.24xlarge", &[multi], (16, 4, (4, 52, 0))),
            ("p4d.24xlarge", &[multi, ("ENABLE_IPv6", "true")], (16, 4, (4, 0, 4))),
            ("hpc6id.32xlarge", &[multi], (32, 2, (2, 50, 0))),
        ];
        for (instance_type, vars, (pods, cards, left)) in cases {
            let found = expected(instance_type, vars);
            let left_found = (found.left.enis, found.left.addresses, found.left.ipv6_prefixes);
            assert_eq!(
                (found.pods, found.cards, left_found),
                (pods, cards, left),
                "{instance_type}"
            );
            assert_eq!((found.pods_on_every_card, found.enis), (2, None), "{instance_type}");
        }
        let one_card = expected("m5.large", &[multi]);
        assert_eq!((one_card.cards, one_card.enis), (1, Some(3)));
    }
}
