//! Callers that send what makes no sense, thousands of times, or read no answer: pods are added and deleted all the while.

use core::net::{Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vpc_ipam::lab::{LabAddress, LabNode, PluginCall};
use vpc_ipam_core::{PodKey, error_chain};
use vpc_ipam_linux::{Namespace, lab};
use vpc_ipam_protocol::{Answer, Request, ask};

use crate::support::{spec, start, wait_until};
use vpc_ipam_tests::ec2::{Ec2OnSocket, Process, logged};

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 2_000;
const METRICS: u16 = 61678;
const INTROSPECTION: u16 = 61679;
/// How long an answer may take, or the end of a connection.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn garbage_at_the_socket_delays_no_pod() {
    let valid = [
        Request::Status,
        Request::Find(PodKey::new("aws-cni", "none", "eth0").unwrap()),
        Request::Leases { network: None },
    ];
    let valid = valid.map(|request| serde_json::to_vec(&request).unwrap());
    hostile(|node, rng| {
        let mut stream = UnixStream::connect(&node.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let sent = stream.write_all(&garbage(&valid, rng));
        let sent = sent.and_then(|()| stream.shutdown(Shutdown::Write));
        closed(sent, &mut stream)
    });
}

#[test]
fn garbage_at_the_ports_delays_no_pod() {
    let valid = ["/metrics", "/v1/enis", "/v2/status", "/"].map(|path| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
    });
    for port in [METRICS, INTROSPECTION] {
        hostile(|_, rng| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let sent = stream.write_all(&garbage(&valid, rng));
            let sent = sent.and_then(|()| stream.shutdown(Shutdown::Write));
            closed(sent, &mut stream)
        });
    }
}

#[test]
fn callers_that_read_nothing_delay_no_pod() {
    // The daemon starts with the limit of this process, and raises its own as a service.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let bench = Bench::start();
    let asked = serde_json::to_vec(&Request::Inventory).unwrap();
    let open: Vec<UnixStream> = (0..CONNECTIONS)
        .map(|number| {
            let mut stream = UnixStream::connect(&bench.node.address.socket).unwrap();
            // A part of a question, or all of it; no answer is read. The daemon may have closed one of so many.
            let part = if number % 2 == 0 { asked.len() / 2 } else { asked.len() };
            let _ = stream.write_all(&asked[..part]);
            stream
        })
        .collect();
    bench.pods().add_and_delete(3);
    drop(open);
    bench.end();
}

/// Sends requests while pods are added and deleted. Each of them has to be answered or its connection closed.
fn hostile(send: impl Fn(&LabAddress, &mut fastrand::Rng) -> io::Result<()> + Sync) {
    let bench = Bench::start();
    let (pods, over) = (bench.pods(), AtomicBool::new(false));
    let node = bench.node.address.clone();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let netns = Namespace::named(&node.node_netns).unwrap();
            let all = || {
                let mut rng = fastrand::Rng::with_seed(1);
                for number in 0..REQUESTS {
                    if let Err(error) = send(&node, &mut rng) {
                        return Err(format!("request {number}: {error}"));
                    }
                }
                Ok(())
            };
            let result = netns.run(all).unwrap();
            over.store(true, Ordering::Relaxed);
            result
        });
        let mut rounds = 0;
        while !over.load(Ordering::Relaxed) || rounds == 0 {
            pods.add_and_delete(1);
            rounds += 1;
        }
        sending.join().unwrap().unwrap_or_else(|said| panic!("{said}\n{}", logged(&node)));
        println!("{REQUESTS} requests, {rounds} pods added and deleted meanwhile");
    });
    bench.end();
}

/// Reads until the other side closes. That it does so before it has heard all is its right.
fn closed(sent: io::Result<()>, stream: &mut impl Read) -> io::Result<()> {
    let heard = sent.and_then(|()| stream.read_to_end(&mut Vec::new()).map(drop));
    match heard {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Returns one of the valid requests with something wrong about it, or bytes by chance.
fn garbage(valid: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = valid[rng.usize(..valid.len())].clone();
    let at = rng.usize(..bytes.len());
    match rng.u8(..6) {
        0 => bytes[at] = rng.u8(..),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, rng.u8(..)),
        3 => drop(bytes.drain(..at)),
        4 => {
            let part = bytes[at..].to_vec();
            (0..rng.usize(..2000)).for_each(|_| bytes.extend_from_slice(&part));
        }
        _ => bytes = (0..rng.usize(..4096)).map(|_| rng.u8(..)).collect(),
    }
    bytes
}

struct Bench {
    node: LabNode,
    ec2: Ec2OnSocket,
    daemon: Process,
}

/// A pod that is added and deleted.
struct Pods {
    address: LabAddress,
    netns: Namespace,
}

impl Bench {
    fn start() -> Self {
        let mut spec = spec("m5.large");
        spec.daemon = false;
        let node = start(&spec);
        let ec2 = Ec2OnSocket::serve(&node, 0);
        let daemon = Process::start(&node.address, &ec2);
        wait_until("the daemon", || match ask(&node.address.socket, &Request::Status) {
            Ok(Answer::Status(status)) if status.ready => Ok(()),
            other => Err(format!("{other:?}")),
        });
        Self { node, ec2, daemon }
    }

    fn pods(&self) -> Pods {
        let name = self.node.with_lab(|lab| lab.name().clone());
        Pods { address: self.node.address.clone(), netns: lab::add_pod(&name, "a").unwrap() }
    }

    fn end(self) {
        let log = logged(&self.node.address);
        assert!(self.daemon.kill(), "the daemon ended by itself: {log}");
        drop(self.ec2);
        self.node.stop().unwrap();
    }
}

impl Pods {
    fn add_and_delete(&self, times: usize) {
        for _ in 0..times {
            for call in [
                PluginCall::add("a", self.netns.path()),
                PluginCall::del("a", Some(self.netns.path())),
            ] {
                let result = self.address.call_plugin(&call);
                result.unwrap_or_else(|error| {
                    panic!("{}\n{}", error_chain(&error), logged(&self.address))
                });
            }
        }
    }
}
