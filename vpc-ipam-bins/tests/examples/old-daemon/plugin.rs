//! The plugin.

use core::net::IpAddr;
use core::time::Duration;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::programs::{Family, Place, ip, ip_json, sysctl};
use crate::wire::{Allocation, Key, Request, UNKNOWN_POD, ask};

/// How long DAD may take.
const TENTATIVE_MAX: Duration = Duration::from_secs(10);
/// How long a test may hold a call.
const HELD_MAX: Duration = Duration::from_secs(60);

/// Returns the digits by which the link of a pod is known.
pub(crate) fn name_hash(namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..11].to_owned()
}

/// A call.
struct Call {
    root: PathBuf,
    config: Value,
    key: Key,
    netns: PathBuf,
    namespace: String,
    pod: String,
}

pub(crate) fn main() -> ExitCode {
    let command = var("CNI_COMMAND");
    if command == "VERSION" {
        let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        println!("{}", json!({"cniVersion": "1.1.0", "supportedVersions": versions}));
        return ExitCode::SUCCESS;
    }
    let done = Call::read().and_then(|call| {
        let done = match command.as_str() {
            "ADD" => call.add(),
            "DEL" => call.del().map(|()| None),
            // CHECK has no handler, GC and STATUS neither.
            _ => Ok(None),
        };
        call.log(&command, &done);
        done
    });
    match done {
        Ok(result) => {
            if let Some(result) = result {
                println!("{result}");
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("{}", json!({"code": 999, "msg": message}));
            ExitCode::FAILURE
        }
    }
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

impl Call {
    fn read() -> Result<Self, String> {
        let config: Value =
            serde_json::from_reader(std::io::stdin()).map_err(|error| error.to_string())?;
        // It is ROOT/opt/cni/bin/aws-cni.
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let root = own.ancestors().nth(4).ok_or("not in a folder opt/cni/bin")?.to_owned();
        let arguments = var("CNI_ARGS");
        let argument = |name: &str| {
            let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next_back()
        };
        let container = var("CNI_CONTAINERID");
        Ok(Self {
            root,
            key: Key {
                network: config["name"].as_str().unwrap_or_default().to_owned(),
                container: container.clone(),
                ifname: var("CNI_IFNAME"),
            },
            namespace: argument("K8S_POD_NAMESPACE").unwrap_or_else(|| "default".to_owned()),
            // A runtime without Kubernetes names none.
            pod: argument("K8S_POD_NAME").unwrap_or(container),
            netns: PathBuf::from(var("CNI_NETNS")),
            config,
        })
    }

    fn log(&self, command: &str, done: &Result<Option<Value>, String>) {
        let folder = self.root.join("var/log/aws-routed-eni");
        let _ = fs::create_dir_all(&folder);
        let line = match done {
            Ok(Some(result)) => format!("ok {}", result["ips"][0]["address"]),
            Ok(None) => "ok".to_owned(),
            Err(error) => format!("failed {error}"),
        };
        let text = format!("{command} {} {} {line}\n", self.key.container, self.key.ifname);
        let log = OpenOptions::new().create(true).append(true).open(folder.join("plugin.log"));
        if let Ok(mut log) = log {
            let _ = log.write_all(text.as_bytes());
        }
    }

    fn add(&self) -> Result<Option<Value>, String> {
        let request = Request::AddNetwork {
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
        };
        let given = ask(&self.root, &request)??;
        self.wait_while_held().map_err(|error| format!("enter the pod: {error}"))?;
        let prefix = self.config["vethPrefix"].as_str().unwrap_or("eni");
        let link = format!("{prefix}{}", name_hash(&self.namespace, &self.pod));
        if let Err(error) = self.wire(&given, &link) {
            let undone =
                Request::DelNetwork { key: self.key.clone(), reason: "SetupNSFailed".to_owned() };
            let _ = ask(&self.root, &undone);
            return Err(format!("add command: failed to setup network: {error}"));
        }
        Ok(Some(self.result(&given, &link)))
    }

    /// Waits as long as a file says so, with an address and nothing yet to show for it, in the pod's namespace as the original is for most of
    /// its time.
    fn wait_while_held(&self) -> std::io::Result<()> {
        let (file, began) = (self.root.join("hold-add"), Instant::now());
        let (own, pod) = (fs::File::open("/proc/self/ns/net")?, fs::File::open(&self.netns)?);
        move_into_link_name_space(pod.as_fd(), Some(LinkNameSpaceType::Network))?;
        if file.exists() {
            // So that it is known that the daemon is not needed any more.
            let _ = fs::write(self.root.join("held-add"), &self.key.container);
        }
        while file.exists() && began.elapsed() < HELD_MAX {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    fn wire(&self, given: &Allocation, link: &str) -> Result<(), String> {
        let Allocation { address, table, .. } = given;
        let family = Family::of(*address);
        let host = family.host();
        let (gateway, scope) = match family {
            Family::Ipv4 => ("169.254.1.1", " scope link"),
            Family::Ipv6 => ("fe80::1", ""),
        };
        let pod = Place::Netns(&self.netns);
        let end = &self.key.ifname;
        let mtu = self.config["mtu"].as_str().and_then(|mtu| mtu.parse().ok());
        let mtu = mtu.filter(|mtu| (576..=9001).contains(mtu)).unwrap_or(9001_u32);
        let links = ip_json(Place::Here, "link show")?;
        if links.iter().any(|it| it["ifname"] == link) {
            ip(Place::Here, family, &[format!("link del dev {link}")])?;
        }
        let mac = free_mac(&links)?;
        let node = std::process::id();
        let make = format!(
            "link add name {end} mtu {mtu} type veth peer name {link} address {mac} mtu {mtu} netns {node}"
        );
        ip(pod, family, &[make])?;
        for (name, value) in [("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0")] {
            sysctl(Place::Here, &format!("net.ipv6.conf.{link}.{name}"), value)?;
        }
        ip(Place::Here, family, &[format!("link set dev {link} up")])?;
        if family == Family::Ipv6 {
            sysctl(pod, &format!("net.ipv6.conf.{end}.disable_ipv6"), "0")?;
            sysctl(pod, "net.ipv6.conf.lo.disable_ipv6", "0")?;
        }
        ip(
            pod,
            family,
            &[
                format!("link set dev {end} up"),
                format!("route replace {gateway}/{host} dev {end}{scope}"),
                format!("route add default via {gateway} dev {end}"),
                format!("address add {address}/{host} dev {end}"),
                format!("neigh add {gateway} lladdr {mac} dev {end} nud permanent"),
            ],
        )?;
        if family == Family::Ipv6 {
            self.wait_for_dad(end)?;
        }
        let mut lines = vec![
            format!("route replace {address}/{host} dev {link}{scope} table main"),
            format!("rule add to {address}/{host} lookup main pref 512"),
        ];
        if *table != 254 {
            lines.push(format!("rule add from {address}/{host} lookup {table} pref 1536"));
        }
        ip(Place::Here, family, &lines)
    }

    fn wait_for_dad(&self, end: &str) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let shown = ip_json(Place::Netns(&self.netns), &format!("-6 address show dev {end}"))?;
            let text = Value::from(shown).to_string();
            if !text.contains("tentative") && !text.contains("dadfailed") {
                return Ok(());
            }
            if began.elapsed() > TENTATIVE_MAX {
                return Err("address stays tentative".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn result(&self, given: &Allocation, link: &str) -> Value {
        let Allocation { address, device, table } = given;
        let digits = name_hash(&self.namespace, &self.pod);
        let version = self.config["cniVersion"].as_str().unwrap_or("0.4.0");
        let host = Family::of(*address).host();
        let mut own = json!({"interface": 1, "address": format!("{address}/{host}")});
        if version.starts_with("0.") {
            own["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
        }
        json!({
            "cniVersion": version,
            "interfaces": [
                {"name": link},
                {"name": self.key.ifname, "mac": table.to_string(), "sandbox": self.netns},
                {"name": format!("dummy{digits}"), "mac": "0", "sandbox": device.to_string()},
            ],
            "ips": [own],
            "dns": {},
        })
    }

    fn del(&self) -> Result<(), String> {
        let request =
            Request::DelNetwork { key: self.key.clone(), reason: "PodDeleted".to_owned() };
        match ask(&self.root, &request) {
            Ok(Ok(given)) => take_down(given.address, Some(given.table)),
            Ok(Err(error)) if error.contains(UNKNOWN_POD) => Ok(()),
            // The daemon is not there, or failed: what the last result says is taken down as far as that goes.
            Ok(Err(_)) | Err(_) => {
                let _ = self.take_down_as_told();
                Ok(())
            }
        }
    }

    fn take_down_as_told(&self) -> Result<(), String> {
        let result = &self.config["prevResult"];
        let address = result["ips"][0]["address"].as_str().and_then(|it| it.split('/').next());
        let address = address.and_then(|address| address.parse().ok()).ok_or("no address")?;
        let table = result["interfaces"][1]["mac"].as_str().and_then(|table| table.parse().ok());
        take_down(address, table)
    }
}

/// Removes what leads to a pod. Its link goes with its namespace.
fn take_down(address: IpAddr, table: Option<u32>) -> Result<(), String> {
    let family = Family::of(address);
    let host = family.host();
    let mut lines = vec![format!("rule del to {address}/{host} lookup main pref 512")];
    // By the numbers of old releases the main table is 1.
    if let Some(table) = table.filter(|table| ![1, 254].contains(table)) {
        let list = format!("{} rule show from {address}/{host} lookup {table}", family.option());
        let rules = ip_json(Place::Here, &list).unwrap_or_default();
        let one = format!("rule del from {address}/{host} lookup {table} pref 1536");
        lines.extend(rules.iter().map(|_| one.clone()));
    }
    let scope = if family == Family::Ipv4 { " scope link" } else { "" };
    lines.push(format!("route del {address}/{host}{scope} table main"));
    ip(Place::Here, family, &lines)
}

/// Returns a locally administered address that no link has.
fn free_mac(links: &[Value]) -> Result<String, String> {
    for _ in 0..10 {
        let random = fs::read(Path::new("/proc/sys/kernel/random/uuid"));
        let text = random.map_err(|error| format!("random: {error}"))?;
        let digits: Vec<char> =
            String::from_utf8_lossy(&text).chars().filter(char::is_ascii_hexdigit).collect();
        let byte = |at: usize| -> u8 {
            let text: String = digits[2 * at..2 * at + 2].iter().collect();
            u8::from_str_radix(&text, 16).unwrap_or_default()
        };
        let mut bytes = [0, 1, 2, 3, 4, 5].map(byte);
        bytes[0] = (bytes[0] | 2) & 0xfe;
        let mac = bytes.map(|byte| format!("{byte:02x}")).join(":");
        if links.iter().all(|link| link["address"] != mac.as_str()) {
            return Ok(mac);
        }
    }
    Err("no address is free".to_owned())
}
