//! For authors of a data plane or an IPAM of their own: one pod wired by hand, from a lease to a network that is checked and repaired.
//!
//! `cargo run -p vpc-ipam-linux --example wire_a_pod`, as root, or as anyone by `scripts/in-user-namespace.sh cargo run …`. It makes a network
//! namespace that plays the node and one that plays the pod's sandbox, and removes both; it needs no AWS, no `ip` and no `nft`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use core::error::Error;
use std::process::ExitCode;

use vpc_ipam_core::{Card, DeviceIndex, Lease, LeasedInterface, Mac, Pod, PodKey, Timestamp};
use vpc_ipam_linux::pod::{self, PodSettings};
use vpc_ipam_linux::{Family, Namespace, Netlink as _, Object, State, VethPrefix, remove};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire_a_pod: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            eprintln!(
                "It makes network namespaces: run it as root, or by scripts/in-user-namespace.sh"
            );
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let node = Sandbox::create("node")?;
    let sandbox = Sandbox::create("pod")?;
    let mut host = node.namespace.netlink()?;
    let mut inside = sandbox.namespace.netlink()?;

    // What your IPAM decided: an address of the ENI at device index 1, whose table is 2.
    let eni = LeasedInterface::new(
        "eni-0123456789abcdef0".parse()?,
        Mac([2, 0, 10, 0, 0, 20]),
        Card(0),
        DeviceIndex(1),
    );
    let eni = eni.with_ipv4(Some("10.0.0.101".parse()?));
    let key = PodKey::new("example", "4fb1", "eth0")?;
    let lease = Lease::new(key, Pod::new("default", "web"), Timestamp::EPOCH, eni);

    // What the node and the pod should hold for it: data, before anything is changed.
    let settings = PodSettings::new(VethPrefix::default(), 9001);
    let network = pod::desired(&lease, &settings)?;
    let veth = network.interfaces[0].host.name.clone();

    // ADD: all of it, or nothing.
    let network = pod::add(&mut host, &mut inside, &sandbox.namespace, &network)?;
    let link = host.link(&veth)?.ok_or("the node's end of the veth is missing")?;
    println!("the node holds:");
    for object in network.interfaces[0].on_host(link.id.index).wanted {
        println!("  {object}");
    }
    // CHECK: nothing differs.
    let differences = pod::check(&mut host, &mut inside, &network)?;
    assert!(differences.is_empty(), "{differences:?}");

    // Another program removes the rule that makes the pod's packets leave by its ENI.
    let rules = host.rules(Family::Ipv4)?;
    let from_pod = rules.iter().find(|rule| rule.priority == 1536).ok_or("no rule from the pod")?;
    let damage = State { wanted: vec![Object::Rule(from_pod.clone())], ..State::default() };
    let _removed = remove(&mut host, &damage)?;
    let differences = pod::check(&mut host, &mut inside, &network)?;
    println!("after the rule was removed:");
    for difference in &differences {
        println!("  {difference}");
    }
    assert_eq!(differences.len(), 1);

    // ADD again repairs what differs, and changes nothing else.
    pod::add(&mut host, &mut inside, &sandbox.namespace, &network)?;
    assert!(pod::check(&mut host, &mut inside, &network)?.is_empty());

    // DEL, in two steps: what routes packets first, then the links. It may be repeated, and needs no namespace of the pod.
    for _ in 0..2 {
        pod::remove(&mut host, &network)?;
        pod::remove_links(&mut host, &network)?;
    }
    assert!(host.link(&veth)?.is_none());
    let left = host.rules(Family::Ipv4)?;
    assert!(left.iter().all(|rule| rule.priority != 512 && rule.priority != 1536), "{left:?}");
    println!("after DEL nothing is left");
    Ok(())
}

/// A network namespace of this example, which goes with this value.
struct Sandbox {
    name: String,
    namespace: Namespace,
}

impl Sandbox {
    fn create(what: &str) -> Result<Self, Box<dyn Error>> {
        let name = format!("vpc-ipam-example-{}-{what}", std::process::id());
        let namespace = Namespace::create(&name)?;
        Ok(Self { name, namespace })
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = Namespace::remove(&self.name) {
            eprintln!("wire_a_pod: {error}: {}", error.source);
        }
    }
}
