//! Which HTTP requests are served: those of clients that mean this server, not those that a web page makes a browser send.
//!
//! A page can make its visitor's browser send requests to any address, loopback included. The browser then names the page in
//! `Origin` or `Sec-Fetch-Site`; and where the page's own name was made to resolve to this server, `Host` has that name.

use core::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};

/// Refuses requests to the router whose headers say that they are meant for another server, or that a web page made them.
pub(super) fn guarded(router: axum::Router, addr: SocketAddr) -> axum::Router {
    router.layer(from_fn(move |request: axum::extract::Request, next: Next| async move {
        match foreign(request.uri(), request.headers(), addr.ip()) {
            None => next.run(request).await,
            Some(why) => refused(why),
        }
    }))
}

fn refused(why: &'static str) -> Response {
    (StatusCode::FORBIDDEN, format!("{why}\n")).into_response()
}

/// Returns what is wrong with a request to a server at this address, if anything is.
fn foreign(uri: &Uri, headers: &HeaderMap, own: IpAddr) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Some("more than one Host header"),
        (Some(authority), _, None) => Some(authority.as_str()),
        (None, host, None) => host.and_then(|host| host.to_str().ok()),
    };
    let Some(host) = host.filter(|host| names(host, own)) else {
        return Some("Host does not name this server: use its address, or localhost");
    };
    let own_origin = format!("http://{host}");
    if headers
        .get_all(header::ORIGIN)
        .iter()
        .any(|origin| origin.as_bytes() != own_origin.as_bytes())
    {
        return Some("Origin is another server: requests of web pages are not served");
    }
    let by_another_site = |site: &axum::http::HeaderValue| {
        !["none", "same-origin"].iter().any(|own| site.as_bytes() == own.as_bytes())
    };
    if headers.get_all("sec-fetch-site").iter().any(by_another_site) {
        return Some("Sec-Fetch-Site is another site: requests of web pages are not served");
    }
    None
}

/// Returns whether a `Host` names the server that listens on an address. The port may be that of a tunnel.
fn names(host: &str, own: IpAddr) -> bool {
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else { return false };
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // No name resolves to a written address, so any is good where the server listens on all.
    address.is_ok_and(|address| own.is_unspecified() || address == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_a_written_address_or_localhost() {
        let cases = [
            ("127.0.0.1:8080", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("localhost:9", "127.0.0.1", true),
            ("LOCALHOST", "::1", true),
            ("[::1]:8080", "::1", true),
            ("10.0.0.9:8080", "127.0.0.1", false),
            ("10.0.0.9:8080", "0.0.0.0", true),
            ("127.0.0.1.example.com", "127.0.0.1", false),
            ("localhost.example.com:8080", "0.0.0.0", false),
            ("ec2.eu-west-1.amazonaws.com", "127.0.0.1", false),
            ("localhost@example.com", "127.0.0.1", false),
            ("", "127.0.0.1", false),
            ("127.0.0.1/..", "127.0.0.1", false),
        ];
        for (host, own, expected) in cases {
            assert_eq!(names(host, own.parse().unwrap()), expected, "{host} at {own}");
        }
    }
}
