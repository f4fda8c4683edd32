mod address;
mod attachment;
mod fabric;
mod instance;
mod interface;
mod observe;
mod past;
mod request;
mod subnet;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use core::str::FromStr;

use self::fabric::Told;
pub use self::fabric::{Change, Port};
pub use self::instance::Instance;
pub use self::interface::{Attachment, NetworkInterface};
use self::past::Past;
pub use self::request::{
    CreateInterface, CreateSubnet, Ipv4Request, Ipv6Request, ModifyInterface, RunInstance,
};
use self::subnet::Subnet;
pub use self::subnet::Vpc;
use super::rng::Rng;
use crate::{AttachmentId, EniId, InstanceId, Mac, SecurityGroupId, SubnetId, VpcId};

/// One region of EC2, as far as ENIs and their addresses go.
///
/// Its operations are named for EC2's, take the time of the call, and do all or nothing. Every change is there at once
/// and every answer is true; what EC2 does late or wrongly is a [`Fault`](super::Fault), which
/// [`Cloud::execute_with`] adds.
#[derive(Clone, Debug)]
pub struct Cloud {
    rng: Rng,
    vpcs: BTreeMap<VpcId, Vpc>,
    security_groups: BTreeMap<SecurityGroupId, VpcId>,
    subnets: BTreeMap<SubnetId, Subnet>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    pub(super) enis: BTreeMap<EniId, NetworkInterface>,
    attachments: BTreeMap<AttachmentId, EniId>,
    macs: BTreeSet<Mac>,
    /// Client tokens of the ENIs that exist.
    tokens: BTreeMap<String, (CreateInterface, EniId)>,
    told: Told,
    pub(super) past: Past,
    /// What the metadata service does not tell of ENIs that it lists.
    withheld: BTreeMap<EniId, String>,
}

impl Cloud {
    /// Makes a cloud with nothing in it; ids and addresses are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            vpcs: BTreeMap::new(),
            security_groups: BTreeMap::new(),
            subnets: BTreeMap::new(),
            instances: BTreeMap::new(),
            enis: BTreeMap::new(),
            attachments: BTreeMap::new(),
            macs: BTreeSet::new(),
            tokens: BTreeMap::new(),
            told: Told::default(),
            past: Past::default(),
            withheld: BTreeMap::new(),
        }
    }

    /// Returns what became different in the fabric since the last call, one change at a time, until it returns `None`.
    ///
    /// What goes is listed before what comes. A change that was undone before the call is left out.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.told.next(&self.enis)
    }

    /// Makes an id in EC2's form: 17 hexadecimal digits, the first of which is 0.
    fn new_id<I: FromStr>(&mut self, prefix: &str) -> I {
        let text = format!("{prefix}0{:016x}", self.rng.next());
        match text.parse() {
            Ok(id) => id,
            Err(_) => unreachable!("{text} is at most 28 printable characters"),
        }
    }
}

#[cfg(test)]
mod tests;
