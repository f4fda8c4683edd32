//! What is on a node before it is moved: read once, and nothing is changed.

pub(crate) mod kernel;
#[cfg(feature = "aws")]
mod metadata;
mod results;
mod sockets;
mod traffic_control;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use vpc_ipam_core::{Metadata, error_chain};
use vpc_ipam_linux::{AwsCniListing, AwsCniSettings, KernelNetlink};
use vpc_ipamd::env_file;

pub use self::kernel::{KernelView, PodRoute};
pub use self::results::CachedResult;
pub use self::sockets::Listener;
pub use self::traffic_control::TrafficControl;
use super::{Checkpoint, Paths, old_daemon};
use crate::node_files::networks::{BrokenNetwork, Network, networks};
use crate::node_files::{NodeFiles, systemd};

/// Returns who listens at the sockets and ports of amazon-vpc-cni-k8s, in the network namespace of the caller.
pub(crate) fn listeners(paths: &Paths) -> Result<Vec<Listener>, String> {
    sockets::listeners(&NodeFiles::below(&paths.root), &paths.checkpoint)
}

/// What is on a node before it is moved.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// What amazon-vpc-cni-k8s knew of pods.
    pub checkpoint: Checkpoint,
    /// Why that is not known, if it is not.
    pub checkpoint_unread: Option<String>,
    /// Links, addresses, routes and rules.
    pub kernel: KernelView,
    /// Its address translation, as it is listed.
    pub nat: AwsCniListing,
    /// The rules of other programs that lead to its chains, in words.
    pub users_of_chains: Vec<String>,
    /// What it was set to, as far as its rules tell.
    pub settings: AwsCniSettings,
    /// The configurations of the container runtime, in the order in which the runtime takes them.
    pub(crate) networks: Vec<Network>,
    /// Files of the runtime's folder that are no configuration.
    pub(crate) broken_networks: Vec<BrokenNetwork>,
    /// The plugins in the runtime's folder of programs.
    pub plugins: Vec<String>,
    /// What the runtime remembers of the pods' networks.
    pub results: Vec<CachedResult>,
    /// The programs that run: number and name, of those that matter here.
    pub processes: Vec<NodeProcess>,
    /// What listens where amazon-vpc-cni-k8s does.
    pub listeners: Vec<Listener>,
    /// What traffic control has on links.
    pub traffic_control: Vec<TrafficControl>,
    /// Why that is not known, if it is not.
    pub traffic_control_unread: Option<String>,
    /// The settings by which systemd-networkd removes what it did not make, and where they are; none where it does not run.
    pub networkd: Vec<String>,
    /// What the instance metadata service says, if it was asked.
    pub metadata: Option<Metadata>,
    /// Why it did not answer, if it was asked.
    pub metadata_unread: Option<String>,
    /// What an operator set.
    pub given: Given,
    /// Whether vpc-ipamd is to be started as a unit of systemd that is not there.
    pub lacks_unit: bool,
    /// What could not be read that a decision needs, and why.
    pub untold: Vec<String>,
}

/// Variables that an operator set, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The file; none where there is none.
    pub file: Option<PathBuf>,
    /// The variables: those of the file, and those that the unit sets itself, which come first.
    pub vars: BTreeMap<String, String>,
    /// The files of the variables that are not in [`file`](Self::file).
    pub elsewhere: BTreeMap<String, String>,
    /// Lines that are passed over, in words.
    pub bad: Vec<String>,
}

/// A program that runs on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProcess {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub program: String,
}

impl Survey {
    /// Looks at the node: at files below the root, and at the kernel in the network namespace of the caller. `env` is a file of variables; without
    /// one that of the unit is read.
    pub fn read(paths: &Paths, env: Option<&Path>) -> Self {
        let files = NodeFiles::below(&paths.root);
        let mut survey = Self::default();
        match Checkpoint::read(&paths.at(&paths.checkpoint)) {
            Ok(checkpoint) => survey.checkpoint = checkpoint,
            Err(error) => survey.checkpoint_unread = Some(error_chain(&error)),
        }
        survey.read_kernel();
        survey.read_networks(&files, paths);
        survey.read_programs(&files, paths);
        match traffic_control::read() {
            Ok(found) => survey.traffic_control = found,
            Err(why) => survey.traffic_control_unread = Some(why),
        }
        survey.networkd = match systemd::networkd_removes(&files) {
            Ok(found) => found.unwrap_or_default(),
            Err(why) => survey.cannot_tell("what systemd-networkd removes", &why),
        };
        survey.given = match given(&files, paths, env) {
            Ok(given) => given,
            Err(why) => survey.cannot_tell("which variables are set", &why),
        };
        survey
    }

    /// Looks for the unit of vpc-ipamd, by which it is to be started.
    pub fn expect_unit(&mut self, paths: &Paths) {
        match systemd::of_service(&NodeFiles::below(&paths.root), SERVICE) {
            Ok(unit) => self.lacks_unit = unit.is_none(),
            Err(why) => self.cannot_tell("whether there is a unit of vpc-ipamd", &why),
        }
    }

    /// Takes in what the instance metadata service answers, asked at a URL.
    #[cfg(feature = "aws")]
    pub fn ask_metadata(&mut self, endpoint: &str) {
        match metadata::read(endpoint) {
            Ok(metadata) => self.metadata = Some(metadata),
            Err(why) => self.metadata_unread = Some(why),
        }
    }

    /// Takes note of what could not be read.
    fn cannot_tell<T: Default>(&mut self, what: &str, why: &str) -> T {
        self.untold.push(format!("{what}: {why}"));
        T::default()
    }

    fn read_kernel(&mut self) {
        let read = || -> Result<_, vpc_ipam_linux::NetlinkError> {
            let mut netlink = KernelNetlink::current()?;
            Ok((KernelView::read(&mut netlink)?, netlink.aws_cni_listing()))
        };
        match read() {
            Ok((view, listed)) => {
                self.kernel = view;
                match listed {
                    Ok((nat, listing)) => {
                        self.users_of_chains =
                            nat.conflicts().iter().map(ToString::to_string).collect();
                        self.nat = listing;
                    }
                    Err(error) => self.cannot_tell("address translation", &error_chain(&error)),
                }
            }
            Err(error) => self.cannot_tell("links, routes and rules", &error_chain(&error)),
        }
        self.settings = AwsCniSettings::read(&self.nat, &self.kernel.rules);
    }

    fn read_networks(&mut self, files: &NodeFiles, paths: &Paths) {
        match networks(files, &paths.cni_conf.to_string_lossy()) {
            Ok(found) => (self.networks, self.broken_networks) = found,
            Err(why) => self.cannot_tell("the runtime's configurations", &why),
        }
        match files.names(&paths.cni_bin.to_string_lossy()) {
            Ok(names) => self.plugins = names,
            Err(why) => self.cannot_tell("the runtime's plugins", &why),
        }
        match results::read(files) {
            Ok(found) => self.results = found,
            Err(why) => self.cannot_tell("what the runtime remembers of pods", &why),
        }
    }

    fn read_programs(&mut self, files: &NodeFiles, paths: &Paths) {
        match sockets::processes(files, &paths.cni_bin) {
            Ok(found) => self.processes = found,
            Err(why) => self.cannot_tell("which programs run", &why),
        }
        match sockets::listeners(files, &paths.checkpoint) {
            Ok(found) => self.listeners = found,
            Err(why) => self.cannot_tell("which programs listen", &why),
        }
    }

    /// Returns the configuration that the runtime takes.
    pub(crate) fn network(&self) -> Option<&Network> {
        self.networks.first()
    }

    /// Returns the configuration of amazon-vpc-cni-k8s that comes first, and its plugin in it.
    pub(crate) fn old_network(&self) -> Option<(&Network, &serde_json::Value)> {
        self.networks.iter().find_map(|network| {
            let plugin =
                network.plugins.iter().find(|plugin| plugin["type"] == old_daemon::PLUGIN)?;
            Some((network, plugin))
        })
    }
}

/// Reads the variables of `--env`, which has to be there, or those of the unit.
fn given(files: &NodeFiles, paths: &Paths, env: Option<&Path>) -> Result<Given, String> {
    let (path, file) = match env {
        Some(file) => (file.to_owned(), file.to_owned()),
        None => (paths.at(&paths.env_file), paths.env_file.clone()),
    };
    let mut given = Given::default();
    if env.is_some() || path.exists() {
        let (vars, bad) = env_file::read(&path).map_err(|error| error_chain(&error))?;
        given.bad = bad.iter().map(|bad| format!("{}, {bad}", file.display())).collect();
        given.vars = vars.into_iter().collect();
        given.file = Some(file);
    }
    // vpc-ipamd takes the variables that it is started with before those of its file.
    for variable in systemd::environment(files, SERVICE)? {
        given.vars.insert(variable.name.clone(), variable.value);
        given.elsewhere.insert(variable.name, variable.path);
    }
    Ok(given)
}

/// The unit of vpc-ipamd.
const SERVICE: &str = "vpc-ipamd.service";

impl Given {
    /// Returns the file that sets a variable.
    pub fn place(&self, name: &str) -> String {
        match (self.elsewhere.get(name), &self.file) {
            (Some(path), _) => path.clone(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => String::new(),
        }
    }
}
