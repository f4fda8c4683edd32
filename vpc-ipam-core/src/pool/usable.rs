//! Which blocks pods can have addresses of, of those that EC2 assigned.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::pool::Pool;
use crate::pool::block::Block;
use crate::pool::finding::Finding;
use crate::pool::surroundings::Subnets;
use crate::{EniId, Event, ObservedEni, SubnetRanges, Timestamp};

impl Pool {
    /// Returns an ENI as it was shown, without the blocks that no pod can have.
    pub(crate) fn without_unusable<'o>(
        &mut self,
        observed: &'o ObservedEni,
        subnets: &Subnets,
        finding: &mut Finding,
    ) -> Cow<'o, ObservedEni> {
        let own = [observed.primary_ipv4.map(IpAddr::V4), observed.primary_ipv6.map(IpAddr::V6)];
        let ranges = subnets.ranges_of(observed.subnet);
        let (_, refused) = usable_of(&observed.blocks, |net| self.is_usable(net, &own, ranges));
        self.on_refused(observed.id, &refused, finding);
        if refused.is_empty() {
            return Cow::Borrowed(observed);
        }
        let mut observed = observed.clone();
        observed.blocks.retain(|net| !refused.contains(&net.trunc()));
        Cow::Owned(observed)
    }

    /// Returns whether pods can have addresses of a block: it has a length that EC2 assigns, lies within the subnet as far as
    /// that is known, and holds no ENI's own address.
    fn is_usable(&self, net: IpNet, own: &[Option<IpAddr>], ranges: Option<SubnetRanges>) -> bool {
        let length = match net {
            IpNet::V4(net) => matches!(net.prefix_len(), 28 | 32),
            IpNet::V6(net) => net.prefix_len() == 80,
        };
        let within = |ranges: SubnetRanges| match net {
            IpNet::V4(net) => ranges.ipv4.is_none_or(|range| range.contains(&net)),
            IpNet::V6(net) => ranges.ipv6.is_none_or(|range| range.contains(&net)),
        };
        let holds = |address: IpAddr| net.contains(&address);
        let of_others =
            self.enis.iter().filter(|eni| eni.occupies_slot()).flat_map(|eni| {
                [eni.primary_ipv4.map(IpAddr::V4), eni.primary_ipv6.map(IpAddr::V6)]
            });
        length
            && ranges.is_none_or(within)
            && !own.iter().copied().chain(of_others).flatten().any(holds)
    }

    /// Says once which blocks of an ENI were refused.
    fn on_refused(&mut self, id: EniId, refused: &[IpNet], finding: &mut Finding) {
        let known = self.eni(id).map_or(&[][..], |eni| &eni.refused);
        if refused.iter().any(|net| !known.contains(net)) {
            finding.events.push(Event::BlocksRefused { eni: id, blocks: refused.to_vec() });
        }
        if let Some(eni) = self.eni_mut(id) {
            eni.refused = refused.to_vec();
        }
    }

    /// Records that EC2 just assigned blocks to an ENI. Returns those that pods can have; the others are refused.
    pub(crate) fn on_blocks_assigned(
        &mut self,
        id: EniId,
        nets: &[IpNet],
        ipv6: bool,
        subnets: &Subnets,
        now: Timestamp,
        finding: &mut Finding,
    ) -> Vec<IpNet> {
        let subnet = self.eni(id).map(|eni| eni.subnet);
        let ranges = subnet.and_then(|subnet| subnets.ranges_of(subnet));
        let usable = |net| matches!(net, IpNet::V6(_)) == ipv6 && self.is_usable(net, &[], ranges);
        let (good, refused) = usable_of(nets, usable);
        if !refused.is_empty() {
            finding.events.push(Event::BlocksRefused { eni: id, blocks: refused });
        }
        for net in &good {
            self.take_over(id, *net, None);
            if let Some(eni) = self.eni_mut(id) {
                eni.on_block_confirmed(*net, now);
            }
        }
        self.adopt_leases();
        good
    }

    /// Forgets blocks that turn out to lie outside their subnet, whose range became known only now.
    pub(crate) fn refuse_outside(&mut self, subnets: &Subnets) -> Vec<Event> {
        let mut finding = Finding::default();
        let ids: Vec<EniId> = self.enis.iter().map(|eni| eni.id).collect();
        for id in ids {
            let Some(eni) = self.eni(id) else { continue };
            let ranges = subnets.ranges_of(eni.subnet);
            let nets = eni.blocks().iter().map(Block::net);
            let outside = |net: &IpNet| match (net, ranges) {
                (IpNet::V4(net), Some(SubnetRanges { ipv4: Some(range), .. })) => {
                    !range.contains(net)
                }
                (IpNet::V6(net), Some(SubnetRanges { ipv6: Some(range), .. })) => {
                    !range.contains(net)
                }
                _ => false,
            };
            let refused: Vec<IpNet> = nets.filter(outside).collect();
            if refused.is_empty() {
                continue;
            }
            for net in &refused {
                self.forget_block(id, *net);
            }
            self.on_refused(id, &refused, &mut finding);
        }
        finding.events
    }
}

/// Splits the blocks of an answer into those that pods can have and the others: one that lies in another is in it already.
fn usable_of(nets: &[IpNet], is_usable: impl Fn(IpNet) -> bool) -> (Vec<IpNet>, Vec<IpNet>) {
    let (mut usable, mut refused): (Vec<IpNet>, Vec<IpNet>) =
        nets.iter().map(IpNet::trunc).partition(|net| is_usable(*net));
    usable.sort_unstable();
    usable.dedup();
    let all = usable.clone();
    let covered = |net: &IpNet| all.iter().any(|other| other != net && other.contains(net));
    let (covered, usable): (Vec<IpNet>, Vec<IpNet>) = usable.into_iter().partition(covered);
    refused.extend(covered);
    (usable, refused)
}
