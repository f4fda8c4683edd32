//! The daemon.

use core::convert::Infallible;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::{self, Entry};
use crate::pool::{Pool, carries};
use crate::programs::{Family, Place, ip, ip_json};
use crate::settings::Settings;
use crate::{conflist, eni, host, plugin, wire};

/// Starts, and serves until it is killed.
pub(crate) fn run(root: &Path, ec2: &Path) -> Result<Infallible, String> {
    let settings = Settings::from_vars()?;
    let metadata = eni::metadata(ec2)?;
    host::set_up(&settings, &metadata)?;
    for secondary in &metadata.observation.enis {
        if secondary.id != metadata.node.primary {
            eni::set_up(&settings, &metadata, secondary)?;
        }
    }
    let mut pool = Pool {
        root: root.to_owned(),
        settings,
        metadata,
        entries: checkpoint::read(root)?,
        cooling: BTreeMap::new(),
    };
    prune(&mut pool)?;
    checkpoint::write(root, &pool.entries)?;
    make_pod_rules(&pool)?;
    serve(root, pool)
}

/// Drops allocations of addresses that no ENI has, and of pods whose link is gone, with the rules of the latter.
fn prune(pool: &mut Pool) -> Result<(), String> {
    let enis = &pool.metadata.observation.enis;
    pool.entries.retain(|entry| enis.iter().any(|eni| carries(eni, entry.address)));
    let links = ip_json(Place::Here, "link show")?;
    let has_link = |entry: &Entry| {
        // An entry without a pod has no name to look for.
        let Some((namespace, pod)) = entry.pod() else { return true };
        let digits = plugin::name_hash(namespace, pod);
        links.iter().any(|link| link["ifname"].as_str().is_some_and(|name| name.ends_with(&digits)))
    };
    let (there, gone): (Vec<Entry>, Vec<Entry>) =
        pool.entries.drain(..).partition(|entry| has_link(entry));
    pool.entries = there;
    for Entry { address, .. } in gone {
        let family = Family::of(address);
        let host = family.host();
        let mut lines = vec![format!("rule del to {address}/{host} lookup main pref 512")];
        let own = format!("{} rule show from {address}/{host} pref 1536", family.option());
        let rules = ip_json(Place::Here, &own)?;
        lines.extend(rules.iter().map(|_| format!("rule del from {address}/{host} pref 1536")));
        ip(Place::Here, family, &lines)?;
    }
    Ok(())
}

/// Replaces all rules from each pod's address by one: a migration from the days of a rule for each range of the VPC, which is done at
/// every start.
fn make_pod_rules(pool: &Pool) -> Result<(), String> {
    let family = if pool.settings.ipv6 { Family::Ipv6 } else { Family::Ipv4 };
    let rules = ip_json(Place::Here, &format!("{} rule show", family.option()))?;
    let mut lines = Vec::new();
    for Entry { address, .. } in &pool.entries {
        let own = address.to_string();
        let from = rules.iter().filter(|rule| rule["src"] == own.as_str());
        let mut table = None;
        for rule in from {
            table = rule["table"].as_str();
            let (priority, table) = (&rule["priority"], table.unwrap_or("main"));
            lines.push(format!("rule del from {own} lookup {table} pref {priority}"));
        }
        if let Some(table) = table {
            lines.push(format!("rule add from {own} lookup {table} pref 1536"));
        }
    }
    ip(Place::Here, family, &lines)
}

fn serve(root: &Path, pool: Pool) -> Result<Infallible, String> {
    let path = wire::socket(root);
    let failed = |error: io::Error| format!("listen at {}: {error}", path.display());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    // Introspection and metrics, where the tests ask only who listens.
    let _ports: Vec<TcpListener> = ["127.0.0.1:61679", "0.0.0.0:61678"]
        .into_iter()
        .filter_map(|at| TcpListener::bind(at).ok())
        .collect();
    let written = conflist::write(root, &pool.settings);
    let pool = Arc::new(Mutex::new(pool));
    if let Err(error) = written {
        eprintln!("{error}");
    }
    loop {
        let (stream, _) = listener.accept().map_err(failed)?;
        let pool = Arc::clone(&pool);
        std::thread::spawn(move || {
            if let Err(error) = answer(stream, &pool) {
                eprintln!("answer: {error}");
            }
        });
    }
}

fn answer(mut stream: UnixStream, pool: &Mutex<Pool>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    if line.starts_with("PRI * HTTP/2.0") {
        // A client of gRPC: the empty SETTINGS by which a server of HTTP/2 introduces itself.
        return stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    }
    if line.is_empty() {
        // Who only looks whether it is served.
        return Ok(());
    }
    let request = serde_json::from_str(&line)?;
    let reply = pool.lock().unwrap_or_else(PoisonError::into_inner).answer(request);
    stream.write_all((serde_json::to_string(&reply)? + "\n").as_bytes())
}
