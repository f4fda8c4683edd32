use std::process::Command;

use vpc_ipam_linux::{CreateNamespaceError, Namespace, NamespaceError};

#[test]
fn namespace_lives_as_long_as_its_name() {
    let name = format!("vit-{}-named", std::process::id());
    let _removed = Removed(&name);
    let made = Namespace::create(&name).unwrap();

    assert_eq!(made.name(), Some(&*name));
    assert_eq!(Namespace::named(&name).unwrap(), made);
    assert_ne!(Namespace::current().unwrap(), made);
    assert!(Namespace::names().unwrap().contains(&name));
    // Another process, and a program that we did not write.
    let links = Command::new("ip").args(["-n", &name, "-o", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&links.stdout).starts_with("1: lo:"), "{links:?}");

    let again = Namespace::create(&name);
    assert!(matches!(again, Err(CreateNamespaceError::Exists { .. })), "{again:?}");

    Namespace::remove(&name).unwrap();
    Namespace::remove(&name).unwrap();
    let gone = Namespace::named(&name);
    assert!(matches!(gone, Err(NamespaceError::Missing { .. })), "{gone:?}");
    assert!(!Namespace::names().unwrap().contains(&name));
}

#[test]
fn namespaces_of_ip_netns_are_the_same() {
    let name = format!("vit-{}-iproute2", std::process::id());
    let _removed = Removed(&name);
    let added = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
    assert!(added.success());

    assert!(Namespace::names().unwrap().contains(&name));
    Namespace::remove(&name).unwrap();

    let list = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&list.stdout).contains(&name));
}

/// What stands at CNI_NETNS may be anything.
#[test]
fn what_is_no_namespace_is_told_at_once() {
    let fifo = std::env::temp_dir().join(format!("vit-{}-fifo", std::process::id()));
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let opened = [fifo.as_path(), "/dev/zero".as_ref(), "/tmp".as_ref()].map(Namespace::open);
    std::fs::remove_file(&fifo).unwrap();
    for opened in opened {
        assert!(matches!(opened, Err(NamespaceError::NotANamespace { .. })), "{opened:?}");
    }
}

#[test]
fn visitor_is_back_afterwards() {
    let name = format!("vit-{}-visit", std::process::id());
    let _removed = Removed(&name);
    let abroad = Namespace::create(&name).unwrap();
    let home = Namespace::current().unwrap();
    let here = std::thread::current().id();

    let visit = abroad.visit(|| (std::thread::current().id(), Namespace::current().unwrap()));
    assert_eq!(visit.unwrap(), (here, abroad.clone()));
    assert_eq!(Namespace::current().unwrap(), home);

    // It needs no way there.
    assert_eq!(home.visit(|| std::thread::current().id()).unwrap(), here);

    let visit = std::panic::catch_unwind(|| abroad.visit(|| panic!("on the way")).unwrap());
    assert!(visit.is_err());
    assert_eq!(Namespace::current().unwrap(), home);
}

struct Removed<'a>(&'a str);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = Namespace::remove(self.0);
    }
}
