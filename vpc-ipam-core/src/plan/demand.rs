//! How far a node is from what its operator wants: the arithmetic of the targets, and nothing else.

use core::fmt;

use crate::model::action::PREFIX_SIZE;
use crate::{Ipv4Kind, WarmTarget};

/// What a node holds of IPv4 on one network card, in the units of its mode.
///
/// Addresses that are on their way are counted as held; ENIs that are excluded or being released are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stock {
    /// Addresses of the blocks held or on their way, used or not.
    pub total: u32,
    /// Of these, addresses that pods hold or an untracked owner uses.
    pub assigned: u32,
    /// Of these, addresses that cool too long to help.
    pub cooling: u32,
    /// Pods that wait for an address.
    pub waiting: u32,
    /// Prefixes held; 0 where single addresses are asked for.
    pub prefixes: u32,
    /// Of these, prefixes of which no address is used.
    pub prefixes_free: u32,
}

impl Stock {
    /// Returns the addresses that are left once every waiting pod has one; negative if there are not enough.
    pub fn free(&self) -> i64 {
        i64::from(self.total)
            - i64::from(self.assigned)
            - i64::from(self.cooling)
            - i64::from(self.waiting)
    }
}

/// How far a stock is from its target, in blocks of the mode: addresses, or prefixes of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Demand {
    /// The stock is at its target.
    Met,
    /// So many blocks are missing.
    Short(u32),
    /// So many blocks can go, and the stock still meets its target.
    Over(u32),
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.write_str("met"),
            Self::Short(by) => write!(f, "{by} short"),
            Self::Over(by) => write!(f, "{by} too many"),
        }
    }
}

/// Returns how far `stock` is from `target`.
///
/// `slots` is how many blocks an ENI of this type takes: with [`WarmTarget::Enis`] that is the unit, so that ENIs fill
/// up and empty as a whole.
///
/// ```
/// use vpc_ipam_core::{Demand, Ipv4Kind, Stock, WarmTarget, demand};
///
/// let stock = Stock { total: 10, assigned: 8, ..Stock::default() };
/// let target = WarmTarget::Ips { warm: 5, minimum: 0 };
/// assert_eq!(demand(target, Ipv4Kind::Addresses, stock, 29), Demand::Short(3));
/// ```
pub fn demand(target: WarmTarget, kind: Ipv4Kind, stock: Stock, slots: u16) -> Demand {
    let bounds = match target {
        WarmTarget::Ips { warm, minimum } => return ips(warm, minimum, kind, stock),
        WarmTarget::Batch { batch, buffer_percent } => {
            return batches(batch.max(1), buffer_percent, kind, stock);
        }
        WarmTarget::Prefixes(prefixes) => Units { size: PREFIX_SIZE, keep: prefixes },
        WarmTarget::Enis(enis) => Units { size: u32::from(slots.max(1)), keep: enis },
    };
    match kind {
        // Where no prefix can be had, addresses stand in for as many as the target keeps free, and no more.
        Ipv4Kind::Addresses if matches!(target, WarmTarget::Prefixes(_)) => {
            short((bounds.free_min() - stock.free()).max(0))
        }
        Ipv4Kind::Addresses => units_of_addresses(bounds, stock),
        Ipv4Kind::Prefixes => units_of_prefixes(bounds, stock),
    }
}

/// A target counted in units: free addresses are to be `keep` units, at least one address.
#[derive(Clone, Copy)]
struct Units {
    size: u32,
    keep: u32,
}

impl Units {
    /// Keeping at least one address free is what makes a target of 0 converge: amazon-vpc-cni-k8s, which keeps none, asks for a unit
    /// when nothing is free and releases it when it is.
    fn free_min(self) -> i64 {
        (i64::from(self.size) * i64::from(self.keep)).max(1)
    }
}

/// Whole ENIs of addresses. What is too much goes with its ENI, so there is never a surplus of single addresses.
fn units_of_addresses(units: Units, stock: Stock) -> Demand {
    let missing = units.free_min() - stock.free();
    if missing <= 0 {
        return Demand::Met;
    }
    let size = i64::from(units.size);
    // The smallest multiple of the unit that holds the target; what is already there may be any number.
    let total = i64::from(stock.total);
    let wanted = (total + missing).div_ceil_by(size) * size;
    short(wanted - total)
}

/// Wholly free prefixes.
fn units_of_prefixes(units: Units, stock: Stock) -> Demand {
    let size = i64::from(PREFIX_SIZE);
    let missing = units.free_min() - stock.free();
    if missing > 0 {
        return short(missing.div_ceil_by(size));
    }
    let free_over = i64::from(stock.prefixes_free) - i64::from(units.keep);
    // Only as many as leave the target met: what is released must not be asked for again.
    over(free_over.min(-missing / size))
}

fn ips(warm: u32, minimum: u32, kind: Ipv4Kind, stock: Stock) -> Demand {
    let (warm, minimum) = (i64::from(warm), i64::from(minimum));
    let (free, total) = (stock.free(), i64::from(stock.total));
    let missing = (warm - free).max(minimum - total);
    match kind {
        Ipv4Kind::Addresses if missing > 0 => short(missing),
        Ipv4Kind::Addresses => over((free - warm).min(total - minimum)),
        Ipv4Kind::Prefixes if missing > 0 => short(missing.div_ceil_by(i64::from(PREFIX_SIZE))),
        Ipv4Kind::Prefixes => {
            let size = i64::from(PREFIX_SIZE);
            let used = total - free;
            let needed = (used + warm).div_ceil_by(size).max(minimum.div_ceil_by(size));
            over((i64::from(stock.prefixes) - needed).min(i64::from(stock.prefixes_free)))
        }
    }
}

fn batches(batch: u32, buffer_percent: u32, kind: Ipv4Kind, stock: Stock) -> Demand {
    let batch = i128::from(batch);
    let used = i128::from(i64::from(stock.total) - stock.free());
    // batch * ceil(buffer + used / batch), with the buffer in hundredths of a batch.
    let wanted = (used * 100 + i128::from(buffer_percent) * batch).div_ceil_by(batch * 100) * batch;
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    let (total, size) = (i64::from(stock.total), i64::from(PREFIX_SIZE));
    match kind {
        Ipv4Kind::Addresses if wanted > total => short(wanted - total),
        Ipv4Kind::Addresses => over((total - wanted).min(stock.free())),
        Ipv4Kind::Prefixes => {
            let (wanted, held) = (wanted.div_ceil_by(size), i64::from(stock.prefixes));
            if wanted > held {
                short(wanted - held)
            } else {
                over((held - wanted).min(i64::from(stock.prefixes_free)))
            }
        }
    }
}

fn short(by: i64) -> Demand {
    match u32::try_from(by) {
        Ok(0) => Demand::Met,
        Ok(by) => Demand::Short(by),
        Err(_) => Demand::Short(u32::MAX),
    }
}

fn over(by: i64) -> Demand {
    match u32::try_from(by) {
        Ok(0) | Err(_) => Demand::Met,
        Ok(by) => Demand::Over(by),
    }
}

/// Division rounding towards positive infinity; the standard library has it for unsigned numbers only.
trait DivCeilBy {
    fn div_ceil_by(self, divisor: Self) -> Self;
}

impl DivCeilBy for i64 {
    fn div_ceil_by(self, divisor: Self) -> Self {
        self.div_euclid(divisor) + Self::from(self.rem_euclid(divisor) != 0)
    }
}

impl DivCeilBy for i128 {
    fn div_ceil_by(self, divisor: Self) -> Self {
        self.div_euclid(divisor) + Self::from(self.rem_euclid(divisor) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Demand::{Met, Over, Short};

    #[test]
    fn addresses() {
        let ips = |warm, minimum| WarmTarget::Ips { warm, minimum };
        // target, (total, assigned, cooling, waiting), slots, demand
        let cases = [
            (ips(5, 10), (10, 5, 0, 0), 29, Met),
            (ips(5, 10), (10, 6, 0, 0), 29, Short(1)),
            (ips(5, 10), (14, 4, 0, 0), 29, Over(4)),
            (ips(0, 10), (10, 10, 0, 0), 29, Met),
            (ips(0, 10), (12, 3, 0, 0), 29, Over(2)),
            (ips(0, 10), (9, 9, 0, 0), 29, Short(1)),
            // Pods beyond the minimum are served although nothing is held ready for them.
            (ips(0, 10), (10, 10, 0, 2), 29, Short(2)),
            (ips(2, 0), (9, 7, 2, 0), 9, Short(2)),
            (ips(1, 0), (0, 0, 0, 30), 49, Short(31)),
            (WarmTarget::Enis(1), (29, 0, 0, 0), 29, Met),
            (WarmTarget::Enis(1), (29, 1, 0, 0), 29, Short(29)),
            (WarmTarget::Enis(1), (58, 30, 0, 0), 29, Short(29)),
            (WarmTarget::Enis(1), (4, 4, 0, 0), 9, Short(14)),
            (WarmTarget::Enis(0), (3, 2, 0, 0), 3, Met),
            (WarmTarget::Enis(0), (3, 3, 0, 0), 3, Short(3)),
            (WarmTarget::Enis(0), (0, 0, 0, 0), 3, Short(3)),
            (WarmTarget::Enis(2), (3, 0, 0, 7), 3, Short(12)),
            (WarmTarget::Batch { batch: 16, buffer_percent: 50 }, (0, 0, 0, 0), 29, Short(16)),
            (WarmTarget::Batch { batch: 16, buffer_percent: 50 }, (16, 8, 0, 0), 29, Met),
            (WarmTarget::Batch { batch: 16, buffer_percent: 50 }, (16, 9, 0, 0), 29, Short(16)),
            (WarmTarget::Batch { batch: 16, buffer_percent: 50 }, (48, 9, 0, 0), 29, Over(16)),
        ];
        for (target, (total, assigned, cooling, waiting), slots, expected) in cases {
            let stock = Stock { total, assigned, cooling, waiting, ..Stock::default() };
            let actual = demand(target, Ipv4Kind::Addresses, stock, slots);
            assert_eq!(actual, expected, "{target:?} {stock:?} slots {slots}");
        }
    }

    #[test]
    fn prefixes() {
        let ips = |warm, minimum| WarmTarget::Ips { warm, minimum };
        // target, addresses used of each prefix, waiting, demand
        let cases: [(WarmTarget, &[u32], u32, Demand); 16] = [
            (WarmTarget::Prefixes(1), &[], 0, Short(1)),
            (WarmTarget::Prefixes(1), &[1, 0], 0, Met),
            (WarmTarget::Prefixes(1), &[8, 9], 0, Short(1)),
            (WarmTarget::Prefixes(1), &[8, 8], 0, Met),
            (WarmTarget::Prefixes(1), &[0, 0, 3], 0, Over(1)),
            (WarmTarget::Prefixes(2), &[4, 0], 0, Short(1)),
            // With a target of 0 one free address is kept, and nothing is released only to be asked for again.
            (WarmTarget::Prefixes(0), &[16, 0], 0, Met),
            (WarmTarget::Prefixes(0), &[16], 0, Short(1)),
            (WarmTarget::Prefixes(0), &[], 0, Short(1)),
            (WarmTarget::Prefixes(1), &[], 100, Short(8)),
            (ips(1, 1), &[16], 0, Short(1)),
            (ips(17, 0), &[0], 0, Short(1)),
            (ips(33, 0), &[0], 0, Short(2)),
            (ips(5, 0), &[0, 0, 11], 0, Over(2)),
            (ips(5, 0), &[0, 12], 0, Met),
            (ips(7, 20), &[16, 1, 0, 0], 0, Over(2)),
        ];
        for (target, used, waiting, expected) in cases {
            let prefixes = used.len() as u32;
            let stock = Stock {
                total: prefixes * PREFIX_SIZE,
                assigned: used.iter().sum(),
                waiting,
                prefixes,
                prefixes_free: used.iter().filter(|used| **used == 0).count() as u32,
                ..Stock::default()
            };
            let actual = demand(target, Ipv4Kind::Prefixes, stock, 14);
            assert_eq!(actual, expected, "{target:?} {used:?} waiting {waiting}");
        }
    }

    /// What is released is not asked for again, and what is asked for is not released.
    #[test]
    fn meeting_a_demand_leaves_none_of_the_other_kind() {
        let targets = [
            WarmTarget::Enis(0),
            WarmTarget::Enis(2),
            WarmTarget::Ips { warm: 3, minimum: 7 },
            WarmTarget::Prefixes(0),
            WarmTarget::Prefixes(2),
            WarmTarget::Batch { batch: 5, buffer_percent: 130 },
        ];
        for target in targets {
            for used in 0..40 {
                for free in 0..40 {
                    let total = used + free;
                    let stock = Stock { total, assigned: used, ..Stock::default() };
                    let after = match demand(target, Ipv4Kind::Addresses, stock, 9) {
                        Met => continue,
                        Short(by) => Stock { total: total + by, ..stock },
                        Over(by) => Stock { total: total - by, ..stock },
                    };
                    let again = demand(target, Ipv4Kind::Addresses, after, 9);
                    assert_eq!(again, Met, "{target:?} {stock:?} then {after:?}");
                }
            }
        }
    }
}
