//! For authors of a CNI plugin or a scheduler: a whole IPAM around [`Ipam`], with a JSON file as its store.
//!
//! `cargo run -p vpc-ipam-core --example embed` adds two pods, deletes one, is killed, starts again from the file, and goes on. Of the
//! features it needs `serde`; `sim` plays EC2 here, and [`Daemon::drain`] is where your executor goes.
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;
use core::time::Duration;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::{
    Action, AddressRequest, Assigned, Budget, Config, Effect, InstanceId, Ipam, Lease, Limits,
    Outcome, Pod, PodKey, Record, Released, Timestamp, Uncommitted,
};

fn main() -> Result<(), Box<dyn Error>> {
    let now = Timestamp::from_secs(1_700_000_000);
    let file = std::env::temp_dir().join(format!("vpc-ipam-embed-{}.json", std::process::id()));
    let (mut cloud, instance) = launch(now)?;

    let mut daemon = Daemon::start(&mut cloud, instance, &file, now)?;
    let web = daemon.add("web")?;
    let db = daemon.add("db")?;
    daemon.del("db")?;
    println!("web has {:?}, db had {:?}", web.first.ipv4, db.first.ipv4);
    // Killed: what is not in the file is gone.
    let now = daemon.now + Duration::from_secs(5);
    drop(daemon);

    let mut daemon = Daemon::start(&mut cloud, instance, &file, now)?;
    assert_eq!(daemon.add("web")?, web, "asking again gives the same address");
    let cache = daemon.add("cache")?;
    assert_ne!(cache.first.ipv4, db.first.ipv4, "what db had is still cooling");
    println!("started again: web has {:?}, cache has {:?}", web.first.ipv4, cache.first.ipv4);

    daemon.wait(Duration::from_secs(60))?;
    daemon.del("cache")?;
    assert_eq!(daemon.store.records.len(), 2, "web's lease, and the release of cache alone");
    assert_eq!(daemon.ipam.check(), []);
    fs::remove_file(file)?;
    Ok(())
}

/// The loop, and what it owns.
struct Daemon<'a> {
    ipam: Ipam,
    store: Store,
    cloud: &'a mut Cloud,
    now: Timestamp,
}

impl<'a> Daemon<'a> {
    fn start(
        cloud: &'a mut Cloud,
        instance: InstanceId,
        file: &Path,
        now: Timestamp,
    ) -> Result<Self, Box<dyn Error>> {
        let node = cloud.metadata(instance, now)?.node;
        let limits = Limits::lookup(node.instance_type)?;
        let (config, warnings) = Config::from_vars([("WARM_IP_TARGET", "2")]);
        assert!(warnings.is_empty());
        let store = Store::open(file, config.cooldown)?;
        // A seed of its own for every start: it decides the client tokens of ENIs.
        let mut ipam = Ipam::new(node, limits, config, Budget::default(), now.as_nanos(), now)?;
        ipam.restore(store.records.clone(), now);
        Ok(Self { ipam, store, cloud, now })
    }

    /// ADD: returns once the pod may use its address.
    fn add(&mut self, name: &str) -> Result<Lease, Box<dyn Error>> {
        let request = AddressRequest::new(key(name)?, Pod::new("default", name));
        match self.ipam.assign(&request, self.now)? {
            Assigned::Now(uncommitted) => {
                self.commit(uncommitted)?;
                self.drain()?;
            }
            Assigned::Later { deadline } => {
                while self.ipam.pool().lease(&request.key).is_none() && self.now <= deadline {
                    self.tick()?;
                }
            }
        }
        let lease = self.store.leases().find(|lease| lease.key == request.key);
        lease.cloned().ok_or_else(|| format!("no address for {name}").into())
    }

    /// DEL: succeeds for what is not known, too.
    fn del(&mut self, name: &str) -> Result<(), Box<dyn Error>> {
        if let Released::Lease { lease, at } = self.ipam.release(&key(name)?, self.now) {
            self.store.write(Record::released(&lease, at), self.now)?;
        }
        self.drain()
    }

    /// Lets time pass. A real daemon sleeps until the next input or until `poll_timeout`, whichever comes first.
    fn wait(&mut self, duration: Duration) -> Result<(), Box<dyn Error>> {
        let end = self.now + duration;
        while self.ipam.poll_timeout().is_some_and(|(due, _)| due <= end) {
            self.tick()?;
        }
        self.now = end;
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Box<dyn Error>> {
        if let Some((due, _why)) = self.ipam.poll_timeout() {
            self.now = self.now.max(due);
        }
        self.ipam.handle_timeout(self.now);
        self.drain()
    }

    /// Hands on all that the core has to say; call it after every input.
    fn drain(&mut self) -> Result<(), Box<dyn Error>> {
        loop {
            while let Some(grant) = self.ipam.poll_grant() {
                match grant.result {
                    Ok(uncommitted) => self.commit(uncommitted)?,
                    Err(error) => println!("{}: {error}", grant.key),
                }
            }
            let Some(issued) = self.ipam.poll_action() else { break };
            println!("{} because {}", issued.action, issued.because);
            let outcome = match &issued.action {
                // Your executor. Answer each action once; what got no answer is `FailureKind::Unanswered`.
                Action::Ec2(action) => self.cloud.execute(self.ipam.node(), action, self.now),
                // Your data plane, or `vpc_ipam_linux::execute`.
                Action::Host(_) => Outcome::Done(Effect::Done),
            };
            self.ipam.handle_outcome(issued.id, outcome, self.now);
        }
        while self.ipam.poll_event().is_some() {}
        Ok(())
    }

    /// First durable, then a lease.
    fn commit(&mut self, uncommitted: Uncommitted) -> Result<(), Box<dyn Error>> {
        let written = self.store.write(uncommitted.record(), self.now);
        if let Err(error) = written {
            // It may be in the file all the same: the record that undoes it has to be written before all others.
            if let Some(undone) = self.ipam.abandon(uncommitted, self.now) {
                self.store.write(undone, self.now)?;
            }
            return Err(error.into());
        }
        // `None` where the pod was deleted meanwhile; then its address must not be shown to it.
        let _lease = self.ipam.commit(uncommitted);
        Ok(())
    }
}

/// The records of a node in a file: leases by pod, and releases until their addresses have cooled down.
struct Store {
    file: PathBuf,
    cooldown: Duration,
    records: Vec<Record>,
}

impl Store {
    fn open(file: &Path, cooldown: Duration) -> Result<Self, Box<dyn Error>> {
        let records = match file.exists() {
            true => serde_json::from_slice(&fs::read(file)?)?,
            false => Vec::new(),
        };
        Ok(Self { file: file.to_owned(), cooldown, records })
    }

    /// Writes a record, and returns once it is on the disk.
    fn write(&mut self, record: Record, now: Timestamp) -> std::io::Result<()> {
        let (Record::Leased(Lease { key, .. }) | Record::Released { key, .. }) = &record;
        let mut records = self.records.clone();
        records.retain(|earlier| match earlier {
            Record::Leased(lease) => lease.key != *key,
            Record::Released { at, .. } => now.since(*at) <= self.cooldown,
        });
        records.push(record);
        let beside = self.file.with_extension("new");
        let mut file = fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec(&records)?)?;
        file.sync_all()?;
        fs::rename(&beside, &self.file)?;
        self.records = records;
        Ok(())
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.records.iter().filter_map(|record| match record {
            Record::Leased(lease) => Some(lease),
            Record::Released { .. } => None,
        })
    }
}

fn key(pod: &str) -> Result<PodKey, Box<dyn Error>> {
    Ok(PodKey::new("example", pod, "eth0")?)
}

/// A VPC with one subnet and one instance.
fn launch(now: Timestamp) -> Result<(Cloud, InstanceId), Box<dyn Error>> {
    let mut cloud = Cloud::new(1);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
    let subnet = CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.0.0/19".parse()?);
    let subnet = cloud.create_subnet(subnet)?;
    let limits = Limits::lookup("m5.large".parse()?)?;
    let instance = cloud.run_instance(RunInstance::new(limits, subnet), now)?;
    Ok((cloud, instance))
}
