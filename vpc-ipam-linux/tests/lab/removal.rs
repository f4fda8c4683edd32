use core::mem;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use vpc_ipam_linux::lab::{self, LabNode, LabNodeError, add_pod, pods, remove_all, remove_pod};
use vpc_ipam_linux::{CreateNamespaceError, Namespace, NamespaceError};

use crate::support::{World, namespaces_of, unused_name};

#[test]
fn nothing_is_left_of_a_lab_that_is_dropped_removed_or_lost() {
    let dropped = World::new();
    let name = dropped.lab.name().clone();
    add_pod(&name, "p").unwrap();
    assert_eq!(
        namespaces_of(&name),
        ["host2", "internet", "node", "pod-p", "router"].map(|it| format!("vil-{name}-{it}"))
    );
    drop(dropped);
    assert_eq!(namespaces_of(&name), [""; 0], "dropped");

    let removed = World::new().lab;
    let name = removed.name().clone();
    add_pod(&name, "p").unwrap();
    removed.remove().unwrap();
    assert_eq!(namespaces_of(&name), [""; 0], "removed");

    let mut name = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let world = World::new();
        name = Some(world.lab.name().clone());
        add_pod(world.lab.name(), "p").unwrap();
        std::panic::resume_unwind(Box::new("a test failed"));
    }));
    assert!(panicked.is_err());
    assert_eq!(namespaces_of(&name.unwrap()), [""; 0], "a panic");

    let killed = World::new().lab;
    let name = killed.name().clone();
    add_pod(&name, "p").unwrap();
    mem::forget(killed);
    assert_eq!(namespaces_of(&name).len(), 5);
    assert_eq!(remove_all(&name).unwrap().len(), 5);
    assert_eq!(namespaces_of(&name), [""; 0], "killed");
    assert_eq!(remove_all(&name).unwrap(), [""; 0]);
}

#[test]
fn pods_are_made_and_found_by_name() {
    let world = World::new();
    let name = world.lab.name();
    assert_eq!(pods(name).unwrap(), [""; 0]);

    let made = add_pod(name, "web-0").unwrap();
    add_pod(name, "db").unwrap();

    assert_eq!(pods(name).unwrap(), ["db", "web-0"]);
    let node = LabNode::Pod("web-0".to_owned());
    assert_eq!(made.name(), Some(&*name.namespace(&node)));
    assert_eq!(Namespace::named(&name.namespace(&node)).unwrap(), made);
    let again = add_pod(name, "db");
    let exists = CreateNamespaceError::Exists { path: "".into() };
    assert!(
        matches!(&again, Err(LabNodeError::Create(error)) if mem::discriminant(error) == mem::discriminant(&exists)),
        "{again:?}"
    );

    remove_pod(name, "db").unwrap();
    remove_pod(name, "db").unwrap();
    assert_eq!(pods(name).unwrap(), ["web-0"]);
}

#[test]
fn pod_needs_a_lab() {
    let nowhere = add_pod(&unused_name(), "p");
    assert!(
        matches!(&nowhere, Err(LabNodeError::NoLab { source: NamespaceError::Missing { .. }, .. })),
        "{nowhere:?}"
    );
}

#[test]
fn responder_that_is_dropped_answers_no_more() {
    let world = World::new();
    let server = crate::support::respond(world.lab.node());
    let timeout = core::time::Duration::from_millis(500);
    let to = (core::net::Ipv4Addr::LOCALHOST, server.address().port()).into();
    assert_eq!(lab::ask(world.lab.node(), to, timeout).unwrap().to_string(), "127.0.0.1");

    drop(server);

    assert!(matches!(lab::ask(world.lab.node(), to, timeout), Err(lab::AskError::Connect { .. })));
    // The port is free again, or it could not be bound.
    drop(crate::support::respond(world.lab.node()));
}
