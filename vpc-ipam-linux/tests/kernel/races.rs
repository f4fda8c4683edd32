//! Others at work on the same kernel, and ends in the middle of it.

use core::cell::RefCell;
use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;

use vpc_ipam_linux::{
    Extent, Family, KernelChange, KernelEffect, KernelNetlink, Netlink, NetlinkError, NetlinkLayer,
    NodeNetwork, Refusal, Rule, pod,
};

use crate::node::{key, node_with_pods, repair, wait_until};
use crate::support::{Netns, add, chain, lease, leased, link_names, network, network_of};

#[test]
fn pod_that_vanishes_in_the_middle_of_its_add_leaves_nothing_behind() {
    let network = network("b", 1, "10.0.0.101");
    let name = network.interfaces[0].host.name.clone();
    let (mut failed, mut step) = (0, 0);
    loop {
        let (node, pod) = (Netns::new(), Netns::new());
        let before = (node.snapshot(), pod.snapshot());
        // As the kernel does with a namespace that no process keeps any more: its links go, and their other ends too.
        let vanish = || drop(node.try_ip(&format!("link del {name}")));
        let steps = RefCell::new(Some((step, vanish)));
        let mut host = Meddled { inner: node.netlink(), steps: &steps };
        let mut inside = Meddled { inner: pod.netlink(), steps: &steps };

        let result = pod::add(&mut host, &mut inside, &pod.namespace, &network);

        if steps.borrow().is_some() {
            result.unwrap();
            break;
        }
        match result {
            Err(error) => {
                failed += 1;
                assert!(error.left_behind.is_empty(), "step {step}: {}", chain(&error));
                assert_eq!((node.snapshot(), pod.snapshot()), before, "step {step}: {error:?}");
            }
            // It was there before, or went when all was done.
            Ok(_) => {
                let differences = pod::check(&mut node.netlink(), &mut pod.netlink(), &network);
                let is_whole = differences.unwrap().is_empty();
                assert!(is_whole || link_is_gone(&node, &name), "step {step}");
            }
        }
        step += 1;
    }
    assert!(failed >= 2, "only {failed} of {step} steps failed");
}

#[test]
fn add_that_ends_at_any_step_is_completed_by_the_next_or_leaves_nothing_once_the_pod_dies() {
    let lease = (lease("c", "c", 0, 1, "10.0.0.103")).with_more(vec![leased(1, 1, "10.0.0.201")]);
    let network = network_of(&lease);
    let (vpc, node, _pods) = node_with_pods();
    let before = vpc.node.snapshot();
    let mut step = 0;
    loop {
        let pod = Netns::new();
        let left = RefCell::new(step);
        let mut host = Killed { inner: vpc.node.netlink(), left: &left };
        let mut inside = Killed { inner: pod.netlink(), left: &left };
        // It does not come to undo anything.
        let killed = pod::add(&mut host, &mut inside, &pod.namespace, &network).is_err();
        // A socket keeps its namespace.
        drop(inside);

        if step % 2 == 0 {
            pod::add(&mut vpc.node.netlink(), &mut pod.netlink(), &pod.namespace, &network)
                .unwrap_or_else(|error| panic!("step {step}: {}", chain(&error)));
            let differences =
                pod::check(&mut vpc.node.netlink(), &mut pod.netlink(), &network).unwrap();
            assert_eq!(differences, [], "step {step}");
        }
        drop(pod);
        for interface in &network.interfaces {
            wait_until(|| link_is_gone(&vpc.node, &interface.host.name));
        }
        repair(&node, &vpc, Extent::Routing);
        assert_eq!(vpc.node.snapshot(), before, "step {step}");
        if !killed {
            break;
        }
        step += 1;
    }
    assert!(step > 10, "only {step} steps");
}

#[test]
fn repair_that_ends_at_any_step_is_completed_by_the_next() {
    let (vpc, node, _pods) = node_with_pods();
    let before = sorted(vpc.node.snapshot());
    let mut step = 0;
    loop {
        for damage in [
            "link set eth1 mtu 1500",
            "addr flush dev eth1",
            "rule del pref 1024",
            "rule del pref 1536",
            "rule del pref 512",
            "rule add from 10.0.0.101 lookup 9 pref 1536",
            "route del 10.0.0.100",
        ] {
            vpc.node.ip(damage);
        }
        let left = RefCell::new(step);
        let mut killed = Killed { inner: vpc.node.netlink(), left: &left };
        let ended = NodeNetwork::repair(&|| node.clone(), &mut killed, Extent::Routing).is_ok();

        repair(&node, &vpc, Extent::Routing);

        assert_eq!(sorted(vpc.node.snapshot()), before, "step {step}");
        if ended {
            break;
        }
        step += 1;
    }
    assert!(step > 6, "only {step} steps");
}

#[test]
fn two_that_repair_the_same_node_come_to_the_same() {
    let (vpc, node, _pods) = node_with_pods();
    let before = sorted(vpc.node.snapshot());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let repairing: Vec<_> = (0..2)
            .map(|_| {
                let (vpc, node) = (&vpc, node.clone());
                scope.spawn(move || {
                    let mut found = 0;
                    while !stop.load(Ordering::Relaxed) {
                        found += repair(&node, vpc, Extent::Routing).differences.len();
                    }
                    found
                })
            })
            .collect();
        let _stops = Stops(stop);
        for _ in 0..20 {
            for damage in ["rule del pref 512", "rule del pref 1536", "rule del pref 1024"] {
                // Where it was not repaired yet there is nothing to remove.
                let _ = vpc.node.try_ip(damage);
            }
            let _ = vpc.node.try_ip("route del 10.0.0.100");
        }
        stop.store(true, Ordering::Relaxed);
        let found: usize = repairing.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_ne!(found, 0);
    });

    repair(&node, &vpc, Extent::Routing);

    assert_eq!(sorted(vpc.node.snapshot()), before);
}

#[test]
fn list_that_changes_while_it_is_read_is_seldom_wrong_without_a_word() {
    let netns = Netns::new();
    let many: String = (0..400)
        .map(|i| format!("rule add from 10.1.{}.{} lookup 7 pref 1000\n", i / 200, i % 200))
        .collect();
    netns.shell(&format!("ip -batch - <<'END'\n{many}END"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut netlink = netns.netlink();
            let rule = |i: u8| {
                vpc_ipam_linux::Object::Rule(
                    Rule::new(Family::Ipv4, 900, vpc_ipam_linux::Table(7))
                        .from(IpAddr::from([10, 2, 0, i])),
                )
            };
            while !stop.load(Ordering::Relaxed) {
                let set: Vec<_> = (0..50).map(|i| KernelChange::Set(rule(i))).collect();
                let remove: Vec<_> = (0..50).map(|i| KernelChange::Remove(rule(i))).collect();
                netlink.change(&set).unwrap();
                netlink.change(&remove).unwrap();
            }
        });
        let _stops = Stops(&stop);
        let mut netlink = netns.netlink();
        let mut wrong = Vec::new();
        for _ in 0..100 {
            match netlink.rules(Family::Ipv4) {
                Ok(rules) => {
                    let kept = rules.iter().filter(|rule| rule.priority == 1000).count();
                    wrong.extend(Some(kept).filter(|kept| *kept != 400));
                }
                Err(NetlinkError::Interrupted { .. }) => {}
                Err(error) => panic!("{}", chain(&error)),
            }
        }
        // The kernel marks a list that changed between two parts, and not one that changed while the last was written.
        assert!(wrong.len() < 10, "{wrong:?}");
    });
}

#[test]
fn two_hundred_pods_are_added_and_removed_at_once() {
    const PODS: u8 = 200;
    const AT_ONCE: u8 = 8;
    let node = Netns::new();
    let before = sorted(node.snapshot());
    let pods: Vec<_> = (0..PODS)
        .map(|n| (network(&format!("p{n}"), n % 3, &format!("10.0.{}.7", n)), Netns::new()))
        .collect();
    let each = |what: &(dyn Fn(&pod::PodNetwork, &Netns) + Sync)| {
        std::thread::scope(|scope| {
            for part in pods.chunks(usize::from(PODS / AT_ONCE)) {
                scope.spawn(move || part.iter().for_each(|(network, pod)| what(network, pod)));
            }
        });
    };

    each(&|network, pod| {
        pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, network)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    });
    assert_eq!(node.rules(512).len(), 200);
    each(&|network, pod| {
        let differences = pod::check(&mut node.netlink(), &mut pod.netlink(), network).unwrap();
        assert_eq!(differences, []);
        assert_eq!(pod::remove(&mut node.netlink(), network).unwrap(), [] as [IpAddr; 0]);
    });

    assert_eq!((node.rules(512), node.rules(1536)), (vec![], vec![]));
    drop(pods);
    wait_until(|| sorted(node.snapshot()) == before);
}

#[test]
fn rules_of_a_branch_eni_whose_links_are_gone_are_removed() {
    let (vpc, node, _pods) = node_with_pods();
    let before = vpc.node.snapshot();
    vpc.node.ip("rule add iif vlan.eth.7 lookup 107 pref 10 protocol 86");
    vpc.node.ip("rule add iif eth1 lookup 107 pref 10 protocol 86");

    repair(&node, &vpc, Extent::Routing);

    let mut after = vpc.node.snapshot();
    after.retain(|line| !line.contains("iif eth1"));
    assert_eq!(after, before);
}

#[test]
fn pod_is_found_by_its_key_alone() {
    let node = Netns::new();
    let lease = (lease("b", "b", 0, 1, "10.0.0.101")).with_more(vec![leased(1, 1, "10.0.0.201")]);
    let (two, other) = (network_of(&lease), network("other", 1, "10.0.0.103"));
    let _other = add(&node, &other);
    let before = node.snapshot();
    let pod = add(&node, &two);

    let mut found = pod::remove_found(&mut node.netlink(), &key("b")).unwrap();

    found.sort();
    assert_eq!(found, ["10.0.0.101", "10.0.0.201"].map(|it| it.parse::<IpAddr>().unwrap()));
    assert_eq!(node.snapshot(), before);
    assert_eq!(link_names(&mut pod.netlink()), ["lo"]);
    assert_eq!(pod::remove_found(&mut node.netlink(), &key("b")).unwrap(), [] as [IpAddr; 0]);
}

/// Stops the other threads, also after a panic.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn link_is_gone(node: &Netns, name: &str) -> bool {
    node.netlink().link(name).unwrap().is_none()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// A kernel in which another program does something between two changes, counted over all that share the count.
struct Meddled<'a, F> {
    inner: KernelNetlink,
    steps: &'a RefCell<Option<(usize, F)>>,
}

/// A kernel that hears nothing any more after some changes, as from a process that was killed.
struct Killed<'a> {
    inner: KernelNetlink,
    left: &'a RefCell<usize>,
}

impl<F: FnOnce()> NetlinkLayer for Meddled<'_, F> {
    fn inner(&mut self) -> &mut dyn Netlink {
        &mut self.inner
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        let mut results = Vec::with_capacity(changes.len());
        for change in changes {
            let meddle = self.steps.borrow_mut().take_if(|(step, _)| *step == 0);
            match meddle {
                Some((_, meddle)) => meddle(),
                None => {
                    if let Some((step, _)) = &mut *self.steps.borrow_mut() {
                        *step -= 1;
                    }
                }
            }
            results.extend(self.inner.change(core::slice::from_ref(change))?);
        }
        Ok(results)
    }
}

impl NetlinkLayer for Killed<'_> {
    fn inner(&mut self) -> &mut dyn Netlink {
        &mut self.inner
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        let mut left = self.left.borrow_mut();
        let heard = changes.len().min(*left);
        *left -= heard;
        let results = self.inner.change(&changes[..heard])?;
        if heard < changes.len() {
            return Err(NetlinkError::Send { source: io::ErrorKind::ConnectionReset.into() });
        }
        Ok(results)
    }
}
