//! The HTTP clients below the SDK: answers of bounded length, proxies as the environment names them, and a metadata service
//! that forgot a token.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use http_body_util::Limited;

/// The longest answer that is read, in bytes. A page of a thousand ENIs with fifty addresses each takes about that; what is
/// asked for here is a hundredth of it.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How requests leave the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    /// By `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`, `NO_PROXY` aside.
    OfEnvironment,
    /// Without a proxy, whatever variables say.
    None,
}

/// Makes a client for EC2 and for the services that issue credentials.
pub(super) fn client(proxy: Proxy) -> SharedHttpClient {
    SharedHttpClient::new(Client { proxy, renewed: None, connectors: Mutex::default() })
}

/// Makes a client for the metadata service, which is on the link: no proxy could reach it.
pub(super) fn imds_client() -> SharedHttpClient {
    let (proxy, renewed) = (Proxy::None, Some(Arc::default()));
    SharedHttpClient::new(Client { proxy, renewed, connectors: Mutex::default() })
}

/// Returns whether requests could go by a proxy that is named so, as `HTTPS_PROXY` and its kin name it; one that could not is
/// passed over.
pub fn is_usable_proxy(text: &str) -> bool {
    let http = |uri: &http::Uri| matches!(uri.scheme_str(), None | Some("http" | "https"));
    text.parse::<http::Uri>().is_ok_and(|uri| http(&uri) && uri.host().is_some())
}

/// Makes connectors, one for each set of timeouts, so that connections are used again.
struct Client {
    proxy: Proxy,
    /// Tokens of the metadata service, if that is who answers.
    renewed: Option<Arc<Mutex<Option<Renewed>>>>,
    connectors: Mutex<BTreeMap<[Option<Duration>; 2], SharedHttpConnector>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeouts = [settings.connect_timeout(), settings.read_timeout()];
        let make = || {
            let connector = |proxy: ProxyConfig| {
                let mut connector = Connector::builder()
                    .tls_provider(Provider::Rustls(CryptoMode::Ring))
                    .connector_settings(settings.clone())
                    .proxy_config(proxy);
                if let Some(sleep) = components.sleep_impl() {
                    connector = connector.sleep_impl(sleep);
                }
                SharedHttpConnector::new(connector.build())
            };
            let direct = connector(ProxyConfig::disabled());
            let elsewhere = match self.proxy {
                Proxy::OfEnvironment => connector(ProxyConfig::from_env()),
                Proxy::None => direct.clone(),
            };
            let bounded = SharedHttpConnector::new(Bounded { direct, elsewhere });
            match &self.renewed {
                Some(renewed) => SharedHttpConnector::new(Renewing {
                    inner: bounded,
                    renewed: Arc::clone(renewed),
                }),
                None => bounded,
            }
        };
        lock(&self.connectors).entry(timeouts).or_insert_with(make).clone()
    }
}

/// Ends an answer with an error where it becomes too long.
#[derive(Debug)]
struct Bounded {
    /// For what is on the link.
    direct: SharedHttpConnector,
    elsewhere: SharedHttpConnector,
}

impl HttpConnector for Bounded {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = if is_on_link(request.uri()) { &self.direct } else { &self.elsewhere };
        let answer = connector.call(request);
        HttpConnectorFuture::new(async move {
            let bounded = |body| SdkBody::from_body_1_x(Limited::new(body, BODY_BYTES_MAX));
            Ok(answer.await?.map(bounded))
        })
    }
}

/// Tells whether a URL names a link-local address: that of the metadata service, or of the service that issues credentials to containers.
fn is_on_link(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        // EC2 has its services at unique local addresses.
        Ok(IpAddr::V6(address)) => address.is_unicast_link_local() || address.is_unique_local(),
        Err(_) => false,
    }
}

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// EC2's bound of a token's life.
const TOKEN_TTL_SECS_MAX: &str = "21600";

/// Fetches another token once where the metadata service refuses the one that the SDK keeps for up to six hours, and keeps
/// that instead: the service forgets tokens when the instance moves to another host or comes out of hibernation.
#[derive(Debug)]
struct Renewing {
    inner: SharedHttpConnector,
    renewed: Arc<Mutex<Option<Renewed>>>,
}

/// A token in place of one that was refused.
struct Renewed {
    refused: String,
    token: String,
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewed")
    }
}

impl HttpConnector for Renewing {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        const UNAUTHORIZED: u16 = 401;
        let Some(sdks) = request.headers().get(TOKEN).map(str::to_owned) else {
            return self.inner.call(request);
        };
        let (inner, renewed) = (self.inner.clone(), Arc::clone(&self.renewed));
        HttpConnectorFuture::new(async move {
            let instead = lock(&renewed)
                .as_ref()
                .filter(|renewed| renewed.refused == sdks)
                .map(|renewed| renewed.token.clone());
            let again = request.try_clone();
            let answer = inner.call(with_token(request, instead)).await?;
            let (UNAUTHORIZED, Some(again)) = (answer.status().as_u16(), again) else {
                return Ok(answer);
            };
            let Some(token) = new_token(&inner, again.uri()).await else { return Ok(answer) };
            *lock(&renewed) = Some(Renewed { refused: sdks, token: token.clone() });
            inner.call(with_token(again, Some(token))).await
        })
    }
}

fn with_token(mut request: HttpRequest, token: Option<String>) -> HttpRequest {
    if let Some(token) = token {
        request.headers_mut().insert(TOKEN, token);
    }
    request
}

/// Fetches a token from the service at which `url` is; `None` if it issues none.
async fn new_token(inner: &SharedHttpConnector, url: &str) -> Option<String> {
    let url: http::Uri = url.parse().ok()?;
    let url = format!("{}://{}/latest/api/token", url.scheme_str()?, url.authority()?);
    let mut request = HttpRequest::new(SdkBody::empty());
    request.set_method("PUT").ok()?;
    request.set_uri(url).ok()?;
    request.headers_mut().insert(TOKEN_TTL, TOKEN_TTL_SECS_MAX);
    let answer: Result<HttpResponse, ConnectorError> = inner.call(request).await;
    let answer = answer.ok().filter(|answer| answer.status().is_success())?;
    let token = ByteStream::new(answer.into_body()).collect().await.ok()?.to_vec();
    // A header could not carry anything else.
    String::from_utf8(token).ok().filter(|token| token.bytes().all(|b| b.is_ascii_graphic()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is whole: each value is put there at once.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_is_an_http_url_or_a_host_and_a_port() {
        let cases = [
            ("http://proxy.example.com:3128", true),
            ("https://user:secret@proxy.example.com", true),
            ("proxy.example.com:3128", true),
            ("http://[2001:db8::1]:3128/", true),
            ("socks5://proxy.example.com:1080", false),
            ("http://", false),
            ("a proxy", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_usable_proxy(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_on_the_link_is_told_from_what_a_proxy_may_reach() {
        let cases = [
            ("http://169.254.169.254/latest/api/token", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::254]/latest/meta-data/", true),
            ("http://[fe80::1]:80/", true),
            ("https://ec2.eu-west-1.amazonaws.com/", false),
            ("http://127.0.0.1:8080/", false),
            ("https://169.254.169.254.example.com/", false),
            ("no url", false),
        ];
        for (url, expected) in cases {
            assert_eq!(is_on_link(url), expected, "{url}");
        }
    }
}
