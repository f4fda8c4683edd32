//! EC2 and IMDSv2 through the AWS SDK.

mod calls;
mod dry_run;
mod failure;
mod http;
mod imds;
mod list;
mod request;
mod translate;

use core::time::Duration;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::future::ProvideRegion as ProvidedRegion;
use aws_config::meta::region::{ProvideRegion, RegionProviderChain};
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::{AppName, SharedCredentialsProvider};
use aws_sdk_ec2::types::Filter;
use aws_sdk_ec2::types::builders::FilterBuilder;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    InstanceId, InstanceType, Ipv4Amount, Limits, Metadata, ModifyNetworkInterfaceAttribute, Node,
    ObservedEni, ObservedSubnet, Scope, Timestamp, UnassignIpv6Addresses,
    UnassignPrivateIpAddresses, VpcId, Zone,
};

use tokio::sync::OnceCell;

pub use self::http::is_usable_proxy;
pub use self::request::{Ec2Request, RequestObserver};

use self::failure::failed;
use self::http::Proxy;
use self::imds::Imds;
use self::list::List;
use crate::{Ec2Api, Ec2Error};

/// EC2 and the instance metadata service, through the AWS SDK.
///
/// Every call is one attempt: the SDK's own retries are off, because core decides what follows from a failure. Only
/// describing many things takes several requests, one a page, and reading the metadata one a value.
///
/// Whatever answers, a call ends within the timeout of [`SdkOptions`]; an answer of more than 16 MiB, a list of more than 50
/// pages or with more ENIs, addresses or values than any instance has counts as unanswered; and no caller is asked to wait for
/// more than five minutes.
#[derive(Clone, Debug)]
pub struct SdkEc2 {
    ec2: Arc<Ec2>,
    imds: Imds,
    timeout: Duration,
}

/// The client of EC2, which is made when it is first needed: the region may have to be asked for.
#[derive(Debug)]
struct Ec2 {
    shared: Shared,
    region: Option<Region>,
    endpoint: Option<String>,
    http: SharedHttpClient,
    timeouts: TimeoutConfig,
    observer: Option<RequestObserver>,
    client: OnceCell<aws_sdk_ec2::Client>,
}

/// Who asks, and what else the environment says.
#[derive(Debug)]
enum Shared {
    /// The variables and profile files that all SDKs of AWS know.
    Environment(Box<SdkConfig>),
    /// A key, and nothing of the environment.
    Key(SharedCredentialsProvider),
}

/// Where EC2 is and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdkOptions {
    /// The region; `None` takes that of the environment, or asks the metadata service when EC2 is first called.
    pub region: Option<String>,
    /// The URL of EC2; `None` takes that of the environment, or AWS's own for the region.
    pub ec2_endpoint: Option<String>,
    /// The URL of the metadata service; `None` takes that of the environment, or the link-local address at which AWS has it.
    pub imds_endpoint: Option<String>,
    /// Who asks.
    pub credentials: Credentials,
    /// How long a call may take before it counts as unanswered, with all requests that it consists of.
    pub timeout: Duration,
    /// What gets each request to EC2; those to the metadata service are not among them.
    pub observer: Option<RequestObserver>,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The SDK's default chain: environment, profile files, web identity, container, instance role. With it count the
    /// variables and profile files that name a region, an endpoint or a kind of endpoint (`AWS_REGION`, `AWS_ENDPOINT_URL`,
    /// `AWS_USE_FIPS_ENDPOINT` and their kin), and proxies.
    Chain,
    /// A key, as doubles of EC2 want one, and nothing of the environment. It does not change, so it is nothing for
    /// production.
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
}

impl Default for SdkOptions {
    /// Asks AWS in the instance's own region, as the instance's role, for at most ten seconds.
    fn default() -> Self {
        Self {
            region: None,
            ec2_endpoint: None,
            imds_endpoint: None,
            credentials: Credentials::Chain,
            // The default of HTTP_TIMEOUT in amazon-vpc-cni-k8s.
            timeout: Duration::from_secs(10),
            observer: None,
        }
    }
}

impl SdkEc2 {
    /// Makes the clients. It sends nothing.
    pub async fn connect(options: SdkOptions) -> Result<Self, ConnectError> {
        let SdkOptions { region, ec2_endpoint, imds_endpoint, credentials, timeout, observer } =
            options;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
            .operation_timeout(timeout)
            .build();
        let mut imds = aws_config::imds::Client::builder()
            .configure(&provider(http::imds_client()))
            .max_attempts(1)
            .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
            .read_timeout(timeout)
            .operation_attempt_timeout(timeout)
            .operation_timeout(timeout);
        if let Some(url) = imds_endpoint {
            imds =
                imds.endpoint(&url).map_err(|source| ConnectError::ImdsEndpoint { url, source })?;
        }
        let imds = Imds::new(imds.build(), timeout);

        let region = region.map(Region::new);
        let (http, shared) = match credentials {
            Credentials::Static { access_key_id, secret_access_key } => {
                let key = aws_sdk_ec2::config::Credentials::new(
                    access_key_id,
                    secret_access_key,
                    None,
                    None,
                    "vpc-ipam",
                );
                (http::client(Proxy::None), Shared::Key(SharedCredentialsProvider::new(key)))
            }
            Credentials::Chain => {
                let http = http::client(Proxy::OfEnvironment);
                let shared = environment(region.clone(), http.clone(), timeouts.clone()).await;
                (http, Shared::Environment(Box::new(shared)))
            }
        };
        let of_environment = match &shared {
            Shared::Environment(shared) => (shared.region().cloned(), endpoint(shared)),
            Shared::Key(_) => (None, None),
        };
        if let Some(url) = ec2_endpoint.as_ref().or(of_environment.1.as_ref())
            && !is_http_url(url)
        {
            return Err(ConnectError::Ec2Endpoint { url: url.clone() });
        }
        let ec2 = Ec2 {
            region: region.or(of_environment.0),
            endpoint: ec2_endpoint,
            shared,
            http,
            timeouts,
            observer,
            client: OnceCell::new(),
        };
        Ok(Self { ec2: Arc::new(ec2), imds, timeout })
    }

    /// Returns the client of EC2; for its region the metadata service may have to be asked.
    async fn ec2(&self) -> Result<&aws_sdk_ec2::Client, Ec2Error> {
        let make = || async {
            let region = match &self.ec2.region {
                Some(region) => region.clone(),
                None => Region::new(self.region().await?),
            };
            Ok(self.ec2.client(region, &self.imds).await)
        };
        self.ec2.client.get_or_try_init(make).await
    }

    /// Asks the metadata service for the region: for half of the time that a call may take, which then can say that it is this
    /// that it waited for.
    async fn region(&self) -> Result<String, Ec2Error> {
        within(self.timeout / 2, "metadata placement/region", self.imds.region()).await
    }

    /// Waits for the answer to a call that takes several requests, for as long as a call may take.
    async fn within<T>(
        &self,
        operation: &str,
        call: impl Future<Output = Result<T, Ec2Error>>,
    ) -> Result<T, Ec2Error> {
        within(self.timeout, operation, call).await
    }
}

async fn within<T>(
    timeout: Duration,
    operation: &str,
    call: impl Future<Output = Result<T, Ec2Error>>,
) -> Result<T, Ec2Error> {
    tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| {
        Err(Ec2Error::unanswered(operation, format!("not answered whole within {timeout:?}")))
    })
}

impl Ec2 {
    async fn client(&self, region: Region, imds: &Imds) -> aws_sdk_ec2::Client {
        let (config, credentials) = match &self.shared {
            Shared::Key(key) => (aws_sdk_ec2::Config::builder(), key.clone()),
            Shared::Environment(shared) => {
                let chain = DefaultCredentialsChain::builder()
                    .configure(provider(self.http.clone()).with_region(Some(region.clone())))
                    .region(region.clone())
                    .imds_client(imds.client());
                let chain = SharedCredentialsProvider::new(chain.build().await);
                (aws_sdk_ec2::config::Builder::from(&**shared), chain)
            }
        };
        let mut config = config
            .behavior_version(BehaviorVersion::v2026_01_12())
            .app_name(app_name())
            .region(region)
            .credentials_provider(credentials)
            .http_client(self.http.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(self.timeouts.clone());
        if let Some(observer) = &self.observer {
            config = config.interceptor(observer.clone());
        }
        if self.endpoint.is_some() {
            config.set_endpoint_url(self.endpoint.clone());
        }
        aws_sdk_ec2::Client::from_conf(config.build())
    }
}

/// Reads what variables and profile files say to all SDKs of AWS; credentials aside, which want a region.
async fn environment(
    region: Option<Region>,
    http: SharedHttpClient,
    timeouts: TimeoutConfig,
) -> SdkConfig {
    let profile = ProfileFileRegionProvider::builder().configure(&provider(http.clone())).build();
    let region = RegionProviderChain::first_try(region)
        .or_else(NotEmpty(EnvironmentVariableRegionProvider::new()))
        .or_else(NotEmpty(profile));
    let shared = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region)
        .http_client(http)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .app_name(app_name())
        .no_credentials()
        .load()
        .await;
    // A variable that is empty is one that is not set.
    let of_all = shared.endpoint_url().filter(|url| !url.is_empty()).map(str::to_owned);
    let mut unset = shared.clone().into_builder();
    unset.set_endpoint_url(of_all).set_service_config(Some(NotEmpty(shared)));
    unset.build()
}

/// Returns the endpoint of EC2 that variables or profile files name, for this service or for all.
fn endpoint(shared: &SdkConfig) -> Option<String> {
    // As the client of EC2 asks.
    let key = ServiceConfigKey::builder()
        .service_id("EC2")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("all three are given");
    let of_ec2 = shared.service_config().and_then(|config| config.load_config(key));
    of_ec2.or_else(|| shared.endpoint_url().map(str::to_owned))
}

impl LoadServiceConfig for NotEmpty<SdkConfig> {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        self.0.service_config()?.load_config(key).filter(|value| !value.is_empty())
    }
}

/// What is named by an empty text is not named.
#[derive(Debug)]
struct NotEmpty<P>(P);

impl<P: ProvideRegion> ProvideRegion for NotEmpty<P> {
    fn region(&self) -> ProvidedRegion<'_> {
        let region = self.0.region();
        ProvidedRegion::new(async { region.await.filter(|region| !region.as_ref().is_empty()) })
    }
}

fn provider(http: SharedHttpClient) -> ProviderConfig {
    ProviderConfig::without_region()
        .with_behavior_version(Some(BehaviorVersion::v2026_01_12()))
        .with_http_client(http)
}

fn app_name() -> AppName {
    AppName::new("vpc-ipam").expect("the name holds letters and a dash alone")
}

/// Tells whether this is a URL that the SDK can call; it would say so only at the first call.
fn is_http_url(text: &str) -> bool {
    let scheme = |uri: &::http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    text.parse::<::http::Uri>().is_ok_and(|uri| scheme(&uri) && uri.host().is_some())
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
        let call = calls::create_network_interface(self.ec2().await?, request);
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
        let call = calls::attach_network_interface(self.ec2().await?, request);
        let answer = call.send().await.map_err(|error| failed(operation, error))?;
        translate::required(operation, "attachmentId", answer.attachment_id())
    }

    async fn modify_network_interface_attribute(
        &self,
        request: &ModifyNetworkInterfaceAttribute,
    ) -> Result<(), Ec2Error> {
        let operation = "ModifyNetworkInterfaceAttribute";
        let call = calls::modify_network_interface_attribute(self.ec2().await?, request);
        call.send().await.map_err(|error| failed(operation, error))?;
        Ok(())
    }

    async fn assign_private_ip_addresses(
        &self,
        request: &AssignPrivateIpAddresses,
    ) -> Result<Vec<Ipv4Net>, Ec2Error> {
        let operation = "AssignPrivateIpAddresses";
        let call = self
            .ec2()
            .await?
            .assign_private_ip_addresses()
            .network_interface_id(request.eni.as_str());
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
            .ec2()
            .await?
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
        let mut call = self
            .ec2()
            .await?
            .unassign_private_ip_addresses()
            .network_interface_id(request.eni.as_str());
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
            self.ec2().await?.unassign_ipv6_addresses().network_interface_id(request.eni.as_str());
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
        let call = calls::detach_network_interface(self.ec2().await?, request);
        call.send().await.map_err(|error| failed("DetachNetworkInterface", error))?;
        Ok(())
    }

    async fn delete_network_interface(
        &self,
        request: &DeleteNetworkInterface,
    ) -> Result<(), Ec2Error> {
        let call = calls::delete_network_interface(self.ec2().await?, request);
        call.send().await.map_err(|error| failed("DeleteNetworkInterface", error))?;
        Ok(())
    }

    async fn create_tags(&self, request: &CreateTags) -> Result<(), Ec2Error> {
        let call = calls::create_tags(self.ec2().await?, request);
        call.send().await.map_err(|error| failed("CreateTags", error))?;
        Ok(())
    }

    async fn describe_network_interfaces(
        &self,
        instance: InstanceId,
        scope: &Scope,
    ) -> Result<Vec<ObservedEni>, Ec2Error> {
        self.within("DescribeNetworkInterfaces", self.described(instance, scope)).await
    }

    async fn describe_subnets(
        &self,
        vpc: VpcId,
        zone: Zone,
    ) -> Result<Vec<ObservedSubnet>, Ec2Error> {
        self.within("DescribeSubnets", self.subnets(vpc, zone)).await
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
            .ec2()
            .await?
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
            .ec2()
            .await?
            .describe_instance_types()
            .set_instance_types(Some(names))
            .send()
            .await
            .map_err(|error| failed(operation, error))?;
        answer.instance_types().iter().map(|info| translate::limits(operation, info)).collect()
    }

    async fn dry_run(&self, action: &Ec2Action) -> Result<(), Ec2Error> {
        self.tried(action).await
    }

    async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        self.imds.metadata(now).await
    }
}

impl SdkEc2 {
    /// Returns all ENIs that match, page by page.
    async fn interfaces(&self, filters: Vec<Filter>) -> Result<Vec<ObservedEni>, Ec2Error> {
        let operation = "DescribeNetworkInterfaces";
        let mut list = List::new(operation);
        loop {
            let answer = self
                .ec2()
                .await?
                .describe_network_interfaces()
                .set_filters(Some(filters.clone()))
                .max_results(PAGE)
                .set_next_token(list.next.take())
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            for eni in answer.network_interfaces() {
                let eni = translate::eni(operation, eni)?;
                let size = 1 + eni.blocks.len();
                list.push(eni, size)?;
            }
            if list.ends(answer.next_token())? {
                return Ok(list.all);
            }
        }
    }

    /// Returns all subnets of a VPC in a zone, page by page.
    async fn subnets(&self, vpc: VpcId, zone: Zone) -> Result<Vec<ObservedSubnet>, Ec2Error> {
        let operation = "DescribeSubnets";
        let mut list = List::new(operation);
        loop {
            let answer = self
                .ec2()
                .await?
                .describe_subnets()
                .filters(filter("vpc-id", [vpc.as_str()]))
                .filters(filter("availability-zone", [zone.as_str()]))
                .max_results(PAGE)
                .set_next_token(list.next.take())
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            for subnet in answer.subnets() {
                list.push(translate::subnet(operation, subnet)?, 1)?;
            }
            if list.ends(answer.next_token())? {
                return Ok(list.all);
            }
        }
    }

    async fn described(
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
}

fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    let values = values.into_iter().map(Into::into).collect();
    FilterBuilder::default().name(name).set_values(Some(values)).build()
}
