use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::runtime::{
    Pod, address, settled, spawn, spec, start, status, wait_for_no_pods, wait_until,
};

const PODS: usize = 200;
/// What a runtime does at once on a node that comes back.
const AT_ONCE: usize = 16;

#[test]
fn two_hundred_pods_come_and_go_at_once() {
    let node = start(&spec("m5.4xlarge"));
    let pods: Vec<Pod> = (0..PODS).map(|n| Pod::new(&node, &format!("p{n}"))).collect();
    let addresses = Mutex::new(Vec::new());
    let plugin = &node.address;

    for_each_at_once(&pods, |pod| {
        let address = address(&pod.add(plugin));
        addresses.lock().unwrap().push(address);
    });

    let addresses = addresses.into_inner().unwrap();
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), PODS, "one each");
    let full = settled(&node);
    for address in &addresses {
        let count = |like: String| full.iter().filter(|line| **line == like).count();
        assert_eq!(
            count(format!("512:\tfrom all to {address} lookup main proto 86")),
            1,
            "{address}"
        );
    }
    assert_eq!(status(&node).repairs, 0, "nothing was damaged");

    for_each_at_once(&pods, |pod| pod.del(plugin));

    let left = settled(&node);
    let of_pods = |line: &&String| addresses.iter().any(|it| line.contains(&format!("{it} ")));
    assert_eq!(left.iter().filter(of_pods).collect::<Vec<_>>(), [] as [&String; 0]);
    assert_eq!(status(&node).enis.iter().map(|eni| eni.assigned).sum::<u32>(), 0);
    pods.into_iter().for_each(Pod::die);
    wait_until("the links of pods", || {
        let links: Vec<_> = settled(&node).into_iter().filter(|it| it.starts_with("eni")).collect();
        if links.is_empty() { Ok(()) } else { Err(format!("{links:?}")) }
    });
    node.stop().unwrap();
}

fn for_each_at_once(pods: &[Pod], what: impl Fn(&Pod) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                    what(pod);
                }
            });
        }
    });
}

#[test]
fn plugin_that_is_killed_at_any_moment_leaves_nothing_after_del() {
    let node = start(&spec("m5.large"));
    let mut killed = 0;
    // From before it asks the daemon until after it is done.
    for delay in (0..40).map(|step| Duration::from_micros(250 * step)) {
        let pod = Pod::new(&node, &format!("p{}", delay.as_micros()));
        let mut child = spawn(&node.address, "ADD", &pod);
        std::thread::sleep(delay);
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());

        // As a runtime does with a pod that it could not start.
        pod.del(&node.address);
        pod.die();
    }

    assert!(killed > 0, "each was done before it was killed");
    wait_for_no_pods(&node);
    assert_eq!(status(&node).enis.iter().map(|eni| eni.assigned).sum::<u32>(), 0);
    node.stop().unwrap();
}

#[test]
fn plugin_that_is_killed_while_it_removes_a_pod_is_called_again() {
    let node = start(&spec("m5.large"));
    for delay in (0..20).map(|step| Duration::from_micros(250 * step)) {
        let pod = Pod::new(&node, &format!("p{}", delay.as_micros()));
        pod.add(&node.address);
        let mut child = spawn(&node.address, "DEL", &pod);
        std::thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();

        pod.del(&node.address);
        pod.die();
    }

    wait_for_no_pods(&node);
    assert_eq!(status(&node).enis.iter().map(|eni| eni.assigned).sum::<u32>(), 0);
    node.stop().unwrap();
}
