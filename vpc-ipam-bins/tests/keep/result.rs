//! The form of results, as the specification gives it for each version.

use core::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use vpc_ipam_core::Mac;

use crate::runtime::{Pod, call, netns, run, spec, start, succeeded};

#[test]
fn result_of_each_version_has_its_form_and_is_true() {
    let node = start(&spec("m5.large"));
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Pod::new(&node, &format!("p{}", version.replace('.', "")));

        let result = succeeded(&call(&node.address, "ADD", &pod, version, None));

        assert_eq!(result["cniVersion"], version);
        conforms(&result, version);
        let interfaces = result["interfaces"].as_array().unwrap();
        let [host, container] = &interfaces[..] else { panic!("{result}") };
        assert_eq!(host.get("sandbox"), None, "{version}: on the host");
        assert_eq!(container["sandbox"], pod.path.to_str().unwrap(), "{version}");
        for (interface, place) in [(host, &netns(&node)), (container, &pod.netns)] {
            let name = interface["name"].as_str().unwrap();
            let link: Value =
                serde_json::from_str(&run(place, &format!("ip -j link show {name}"))).unwrap();
            assert_eq!(interface["mac"], link[0]["address"], "{version}: {name}");
            if let Some(mtu) = interface.get("mtu") {
                assert_eq!(*mtu, link[0]["mtu"], "{version}: {name}");
            }
        }
        let ip = &result["ips"][0];
        assert_eq!(ip["interface"], 1, "{version}: the container's");
        let addresses = run(&pod.netns, "ip -o -4 address show eth0");
        assert!(addresses.contains(&format!("inet {} ", ip["address"].as_str().unwrap())));
        let routes: Value = serde_json::from_str(&run(&pod.netns, "ip -j route")).unwrap();
        let default = routes.as_array().unwrap().iter().find(|it| it["dst"] == "default").unwrap();
        assert_eq!(ip["gateway"], default["gateway"], "{version}");
        let told: Vec<_> = result["routes"].as_array().unwrap().iter().collect();
        assert_eq!(told.len(), routes.as_array().unwrap().len(), "{version}");
        assert!(told.iter().any(|it| it["dst"] == "0.0.0.0/0" && it["gw"] == ip["gateway"]));
        pod.del(&node.address);
    }
    node.stop().unwrap();
}

#[test]
fn default_route_of_another_network_is_left_and_ours_is_told_with_its_table() {
    let node = start(&spec("m5.large"));
    for version in ["1.0.0", "1.1.0"] {
        let pod = Pod::new(&node, &format!("p{}", version.replace('.', "")));
        for command in [
            "ip link add first0 type veth peer name other",
            "ip link set other up",
            "ip addr add 192.168.7.2/24 dev first0",
            "ip link set first0 up",
            "ip route add default via 192.168.7.1",
        ] {
            run(&pod.netns, command);
        }
        let before = run(&pod.netns, "ip route");

        let result = succeeded(&call(&node.address, "ADD", &pod, version, None));

        conforms(&result, version);
        assert_eq!(run(&pod.netns, "ip route"), before, "{version}");
        let told = result["routes"].as_array().unwrap();
        // Before 1.1.0 a route has no table.
        assert_eq!(told.len(), if version == "1.1.0" { 2 } else { 0 }, "{told:?}");
        assert!(told.iter().all(|route| route["table"] == 86), "{told:?}");
        let ip = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        let rules = run(&pod.netns, "ip rule show pref 1");
        assert_eq!(rules.trim(), format!("1:\tfrom {ip} lookup 86 proto 86"));
        let check = call(&node.address, "CHECK", &pod, version, Some(&result));
        assert!(check.status.success(), "{version}: {check:?}");
        pod.del(&node.address);
        crate::runtime::wait_until("the pod's link to go", || {
            let links = run(&pod.netns, "ip -o link");
            if links.contains("eth0") { Err(links) } else { Ok(()) }
        });
        assert_eq!(run(&pod.netns, "ip route"), before, "{version}");
    }
    node.stop().unwrap();
}

/// Panics where a result has a field that its version does not know, or not of the type that it gives, or lacks one.
fn conforms(result: &Value, version: &str) {
    let (before_1_0, since_1_1) = (version < "1.0.0", version >= "1.1.0");
    let text = |value: &Value| value.is_string();
    let mac = |value: &Value| value.as_str().is_some_and(|it| it.parse::<Mac>().is_ok());
    let net = |value: &Value| value.as_str().is_some_and(|it| it.parse::<IpNet>().is_ok());
    let address = |value: &Value| value.as_str().is_some_and(|it| it.parse::<IpAddr>().is_ok());
    let number = |value: &Value| value.is_u64();
    let list = |value: &Value| value.is_array();
    let object = |value: &Value| value.is_object();
    let family = |value: &Value| value == "4" || value == "6";
    type Field<'a> = (&'a str, &'a dyn Fn(&Value) -> bool, bool);
    let fields = |what: &str, value: &Value, known: &[Field<'_>]| {
        let fields = value.as_object().unwrap_or_else(|| panic!("{version}: {what}: {value}"));
        for (name, value) in fields {
            let field = known.iter().find(|(known, ..)| known == name);
            let (_, is_valid, _) = field.unwrap_or_else(|| panic!("{version}: {what}: {name}"));
            assert!(is_valid(value), "{version}: {what}: {name}: {value}");
        }
        for (name, _, _) in known.iter().filter(|(.., required)| *required) {
            assert!(fields.contains_key(*name), "{version}: {what}: {name} is missing");
        }
    };
    fields(
        "result",
        result,
        &[
            ("cniVersion", &text, true),
            ("interfaces", &list, false),
            ("ips", &list, false),
            ("routes", &list, false),
            ("dns", &object, false),
        ],
    );
    for interface in result["interfaces"].as_array().unwrap() {
        let mut known: Vec<Field<'_>> =
            vec![("name", &text, true), ("mac", &mac, false), ("sandbox", &text, false)];
        if since_1_1 {
            known.extend([
                ("mtu", &number as &dyn Fn(&Value) -> bool, false),
                ("socketPath", &text, false),
                ("pciID", &text, false),
            ]);
        }
        fields("interface", interface, &known);
    }
    for ip in result["ips"].as_array().unwrap() {
        let mut known: Vec<Field<'_>> = vec![
            ("address", &net, true),
            ("gateway", &address, false),
            ("interface", &number, false),
        ];
        if before_1_0 {
            known.push(("version", &family, true));
        }
        fields("ip", ip, &known);
        let interfaces = result["interfaces"].as_array().unwrap().len() as u64;
        assert!(ip["interface"].as_u64().unwrap() < interfaces, "{version}: {ip}");
    }
    for route in result["routes"].as_array().unwrap() {
        let mut known: Vec<Field<'_>> = vec![("dst", &net, true), ("gw", &address, false)];
        if since_1_1 {
            for name in ["mtu", "advmss", "priority", "table", "scope"] {
                known.push((name, &number, false));
            }
        }
        fields("route", route, &known);
    }
    let dns: [Field<'_>; 4] = [
        ("nameservers", &list, false),
        ("domain", &text, false),
        ("search", &list, false),
        ("options", &list, false),
    ];
    fields("dns", &result["dns"], &dns);
}
