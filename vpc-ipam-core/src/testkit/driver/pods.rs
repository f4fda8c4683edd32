use alloc::format;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::pool::Eni;
use crate::testkit::driver::{Driver, PODS, index};
use crate::testkit::rule::{Breach, Rule, hold};
use crate::testkit::step::Store;
use crate::{
    AddressRequest, AssignError, Assigned, BlockState, Card, CardChoice, FoundInterface, FoundLink,
    Import, ImportError, Mac, Pod, PodKey, Pool, Record, Released, Stage, Timestamp, Uncommitted,
};

/// Pods, and the store of their leases.
impl Driver {
    pub(super) fn add(&mut self, pod: u8, every_card: bool) -> Result<(), Breach> {
        let name = format!("pod-{}", pod % PODS);
        let key = key(pod);
        let request = AddressRequest {
            key: key.clone(),
            pod: Arc::new(Pod { namespace: "default".to_string(), name }),
            cards: if every_card { CardChoice::Every } else { CardChoice::Any },
            addresses_only: false,
        };
        let could = self.free_address();
        match self.ipam.assign(&request, self.now) {
            Ok(Assigned::Now(uncommitted)) => self.granted(uncommitted)?,
            Ok(Assigned::Later { deadline }) => {
                hold!(deadline > self.now, Answered, "{key} shall wait until {deadline}");
            }
            Err(AssignError::NoAddress { .. }) => {
                let refused =
                    !every_card && !self.config.multi_nic && self.config.families.ipv4().is_some();
                let refused = refused && !self.config.families.ipv6();
                if let Some(free) = could.filter(|_| refused) {
                    hold!(false, Answered, "{key} was refused while {free} is free");
                }
            }
            Err(AssignError::OneCard) => {
                let one = !self.config.multi_nic;
                hold!(every_card && one, Answered, "{key} was refused for want of cards");
            }
            Err(AssignError::NotUsable { .. }) => {
                let held = self.model.leases.get(&key).or(self.model.granted.get(&key));
                hold!(held.is_some(), Answered, "{key} was refused an address that it has not");
            }
            Err(error) => hold!(false, Answered, "{key}: {error}"),
        }
        Ok(())
    }

    /// Returns an IPv4 address that a pod could have had, as far as can be seen without a plan.
    pub(super) fn free_address(&self) -> Option<IpAddr> {
        let usable =
            |eni: &&Eni| eni.stage == Stage::Ready && eni.card == Card(0) && self.serves_pods(eni);
        let blocks = self.ipam.pool().enis().iter().filter(usable).flat_map(Eni::blocks);
        let confirmed = blocks.filter(|block| block.state() == BlockState::Confirmed);
        let hosts = confirmed.filter_map(|block| match block.net() {
            IpNet::V4(net) => Some(u32::from(net.network())..=u32::from(net.broadcast())),
            IpNet::V6(_) => None,
        });
        hosts.flatten().map(|bits| IpAddr::V4(bits.into())).find(|address| {
            self.model.owner(*address).is_none()
                && !self.model.is_cooling(*address, self.config.cooldown, self.real)
                && !self.model.seems_to_cool(*address, self.config.cooldown, self.now)
                && !self.model.unknown.contains(address)
        })
    }

    pub(super) fn del(&mut self, pod: u8) -> Result<(), Breach> {
        let key = key(pod);
        let held = self.model.leases.get(&key).or(self.model.granted.get(&key)).cloned();
        let released = self.ipam.release(&key, self.now);
        match (&released, &held) {
            (Released::Lease { lease, at }, Some(held)) => {
                hold!(
                    lease.addresses().eq(held.addresses()),
                    LeasesLast,
                    "{held:?} ended as {lease:?}"
                );
                let record = Record::released(lease, *at);
                let right = matches!(&record, Record::Released { key: of, at, .. } if *of == key && *at == self.now);
                hold!(right, LeasesLast, "the record of DEL is {record:?}");
            }
            (Released::Lease { lease, .. }, None) => {
                hold!(false, LeasesLast, "{key} held nothing and released {lease:?}");
            }
            (_, Some(held)) => hold!(false, LeasesLast, "{released:?}, but held {held:?}"),
            (_, None) => {}
        }
        self.model.on_del(&key, self.now, self.real);
        let again = self.ipam.release(&key, self.now);
        hold!(again == Released::Unknown, LeasesLast, "the second DEL of {key}: {again:?}");
        Ok(())
    }

    /// A pod of another program is imported with an address of an untracked owner, or with any.
    pub(super) fn import(&mut self, pod: u8, which: u8) -> Result<(), Breach> {
        const ANY: u8 = 12;
        let unknown = || self.model.unknown.iter().copied();
        let blocks = || self.ipam.pool().enis().iter().flat_map(Eni::blocks);
        let bases = || blocks().map(|block| block.net().network());
        let from: Vec<IpAddr> = if which < ANY { unknown().collect() } else { bases().collect() };
        let Some(address) = index(which, from.len()).map(|index| from[index]) else {
            return Ok(());
        };
        let link = FoundLink::new(format!("eni{pod}"), Mac([2, 0, 0, 0, 0, pod]));
        let (key, before) = (key(pod), Timestamp::from_secs(1));
        let names = Pod::new("default", format!("pod-{pod}"));
        let import = Import::new(key.clone(), names, before)
            .with_interfaces([FoundInterface::new(address, link)].into());
        let (owner, holds) =
            (self.model.owner(address).cloned(), self.ipam.pool().lease(&key).cloned());
        match self.ipam.import(&import, self.now) {
            Ok(uncommitted) => {
                hold!(owner.is_none_or(|it| it == key), OneOwner, "{address} imported for {key}");
                let known = blocks_hold(self.ipam.pool(), address) || holds.is_some();
                hold!(known, Confirmed, "{address} imported, which no ENI holds");
                if holds.is_none() {
                    self.model.unknown.insert(address);
                }
                self.note(|| format!("imported {:?}", uncommitted.lease));
                self.store(uncommitted)
            }
            Err(ImportError::AddressTaken { by, .. }) => {
                hold!(owner == Some(by.clone()), OneOwner, "{address} is not {by}'s");
                Ok(())
            }
            Err(ImportError::KeyTaken { .. }) => {
                hold!(holds.is_some(), LeasesLast, "{key} holds nothing");
                Ok(())
            }
            Err(ImportError::NotHeld { .. }) => {
                let held = blocks_hold(self.ipam.pool(), address);
                hold!(!held, Confirmed, "{address} is held");
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Checks a grant, and makes it durable, or not, as the store is.
    pub(super) fn granted(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let Uncommitted { lease } = &uncommitted;
        self.note(|| format!("granted {lease:?}"));
        self.check_grant(lease)?;
        self.store(uncommitted)
    }

    fn store(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let Uncommitted { lease } = &uncommitted;
        if !self.model.leases.contains_key(&lease.key) {
            self.model.granted.insert(lease.key.clone(), lease.clone());
        }
        match self.store {
            Store::Prompt => self.commit(uncommitted)?,
            Store::Slow => self.unwritten.push_back(uncommitted.lease),
            Store::Broken => self.abandon(uncommitted)?,
            Store::Lying => {
                self.model.undead.insert(uncommitted.lease.key.clone(), uncommitted.lease.clone());
                self.abandon(uncommitted)?;
            }
        }
        Ok(())
    }

    pub(super) fn written(&mut self, durable: bool) -> Result<(), Breach> {
        let Some(lease) = self.unwritten.pop_front() else {
            return Ok(());
        };
        let uncommitted = Uncommitted { lease };
        if durable {
            self.commit(uncommitted)?;
        } else {
            self.abandon(uncommitted)?;
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let written = uncommitted.lease.clone();
        let held = self.model.leases.get(&written.key).or(self.model.granted.get(&written.key));
        let expected = held.is_some_and(|held| {
            held.serial == written.serial && held.addresses().eq(written.addresses())
        });
        let lease = self.ipam.commit(uncommitted);
        match lease {
            Some(lease) => {
                let same = lease.addresses().eq(written.addresses());
                hold!(same, LeasesLast, "{written:?} was written, and {lease:?} counts as durable");
                hold!(expected, LeasesLast, "{lease:?} was given up and counts as durable");
                hold!(
                    lease.found == written.found,
                    LeasesLast,
                    "{written:?} lost its links: {lease:?}"
                );
                self.model.on_durable(lease);
            }
            None => hold!(!expected, LeasesLast, "{written:?} was written and does not count"),
        }
        Ok(())
    }

    pub(super) fn abandon(&mut self, uncommitted: Uncommitted) -> Result<(), Breach> {
        let lease = uncommitted.lease.clone();
        let undone = self.ipam.abandon(uncommitted, self.now);
        let others = self.unwritten.iter().any(|other| *other == lease);
        let held = self.model.granted.get(&lease.key);
        let same = held.is_some_and(|held| {
            held.serial == lease.serial && held.addresses().eq(lease.addresses())
        });
        let durable = self.model.leases.contains_key(&lease.key);
        if !others && same {
            self.model.granted.remove(&lease.key);
            // A pod of another program goes on using what it has, or did until a moment ago.
            for address in lease.addresses().filter(|_| lease.is_imported() && !durable) {
                let ended = (untracked_key(), self.now, self.real);
                self.model.released.insert(address, ended);
            }
        }
        let expected = !others && same && !durable;
        hold!(
            undone.is_some() == expected,
            LeasesLast,
            "{lease:?} was abandoned, to be undone: {undone:?}"
        );
        if durable {
            // It was durable before: what was written again is no other.
            self.model.undead.remove(&lease.key);
        }
        Ok(())
    }
}

/// Returns the key under which the addresses of pods are kept that have no lease.
pub(super) fn untracked_key() -> PodKey {
    PodKey::new("unknown", "owner", "x").expect("no part is empty")
}

fn blocks_hold(pool: &Pool, address: IpAddr) -> bool {
    pool.enis().iter().any(|eni| eni.block(address).is_some())
}

fn key(pod: u8) -> PodKey {
    PodKey::new("aws-cni", &format!("pod-{}", pod % PODS), "eth0").expect("no part is empty")
}
