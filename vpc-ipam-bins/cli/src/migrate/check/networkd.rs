//! Whether systemd-networkd removes rules and routes of pods.

use super::{Check, Finding, Node, Severity};

pub(super) const CHECK: Check = Check { name: "networkd", severities: &[Severity::Warning], run };

fn run(node: &Node<'_>) -> Vec<Finding> {
    let settings = &node.survey.networkd;
    if settings.is_empty() {
        return Vec::new();
    }
    vec![Finding::warning(
        format!(
            "systemd-networkd removes what it did not make when it is started anew: {}",
            settings.join("; ")
        ),
        "routes and rules of pods are gone until vpc-ipamd puts them back, a moment later; while neither daemon runs they stay gone",
        "write [Network] with ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no to \
         /etc/systemd/networkd.conf.d/10-vpc-ipam.conf, then systemctl restart systemd-networkd before the node is moved",
    )]
}
