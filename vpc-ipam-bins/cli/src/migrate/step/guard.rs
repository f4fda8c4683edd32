//! Packets of pods are led on while amazon-vpc-cni-k8s starts, which removes what they need and makes it anew.

use vpc_ipam_linux::Guard;

use super::{Context, Options, Step, StepError};

pub(super) const STEP: Step = Step { name: "guard", commands, run };

fn commands(_: &Options) -> Vec<String> {
    vec![
        "# until amazon-vpc-cni-k8s serves, which removes the rules 1024 and 1536 at its start, and takes the address off each ENI:"
            .to_owned(),
        "ip rule add fwmark MARK lookup main pref 1025 proto 86".to_owned(),
        "ip rule add iif LINK lookup TABLE pref 1537 proto 86    # of each pod with a rule 1536".to_owned(),
        "ip addr add 169.254.255.86/32 dev ENI scope link; ip route add default via GATEWAY dev ENI table TABLE metric 86000 proto 86"
            .to_owned(),
    ]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let mut netlink = context.netlink()?;
    let guard = Guard::find(&mut netlink)?;
    guard.raise(&mut netlink)?;
    Ok("packets keep their way while amazon-vpc-cni-k8s starts".to_owned())
}
