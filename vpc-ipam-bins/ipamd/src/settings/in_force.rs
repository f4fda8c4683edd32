use std::collections::BTreeMap;

use serde_json::{Value, json};
use vpc_ipam_core::{Config, Ipv4Kind, WarmTarget};
use vpc_ipam_linux::{BranchMode, HostConfig, SnatPorts};

/// Returns the settings in force by the names of their variables, each as the value that would bring it about. Targets that another one
/// takes precedence over, and what is not set, are left out. None of them is secret; tags and credentials are not among them.
pub(crate) fn in_force(config: &Config, host: &HostConfig) -> BTreeMap<String, Value> {
    let mut settings: BTreeMap<String, Value> = BTreeMap::new();
    let mut set = |name: &str, value: Value| {
        settings.insert(name.to_string(), value);
    };
    let ipv4 = config.families.ipv4();
    set("ENABLE_IPv4", json!(ipv4.is_some()));
    set("ENABLE_IPv6", json!(config.families.ipv6()));
    set("ENABLE_PREFIX_DELEGATION", json!(ipv4 == Some(Ipv4Kind::Prefixes)));
    match config.target {
        WarmTarget::Enis(enis) => set("WARM_ENI_TARGET", json!(enis)),
        WarmTarget::Ips { warm, minimum } => {
            set("WARM_IP_TARGET", json!(warm));
            set("MINIMUM_IP_TARGET", json!(minimum));
        }
        WarmTarget::Prefixes(prefixes) => set("WARM_PREFIX_TARGET", json!(prefixes)),
        // No variable asks for it.
        WarmTarget::Batch { .. } => {}
    }
    if let Some(most) = config.enis_max {
        set("MAX_ENI", json!(most));
    }
    if let Some(cluster) = &config.cluster {
        set("CLUSTER_NAME", json!(cluster));
    }
    set("IP_COOLDOWN_PERIOD", json!(config.cooldown.as_secs()));
    set("AWS_VPC_ENI_MTU", json!(config.eni_mtu));
    set("ENABLE_IMDS_ONLY_MODE", json!(!config.ec2_reads));
    set("DISABLE_NETWORK_RESOURCE_PROVISIONING", json!(!config.provisioning));
    set("AWS_MANAGE_ENIS_NON_SCHEDULABLE", json!(config.manage_unschedulable));
    set("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", json!(config.custom_networking));
    set("ENI_CONFIG_LABEL_DEF", json!(config.eni_config_keys.label));
    set("ENI_CONFIG_ANNOTATION_DEF", json!(config.eni_config_keys.annotation));
    set("ENABLE_POD_ENI", json!(config.trunk));
    set("ENABLE_MULTI_NIC", json!(config.multi_nic));
    set("MANAGE_UNTAGGED_ENI", json!(config.manage_untagged));
    set("ENABLE_SUBNET_DISCOVERY", json!(config.subnet_discovery));

    set("AWS_VPC_K8S_CNI_EXTERNALSNAT", json!(host.external_snat));
    let ports = match host.snat_ports {
        SnatPorts::Random => "hashrandom",
        SnatPorts::FullyRandom => "prng",
        SnatPorts::Kept => "none",
    };
    set("AWS_VPC_K8S_CNI_RANDOMIZESNAT", json!(ports));
    let ranges = |nets: &[ipnet::Ipv4Net]| {
        let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
        json!(texts.join(","))
    };
    set("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", ranges(&host.excluded_cidrs));
    set("AWS_EXTERNAL_SERVICE_CIDRS", ranges(&host.service_cidrs));
    set("AWS_VPC_CNI_NODE_PORT_SUPPORT", json!(host.node_port));
    set("AWS_VPC_K8S_CNI_CONNMARK", json!(host.mark.get()));
    set("AWS_VPC_K8S_CNI_VETHPREFIX", json!(host.veth_prefix.as_str()));
    set("DISABLE_TCP_EARLY_DEMUX", json!(!host.tcp_early_demux));
    if let Some(mtu) = host.pod_mtu {
        set("POD_MTU", json!(mtu));
    }
    let mode = match host.branch_mode {
        BranchMode::Strict => "strict",
        BranchMode::Standard => "standard",
    };
    set("POD_SECURITY_GROUP_ENFORCING_MODE", json!(mode));
    set("ENABLE_V4_EGRESS", json!(host.ipv4_egress));
    set("ENABLE_V6_EGRESS", json!(host.ipv6_egress));
    set("DISABLE_POD_V6", json!(!host.pod_ipv6));
    set("ENABLE_POD_SOURCE_CHECK", json!(host.source_check));
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_in_force_bring_about_what_is_in_force() {
        let sets: [&[(&str, &str)]; 5] = [
            &[],
            &[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "12"), ("WARM_ENI_TARGET", "3")],
            &[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "2"), ("MAX_ENI", "3")],
            &[("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "false"), ("CLUSTER_NAME", "blue")],
            &[
                ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true"),
                ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng"),
                ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.1.0.0/16,10.2.0.0/16"),
                ("AWS_VPC_K8S_CNI_CONNMARK", "0x40"),
                ("AWS_VPC_K8S_CNI_VETHPREFIX", "ve"),
                ("DISABLE_TCP_EARLY_DEMUX", "true"),
                ("POD_MTU", "1400"),
                ("POD_SECURITY_GROUP_ENFORCING_MODE", "standard"),
                ("ENABLE_POD_SOURCE_CHECK", "false"),
                ("DISABLE_POD_V6", "true"),
                ("ENABLE_IMDS_ONLY_MODE", "true"),
                ("ENABLE_SUBNET_DISCOVERY", "false"),
                ("IP_COOLDOWN_PERIOD", "60"),
            ],
        ];
        for vars in sets {
            let vars: Vec<(String, String)> =
                vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let read = |vars: Vec<(String, String)>| {
                (Config::from_vars(vars.clone()).0, HostConfig::from_vars(vars).0)
            };
            let (config, host) = read(vars.clone());
            let text = |value: Value| match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let told: Vec<(String, String)> = in_force(&config, &host)
                .into_iter()
                .map(|(name, value)| (name, text(value)))
                .collect();
            for (name, value) in vars.iter().filter(|(name, _)| name != "WARM_ENI_TARGET") {
                assert!(told.iter().any(|(told, _)| told == name), "{name}={value} in {told:?}");
            }
            assert_eq!(read(told), (config, host), "{vars:?}");
        }
    }
}
