//! What amazon-vpc-cni-k8s was set to, read off what it left in the kernel.

mod nft;
#[cfg(test)]
mod tests;

use core::net::Ipv4Addr;
use core::num::NonZeroU32;
use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};

use super::listing::{comment, is_chain, target, words};
use crate::datapath::numbering::{PRIORITY_MARK, PRIORITY_SERVICE};
use crate::{Family, Protocol, Rule, SnatPorts, Table};

/// What the programs list of a namespace's address translation, where there may be something of amazon-vpc-cni-k8s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsCniListing {
    /// What `iptables-save` prints of IPv4, behind the kind of iptables that prints it: `iptables-nft` or `iptables-legacy`.
    pub iptables: Vec<(String, String)>,
    /// What nft lists of the table `ip aws-cni`, if there is one.
    pub nft: Option<String>,
    /// What is there and cannot be listed, and why.
    pub unlisted: Vec<String>,
}

/// What something was set to: what was seen of it, each with where. No value where nothing tells, several where what was seen
/// contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evident<T> {
    /// Different values, each with the first that shows it, in words.
    pub values: Vec<(T, String)>,
}

impl<T> Default for Evident<T> {
    fn default() -> Self {
        Self { values: Vec::new() }
    }
}

impl<T: PartialEq> Evident<T> {
    /// Takes in what shows a value.
    pub fn add(&mut self, value: T, evidence: impl Into<String>) {
        if !self.values.iter().any(|(known, _)| *known == value) {
            self.values.push((value, evidence.into()));
        }
    }

    /// Returns the value, if all that was seen agrees.
    pub fn value(&self) -> Option<&T> {
        match &self.values[..] {
            [(value, _)] => Some(value),
            _ => None,
        }
    }

    /// Returns whether what was seen contradicts itself.
    pub fn is_contradictory(&self) -> bool {
        self.values.len() > 1
    }
}

/// What amazon-vpc-cni-k8s was set to, as far as its rules tell: those of the routing policy, of iptables of both kinds and of nftables, in
/// the layouts of all versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsCniSettings {
    /// The bits by which it marks connections: `AWS_VPC_K8S_CNI_CONNMARK`.
    pub mark: Evident<NonZeroU32>,
    /// How the names of pods' links begin: `AWS_VPC_K8S_CNI_VETHPREFIX`.
    pub veth_prefix: Evident<String>,
    /// Whether it leaves address translation to another machine: `AWS_VPC_K8S_CNI_EXTERNALSNAT`.
    pub external_snat: Evident<bool>,
    /// How source ports are chosen: `AWS_VPC_K8S_CNI_RANDOMIZESNAT`.
    pub snat_ports: Evident<SnatPorts>,
    /// The address that pods have outside of the VPC.
    pub snat_address: Evident<Ipv4Addr>,
    /// The ranges of the VPC.
    pub vpc_cidrs: BTreeSet<Ipv4Net>,
    /// Ranges that are not translated although they are not the VPC's, each with its rule: `AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS`.
    pub excluded_cidrs: Vec<(Ipv4Net, String)>,
    /// Ranges that are reached by the primary ENI, each with its rule: `AWS_EXTERNAL_SERVICE_CIDRS`.
    pub service_cidrs: Vec<(Ipv4Net, String)>,
    /// Whether NodePorts lead to pods on secondary ENIs: `AWS_VPC_CNI_NODE_PORT_SUPPORT`.
    pub node_port: Evident<bool>,
    /// The link of the primary ENI.
    pub primary_link: Evident<String>,
    /// Where connections are marked: `nftables`, `iptables-nft`, `iptables-legacy`.
    pub connmark: Vec<String>,
    /// Whether pods have IPv6 addresses: `ENABLE_IPv6`.
    pub ipv6: Evident<bool>,
    /// What is in its chains and belongs to another program, or is of a form that no version makes.
    pub odd: Vec<String>,
    /// What contradicts itself beside the values above.
    pub contradictions: Vec<String>,
}

impl AwsCniSettings {
    /// Reads them. The rules are those of the routing policy of both families.
    pub fn read(listing: &AwsCniListing, rules: &[Rule]) -> Self {
        let mut reader = Reader::default();
        rules.iter().for_each(|rule| reader.policy_rule(rule));
        for (kind, text) in &listing.iptables {
            reader.iptables(kind, text);
        }
        if let Some(text) = &listing.nft {
            reader.nft(text);
        }
        reader.finish()
    }

    /// Returns whether there is anything of it at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What of one kind of iptables translates addresses. The kinds are looked at one by one, since a packet meets the rules of both.
#[derive(Default)]
struct Translation {
    /// The rules that lead to its chains.
    jumps: Vec<String>,
    /// The last rules.
    translates: Vec<String>,
    /// Its chains for translation, whatever is in them.
    chains: Vec<String>,
    /// Whether these have ranges of the VPC.
    has_ranges: bool,
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    found: AwsCniSettings,
    /// What translates addresses, by kind of iptables.
    kinds: Vec<Translation>,
    /// Ranges whose connections are not marked, by place.
    unmarked: Vec<(String, BTreeSet<Ipv4Net>)>,
    /// Whether there are rules that it makes for NodePorts or for pods on secondary ENIs.
    mangles: Vec<String>,
}

impl Reader {
    fn policy_rule(&mut self, rule: &Rule) {
        let is_its = rule.protocol == Protocol::UNSPECIFIED && rule.is_plain();
        if !is_its || rule.table != Table::MAIN || rule.source.is_some() || rule.input.is_some() {
            return;
        }
        match (rule.priority, rule.mark, rule.destination) {
            (PRIORITY_MARK, Some(mark), None) if mark.value == mark.mask => {
                if let Some(mark) = NonZeroU32::new(mark.value) {
                    self.found.mark.add(mark, format!("rule {rule}"));
                    if rule.family == Family::Ipv6 {
                        self.found.ipv6.add(true, format!("rule {rule} of IPv6"));
                    }
                }
            }
            (PRIORITY_SERVICE, None, Some(IpNet::V4(cidr))) => {
                self.found.service_cidrs.push((cidr, format!("rule {rule}")));
            }
            _ => {}
        }
    }

    fn iptables(&mut self, kind: &str, saved: &str) {
        let mut table = "";
        self.kinds.push(Translation::default());
        let mut unmarked = BTreeSet::new();
        let mut marks = false;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let chain = chain.split(' ').next().unwrap_or_default();
                if table == "nat" && is_chain(chain) && chain.starts_with("AWS-SNAT") {
                    self.kind().chains.push(format!("chain {chain} of {kind}"));
                }
            } else if let Some(text) = line.strip_prefix("-A ") {
                let rule = SavedRule::read(kind, table, text);
                match (table, rule.chain.as_str()) {
                    ("nat", chain) if is_chain(chain) && chain.starts_with("AWS-SNAT") => {
                        self.snat_rule(&rule);
                    }
                    ("nat", chain) if is_chain(chain) => {
                        marks = true;
                        self.connmark_rule(&rule, &mut unmarked);
                    }
                    ("nat", "POSTROUTING") => self.of_postrouting(&rule),
                    ("nat", "PREROUTING") => self.of_nat_prerouting(&rule),
                    ("mangle", "PREROUTING") => self.of_mangle(&rule),
                    ("filter", "FORWARD") => self.of_forward(&rule),
                    _ => {}
                }
            }
        }
        if marks {
            self.found.connmark.push(kind.to_owned());
            self.unmarked.push((kind.to_owned(), unmarked));
        }
    }

    /// Returns what the kind has that is being read.
    fn kind(&mut self) -> &mut Translation {
        self.kinds.last_mut().expect("each listing begins with one")
    }

    fn of_postrouting(&mut self, rule: &SavedRule) {
        match rule.comment.as_deref() {
            Some("AWS SNAT CHAIN" | "AWS SNAT CHAN") => {
                self.kind().jumps.push(rule.words_for_people())
            }
            // Of versions that had no chains.
            Some("AWS, SNAT") => self.snat(rule),
            _ => {}
        }
    }

    /// Takes in a rule of a chain for translation. Of old there was a chain a range, which led what is not in the range to the next.
    fn snat_rule(&mut self, rule: &SavedRule) {
        let leads_on = rule.target.as_deref().is_some_and(is_chain);
        match (rule.target.as_deref(), rule.option("--to-source")) {
            (Some("SNAT"), Some(_)) if rule.comment.as_deref() == Some("AWS, SNAT") => {
                self.snat(rule);
            }
            (Some("RETURN"), _) if !rule.inverted && rule.is_of_range_alone() => self.range(rule),
            (Some(_), _) if leads_on && rule.inverted && rule.is_of_range_alone() => {
                self.range(rule)
            }
            _ => self.found.odd.push(rule.words_for_people()),
        }
    }

    fn range(&mut self, rule: &SavedRule) {
        let Some(cidr) = rule.range else { return };
        // `EXCLUSION`, of old `EXCLUDED CIDR`; programs of operators add words of their own behind.
        let excluded = rule.comment.as_deref().is_some_and(|it| it.contains("EXCLU"));
        if !excluded {
            self.kind().has_ranges = true;
            self.found.vpc_cidrs.insert(cidr);
        } else if !self.found.excluded_cidrs.iter().any(|(known, _)| *known == cidr) {
            self.found.excluded_cidrs.push((cidr, rule.words_for_people()));
        }
    }

    fn snat(&mut self, rule: &SavedRule) {
        let evidence = rule.words_for_people();
        if let Some(address) = rule.option("--to-source").and_then(|it| it.parse().ok()) {
            self.found.snat_address.add(address, &*evidence);
        }
        let ports = if rule.words.iter().any(|it| it == "--random-fully") {
            SnatPorts::FullyRandom
        } else if rule.words.iter().any(|it| it == "--random") {
            SnatPorts::Random
        } else {
            SnatPorts::Kept
        };
        self.found.snat_ports.add(ports, &*evidence);
        // `! -d` of the rule itself, where there are no chains.
        if rule.inverted
            && let Some(cidr) = rule.range
        {
            self.found.vpc_cidrs.insert(cidr);
        }
        self.kind().translates.push(evidence);
    }

    fn connmark_rule(&mut self, rule: &SavedRule, unmarked: &mut BTreeSet<Ipv4Net>) {
        let leads_on = rule.target.as_deref().is_some_and(is_chain);
        match rule.target.as_deref() {
            Some("CONNMARK") => self.mark(rule),
            Some("RETURN") if !rule.inverted && rule.is_of_range_alone() => {
                unmarked.extend(rule.range);
            }
            Some(_) if leads_on && rule.inverted && rule.is_of_range_alone() => {
                unmarked.extend(rule.range);
            }
            _ => self.found.odd.push(rule.words_for_people()),
        }
    }

    fn of_nat_prerouting(&mut self, rule: &SavedRule) {
        match rule.comment.as_deref() {
            Some("AWS, outbound connections") => self.input(rule),
            Some("AWS, CONNMARK") => self.mark(rule),
            _ => {}
        }
    }

    fn of_mangle(&mut self, rule: &SavedRule) {
        if rule.comment.as_deref() != Some("AWS, primary ENI") {
            return;
        }
        self.mangles.push(rule.words_for_people());
        self.mark(rule);
        if rule.words.iter().any(|it| it == "--restore-mark") {
            self.input(rule);
        } else if let Some(link) = rule.option("-i") {
            let evidence = rule.words_for_people();
            self.found.node_port.add(true, &*evidence);
            self.found.primary_link.add(link.to_owned(), evidence);
        }
    }

    fn of_forward(&mut self, rule: &SavedRule) {
        if rule.comment.as_deref() == Some("Block Node Local Pod access via IPv4") {
            self.found.ipv6.add(true, rule.words_for_people());
        }
    }

    /// Takes in the prefix of pods' links; `vlan` is that of branch ENIs.
    fn input(&mut self, rule: &SavedRule) {
        if let Some(prefix) = rule.option("-i").and_then(|it| it.strip_suffix('+'))
            && prefix != "vlan"
        {
            self.found.veth_prefix.add(prefix.to_owned(), rule.words_for_people());
        }
    }

    fn mark(&mut self, rule: &SavedRule) {
        let masks = ["--set-xmark", "--set-mark", "--nfmask", "--ctmask", "--mask"];
        for mask in masks.into_iter().filter_map(|option| rule.option(option)) {
            for part in mask.split('/') {
                if let Some(mark) = nft::number(part).and_then(NonZeroU32::new) {
                    self.found.mark.add(mark, rule.words_for_people());
                }
            }
        }
    }

    fn nft(&mut self, text: &str) {
        const PLACE: &str = "nftables table ip aws-cni";
        let table = nft::NftTable::read(text);
        for (mark, line) in table.marks {
            self.found.mark.add(mark, format!("{PLACE}: {line}"));
        }
        for (prefix, line) in table.prefixes {
            self.found.veth_prefix.add(prefix, format!("{PLACE}: {line}"));
        }
        let odd = table.odd.into_iter().map(|line| format!("{PLACE}: {line}"));
        self.found.odd.extend(odd);
        self.found.connmark.push("nftables".to_owned());
        self.unmarked.push((PLACE.to_owned(), table.ranges));
    }

    /// Draws conclusions, also from what is not there.
    fn finish(mut self) -> AwsCniSettings {
        for kind in core::mem::take(&mut self.kinds) {
            self.translation(&kind);
            self.kinds.push(kind);
        }
        if self.found.ipv6.values.is_empty() {
            self.conclude_from_absence();
        }
        self.compare_ranges();
        self.found
    }

    /// Concludes from one kind of iptables whether it translates.
    fn translation(&mut self, Translation { jumps, translates, chains, has_ranges }: &Translation) {
        let contradictions = &mut self.found.contradictions;
        let external = &mut self.found.external_snat;
        match (jumps.first(), translates.first(), chains.first()) {
            (_, Some(rule), None) => external.add(false, &**rule),
            (Some(jump), Some(_), Some(_)) => external.add(false, &**jump),
            (None, None, Some(chain)) if *has_ranges => contradictions.push(format!(
                "{chain} has ranges of the VPC and no rule \"AWS, SNAT\", and nothing leads there"
            )),
            (None, None, Some(chain)) if self.found.ipv6.values.is_empty() => {
                external.add(true, format!("{chain} is empty, and nothing leads there"));
            }
            (Some(jump), None, _) => contradictions.push(format!(
                "{jump} leads to a chain that has no rule \"AWS, SNAT\": connections of pods to outside are not translated"
            )),
            (None, Some(rule), Some(_)) => contradictions.push(format!(
                "{rule} is in a chain that no rule of POSTROUTING leads to: connections of pods to outside are not translated"
            )),
            (None, None, Some(_) | None) => {}
        }
    }

    /// Concludes from rules that are not there, where others are which show that it was here.
    ///
    /// It has the rule for marks if it translates, or if NodePorts are supported. Where that rule is alone, what belongs to it is lost.
    fn conclude_from_absence(&mut self) {
        let is_said = |seen: &Evident<bool>| !seen.values.is_empty();
        let mangles = self.mangles.first().cloned();
        let marks = self.found.mark.values.first().map(|(_, evidence)| evidence.clone());
        if !is_said(&self.found.external_snat)
            && self.found.contradictions.is_empty()
            && let Some(seen) = &mangles
        {
            let evidence = format!("no rule of its translates addresses, and it was here: {seen}");
            self.found.external_snat.add(true, evidence);
        }
        let external = self.found.external_snat.value().copied();
        let Some(seen) = mangles.or(marks) else { return };
        if is_said(&self.found.node_port) {
            return;
        }
        if external == Some(false) {
            let evidence = format!(
                "no rule of its marks what comes in by the primary ENI, and it was here: {seen}"
            );
            self.found.node_port.add(false, evidence);
        } else if self.found.contradictions.is_empty() {
            self.found.contradictions.push(format!(
                "{seen} belongs to rules that translate, or that mark what comes in by the primary ENI, and neither are there: rules of iptables \
                 were removed"
            ));
        }
    }

    /// Compares the ranges that are not translated with those that are not marked.
    fn compare_ranges(&mut self) {
        if self.kinds.iter().all(|kind| kind.translates.is_empty()) {
            return;
        }
        let mut untranslated = self.found.vpc_cidrs.clone();
        untranslated.extend(self.found.excluded_cidrs.iter().map(|(cidr, _)| *cidr));
        let list =
            |of: Vec<&Ipv4Net>| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        for (place, unmarked) in &self.unmarked {
            let only_marked: Vec<_> = untranslated.difference(unmarked).collect();
            if !only_marked.is_empty() {
                self.found.contradictions.push(format!(
                    "connections to {} are not translated, and are marked in {place} as if they were",
                    list(only_marked)
                ));
            }
            let only_unmarked: Vec<_> = unmarked.difference(&untranslated).collect();
            if !only_unmarked.is_empty() {
                self.found.contradictions.push(format!(
                    "connections to {} are translated, and are not marked in {place}",
                    list(only_unmarked)
                ));
            }
        }
    }
}

/// A rule as `iptables-save` prints it.
struct SavedRule {
    kind: String,
    table: String,
    text: String,
    words: Vec<String>,
    chain: String,
    target: Option<String>,
    comment: Option<String>,
    /// The range of destinations: all of them where none is named.
    range: Option<Ipv4Net>,
    /// Whether it is about all but the range.
    inverted: bool,
}

impl SavedRule {
    fn read(kind: &str, table: &str, text: &str) -> Self {
        let words = words(text);
        let at = words.iter().position(|word| word == "-d");
        let range = match at {
            Some(at) => words.get(at + 1).and_then(|it| range(it)),
            None => Some(Ipv4Net::default()),
        };
        Self {
            kind: kind.to_owned(),
            table: table.to_owned(),
            text: text.to_owned(),
            chain: words.first().cloned().unwrap_or_default(),
            target: target(text),
            comment: comment(text),
            range,
            inverted: at.is_some_and(|at| at > 0 && words[at - 1] == "!"),
            words,
        }
    }

    fn option(&self, name: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == name)?;
        self.words.get(at + 1).map(String::as_str)
    }

    /// Returns whether it has no condition but the range: chain, range, comment and target.
    fn is_of_range_alone(&self) -> bool {
        let range = match (self.words.iter().any(|it| it == "-d"), self.inverted) {
            (true, true) => 3,
            (true, false) => 2,
            (false, _) => 0,
        };
        let comment = if self.comment.is_some() { 4 } else { 0 };
        self.range.is_some() && self.words.len() == 1 + range + comment + 2
    }

    fn words_for_people(&self) -> String {
        format!("{} table {}: -A {}", self.kind, self.table, self.text)
    }
}

fn range(text: &str) -> Option<Ipv4Net> {
    text.parse().ok().or_else(|| Some(Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?)))
}
