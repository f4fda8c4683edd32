use core::cell::Cell;
use std::io;

use vpc_ipam_core::{Card, Lease};
use vpc_ipam_linux::pod::{PodNetwork, PodSettings};
use vpc_ipam_linux::{
    Family, KernelChange, KernelEffect, KernelNetlink, Netlink, NetlinkError, NetlinkLayer,
    Refusal, pod,
};

use crate::support::{Netns, lease, lease_with, leased, network_of, settings};

#[test]
fn add_that_fails_at_any_step_leaves_nothing_behind() {
    let (ipv4, ipv6) = (Some("10.0.0.101"), Some("2001:db8:a:0:1::2"));
    let second = leased(1, 1, "10.0.0.201");
    let on_two_cards = (lease("b", "b", 0, 1, "10.0.0.101")).with_more(vec![second]);
    let dual = lease_with("b", 1, ipv4, ipv6);
    let second = dual.first.with_card(Card(1));
    let dual_on_two_cards = dual.with_more(vec![second]);
    let through_node = PodSettings { egress: Some(Family::Ipv4), ..settings() };
    let through_node = pod::desired(&lease_with("b", 0, None, ipv6), &through_node).unwrap();
    for (case, network) in [
        ("IPv4 on two cards", network_of(&on_two_cards)),
        ("both families on two cards", network_of(&dual_on_two_cards)),
        ("IPv6, and IPv4 through the node", through_node),
    ] {
        let failed = fail_at_every_step(case, &network);
        assert!(failed > 20, "{case}: only {failed} steps failed");
    }
}

/// Returns at how many steps it failed.
fn fail_at_every_step(case: &str, network: &PodNetwork) -> usize {
    let (node, pod) = (Netns::new(), Netns::new());
    let before = (node.snapshot(), pod.snapshot());
    let take_apart = || {
        pod::remove(&mut node.netlink(), network).unwrap();
        for interface in &network.interfaces {
            node.ip(&format!("link del {}", interface.host.name));
        }
        // Of the second interface; the runtime removes it along with the namespace.
        for family in ["-4", "-6"] {
            let _ = pod.try_ip(&format!("{family} rule del pref 1"));
        }
    };
    let mut failed = 0;
    for fault in [Fault::Refuse, Fault::LoseConnection] {
        for step in 0.. {
            let countdown = Cell::new(Some(step));
            let mut host = Faulty { inner: node.netlink(), fault, countdown: &countdown };
            let mut inside = Faulty { inner: pod.netlink(), fault, countdown: &countdown };

            let result = pod::add(&mut host, &mut inside, &pod.namespace, network);

            if countdown.get().is_some() {
                // There is no such step.
                result.unwrap();
                take_apart();
                break;
            }
            let case = format!("{case}: {fault:?} at step {step}: {result:?}");
            // A rule that is to be removed is seldom there, so that its removal is refused is as it should be.
            if let Err(error) = &result {
                failed += 1;
                assert!(error.left_behind.is_empty(), "{case}");
                assert_eq!((node.snapshot(), pod.snapshot()), before, "{case}");
            } else {
                take_apart();
            }
        }
    }
    failed
}

/// A runtime that repeats ADD must not lose a running pod to a failure of the second.
#[test]
fn repeated_add_that_fails_at_any_step_leaves_the_pod_connected() {
    let network = network_of(&lease("b", "b", 0, 1, "10.0.0.101"));
    let (node, pod) = (Netns::new(), Netns::new());
    pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, &network).unwrap();
    let whole = (node.snapshot(), pod.snapshot());
    let host_link = &network.interfaces[0].host.name;
    let mut failed = 0;
    for fault in [Fault::Refuse, Fault::LoseConnection, Fault::LoseConnectionForGood] {
        for step in 0.. {
            // So that there is something to be put right.
            node.ip("rule del pref 512");
            pod.ip("route del default");
            let countdown = Cell::new(Some(step));
            let mut host = Faulty { inner: node.netlink(), fault, countdown: &countdown };
            let mut inside = Faulty { inner: pod.netlink(), fault, countdown: &countdown };

            let result = pod::add(&mut host, &mut inside, &pod.namespace, &network);

            let case = format!("{fault:?} at step {step}: {result:?}");
            assert!(node.ip("-o link").contains(host_link.as_str()), "{case}");
            let done = countdown.get().is_some();
            if let Err(error) = result {
                failed += 1;
                // The first step is to make the veth: then nothing is known yet.
                assert!(error.running || step == 0, "{case}");
            }
            pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, &network).unwrap();
            assert_eq!((node.snapshot(), pod.snapshot()), whole, "{case}");
            if done {
                break;
            }
        }
    }
    assert!(failed > 4, "only {failed} steps failed");
}

#[test]
fn second_interface_of_a_pod_does_not_cost_it_the_first() {
    let first = lease("b", "b", 0, 1, "10.0.0.101");
    let second = (lease("b", "b", 0, 1, "10.0.0.102"))
        .with_key(vpc_ipam_core::PodKey::new("aws-cni", "b", "net1").unwrap());
    let (node, pod) = (Netns::new(), Netns::new());
    let add = |lease: &Lease| {
        let network = network_of(lease);
        pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, &network)
    };
    add(&first).unwrap();
    let before = (node.snapshot(), pod.snapshot());

    let error = add(&second).unwrap_err();

    assert!(error.cause.to_string().contains("another interface of the same pod"), "{error:?}");
    assert_eq!((node.snapshot(), pod.snapshot()), before);
}

#[test]
fn what_could_not_be_undone_is_told() {
    let network = network_of(&lease("b", "b", 0, 1, "10.0.0.101"));
    let (node, pod) = (Netns::new(), Netns::new());
    // The connection to the host is lost for good after the veth is made.
    let countdown = Cell::new(Some(1));
    let fault = Fault::LoseConnectionForGood;
    let mut host = Faulty { inner: node.netlink(), fault, countdown: &countdown };

    let error = pod::add(&mut host, &mut pod.netlink(), &pod.namespace, &network).unwrap_err();

    assert_eq!(error.left_behind.len(), 1);
    assert_eq!(
        error.to_string(),
        "set up the network of the pod (and to undo it: send a netlink request)"
    );
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// One change is refused, the rest is made.
    Refuse,
    /// The change and those that travel with it are not sent.
    LoseConnection,
    /// Nor is anything after it.
    LoseConnectionForGood,
}

/// A kernel that fails at one change, counted over all that share the count.
struct Faulty<'a> {
    inner: KernelNetlink,
    fault: Fault,
    countdown: &'a Cell<Option<usize>>,
}

impl NetlinkLayer for Faulty<'_> {
    fn inner(&mut self) -> &mut dyn Netlink {
        &mut self.inner
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        let lost = || NetlinkError::Send { source: io::ErrorKind::ConnectionReset.into() };
        let step = match (self.countdown.get(), self.fault) {
            (Some(step), _) if step >= changes.len() => {
                self.countdown.set(Some(step - changes.len()));
                return self.inner.change(changes);
            }
            (Some(step), _) => step,
            (None, Fault::LoseConnectionForGood) => return Err(lost()),
            (None, _) => return self.inner.change(changes),
        };
        self.countdown.set(None);
        match self.fault {
            Fault::Refuse => {
                let mut results = self.inner.change(&changes[..step])?;
                results.push(Err(Refusal { errno: Some(12), says: Some("injected".to_owned()) }));
                results.extend(self.inner.change(&changes[step + 1..])?);
                Ok(results)
            }
            Fault::LoseConnection | Fault::LoseConnectionForGood => Err(lost()),
        }
    }
}
