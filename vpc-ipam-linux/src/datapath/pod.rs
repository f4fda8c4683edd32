//! Pods: each is joined to the node by a veth, and reaches everything through it.

mod add;
pub(crate) mod branch;
mod check;
mod desired;
pub(crate) mod egress;
mod found;
mod name;
mod network;
mod remove;
mod tables;
pub(crate) mod variables;
mod veth;

pub use add::add;
pub use add::error::{AddError, AddFailure};
pub(crate) use add::make_known;
pub use branch::{Branch, BranchEni, VlanId, VlanIdError};
pub use check::check;
pub use desired::{PodError, PodSettings, desired, desired_on_branch};
pub use found::{remove_found, routed};
pub(crate) use name::parts_of_host_name;
pub use name::{host_links, is_link_of, links_of_lease};
pub use network::{Found, PodAddress, PodInterface, PodNetwork};
pub use remove::{RemoveError, remove, remove_links};
pub use veth::{PodEnd, VethEnd};

#[cfg(test)]
mod tests {
    use vpc_ipam_core::Lease;
    use vpc_ipam_core::testkit;

    use super::*;
    use crate::kernel::netlink::MockNetlink;
    use crate::{KernelChange, KernelEffect, LinkIndex, Namespace, Refusal, VethPrefix};

    #[test]
    fn pod_is_added_in_four_sends_and_one_look_at_its_routes() {
        let network = desired(&lease(), &settings()).unwrap();
        let mut host = MockNetlink::new();
        let mut sequence = mockall::Sequence::new();
        host.expect_change()
            .withf(|changes| matches!(changes, [KernelChange::AddVeth(_)]))
            .times(1)
            .in_sequence(&mut sequence)
            .returning(|_| {
                Ok(vec![Ok(KernelEffect::Veth { link: LinkIndex(7), peer: LinkIndex(2) })])
            });
        host.expect_change().times(1).in_sequence(&mut sequence).returning(|changes| {
            let refused = Refusal { errno: Some(2), says: None };
            let result = |change: &KernelChange| match change {
                KernelChange::Remove(_) => Err(refused.clone()),
                _ => Ok(KernelEffect::Done),
            };
            Ok(changes.iter().map(result).collect())
        });
        let mut inside = MockNetlink::new();
        inside.expect_all_routes().times(1).returning(|_| Ok(Vec::new()));
        inside
            .expect_change()
            .times(1)
            .in_sequence(&mut sequence)
            .returning(|changes| Ok(vec![Ok(KernelEffect::Done); changes.len()]));
        host.expect_link().times(1).in_sequence(&mut sequence).returning(|_| Ok(None));

        // What is not expected panics: lists, above all.
        add(&mut host, &mut inside, &Namespace::current().unwrap(), &network).unwrap();
    }

    #[test]
    fn lease_without_an_address_is_refused() {
        let lease = lease().with_first(lease().first.with_ipv4(None));
        let expected = Err(PodError::NoAddress { eni: lease.first.eni });
        assert_eq!(desired(&lease, &settings()), expected);
    }

    fn lease() -> Lease {
        testkit::lease("p1", [testkit::leased(0, 1, ["10.0.0.101"])])
    }

    fn settings() -> PodSettings {
        PodSettings::new(VethPrefix::default(), 9001)
    }
}
