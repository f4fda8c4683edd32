//! By which program addresses are translated, and whether both kinds of iptables are in use.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "firewall",
    about: "nft and iptables: which there are, of which kind, and whether tables of both kinds are in use",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

const FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

/// The tables of iptables-legacy in this network namespace; iptables-nft has none here.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

fn run(facts: &Facts) -> Vec<Finding> {
    let find = |name: &str| {
        let paths = FOLDERS.iter().map(|folder| format!("{folder}/{name}"));
        paths.into_iter().find(|path| facts.files.exists(path))
    };
    let (nft, iptables) = (find("nft"), find("iptables"));
    let kind = iptables.as_deref().and_then(|path| kind(facts, path));
    let mut findings = vec![match (&nft, &iptables) {
        (Some(nft), None) => Finding::ok(format!("{nft}, and no iptables")),
        (Some(nft), Some(iptables)) => {
            Finding::ok(format!("{nft}, and {iptables} of kind {}", kind.unwrap_or("unknown")))
        }
        (None, Some(iptables)) => Finding::ok(format!(
            "no nft, and {iptables} of kind {}: it wants CAP_NET_RAW besides",
            kind.unwrap_or("unknown")
        )),
        (None, None) => Finding::failure(
            "there is neither nft nor iptables: addresses of pods are not translated",
            "install nftables (apt-get install nftables, dnf install nftables)",
        ),
    }];
    match facts.files.read(LEGACY_TABLES) {
        Ok(names) => {
            let names = names.unwrap_or_default();
            let tables: Vec<&str> = names.split_whitespace().collect();
            if !tables.is_empty() && (nft.is_some() || kind == Some("nft")) {
                let tables = tables.join(", ");
                findings.push(Finding::warning(
                    format!(
                        "iptables-legacy has tables in use ({tables}) beside nftables: each kind sees only its own rules, and a packet meets \
                         both"
                    ),
                    "let every program of the node use one kind: update-alternatives --set iptables /usr/sbin/iptables-nft, then restart \
                     kube-proxy; a reboot clears the other tables",
                ));
            }
        }
        Err(why) => findings.push(Finding::not_checked(format!("{why}; run this as root"))),
    }
    findings
}

/// Follows links within the node's files until a name tells the kind.
fn kind(facts: &Facts, path: &str) -> Option<&'static str> {
    let mut path = path.to_owned();
    // As many links as the kernel follows.
    for _ in 0..40 {
        if path.contains("legacy") {
            return Some("legacy");
        }
        if path.contains("nft") {
            return Some("nft");
        }
        let target = facts.files.link(&path)?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        path = match target.to_str()? {
            target if target.starts_with('/') => target.to_owned(),
            target => format!("{folder}/{target}"),
        };
    }
    None
}
