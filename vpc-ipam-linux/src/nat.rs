//! The node's address translation: one nftables table of ours, replaced as a whole or not at all.

use core::fmt;
use core::fmt::Write as _;
use core::net::Ipv4Addr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ipnet::Ipv4Net;
use sha1::{Digest as _, Sha1};

use crate::nft::run;
use crate::{HostConfig, SnatPorts};

/// The rules that translate addresses, as text for nft; or that there should be none.
///
/// ```
/// use vpc_ipam_linux::{HostConfig, Nat};
///
/// let config = HostConfig { node_port: false, ..HostConfig::default() };
/// let nat = Nat::render(&config, "eth0", "10.0.0.10".parse()?, &["10.0.0.0/16".parse()?]);
/// assert!(nat.table().unwrap().contains("snat to 10.0.0.10 random"));
///
/// let config = HostConfig { external_snat: true, ..config };
/// assert_eq!(Nat::render(&config, "eth0", "10.0.0.10".parse()?, &[]), Nat::none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    table: Option<Arc<str>>,
}

/// What is there of the rules that translate addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatActual {
    /// No table of ours.
    Absent,
    /// A table of ours that is as nobody knows it: made in part, or changed by somebody else.
    Altered,
    /// A table of ours that is as it was made, from the text with this digest.
    Intact(NatDigest),
}

/// Tells the text of one table from another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatDigest(String);

const TABLE: &str = "ip vpc-ipam";

/// Marks a connection, in the hook that the first packet of each passes after kube-proxy chose a destination (-100).
const AFTER_DNAT: i32 = -90;

/// Lets translations that others ask for come first: kube-proxy's and portmap's are at 100.
const AFTER_SNAT: i32 = 110;

const MANGLE: i32 = -150;

impl Nat {
    /// Returns what is left of the rules when there should be none.
    pub fn none() -> Self {
        Self { table: None }
    }

    /// Writes the rules for a node whose primary ENI has the link and the address, in a VPC of these ranges.
    ///
    /// What leaves for elsewhere than the VPC, the ranges that the configuration excludes, or the node itself takes the
    /// address of the primary ENI, and so that the answers find back has to leave by that ENI: its connection is marked,
    /// and the mark leads to the main table. So does the mark of connections that came in by the primary ENI for a
    /// NodePort. What leaves by `vlan*` belongs to a branch ENI and stays as it is.
    pub fn render(
        config: &HostConfig,
        primary: &str,
        primary_ipv4: Ipv4Addr,
        vpc_cidrs: &[Ipv4Net],
    ) -> Self {
        let untranslated: Vec<_> =
            vpc_cidrs.iter().chain(&config.excluded_cidrs).copied().collect();
        let untranslated = Ipv4Net::aggregate(&untranslated);
        let everything = untranslated.iter().any(|net| net.prefix_len() == 0);
        let snat = !config.external_snat && !everything;
        let (mark, pods) = (config.mark, &config.veth_prefix);

        let mut chains = String::new();
        if snat {
            let ports = match config.snat_ports {
                SnatPorts::Random => " random",
                SnatPorts::FullyRandom => " fully-random",
                SnatPorts::Kept => "",
            };
            chains += &set("untranslated", &untranslated);
            chains += &chain(
                "translate",
                format_args!("nat hook postrouting priority {AFTER_SNAT}"),
                &[
                    r#"oifname "vlan*" return"#.to_owned(),
                    "fib daddr type local return".to_owned(),
                    "ip daddr @untranslated return".to_owned(),
                    format!("snat to {primary_ipv4}{ports}"),
                ],
            );
            chains += &chain(
                "mark-connections",
                format_args!("nat hook prerouting priority {AFTER_DNAT}"),
                &[
                    // The virtual addresses of IPVS are local; what is behind them is chosen later.
                    "fib daddr type local return".to_owned(),
                    format!(
                        r#"iifname "{pods}*" ip daddr != @untranslated ct mark set ct mark | {mark:#x}"#
                    ),
                    format!("ct mark & {mark:#x} == {mark:#x} meta mark set meta mark | {mark:#x}"),
                ],
            );
        }
        let restore = |prefix: &str| {
            format!(
                r#"iifname "{prefix}*" ct mark & {mark:#x} == {mark:#x} meta mark set meta mark | {mark:#x}"#
            )
        };
        let mut restores = Vec::new();
        if config.node_port {
            restores.push(format!(
                r#"iifname "{primary}" fib daddr . iif type local ct mark set ct mark | {mark:#x}"#
            ));
        }
        if config.node_port || !config.external_snat {
            restores.push(restore(pods.as_str()));
        }
        if config.node_port {
            restores.push(restore("vlan"));
        }
        if !restores.is_empty() {
            let hook = format_args!("filter hook prerouting priority {MANGLE}");
            chains += &chain("restore-marks", hook, &restores);
        }
        Self { table: (!chains.is_empty()).then(|| chains.into()) }
    }

    /// Returns the sets and chains of the table, if there should be one.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Returns whether what is there is what there should be.
    pub fn is(&self, actual: &NatActual) -> bool {
        match (&self.table, actual) {
            (None, NatActual::Absent) => true,
            (Some(table), NatActual::Intact(digest)) => digest.0 == digest_of(table),
            (None | Some(_), _) => false,
        }
    }

    /// Returns the script that makes it so in one transaction, whatever was there.
    pub fn script(&self) -> String {
        // To delete what may not be there, it is added first; the kernel sees the outcome alone.
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\n");
        if let Some(table) = &self.table {
            script += &format!("table {TABLE} {{\n{table}}}\n");
        }
        script
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.table {
            Some(table) => write!(f, "nftables table {TABLE} ({})", digest_of(table)),
            None => write!(f, "no nftables table {TABLE}"),
        }
    }
}

fn set(name: &str, elements: &[Ipv4Net]) -> String {
    let elements: Vec<_> = elements.iter().map(Ipv4Net::to_string).collect();
    format!(
        "\tset {name} {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = {{ {} }}\n\t}}\n",
        elements.join(", ")
    )
}

fn chain(name: &str, hook: fmt::Arguments<'_>, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n\t\ttype {hook}; policy accept;\n");
    for rule in rules {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\t\t{rule}");
    }
    text + "\t}\n"
}

/// The name of an empty chain that is added last. It tells from which text the table was made, and how nft listed the
/// table then. Whoever alters the table makes the two differ, and so does a new version of nft, which costs one
/// replacement.
const SEAL: &str = "sealed-";

/// Lists our table in the calling thread's namespace.
pub(crate) fn list(nft: &Path) -> io::Result<NatActual> {
    match run(nft, &["--stateless", "--numeric", "list", "table", "ip", "vpc-ipam"], "") {
        Ok(listing) => Ok(recognise(&listing)),
        // nft does not say in a way to rely on that a table is not there.
        Err(error) => {
            let tables = run(nft, &["list", "tables", "ip"], "")?;
            let there = tables.lines().any(|line| line.trim() == format!("table {TABLE}"));
            if there { Err(error) } else { Ok(NatActual::Absent) }
        }
    }
}

/// Replaces our table in the calling thread's namespace.
pub(crate) fn replace(nft: &Path, nat: &Nat) -> io::Result<()> {
    run(nft, &["--file", "-"], &nat.script())?;
    let Some(table) = &nat.table else {
        return Ok(());
    };
    let listing = run(nft, &["--stateless", "--numeric", "list", "table", "ip", "vpc-ipam"], "")?;
    let seal = format!("{SEAL}{}-{}", digest_of(table), digest_of(&without_seal(&listing).0));
    run(nft, &["--file", "-"], &format!("add chain {TABLE} {seal}\n")).map(drop)
}

fn recognise(listing: &str) -> NatActual {
    let (listing, seal) = without_seal(listing);
    match seal.and_then(|seal| seal.split_once('-')) {
        Some((text, listed)) if listed == digest_of(&listing) => {
            NatActual::Intact(NatDigest(text.to_owned()))
        }
        _ => NatActual::Altered,
    }
}

/// Returns a listing without the seal and without empty lines, and what the seal says.
fn without_seal(listing: &str) -> (String, Option<&str>) {
    let mut seal = None;
    let mut rest = String::with_capacity(listing.len());
    let mut lines = listing.lines().filter(|line| !line.trim().is_empty());
    while let Some(line) = lines.next() {
        let name = line.trim().strip_prefix("chain ").and_then(|rest| rest.strip_prefix(SEAL));
        match name.and_then(|name| name.strip_suffix(" {")) {
            Some(name) => {
                seal = Some(name);
                // An empty chain closes on the next line; a rule in it would be somebody else's, and is kept.
                if let Some(next) = lines.next().filter(|next| next.trim() != "}") {
                    rest += next;
                }
            }
            None => {
                rest += line;
                rest.push('\n');
            }
        }
    }
    (rest, seal)
}

/// 64 bits are plenty to tell versions of one table apart.
fn digest_of(text: &str) -> String {
    Sha1::digest(text.as_bytes())[..8].iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_follow_the_flags() {
        let chains = ["translate", "mark-connections", "restore-marks"];
        // NodePort, external SNAT; then the chains, and whether each of the three rules of the last is there.
        let cases = [
            (true, false, [true, true, true], [true, true, true]),
            (true, true, [false, false, true], [true, true, true]),
            (false, false, [true, true, true], [false, true, false]),
            (false, true, [false, false, false], [false, false, false]),
        ];
        for (node_port, external_snat, expected_chains, expected_rules) in cases {
            let config = HostConfig { node_port, external_snat, ..HostConfig::default() };
            let nat = render(&config, &["10.0.0.0/16"]);
            let table = nat.table().unwrap_or_default();
            let case = format!("NodePort {node_port} external SNAT {external_snat}:\n{table}");

            let actual = chains.map(|name| table.contains(&format!("chain {name} {{")));
            assert_eq!(actual, expected_chains, "{case}");
            let restore = table.split("chain restore-marks").nth(1).unwrap_or_default();
            let rules = [r#"iifname "eth0" fib"#, r#"iifname "eni*" ct"#, r#"iifname "vlan*" ct"#];
            assert_eq!(rules.map(|rule| restore.contains(rule)), expected_rules, "{case}");
        }
    }

    #[test]
    fn ports_are_chosen_as_configured() {
        let cases = [
            (SnatPorts::Random, "snat to 10.0.0.10 random\n"),
            (SnatPorts::FullyRandom, "snat to 10.0.0.10 fully-random\n"),
            (SnatPorts::Kept, "snat to 10.0.0.10\n"),
        ];
        for (snat_ports, expected) in cases {
            let config = HostConfig { snat_ports, ..HostConfig::default() };
            let nat = render(&config, &["10.0.0.0/16"]);
            assert!(nat.table().unwrap().contains(expected), "{snat_ports:?}: {nat:?}");
        }
    }

    #[test]
    fn order_and_overlap_of_ranges_make_no_difference() {
        let config = HostConfig::default();
        let nats = [
            render(&config, &["10.0.0.0/16", "100.64.0.0/16"]),
            render(&config, &["100.64.0.0/16", "10.0.0.0/16", "10.0.3.0/24"]),
            render(&config, &["100.64.128.0/17", "10.0.0.0/16", "100.64.0.0/17"]),
        ];
        assert_eq!(nats[0], nats[1]);
        assert_eq!(nats[0], nats[2]);
    }

    #[test]
    fn nothing_is_translated_where_everything_is_excluded() {
        let excluded_cidrs = vec!["0.0.0.0/0".parse().unwrap()];
        let config = HostConfig { excluded_cidrs, ..HostConfig::default() };
        let nat = render(&config, &["10.0.0.0/16"]);
        assert!(!nat.table().unwrap().contains("snat"), "{nat:?}");
    }

    #[test]
    fn altered_listing_is_told_from_the_sealed_one() {
        let nat = render(&HostConfig::default(), &["10.0.0.0/16"]);
        let table = nat.table().unwrap();
        let listing = format!("table {TABLE} {{\n\tchain translate {{\n\t\tsnat\n\t}}\n}}\n");
        let seal = format!("{SEAL}{}-{}", digest_of(table), digest_of(&listing));
        let close = listing.len() - "}\n".len();
        let sealed = format!("{}\n\tchain {seal} {{\n\t}}\n}}\n", &listing[..close]);

        let cases = [
            ("as it was", &sealed, true),
            ("no seal", &listing, false),
            ("a rule less", &sealed.replace("\t\tsnat\n", ""), false),
            ("a rule in the seal", &sealed.replace("{\n\t}\n}", "{\n\t\tdrop\n\t}\n}"), false),
        ];
        for (case, listing, expected) in cases {
            assert_eq!(nat.is(&recognise(listing)), expected, "{case}:\n{listing}");
        }
    }

    fn render(config: &HostConfig, cidrs: &[&str]) -> Nat {
        let cidrs: Vec<_> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        Nat::render(config, "eth0", Ipv4Addr::new(10, 0, 0, 10), &cidrs)
    }
}
