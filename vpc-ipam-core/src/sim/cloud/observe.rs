use alloc::string::String;
use alloc::vec::Vec;

use super::Cloud;
use super::interface::NetworkInterface;
use crate::sim::error::CloudError;
use crate::sim::space::Ipv6Space;
use crate::{
    EniId, IncompleteEni, InstanceId, InterfaceType, Metadata, Observation, ObservedEni, Scope,
    Source, SubnetRanges, Timestamp,
};

/// What EC2 and the metadata service show.
impl Cloud {
    /// Returns what a source shows of an instance's ENIs. The instance need not exist.
    pub fn observe(
        &mut self,
        instance: InstanceId,
        source: Source,
        scope: &Scope,
        now: Timestamp,
    ) -> Result<Observation, CloudError> {
        let in_scope = |eni: &&NetworkInterface| match scope {
            Scope::Attached => true,
            Scope::Unattached => {
                let owner = eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str);
                eni.attachment.is_none() && owner == Some(instance.as_str())
            }
            Scope::Only(ids) => ids.contains(&eni.id),
        };
        let attached = || {
            let ids = self.instances.get(&instance).map(|instance| &instance.enis);
            ids.into_iter().flatten().map(|id| &self.enis[id])
        };
        let enis: Vec<&NetworkInterface> = match (source, scope) {
            (Source::Imds, _) | (_, Scope::Attached) => attached().filter(in_scope).collect(),
            (Source::Ec2, _) => self.enis.values().filter(in_scope).collect(),
        };
        let observed = |eni: &NetworkInterface| match source {
            Source::Ec2 => ObservedEni::from(eni),
            Source::Imds => as_imds_tells(eni.into()),
        };
        let withheld = |eni: &NetworkInterface| match source {
            Source::Ec2 => None,
            Source::Imds => self.withheld.get(&eni.id).cloned(),
        };
        let incomplete = |eni: &&NetworkInterface| {
            withheld(eni).map(|missing| IncompleteEni { mac: eni.mac, missing })
        };
        Ok(Observation {
            as_of: now,
            source,
            scope: scope.clone(),
            incomplete: enis.iter().filter_map(incomplete).collect(),
            enis: enis.into_iter().filter(|eni| withheld(eni).is_none()).map(observed).collect(),
        })
    }

    /// Returns an instance's metadata.
    pub fn metadata(
        &mut self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<Metadata, CloudError> {
        let observation = self.observe(instance, Source::Imds, &Scope::Attached, now)?;
        let node =
            self.instance(&instance).ok_or_else(|| CloudError::no_instance(instance))?.node.clone();
        let vpc = &self.vpcs[&node.vpc];
        Ok(Metadata {
            primary_ipv4: self.enis[&node.primary].primary_ipv4,
            vpc_ipv4_cidrs: vpc.ipv4_cidrs.clone(),
            vpc_ipv6_cidrs: vpc.ipv6_cidrs.clone(),
            subnets: (observation.enis.iter())
                .map(|eni| {
                    let subnet = &self.subnets[&eni.subnet];
                    let ipv6 = subnet.ipv6.as_ref().map(Ipv6Space::net);
                    (subnet.id, SubnetRanges { ipv4: Some(subnet.ipv4.net()), ipv6 })
                })
                .collect(),
            node,
            observation,
        })
    }

    /// Lets the metadata service list an ENI without telling one value of it, by its name in the service (`device-number`);
    /// with `None` it tells all again.
    pub fn withhold_metadata(&mut self, eni: EniId, name: Option<&str>) {
        match name {
            Some(name) => self.withheld.insert(eni, name.into()),
            None => self.withheld.remove(&eni),
        };
    }

    /// Returns the name of the value that the metadata service does not tell of an ENI, if there is one.
    pub fn withheld_metadata(&self, eni: &EniId) -> Option<&str> {
        self.withheld.get(eni).map(String::as_str)
    }
}

/// Returns what the metadata service tells of an ENI: no tags, no attachment id, no type.
fn as_imds_tells(mut eni: ObservedEni) -> ObservedEni {
    eni.tags = None;
    eni.interface_type = InterfaceType::Interface;
    if let Some(attachment) = &mut eni.attachment {
        attachment.id = None;
        attachment.delete_on_termination = None;
    }
    eni
}
