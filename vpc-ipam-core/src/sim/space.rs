//! The addresses of one subnet: which are free, and which EC2 would pick.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::CloudError;
use super::rng::Rng;

/// The IPv4 addresses of a subnet, one bit each, a word for each /28.
///
/// EC2 scatters secondary addresses over a subnet, which is what breaks up its /28 blocks: so does this.
#[derive(Clone, Debug)]
pub(super) struct Ipv4Space {
    net: Ipv4Net,
    blocks: Vec<u16>,
    free: u32,
    /// The /28 blocks that are reserved, by their index.
    reserved: BTreeMap<usize, Reservation>,
}

/// For what a range of a subnet is reserved (CreateSubnetCidrReservation): EC2 assigns nothing else out of it by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// For /28 prefixes: single addresses come from elsewhere.
    Prefix,
    /// For addresses that a call names.
    Explicit,
}

const BLOCK_FULL: u16 = u16::MAX;

impl Ipv4Space {
    /// Makes the space of a range between /16 and /28, which are EC2's bounds; its first four addresses and its last
    /// are EC2's own.
    pub(super) fn new(net: Ipv4Net) -> Option<Self> {
        if !(16..=28).contains(&net.prefix_len()) || net != net.trunc() {
            return None;
        }
        let blocks = 1_usize << (28 - net.prefix_len());
        let free = blocks as u32 * 16 - 5;
        let mut space = Self { net, blocks: vec![0; blocks], free, reserved: BTreeMap::new() };
        space.blocks[0] |= 0b1111;
        space.blocks[blocks - 1] |= 1 << 15;
        Some(space)
    }

    pub(super) fn net(&self) -> Ipv4Net {
        self.net
    }

    /// Returns how many addresses are taken by nothing, reserved ones included.
    pub(super) fn free(&self) -> u32 {
        self.free
    }

    /// Reserves every /28 of a range. Returns false if the range is no part of the subnet.
    pub(super) fn reserve(&mut self, range: Ipv4Net, reservation: Reservation) -> bool {
        let Ok(blocks) = range.subnets(28.max(range.prefix_len())) else { return false };
        let places: Option<Vec<usize>> =
            blocks.map(|block| self.place(block).map(|(index, _)| index)).collect();
        let Some(places) = places else { return false };
        self.reserved.extend(places.into_iter().map(|index| (index, reservation)));
        true
    }

    /// Returns how many addresses EC2 may assign by itself.
    fn assignable(&self) -> u32 {
        let reserved = self.reserved.keys().map(|index| self.blocks[*index].count_zeros());
        self.free - reserved.sum::<u32>()
    }

    /// Takes `count` addresses of EC2's choice, all or none.
    pub(super) fn take_any(
        &mut self,
        count: u16,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv4Net>, CloudError> {
        if self.assignable() < u32::from(count) {
            return Err(CloudError::subnet_full());
        }
        Ok((0..count).map(|_| self.take_one(rng)).collect())
    }

    /// Takes one address, of which there must be one.
    fn take_one(&mut self, rng: &mut Rng) -> Ipv4Net {
        let mut rank = rng.below(self.assignable());
        let Self { blocks, reserved, .. } = self;
        let open = blocks.iter_mut().enumerate().filter(|(index, _)| !reserved.contains_key(index));
        for (index, block) in open {
            let zeros = block.count_zeros();
            if rank >= zeros {
                rank -= zeros;
                continue;
            }
            let bit = (0..16)
                .filter(|bit| *block & (1 << bit) == 0)
                .nth(rank as usize)
                .expect("the block has more zeros than the rank");
            *block |= 1 << bit;
            self.free -= 1;
            let address = u32::from(self.net.network()) + index as u32 * 16 + bit;
            return Ipv4Net::from(Ipv4Addr::from(address));
        }
        unreachable!("the open blocks hold so many zeros and the rank is below that");
    }

    /// Takes `count` whole /28 of EC2's choice, all or none.
    pub(super) fn take_any_prefixes(
        &mut self,
        count: u16,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv4Net>, CloudError> {
        let mut whole: Vec<usize> = (0..self.blocks.len())
            .filter(|index| self.blocks[*index] == 0)
            .filter(|index| self.reserved.get(index) != Some(&Reservation::Explicit))
            .collect();
        if whole.len() < usize::from(count) {
            return Err(CloudError::no_free_prefix());
        }
        let mut taken = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            // At most 4,096 blocks, and more of them left than wanted.
            let index = whole.swap_remove(rng.below(whole.len() as u32) as usize);
            self.blocks[index] = BLOCK_FULL;
            self.free -= 16;
            let base = Ipv4Addr::from(u32::from(self.net.network()) + index as u32 * 16);
            taken.push(Ipv4Net::new_assert(base, 28));
        }
        Ok(taken)
    }

    /// Takes these addresses (/32) and prefixes (/28), all or none.
    pub(super) fn take(&mut self, wanted: &[Ipv4Net]) -> Result<(), CloudError> {
        for (position, net) in wanted.iter().enumerate() {
            let taken = match self.place(*net) {
                Some((index, bits)) if self.blocks[index] & bits == 0 => {
                    self.blocks[index] |= bits;
                    self.free -= bits.count_ones();
                    Ok(())
                }
                Some(_) => Err(CloudError::address_in_use(IpNet::V4(*net))),
                None => Err(CloudError::address_outside(IpNet::V4(*net))),
            };
            if taken.is_err() {
                wanted[..position].iter().for_each(|net| self.release(*net));
                return taken;
            }
        }
        Ok(())
    }

    /// Gives an address or a prefix back that was taken as such.
    pub(super) fn release(&mut self, net: Ipv4Net) {
        if let Some((index, bits)) = self.place(net) {
            debug_assert_eq!(self.blocks[index] & bits, bits, "{net} was taken");
            self.blocks[index] &= !bits;
            self.free += bits.count_ones();
        }
    }

    /// Returns the block and the bits of an address or prefix, if it lies within the subnet.
    fn place(&self, net: Ipv4Net) -> Option<(usize, u16)> {
        if !self.net.contains(&net) {
            return None;
        }
        let offset = u32::from(net.addr()) - u32::from(self.net.network());
        let index = (offset / 16) as usize;
        match net.prefix_len() {
            32 => Some((index, 1 << (offset % 16))),
            28 if offset % 16 == 0 => Some((index, BLOCK_FULL)),
            _ => None,
        }
    }
}

/// The IPv6 addresses of a subnet, which is a /64: 65,536 prefixes of /80.
#[derive(Clone, Debug)]
pub(super) struct Ipv6Space {
    net: Ipv6Net,
    addresses: BTreeSet<Ipv6Addr>,
    prefixes: BTreeSet<Ipv6Net>,
}

impl Ipv6Space {
    pub(super) fn new(net: Ipv6Net) -> Option<Self> {
        (net.prefix_len() == 64 && net == net.trunc()).then_some(Self {
            net,
            addresses: BTreeSet::new(),
            prefixes: BTreeSet::new(),
        })
    }

    pub(super) fn net(&self) -> Ipv6Net {
        self.net
    }

    /// Takes `count` addresses of EC2's choice, all or none.
    pub(super) fn take_any(
        &mut self,
        count: u16,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv6Net>, CloudError> {
        self.take_distinct(count, CloudError::subnet_full, |space| {
            let host = u128::from(rng.next());
            Ipv6Net::from(Ipv6Addr::from(u128::from(space.net.network()) | host))
        })
    }

    /// Takes `count` /80 of EC2's choice, all or none.
    pub(super) fn take_any_prefixes(
        &mut self,
        count: u16,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv6Net>, CloudError> {
        self.take_distinct(count, CloudError::no_free_prefix, |space| {
            let index = u128::from(rng.below(1 << 16));
            let base = u128::from(space.net.network()) | index << 48;
            Ipv6Net::new_assert(Ipv6Addr::from(base), 80)
        })
    }

    /// Takes what `draw` draws, drawing again where something is taken already.
    fn take_distinct(
        &mut self,
        count: u16,
        full: fn() -> CloudError,
        mut draw: impl FnMut(&Self) -> Ipv6Net,
    ) -> Result<Vec<Ipv6Net>, CloudError> {
        // A subnet is never nearly full: 65,536 prefixes against at most 49 an ENI.
        const DRAWS_PER_BLOCK: usize = 64;
        let mut taken = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let found = (0..DRAWS_PER_BLOCK).find_map(|_| {
                let net = draw(self);
                self.take(&[net]).is_ok().then_some(net)
            });
            let Some(net) = found else {
                taken.into_iter().for_each(|net| self.release(net));
                return Err(full());
            };
            taken.push(net);
        }
        Ok(taken)
    }

    /// Takes these addresses (/128) and prefixes (/80), all or none.
    pub(super) fn take(&mut self, wanted: &[Ipv6Net]) -> Result<(), CloudError> {
        for (position, net) in wanted.iter().enumerate() {
            if let Err(error) = self.take_one(*net) {
                wanted[..position].iter().for_each(|net| self.release(*net));
                return Err(error);
            }
        }
        Ok(())
    }

    fn take_one(&mut self, net: Ipv6Net) -> Result<(), CloudError> {
        if !self.net.contains(&net) || ![80, 128].contains(&net.prefix_len()) || net != net.trunc()
        {
            return Err(CloudError::address_outside(IpNet::V6(net)));
        }
        let (first, last) = (net.network(), net.broadcast());
        let around = Ipv6Net::new_assert(first, 80).trunc();
        let in_use = self.prefixes.contains(&around)
            || self.addresses.range(first..=last).next().is_some()
            || self.reserved(first)
            || self.reserved(last);
        if in_use {
            return Err(CloudError::address_in_use(IpNet::V6(net)));
        }
        if net.prefix_len() == 80 {
            self.prefixes.insert(net);
        } else {
            self.addresses.insert(first);
        }
        Ok(())
    }

    /// Returns whether an address is EC2's own: the first four of a subnet and its last.
    fn reserved(&self, address: Ipv6Addr) -> bool {
        let host = u128::from(address) - u128::from(self.net.network());
        host < 4 || address == self.net.broadcast()
    }

    /// Gives an address or a prefix back that was taken as such.
    pub(super) fn release(&mut self, net: Ipv6Net) {
        if net.prefix_len() == 80 {
            self.prefixes.remove(&net);
        } else {
            self.addresses.remove(&net.addr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_addresses_of_every_subnet_are_ec2s_own() {
        for (cidr, expected) in [
            ("10.0.0.0/28", Some(11)),
            ("10.0.0.0/24", Some(251)),
            ("10.0.0.0/16", Some(65_531)),
            ("10.0.0.0/29", None),
            ("10.0.0.0/15", None),
            ("10.0.0.1/24", None),
        ] {
            let space = Ipv4Space::new(cidr.parse().unwrap());
            assert_eq!(space.map(|s| s.free()), expected, "{cidr}");
        }
    }

    #[test]
    fn every_address_is_handed_out_once_and_then_none() {
        let mut rng = Rng::new(3);
        let mut space = Ipv4Space::new("10.0.0.0/26".parse().unwrap()).unwrap();

        let taken: BTreeSet<_> = space.take_any(59, &mut rng).unwrap().into_iter().collect();

        assert_eq!(taken.len(), 59);
        assert!(taken.iter().all(|net| space.net().contains(net)));
        assert_eq!(
            space.take_any(1, &mut rng).unwrap_err().code,
            "InsufficientFreeAddressesInSubnet"
        );
        taken.iter().for_each(|net| space.release(*net));
        assert_eq!(space.free(), 59);
    }

    #[test]
    fn one_address_in_a_block_makes_it_unusable_as_a_prefix() {
        let mut rng = Rng::new(3);
        let mut space = Ipv4Space::new("10.0.0.0/25".parse().unwrap()).unwrap();
        // Of 8 blocks the first and the last hold addresses of EC2's own.
        assert!(space.clone().take_any_prefixes(6, &mut rng).is_ok());

        let address: Ipv4Net = "10.0.0.35/32".parse().unwrap();
        space.take(&[address]).unwrap();

        let error = space.take_any_prefixes(6, &mut rng).unwrap_err();
        assert_eq!(error.code, "InsufficientCidrBlocks");
        assert_eq!(space.free(), 122, "a refusal takes nothing");
        space.release(address);
        assert_eq!(space.take_any_prefixes(6, &mut rng).unwrap().len(), 6);
        assert_eq!(space.free(), 27);
    }

    #[test]
    fn named_blocks_are_taken_all_or_none() {
        let mut rng = Rng::new(3);
        let mut space = Ipv4Space::new("10.0.0.0/26".parse().unwrap()).unwrap();
        let nets = |texts: &[&str]| -> Vec<Ipv4Net> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let cases: [(&[&str], Option<&str>); 6] = [
            (&["10.0.0.20/32", "10.0.0.21/32"], None),
            (&["10.0.0.22/32", "10.0.0.21/32"], Some("InvalidIPAddress.InUse")),
            (&["10.0.0.22/32", "10.0.0.1/32"], Some("InvalidIPAddress.InUse")),
            (&["10.0.0.22/32", "10.0.1.1/32"], Some("InvalidParameterValue")),
            (&["10.0.0.32/28", "10.0.0.33/32"], Some("InvalidIPAddress.InUse")),
            (&["10.0.0.32/28"], None),
        ];
        for (wanted, expected) in cases {
            let actual = space.take(&nets(wanted)).err().map(|error| error.code);
            assert_eq!(actual, expected, "{wanted:?}");
        }
        assert_eq!(space.free(), 59 - 2 - 16);
        assert!(space.take_any_prefixes(1, &mut rng).is_err());
    }

    #[test]
    fn ipv6_prefix_and_address_exclude_each_other() {
        let mut rng = Rng::new(3);
        let mut space = Ipv6Space::new("2001:db8:0:1::/64".parse().unwrap()).unwrap();
        let take = |space: &mut Ipv6Space, text: &str| {
            space.take(&[text.parse().unwrap()]).err().map(|error| error.code)
        };
        let cases = [
            ("2001:db8:0:1:5::/80", None),
            ("2001:db8:0:1:5::7/128", Some("InvalidIPAddress.InUse")),
            ("2001:db8:0:1:6::7/128", None),
            ("2001:db8:0:1:6::/80", Some("InvalidIPAddress.InUse")),
            ("2001:db8:0:1::1/128", Some("InvalidIPAddress.InUse")),
            ("2001:db8:0:1::/80", Some("InvalidIPAddress.InUse")),
            ("2001:db8:0:2:6::/80", Some("InvalidParameterValue")),
            ("2001:db8:0:1:7::/96", Some("InvalidParameterValue")),
        ];
        for (text, expected) in cases {
            assert_eq!(take(&mut space, text), expected, "{text}");
        }
        let prefixes = space.take_any_prefixes(500, &mut rng).unwrap();
        assert_eq!(prefixes.into_iter().collect::<BTreeSet<_>>().len(), 500);
    }
}
