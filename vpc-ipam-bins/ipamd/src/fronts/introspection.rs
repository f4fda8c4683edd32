//! What an operator sees of the node over HTTP: the documents of amazon-vpc-cni-k8s under `/v1`, those of this daemon under `/v2`, and a
//! page for browsers.

mod host_header;
mod journal;
mod page;
mod v1;
mod v2;

use std::path::PathBuf;

use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::json;

use super::ask::{Asker, NoAnswer};
use super::health;
use crate::options::BindAddress;

/// What there is to ask for, as `/` lists it.
const COMMANDS: [&str; 16] = [
    "/",
    "/healthz",
    "/readyz",
    "/v1/eni-configs",
    "/v1/enis",
    "/v1/ipamd-env-settings",
    "/v1/networkutils-env-settings",
    "/v1/pods",
    "/v2/events",
    "/v2/explain",
    "/v2/inventory",
    "/v2/journal",
    "/v2/plan",
    "/v2/pods",
    "/v2/settings",
    "/v2/status",
];

/// What every answer says: that no cache keeps it, and that a browser takes it for what it is.
const HEADERS: [(HeaderName, HeaderValue); 2] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// Returns what is served at the address of introspection; the journal is in a folder, if the daemon keeps one.
pub(super) fn router(asker: &Asker, address: &BindAddress, journal: Option<PathBuf>) -> Router {
    let router = Router::new()
        .route("/", get(root))
        .merge(v1::routes())
        .merge(v2::routes())
        .merge(journal::routes(journal))
        .merge(health::routes())
        .merge(page::routes())
        .fallback(unknown)
        .with_state(asker.clone())
        .layer(middleware::map_response(with_headers));
    match address {
        // A page of another site reaches a loopback port of its visitor's machine by a name that it owns, and no unix socket.
        BindAddress::Tcp(_) => router.layer(middleware::from_fn(host_header::check)),
        BindAddress::Unix(_) => router,
    }
}

async fn root(headers: HeaderMap) -> Response {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") { page::html() } else { commands() }
}

/// Answers for a path that there is not as amazon-vpc-cni-k8s does: with the list of those that there are.
async fn unknown(State(_): State<Asker>, method: Method) -> Response {
    if method == Method::GET || method == Method::HEAD {
        commands()
    } else {
        StatusCode::METHOD_NOT_ALLOWED.into_response()
    }
}

fn commands() -> Response {
    Json(json!({ "AvailableCommands": COMMANDS })).into_response()
}

async fn with_headers(mut response: Response) -> Response {
    response.headers_mut().extend(HEADERS);
    response
}

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.to_string() });
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}
