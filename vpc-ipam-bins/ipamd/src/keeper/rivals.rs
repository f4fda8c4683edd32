//! Other programs that change what this daemon keeps.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use vpc_ipam_core::Timestamp;
use vpc_ipam_linux::{KernelEvent, NodeNetwork, Protocol, port_owner};

/// What is known of other programs that change what this daemon keeps.
#[derive(Debug, Default)]
pub(crate) struct Rivals {
    /// The netlink ports of this daemon's own sockets.
    own_ports: BTreeSet<u32>,
    /// By which port each object was changed last, in the words of a repair's report.
    changed_by: BTreeMap<String, u32>,
    /// How often routes to pods were lost.
    lost: BTreeMap<IpAddr, Lost>,
    /// The protocol under which another program writes routes to pods.
    protocol: Option<Protocol>,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    times: u32,
    at: Timestamp,
}

/// Routes to pods that are to be made under the protocol of another program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Yield {
    pub(crate) pod: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u32,
}

/// How long a loss is remembered: Calico looks over its routes every 90 s.
const MEMORY: Duration = Duration::from_secs(3600);

/// More objects than a node with 700 pods has for them.
const OBJECTS_MAX: usize = 8192;

impl Rivals {
    /// Describes that nothing is known yet.
    pub(crate) fn new(own_ports: BTreeSet<u32>) -> Self {
        Self { own_ports, ..Self::default() }
    }

    /// Takes note of what the kernel told, and returns which route to a pod is to be made another way from now on.
    ///
    /// Calico's Felix removes the routes over links of pods that do not carry its own protocol, and writes them anew. Who was
    /// faster than it each time would be at it for ever; a route under its protocol it leaves alone.
    pub(crate) fn on_kernel_event(
        &mut self,
        event: &KernelEvent,
        node: &NodeNetwork,
        now: Timestamp,
    ) -> Option<Yield> {
        let (KernelEvent::Route { by: Some(port), .. } | KernelEvent::Rule { by: Some(port), .. }) =
            event
        else {
            return None;
        };
        if self.own_ports.contains(port) {
            return None;
        }
        if let Some(object) = node.taken_by(event) {
            if self.changed_by.len() >= OBJECTS_MAX {
                self.changed_by.clear();
            }
            self.changed_by.insert(object.to_string(), *port);
        }
        let KernelEvent::Route { entry, gone, .. } = event else { return None };
        let pod = node.pod_led_to(entry)?;
        let protocol = entry.route.protocol;
        if !gone {
            self.protocol =
                Some(protocol).filter(|protocol| *protocol != Protocol::OURS).or(self.protocol);
            return None;
        }
        self.lost.retain(|_, lost| now.since(lost.at) < MEMORY);
        let times = 1 + self.lost.get(&pod).map_or(0, |lost| lost.times);
        self.lost.insert(pod, Lost { times, at: now });
        let protocol = self.protocol.unwrap_or(Protocol::BOOT);
        (times > 1).then_some(Yield { pod, protocol, port: *port })
    }

    /// Returns whether something was done by this daemon.
    pub(crate) fn is_own(&self, event: &KernelEvent) -> bool {
        port_of(event).is_some_and(|port| self.own_ports.contains(&port))
    }

    /// A pod is gone.
    pub(crate) fn forget(&mut self, pod: IpAddr) {
        self.lost.remove(&pod);
    }

    /// Returns who changed an object last, as far as is known.
    pub(crate) fn who(&self, object: &str) -> String {
        self.changed_by.get(object).map_or_else(|| "not known".to_owned(), |port| name(*port))
    }
}

/// Names the program that did something, as far as that is known.
pub(crate) fn who(event: &KernelEvent) -> String {
    port_of(event).map_or_else(|| "not known".to_owned(), name)
}

fn port_of(event: &KernelEvent) -> Option<u32> {
    match event {
        KernelEvent::Route { by, .. } | KernelEvent::Rule { by, .. } => *by,
        _ => None,
    }
}

/// Names the program behind a netlink port.
pub(crate) fn name(port: u32) -> String {
    match port_owner(port) {
        Some(owner) => format!("netlink port {port}: {} (process {})", owner.name, owner.pid),
        None => format!("netlink port {port}"),
    }
}
