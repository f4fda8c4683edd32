use std::net::UdpSocket;

use crate::runtime::{Pod, address, call, netns, run, spec, start, succeeded, wait_until};

#[test]
fn next_pod_with_an_address_inherits_no_connection() {
    let mut spec = spec("m5.large");
    // No test waits for the address to cool down.
    spec.vars = vec![("IP_COOLDOWN_PERIOD".to_owned(), "0".to_owned())];
    let node = start(&spec);
    let pod = Pod::new(&node, "a");
    let first = address(&pod.add(&node.address));
    let socket = pod.netns.run(|| UdpSocket::bind((first.as_str(), 1000))).unwrap().unwrap();
    socket.send_to(b"x", "203.0.113.10:53").unwrap();
    let listed = || run(&netns(&node), "conntrack -L");
    assert!(listed().contains(&format!("src={first} ")), "{}", listed());

    pod.del(&node.address);
    drop(socket);
    pod.die();
    // Another pod gets it after that.
    let mut others = Vec::new();
    wait_until("the address to be given out again", || {
        let other = Pod::new(&node, &format!("b{}", others.len()));
        let given = address(&other.add(&node.address));
        others.push(other);
        if given == first { Ok(()) } else { Err(given) }
    });

    assert!(!listed().contains(&format!("src={first} ")), "{}", listed());
    node.stop().unwrap();
}

#[test]
fn what_is_sent_while_the_address_cools_down_is_forgotten_too() {
    // It has two addresses for pods.
    let node = start(&spec("t3.micro"));
    let pod = Pod::new(&node, "a");
    let first = address(&pod.add(&node.address));
    let client = netns(&node).run(|| UdpSocket::bind("0.0.0.0:2000")).unwrap().unwrap();
    let send = || client.send_to(b"x", (first.as_str(), 53)).map(drop);
    let listed = || run(&netns(&node), "conntrack -L");
    let remembered = |listed: String| listed.contains(&format!("dst={first} "));

    pod.del(&node.address);
    pod.die();
    // Beyond whatever the daemon does about the release.
    for _ in 0..30 {
        // The kernel may refuse while it takes the pod apart.
        let _ = send();
        std::thread::sleep(core::time::Duration::from_millis(10));
    }
    assert!(remembered(listed()), "{}", listed());
    let mut others = Vec::new();
    wait_until("the address to be given out again", || {
        let other = Pod::new(&node, &format!("b{}", others.len()));
        let output = call(&node.address, "ADD", &other, "1.0.0", None);
        if !output.status.success() {
            other.die();
            return Err(format!("{output:?}"));
        }
        let given = address(&succeeded(&output));
        others.push(other);
        if given == first { Ok(()) } else { Err(given) }
    });

    assert!(!remembered(listed()), "{}", listed());
    node.stop().unwrap();
}
