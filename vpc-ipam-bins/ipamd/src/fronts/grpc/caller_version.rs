//! Which clients are served: replies changed their form with amazon-vpc-cni-k8s 1.20.0.

use tonic::Status;
use vpc_ipam_core::PodKey;

/// The first version that reads the replies as they are written here.
const FIRST: (u32, u32) = (1, 20);

/// Returns the pod's key, or refuses a client that cannot read the reply.
///
/// A client of 1.6 and before sends no network and no container id. One of 1.7 to 1.19 sends all that a later one does, and only what
/// it says of its version tells it; some builds say nothing.
pub(super) fn key(
    version: &str,
    network: &str,
    container: &str,
    ifname: &str,
) -> Result<PodKey, Status> {
    if is_before(version, FIRST) {
        return Err(refused(&format!("ClientVersion is {version:?}")));
    }
    PodKey::new(network, container, ifname).map_err(|error| {
        let parts = [("NetworkName", network), ("ContainerID", container), ("IfName", ifname)];
        let empty = parts.into_iter().filter(|(_, text)| text.is_empty()).map(|(name, _)| name);
        let empty: Vec<_> = empty.collect();
        match empty.as_slice() {
            [] => Status::invalid_argument(error.to_string()),
            empty => refused(&format!("the request has no {}", empty.join(", "))),
        }
    })
}

fn refused(sign: &str) -> Status {
    Status::failed_precondition(format!(
        "{sign}: vpc-ipamd serves the plugin aws-cni of amazon-vpc-cni-k8s 1.20.0 and later; upgrade it on this node, or install vpc-cni \
         in its place"
    ))
}

/// Returns whether a text is a version before another; one that cannot be read is none.
fn is_before(version: &str, first: (u32, u32)) -> bool {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.');
    let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) < first)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn client_that_cannot_read_the_reply_is_refused_with_what_to_upgrade() {
        let whole = ["aws-cni", "c0ffee", "eth0"];
        let cases = [
            ("v1.23.1", whole, None),
            ("1.20.0-eksbuild.1", whole, None),
            ("v2.0.0", whole, None),
            ("", whole, None),
            ("unknown", whole, None),
            ("v1.19.6", whole, Some("\"v1.19.6\"")),
            ("1.7.0-rc1", whole, Some("\"1.7.0-rc1\"")),
            ("v1.20.4", ["", "c0ffee", "eth0"], Some("no NetworkName")),
            ("", ["", "", "eth0"], Some("no NetworkName, ContainerID")),
            ("", ["aws-cni", "c0ffee", ""], Some("no IfName")),
        ];
        for (version, [network, container, ifname], expected) in cases {
            let refused = key(version, network, container, ifname).err();
            let said = refused.as_ref().map(Status::message);
            assert_eq!(said.is_some(), expected.is_some(), "{version}: {said:?}");
            if let (Some(refused), Some(expected)) = (&refused, expected) {
                assert_eq!(refused.code(), Code::FailedPrecondition, "{version}");
                for part in [expected, "1.20.0 and later", "upgrade"] {
                    assert!(refused.message().contains(part), "{version}: {refused}");
                }
            }
        }
    }
}
