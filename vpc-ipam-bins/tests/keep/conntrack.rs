use std::net::UdpSocket;

use crate::runtime::{Pod, address, netns, plan, run, start, wait_until};

#[test]
fn next_pod_with_an_address_inherits_no_connection() {
    let mut plan = plan("m5.large");
    // Nobody waits for the address to cool down.
    plan.vars = vec![("IP_COOLDOWN_PERIOD".to_owned(), "0".to_owned())];
    let node = start(&plan);
    let pod = Pod::new(&node, "a");
    let first = address(&pod.add(&node.address));
    let socket = pod.netns.run(|| UdpSocket::bind((first.as_str(), 1000))).unwrap().unwrap();
    socket.send_to(b"x", "203.0.113.10:53").unwrap();
    let listed = || run(&netns(&node), "conntrack -L");
    assert!(listed().contains(&format!("src={first} ")), "{}", listed());

    pod.del(&node.address);
    drop(socket);
    pod.die();
    // Whoever gets it, gets it after that.
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
