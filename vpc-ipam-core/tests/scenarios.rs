//! Sessions of an operator with a node: commands in, what the node does, why, and what it explains, out.
//!
//! Each `tests/scenarios/*.txt` is a transcript. Lines that begin with `$` are commands, those with `#` remarks, the rest
//! is what the commands printed, and must come out again. `UPDATE_SCENARIOS=1 cargo test -p vpc-ipam-core --test scenarios`
//! writes what comes out into the files; read the difference before you commit it.
//!
//! Time begins at noon and passes only with `wait`. ENIs and subnets are numbered in the order in which they appear.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "one variable lets the transcripts be written")]

mod node;

use core::fmt::Write as _;
use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use node::{Node, Setup, Told, Trouble, names};
use vpc_ipam_core::sim::CreateInterface;
use vpc_ipam_core::{
    Action, CardChoice, DeviceIndex, Ec2Action, EniConfig, Event, InterfaceType, Issued, Lease,
    Observation, Released, Source, Timestamp, UnassignPrivateIpAddresses, WarmTarget,
};

#[test]
fn every_session_comes_out_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    assert!(!files.is_empty(), "no session in {}", folder.display());
    let mut different = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let played = play(&written, &file);
        if update {
            std::fs::write(&file, &played).unwrap();
        } else if played != written {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            different.push(format!("{name}: {}", first_difference(&written, &played)));
        }
    }
    assert!(
        different.is_empty(),
        "sessions come out differently (UPDATE_SCENARIOS=1 writes them anew):\n{}",
        different.join("\n")
    );
}

fn first_difference(written: &str, played: &str) -> String {
    let (mut left, mut right) = (written.lines(), played.lines());
    for line in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => return format!("line {line}: written {a:?}, played {b:?}"),
        }
    }
    "line ends differ".to_string()
}

/// Plays the commands of a transcript and returns the transcript with what they print.
fn play(transcript: &str, file: &Path) -> String {
    let mut session = Session::default();
    let mut out = String::new();
    for (number, line) in transcript.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
        } else if let Some(command) = line.strip_prefix("$ ") {
            writeln!(out, "{line}").unwrap();
            let said = session.command(command).unwrap_or_else(|| {
                panic!("{}:{}: unknown command {command}", file.display(), number + 1)
            });
            out.push_str(&session.readable(&said));
        }
    }
    session.end();
    out
}

/// A node and the names that its ENIs and subnets have in the transcript.
#[derive(Default)]
struct Session {
    setup: Option<Setup>,
    node: Option<Node>,
    shown: usize,
    names: BTreeMap<String, String>,
    /// What IMDS showed when it stood still.
    stale: Option<Observation>,
}

impl Session {
    /// Does what a command says and returns what it prints, or nothing for a command that is not known.
    fn command(&mut self, command: &str) -> Option<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            // The VPC, before the node.
            ["vpc", cidr, tags @ ..] => {
                let setup = Setup::within(cidr, &pairs(tags), "m5.large", &[]);
                self.name("subnet", setup.subnet.as_str());
                self.setup = Some(setup);
            }
            ["subnet", cidr, tags @ ..] => {
                let subnet = self.setup.as_mut()?.subnet(cidr, &pairs(tags));
                self.name("subnet", subnet.as_str());
            }
            ["node", instance_type, vars @ ..] => {
                let notes = self.start(instance_type, vars);
                return Some(notes + &self.told());
            }
            ["add", rest @ ..] => return Some(self.add(rest)),
            ["del", rest @ ..] => {
                let mut said = String::new();
                for name in expand(rest) {
                    match self.node().del(&name) {
                        Released::Lease { lease, .. } => {
                            writeln!(said, "{name} gives {} up", addresses(&lease)).unwrap();
                        }
                        Released::WasWaiting => writeln!(said, "{name} was waiting").unwrap(),
                        Released::Unknown => writeln!(said, "{name} is not known").unwrap(),
                    }
                }
                return Some(said + &self.told());
            }
            ["wait", time] => {
                let secs = match time.strip_suffix("min") {
                    Some(minutes) => minutes.parse::<u64>().unwrap() * 60,
                    None => time.strip_suffix('s').unwrap().parse().unwrap(),
                };
                self.node().run_for(secs);
            }
            ["explain"] => {
                let node = self.node();
                return Some(node.ipam.explain(node.now).to_string());
            }
            ["status"] => {
                let node = self.node();
                return Some(format!("{}\n", node.ipam.readiness(node.now)));
            }
            ["set", vars @ ..] => {
                let vars = pairs(vars);
                let notes = notes(&vars);
                self.node().set(&vars);
                return Some(notes + &self.told());
            }
            ["policy", "batch", size, "buffer", percent] => {
                let (batch, buffer) = (size.parse().unwrap(), percent.strip_suffix('%').unwrap());
                let buffer_percent = buffer.parse().unwrap();
                let node = self.node();
                node.config.target = WarmTarget::Batch { batch, buffer_percent };
                node.ipam.handle_config(node.config.clone(), node.now).unwrap();
                node.run();
            }
            ["imds", "stands", "still"] => {
                let shown = self.node().shown(Source::Imds);
                self.stale = Some(shown);
            }
            ["imds", "shows", "what", "it", "showed", "then"] => {
                let stale = self.stale.clone().expect("IMDS stood still before");
                let node = self.node();
                node.observe(&stale.with_as_of(node.now));
            }
            ["eniconfig", subnet] => {
                let subnet = self.id(subnet).parse().unwrap();
                let config = EniConfig::new(subnet);
                self.node().set_eni_config(config);
            }
            ["cordon"] => self.with(|node| node.ipam.handle_schedulable(false, node.now)),
            ["uncordon"] => self.with(|node| node.ipam.handle_schedulable(true, node.now)),
            ["terminate"] => self.with(|node| node.ipam.handle_terminating(node.now)),
            ["restart"] => self.with(Node::restart),
            // What the cloud does.
            ["ec2", "refuses", call, code] => self.node().refuse(call, code, u32::MAX),
            ["ec2", "refuses", call, code, "once"] => self.node().refuse(call, code, 1),
            ["ec2", "refuses", call, code, "twice"] => self.node().refuse(call, code, 2),
            ["ec2", "does", call, "and", "loses", "the", "answer"] => {
                self.node().trouble(call, Trouble::LoseAnswer, 1);
            }
            ["ec2", "loses", "the", "call", call] => {
                self.node().trouble(call, Trouble::LoseCall, 1);
            }
            ["ec2", "heals"] => self.node().heal(),
            ["others", "take", "all", "but", count, "of", subnet] => {
                let subnet = self.id(subnet).parse().unwrap();
                self.node().crowd(subnet, count.parse().unwrap());
            }
            ["others", "leave", subnet] => {
                let subnet = self.id(subnet).parse().unwrap();
                let node = self.node();
                let unmanaged: Vec<_> = node
                    .cloud
                    .interfaces()
                    .filter(|eni| eni.subnet == subnet && eni.attachment.is_none())
                    .map(|eni| eni.id)
                    .collect();
                for eni in unmanaged {
                    node.cloud.delete_network_interface(eni, node.now).unwrap();
                }
            }
            ["another", "program", "attaches", kind, "at", device, tags @ ..] => {
                let kind = match *kind {
                    "efa" => InterfaceType::Efa,
                    "efa-only" => InterfaceType::EfaOnly,
                    "trunk" => InterfaceType::Trunk,
                    _ => InterfaceType::Interface,
                };
                let tags = pairs(tags);
                let node = self.node();
                let eni: CreateInterface = node.foreign(&tags, kind);
                node.plug(eni, 0, device.parse().unwrap());
            }
            ["another", "program", "detaches", eni] => {
                let id = self.id(eni).parse().unwrap();
                let node = self.node();
                let attachment = node.cloud.interface(&id).unwrap().attachment.as_ref().unwrap().id;
                node.cloud.detach_network_interface(attachment, node.now).unwrap();
                node.cloud.delete_network_interface(id, node.now).unwrap();
            }
            ["another", "program", "unassigns", "the", "address", "of", name] => {
                let node = self.node();
                let lease = node.stored[&Node::key(name)].clone();
                let address: Ipv4Addr = lease.first.ipv4.unwrap();
                let call = UnassignPrivateIpAddresses {
                    eni: lease.first.eni,
                    blocks: vec![address.into()],
                };
                node.cloud.unassign_private_ip_addresses(&call, node.now).unwrap();
            }
            ["an", "untracked", "owner", "uses", "the", "address", "of", name] => {
                let node = self.node();
                let address = node.address(name).unwrap();
                let _ = node.del(name);
                node.ipam.handle_untracked(address, true, node.now);
                node.run();
            }
            ["imds", "omits", eni] => {
                let id = self.id(eni).parse().unwrap();
                let node = self.node();
                let mut shown = node.shown(Source::Imds);
                shown.enis.retain(|eni| eni.id != id);
                node.observe(&shown);
            }
            ["imds", "shows", "nothing"] => {
                let node = self.node();
                let mut shown = node.shown(Source::Imds);
                shown.enis.clear();
                node.observe(&shown);
            }
            ["imds", "shows", "no", "addresses", "of", eni] => {
                let id = self.id(eni).parse().unwrap();
                let node = self.node();
                let mut shown = node.shown(Source::Imds);
                for eni in shown.enis.iter_mut().filter(|eni| eni.id == id) {
                    eni.blocks.clear();
                }
                node.observe(&shown);
            }
            ["calls"] => return Some(self.calls()),
            _ => return None,
        }
        Some(self.told())
    }

    /// Whatever was played can be replayed.
    fn end(&mut self) {
        if let Some(node) = &mut self.node {
            node.assert_replays();
        }
    }

    /// Starts a node and returns what there is to remark on its settings.
    fn start(&mut self, instance_type: &str, vars: &[&str]) -> String {
        self.end();
        let mut vars = pairs(vars);
        let cap = vars.iter().position(|(name, _)| *name == "max-pods");
        let cap = cap.map(|index| vars.remove(index).1.parse().unwrap());
        let setup = self.setup.take();
        let mut setup = setup.unwrap_or_else(|| Setup::new(instance_type, &[]));
        setup.limits = vpc_ipam_core::Limits::lookup(instance_type.parse().unwrap()).unwrap();
        setup.config = vpc_ipam_core::Config::from_vars(vars.iter().copied()).0;
        setup.config.pods_max = cap;
        let mut notes = notes(&vars);
        for note in setup.config.warnings_on(&setup.limits) {
            writeln!(notes, "note: {note}").unwrap();
        }
        let mut node = setup.start();
        // Another node of the same session has the names to itself.
        if self.node.is_some() {
            self.names.clear();
        }
        self.name("subnet", node.subnet.as_str());
        self.name("i", node.instance.as_str());
        let primary = node.ipam.node().primary;
        self.name("eni", primary.as_str());
        node.run();
        self.node = Some(node);
        self.shown = 0;
        notes
    }

    fn add(&mut self, words: &[&str]) -> String {
        let (words, cards) = match words {
            [rest @ .., "on", "every", "card"] => (rest, CardChoice::Every),
            _ => (words, CardChoice::Any),
        };
        let mut said = String::new();
        let mut given: Vec<(String, String, String)> = Vec::new();
        let mut waiting = Vec::new();
        for name in expand(words) {
            match self.node().ask_on(&name, cards) {
                Ok(Some(lease)) => {
                    given.push((name, addresses(&lease), lease.first.eni.to_string()));
                }
                Ok(None) => waiting.push(name),
                Err(error) => {
                    say_given(&mut said, &mut given);
                    write!(said, "{name} is refused: {error}").unwrap();
                    match error.retry_at() {
                        Some(at) => writeln!(said, "; try again at {at}").unwrap(),
                        None => said.push('\n'),
                    }
                }
            }
        }
        say_given(&mut said, &mut given);
        match waiting.as_slice() {
            [] => {}
            [one] => writeln!(said, "{one} waits").unwrap(),
            [first, .., last] => {
                writeln!(said, "{first} to {last}: {} pods wait", waiting.len()).unwrap();
            }
        }
        self.node().run();
        said + &self.told()
    }

    /// Returns what happened since the last command, a line each; what only asks is left out.
    fn told(&mut self) -> String {
        let shown = self.shown;
        let log: Vec<_> =
            self.node.iter().flat_map(|node| node.log[shown..].iter().cloned()).collect();
        self.shown += log.len();
        let mut said = String::new();
        let mut granted: Vec<(Timestamp, String, String)> = Vec::new();
        for (at, told) in log {
            if let Told::Granted(key, lease) = &told {
                granted.push((at, key.container().to_string(), addresses(lease)));
                continue;
            }
            flush(&mut said, &mut granted);
            match told {
                Told::Issued(Issued { action, because, .. }) => {
                    if changes(&action) {
                        writeln!(said, "{at} {action}: {because}").unwrap();
                    }
                }
                Told::Event(event) => {
                    if let Event::EniAppeared { eni, .. } = &event {
                        self.name("eni", eni.as_str());
                    }
                    writeln!(said, "{at}   {}", describe(&event)).unwrap();
                }
                Told::Refused(key, error) => {
                    writeln!(said, "{at} {} is refused: {error}", key.container()).unwrap();
                }
                Told::Granted(..) => {}
            }
        }
        flush(&mut said, &mut granted);
        said
    }

    fn calls(&mut self) -> String {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for (_, told) in &self.node().log {
            let Told::Issued(Issued { action: Action::Ec2(action), .. }) = told else { continue };
            if let Some(operation) = action.operation() {
                *counts.entry(operation.name().to_string()).or_default() += 1;
            }
        }
        counts.into_iter().map(|(name, count)| format!("{count} {name}\n")).collect()
    }

    fn with(&mut self, act: impl FnOnce(&mut Node)) {
        let node = self.node();
        act(node);
        node.run();
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("the session has started a node")
    }

    /// Gives an id the next name of its kind, unless it has one.
    fn name(&mut self, kind: &str, id: &str) {
        let count =
            self.names.values().filter(|name| name.starts_with(&format!("{kind}-"))).count();
        self.names.entry(id.to_string()).or_insert_with(|| format!("{kind}-{}", count + 1));
    }

    /// Returns the id that has a name.
    fn id(&self, name: &str) -> String {
        let named = self.names.iter().find(|(_, named)| *named == name);
        named.unwrap_or_else(|| panic!("nothing is named {name}")).0.clone()
    }

    /// Replaces ids by their names and points in time by the time of day.
    fn readable(&self, text: &str) -> String {
        let mut text = text.to_string();
        for (id, name) in &self.names {
            text = text.replace(id, name);
        }
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some(start) = rest.find("2026-01-01T") {
            let (before, from) = rest.split_at(start);
            let (time, after) = from.split_at(from.find('Z').unwrap());
            out.push_str(before);
            out.push_str(&time["2026-01-01T".len()..].chars().take(8).collect::<String>());
            rest = &after[1..];
        }
        out + rest
    }
}

/// Says which pods got which addresses: of many on one ENI in a row, only how many.
fn say_given(said: &mut String, given: &mut Vec<(String, String, String)>) {
    for of_one in given.chunk_by(|a, b| a.2 == b.2) {
        let ((first, ..), (last, ..)) = (&of_one[0], &of_one[of_one.len() - 1]);
        if of_one.len() > 3 {
            let eni = &of_one[0].2;
            writeln!(said, "{first} to {last}: {} pods get addresses of {eni}", of_one.len())
                .unwrap();
        } else {
            for (name, address, eni) in of_one {
                writeln!(said, "{name} gets {address} of {eni}").unwrap();
            }
        }
    }
    given.clear();
}

fn flush(said: &mut String, granted: &mut Vec<(Timestamp, String, String)>) {
    for at_once in granted.chunk_by(|a, b| a.0 == b.0) {
        match at_once {
            [] => {}
            [(at, name, address)] => writeln!(said, "{at} {name} gets {address}").unwrap(),
            [(at, first, _), .., (_, last, _)] => {
                let count = at_once.len();
                writeln!(said, "{at} {first} to {last}: {count} pods get addresses").unwrap();
            }
        }
    }
    granted.clear();
}

fn changes(action: &Action) -> bool {
    !matches!(
        action,
        Action::Ec2(
            Ec2Action::DescribeNetworkInterfaces(_)
                | Ec2Action::DescribeSubnets
                | Ec2Action::ReadMetadata
        )
    )
}

fn describe(event: &Event) -> String {
    let pods = |pods: &[vpc_ipam_core::PodKey]| {
        pods.iter().map(|key| key.container()).collect::<Vec<_>>().join(", ")
    };
    match event {
        Event::EniAppeared { eni, device: DeviceIndex(u8::MAX), .. } => {
            format!("{eni} is there, attached to nothing")
        }
        Event::EniAppeared { eni, card, device } => format!("{eni} is there, {card} {device}"),
        Event::EniReady { eni } => format!("{eni} is ready"),
        Event::EniRemoved { eni } => format!("{eni} is deleted"),
        Event::EniVanished { eni, pods: of } => format!("{eni} vanished with pods [{}]", pods(of)),
        Event::BlocksAdded { eni, blocks } => format!("{eni} gets {}", list(blocks)),
        Event::BlocksRemoved { eni, blocks } => format!("{eni} gives {} up", list(blocks)),
        Event::AddressLost { key, address } => format!("{} lost {address}", key.container()),
        Event::SourcesDisagree { eni, cause } => format!("{eni} is unconfirmed: {cause}"),
        Event::ObservationPutAside { source, enis, .. } => {
            format!("an answer of {source} with {enis} ENIs is put aside")
        }
        Event::ActionFailed { failure, .. } => format!("failed: {failure}"),
        Event::BlocksRefused { eni, blocks } => format!("{eni} cannot have {}", list(blocks)),
        Event::Failing { scope, failure, until } => {
            format!("{scope} ({}), left alone until {until}", failure.kind)
        }
        Event::Recovered { scope, failures } => format!("over after {failures}: {scope}"),
        other => format!("{other:?}"),
    }
}

/// Lists blocks, of many only the first.
fn list(blocks: &[IpNet]) -> String {
    let bare = |net: &IpNet| match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    };
    match blocks {
        [first, _, _, _, ..] => format!("{} and {} more", bare(first), blocks.len() - 1),
        few => few.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn addresses(lease: &Lease) -> String {
    lease.addresses().map(|address| address.to_string()).collect::<Vec<_>>().join(" and ")
}

/// Returns what there is to remark on variables.
fn notes(vars: &[(&str, &str)]) -> String {
    let (_, notes) = vpc_ipam_core::Config::from_vars(vars.iter().copied());
    notes.iter().map(|note| format!("note: {note}\n")).collect()
}

/// Reads `K=V` words.
fn pairs<'a>(words: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    words.iter().map(|word| word.split_once('=').unwrap()).collect()
}

/// Reads pod names; `web 1..30` stands for `web-1` to `web-30`.
fn expand(words: &[&str]) -> Vec<String> {
    match words {
        [prefix, range] if range.contains("..") => {
            let (first, last) = range.split_once("..").unwrap();
            names(prefix, first.parse().unwrap()..=last.parse().unwrap())
        }
        _ => words.iter().map(ToString::to_string).collect(),
    }
}
