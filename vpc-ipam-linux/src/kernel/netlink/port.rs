//! Who is behind a netlink port.

use std::fs;
use std::path::Path;

/// A process that owns a netlink socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// The process id.
    pub pid: u32,
    /// The name of its program, of at most 15 characters.
    pub name: String,
}

/// Returns the process that owns a netlink port by which something was changed, as far as /proc shows it.
///
/// The kernel gives the first socket of a process the process's own number, as that is in its namespace of processes. Only if the
/// process of that number, as it is in ours, owns a socket of rtnetlink with that port, it is the one.
pub fn port_owner(port: u32) -> Option<PortOwner> {
    let process = Path::new("/proc").join(port.to_string());
    let sockets = fs::read_to_string(process.join("net/netlink")).ok()?;
    let inode = sockets.lines().skip(1).find_map(|line| {
        // The socket's address, its protocol, its port, and at the end its inode.
        let mut words = line.split_whitespace().skip(1);
        let is_it = words.next()? == "0" && words.next()? == port.to_string();
        words.last().filter(|_| is_it)
    })?;
    let link = format!("socket:[{inode}]");
    let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
    files
        .find(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))?;
    let name = fs::read_to_string(process.join("comm")).ok()?;
    Some(PortOwner { pid: port, name: name.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelNetlink;

    #[test]
    fn port_of_a_process_is_told_from_a_number_that_is_none() {
        let mut first = KernelNetlink::current().unwrap();
        let mut ports = vec![first.port().unwrap()];
        let mut more: Vec<_> = (0..2).map(|_| KernelNetlink::current().unwrap()).collect();
        ports.extend(more.iter_mut().map(|netlink| netlink.port().unwrap()));
        let own = std::process::id();
        // Another test of this process may have been first.
        let named: Vec<_> = ports.iter().filter_map(|port| port_owner(*port)).collect();
        assert!(named.iter().all(|owner| owner.pid == own), "{named:?}");
        assert!(named.len() <= 1, "{named:?}");

        drop((first, more));
        assert_eq!(port_owner(u32::MAX), None);
        assert_eq!(port_owner(1), None, "no socket has the port 1");
    }
}
