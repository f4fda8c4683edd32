//! Who should reach whom, and as whom they are seen.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use vpc_ipam_core::error_chain;
use vpc_ipam_linux::lab::{self, INTERNET, INTERNET_IPV6, Lab};
use vpc_ipam_linux::{Family, HostConfig, Namespace, NamespaceError};

use super::PORT;
use super::pod::{DemoPod, Interface};
use crate::lab::Mode;

/// How long an answer may take within one machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the pods' connections lead to, besides each other.
pub(super) struct Surroundings {
    node: Place,
    other_host: Place,
    internet: Place,
    /// Of which families pods have addresses in the VPC.
    families: Vec<Family>,
    /// Which ranges see pods with their own addresses.
    host_config: HostConfig,
    /// How long the packets of pods may be, in bytes.
    packet_max: u16,
    /// Whether there is more than one family to tell apart.
    has_ipv6: bool,
}

/// A host with an address of each family that the lab has.
struct Place {
    netns: Namespace,
    ipv4: IpAddr,
    ipv6: Option<IpAddr>,
}

impl Place {
    fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::Ipv4 => Some(self.ipv4),
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// Something that is tried, and what should come of it.
pub(super) struct Trial<'a> {
    /// What it is, in words that it shares with its like.
    what: String,
    from: &'a Namespace,
    /// From which address, where it is not the kernel that should choose.
    source: Option<IpAddr>,
    to: IpAddr,
    wanted: Wanted,
}

enum Wanted {
    /// The other side sees this address.
    Seen(IpAddr),
    /// There is no connection.
    Refused,
    /// A packet of so many bytes comes back.
    Back(u16),
}

impl Surroundings {
    pub(super) fn of(lab: &Lab, mode: &Mode) -> Self {
        let layout = lab.layout();
        let host = |host: &lab::Host, netns: &Namespace| Place {
            netns: netns.clone(),
            ipv4: host.primary_ipv4.into(),
            ipv6: host.primary_ipv6.map(IpAddr::from),
        };
        let internet = Place {
            netns: lab.internet().clone(),
            ipv4: INTERNET.into(),
            ipv6: layout.has_ipv6().then(|| INTERNET_IPV6.into()),
        };
        let ipv4 = mode.config.families.ipv4().map(|_| Family::Ipv4);
        let ipv6 = mode.config.families.ipv6().then_some(Family::Ipv6);
        let of_pods = mode.host.pod_mtu.unwrap_or(mode.config.eni_mtu);
        Self {
            node: host(&layout.node, lab.node()),
            other_host: host(&layout.other_host, lab.other_host()),
            internet,
            families: ipv4.into_iter().chain(ipv6).collect(),
            host_config: mode.host.clone(),
            packet_max: of_pods.min(mode.config.eni_mtu),
            has_ipv6: mode.has_ipv6(),
        }
    }

    /// Returns the namespaces of the hosts in which something has to answer.
    pub(super) fn hosts(&self) -> [&Namespace; 3] {
        [&self.node.netns, &self.other_host.netns, &self.internet.netns]
    }

    /// Returns the namespace of the host that sends packets back.
    pub(super) fn other_host(&self) -> &Namespace {
        &self.other_host.netns
    }

    /// Returns all that is to be tried, namespace by namespace.
    pub(super) fn trials<'a>(&'a self, pods: &'a [DemoPod]) -> Vec<Trial<'a>> {
        let mut trials = Vec::new();
        for from in pods {
            for &family in &self.families {
                for to in pods.iter().filter(|to| to.name != from.name) {
                    trials.extend(self.between_pods(from, to, family));
                }
                for (number, interface) in from.interfaces.iter().enumerate() {
                    trials.extend(self.of_interface(from, number, interface, family));
                }
                trials.extend(self.longest_packet(from, family));
            }
            trials.extend(from.egress.iter().flat_map(|own| self.of_egress(from, *own)));
        }
        // Two are enough: a refusal may reach a pod only with the second packet that it sends, a second after the first.
        if let [a, b, ..] = pods {
            let sealed = |from, to: &DemoPod| to.egress.map(|to| self.sealed(from, to));
            trials.extend(sealed(a, b).into_iter().chain(sealed(b, a)));
        }
        trials.sort_by(|a, b| a.from.path().cmp(b.from.path()));
        trials
    }

    /// Between interfaces of one network card, and from and to the first ones: a pod on 32 cards has a thousand pairs with
    /// another.
    fn between_pods<'a>(&self, from: &'a DemoPod, to: &DemoPod, family: Family) -> Vec<Trial<'a>> {
        let mut trials = Vec::new();
        for (i, near) in from.interfaces.iter().enumerate() {
            for (j, far) in to.interfaces.iter().enumerate() {
                let (Some(own), Some(to)) = (near.address(family), far.address(family)) else {
                    continue;
                };
                if i == j || i == 0 || j == 0 {
                    let what = format!("pod to pod, {} to {}", near.link(), far.link());
                    trials.push(Trial {
                        source: (i > 0).then_some(own),
                        ..self.trial(what, family, &from.netns, to, Wanted::Seen(own))
                    });
                }
            }
        }
        trials
    }

    /// From and to an interface of a pod, in both directions.
    fn of_interface<'a>(
        &'a self,
        pod: &'a DemoPod,
        number: usize,
        interface: &Interface,
        family: Family,
    ) -> Vec<Trial<'a>> {
        let Some(own) = interface.address(family) else { return Vec::new() };
        let mut trials = Vec::new();
        for (name, place) in
            [("node", &self.node), ("other host", &self.other_host), ("internet", &self.internet)]
        {
            let Some(there) = place.address(family) else { continue };
            let outside = name == "internet";
            let translated = outside && !self.keeps_its_own(family);
            let seen = if translated { self.node.address(family).unwrap_or(own) } else { own };
            let to = format!("pod to {name}");
            trials.push(Trial {
                source: (number > 0).then_some(own),
                ..self.trial(to, family, &pod.netns, there, Wanted::Seen(seen))
            });
            // What is translated has no address by which it could be reached from there.
            if !translated {
                let back = format!("{name} to pod");
                trials.push(self.trial(back, family, &place.netns, own, Wanted::Seen(there)));
            }
        }
        trials
    }

    fn longest_packet<'a>(&self, pod: &'a DemoPod, family: Family) -> Option<Trial<'a>> {
        let to = self.other_host.address(family)?;
        let what = format!("packet of {} bytes", self.packet_max);
        Some(self.trial(what, family, &pod.netns, to, Wanted::Back(self.packet_max)))
    }

    /// By an address that only the node knows, which it translates to its own.
    fn of_egress<'a>(&'a self, pod: &'a DemoPod, own: IpAddr) -> Vec<Trial<'a>> {
        let family = Family::of(own);
        let places = [("other host", &self.other_host), ("internet", &self.internet)];
        let trial = |(name, place): (&str, &Place)| {
            let (there, seen) = (place.address(family)?, self.node.address(family)?);
            let what = format!("pod by its node to {name}");
            Some(self.trial(what, family, &pod.netns, there, Wanted::Seen(seen)))
        };
        places.into_iter().filter_map(trial).collect()
    }

    /// To an address that only the node knows, by which no other pod is to reach this one.
    fn sealed<'a>(&self, from: &'a DemoPod, to: IpAddr) -> Trial<'a> {
        let what = "egress address is sealed".to_string();
        self.trial(what, Family::of(to), &from.netns, to, Wanted::Refused)
    }

    fn trial<'a>(
        &self,
        what: String,
        family: Family,
        from: &'a Namespace,
        to: IpAddr,
        wanted: Wanted,
    ) -> Trial<'a> {
        let suffix = match family {
            _ if !self.has_ipv6 => "",
            Family::Ipv4 => ", IPv4",
            Family::Ipv6 => ", IPv6",
        };
        Trial { what: what + suffix, from, source: None, to, wanted }
    }

    /// Returns whether the internet sees pods with their own addresses.
    fn keeps_its_own(&self, family: Family) -> bool {
        let HostConfig { external_snat, excluded_cidrs, .. } = &self.host_config;
        match family {
            Family::Ipv4 => {
                *external_snat || excluded_cidrs.iter().any(|cidr| cidr.contains(&INTERNET))
            }
            Family::Ipv6 => true,
        }
    }
}

/// Tries all, and returns what each is and what is not as it should be.
pub(super) fn try_all(
    trials: &[Trial<'_>],
) -> Result<Vec<(String, Option<String>)>, NamespaceError> {
    let mut tried = Vec::with_capacity(trials.len());
    for of_one in trials.chunk_by(|a, b| a.from == b.from) {
        let all =
            || of_one.iter().map(|trial| (trial.what.clone(), trial.failure())).collect::<Vec<_>>();
        // To enter a namespace takes longer than to connect from it.
        tried.extend(of_one[0].from.run(all)?);
    }
    Ok(tried)
}

impl Trial<'_> {
    /// Tries, and returns what is not as it should be.
    fn failure(&self) -> Option<String> {
        let Self { from, to, .. } = *self;
        let at = SocketAddr::new(to, PORT);
        if let Wanted::Back(bytes) = self.wanted {
            return lab::echo(from, at, bytes, PATIENCE).err().map(|error| error_chain(&error));
        }
        let seen = match self.source {
            Some(source) => lab::ask_from(from, source, at, PATIENCE),
            None => lab::ask(from, at, PATIENCE),
        };
        match (&self.wanted, seen) {
            (Wanted::Seen(wanted), Ok(seen)) if seen == *wanted => None,
            (Wanted::Seen(wanted), Ok(seen)) => {
                Some(format!("{to} saw {seen} instead of {wanted}"))
            }
            (Wanted::Seen(wanted), Err(error)) => {
                Some(format!("{to} did not answer {wanted}: {}", error_chain(&error)))
            }
            (Wanted::Refused, Err(_)) => None,
            (Wanted::Refused | Wanted::Back(_), Ok(seen)) => Some(format!("{to} answered {seen}")),
            (Wanted::Back(_), Err(error)) => Some(error_chain(&error)),
        }
    }
}
