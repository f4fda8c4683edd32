//! The least that joins a pod to a node: three sends of ready-made messages, without a question, a check or a plan.
//!
//! ```text
//! host   NEWLINK veth (its peer made in the pod's namespace), GETLINK for both indexes
//! host   NEWROUTE to the pod, NEWRULE to it, NEWRULE from it
//! pod    SETLINK up, NEWADDR, NEWROUTE to the gateway, NEWROUTE by it, NEWNEIGH of the gateway
//! ```

use core::net::Ipv4Addr;
use std::env;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::ExitCode;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A pod to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarePod {
    /// Its address; the name of its link on the host and the MAC addresses follow from it.
    pub address: Ipv4Addr,
    /// The table to which the rule from the pod leads; 254 (main) makes no such rule, as on a primary ENI.
    pub table: u8,
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const MTU: u32 = 9001;

/// Runs as a program: `bare-pod add|del ADDRESS TABLE [NETNS]`, in the node's namespace.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare-pod: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let wrong = || io::Error::other("usage: bare-pod add|del ADDRESS TABLE [NETNS]");
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().ok_or_else(wrong);
    let command = next()?;
    let address = next()?.parse().map_err(|_| wrong())?;
    let pod = BarePod { address, table: next()?.parse().map_err(|_| wrong())? };
    let mut host = Netlink::open()?;
    if command == "del" {
        return pod.del(&mut host);
    }
    let netns = File::open(next()?)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    pod.add(&mut host, &mut Netlink::open()?, &netns)
}

impl BarePod {
    /// Returns the name of its link on the host.
    pub fn host_link(&self) -> String {
        let [_, _, c, d] = self.address.octets();
        format!("bare{c}x{d}")
    }

    /// Joins the pod to the node.
    pub fn add(&self, host: &mut Netlink, pod: &mut Netlink, netns: &File) -> io::Result<()> {
        let [_, b, c, d] = self.address.octets();
        let (outside, inside) = ([2, 1, 0, b, c, d], [2, 2, 0, b, c, d]);
        let name = self.host_link();

        let batch = host.batch();
        batch.message(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, IFF_UP), |it| {
            it.attribute(IFLA_IFNAME, &c_string(&name));
            it.attribute(IFLA_ADDRESS, &outside);
            it.attribute(IFLA_MTU, &MTU.to_ne_bytes());
            it.nested(IFLA_LINKINFO, |it| {
                it.attribute(IFLA_INFO_KIND, b"veth");
                it.nested(IFLA_INFO_DATA, |it| {
                    it.nested(VETH_INFO_PEER, |it| {
                        it.raw(&link_header(0, 0));
                        it.attribute(IFLA_IFNAME, b"eth0\0");
                        it.attribute(IFLA_ADDRESS, &inside);
                        it.attribute(IFLA_MTU, &MTU.to_ne_bytes());
                        it.attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
                    });
                });
            });
        });
        batch.message(RTM_GETLINK, 0, &link_header(0, 0), |it| {
            it.attribute(IFLA_IFNAME, &c_string(&name));
            it.attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        });
        let mut indexes = (None, None);
        host.send(|kind, payload| {
            if kind == RTM_NEWLINK {
                indexes = (number(payload, 4), attribute_number(&payload[16..], IFLA_LINK));
            }
        })?;
        let (Some(link), Some(peer)) = indexes else {
            return Err(io::Error::other("the kernel did not tell the indexes of the veth"));
        };

        let batch = host.batch();
        let route = route_header(32, SCOPE_LINK);
        batch.message(RTM_NEWROUTE, CREATE | REPLACE, &route, |it| {
            it.attribute(RTA_DST, &self.address.octets());
            it.attribute(RTA_OIF, &link.to_ne_bytes());
        });
        self.rules(batch, RTM_NEWRULE, CREATE | EXCLUSIVE);
        host.send(|_, _| {})?;

        let batch = pod.batch();
        batch.message(RTM_SETLINK, 0, &link_header(peer, IFF_UP), |_| {});
        let address = [AF_INET, 32, 0, 0];
        batch.message(
            RTM_NEWADDR,
            CREATE | EXCLUSIVE,
            &[address, peer.to_ne_bytes()].concat(),
            |it| {
                it.attribute(IFA_LOCAL, &self.address.octets());
            },
        );
        batch.message(RTM_NEWROUTE, CREATE | REPLACE, &route_header(32, SCOPE_LINK), |it| {
            it.attribute(RTA_DST, &GATEWAY.octets());
            it.attribute(RTA_OIF, &peer.to_ne_bytes());
        });
        batch.message(RTM_NEWROUTE, CREATE | REPLACE, &route_header(0, 0), |it| {
            it.attribute(RTA_GATEWAY, &GATEWAY.octets());
            it.attribute(RTA_OIF, &peer.to_ne_bytes());
        });
        let [i0, i1, i2, i3] = peer.to_ne_bytes();
        let [s0, s1] = NUD_PERMANENT.to_ne_bytes();
        let neighbour = [AF_INET, 0, 0, 0, i0, i1, i2, i3, s0, s1, 0, 0];
        batch.message(RTM_NEWNEIGH, CREATE | REPLACE, &neighbour, |it| {
            it.attribute(NDA_DST, &GATEWAY.octets());
            it.attribute(NDA_LLADDR, &outside);
        });
        pod.send(|_, _| {})
    }

    /// Removes the route and the rules of the pod; the link goes with the pod's namespace.
    pub fn del(&self, host: &mut Netlink) -> io::Result<()> {
        let batch = host.batch();
        batch.message(RTM_DELROUTE, 0, &route_header(32, SCOPE_LINK), |it| {
            it.attribute(RTA_DST, &self.address.octets());
        });
        self.rules(batch, RTM_DELRULE, 0);
        host.send(|_, _| {})
    }

    fn rules(&self, batch: &mut Batch, kind: u16, flags: u16) {
        let header = |dst_len, src_len, table| {
            [AF_INET, dst_len, src_len, 0, table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]
        };
        batch.message(kind, flags, &header(32, 0, RT_TABLE_MAIN), |it| {
            it.attribute(FRA_PRIORITY, &512u32.to_ne_bytes());
            it.attribute(FRA_DST, &self.address.octets());
        });
        if self.table != RT_TABLE_MAIN {
            batch.message(kind, flags, &header(0, 32, self.table), |it| {
                it.attribute(FRA_PRIORITY, &1536u32.to_ne_bytes());
                it.attribute(FRA_SRC, &self.address.octets());
            });
        }
    }
}

/// A netlink socket and what is to be sent by it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    batch: Batch,
    answer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Answers without a copy of the request.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, batch: Batch::default(), answer: Vec::with_capacity(1 << 15) })
    }

    fn batch(&mut self) -> &mut Batch {
        self.batch = Batch { bytes: core::mem::take(&mut self.batch.bytes), ..Batch::default() };
        self.batch.bytes.clear();
        &mut self.batch
    }

    /// Sends the batch and hears its answers, up to the acknowledgement of the last message.
    fn send(&mut self, mut hear: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let Batch { bytes, count, last } = &mut self.batch;
        let flags = u16::from_ne_bytes([bytes[*last + 6], bytes[*last + 7]]) | ACKNOWLEDGE;
        bytes[*last + 6..*last + 8].copy_from_slice(&flags.to_ne_bytes());
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            self.answer.clear();
            self.socket.recv_from(&mut self.answer, 0)?;
            let mut rest = &self.answer[..];
            while let (Some(len), Some(kind)) = (number(rest, 0), number(rest, 4)) {
                let (len, kind) = (len as usize, kind as u16);
                let payload = rest.get(16..len).unwrap_or_default();
                if kind == NLMSG_ERROR {
                    match number(payload, 0).map(|code| code as i32) {
                        Some(0) if number(rest, 8) == Some(*count) => return Ok(()),
                        Some(0) => {}
                        code => {
                            return Err(io::Error::from_raw_os_error(-code.unwrap_or_default()));
                        }
                    }
                } else {
                    hear(kind, payload);
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Messages that travel together.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    count: u32,
    /// Where the last one begins.
    last: usize,
}

impl Batch {
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Self),
    ) {
        self.count += 1;
        self.last = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.raw(header);
        attributes(self);
        let len = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last..self.last + 4].copy_from_slice(&len.to_ne_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = (value.len() + 4) as u16;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value);
    }

    fn nested(&mut self, kind: u16, attributes: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind, &[]);
        attributes(self);
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn route_header(len: u8, scope: u8) -> [u8; 12] {
    [AF_INET, len, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn attribute_number(mut attributes: &[u8], wanted: u16) -> Option<u32> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let len = usize::from(u16::from_ne_bytes([l0, l1])).max(4);
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return number(attributes, 4);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

// From linux/netlink.h, rtnetlink.h, if_link.h, fib_rules.h and neighbour.h.
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const VETH_INFO_PEER: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const SCOPE_LINK: u8 = 253;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
