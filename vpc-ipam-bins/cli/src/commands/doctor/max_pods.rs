//! Whether kubelet takes more pods than the node has addresses for.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "max-pods",
    about: "kubelet's maxPods and the daemon's --max-pods against the addresses that the node can have",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

/// Where kubelet's settings are: EKS's AMIs, their drop-ins, and kubeadm.
const FILES: [&str; 3] = [
    "/etc/kubernetes/kubelet/config.json",
    "/etc/kubernetes/kubelet/kubelet-config.json",
    "/var/lib/kubelet/config.yaml",
];
const DROP_INS: &str = "/etc/kubernetes/kubelet/config.json.d";
/// What kubelet takes without a setting.
const KUBELETS_OWN: u32 = 110;
/// Pods on the host's network, which need no address: kube-proxy and one more, as the usual formulas count.
const HOST_NETWORK_PODS: u32 = 2;

fn run(facts: &Facts) -> Vec<Finding> {
    let (kubelet, place) = match kubelets(facts) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return vec![Finding::not_checked("no kubelet runs, and it has no settings here")];
        }
        Err(why) => return vec![Finding::not_checked(why)],
    };
    let (inventory, probe) = match (facts.inventory(), facts.probe()) {
        (Ok(inventory), Ok(probe)) => (inventory, probe),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::not_checked(&error.why)],
    };
    let most = inventory.addresses_max;
    let serves = most.saturating_add(HOST_NETWORK_PODS);
    let node =
        format!("{most} addresses for pods at most, and {HOST_NETWORK_PODS} on the host's network");
    let mut findings = Vec::new();
    // IPv6 alone has more addresses than any kubelet has pods.
    let ipv6 = inventory.settings.get("ENABLE_IPv4") == Some(&false.into());
    if kubelet > serves && !ipv6 {
        let remedy = format!(
            "set kubelet's maxPods to {serves} or less (vpc-ipam max-pods TYPE says how many), use prefixes, or a larger type"
        );
        let evidence =
            format!("kubelet takes {kubelet} pods ({place}), the node serves {serves}: {node}");
        findings.push(Finding::failure(evidence, remedy));
    } else {
        findings.push(Finding::ok(format!("kubelet takes {kubelet} pods ({place}): {node}")));
    }
    match probe.pods_max {
        Some(daemon) if daemon < kubelet => findings.push(Finding::failure(
            format!(
                "the daemon holds addresses for {daemon} pods (--max-pods), kubelet takes {kubelet}"
            ),
            format!("start vpc-ipamd with --max-pods {kubelet}"),
        )),
        Some(daemon) if daemon > kubelet => findings.push(Finding::warning(
            format!(
                "the daemon holds addresses for {daemon} pods (--max-pods), kubelet takes {kubelet}"
            ),
            format!(
                "start vpc-ipamd with --max-pods {kubelet}, so that no more addresses are held"
            ),
        )),
        _ => {}
    }
    findings
}

/// Returns how many pods kubelet takes, and which file or option says so.
fn kubelets(facts: &Facts) -> Result<Option<(u32, String)>, String> {
    let kubelet =
        facts.files.processes().unwrap_or_default().into_iter().find(|it| it.name == "kubelet");
    if let Some(text) = kubelet.as_ref().and_then(|kubelet| kubelet.option("--max-pods")) {
        let number = text.parse().map_err(|_| format!("kubelet's --max-pods is {text:?}"))?;
        return Ok(Some((number, "--max-pods".to_owned())));
    }
    let named = kubelet.as_ref().and_then(|kubelet| kubelet.option("--config")).map(str::to_owned);
    let drop_ins =
        facts.files.names(DROP_INS)?.into_iter().map(|name| format!("{DROP_INS}/{name}"));
    let files = named.into_iter().chain(FILES.map(str::to_owned));
    // The last drop-in counts, then the file.
    let mut read = kubelet.is_some();
    for path in drop_ins.rev().chain(files) {
        let Some(text) = facts.files.read(&path)? else { continue };
        read = true;
        if let Some(number) = max_pods(&text) {
            return Ok(Some((number, path)));
        }
    }
    Ok(read.then(|| (KUBELETS_OWN, "kubelet's default".to_owned())))
}

/// Returns the number after the key `maxPods` of JSON or YAML.
fn max_pods(text: &str) -> Option<u32> {
    let value = |line: &str| {
        let rest = line.trim_start().trim_start_matches(['"', '{', ' ']);
        let (_, rest) = rest.split_once("maxPods")?;
        let rest = rest.trim_start_matches(['"', ' ']).strip_prefix(':')?.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
        digits.parse().ok()
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(value)
}
