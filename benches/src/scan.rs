//! Addresses that are found by looking at each: the reference for what the core does.

use core::time::Duration;

use vpc_ipam_core::{PodKey, Timestamp};

use crate::node::{PAUSE, key, name};

/// The addresses of a node in a table that is searched from its beginning, as amazon-vpc-cni-k8s searches its own, on which
/// one pod after another comes and goes. Nothing is made durable, and nothing is counted.
#[derive(Debug)]
pub struct ScannedNode {
    /// By ENI.
    enis: Vec<Vec<Address>>,
    keys: Vec<PodKey>,
    next: usize,
    now: Timestamp,
}

#[derive(Clone, Debug, Default)]
struct Address {
    owner: Option<PodKey>,
    released_at: Option<Timestamp>,
}

/// Which address of which ENI.
type Place = (usize, usize);

const COOLDOWN: Duration = Duration::from_secs(30);

impl ScannedNode {
    /// Makes a table of 15 ENIs with 49 places, each an address or a prefix, and so many pods.
    ///
    /// # Panics
    /// Panics if it has fewer addresses.
    pub fn new(prefixes: bool, pods: usize) -> Self {
        let addresses = vec![Address::default(); if prefixes { 49 * 16 } else { 49 }];
        let keys = (pods..pods + 64).map(|pod| key(&name(pod))).collect();
        let now = Timestamp::from_secs(1_700_000_000);
        let mut node = Self { enis: vec![addresses; 15], keys, next: 0, now };
        for pod in 0..pods {
            assert!(node.assign(&key(&name(pod))).is_some(), "no address for pod {pod}");
        }
        node
    }

    /// Lets a pod come and go, as [`crate::BusyNode`] does. Returns the address that it had.
    ///
    /// # Panics
    /// Panics if it gets no address.
    pub fn assign_and_release(&mut self) -> Place {
        self.next = (self.next + 1) % self.keys.len();
        self.now = self.now + PAUSE;
        let key = self.keys[self.next].clone();
        let assigned = self.assign(&key);
        let released = self.release(&key);
        assert!(assigned.is_some() && assigned == released, "no address for {key}");
        assigned.expect("it was just found")
    }

    fn assign(&mut self, key: &PodKey) -> Option<Place> {
        let now = self.now;
        let rests = |address: &Address| {
            address.released_at.is_some_and(|released_at| now.since(released_at) <= COOLDOWN)
        };
        let place = self
            .find(|address| address.owner.as_ref() == Some(key))
            .or_else(|| self.find(|address| address.owner.is_none() && !rests(address)))?;
        self.enis[place.0][place.1].owner = Some(key.clone());
        Some(place)
    }

    fn release(&mut self, key: &PodKey) -> Option<Place> {
        let place = self.find(|address| address.owner.as_ref() == Some(key))?;
        self.enis[place.0][place.1] = Address { owner: None, released_at: Some(self.now) };
        Some(place)
    }

    fn find(&self, is_wanted: impl Fn(&Address) -> bool) -> Option<Place> {
        self.enis.iter().enumerate().find_map(|(eni, addresses)| {
            addresses.iter().position(&is_wanted).map(|address| (eni, address))
        })
    }
}
