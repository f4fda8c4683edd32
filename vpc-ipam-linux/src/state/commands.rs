//! Changes as the commands by which a person would make them.

use core::fmt::Write as _;
use std::borrow::Cow;
use std::path::Path;

use ipnet::IpNet;

use crate::kernel::quote::shell;
use crate::{
    Address, Family, KernelChange, LinkId, Mark, Nat, Neighbour, Object, Protocol, Route, Rule,
    Scope, SourceCheck, Table,
};

/// Writes changes as the commands of iproute2, sysctl, nft and iptables that make the same changes, one a line; scripts for
/// standard input follow theirs as here-documents. Names of links are quoted where the shell would read more into them.
///
/// ```
/// use vpc_ipam_linux::{KernelChange, LinkId, LinkIndex, Object, Route, Table, commands};
///
/// let link = LinkId::new(LinkIndex(3), "eth1");
/// let route = Route::default_by(Table(2), "10.0.0.1".parse()?);
/// let change = KernelChange::Set(Object::Route { link, route });
/// assert_eq!(
///     commands(&[change]),
///     ["ip route replace default via 10.0.0.1 dev eth1 table 2 proto 86 scope global"]
/// );
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub fn commands(changes: &[KernelChange]) -> Vec<String> {
    changes.iter().flat_map(of_change).collect()
}

fn of_change(change: &KernelChange) -> Vec<String> {
    match change {
        KernelChange::Set(object) => set(object),
        KernelChange::Remove(object) => remove(object),
        KernelChange::RemoveLink { name } => vec![format!("ip link delete dev {}", shell(name))],
        KernelChange::RemoveLinkByIndex(link) => {
            vec![format!("ip link delete dev {}", of_link(link))]
        }
        KernelChange::Join { port, bridge } => {
            let (port, bridge) = (of_link(port), of_link(bridge));
            vec![
                format!("ip link set dev {port} master {bridge}"),
                format!("ip link set dev {port} type bridge_slave isolated on"),
            ]
        }
        KernelChange::AddBridge(bridge) => vec![
            format!(
                "ip link add {} address {} mtu {} type bridge stp_state 0 mcast_snooping 0",
                shell(&bridge.name),
                bridge.mac,
                bridge.mtu
            ),
            format!("ip link set dev {} up", shell(&bridge.name)),
        ],
        KernelChange::AddRoute { link, route } => {
            let family = Family::of(route.destination.addr());
            vec![format!("ip{} route add {}", option(family), of_route(link, route))]
        }
        KernelChange::AddNeighbour { link, neighbour: Neighbour { address, mac } } => {
            vec![format!(
                "ip neigh replace {address} lladdr {mac} dev {} nud reachable",
                of_link(link)
            )]
        }
        KernelChange::AddVlan(vlan) => vec![format!(
            "ip link add {} link {} address {} mtu {} type vlan id {}",
            shell(&vlan.name),
            of_link(&vlan.trunk),
            vlan.mac,
            vlan.mtu,
            vlan.id
        )],
        KernelChange::AddVeth(veth) => vec![
            format!(
                "ip link add {} address {} mtu {mtu} type veth peer name {} address {} mtu {mtu} netns {}",
                shell(&veth.name),
                veth.mac,
                shell(&veth.peer.name),
                veth.peer.mac,
                shell(&veth.peer.namespace.path().display().to_string()),
                mtu = veth.mtu,
            ),
            format!("ip link set dev {} up", shell(&veth.name)),
        ],
    }
}

fn set(object: &Object) -> Vec<String> {
    match object {
        Object::Link { link, mtu, up } => {
            let (link, state) = (of_link(link), if *up { "up" } else { "down" });
            vec![format!("ip link set dev {link} mtu {mtu} {state}")]
        }
        Object::Alias { link, alias } => {
            vec![format!("ip link set dev {} alias {}", of_link(link), shell(alias))]
        }
        Object::Address { link, address } => {
            let mut how = String::new();
            let net = address.net;
            if address.scope == Scope::Global && net.prefix_len() < net.max_prefix_len() {
                how.push_str(" noprefixroute");
            }
            match address.net {
                IpNet::V4(net) if net.prefix_len() < 31 => how.push_str(" broadcast +"),
                IpNet::V4(_) => {}
                IpNet::V6(_) => how.push_str(" nodad"),
            }
            vec![format!("ip address replace {}{how}", of_address(link, address))]
        }
        Object::Route { link, route } => {
            let family = Family::of(route.destination.addr());
            vec![format!("ip{} route replace {}", option(family), of_route(link, route))]
        }
        Object::Neighbour { link, neighbour: Neighbour { address, mac } } => {
            vec![format!(
                "ip neigh replace {address} lladdr {mac} dev {} nud permanent",
                of_link(link)
            )]
        }
        Object::Rule(rule) => {
            vec![format!("ip{} rule add {}", option(rule.family), of_rule(rule))]
        }
        Object::Sysctl(sysctl) => vec![format!("sysctl -w {}", shell(&sysctl.to_string()))],
        Object::Nat(nat) => vec![here_document("nft --file -", &nat.script())],
        Object::SourceCheck(check) => vec![here_document("nft --file -", &check.script())],
        Object::AwsCniNat(_) => Vec::new(),
    }
}

fn remove(object: &Object) -> Vec<String> {
    match object {
        Object::Address { link, address } => {
            vec![format!("ip address delete {}", of_address(link, address))]
        }
        Object::Route { link, route } => {
            let family = Family::of(route.destination.addr());
            vec![format!("ip{} route delete {}", option(family), of_route(link, route))]
        }
        Object::Neighbour { link, neighbour } => {
            vec![format!("ip neigh delete {} dev {}", neighbour.address, of_link(link))]
        }
        Object::Rule(rule) => {
            vec![format!("ip{} rule delete {}", option(rule.family), of_rule(rule))]
        }
        Object::Nat(_) => vec![here_document("nft --file -", &Nat::none().script())],
        Object::SourceCheck(_) => {
            vec![here_document("nft --file -", &SourceCheck::none().script())]
        }
        Object::AwsCniNat(left) => {
            let removal = left.removal(Path::new("nft")).into_iter();
            removal
                .map(|(program, arguments, script)| {
                    let program = program.display().to_string();
                    let command = format!("{} {}", shell(&program), arguments.join(" "));
                    here_document(&command, &script)
                })
                .collect()
        }
        Object::Link { .. } | Object::Alias { .. } | Object::Sysctl(_) => Vec::new(),
    }
}

fn of_address(link: &LinkId, address: &Address) -> String {
    let scope = match address.scope {
        Scope::Global => String::new(),
        scope => format!(" scope {}", scope_name(scope)),
    };
    format!("{} dev {}{scope}", address.net, of_link(link))
}

fn of_link(link: &LinkId) -> Cow<'_, str> {
    shell(&link.name)
}

fn of_route(link: &LinkId, route: &Route) -> String {
    let destination = match route.destination.prefix_len() {
        0 => "default".to_owned(),
        _ => route.destination.to_string(),
    };
    let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let link = of_link(link);
    let mut text = format!("{destination}{gateway} dev {link} table {}", route.table);
    // Writing to a String cannot fail.
    let _ = write!(text, " proto {}", route.protocol.0);
    if Family::of(route.destination.addr()) == Family::Ipv4 {
        let _ = write!(text, " scope {}", scope_name(route.scope));
    }
    if let Some(source) = route.source {
        let _ = write!(text, " src {source}");
    }
    if route.metric > 0 {
        let _ = write!(text, " metric {}", route.metric);
    }
    text
}

fn of_rule(rule: &Rule) -> String {
    let mut text = format!("priority {}", rule.priority);
    let all = || "all".to_owned();
    // Writing to a String cannot fail.
    let _ = write!(text, " from {}", rule.source.map_or_else(all, |net| net.to_string()));
    if let Some(destination) = rule.destination {
        let _ = write!(text, " to {destination}");
    }
    if let Some(Mark { value, mask }) = rule.mark {
        let _ = write!(text, " fwmark {value:#x}/{mask:#x}");
    }
    if let Some(input) = &rule.input {
        let _ = write!(text, " iif {}", shell(input));
    }
    if let Some(protocol) = rule.carries {
        let _ = write!(text, " ipproto {protocol}");
    }
    if rule.table != Table::UNSPECIFIED {
        let _ = write!(text, " lookup {}", rule.table);
    }
    if rule.protocol != Protocol::UNSPECIFIED {
        let _ = write!(text, " protocol {}", rule.protocol.0);
    }
    text
}

fn scope_name(scope: Scope) -> String {
    match scope {
        Scope::Global => "global".to_owned(),
        Scope::Link => "link".to_owned(),
        Scope::Host => "host".to_owned(),
        Scope::Other(number) => number.to_string(),
    }
}

fn option(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "",
        Family::Ipv6 => " -6",
    }
}

fn here_document(command: &str, script: &str) -> String {
    format!("{command} <<'END'\n{script}END")
}
