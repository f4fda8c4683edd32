use vpc_ipam_linux::Table;

use super::*;
use crate::migrate::check::tests::{entry, link, node, pod_links, route};

fn fates(survey: &Survey) -> Vec<Fate> {
    pods(survey, &Derived::of(survey)).into_iter().map(|it| it.fate).collect()
}

fn imported(link: &str, table: &str) -> Fate {
    Fate::Imported { links: vec![link.to_owned()], tables: vec![table.to_owned()], missing: vec![] }
}

#[test]
fn pods_with_links_become_leases_with_links_and_tables_as_they_are() {
    let links = pod_links();
    assert_eq!(fates(&node()), [imported(&links[0], "main"), imported(&links[1], "2")]);
}

/// Entries that are older than the checkpoint have no name, and may have no other metadata.
#[test]
fn pods_without_a_name_are_known_by_their_routes() {
    let links = pod_links();
    let mut survey = node();
    for entry in &mut survey.checkpoint.entries {
        (entry.namespace, entry.pod) = (None, None);
        entry.network = "_migrated-from-cri".to_owned();
        entry.ifname = "unknown".to_owned();
    }
    assert_eq!(fates(&survey), [imported(&links[0], "main"), imported(&links[1], "2")]);
    survey.kernel.entries.retain(|it| it.route.destination.to_string() != "10.0.0.100/32");
    assert!(matches!(&fates(&survey)[0], Fate::Skipped { why } if why.contains("the pod is gone")));
}

#[test]
fn pod_without_a_route_is_found_by_the_name_of_its_link() {
    let links = pod_links();
    let mut survey = node();
    survey.kernel.entries.retain(|it| it.route.destination.to_string() != "10.0.0.100/32");
    let Fate::Imported { links: found, missing, .. } = &fates(&survey)[0] else { panic!() };
    assert_eq!((&found[0], &missing[..]), (&links[0], &["the route to 10.0.0.100".to_owned()][..]));
    survey.kernel.links.retain(|link| *link.id.name != *links[0]);
    assert!(matches!(&fates(&survey)[0], Fate::Skipped { .. }));
}

/// One interface a network card.
#[test]
fn pod_on_several_network_cards_is_one_pod() {
    let mut survey = node();
    survey.checkpoint.entries.truncate(1);
    let mut second = entry("a", "10.0.0.101");
    second.card = 1;
    survey.checkpoint.entries.push(second);
    let links = pod_links();
    let pods = pods(&survey, &Derived::of(&survey));
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].addresses.len(), 2);
    let expected =
        Fate::Imported { links, tables: vec!["main".to_owned(), "2".to_owned()], missing: vec![] };
    assert_eq!(pods[0].fate, expected);
}

#[test]
fn pods_that_only_the_kernel_knows_are_untracked() {
    let mut survey = node();
    link(&mut survey, 6, "eni0000000000f", Some("veth"));
    route(&mut survey, 6, Table::MAIN, "10.0.0.102/32", None);
    // Of another program, in the range, and over a link for several pods.
    link(&mut survey, 7, "antrea-gw0", Some("bridge"));
    route(&mut survey, 7, Table::MAIN, "10.0.0.103/32", None);
    // No pods: another range, the next hop of a route, an ENI's own, and a link-local one of DHCP.
    link(&mut survey, 8, "docker0", Some("bridge"));
    route(&mut survey, 8, Table::MAIN, "172.17.0.2/32", None);
    route(&mut survey, 2, Table::MAIN, "10.0.0.1/32", None);
    route(&mut survey, 2, Table::MAIN, "10.0.0.2/32", None);
    route(&mut survey, 6, Table::MAIN, "169.254.1.1/32", Some("10.0.0.1"));
    let pods = pods(&survey, &Derived::of(&survey));
    let untracked: Vec<String> = pods[2..]
        .iter()
        .map(|pod| match &pod.fate {
            Fate::Untracked { link, .. } => format!("{} {link}", pod.addresses[0]),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(untracked, ["10.0.0.102 eni0000000000f", "10.0.0.103 antrea-gw0"]);
}

#[test]
fn pod_behind_a_link_of_several_pods_is_untracked_although_the_checkpoint_has_it() {
    let mut survey = node();
    let links = pod_links();
    for link in &mut survey.kernel.links {
        if *link.id.name == *links[0] {
            link.kind = Some("bridge".to_owned());
        }
    }
    assert!(
        matches!(&fates(&survey)[0], Fate::Untracked { why, .. } if why.contains("other pods"))
    );
}

#[test]
fn pods_on_branch_enis_are_refused() {
    let mut survey = node();
    link(&mut survey, 6, "vlan.eth.7", Some("vlan"));
    // In strict mode: the route is in the table of the branch ENI.
    link(&mut survey, 7, "vlan0011223344a", Some("veth"));
    route(&mut survey, 7, Table(107), "10.0.0.102/32", None);
    // In standard mode: the rule leads there.
    for rule in &mut survey.kernel.rules {
        if rule.priority == 1536 {
            rule.table = Table(107);
        }
    }
    let fates = fates(&survey);
    assert!(matches!(&fates[1..], [Fate::Refused { .. }, Fate::Refused { .. }]), "{fates:?}");
}

#[test]
fn pods_whose_routes_are_ours_already_are_known_by_them_and_pods_of_ours_are_none() {
    let mut survey = node();
    link(&mut survey, 6, "eni0000000000f", Some("veth"));
    route(&mut survey, 6, Table::MAIN, "10.0.0.102/32", None);
    for entry in &mut survey.kernel.entries {
        entry.route.protocol = vpc_ipam_linux::Protocol::OURS;
    }
    let links = pod_links();
    assert_eq!(fates(&survey), [imported(&links[0], "main"), imported(&links[1], "2")]);
}
