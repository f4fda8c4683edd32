//! Addresses beyond the leases of this daemon: of pods that are in no state file, of pods that are lost, and those that cool down
//! after a take-over.

use core::net::IpAddr;

use tracing::{debug, error, info, warn};
use vpc_ipam_core::{Ipam, Lease, Observation, PodKey, Record, Timestamp};

use super::{Loop, TRANSITION};
use crate::conntrack::Flush;
use crate::keeper::NetworkKeeper;
use crate::keeper::untracked::Changes;
use crate::sources::take_over::TakeOver;
use crate::store::Known;

impl Loop {
    /// Takes note of pods that came or went and are in no state file.
    pub(super) fn track(&mut self, now: Timestamp) {
        let Some(Changes { came, gone }) = self.keeper.untracked() else { return };
        for address in gone {
            info!(%address, "is free: the pod that was in no state file is gone");
            self.flush.released([address], now);
            self.ipam.handle_untracked(address, false, now);
        }
        for address in came {
            came_untracked(&mut self.ipam, &self.keeper, address, now);
            // An ADD that began before this daemon did is none of a daemon that goes on.
            let is_late = now.since(self.started) > TRANSITION;
            if let Some(what) = self.keeper.pod_of_aws_cni(address).filter(|_| is_late) {
                self.keeper.made_by_aws_cni(&what, "its plugin", now);
            }
        }
        self.remember(Known { adopted: self.keeper.adopted(), ..self.known.clone() });
    }

    /// Gives up the addresses of pods that have neither a link nor a route nor a namespace any more, of which no DEL told.
    pub(super) fn give_up_lost(&mut self, now: Timestamp) {
        for key in self.keeper.given_up() {
            if let Some(path) = self.sandboxes.get(&key).filter(|path| path.exists()) {
                debug!(pod = %key, namespace = %path.display(), "has no link, but its namespace is there");
                continue;
            }
            warn!(pod = %key, "has neither a link nor a namespace any more, and no DEL told of it; its addresses are released");
            self.metrics.del_asked("PodLost");
            self.release(&key, None, now);
        }
    }

    /// Keeps released addresses that untracked pods have too: the pool could not learn of that while the lease held them.
    pub(super) fn keep_untracked(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        now: Timestamp,
    ) {
        for address in addresses.filter(|it| self.keeper.is_untracked(core::iter::once(*it))) {
            self.ipam.handle_untracked(address, true, now);
        }
    }

    /// Lets addresses cool down that another daemon may have released a moment before the node was taken over; those that an answer
    /// is the first to show.
    pub(super) fn cool(&mut self, shown: &Observation, now: Timestamp) {
        let Some(mut take_over) = self.take_over.take_if(|it| !it.is_over(now)) else {
            self.take_over = None;
            return;
        };
        let untracked = self.keeper.untracked_addresses();
        cool(&mut self.ipam, &mut self.flush, &mut take_over, shown, untracked, now);
        let taken_over = Some(take_over.taken_over().clone());
        self.remember(Known { taken_over, ..self.known.clone() });
        self.take_over = Some(take_over);
    }
}

/// Keeps an address for a pod that is in no state file.
pub(crate) fn came_untracked(
    ipam: &mut Ipam,
    keeper: &NetworkKeeper,
    address: IpAddr,
    now: Timestamp,
) {
    let link = keeper.untracked_link(address);
    let link = link.as_deref().unwrap_or("another program's");
    let holder = ipam.pool().leases().find(|lease| lease.addresses().any(|it| it == address));
    match holder {
        Some(Lease { key, .. }) => error!(
            %address, link, pod = %key,
            "is the address of a pod of the state file, and another pod has it: two daemons hand out the addresses of this node"
        ),
        None => {
            warn!(%address, link, "is in use by a pod that is in no state file; it is kept for it")
        }
    }
    ipam.handle_untracked(address, true, now);
}

/// Lets addresses that no pod has, and that an answer is the first to show, cool down since the node was taken over.
pub(crate) fn cool(
    ipam: &mut Ipam,
    flush: &mut Flush,
    take_over: &mut TakeOver,
    shown: &Observation,
    untracked: impl Iterator<Item = IpAddr>,
    now: Timestamp,
) {
    let in_use = ipam.pool().leases().flat_map(Lease::addresses).chain(untracked).collect();
    let addresses = take_over.cooling(shown, ipam.pool(), &in_use);
    let at = take_over.taken_over().at;
    if addresses.is_empty() {
        return;
    }
    info!(
        addresses = addresses.len(),
        "addresses without a pod cool down: another daemon may just have released them"
    );
    flush.released(addresses.iter().copied(), at);
    // Who held them is not known.
    let key = PodKey::new("-", "-", "-").expect("no part is empty");
    ipam.restore([Record::Released { key, addresses, at }], now);
}
