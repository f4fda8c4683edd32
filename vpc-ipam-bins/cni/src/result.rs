use core::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::CniVersion;

/// What a successful ADD brought about, apart from the version in which it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddResult {
    /// The interfaces, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<Ip>,
    /// The routes inside the container.
    pub routes: Vec<Route>,
}

/// An interface that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// The container's network namespace; `None` on the host.
    pub sandbox: Option<PathBuf>,
}

/// An address that a container got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// With the length of its prefix.
    pub address: IpNet,
    /// The next hop of its default route.
    pub gateway: IpAddr,
    /// The index of its interface in [`AddResult::interfaces`]; `None` where another plugin makes it.
    pub interface: Option<usize>,
}

/// A route inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The next hop; `None` for what is on the link.
    pub gateway: Option<IpAddr>,
    /// The route table; `None` for main. Results before 1.1.0 cannot name another table, and leave its routes out.
    pub table: Option<u32>,
}

impl AddResult {
    /// Returns the result in the form of a version.
    pub fn to_json(&self, version: CniVersion) -> serde_json::Value {
        use serde_json::json;

        let interfaces = self.interfaces.iter().map(|interface| {
            let mut json = json!({ "name": interface.name, "mac": interface.mac });
            if let Some(sandbox) = &interface.sandbox {
                json["sandbox"] = json!(sandbox);
            }
            if version >= CniVersion::V1_1_0 {
                json["mtu"] = json!(interface.mtu);
            }
            json
        });
        let ips = self.ips.iter().map(|ip| {
            let mut json = json!({ "address": ip.address, "gateway": ip.gateway });
            if let Some(interface) = ip.interface {
                json["interface"] = json!(interface);
            }
            if version < CniVersion::V1_0_0 {
                json["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
            }
            json
        });
        let tellable = |route: &&Route| version >= CniVersion::V1_1_0 || route.table.is_none();
        let routes = self.routes.iter().filter(tellable).map(|route| {
            let mut json = json!({ "dst": route.destination });
            if let Some(gateway) = route.gateway {
                json["gw"] = json!(gateway);
            }
            if let Some(table) = route.table {
                json["table"] = json!(table);
            }
            json
        });
        let mut json = json!({
            "cniVersion": version.as_str(),
            "ips": ips.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "dns": {},
        });
        let interfaces: Vec<_> = interfaces.collect();
        if !interfaces.is_empty() {
            json["interfaces"] = json!(interfaces);
        }
        json
    }
}

/// Returns the addresses of a result of any version, by any plugin.
pub fn addresses(result: &serde_json::Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let nets = ips.iter().filter_map(|ip| ip["address"].as_str()?.parse::<IpNet>().ok());
    nets.map(|net| net.addr()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_has_the_form_of_its_version() {
        let result = AddResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: 9001,
                sandbox: Some("/run/netns/pod".into()),
            }],
            ips: vec![Ip {
                address: "10.0.0.7/32".parse().unwrap(),
                gateway: "169.254.1.1".parse().unwrap(),
                interface: Some(0),
            }],
            routes: Vec::new(),
        };
        for (version, family, mtu) in [
            (CniVersion::V0_3_1, true, false),
            (CniVersion::V0_4_0, true, false),
            (CniVersion::V1_0_0, false, false),
            (CniVersion::V1_1_0, false, true),
        ] {
            let json = result.to_json(version);
            assert_eq!(json["cniVersion"], version.as_str());
            assert_eq!(json["ips"][0].get("version").is_some(), family, "{version}");
            assert_eq!(json["interfaces"][0].get("mtu").is_some(), mtu, "{version}");
        }
    }
}
