//! EC2 and IMDSv2 through the AWS SDK.

mod imds;
mod translate;

use core::time::Duration;
use std::fmt;

use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::{AppName, SharedCredentialsProvider};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::builders::{FilterBuilder, NetworkInterfaceAttachmentChangesBuilder};
use aws_sdk_ec2::types::{Filter, ResourceType, TagSpecification};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface,
    EniAttribute, InstanceId, InstanceType, Ipv4Amount, Limits, Metadata,
    ModifyNetworkInterfaceAttribute, Node, ObservedEni, ObservedSubnet, Scope, Timestamp,
    UnassignIpv6Addresses, UnassignPrivateIpAddresses, VpcId, Zone,
};

use self::imds::Imds;
use crate::{Ec2Api, Ec2Error};

/// EC2 and the instance metadata service, through the AWS SDK.
///
/// Every call is one attempt: the SDK's own retries are off, because core decides what follows from a failure. Only
/// describing many things takes several requests, one a page.
#[derive(Clone, Debug)]
pub struct SdkEc2 {
    ec2: aws_sdk_ec2::Client,
    imds: Imds,
}

/// Where EC2 is and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdkOptions {
    /// The region; `None` asks the metadata service.
    pub region: Option<String>,
    /// The URL of EC2; `None` takes AWS's own for the region.
    pub ec2_endpoint: Option<String>,
    /// The URL of the metadata service; `None` takes the link-local address at which AWS has it.
    pub imds_endpoint: Option<String>,
    /// Who asks.
    pub credentials: Credentials,
    /// How long a call may take before it counts as unanswered.
    pub timeout: Duration,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The SDK's default chain: environment, profile files, web identity, container, instance role.
    Chain,
    /// A key, as doubles of EC2 want one. It does not change, so it is nothing for production.
    Static {
        /// The id of the key.
        access_key_id: String,
        /// The key.
        secret_access_key: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "Chain",
            Self::Static { .. } => "Static",
        })
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint of the metadata service is not a URL.
    #[error("use {url:?} as the endpoint of the metadata service")]
    ImdsEndpoint {
        /// What was given.
        url: String,
        /// What is wrong with it.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
    /// The endpoint of EC2 is not a URL.
    #[error("use {url:?} as the endpoint of EC2: http:// or https:// and a host are expected")]
    Ec2Endpoint {
        /// What was given.
        url: String,
    },
    /// No region was given, and the metadata service named none.
    #[error("read the region from the metadata service")]
    Region(#[source] Ec2Error),
}

impl Default for SdkOptions {
    /// Asks AWS in the instance's own region, as the instance's role, for at most ten seconds.
    fn default() -> Self {
        Self {
            region: None,
            ec2_endpoint: None,
            imds_endpoint: None,
            credentials: Credentials::Chain,
            // The peer's default of HTTP_TIMEOUT.
            timeout: Duration::from_secs(10),
        }
    }
}

impl SdkEc2 {
    /// Makes the clients. It sends nothing, unless the region has to be asked for.
    pub async fn connect(options: SdkOptions) -> Result<Self, ConnectError> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(options.timeout.min(CONNECT_TIMEOUT_MAX))
            .operation_timeout(options.timeout)
            .build();
        let provider = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
            .with_http_client(http.clone());

        let mut imds = aws_config::imds::Client::builder()
            .configure(&provider)
            .max_attempts(1)
            .connect_timeout(options.timeout.min(CONNECT_TIMEOUT_MAX))
            .read_timeout(options.timeout)
            .operation_attempt_timeout(options.timeout)
            .operation_timeout(options.timeout);
        if let Some(url) = options.imds_endpoint {
            imds =
                imds.endpoint(&url).map_err(|source| ConnectError::ImdsEndpoint { url, source })?;
        }
        let imds = Imds::new(imds.build());

        let region = match options.region {
            Some(region) => region,
            None => imds.region().await.map_err(ConnectError::Region)?,
        };
        let region = Region::new(region);
        let credentials = match options.credentials {
            Credentials::Static { access_key_id, secret_access_key } => {
                SharedCredentialsProvider::new(aws_sdk_ec2::config::Credentials::new(
                    access_key_id,
                    secret_access_key,
                    None,
                    None,
                    "vpc-ipam",
                ))
            }
            Credentials::Chain => SharedCredentialsProvider::new(
                DefaultCredentialsChain::builder()
                    .configure(provider.with_region(Some(region.clone())))
                    .region(region.clone())
                    .imds_client(imds.client())
                    .build()
                    .await,
            ),
        };
        let mut config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .app_name(AppName::new("vpc-ipam").expect("the name holds letters and a dash alone"))
            .region(region)
            .credentials_provider(credentials)
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(url) = options.ec2_endpoint {
            if !is_http_url(&url) {
                return Err(ConnectError::Ec2Endpoint { url });
            }
            config.set_endpoint_url(Some(url));
        }
        Ok(Self { ec2: aws_sdk_ec2::Client::from_conf(config.build()), imds })
    }
}

/// Tells whether this is a URL that the SDK can call; it would say so only at the first call.
fn is_http_url(text: &str) -> bool {
    let scheme = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    text.parse::<http::Uri>().is_ok_and(|uri| scheme(&uri) && uri.host().is_some())
}

/// The SDK's own default: three tries of a TCP handshake.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_millis(3_100);

/// EC2's bound of MaxResults for ENIs, instances and subnets.
const PAGE: i32 = 1000;

/// EC2's bound of values in one filter.
const FILTER_VALUES_MAX: usize = 200;

#[async_trait]
impl Ec2Api for SdkEc2 {
    async fn create_network_interface(
        &self,
        request: &CreateNetworkInterface,
    ) -> Result<ObservedEni, Ec2Error> {
        let operation = "CreateNetworkInterface";
        let mut call = self
            .ec2
            .create_network_interface()
            .client_token(&request.client_token)
            .subnet_id(request.subnet.as_str())
            .description(&request.description);
        for group in &request.security_groups {
            call = call.groups(group.as_str());
        }
        if !request.tags.is_empty() {
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::NetworkInterface)
                .set_tags(Some(translate::tags(&request.tags)))
                .build();
            call = call.tag_specifications(tags);
        }
        // EC2 takes a count of zero for wrong.
        match request.ipv4 {
            Ipv4Amount::Addresses(0) | Ipv4Amount::Prefixes(0) => {}
            Ipv4Amount::Addresses(count) => {
                call = call.secondary_private_ip_address_count(count.into());
            }
            Ipv4Amount::Prefixes(count) => call = call.ipv4_prefix_count(count.into()),
        }
        if request.ipv6_prefixes > 0 {
            call = call.ipv6_prefix_count(request.ipv6_prefixes.into());
        }
        let answer = call.send().await.map_err(|error| failed(operation, error))?;
        let eni = answer
            .network_interface()
            .ok_or_else(|| Ec2Error::unanswered(operation, "the answer holds no ENI"))?;
        translate::eni(operation, eni)
    }

    async fn attach_network_interface(
        &self,
        request: &AttachNetworkInterface,
    ) -> Result<AttachmentId, Ec2Error> {
        let operation = "AttachNetworkInterface";
        let answer = self
            .ec2
            .attach_network_interface()
            .network_interface_id(request.eni.as_str())
            .instance_id(request.instance.as_str())
            // Said even where it is 0: without it EC2 counts the devices of all cards together (cilium/cilium#42512).
            .network_card_index(request.card.0.into())
            .device_index(request.device.0.into())
            .send()
            .await
            .map_err(|error| failed(operation, error))?;
        translate::required(operation, "attachmentId", answer.attachment_id())
    }

    async fn modify_network_interface_attribute(
        &self,
        request: &ModifyNetworkInterfaceAttribute,
    ) -> Result<(), Ec2Error> {
        let operation = "ModifyNetworkInterfaceAttribute";
        let mut call = self
            .ec2
            .modify_network_interface_attribute()
            .network_interface_id(request.eni.as_str());
        match &request.attribute {
            EniAttribute::DeleteOnTermination(attachment) => {
                let change = NetworkInterfaceAttachmentChangesBuilder::default()
                    .attachment_id(attachment.as_str())
                    .delete_on_termination(true)
                    .build();
                call = call.attachment(change);
            }
            EniAttribute::Groups(groups) => {
                for group in groups {
                    call = call.groups(group.as_str());
                }
            }
        }
        call.send().await.map_err(|error| failed(operation, error))?;
        Ok(())
    }

    async fn assign_private_ip_addresses(
        &self,
        request: &AssignPrivateIpAddresses,
    ) -> Result<Vec<Ipv4Net>, Ec2Error> {
        let operation = "AssignPrivateIpAddresses";
        let call =
            self.ec2.assign_private_ip_addresses().network_interface_id(request.eni.as_str());
        let call = match request.amount {
            Ipv4Amount::Addresses(count) => call.secondary_private_ip_address_count(count.into()),
            Ipv4Amount::Prefixes(count) => call.ipv4_prefix_count(count.into()),
        };
        let answer = call.send().await.map_err(|error| failed(operation, error))?;
        translate::assigned_ipv4(operation, &answer)
    }

    async fn assign_ipv6_addresses(
        &self,
        request: &AssignIpv6Addresses,
    ) -> Result<Vec<Ipv6Net>, Ec2Error> {
        let operation = "AssignIpv6Addresses";
        let answer = self
            .ec2
            .assign_ipv6_addresses()
            .network_interface_id(request.eni.as_str())
            .ipv6_prefix_count(request.prefixes.into())
            .send()
            .await
            .map_err(|error| failed(operation, error))?;
        let prefixes = answer.assigned_ipv6_prefixes().iter();
        prefixes.map(|text| translate::parse(operation, "assignedIpv6PrefixSet", text)).collect()
    }

    async fn unassign_private_ip_addresses(
        &self,
        request: &UnassignPrivateIpAddresses,
    ) -> Result<(), Ec2Error> {
        let mut call =
            self.ec2.unassign_private_ip_addresses().network_interface_id(request.eni.as_str());
        for block in &request.blocks {
            call = if block.prefix_len() == 32 {
                call.private_ip_addresses(block.addr().to_string())
            } else {
                call.ipv4_prefixes(block.to_string())
            };
        }
        call.send().await.map_err(|error| failed("UnassignPrivateIpAddresses", error))?;
        Ok(())
    }

    async fn unassign_ipv6_addresses(
        &self,
        request: &UnassignIpv6Addresses,
    ) -> Result<(), Ec2Error> {
        let mut call =
            self.ec2.unassign_ipv6_addresses().network_interface_id(request.eni.as_str());
        for prefix in &request.prefixes {
            call = call.ipv6_prefixes(prefix.to_string());
        }
        call.send().await.map_err(|error| failed("UnassignIpv6Addresses", error))?;
        Ok(())
    }

    async fn detach_network_interface(
        &self,
        request: &DetachNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.ec2
            .detach_network_interface()
            .attachment_id(request.attachment.as_str())
            .send()
            .await
            .map_err(|error| failed("DetachNetworkInterface", error))?;
        Ok(())
    }

    async fn delete_network_interface(
        &self,
        request: &DeleteNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.ec2
            .delete_network_interface()
            .network_interface_id(request.eni.as_str())
            .send()
            .await
            .map_err(|error| failed("DeleteNetworkInterface", error))?;
        Ok(())
    }

    async fn create_tags(&self, request: &CreateTags) -> Result<(), Ec2Error> {
        self.ec2
            .create_tags()
            .resources(request.eni.as_str())
            .set_tags(Some(translate::tags(&request.tags)))
            .send()
            .await
            .map_err(|error| failed("CreateTags", error))?;
        Ok(())
    }

    async fn describe_network_interfaces(
        &self,
        instance: InstanceId,
        scope: &Scope,
    ) -> Result<Vec<ObservedEni>, Ec2Error> {
        match scope {
            Scope::Attached => {
                self.interfaces(vec![filter("attachment.instance-id", [instance.as_str()])]).await
            }
            Scope::Unattached => {
                let tag = format!("tag:{}", Scope::INSTANCE_TAG);
                self.interfaces(vec![
                    filter(&tag, [instance.as_str()]),
                    filter("status", ["available"]),
                ])
                .await
            }
            // A filter on ids, rather than the ids: one id that does not exist fails a call that names ids.
            Scope::Only(ids) => {
                let mut enis = Vec::with_capacity(ids.len());
                for ids in ids.chunks(FILTER_VALUES_MAX) {
                    let ids = ids.iter().map(|id| id.as_str());
                    let named = filter("network-interface-id", ids);
                    enis.extend(self.interfaces(vec![named]).await?);
                }
                Ok(enis)
            }
        }
    }

    async fn describe_subnets(
        &self,
        vpc: VpcId,
        zone: Zone,
    ) -> Result<Vec<ObservedSubnet>, Ec2Error> {
        let operation = "DescribeSubnets";
        let mut pages = self
            .ec2
            .describe_subnets()
            .filters(filter("vpc-id", [vpc.as_str()]))
            .filters(filter("availability-zone", [zone.as_str()]))
            .into_paginator()
            .page_size(PAGE)
            .send();
        let mut subnets = Vec::new();
        while let Some(page) = pages.next().await {
            for subnet in page.map_err(|error| failed(operation, error))?.subnets() {
                subnets.push(translate::subnet(operation, subnet)?);
            }
        }
        Ok(subnets)
    }

    async fn describe_instances(&self, instances: &[InstanceId]) -> Result<Vec<Node>, Ec2Error> {
        // EC2 takes no names for all of them.
        if instances.is_empty() {
            return Ok(Vec::new());
        }
        let operation = "DescribeInstances";
        let ids = instances.iter().map(|id| id.as_str().into()).collect();
        // A call that names ids is answered in one page.
        let answer = self
            .ec2
            .describe_instances()
            .set_instance_ids(Some(ids))
            .send()
            .await
            .map_err(|error| failed(operation, error))?;
        answer
            .reservations()
            .iter()
            .flat_map(|reservation| reservation.instances())
            .map(|instance| translate::node(operation, instance))
            .collect()
    }

    async fn describe_instance_types(
        &self,
        types: &[InstanceType],
    ) -> Result<Vec<Limits>, Ec2Error> {
        if types.is_empty() {
            return Ok(Vec::new());
        }
        let operation = "DescribeInstanceTypes";
        let names = types.iter().map(|name| name.as_str().into()).collect();
        let answer = self
            .ec2
            .describe_instance_types()
            .set_instance_types(Some(names))
            .send()
            .await
            .map_err(|error| failed(operation, error))?;
        answer.instance_types().iter().map(|info| translate::limits(operation, info)).collect()
    }

    async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        self.imds.metadata(now).await
    }
}

impl SdkEc2 {
    /// Returns all ENIs that match, page by page.
    async fn interfaces(&self, filters: Vec<Filter>) -> Result<Vec<ObservedEni>, Ec2Error> {
        let operation = "DescribeNetworkInterfaces";
        let mut pages = self
            .ec2
            .describe_network_interfaces()
            .set_filters(Some(filters))
            .into_paginator()
            .page_size(PAGE)
            .send();
        let mut enis = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed(operation, error))?;
            for eni in page.network_interfaces() {
                enis.push(translate::eni(operation, eni)?);
            }
        }
        Ok(enis)
    }
}

fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    let values = values.into_iter().map(Into::into).collect();
    FilterBuilder::default().name(name).set_values(Some(values)).build()
}

/// Classifies what became of a call that did not succeed.
fn failed<E>(operation: &str, error: SdkError<E>) -> Ec2Error
where
    E: ProvideErrorMetadata + core::error::Error + Send + Sync + 'static,
{
    let retry_after = error.raw_response().and_then(|response| {
        // Milliseconds in AWS's own header, seconds in HTTP's.
        let number = |name| response.headers().get(name)?.parse().ok();
        let millis = number("x-amz-retry-after").map(Duration::from_millis);
        millis.or_else(|| number("retry-after").map(Duration::from_secs))
    });
    let error = match &error {
        // A code is EC2's own word. Without one it was somebody on the way who answered.
        SdkError::ServiceError(context) => match context.err().code() {
            Some(code) => {
                let message = context.err().message().unwrap_or("no message");
                Ec2Error::refused(operation, code, message)
            }
            None => Ec2Error::unanswered(operation, chain(&error)),
        },
        // Nothing was sent, and never will be: the request is wrong in itself.
        SdkError::ConstructionFailure(_) => Ec2Error {
            kind: vpc_ipam_core::FailureKind::Rejected,
            ..Ec2Error::unanswered(operation, chain(&error))
        },
        _ => Ec2Error::unanswered(operation, chain(&error)),
    };
    Ec2Error { retry_after, ..error }
}

/// Returns an error with its causes. Those of the SDK say little by themselves.
fn chain(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some repeat their cause in their own message.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
