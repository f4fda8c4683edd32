//! What traffic control has on links: programs and shapers that other programs put there.

use std::io;
use std::process::Command;

use serde_json::Value;

/// What is on a link besides the queue that every link has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficControl {
    /// The link.
    pub link: String,
    /// The kinds of queues, and what their filters are.
    pub what: String,
}

/// The queues that the kernel gives links by itself.
const PLAIN: [&str; 6] = ["noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo"];

/// Asks tc, in the network namespace of the caller.
pub(super) fn read() -> Result<Vec<TrafficControl>, String> {
    let mut found = parse_queues(&tc(&["-j", "qdisc", "show"])?)?;
    for control in &mut found {
        for side in ["ingress", "egress"] {
            let filters = tc(&["-j", "filter", "show", "dev", &control.link, side]);
            // A link that is gone meanwhile has none.
            let filters = filters.and_then(|text| parse_filters(&text)).unwrap_or_default();
            for filter in filters {
                control.what += &format!(", {side} {filter}");
            }
        }
    }
    Ok(found)
}

fn tc(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("tc").args(arguments).env("LC_ALL", "C").output();
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "tc is not installed, which is part of iproute2".to_owned(),
        _ => format!("tc {}: {error}", arguments.join(" ")),
    })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let says = String::from_utf8_lossy(&output.stderr);
        Err(format!("tc {}: {}", arguments.join(" "), says.trim()))
    }
}

fn parse(text: &str) -> Result<Vec<Value>, String> {
    // Some versions print nothing where there is nothing.
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).map_err(|error| format!("what tc prints: {error}"))
}

fn parse_queues(text: &str) -> Result<Vec<TrafficControl>, String> {
    let mut found: Vec<TrafficControl> = Vec::new();
    for queue in parse(text)? {
        let (Some(link), Some(kind)) = (queue["dev"].as_str(), queue["kind"].as_str()) else {
            continue;
        };
        if PLAIN.contains(&kind) {
            continue;
        }
        match found.iter_mut().find(|it| it.link == link) {
            Some(known) => known.what += &format!(", {kind}"),
            None => found.push(TrafficControl { link: link.to_owned(), what: kind.to_owned() }),
        }
    }
    Ok(found)
}

/// Returns filters in words: their kind, and the name of a program.
fn parse_filters(text: &str) -> Result<Vec<String>, String> {
    let mut found: Vec<String> = Vec::new();
    for filter in parse(text)? {
        let (Some(kind), options) = (filter["kind"].as_str(), &filter["options"]) else { continue };
        let program = options["bpf_name"].as_str().or(options["prog"]["name"].as_str());
        let words = match program {
            Some(name) => format!("{kind} {name}"),
            None => kind.to_owned(),
        };
        // A filter is listed for itself and for each of its parts.
        if options.is_object() && !found.contains(&words) {
            found.push(words);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As iproute2 6.1 prints it.
    #[test]
    fn programs_and_shapers_are_told_from_the_queue_that_every_link_has() {
        let queues = r#"[{"kind":"noqueue","handle":"0:","dev":"lo","root":true,"refcnt":2,"options":{}},
            {"kind":"fq_codel","handle":"0:","dev":"eth0","root":true,"options":{}},
            {"kind":"noqueue","handle":"0:","dev":"eni0","root":true,"options":{}},
            {"kind":"clsact","handle":"ffff:","dev":"eni0","parent":"ffff:fff1","options":{}},
            {"kind":"tbf","handle":"1:","dev":"eni1","root":true,"options":{"rate":125000}},
            {"kind":"ingress","handle":"ffff:","dev":"eni1","parent":"ffff:fff1"}]"#;
        let found = parse_queues(queues).unwrap();
        let found: Vec<_> = found.iter().map(|it| (it.link.as_str(), it.what.as_str())).collect();
        assert_eq!(found, [("eni0", "clsact"), ("eni1", "tbf, ingress")]);

        let filters = r#"[{"protocol":"all","pref":1,"kind":"bpf","chain":0},
            {"protocol":"all","pref":1,"kind":"bpf","chain":0,"options":{"handle":"0x1","bpf_name":"handle_ingress","direct-action":true}},
            {"protocol":"all","pref":2,"kind":"matchall","chain":0,"options":{"handle":1}}]"#;
        assert_eq!(parse_filters(filters).unwrap(), ["bpf handle_ingress", "matchall"]);
        assert_eq!(parse_queues("\n").unwrap(), []);
        assert!(parse_queues("Cannot").unwrap_err().starts_with("what tc prints: "));
    }
}
