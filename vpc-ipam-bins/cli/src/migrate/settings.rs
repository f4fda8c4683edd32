//! The variables that vpc-ipamd has to have so that the node stays as amazon-vpc-cni-k8s left it, each with what shows it.

mod effect;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use vpc_ipam_linux::{Evident, HostConfig, SnatPorts, Table};

use super::old_daemon::EGRESS_PLUGIN;
use super::survey::kernel::prefix_of_link;
use super::{Given, Survey};

/// A variable, and what was seen of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Different values, each with what shows it. Several contradict each other.
    pub values: Vec<(String, String)>,
}

impl Setting {
    /// Returns the value, if all that was seen agrees.
    pub fn value(&self) -> Option<&str> {
        match &self.values[..] {
            [(value, _)] => Some(value),
            _ => None,
        }
    }
}

/// A variable that the operator sets otherwise than the node shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Its name.
    pub name: &'static str,
    /// What the operator says.
    pub given: String,
    /// What the node shows.
    pub derived: String,
    /// What shows it.
    pub evidence: String,
    /// What would become of traffic.
    pub effect: String,
}

/// A line of the environment to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What shows it, or who says so.
    pub evidence: String,
}

/// The variables that follow from what is on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// What was seen, in the order of the names.
    pub settings: Vec<Setting>,
    /// Lists of ranges of which it was seen that they are empty. They need no variable, and contradict what the operator sets.
    pub empty: Vec<Setting>,
}

impl Derived {
    /// Draws the conclusions.
    pub fn of(survey: &Survey) -> Self {
        let mut found = BTreeMap::new();
        let ipv6 = ipv6(survey);
        let of_ipv4 = ipv6.value() != Some(&true);
        take(&mut found, "ENABLE_IPv6", ipv6, |it| it.to_string());
        let settings = &survey.settings;
        take(&mut found, "AWS_VPC_K8S_CNI_CONNMARK", settings.mark.clone(), |it| {
            format!("{it:#x}")
        });
        take(&mut found, "AWS_VPC_K8S_CNI_VETHPREFIX", veth_prefix(survey), Clone::clone);
        // In IPv6 clusters it has no rules from which these could be read off.
        if of_ipv4 {
            take(&mut found, "AWS_VPC_CNI_NODE_PORT_SUPPORT", settings.node_port.clone(), |it| {
                it.to_string()
            });
            let external = settings.external_snat.clone();
            take(&mut found, "AWS_VPC_K8S_CNI_EXTERNALSNAT", external, |it| it.to_string());
            let ports = settings.snat_ports.clone();
            take(&mut found, "AWS_VPC_K8S_CNI_RANDOMIZESNAT", ports, |it| {
                ports_word(*it).to_owned()
            });
            let list = |cidrs: &[(ipnet::Ipv4Net, String)]| list(cidrs);
            take(
                &mut found,
                "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
                list(&settings.excluded_cidrs),
                Clone::clone,
            );
            take(
                &mut found,
                "AWS_EXTERNAL_SERVICE_CIDRS",
                list(&settings.service_cidrs),
                Clone::clone,
            );
        }
        let of_enis = eni_mtu(survey);
        take(&mut found, "POD_MTU", pod_mtu(survey, of_enis.value().copied()), ToString::to_string);
        take(&mut found, "AWS_VPC_ENI_MTU", of_enis, ToString::to_string);
        take(&mut found, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", custom_networking(survey), |it| {
            it.to_string()
        });
        take(&mut found, "ENABLE_PREFIX_DELEGATION", prefixes(survey), |it| it.to_string());
        of_plugins(survey, !of_ipv4, &mut found);
        let empty = empty_lists(survey, of_ipv4);
        Self { settings: found.into_values().collect(), empty }
    }

    /// Returns the settings of which the node shows several values, and the operator has said none of them.
    pub fn contradictions(&self, given: &Given) -> Vec<&Setting> {
        let open = |setting: &&Setting| {
            let said = given.vars.get(setting.name);
            let settled = said.is_some_and(|said| {
                setting.values.iter().any(|(value, _)| is_same(setting.name, said, value))
            });
            setting.values.len() > 1 && !settled
        };
        self.settings.iter().filter(open).collect()
    }

    /// Returns what the operator sets otherwise than the node shows.
    pub fn disagreements(&self, given: &Given) -> Vec<Disagreement> {
        let disagreement = |setting: &Setting| {
            let said = given.vars.get(setting.name)?;
            if setting.name == CUSTOM_NETWORKING && is_true(given.vars.get(SUBNET_DISCOVERY)) {
                return None;
            }
            let (derived, evidence) = match &setting.values[..] {
                [(value, evidence)] if !is_same(setting.name, said, value) => (value, evidence),
                _ => return None,
            };
            Some(Disagreement {
                name: setting.name,
                given: said.clone(),
                derived: derived.clone(),
                evidence: evidence.clone(),
                effect: effect::of(setting.name, said, derived),
            })
        };
        self.settings.iter().chain(&self.empty).filter_map(disagreement).collect()
    }

    /// Returns the environment to use: what the node shows, and what the operator says besides. What the operator says of a variable that the
    /// node shows too is in his words.
    pub fn environment(&self, given: &Given) -> Vec<Variable> {
        let mut variables: BTreeMap<&str, Variable> = BTreeMap::new();
        for setting in &self.settings {
            if let [(value, evidence)] = &setting.values[..] {
                let (name, value) = (setting.name.to_owned(), value.clone());
                let evidence = evidence.clone();
                variables.insert(setting.name, Variable { name, value, evidence });
            }
        }
        for (name, value) in &given.vars {
            let shown = variables.get(name.as_str()).map(|it| it.evidence.clone());
            let place = given.place(name);
            let evidence = shown.map_or(place.clone(), |shown| format!("{place}, and {shown}"));
            let variable = Variable { name: name.clone(), value: value.clone(), evidence };
            variables.insert(name, variable);
        }
        variables.into_values().collect()
    }
}

const CUSTOM_NETWORKING: &str = "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG";
/// Where pods are not on the primary ENI because its subnet is excluded, the node looks the same as with custom networking. An operator who says
/// that subnets are discovered says which of both it is.
const SUBNET_DISCOVERY: &str = "ENABLE_SUBNET_DISCOVERY";

/// Variables that leave no trace on a node.
pub const WITHOUT_TRACE: &str = "WARM_ENI_TARGET, WARM_IP_TARGET, MINIMUM_IP_TARGET, WARM_PREFIX_TARGET, MAX_ENI, ENABLE_PREFIX_DELEGATION, \
                                 ADDITIONAL_ENI_TAGS, CLUSTER_NAME, IP_COOLDOWN_PERIOD";

fn take<T>(
    found: &mut BTreeMap<&'static str, Setting>,
    name: &'static str,
    seen: Evident<T>,
    text: impl Fn(&T) -> String,
) {
    if !seen.values.is_empty() {
        let values = seen.values.iter().map(|(value, evidence)| (text(value), evidence.clone()));
        found.insert(name, Setting { name, values: values.collect() });
    }
}

/// Returns whether two values of a variable mean the same to vpc-ipamd.
fn is_same(name: &str, one: &str, other: &str) -> bool {
    let host = |value: &str| {
        let (mut config, _) = HostConfig::from_vars([(name, value)]);
        config.excluded_cidrs.sort();
        config.service_cidrs.sort();
        config
    };
    let boolean = |value: &str| is_true(Some(&value.to_owned()));
    match name {
        "AWS_VPC_ENI_MTU" => one.parse::<u16>().ok() == other.parse().ok(),
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG" | "ENABLE_IPv6" | "ENABLE_PREFIX_DELEGATION" => {
            boolean(one) == boolean(other)
        }
        _ => host(one) == host(other),
    }
}

/// Returns whether a variable is set to what Go takes for true.
fn is_true(value: Option<&String>) -> bool {
    value.is_some_and(|it| matches!(&**it, "1" | "t" | "T" | "TRUE" | "true" | "True"))
}

fn ports_word(ports: SnatPorts) -> &'static str {
    match ports {
        SnatPorts::Random => "hashrandom",
        SnatPorts::FullyRandom => "prng",
        SnatPorts::Kept => "none",
    }
}

/// Joins ranges as variables have them.
fn list(cidrs: &[(ipnet::Ipv4Net, String)]) -> Evident<String> {
    let mut seen = Evident::default();
    if let [(_, evidence), ..] = cidrs {
        let sorted: BTreeSet<_> = cidrs.iter().map(|(cidr, _)| cidr).collect();
        let text: Vec<String> = sorted.into_iter().map(ToString::to_string).collect();
        let more = cidrs.len() - 1;
        let evidence =
            if more == 0 { evidence.clone() } else { format!("{evidence}, and {more} more") };
        seen.add(text.join(","), evidence);
    }
    seen
}

/// Returns the lists of ranges that amazon-vpc-cni-k8s would have rules for, if they were not empty.
fn empty_lists(survey: &Survey, of_ipv4: bool) -> Vec<Setting> {
    let settings = &survey.settings;
    let empty = |name, evidence: String| Setting { name, values: vec![(String::new(), evidence)] };
    let mut lists = Vec::new();
    if of_ipv4
        && settings.excluded_cidrs.is_empty()
        && let [(false, evidence)] = &settings.external_snat.values[..]
    {
        let evidence = format!("{evidence}, where only ranges of the VPC are left out");
        lists.push(empty("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", evidence));
    }
    if of_ipv4
        && settings.service_cidrs.is_empty()
        && let [(_, evidence)] = &settings.mark.values[..]
    {
        let evidence = format!("there is no rule 1535, and {evidence}");
        lists.push(empty("AWS_EXTERNAL_SERVICE_CIDRS", evidence));
    }
    lists
}

fn ipv6(survey: &Survey) -> Evident<bool> {
    let mut seen = survey.settings.ipv6.clone();
    for entry in &survey.checkpoint.entries {
        if let Some(address) = entry.addresses().next() {
            seen.add(address.is_ipv6(), format!("{entry} has {address} in the checkpoint"));
        }
    }
    seen
}

/// Returns how the names of pods' links begin: as the configuration and the rules say. Links say it only where neither does, since they keep
/// their names when the setting changes.
fn veth_prefix(survey: &Survey) -> Evident<String> {
    let mut seen = survey.settings.veth_prefix.clone();
    if let Some((network, plugin)) = survey.old_network()
        && let Some(prefix) = plugin["vethPrefix"].as_str().filter(|it| !it.is_empty())
    {
        seen.add(prefix.to_owned(), format!("vethPrefix in {}", network.file));
    }
    if seen.values.is_empty() {
        for pod in survey.kernel.pod_routes(&[]) {
            if let Some(prefix) = prefix_of_link(&pod.link).filter(|it| *it != "vlan") {
                seen.add(prefix.to_owned(), format!("link {} leads to {}", pod.link, pod.address));
            }
        }
    }
    seen
}

fn eni_mtu(survey: &Survey) -> Evident<u32> {
    let mut seen = Evident::default();
    for name in survey.kernel.eni_links().values() {
        if let Some(link) = survey.kernel.link(name) {
            seen.add(link.mtu, format!("link {name} has MTU {}", link.mtu));
        }
    }
    seen
}

/// Returns the MTU of pods' links, where it is not that of ENIs: what the configuration says is what the next pod gets.
fn pod_mtu(survey: &Survey, of_enis: Option<u32>) -> Evident<u32> {
    let mut seen = Evident::default();
    let configured = survey.old_network().and_then(|(network, plugin)| {
        let mtu: u32 = text_or_number(&plugin["mtu"])?;
        Some((mtu, format!("mtu in {}", network.file)))
    });
    match configured {
        Some((mtu, evidence)) => seen.add(mtu, evidence),
        None => {
            for pod in survey.kernel.pod_routes(&[]) {
                let Some(link) = survey.kernel.link(&pod.link) else { continue };
                seen.add(link.mtu, format!("link {} of a pod has MTU {}", pod.link, link.mtu));
            }
        }
    }
    if seen.value().is_some_and(|mtu| Some(*mtu) == of_enis) { Evident::default() } else { seen }
}

/// Reads a number that stands in quotation marks or not.
fn text_or_number(value: &Value) -> Option<u32> {
    match value {
        Value::String(text) => text.parse().ok(),
        _ => value.as_u64()?.try_into().ok(),
    }
}

/// Returns whether pods have addresses of other subnets than the primary ENI's: where none of them is on the primary ENI, and no ENI that has
/// pods is in its subnet. Otherwise nothing tells.
fn custom_networking(survey: &Survey) -> Evident<bool> {
    let mut seen = Evident::default();
    let kernel = &survey.kernel;
    let enis = kernel.eni_links();
    let Some(primary) = enis.get(&Table::MAIN).map(|name| kernel.subnets(name)) else {
        return seen;
    };
    let pods = kernel.pod_routes(&[]);
    let tables: BTreeSet<Option<Table>> = pods
        .iter()
        .filter(|pod| pod.address.is_ipv4())
        .map(|pod| kernel.tables_from(pod.address).first().copied())
        .collect();
    let mut others = BTreeSet::new();
    for table in &tables {
        let subnets = table.and_then(|table| enis.get(&table)).map(|name| kernel.subnets(name));
        let Some(subnets) = subnets.filter(|subnets| !subnets.is_empty()) else { return seen };
        others.extend(subnets);
    }
    if !tables.is_empty() && primary.is_disjoint(&others) {
        let words = |subnets: &BTreeSet<ipnet::IpNet>| {
            subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let (own, others) = (words(&primary), words(&others));
        seen.add(
            true,
            format!("all pods are on ENIs in {others}, none on the primary one in {own}"),
        );
    }
    seen
}

/// Returns whether ENIs have prefixes, as the metadata service says. While a node changes from one to the other it has both, and nothing tells.
fn prefixes(survey: &Survey) -> Evident<bool> {
    let mut seen = Evident::default();
    let Some(metadata) = &survey.metadata else { return seen };
    let blocks = metadata.observation.enis.iter().flat_map(|eni| {
        eni.blocks.iter().filter(|it| it.addr().is_ipv4()).map(move |block| (&eni.id, block))
    });
    let (single, prefixes): (Vec<_>, Vec<_>) =
        blocks.partition(|(_, block)| block.prefix_len() == block.max_prefix_len());
    match (single.first(), prefixes.first()) {
        (None, Some((eni, block))) => seen.add(true, format!("{eni} has the prefix {block}")),
        (Some((eni, block)), None) => {
            seen.add(false, format!("{eni} has {block}, and no ENI a prefix"))
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    seen
}

/// Reads what the chained plugins of amazon-vpc-cni-k8s do and vpc-cni does itself.
fn of_plugins(survey: &Survey, of_ipv6: bool, found: &mut BTreeMap<&'static str, Setting>) {
    let Some((network, _)) = survey.old_network() else { return };
    for plugin in &network.plugins {
        let mut seen = Evident::default();
        match plugin["type"].as_str() {
            Some(EGRESS_PLUGIN) => {
                let enabled = plugin["enabled"] == "true" || plugin["enabled"] == true;
                seen.add(
                    enabled,
                    format!("egress-cni in {} is enabled: {}", network.file, plugin["enabled"]),
                );
                let name = if of_ipv6 { "ENABLE_V4_EGRESS" } else { "ENABLE_V6_EGRESS" };
                take(found, name, seen, |it| it.to_string());
            }
            Some("tuning") if plugin["sysctl"]["net.ipv6.conf.all.disable_ipv6"] == "1" => {
                seen.add(
                    true,
                    format!("tuning in {} sets net.ipv6.conf.all.disable_ipv6", network.file),
                );
                take(found, "DISABLE_POD_V6", seen, |it| it.to_string());
            }
            _ => {}
        }
    }
}
