//! A node in a namespace with loopback and its primary ENI, whose other end leads nowhere: nothing that a program in there
//! sends reaches the machine or AWS.

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use vpc_ipam_aws::{HttpServer, SharedCloud};
use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::{InstanceId, Limits};
use vpc_ipam_linux::Namespace;
use vpc_ipam_protocol::{Answer, Request, Status, ask};
use vpc_ipam_tests::program;
use vpc_ipamd::Clock;

use crate::support::{run, signal, wait_until};

/// The namespace, with EC2 and the metadata service of its instance on loopback.
pub(crate) struct Alone {
    pub(crate) netns: Namespace,
    pub(crate) cloud: SharedCloud,
    pub(crate) fronts: Fronts,
    pub(crate) folder: tempfile::TempDir,
    name: String,
}

impl Alone {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vil-alone{}n{count}", std::process::id());

        let mut cloud = Cloud::new(1);
        let clock = Clock::start();
        let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![]);
        let zone = "eu-west-1a".parse().unwrap();
        let subnet = CreateSubnet::new(vpc, zone, "10.0.0.0/19".parse().unwrap());
        let subnet = cloud.create_subnet(subnet).unwrap();
        let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let instance = cloud.run_instance(RunInstance::new(limits, subnet), clock.now()).unwrap();
        let primary = cloud.metadata(instance, clock.now()).unwrap().node.primary;
        let mac = cloud.interface(&primary).unwrap().mac;
        let cloud = SharedCloud::new(cloud, move || clock.now());

        let netns = Namespace::create(&name).unwrap();
        let add = format!("ip link add eth0 address {mac} type veth peer name nowhere");
        for command in ["ip link set lo up", &add, "ip link set eth0 up"] {
            run(&netns, &command.split(' ').collect::<Vec<_>>());
        }
        let fronts = Fronts::serve(&netns, cloud.clone(), instance);
        Self { netns, cloud, fronts, folder: tempfile::tempdir().unwrap(), name }
    }

    /// Starts vpc-ipamd with these variables and no others, and with the metadata service.
    pub(crate) fn ipamd(&self, vars: &[(&str, &str)]) -> Ipamd {
        let mut command = Command::new(program("vpc-ipamd"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.fronts.imds)
            .envs(vars.iter().copied());
        Ipamd::spawn(&self.netns, command, self.folder.path())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = Namespace::remove(&self.name);
    }
}

/// EC2 and a metadata service on the loopback of a namespace.
pub(crate) struct Fronts {
    pub(crate) ec2: String,
    pub(crate) imds: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fronts {
    pub(crate) fn serve(netns: &Namespace, cloud: SharedCloud, instance: InstanceId) -> Self {
        let (for_ec2, for_imds) = (listener(netns), listener(netns));
        let (ec2, imds) = (url(&for_ec2), url(&for_imds));
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let servers = (
                    HttpServer::ec2(cloud.clone(), for_ec2).unwrap(),
                    HttpServer::imds(cloud, instance, for_imds).unwrap(),
                );
                let _ = stopped.await;
                drop(servers);
            });
        };
        Self { ec2, imds, stop: Some(stop), thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Fronts {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// An HTTP server, or proxy, on the loopback of a namespace: it keeps the head of every request and answers that it failed.
pub(crate) struct Witness {
    pub(crate) url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    pub(crate) fn new(netns: &Namespace) -> Self {
        let listener = listener(netns);
        let (url, heads) = (url(&listener), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                seen.lock().unwrap().push(head.join("\n"));
                let _ = stream.write_all(b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { url, heads }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Waits for a request whose head has this in it, and returns the head.
    pub(crate) fn wait_for(&self, what: &str, ipamd: &Ipamd) -> String {
        wait_until(what, || {
            let heads = self.heads();
            let found = heads.iter().find(|head| head.contains(what)).cloned();
            found.ok_or_else(|| format!("{heads:#?}\n{}", ipamd.said()))
        })
    }
}

fn listener(netns: &Namespace) -> TcpListener {
    netns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap().unwrap()
}

fn url(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

/// A process of vpc-ipamd; killed when the test is done with it.
pub(crate) struct Ipamd {
    process: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Ipamd {
    /// Starts a program that becomes vpc-ipamd, with its files in a folder.
    pub(crate) fn spawn(netns: &Namespace, mut command: Command, folder: &Path) -> Self {
        let (log, socket) = (folder.join("ipamd.log"), folder.join("ipamd.sock"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command
            .arg("--socket")
            .arg(&socket)
            .arg("--state")
            .arg(folder.join("state.redb"))
            .stdout(Stdio::null())
            .stderr(file);
        let process = netns.run(|| command.spawn()).unwrap().unwrap();
        Self { process, log, socket }
    }

    /// Waits until it would serve the next pod.
    pub(crate) fn wait_until_ready(&self) {
        wait_until("vpc-ipamd", || {
            let status = self.status()?;
            let ready = status.ready && !status.enis.is_empty();
            if ready { Ok(()) } else { Err(format!("{status:?}\n{}", self.said())) }
        });
    }

    pub(crate) fn status(&self) -> Result<Status, String> {
        match ask(&self.socket, &Request::Status) {
            Ok(Answer::Status(status)) => Ok(status),
            other => Err(format!("{other:?}\n{}", self.said())),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns what it has logged.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has logged something.
    pub(crate) fn wait_until_it_says(&self, what: &str) -> String {
        wait_until(what, || {
            let said = self.said();
            if said.contains(what) { Ok(said) } else { Err(said) }
        })
    }

    /// Sends SIGTERM, and waits until it has ended well.
    pub(crate) fn terminate(mut self) {
        signal(self.process.id(), rustix::process::Signal::TERM);
        let status = wait_until("the end", || match self.process.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(self.said()),
        });
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Ipamd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
