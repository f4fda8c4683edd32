//! The log line of each ADD, DEL and import that was served.

use core::fmt;
use core::net::IpAddr;

use tracing::info;
use vpc_ipam_core::{EniId, Lease, Timestamp};

/// A pod has its addresses, so many milliseconds after it asked.
pub(super) fn added(lease: &Lease, ms: u64) {
    line(lease, Some(ms), "ADD");
}

/// The addresses of a pod are released; `asked` is `None` where no plugin asked for it.
pub(super) fn deleted(lease: &Lease, asked: Option<Timestamp>, now: Timestamp) {
    let ms = asked.map(|asked| u64::try_from(now.since(asked).as_millis()).unwrap_or(u64::MAX));
    line(lease, ms, "DEL");
}

/// A pod that another program set up has a lease.
pub(super) fn imported(lease: &Lease) {
    line(lease, None, "import");
}

fn line(lease: &Lease, ms: Option<u64>, command: &str) {
    let addresses: Vec<IpAddr> = lease.addresses().collect();
    let enis: Vec<EniId> = lease.interfaces().map(|interface| interface.eni).collect();
    info!(
        pod = %format_args!("{}/{}", lease.pod.namespace, lease.pod.name),
        container = lease.key.container(),
        ifname = lease.key.ifname(),
        addresses = %List(&addresses),
        eni = %List(&enis),
        ms,
        "{command}"
    );
}

/// Values with commas between them.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{value}")?;
        }
        Ok(())
    }
}
