//! The file by which the runtime finds the plugin.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::settings::Settings;

/// Writes the file beside its place, and puts it there.
pub(crate) fn write(root: &Path, settings: &Settings) -> Result<(), String> {
    let path = root.join("etc/cni/net.d/10-aws.conflist");
    let temporary = path.with_extension("conflist.tmp");
    let text = serde_json::to_string_pretty(&list(settings)).unwrap_or_default();
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|error| format!("write {}: {error}", path.display()))
}

fn list(settings: &Settings) -> Value {
    let ipv4_egress = settings.ipv6 && settings.v4_egress;
    let (range, route, folder) = if settings.ipv6 {
        ("169.254.172.0/22", "0.0.0.0/0", "/run/cni/v6pd/egress-v4-ipam")
    } else {
        ("fd00::ac:00/118", "::/0", "/run/cni/v4pd/egress-v6-ipam")
    };
    let mut plugins = vec![
        json!({
            "name": "aws-cni",
            "type": "aws-cni",
            "vethPrefix": settings.veth_prefix,
            "mtu": settings.pod_mtu,
            "podSGEnforcingMode": "strict",
            "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
            "pluginLogLevel": "DEBUG",
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
        }),
        json!({
            "name": "egress-cni",
            "type": "egress-cni",
            "mtu": settings.pod_mtu,
            "enabled": if ipv4_egress { "true" } else { "false" },
            "randomizeSNAT": "prng",
            "nodeIP": "",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": range}]],
                "routes": [{"dst": route}],
                "dataDir": folder,
            },
            "pluginLogFile": "/var/log/aws-routed-eni/egress-v6-plugin.log",
            "pluginLogLevel": "DEBUG",
        }),
        json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}),
    ];
    if settings.bandwidth {
        plugins.push(json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}));
    }
    if settings.disable_pod_v6 {
        let off = |link: &str| format!("net.ipv6.conf.{link}.disable_ipv6");
        let sysctl = json!({off("all"): "1", off("default"): "1", off("lo"): "1"});
        plugins.push(json!({"type": "tuning", "name": "disable-pod-v6", "sysctl": sysctl}));
    }
    json!({
        "cniVersion": "0.4.0",
        "name": "aws-cni",
        "disableCheck": true,
        "plugins": plugins,
    })
}
