//! Which programs run, and which of them listen where amazon-vpc-cni-k8s does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::NodeProcess;
use crate::node_files::{NodeFiles, Process};

/// A socket at which amazon-vpc-cni-k8s listens, and who does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The socket: a path, or an address and a port.
    pub socket: String,
    /// The program; none where no process that can be seen has it.
    pub owner: Option<NodeProcess>,
}

/// The ports of amazon-vpc-cni-k8s: its plugin's up to 1.22, metrics, introspection.
const PORTS: [u16; 3] = [50051, 61678, 61679];

/// The name of its plugin's socket since 1.23. `npa.sock` beside it is that of the network policy agent, which is another program.
const SOCKET: &str = "ipamd.sock";

/// The state of a TCP socket that listens, in the kernel's numbers.
const LISTENS: &str = "0A";

/// Returns the programs that run in the network namespace of the caller, those of which that cannot be told, and plugins of a folder: those
/// are in the namespace of a pod while they work on it.
pub(super) fn processes(files: &NodeFiles, plugins: &Path) -> Result<Vec<NodeProcess>, String> {
    let place = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
    // The kernel's links there lead to no path.
    let of_process =
        |pid: u32, name: &str| place(&files.at("/proc").join(pid.to_string()).join(name));
    let own = place(Path::new("/proc/thread-self/ns/net")).ok();
    let is_elsewhere = |pid: u32| match of_process(pid, "ns/net") {
        Ok(its) => own.is_some_and(|own| own != its),
        // One that has ended and is not waited for has none.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let is_plugin = |process: &Process| {
        let file = place(&files.at(&plugins.join(&process.name).to_string_lossy()));
        file.is_ok_and(|file| of_process(process.pid, "exe").is_ok_and(|its| its == file))
    };
    let processes = files.processes()?.into_iter();
    let processes = processes.filter(|it| !is_elsewhere(it.pid) || is_plugin(it));
    Ok(processes.map(|it| process(files, it.pid, &it.name)).collect())
}

/// Names a process by the file of its program, which it cannot change, or as it names itself where that cannot be read: threads of the kernel.
fn process(files: &NodeFiles, pid: u32, name: &str) -> NodeProcess {
    let exe = files.link(&format!("/proc/{pid}/exe"));
    let of_file =
        exe.as_deref().and_then(Path::file_name).map(|it| it.to_string_lossy().into_owned());
    // A file that was replaced since.
    let of_file = of_file.map(|it| it.strip_suffix(" (deleted)").unwrap_or(&it).to_owned());
    NodeProcess { pid, program: of_file.unwrap_or_else(|| name.to_owned()) }
}

/// Returns who listens at the sockets and ports of amazon-vpc-cni-k8s, in the network namespace of the caller. Its socket is beside its checkpoint.
pub(super) fn listeners(files: &NodeFiles, checkpoint: &Path) -> Result<Vec<Listener>, String> {
    let folder = checkpoint.parent().unwrap_or(Path::new("/"));
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    let net = |name: &str| match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|error| format!("cannot read /proc/net/{name}: {error}")),
    };
    inodes.extend(unix(&net("unix")?, folder));
    for name in ["tcp", "tcp6"] {
        inodes.extend(tcp(&net(name)?));
    }
    let owners = owners(files, &inodes);
    let listener = |(inode, socket): (u64, String)| {
        let owner = owners.get(&inode).cloned();
        Listener { socket, owner }
    };
    Ok(inodes.into_iter().map(listener).collect())
}

/// Returns the inodes of sockets that listen at `ipamd.sock` in a folder, whichever way it is named.
fn unix(table: &str, folder: &Path) -> Vec<(u64, String)> {
    const FLAG_ACCEPT: &str = "00010000";
    let row = |line: &str| {
        // Num, RefCount, Protocol, Flags, Type, St, Inode, Path.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, flags, _, _, inode, path] = fields[..] else { return None };
        let at = Path::new(path);
        // /var/run is a link to /run.
        let plain = |path: &Path| {
            path.strip_prefix("/var").map_or(path.to_owned(), |it| Path::new("/").join(it))
        };
        let is_its = at.file_name()? == SOCKET && plain(at.parent()?) == plain(folder);
        (flags == FLAG_ACCEPT && is_its).then(|| Some((inode.parse().ok()?, path.to_owned())))?
    };
    table.lines().filter_map(row).collect()
}

/// Returns the inodes of sockets that listen at one of the ports.
fn tcp(table: &str) -> Vec<(u64, String)> {
    let row = |line: &str| {
        // sl, local address and port in hexadecimal digits, remote, state, queues, timer, retransmissions, uid, timeout, inode.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, *fields.get(3)?, fields.get(9)?);
        let (_, port) = local.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let listens = state == LISTENS && PORTS.contains(&port);
        listens.then(|| Some((inode.parse().ok()?, format!("TCP port {port}"))))?
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Returns the processes that have the sockets, by inode.
fn owners(files: &NodeFiles, inodes: &BTreeMap<u64, String>) -> BTreeMap<u64, NodeProcess> {
    let mut owners = BTreeMap::new();
    let names =
        if inodes.is_empty() { Vec::new() } else { files.names("/proc").unwrap_or_default() };
    for pid in names.iter().filter_map(|name| name.parse::<u32>().ok()) {
        let folder = format!("/proc/{pid}/fd");
        // A process that ends meanwhile has none.
        for fd in files.names(&folder).unwrap_or_default() {
            let target = files.link(&format!("{folder}/{fd}")).unwrap_or_default();
            let inode = target
                .to_str()
                .and_then(|it| it.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains_key(inode)) {
                owners.entry(inode).or_insert_with(|| process(files, pid, "unknown"));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn sockets_of_the_old_daemon_are_told_from_those_beside_them() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 101 /var/run/aws-node/ipamd.sock\n\
            0000: 00000003 00000000 00000000 0001 03 102 /var/run/aws-node/ipamd.sock\n\
            0000: 00000002 00000000 00010000 0001 01 103 /var/run/aws-node/npa.sock\n\
            0000: 00000002 00000000 00010000 0001 01 104 /run/vpc-ipam/ipamd.sock\n\
            0000: 00000002 00000000 00010000 0001 01 105 /run/aws-node/ipamd.sock\n\
            0000: 00000002 00000000 00010000 0001 01 106\n\
            0000: 00000002 00000000 00010000 0001 01 107 @ipamd.sock\n";
        let found = unix(table, Path::new("/var/run/aws-node"));
        assert_eq!(found.iter().map(|it| it.0).collect::<Vec<_>>(), [101, 105]);

        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:C383 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 201 1\n\
            1: 0100007F:C383 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 202 1\n\
            2: 00000000:F0EE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 203 1\n\
            3: 00000000000000000000000000000000:F0EF 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 204 1\n\
            4: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 205 1\n";
        let found: Vec<_> = tcp(table);
        let expected = [(201, "TCP port 50051"), (203, "TCP port 61678"), (204, "TCP port 61679")];
        assert_eq!(found, expected.map(|(inode, socket)| (inode, socket.to_owned())));
    }

    /// A program that has ended is not there, whether or not it was waited for.
    #[test]
    fn programs_that_run_are_listed_and_those_that_have_ended_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("aws-k8s-agent");
        // By a process of its own: one that another test starts meanwhile would have the file open for writing.
        let copied = std::process::Command::new("cp").arg("/bin/sleep").arg(&program).status();
        assert!(copied.unwrap().success());
        let mut command = std::process::Command::new(&program);
        // Where this test fails, nothing waits for the end of what the child prints.
        command.arg("60").stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let pid = child.id();
        let runs = || {
            let found = processes(&NodeFiles::below(Path::new("/")), Path::new("/nonexistent"));
            found.unwrap().into_iter().find(|it| it.pid == pid)
        };
        assert_eq!(runs().unwrap().program, "aws-k8s-agent");
        child.kill().unwrap();
        // It is a zombie from then on, in a moment.
        while fs::read_link(format!("/proc/{pid}/exe")).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(runs(), None);
        child.wait().unwrap();
    }

    /// The process of this test has sockets of its own.
    #[test]
    fn the_process_that_has_a_socket_is_found_by_its_program() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ipamd.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let files = NodeFiles::below(Path::new("/"));

        let found = listeners(&files, &folder.path().join("ipam.json")).unwrap();

        let of_path = found.iter().find(|it| it.socket == path.to_str().unwrap()).unwrap();
        let owner = of_path.owner.as_ref().unwrap();
        // A process that another test is about to start has it too, for a moment.
        assert!(owner.program.starts_with("vpc_ipam-"), "{owner:?}");
    }
}
