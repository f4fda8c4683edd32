//! What a node holds at the moment of a scrape. Made anew for each, so that nothing is left of an ENI that is gone.

use std::collections::BTreeMap;

use ipnet::IpNet;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use vpc_ipam_core::{Action, Ec2Action, HostAction, Issued, WaitingOn};
use vpc_ipam_protocol::Inventory;

use super::WELL_FORMED;
use super::name::variant;

/// Returns the gauges of a node; those of a daemon that starts while what it holds is not told.
pub(super) fn gather(inventory: Option<&Inventory>) -> Vec<MetricFamily> {
    let gauges = Gauges(Registry::new());
    let version = env!("CARGO_PKG_VERSION");
    gauges.of_one(
        "awscni_build_info",
        "Always 1; says which version runs",
        &["version"],
        &[version],
        1,
    );
    let ready = inventory.is_some_and(|it| it.ready);
    gauges.one(
        "vpc_ipam_ready",
        "Whether the next pod gets an address, at once or in time",
        ready.into(),
    );
    gauges.in_progress(inventory);
    if let Some(inventory) = inventory {
        gauges.totals(inventory);
        gauges.by_block(inventory);
        gauges.by_subnet(inventory);
        gauges.plan(inventory);
        gauges.repairs(inventory);
    }
    gauges.0.gather()
}

struct Gauges(Registry);

impl Gauges {
    fn family(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let made = IntGaugeVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
        super::register(&self.0, made.clone());
        made
    }

    fn of_one(&self, name: &str, help: &str, labels: &[&str], values: &[&str], value: i64) {
        self.family(name, help, labels).with_label_values(values).set(value);
    }

    fn one(&self, name: &str, help: &str, value: i64) {
        self.of_one(name, help, &[], &[], value);
    }

    /// Actions that run, by the functions of amazon-vpc-cni-k8s that do the same.
    fn in_progress(&self, inventory: Option<&Inventory>) {
        let family = self.family(
            "awscni_ipamd_action_inprogress",
            "Actions whose outcome is not known yet, by what they are for",
            &["fn"],
        );
        let (mut more, mut fewer, mut reads) = (0, 0, 0);
        let doing = inventory.map(|it| it.explanation.doing.as_slice()).unwrap_or_default();
        for Issued { action, .. } in doing {
            match action {
                Action::Ec2(
                    Ec2Action::ReadMetadata
                    | Ec2Action::DescribeNetworkInterfaces(_)
                    | Ec2Action::DescribeSubnets,
                ) => reads += 1,
                Action::Ec2(
                    Ec2Action::UnassignPrivateIpAddresses(_)
                    | Ec2Action::UnassignIpv6Addresses(_)
                    | Ec2Action::DetachNetworkInterface(_)
                    | Ec2Action::DeleteNetworkInterface(_),
                )
                | Action::Host(HostAction::RemoveEni(_)) => fewer += 1,
                Action::Ec2(_) | Action::Host(HostAction::SetUpEni(_)) => more += 1,
            }
        }
        let counts = [
            ("nodeInit", i64::from(inventory.is_none())),
            ("increaseDatastorePool", more),
            ("decreaseDatastorePool", fewer),
            ("nodeIPPoolReconcile", reads),
        ];
        for (name, count) in counts {
            family.with_label_values(&[name]).set(count);
        }
    }

    fn totals(&self, inventory: &Inventory) {
        let (mut assigned, mut total, mut prefixes) = (0, 0, 0);
        for block in inventory.enis.iter().flat_map(|eni| &eni.blocks) {
            assigned += i64::from(block.states().assigned);
            total += i64::from(block.capacity);
            prefixes += i64::from(matches!(block.net, IpNet::V4(net) if net.prefix_len() < 32));
        }
        let gauges = [
            (
                "awscni_eni_max",
                "The most ENIs that the node may have for pods",
                inventory.enis_max.into(),
            ),
            (
                "awscni_ip_max",
                "The most addresses for pods that those ENIs carry",
                inventory.addresses_max.into(),
            ),
            ("awscni_eni_allocated", "ENIs of the node", inventory.enis.len() as i64),
            (
                "awscni_total_ip_addresses",
                "Addresses for pods that the node holds, 65,536 of a /80",
                total,
            ),
            ("awscni_assigned_ip_addresses", "Addresses that pods have", assigned),
            ("awscni_total_ipv4_prefixes", "IPv4 prefixes (/28) that the node holds", prefixes),
            (
                "vpc_ipam_pods_waiting",
                "Pods that wait for an address",
                inventory.explanation.waiting.len() as i64,
            ),
            (
                "vpc_ipam_problems",
                "What an operator should look at, as the daemon's status has it",
                inventory.problems.len() as i64,
            ),
        ];
        for (name, help, value) in gauges {
            self.one(name, help, value);
        }
    }

    fn by_block(&self, inventory: &Inventory) {
        let by_eni =
            self.family("awscni_assigned_ip_per_eni", "Addresses that pods have, by ENI", &["eni"]);
        let by_cidr = self.family(
            "awscni_assigned_ip_per_cidr",
            "Addresses that pods have, by what EC2 assigned as a whole; those without a pod are left out",
            &["cidr"],
        );
        for eni in &inventory.enis {
            let mut of_eni = 0;
            for block in &eni.blocks {
                let assigned = i64::from(block.states().assigned);
                of_eni += assigned;
                if assigned > 0 {
                    by_cidr.with_label_values(&[block.net.to_string()]).set(assigned);
                }
            }
            by_eni.with_label_values(&[eni.id.as_str()]).set(of_eni);
        }
    }

    fn by_subnet(&self, inventory: &Inventory) {
        let addresses = self.family(
            "vpc_ipam_addresses",
            "Addresses for pods by network card, subnet, family and state",
            &["card", "subnet", "family", "state"],
        );
        let enis = self.family(
            "vpc_ipam_enis",
            "ENIs by network card, subnet and stage",
            &["card", "subnet", "stage"],
        );
        for eni in &inventory.enis {
            let (card, subnet) = (eni.card.0.to_string(), eni.subnet.to_string());
            enis.with_label_values(&[&card, &subnet, &variant(&eni.stage)]).inc();
            for block in &eni.blocks {
                let family = if block.net.addr().is_ipv4() { "ipv4" } else { "ipv6" };
                let states = block.states();
                let counts = [
                    ("assigned", states.assigned),
                    ("cooling", states.cooling),
                    ("free", states.free),
                    ("untracked", states.untracked),
                    ("withheld", states.withheld),
                ];
                for (state, count) in counts {
                    let labels = [card.as_str(), subnet.as_str(), family, state];
                    addresses.with_label_values(&labels).add(count.into());
                }
            }
        }
    }

    fn plan(&self, inventory: &Inventory) {
        let blocked = self.family(
            "vpc_ipam_blocked",
            "What is wanted and has to wait, by what is wanted and by cause",
            &["wanted", "cause"],
        );
        let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
        for it in inventory.explanation.blocked.iter().filter(|it| !it.is_next_reading()) {
            let cause = match &it.waiting_on {
                // What failed says more than that it is backed off from.
                WaitingOn::Backoff { kind, .. } => variant(kind),
                other => variant(other),
            };
            *counts.entry((variant(&it.wanted), cause)).or_default() += 1;
        }
        for ((wanted, cause), count) in counts {
            blocked.with_label_values(&[wanted, cause]).set(count);
        }
        let left = self.family(
            "vpc_ipam_ec2_calls_left",
            "Calls of EC2 that the daemon's budget leaves at this moment, by operation",
            &["operation"],
        );
        for (operation, calls) in &inventory.calls_left {
            left.with_label_values(&[operation.name()]).set((*calls).into());
        }
    }

    /// They are counted elsewhere, since the start.
    fn repairs(&self, inventory: &Inventory) {
        let counters = [
            (
                "vpc_ipam_repairs_total",
                "How often the node's network was found damaged and put right",
                inventory.repairs,
            ),
            (
                "vpc_ipam_repaired_objects_total",
                "How many links, addresses, routes, rules and kernel variables those repairs made right",
                inventory.repaired,
            ),
        ];
        for (name, help, count) in counters {
            let counter = IntCounter::new(name, help).expect(WELL_FORMED);
            counter.inc_by(count);
            super::register(&self.0, counter);
        }
    }
}
