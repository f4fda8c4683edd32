//! What a lab says while it works.

use core::time::Duration;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use vpc_ipam_core::{Action, Event, Issued, Outcome, Timestamp};
use vpc_ipamd::Notice;

use crate::lab::{LabAddress, LabSpec, LabSubnet, Mode, Notices, PerNode};

/// Prints lines with the time since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    pub(super) fn line(&self, who: &str, what: &str) {
        print_line(&mut std::io::stdout(), self.elapsed(), who, what);
    }
}

fn print_line(out: &mut dyn Write, at: Duration, who: &str, what: &str) {
    // The reader is gone: the work goes on all the same.
    let _ = writeln!(out, "{:>7.3}  {who:<6} {what}", at.as_secs_f64());
}

/// Prints a line. Who does not read on is not waited for, and nothing fails by it.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints what the daemon does, until it ends.
pub(super) fn follow(
    watch: Stopwatch,
    notices: Notices,
    mut out: impl Write + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut first: Option<(Timestamp, Duration)> = None;
        while let Some(notice) = notices.recv() {
            // The daemon's clock and ours differ by a constant.
            let at = |when: Timestamp, first: &mut Option<(Timestamp, Duration)>| {
                let (zero, since) = *first.get_or_insert((when, watch.elapsed()));
                since + when.since(zero)
            };
            match notice {
                Notice::HostReady { changed } => {
                    let what = format!("set up: {} changes of the node's network", changed.len());
                    print_line(&mut out, watch.elapsed(), "host", &what);
                }
                Notice::Issued(when, Issued { action, because, .. }) => {
                    let who = match &action {
                        Action::Ec2(_) => "ec2",
                        Action::Host(_) => "host",
                    };
                    let what = format!("{action} because {because}");
                    print_line(&mut out, at(when, &mut first), who, &what);
                }
                Notice::Ended(when, id, Outcome::Failed(failure)) => {
                    let what = format!("action {id} failed: {failure}");
                    print_line(&mut out, at(when, &mut first), "", &what);
                }
                Notice::Ended(..) => {}
                Notice::Happened(when, event) => {
                    if let Some(what) = describe(&event) {
                        print_line(&mut out, at(when, &mut first), "", &what);
                    }
                }
            }
            let missed = notices.missed();
            if missed > 0 {
                let what =
                    format!("{missed} later notices are missing here: they were not read in time");
                print_line(&mut out, watch.elapsed(), "", &what);
            }
        }
    })
}

/// Prints a line on standard error, once what a printer has is printed. It waits no longer than a second for a reader who does not
/// read on.
pub(super) fn tell(printer: Option<JoinHandle<()>>, line: String) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let (done, is_done) = channel::<()>();
    thread::spawn(move || {
        if let Some(printer) = printer {
            let _ = printer.join();
        }
        let _ = writeln!(std::io::stderr(), "vpc-ipam: {line}");
        drop(done);
    });
    // The channel closes when the line is printed.
    let _ = is_done.recv_timeout(PATIENCE);
}

fn describe(event: &Event) -> Option<String> {
    Some(match event {
        Event::EniReady { eni } => format!("{eni} is ready"),
        Event::EniRemoved { eni } => format!("{eni} is gone"),
        Event::BlocksAdded { eni, blocks } => format!("{eni} has {} more blocks", blocks.len()),
        Event::BlocksRemoved { eni, blocks } => {
            format!("{eni} released {} blocks", blocks.len())
        }
        Event::EniVanished { eni, pods } => {
            format!("{eni} vanished, and with it the addresses of {} pods", pods.len())
        }
        Event::SourcesDisagree { eni, cause } => format!("{eni} is unconfirmed: {cause}"),
        Event::Failing { scope, .. } => scope.to_string(),
        Event::Recovered { scope, .. } => format!("over: {scope}"),
        Event::AddressLost { key, address } => format!("EC2 took {address} from {key}"),
        _ => return None,
    })
}

/// Says where a lab is and how to use it.
pub(super) fn address(spec: &LabSpec, mode: &Mode, address: &LabAddress) {
    let LabAddress { node_netns, socket, cni_bin_dir, cni_conf_dir, instance_id, .. } = address;
    let (name, of_type) = (&spec.name, spec.instance_type);
    say(&format!("lab {name} is up; Ctrl-C removes it"));
    say(&format!("  instance       {instance_id}, {of_type}"));
    for line in super::demo::about_pods(mode) {
        say(&format!("  pods           {line}"));
    }
    let subnets = [
        ("of the node", Some(address.subnets.node)),
        ("of host2", Some(address.subnets.other_host)),
        ("of pods", address.subnets.pods),
    ];
    for (whose, subnet) in subnets {
        let Some(LabSubnet { id, ipv4_cidr, ipv6_cidr }) = subnet else { continue };
        let ipv6 = ipv6_cidr.map_or_else(String::new, |cidr| format!(" {cidr}"));
        say(&format!("  subnet         {id} {ipv4_cidr}{ipv6} {whose}"));
    }
    say(&format!("  namespace      /run/netns/{node_netns}"));
    say(&format!("  daemon         {}", socket.display()));
    say(&format!("  CNI plugin     {}", cni_bin_dir.join("vpc-cni").display()));
    say(&format!("  CNI conflist   {}", cni_conf_dir.join("10-vpc-ipam.conflist").display()));
    if let (Some(ec2), Some(imds)) = (&address.ec2_endpoint, &address.imds_endpoint) {
        say(&format!("  EC2            {ec2} in the node's namespace"));
        say(&format!("  IMDS           {imds} in the node's namespace"));
    }
    if super::user_namespace::is_inside() {
        say("These paths are the lab's own: only what `lab exec` runs finds them.");
    }
    // As it was typed, since it need not be where a shell looks.
    let program = std::env::args().next().unwrap_or_else(|| "vpc-ipam".to_string());
    let which = match name.to_string().as_str() {
        "lab" => String::new(),
        other => format!(" --name {other}"),
    };
    say("In another terminal:");
    if !spec.daemon {
        say(&format!("  {program} lab exec{which} node -- env {}", daemon_command(spec, address)));
    }
    say(&format!("  {program} lab pod add{which} web"));
    say(&format!("  {program} lab exec{which} web -- ip addr"));
    say(&format!("  {program} lab exec{which} node -- ip rule"));
    let socket = quoted(&socket.display().to_string());
    say(&format!("  {program} lab exec{which} node -- {program} status --socket {socket}"));
}

/// Returns how the lab's own daemon would be started as a program, variables first.
fn daemon_command(spec: &LabSpec, address: &LabAddress) -> String {
    let given = spec.vars.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
    // None of the caller's own, and no way to the metadata service of this machine.
    let lab = [
        "AWS_EC2_METADATA_DISABLED=true",
        "AWS_ACCESS_KEY_ID=lab",
        "AWS_SECRET_ACCESS_KEY=lab",
        "AWS_REGION=lab-1",
    ];
    let mut words: Vec<_> = given.chain(lab.map(str::to_string)).collect();
    words.push(quoted(&address.cni_bin_dir.join("vpc-ipamd").display().to_string()));
    let path = |path: &Path| path.display().to_string();
    let PerNode { labels, pods_max, .. } = &spec.per_node;
    let options = [
        ("--socket", Some(path(&address.socket))),
        ("--state", Some(path(&address.socket.with_file_name("state.redb")))),
        ("--ec2-endpoint", address.ec2_endpoint.clone()),
        ("--imds-endpoint", address.imds_endpoint.clone()),
        ("--overrides", address.overrides.as_deref().map(path)),
        ("--limits", address.limits.as_deref().map(path)),
        ("--max-pods", pods_max.map(|most| most.to_string())),
    ];
    let labels = labels.iter().map(|(key, value)| ("--label", Some(format!("{key}={value}"))));
    for (option, value) in options.into_iter().chain(labels) {
        words.extend(value.map(|value| format!("{option} {}", quoted(&value))));
    }
    words.join(" ")
}

/// Returns a word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_a_program_as_they_are() {
        for word in
            ["plain", "", "two words", "it's", r#"{"team": "net"}"#, "$HOME", "a\\b", "a\nb"]
        {
            let script = format!("printf %s {}", quoted(word));
            let printed = std::process::Command::new("sh").args(["-c", &script]).output();
            assert_eq!(printed.unwrap().stdout, word.as_bytes(), "{word:?}");
        }
    }
}
