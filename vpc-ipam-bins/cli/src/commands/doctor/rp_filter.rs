//! Whether the kernel drops packets of pods for the way that they came.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "rp-filter",
    about: "rp_filter of the primary ENI's link and of all links: strict drops NodePort traffic of pods on other ENIs",
    verdicts: &[Verdict::Ok, Verdict::Failure, Verdict::NotChecked],
    run,
};

const CONF: &str = "/proc/sys/net/ipv4/conf";
const STRICT: u8 = 1;

fn run(facts: &Facts) -> Vec<Finding> {
    let primary = match primary(facts) {
        Ok(primary) => primary,
        Err(why) => return vec![Finding::not_checked(why)],
    };
    let value = |link: &str| {
        let path = format!("{CONF}/{link}/rp_filter");
        let text = facts.files.read(&path)?.ok_or_else(|| format!("there is no {path}"))?;
        text.trim().parse::<u8>().map_err(|_| format!("{path} is {:?}", text.trim()))
    };
    let (all, own) = match (value("all"), value(&primary)) {
        (Ok(all), Ok(own)) => (all, own),
        (Err(why), _) | (_, Err(why)) => return vec![Finding::not_checked(why)],
    };
    // The kernel takes the larger one: off, strict, loose.
    let evidence = format!("rp_filter of {primary} is {own}, of all links {all}");
    if all.max(own) == STRICT {
        let remedy = format!(
            "vpc-ipamd sets it to 2; find what sets it back (grep -r rp_filter /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d), and \
             meanwhile: sysctl -w net.ipv4.conf.{primary}.rp_filter=2"
        );
        return vec![Finding::failure(format!("{evidence}: strict"), remedy)];
    }
    vec![Finding::ok(evidence)]
}

/// Returns the link of the default route, which is the primary ENI's.
fn primary(facts: &Facts) -> Result<String, String> {
    let routes = facts.files.read("/proc/net/route")?.ok_or("there is no /proc/net/route")?;
    let default = routes.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (link, destination) = (words.next()?, words.next()?);
        let metric: u32 = words.nth(4)?.parse().ok()?;
        (destination == "00000000").then_some((metric, link))
    });
    let (_, link) = default.min().ok_or("the main table has no default route of IPv4")?;
    Ok(link.to_owned())
}
