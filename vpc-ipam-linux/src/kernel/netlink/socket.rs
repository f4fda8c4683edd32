//! The socket by which the kernel is asked.

use std::io;
use std::os::fd::AsFd as _;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::exchange::Transport;

/// A netlink socket to the kernel, in the namespace in which it was opened.
pub(super) struct KernelSocket(Socket);

/// The kernel answers within the system call that asks, so waiting means that an answer was lost.
const RECEIVE_TIMEOUT: core::time::Duration = core::time::Duration::from_secs(10);

impl KernelSocket {
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Filters that the kernel does not know are refused instead of ignored, and what a message means is checked in
        // full. Kernels before 4.20 have no such option and send everything; what is not asked for is dropped here too.
        match socket.set_netlink_get_strict_chk(true) {
            Err(error) if error.raw_os_error() != Some(Errno::NOPROTOOPT.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        Ok(Self(socket))
    }

    /// Returns its port, by which the kernel names it.
    pub(super) fn port(&mut self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.0.get_address(&mut address)?;
        // It gets one with the first request, if not before.
        let port = address.port_number();
        if port == 0 { self.0.bind_auto().map(|bound| bound.port_number()) } else { Ok(port) }
    }
}

impl Transport for KernelSocket {
    fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        let sent = self.0.send_to(requests, &SocketAddr::new(0, 0), 0)?;
        if sent == requests.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> io::Result<()> {
        /// Asks for the length of the whole datagram even if it did not fit; from bits/socket.h.
        const MSG_TRUNC: i32 = 0x20;
        loop {
            answer.clear();
            match self.0.recv_from(answer, MSG_TRUNC) {
                Ok((len, _)) if len > answer.len() => {
                    return Err(io::Error::other(format!("answer of {len} bytes does not fit")));
                }
                // Only the kernel, whose port is 0, is asked.
                Ok((_, from)) if from.port_number() == 0 => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
