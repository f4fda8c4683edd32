//! The instance metadata service, version 2.

use core::error::Error as _;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_config::imds::Client;
use aws_config::imds::client::error::{ImdsError, TokenError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vpc_ipam_core::{
    Card, DeviceIndex, FailureKind, IncompleteEni, InstanceId, Mac, Metadata, Node, Observation,
    ObservedAttachment, ObservedEni, Scope, Source, SubnetRanges, Timestamp,
};

use crate::Ec2Error;

#[derive(Clone, Debug)]
pub(super) struct Imds {
    client: Client,
    timeout: Duration,
}

/// The most ENIs that are read: several times what any instance type takes.
const ENIS_MAX: usize = 512;

/// The most lines of one value: many times the addresses of an ENI.
const LINES_MAX: usize = 4096;

impl Imds {
    /// Reads by `client`, for at most `timeout` in all.
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) async fn region(&self) -> Result<String, Ec2Error> {
        let path = "placement/region";
        self.get(path).await?.ok_or_else(|| missing(path))
    }

    /// Reads what is known of the instance and its ENIs. It takes about ten requests an ENI, which is why what comes or
    /// goes in between may be seen by half; an ENI that is shown only in part does not keep the rest from being read.
    pub(super) async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        super::within(self.timeout, "metadata", self.all(now)).await
    }

    async fn all(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        let instance = self.value("instance-id").await?;
        let primary_mac: Mac = self.value("mac").await?;
        let primary = self.eni_dir(primary_mac);

        let node = Node::new(
            instance,
            self.value("instance-type").await?,
            self.value("placement/availability-zone").await?,
            self.value(&format!("{primary}vpc-id")).await?,
            self.value(&format!("{primary}interface-id")).await?,
            self.value(&format!("{primary}subnet-id")).await?,
        );

        let (mut enis, mut incomplete) = (Vec::new(), Vec::new());
        let mut subnets = BTreeMap::new();
        let macs = self.get(MACS).await?.ok_or_else(|| missing(MACS))?;
        for entry in bounded(MACS, &macs, ENIS_MAX)? {
            let mac = parse(MACS, entry.trim_end_matches('/'))?;
            match self.eni(instance, mac).await {
                Ok((eni, ranges)) => {
                    subnets.insert(eni.subnet, ranges);
                    enis.push(eni);
                }
                Err(Unread::Untold(missing)) => incomplete.push(IncompleteEni::new(mac, missing)),
                Err(Unread::Failed(error)) => return Err(error),
            }
        }
        Ok(Metadata::new(
            node,
            Observation::new(now, Source::Imds, Scope::Attached)
                .with_enis(enis)
                .with_incomplete(incomplete),
        )
        .with_primary_ipv4(self.list("local-ipv4").await?.first().copied())
        .with_vpc_ipv4_cidrs(self.list(&format!("{primary}vpc-ipv4-cidr-blocks")).await?)
        .with_vpc_ipv6_cidrs(self.list(&format!("{primary}vpc-ipv6-cidr-blocks")).await?)
        .with_subnets(subnets))
    }

    /// Reads one ENI and the ranges of its subnet.
    async fn eni(
        &self,
        instance: InstanceId,
        mac: Mac,
    ) -> Result<(ObservedEni, SubnetRanges), Unread> {
        let path = self.eni_dir(mac);
        let names = self.get(&path).await?;
        let names = names.ok_or_else(|| Unread::Untold("all of it".into()))?;
        // Asking for what is not listed costs a request and a 404 each.
        let names = bounded(&path, &names, LINES_MAX)?.map(str::to_owned).collect();
        let dir = EniDir { imds: self, names, path };

        let ipv4: Vec<Ipv4Addr> = dir.list("local-ipv4s").await?;
        let ipv6: Vec<Ipv6Addr> = dir.list("ipv6s").await?;
        let ipv4_prefixes: Vec<Ipv4Net> = dir.list("ipv4-prefix").await?;
        let ipv6_prefixes: Vec<Ipv6Net> = dir.list("ipv6-prefix").await?;
        // The first address is the ENI's own.
        let secondary = ipv4.iter().skip(1).map(|address| Ipv4Net::from(*address));
        let ranges = SubnetRanges::new(
            dir.list("subnet-ipv4-cidr-block").await?.first().copied(),
            dir.list("subnet-ipv6-cidr-blocks").await?.first().copied(),
        );
        let eni =
            ObservedEni::new(dir.value("interface-id").await?, mac, dir.value("subnet-id").await?)
                .with_vpc(dir.list("vpc-id").await?.first().copied())
                .with_attachment(Some(ObservedAttachment::new(
                    instance,
                    Card(dir.list("network-card").await?.first().copied().unwrap_or(0)),
                    DeviceIndex(dir.value("device-number").await?),
                )))
                .with_primary_ipv4(ipv4.first().copied())
                .with_primary_ipv6(ipv6.first().copied())
                .with_blocks(
                    (secondary.chain(ipv4_prefixes).map(IpNet::V4))
                        .chain(ipv6_prefixes.into_iter().map(IpNet::V6))
                        .collect(),
                )
                .with_security_groups(dir.list("security-group-ids").await?);
        Ok((eni, ranges))
    }

    fn eni_dir(&self, mac: Mac) -> String {
        format!("{MACS}{mac}/")
    }

    /// Reads a value that every instance has.
    async fn value<T: FromStr<Err: fmt::Display>>(&self, path: &str) -> Result<T, Ec2Error> {
        let text = self.get(path).await?.ok_or_else(|| missing(path))?;
        parse(path, text.trim())
    }

    /// Reads a value of one line each; none where the path does not exist.
    async fn list<T: FromStr<Err: fmt::Display>>(&self, path: &str) -> Result<Vec<T>, Ec2Error> {
        let text = self.get(path).await?.unwrap_or_default();
        bounded(path, &text, LINES_MAX)?.map(|line| parse(path, line)).collect()
    }

    /// Reads a path; `None` if it does not exist.
    async fn get(&self, path: &str) -> Result<Option<String>, Ec2Error> {
        match self.client.get(format!("/latest/meta-data/{path}")).await {
            Ok(text) => Ok(Some(text.into())),
            Err(ImdsError::ErrorResponse(answer)) if answer.response().status().as_u16() == 404 => {
                Ok(None)
            }
            Err(error) => Err(failed(path, &error)),
        }
    }
}

const MACS: &str = "network/interfaces/macs/";

/// The directory of one ENI and what stands in it.
struct EniDir<'a> {
    imds: &'a Imds,
    names: BTreeSet<String>,
    path: String,
}

/// Why an ENI was not read.
enum Unread {
    /// The service lists it, and does not tell this of it, or not so that it can be read.
    Untold(String),
    /// The service did not answer as it should.
    Failed(Ec2Error),
}

impl From<Ec2Error> for Unread {
    fn from(error: Ec2Error) -> Self {
        Self::Failed(error)
    }
}

impl EniDir<'_> {
    /// Reads a value that every ENI has.
    async fn value<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, Unread> {
        unless_untold(name, self.text(name).await?.trim())
    }

    /// Reads a value of one line each; none where it is not listed.
    async fn list<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Vec<T>, Unread> {
        if !self.names.contains(name) {
            return Ok(Vec::new());
        }
        let text = self.text(name).await?;
        let path = format!("{}{name}", self.path);
        let lines = bounded(&path, &text, LINES_MAX)?;
        lines.map(|line| unless_untold(name, line)).collect()
    }

    async fn text(&self, name: &str) -> Result<String, Unread> {
        let text = self.imds.get(&format!("{}{name}", self.path)).await?;
        text.ok_or_else(|| Unread::Untold(name.to_owned()))
    }
}

/// Reads a value of an ENI.
fn unless_untold<T: FromStr<Err: fmt::Display>>(name: &str, text: &str) -> Result<T, Unread> {
    text.parse().map_err(|error| Unread::Untold(format!("{name} (read {text:?}: {error})")))
}

/// Returns the lines of a value that is not longer than it could be.
fn bounded<'a>(
    path: &str,
    text: &'a str,
    lines_max: usize,
) -> Result<impl Iterator<Item = &'a str>, Ec2Error> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    if lines.clone().nth(lines_max).is_some() {
        let message = format!("the value has more than the {lines_max} lines that are read");
        return Err(Ec2Error::unanswered(&operation(path), message));
    }
    Ok(lines)
}

fn parse<T: FromStr<Err: fmt::Display>>(path: &str, text: &str) -> Result<T, Ec2Error> {
    text.parse()
        .map_err(|error| Ec2Error::unanswered(&operation(path), format!("read {text:?}: {error}")))
}

fn missing(path: &str) -> Ec2Error {
    Ec2Error::unanswered(&operation(path), "the metadata service has no such path")
}

fn failed(path: &str, error: &ImdsError) -> Ec2Error {
    let answer = answer(error);
    let kind = match answer.map(|answer| answer.status().as_u16()) {
        // 401: the token; 403: the service is switched off for this instance.
        Some(401 | 403) => FailureKind::Denied,
        Some(429 | 503) => FailureKind::Throttled,
        _ => FailureKind::Unanswered,
    };
    Ec2Error {
        kind,
        retry_after: answer.and_then(super::failure::retry_after),
        ..Ec2Error::unanswered(&operation(path), why(error))
    }
}

/// Returns the answer that is an error, if there was one: to the question, or to that for a token.
fn answer(error: &ImdsError) -> Option<&HttpResponse> {
    match error {
        ImdsError::ErrorResponse(answer) => Some(answer.response()),
        error => {
            let token = error.source()?.downcast_ref::<SdkError<TokenError, HttpResponse>>()?;
            token.raw_response()
        }
    }
}

/// Returns what is wrong, in one line: the SDK prints an answer with all its headers, which differ at each try.
fn why(error: &ImdsError) -> String {
    match (answer(error), error) {
        (Some(answer), ImdsError::ErrorResponse(_)) => format!("answered {}", answer.status()),
        (Some(answer), _) => format!("answered {} when asked for a token", answer.status()),
        (None, error) => vpc_ipam_core::error_chain(error),
    }
}

fn operation(path: &str) -> String {
    format!("metadata {path}")
}
