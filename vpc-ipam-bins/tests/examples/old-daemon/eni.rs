//! Secondary ENIs.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use vpc_ipam_core::{Ec2Action, Effect, Metadata, ObservedEni, Outcome};

use crate::programs::{Family, Place, ip, ip_json};
use crate::settings::Settings;

/// Asks the metadata service, which is played at a unix socket.
pub(crate) fn metadata(ec2: &Path) -> Result<Metadata, String> {
    use std::io::{BufRead as _, BufReader, Write as _};
    let exchange = || -> std::io::Result<Outcome> {
        let mut stream = std::os::unix::net::UnixStream::connect(ec2)?;
        stream.write_all((serde_json::to_string(&Ec2Action::ReadMetadata)? + "\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    match exchange() {
        Ok(Outcome::Done(Effect::Metadata(metadata))) => Ok(metadata),
        other => Err(format!("ask the metadata service: {other:?}")),
    }
}

/// Returns the table of an ENI's routes, and its device.
pub(crate) fn table(metadata: &Metadata, eni: &ObservedEni) -> (u32, u8) {
    let place = eni.attachment.as_ref().map_or((0, 0), |at| (at.card.0, at.device.0));
    let (card, device) = (u32::from(place.0), u32::from(place.1));
    let table = match card {
        _ if eni.id == metadata.node.primary => 254,
        0 => device + 1,
        _ => 10_000 + 100 * card + device,
    };
    (table, place.1)
}

/// Returns the link of an ENI.
pub(crate) fn link(eni: &ObservedEni) -> Result<String, String> {
    let mac = eni.mac.to_string().to_lowercase();
    let links = ip_json(Place::Here, "link show")?;
    let link = links.iter().find(|link| link["address"] == mac.as_str());
    let name = link.and_then(|link| link["ifname"].as_str()).map(str::to_owned);
    name.ok_or_else(|| format!("no link with the address {mac}"))
}

/// Of all addresses the daemon leaves these.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Sets a secondary ENI up: its address, a table of routes, and a rule for what the node sends from the address.
pub(crate) fn set_up(
    settings: &Settings,
    metadata: &Metadata,
    eni: &ObservedEni,
) -> Result<(), String> {
    let link = link(eni)?;
    let (table, _) = table(metadata, eni);
    let subnet = &metadata.subnets[&eni.subnet];
    let own = if settings.ipv6 {
        eni.primary_ipv6.map(IpAddr::V6).zip(subnet.ipv6.map(IpNet::V6))
    } else {
        eni.primary_ipv4.map(IpAddr::V4).zip(subnet.ipv4.map(IpNet::V4))
    };
    let (address, range) = own.ok_or_else(|| format!("{link} has no address"))?;
    let family = Family::of(address);
    let mut lines = vec![format!("link set dev {link} mtu {} up", settings.eni_mtu)];
    let list = format!("{} address show dev {link}", family.option());
    for shown in ip_json(Place::Here, &list)? {
        for info in shown["addr_info"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let own = info["local"].as_str().and_then(|own| own.parse::<IpAddr>().ok());
            if let (Some(own), Some(length)) = (own, info["prefixlen"].as_u64())
                && !is_link_local(own)
            {
                lines.push(format!("address del {own}/{length} dev {link}"));
            }
        }
    }
    let (host, length) = (family.host(), range.prefix_len());
    let (gateway, broadcast, scope) = match range {
        IpNet::V4(range) => {
            let gateway = Ipv4Addr::from(u32::from(range.network()) + 1);
            (IpAddr::V4(gateway), " broadcast +", " scope link")
        }
        IpNet::V6(_) => (IpAddr::V6("fe80:ec2::1".parse().unwrap_or(Ipv6Addr::LOCALHOST)), "", ""),
    };
    lines.push(format!("address add {address}/{length}{broadcast} dev {link}"));
    for route in [
        format!("{gateway}/{host} dev {link}{scope} table {table}"),
        format!("default via {gateway} dev {link} table {table}"),
    ] {
        lines.push(format!("route del {route}"));
        lines.push(format!("route replace {route}"));
    }
    lines.push(match family {
        Family::Ipv4 => format!("route del {} src {address} scope link table main", range.trunc()),
        Family::Ipv6 => format!("route del {} dev {link} table main", range.trunc()),
    });
    lines.push(format!("rule add from {address}/{host} lookup {table} pref 32765"));
    ip(Place::Here, family, &lines)
}
