//! What other programs have in the kernel that leads packets of pods and ENIs elsewhere than they should go.
//!
//! The way of a packet is followed as the kernel does it: rule by rule, and in a table by the longest prefix, the lowest metric,
//! and the first of equals. Only what comes before the rule or route that should decide, and leads elsewhere, is a conflict: what
//! leads the same way is none, nor is what concerns networks of another program's own.

use core::cmp::Ordering;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::network::NodeNetwork;
use crate::datapath::conflict::Conflict;
use crate::datapath::numbering::{PRIORITY_ENI, PRIORITY_FROM_POD, PRIORITY_MARK, PRIORITY_TO_POD};
use crate::kernel::network::is_host;
use crate::state::actual::Actual;
use crate::state::diff::Difference;
use crate::{
    Family, Leads, LinkIndex, Object, Protocol, RouteEntry, Rule, RuleAction, SysctlKey, Table,
    eni, link_by_mac,
};

/// How many conflicts are reported: more than an operator reads.
const CONFLICTS_MAX: usize = 100;

/// Where the kernel looks up main for what no rule leads elsewhere.
const PRIORITY_MAIN: u32 = 32766;

/// An address of a pod or of an ENI, and the way that its packets should go.
struct Subject {
    address: IpAddr,
    /// What is sent to it: by which table and link, if it is a pod's.
    to: Option<(Table, LinkIndex)>,
    /// What it sends: by which rule and link.
    from: (u32, LinkIndex),
}

/// What packets are diverted, by object.
#[derive(Default)]
struct Found(BTreeMap<String, (BTreeSet<String>, String)>);

impl Found {
    fn add(&mut self, object: String, diverts: String, author: &str) {
        if self.0.len() < CONFLICTS_MAX || self.0.contains_key(&object) {
            let (all, _) =
                self.0.entry(object).or_insert_with(|| (BTreeSet::new(), author.to_owned()));
            all.insert(diverts);
        }
    }

    fn into_conflicts(self) -> Vec<Conflict> {
        /// Of many pods a few will do.
        const NAMED: usize = 3;
        let conflict = |(object, (all, likely_author)): (String, (BTreeSet<String>, String))| {
            let mut diverts: Vec<String> = all.iter().take(NAMED).cloned().collect();
            if all.len() > NAMED {
                diverts.push(format!("{} more", all.len() - NAMED));
            }
            let effect = format!("diverts {}", diverts.join(", "));
            Conflict { object, effect, likely_author }
        };
        self.0.into_iter().map(conflict).collect()
    }
}

impl NodeNetwork {
    /// Returns what other programs have that diverts packets of pods and ENIs, once all differences are put right.
    pub(super) fn conflicts(&self, actual: &Actual, differences: &[Difference]) -> Vec<Conflict> {
        let view = View::new(self, actual, differences);
        let mut found = Found::default();
        view.of_addresses(&mut found);
        view.of_rules(&mut found);
        view.of_routes(&mut found);
        of_variables(actual, &mut found);
        found.into_conflicts()
    }

    /// Returns whether a rule of another program may lead packets of pods or ENIs elsewhere, as far as the rule alone shows.
    pub(super) fn may_divert(&self, rule: &Rule) -> bool {
        let ours = |net: &IpNet| {
            let mut pods = self.interfaces().flat_map(|interface| &interface.addresses);
            let mut enis = self.enis.values().flat_map(eni::own_addresses);
            pods.any(|it| net.contains(&it.address)) || enis.any(|address| net.contains(&address))
        };
        match (&rule.source, &rule.destination) {
            (None, None) => !rule.more && rule.protocol != Protocol::KERNEL,
            _ if rule.inverted => true,
            (source, destination) => {
                source.iter().chain(destination).any(|net| net.prefix_len() > 0 && ours(net))
            }
        }
    }
}

/// Variables of all links by which the node answers for other hosts or takes what is sent in its own name, and what that concerns. A
/// pod's link has them off, which does not count where they are on for all.
const OF_ALL: [(&str, &str); 3] = [
    ("net/ipv4/conf/all/proxy_arp", "what pods ask by ARP: the node answers for other hosts"),
    (
        "net/ipv6/conf/all/proxy_ndp",
        "neighbour solicitations of pods: the node answers for other hosts",
    ),
    ("net/ipv4/conf/all/accept_local", "what pods send with addresses of the node"),
];

/// Returns the variables that are to be read for conflicts.
pub(super) fn variables() -> impl Iterator<Item = SysctlKey> {
    OF_ALL.into_iter().map(|(path, _)| SysctlKey::new(path))
}

fn of_variables(actual: &Actual, found: &mut Found) {
    for (path, diverts) in OF_ALL {
        let key = SysctlKey::new(path);
        if let Some(Some(value)) = actual.sysctls.get(&key)
            && value != "0"
        {
            let author = "the program that makes the node answer for other hosts (sysctl.d, another CNI plugin)";
            found.add(format!("sysctl {key}={value}"), diverts.to_owned(), author);
        }
    }
}

/// What there is, in the form in which the kernel looks at it.
struct View<'a> {
    node: &'a NodeNetwork,
    actual: &'a Actual,
    /// Of each table and destination the entry that the kernel takes.
    tables: BTreeMap<Table, Vec<&'a RouteEntry>>,
    subjects: Vec<Subject>,
    primary: Option<LinkIndex>,
    /// The names of the links of ENIs, by which comes in what is sent to pods.
    outer: BTreeSet<&'a str>,
    /// Rules that are to be removed, and table, destination and metric of routes that are to be made.
    unwanted: BTreeSet<&'a Rule>,
    missing: BTreeSet<(Table, IpNet, u32)>,
    unwanted_addresses: BTreeSet<IpAddr>,
}

impl<'a> View<'a> {
    fn new(node: &'a NodeNetwork, actual: &'a Actual, differences: &'a [Difference]) -> Self {
        let mut tables: BTreeMap<Table, Vec<&RouteEntry>> = BTreeMap::new();
        for entry in &actual.entries {
            tables.entry(entry.route.table).or_default().push(entry);
        }
        for entries in tables.values_mut() {
            *entries = deciding(entries);
        }
        let macs = node.enis.values().map(|eni| eni.mac).chain(node.primary_mac());
        let outer = macs.filter_map(|mac| Some(&*link_by_mac(&actual.links, mac).ok()?.id.name));
        let mut view = Self {
            node,
            actual,
            tables,
            subjects: Vec::new(),
            primary: node
                .primary_mac()
                .and_then(|mac| link_by_mac(&actual.links, mac).ok())
                .map(|link| link.id.index),
            outer: outer.collect(),
            unwanted: BTreeSet::new(),
            missing: BTreeSet::new(),
            unwanted_addresses: BTreeSet::new(),
        };
        for difference in differences {
            match (difference, difference.object()) {
                (Difference::Unwanted(_), Object::Rule(rule)) => drop(view.unwanted.insert(rule)),
                (Difference::Unwanted(_), Object::Address { address, .. }) => {
                    view.unwanted_addresses.insert(address.net.addr());
                }
                (Difference::Missing(_), Object::Route { route, .. }) => {
                    view.missing.insert((route.table, route.destination, route.metric));
                }
                _ => {}
            }
        }
        view.subjects = view.subjects();
        view
    }

    /// Returns the addresses whose packets are followed: those of ENIs, and of pods that are not on branch ENIs.
    fn subjects(&self) -> Vec<Subject> {
        let Some(primary) = self.primary else { return Vec::new() };
        let links = &self.actual.links;
        let mut by_table = BTreeMap::from([(Table::MAIN, primary)]);
        let mut subjects = Vec::new();
        for eni in self.node.enis.values() {
            let Ok(link) = link_by_mac(links, eni.mac) else { continue };
            let link = link.id.index;
            by_table.insert(eni::table(eni.card, eni.device), link);
            let own = eni::own_addresses(eni).into_iter().filter(|_| !eni.trunk);
            let from = (PRIORITY_ENI, link);
            subjects.extend(own.map(|address| Subject { address, to: None, from }));
        }
        let by_mac: BTreeMap<_, _> =
            links.iter().rev().filter_map(|link| Some((link.mac?, link.id.index))).collect();
        for interface in self.node.interfaces().filter(|interface| interface.branch.is_none()) {
            let (Some(link), Some(out)) =
                (by_mac.get(&interface.host.mac), by_table.get(&interface.table))
            else {
                continue;
            };
            let on_primary = interface.table == Table::MAIN;
            let priority = if on_primary { PRIORITY_MAIN } else { PRIORITY_FROM_POD };
            subjects.extend(interface.addresses.iter().map(|it| Subject {
                address: it.address,
                to: Some((interface.table_to_pod(), *link)),
                from: (priority, *out),
            }));
        }
        subjects
    }

    /// An address of a pod on a link of the node makes the node take the pod's packets for its own.
    fn of_addresses(&self, found: &mut Found) {
        let pods: BTreeSet<IpAddr> =
            self.subjects.iter().filter(|it| it.to.is_some()).map(|it| it.address).collect();
        let mut on_links = BTreeSet::new();
        for (link, address) in &self.actual.addresses {
            let host = address.net.addr();
            if pods.contains(&host) && !self.unwanted_addresses.contains(&host) {
                on_links.insert(host);
                let object = format!("address {address} dev {}", self.name(*link));
                found.add(object, sent_to(host), "an administrator, or a network manager that configures secondary addresses of ENIs");
            }
        }
        for entry in self.tables.get(&Table::LOCAL).into_iter().flatten() {
            let host = entry.route.destination.addr();
            let is_of_pod = is_host(entry.route.destination) && pods.contains(&host);
            if is_of_pod && !on_links.contains(&host) && !self.unwanted_addresses.contains(&host) {
                self.add_route(found, entry, sent_to(host));
            }
        }
    }

    fn of_rules(&self, found: &mut Found) {
        for family in [Family::Ipv4, Family::Ipv6] {
            let rules: Vec<&Rule> =
                self.actual.rules.iter().filter(|rule| rule.family == family).collect();
            for (position, rule) in rules.iter().enumerate() {
                if self.is_foreign(rule) {
                    self.of_rule(found, rule, position, &rules);
                }
            }
        }
    }

    fn is_foreign(&self, rule: &Rule) -> bool {
        let of_kernel = rule.protocol == Protocol::KERNEL
            && rule.is_plain()
            && (&rule.source, &rule.destination, &rule.mark, &rule.input)
                == (&None, &None, &None, &None);
        rule.protocol != Protocol::OURS && !of_kernel && !self.unwanted.contains(rule)
    }

    fn of_rule(&self, found: &mut Found, rule: &Rule, position: usize, rules: &[&Rule]) {
        // Whether it comes before the rule of a priority that should decide about an address.
        let is_before =
            |priority: u32, decides: &dyn Fn(&Rule) -> bool| match rule.priority.cmp(&priority) {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal => {
                    let own = rules.iter().position(|it| it.priority == priority && decides(it));
                    own.is_none_or(|own| position < own)
                }
            };
        if let (Some(of_rule), Some(primary)) = (rule.mark, self.primary) {
            let mark = self.node.config.mark.get();
            let takes_ours = of_rule.value & mark != 0 && of_rule.value & !mark == 0;
            let ours = |it: &Rule| it.protocol == Protocol::OURS && it.mark.is_some();
            if takes_ours
                && (rule.source, rule.inverted) == (None, false)
                && is_before(PRIORITY_MARK, &ours)
                && self.leads_out_elsewhere(rule, primary, false)
            {
                let marked = "what has to leave by the primary ENI".to_owned();
                found.add(words(rule), marked, author_of_rule(rule));
            }
        }
        let of_family = |subject: &&Subject| Family::of(subject.address) == rule.family;
        for subject in self.subjects.iter().filter(of_family) {
            let host = IpNet::from(subject.address);
            if let Some((table, link)) = subject.to
                && self.matches_to(rule, host)
            {
                let ours = |it: &Rule| {
                    it.protocol == Protocol::OURS
                        && it.destination == Some(host)
                        && table == Table::MAIN
                };
                if is_before(PRIORITY_TO_POD, &ours) && self.leads_in_elsewhere(rule, host, link) {
                    found.add(words(rule), sent_to(subject.address), author_of_rule(rule));
                }
            }
            if let Some(names_it) = self.matches_from(rule, subject) {
                let (priority, link) = subject.from;
                let ours = |it: &Rule| {
                    (priority == PRIORITY_MAIN && it.table == Table::MAIN)
                        || (it.protocol == Protocol::OURS && it.source == Some(host))
                };
                if is_before(priority, &ours) && self.leads_out_elsewhere(rule, link, names_it) {
                    found.add(words(rule), sent_by(subject.address), author_of_rule(rule));
                }
            }
        }
    }

    /// Returns whether a rule matches what is sent to an address, or some of it if it names the address.
    fn matches_to(&self, rule: &Rule, host: IpNet) -> bool {
        let to_it = rule.destination.is_none_or(|net| net.contains(&host.addr()));
        let by_an_eni = rule.input.as_ref().is_none_or(|name| self.outer.contains(&**name));
        let all = !takes_some(rule) && rule.source.is_none() && by_an_eni;
        if rule.inverted {
            let from_outside = rule.source.is_none_or(covers_outside);
            return !rule.more && (takes_some(rule) || !from_outside || !to_it || !by_an_eni);
        }
        to_it && (all || rule.destination == Some(host))
    }

    /// Returns whether a rule matches what an address sends to outside, and whether it names the address or its link. Such a
    /// rule counts also if it matches some packets only.
    fn matches_from(&self, rule: &Rule, subject: &Subject) -> Option<bool> {
        let by_its_link = match (&rule.input, subject.to) {
            (Some(name), Some((_, link))) => **name == *self.name(link),
            _ => false,
        };
        let from_it = rule.source.is_none_or(|net| net.contains(&subject.address));
        let to_outside = rule.destination.is_none_or(covers_outside);
        if rule.inverted {
            let by_another = rule.input.is_some() && !by_its_link;
            let matches = takes_some(rule) || !from_it || !to_outside || by_another;
            return (matches && !rule.more).then_some(false);
        }
        let names_it = by_its_link || rule.source == Some(IpNet::from(subject.address));
        let all = !takes_some(rule) && rule.input.is_none() && to_outside;
        (from_it && (names_it || all)).then_some(names_it)
    }

    /// Returns whether a rule leads what is sent to an address elsewhere than over a link.
    fn leads_in_elsewhere(&self, rule: &Rule, host: IpNet, link: LinkIndex) -> bool {
        match (rule.action, rule.table) {
            (RuleAction::Refuse, _) => true,
            (RuleAction::Other, _) | (RuleAction::Lookup, Table::MAIN | Table::LOCAL) => false,
            (RuleAction::Lookup, table) => {
                let entries = self.tables.get(&table).into_iter().flatten();
                let covering = entries.filter(|entry| entry.route.destination.contains(&host));
                let taken = covering.max_by_key(|entry| entry.route.destination.prefix_len());
                match taken {
                    Some(entry) => !leads_over(entry, link),
                    // It is there to divert it as soon as there is a route.
                    None => rule.destination == Some(host),
                }
            }
        }
    }

    /// Returns whether a rule leads what is sent to outside, or to anywhere, elsewhere than over a link.
    fn leads_out_elsewhere(&self, rule: &Rule, link: LinkIndex, to_anywhere: bool) -> bool {
        match (rule.action, rule.table) {
            (RuleAction::Refuse, _) => true,
            (RuleAction::Other, _) | (RuleAction::Lookup, Table::LOCAL) => false,
            (RuleAction::Lookup, Table::MAIN) => {
                self.primary.is_some_and(|primary| primary != link)
            }
            (RuleAction::Lookup, table) => {
                let entries = self.tables.get(&table).into_iter().flatten();
                let covers = |net: IpNet| to_anywhere || covers_outside(net);
                let mut taken = entries.filter(|entry| covers(entry.route.destination)).peekable();
                match taken.peek() {
                    Some(_) => taken.any(|entry| !leads_over(entry, link)),
                    None => to_anywhere,
                }
            }
        }
    }

    fn of_routes(&self, found: &mut Found) {
        self.of_main(found);
        for eni in self.node.enis.values() {
            let Ok(link) = link_by_mac(&self.actual.links, eni.mac) else { continue };
            let table = self.node.table_of(eni, Some(link.id.index), self.actual).table;
            let Some(entries) = self.tables.get(&table).filter(|_| table != Table::MAIN) else {
                continue;
            };
            for entry in entries {
                let to = entry.route.destination;
                if self.is_foreign_route(entry) && !leads_over(entry, link.id.index) {
                    let what = if to.prefix_len() == 0 {
                        format!("what {} and its pods send", eni.eni)
                    } else {
                        format!("what {} and its pods send to {to}", eni.eni)
                    };
                    self.add_route(found, entry, what);
                }
            }
        }
    }

    /// In main, routes to pods, and those by which the primary ENI's packets leave.
    fn of_main(&self, found: &mut Found) {
        let Some(entries) = self.tables.get(&Table::MAIN) else { return };
        let pods: BTreeMap<IpNet, LinkIndex> = self
            .subjects
            .iter()
            .filter_map(|subject| Some((IpNet::from(subject.address), subject.to?.1)))
            .collect();
        let families: BTreeSet<Family> =
            self.subjects.iter().map(|subject| Family::of(subject.address)).collect();
        for entry in entries.iter().filter(|entry| self.is_foreign_route(entry)) {
            let to = entry.route.destination;
            if let Some(link) = pods.get(&to) {
                // The kernel's own comes with an address on a link, which is reported.
                if !leads_over(entry, *link) && entry.route.protocol != Protocol::KERNEL {
                    self.add_route(found, entry, sent_to(to.addr()));
                }
            } else if let Some(primary) = self.primary
                && covers_outside(to)
                && families.contains(&Family::of(to.addr()))
                && !leads_over(entry, primary)
            {
                self.add_route(found, entry, "what leaves by the primary ENI".to_owned());
            }
        }
    }

    /// Returns whether a route is another program's and stays once all differences are put right.
    fn is_foreign_route(&self, entry: &RouteEntry) -> bool {
        let route = &entry.route;
        let is_replaced = self.missing.contains(&(route.table, route.destination, route.metric));
        route.protocol != Protocol::OURS && !is_replaced
    }

    fn add_route(&self, found: &mut Found, entry: &RouteEntry, diverts: String) {
        let route = &entry.route;
        let dev = match entry.leads {
            Leads::Over(link) => format!(" dev {}", self.name(link)),
            Leads::Here | Leads::Nowhere | Leads::Back | Leads::Otherwise => String::new(),
        };
        let object = format!("route {entry}{dev} {}", route.protocol);
        found.add(object, diverts, author_of(route.protocol));
    }

    fn name(&self, link: LinkIndex) -> &str {
        let link = self.actual.links.iter().find(|it| it.id.index == link);
        link.map_or("?", |link| &link.id.name)
    }
}

/// Returns of each destination the entry that the kernel takes.
fn deciding<'a>(entries: &[&'a RouteEntry]) -> Vec<&'a RouteEntry> {
    let mut best: BTreeMap<IpNet, &RouteEntry> = BTreeMap::new();
    for entry in entries {
        let taken = best.entry(entry.route.destination).or_insert(entry);
        if entry.route.metric < taken.route.metric {
            *taken = entry;
        }
    }
    best.into_values().collect()
}

/// Returns whether a rule takes some packets only, by other conditions than their addresses and links.
fn takes_some(rule: &Rule) -> bool {
    let by_mark = rule.mark.is_some_and(|mark| mark.value & mark.mask != 0);
    rule.more || rule.carries.is_some() || by_mark
}

fn words(rule: &Rule) -> String {
    format!("rule {rule} {}", rule.protocol)
}

fn leads_over(entry: &RouteEntry, link: LinkIndex) -> bool {
    // What leads back to the rules diverts nothing.
    entry.leads == Leads::Over(link) || entry.leads == Leads::Back
}

/// Returns whether a range is, or is a large part of, everything. A default route may be given as two halves.
fn covers_outside(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 8,
        IpNet::V6(net) => net.prefix_len() < 4 && net.addr() != core::net::Ipv6Addr::LOCALHOST,
    }
}

fn sent_to(address: IpAddr) -> String {
    format!("what is sent to {address}")
}

fn sent_by(address: IpAddr) -> String {
    format!("what {address} sends")
}

/// Returns who makes rules of that priority and protocol, as far as the numbers are known to be of a program.
fn author_of_rule(rule: &Rule) -> &'static str {
    match (rule.priority, rule.table.0) {
        (30_200..=30_499, _) => "nm-cloud-setup of NetworkManager",
        (5_210..=5_270, 52) => "Tailscale",
        (_, 51_820) => "wg-quick of WireGuard",
        (9 | 100 | 110..=112, 2_004 | 2_005 | 256..=512) => "Cilium",
        (10_000..=10_999, _) | (_, 10_000..=10_999) => "amazon-ec2-net-utils",
        _ => author_of(rule.protocol),
    }
}

fn author_of(protocol: Protocol) -> &'static str {
    match protocol.0 {
        0 => "an administrator's command or script",
        2 => "the kernel itself, or Cilium",
        3 => "an administrator's command or script, Calico, or amazon-vpc-cni-k8s",
        4 => "systemd-networkd, NetworkManager, or an administrator",
        9 => "a router's advertisement",
        12 => "BIRD, as Calico uses it",
        16 => "the DHCP client of systemd-networkd or NetworkManager",
        18 => "keepalived",
        80 => "Calico",
        11 | 42 | 186..=189 | 192 => "a routing daemon",
        _ => "not known",
    }
}
