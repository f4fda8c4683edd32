//! What the container runtime remembers of the pods' networks, in the form of libcni.

use core::net::IpAddr;

use serde_json::Value;

use crate::node_files::NodeFiles;

/// Where libcni keeps them unless the runtime says otherwise.
const FOLDER: &str = "/var/lib/cni/results";

/// What one ADD gave a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedResult {
    /// The name of the network.
    pub network: String,
    /// The id of the pod's sandbox.
    pub container: String,
    /// The interface inside the pod.
    pub ifname: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// Reads them. Files of another form, and what is torn, are passed over: they are evidence beside other evidence.
pub(super) fn read(files: &NodeFiles) -> Result<Vec<CachedResult>, String> {
    let mut found = Vec::new();
    for name in files.names(FOLDER)? {
        // One of a pod that is removed meanwhile is none.
        let text = files.read(&format!("{FOLDER}/{name}"))?;
        found.extend(text.and_then(|text| parse(&text)));
    }
    Ok(found)
}

fn parse(text: &str) -> Option<CachedResult> {
    let document: Value = serde_json::from_str(text).ok()?;
    let word = |key: &str| document[key].as_str().map(str::to_owned);
    let ips = document["result"]["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    Some(CachedResult {
        network: word("networkName")?,
        container: word("containerId")?,
        ifname: word("ifName")?,
        addresses: ips.iter().filter_map(address).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn results_are_read_and_what_is_none_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("var/lib/cni/results");
        fs::create_dir_all(&folder).unwrap();
        let cached = r#"{"kind":"cniCacheV1","containerId":"7de9","config":"e30=","ifName":"eth0","networkName":"aws-cni",
            "result":{"cniVersion":"0.4.0","ips":[{"version":"4","interface":1,"address":"10.0.13.106/32"},{"address":"?"}]}}"#;
        fs::write(folder.join("aws-cni-7de9-eth0"), cached).unwrap();
        fs::write(folder.join("torn"), "{\"kind\"").unwrap();
        fs::write(folder.join("old"), r#"{"cniVersion":"0.3.1","ips":[]}"#).unwrap();

        let found = read(&NodeFiles::below(root.path())).unwrap();

        let expected = CachedResult {
            network: "aws-cni".to_owned(),
            container: "7de9".to_owned(),
            ifname: "eth0".to_owned(),
            addresses: vec!["10.0.13.106".parse().unwrap()],
        };
        assert_eq!(found, [expected]);
        assert_eq!(read(&NodeFiles::below(&folder)).unwrap(), []);
    }
}
