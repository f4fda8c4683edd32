//! The network configurations that a container runtime finds in its folder.

use serde_json::Value;

use super::NodeFiles;

/// A configuration, a file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// The name of its file.
    pub(crate) file: String,
    /// The name of the network.
    pub(crate) name: String,
    /// The version of the specification that it is written in.
    pub(crate) version: String,
    /// Its plugins, in the order in which the runtime calls them.
    pub(crate) plugins: Vec<Value>,
}

impl Network {
    pub(crate) fn is_ours(&self) -> bool {
        self.plugins.iter().any(is_ours)
    }
}

/// Returns whether a plugin of a configuration is one of this project.
pub(crate) fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == "vpc-cni" || plugin["ipam"]["type"] == "vpc-cni-ipam"
}

/// Returns whether a runtime reads a file of this name (libcni).
pub(crate) fn is_configuration(name: &str) -> bool {
    [".conflist", ".conf", ".json"].iter().any(|it| name.ends_with(it))
}

/// A file that is no configuration, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokenNetwork {
    pub(crate) file: String,
    pub(crate) why: String,
}

/// Returns the configurations in the order in which a runtime takes them, and the files that are none.
pub(crate) fn networks(
    files: &NodeFiles,
    folder: &str,
) -> Result<(Vec<Network>, Vec<BrokenNetwork>), String> {
    let (mut networks, mut broken) = (Vec::new(), Vec::new());
    let names = files.names(folder)?;
    for file in names.into_iter().filter(|name| is_configuration(name)) {
        let text = files.read(&format!("{folder}/{file}"))?.unwrap_or_default();
        match serde_json::from_str::<Value>(&text) {
            Ok(document) => {
                let word = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
                let (name, version) = (word("name"), word("cniVersion"));
                let plugins = match document["plugins"].as_array() {
                    Some(plugins) => plugins.clone(),
                    None => vec![document],
                };
                networks.push(Network { file, name, version, plugins });
            }
            Err(error) => broken.push(BrokenNetwork { file, why: error.to_string() }),
        }
    }
    Ok((networks, broken))
}
