//! The node's own network: the mark rule, and address translation.

use ipnet::IpNet;
use vpc_ipam_core::Metadata;

use crate::eni::link;
use crate::programs::{Family, Place, fed, ip, ip_json, run, sysctl};
use crate::settings::Settings;

const SNAT: &str = "AWS-SNAT-CHAIN-0";
const CONNMARK: &str = "AWS-CONNMARK-CHAIN-0";

/// Does what the init container and the start of the daemon do.
pub(crate) fn set_up(settings: &Settings, metadata: &Metadata) -> Result<(), String> {
    let is_primary = |eni: &&vpc_ipam_core::ObservedEni| eni.id == metadata.node.primary;
    let primary = metadata.observation.enis.iter().find(is_primary).ok_or("no primary ENI")?;
    let primary = link(primary)?;
    sysctl(Place::Here, &format!("net.ipv4.conf.{primary}.rp_filter"), "2")?;
    if settings.ipv6 {
        sysctl(Place::Here, "net.ipv6.conf.all.disable_ipv6", "0")?;
        sysctl(Place::Here, &format!("net.ipv6.conf.{primary}.accept_ra"), "2")?;
        sysctl(Place::Here, "net.ipv6.conf.all.forwarding", "1")?;
    }
    let mark = settings.mark;
    let family = if settings.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let mut lines = vec![
        format!("link set dev {primary} mtu {}", settings.eni_mtu),
        format!("rule del fwmark {mark:#x}/{mark:#x} lookup main pref 1024"),
    ];
    if settings.node_port || !settings.external_snat {
        lines.push(format!("rule add fwmark {mark:#x}/{mark:#x} lookup main pref 1024"));
    }
    ip(Place::Here, family, &lines)?;
    if settings.ipv6 {
        return block_node_local(settings);
    }
    let ranges: Vec<IpNet> = metadata.vpc_ipv4_cidrs.iter().copied().map(IpNet::V4).collect();
    if ranges.is_empty() {
        return Err("the VPC has no range".to_owned());
    }
    let own = metadata.primary_ipv4.ok_or("the node has no address")?.to_string();
    snat(settings, &ranges, &own)?;
    mangle(settings, &primary)?;
    remove_old_chains()?;
    connmark(settings, &ranges)?;
    services(settings)
}

/// In IPv6 clusters pods have addresses of the other family that are for the node alone.
fn block_node_local(settings: &Settings) -> Result<(), String> {
    if !settings.v4_egress {
        return Ok(());
    }
    let rule = ["-d", "169.254.172.0/22", "-m", "conntrack", "--ctstate", "NEW", "-m", "comment"];
    let comment = ["--comment", "Block Node Local Pod access via IPv4", "-j", "REJECT"];
    let rule: Vec<&str> = rule.into_iter().chain(comment).collect();
    if has_rule("filter", "FORWARD", &rule) {
        return Ok(());
    }
    let head = ["-w", "-t", "filter", "-I", "FORWARD", "1"];
    run("iptables", &head.into_iter().chain(rule).collect::<Vec<_>>()).map(drop)
}

/// Ranges that are reached by the primary ENI.
fn services(settings: &Settings) -> Result<(), String> {
    let rules = ip_json(Place::Here, "rule show pref 1535")?;
    let mut lines: Vec<String> = rules.iter().map(|_| "rule del pref 1535".to_owned()).collect();
    let added = settings.service_cidrs.iter();
    lines.extend(added.map(|range| format!("rule add to {range} lookup main pref 1535")));
    ip(Place::Here, Family::Ipv4, &lines)
}

/// What a chain of ranges that are left alone holds, in the order in which the daemon makes it.
struct Ranges<'a> {
    chain: &'static str,
    comment: &'static str,
    ranges: &'a [IpNet],
}

impl Ranges<'_> {
    /// Returns the lines as `-S` prints them, last range first, since each is inserted at the head.
    fn lines(&self) -> Vec<String> {
        let line = |range: &IpNet| {
            let to = if range.prefix_len() == 0 { String::new() } else { format!("-d {range} ") };
            format!("-A {} {to}-m comment --comment \"{}\" -j RETURN", self.chain, self.comment)
        };
        self.ranges.iter().map(line).collect()
    }

    /// Makes the chain hold these ranges, and after them one rule more. What the daemon does not know goes.
    fn reconcile(&self, more: &[&Self], last: &str) -> Result<(), String> {
        let present = chain(self.chain)?;
        let wanted: Vec<String> =
            self.lines().into_iter().chain(more.iter().flat_map(|more| more.lines())).collect();
        for line in present.iter().filter(|line| !wanted.contains(line)) {
            iptables(&line.replacen("-A ", "-D ", 1))?;
        }
        for line in wanted.iter().filter(|line| !present.contains(line)) {
            let head = format!("-A {} ", self.chain);
            iptables(&line.replacen(&head, &format!("-I {} 1 ", self.chain), 1))?;
        }
        // Which joins the wanted lines only after the comparison, so it goes and comes at each pass.
        iptables(&format!("-A {} {last}", self.chain))
    }
}

fn snat(settings: &Settings, ranges: &[IpNet], own: &str) -> Result<(), String> {
    make_chain(SNAT)?;
    let jump = format!("-A POSTROUTING -m comment --comment \"AWS SNAT CHAIN\" -j {SNAT}");
    if settings.external_snat {
        remove("POSTROUTING", &jump)?;
        return iptables(&format!("-F {SNAT}"));
    }
    ensure("POSTROUTING", &jump)?;
    let ours = Ranges { chain: SNAT, comment: "AWS SNAT CHAIN", ranges };
    let excluded =
        Ranges { chain: SNAT, comment: "AWS SNAT CHAIN EXCLUSION", ranges: &settings.excluded };
    let last = format!(
        "! -o vlan+ -m comment --comment \"AWS, SNAT\" -m addrtype ! --dst-type LOCAL -j SNAT --to-source {own}{}",
        settings.random
    );
    ours.reconcile(&[&excluded], &last)
}

fn mangle(settings: &Settings, primary: &str) -> Result<(), String> {
    let mark = format!("{:#x}", settings.mark);
    let prefix = format!("{}+", settings.veth_prefix);
    let rule = |input: &str, rest: &[&str]| -> Vec<String> {
        let head = ["-m", "comment", "--comment", "AWS, primary ENI", "-i", input];
        head.iter().chain(rest).map(|word| (*word).to_owned()).collect()
    };
    let set = format!("{mark}/{mark}");
    let restore = ["-j", "CONNMARK", "--restore-mark", "--mask", &mark];
    let local = ["-m", "addrtype", "--dst-type", "LOCAL", "--limit-iface-in"];
    let mark_it = ["-j", "CONNMARK", "--set-mark", &set];
    let mark_local: Vec<&str> = local.into_iter().chain(mark_it).collect();
    let rules = [
        (settings.node_port, rule(primary, &mark_local)),
        (settings.node_port || !settings.external_snat, rule(&prefix, &restore)),
        (settings.node_port, rule("vlan+", &restore)),
    ];
    for (wanted, rule) in rules {
        let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
        let operation = match (wanted, has_rule("mangle", "PREROUTING", &rule)) {
            (true, false) => "-A",
            (false, true) => "-D",
            _ => continue,
        };
        let head = ["-w", "-t", "mangle", operation, "PREROUTING"];
        run("iptables", &head.into_iter().chain(rule).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Chains of releases before 1.16.2, which are empty by now.
fn remove_old_chains() -> Result<(), String> {
    let chains = run("iptables", &["-w", "-t", "nat", "-S"])?;
    let names = chains.lines().filter_map(|line| line.strip_prefix("-N "));
    for name in names.filter(|name| name.starts_with("AWS-SNAT-CHAIN-") && *name != SNAT) {
        iptables(&format!("-F {name}"))?;
        iptables(&format!("-X {name}"))?;
    }
    Ok(())
}

fn connmark(settings: &Settings, ranges: &[IpNet]) -> Result<(), String> {
    if settings.external_snat {
        remove_table()?;
        return remove_connmark_chain();
    }
    let all: Vec<IpNet> = ranges.iter().chain(&settings.excluded).copied().collect();
    if settings.nft_connmark {
        connmark_table(settings, &all)?;
        return remove_connmark_chain();
    }
    let mark = settings.mark;
    make_chain(CONNMARK)?;
    let jump = format!(
        "-A PREROUTING -i {}+ -m comment --comment \"AWS, outbound connections\" -j {CONNMARK}",
        settings.veth_prefix
    );
    ensure("PREROUTING", &jump)?;
    let present = chain("PREROUTING")?;
    for line in present.iter().filter(|line| line.contains("\"AWS, CONNMARK\"")) {
        iptables(&line.replacen("-A ", "-D ", 1))?;
    }
    iptables(&format!(
        "-A PREROUTING -m comment --comment \"AWS, CONNMARK\" -j CONNMARK --restore-mark --mask {mark:#x}"
    ))?;
    let ranges = Ranges { chain: CONNMARK, comment: "AWS CONNMARK CHAIN", ranges: &all };
    let last = format!(
        "-m comment --comment \"AWS, CONNMARK\" -j CONNMARK --set-xmark {mark:#x}/{mark:#x}"
    );
    ranges.reconcile(&[], &last)?;
    remove_table()
}

fn connmark_table(settings: &Settings, ranges: &[IpNet]) -> Result<(), String> {
    let (mark, prefix) = (settings.mark, &settings.veth_prefix);
    let returns: String = ranges
        .iter()
        .map(|range| format!("add rule ip aws-cni snat-mark counter ip daddr {range} return\n"))
        .collect();
    // Rules that are as they should be stay; here all are made anew, in one transaction as there.
    let text = format!(
        "add table ip aws-cni\n\
         add chain ip aws-cni snat-mark\n\
         add chain ip aws-cni nat-prerouting {{ type nat hook prerouting priority -90; policy accept; }}\n\
         flush chain ip aws-cni nat-prerouting\n\
         flush chain ip aws-cni snat-mark\n\
         add rule ip aws-cni nat-prerouting fib daddr type local return\n\
         add rule ip aws-cni nat-prerouting iifname \"{prefix}*\" counter jump snat-mark\n\
         add rule ip aws-cni nat-prerouting counter meta mark set ct mark and {mark:#x}\n\
         {returns}\
         add rule ip aws-cni snat-mark counter ct mark set ct mark or {mark:#x}\n"
    );
    fed("nft", &["-f", "-"], &text).map(drop)
}

fn remove_table() -> Result<(), String> {
    // A kernel without nft has no table of it.
    let tables = run("nft", &["list", "tables"]).unwrap_or_default();
    if tables.lines().any(|line| line == "table ip aws-cni") {
        fed("nft", &["-f", "-"], "delete table ip aws-cni\n")?;
    }
    Ok(())
}

fn remove_connmark_chain() -> Result<(), String> {
    let all = run("iptables", &["-w", "-t", "nat", "-S"])?;
    for line in all.lines().filter(|line| line.starts_with("-A PREROUTING ")) {
        if line.contains("\"AWS, outbound connections\"") || line.contains("\"AWS, CONNMARK\"") {
            iptables(&line.replacen("-A ", "-D ", 1))?;
        }
    }
    if all.lines().any(|line| line == format!("-N {CONNMARK}")) {
        iptables(&format!("-F {CONNMARK}"))?;
        iptables(&format!("-X {CONNMARK}"))?;
    }
    Ok(())
}

fn make_chain(name: &str) -> Result<(), String> {
    if run("iptables", &["-w", "-t", "nat", "-S", name]).is_ok() {
        return Ok(());
    }
    iptables(&format!("-N {name}"))
}

/// Returns the rules of a chain of nat.
fn chain(name: &str) -> Result<Vec<String>, String> {
    let listed = run("iptables", &["-w", "-t", "nat", "-S", name])?;
    Ok(listed.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect())
}

fn ensure(name: &str, line: &str) -> Result<(), String> {
    if chain(name)?.iter().any(|there| there == line) { Ok(()) } else { iptables(line) }
}

fn remove(name: &str, line: &str) -> Result<(), String> {
    let there = chain(name)?;
    if there.iter().any(|it| it == line) {
        iptables(&line.replacen("-A ", "-D ", 1))?;
    }
    Ok(())
}

fn has_rule(table: &str, chain: &str, rule: &[&str]) -> bool {
    let head = ["-w", "-t", table, "-C", chain];
    run("iptables", &head.iter().chain(rule).copied().collect::<Vec<_>>()).is_ok()
}

/// Carries out a command on nat that is written as `-S` prints it.
fn iptables(line: &str) -> Result<(), String> {
    let mut words: Vec<&str> = vec!["-w", "-t", "nat"];
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part);
        } else {
            words.extend(part.split_whitespace());
        }
    }
    run("iptables", &words).map(drop)
}
