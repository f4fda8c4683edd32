//! The defence against DNS rebinding: a page of another site, whose name leads to a loopback address meanwhile, sends that name.

use core::net::IpAddr;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Refuses requests for a host that is neither an address nor `localhost`.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let named = request.headers().get(HOST).map(|value| value.to_str().unwrap_or_default());
    // HTTP/1.0 has none, and no browser speaks it.
    if named.is_none_or(is_this_host) {
        next.run(request).await
    } else {
        let why =
            "the host is named neither by its address nor localhost: ask http://127.0.0.1:61679\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    }
}

fn is_this_host(named: &str) -> bool {
    let name = match named.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => named,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_this_host() {
        let cases = [
            ("127.0.0.1:61679", true),
            ("127.0.0.1", true),
            ("[::1]:61679", true),
            ("[::1]", true),
            ("10.0.3.7:61679", true),
            ("localhost:61679", true),
            ("LOCALHOST", true),
            ("evil.example:61679", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:61679", false),
            ("127.0.0.1:61679@evil.example", false),
            ("", false),
            (":61679", false),
        ];
        for (named, expected) in cases {
            assert_eq!(is_this_host(named), expected, "{named:?}");
        }
    }
}
