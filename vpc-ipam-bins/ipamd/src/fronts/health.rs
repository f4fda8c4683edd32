//! `/healthz` and `/readyz`: whether the daemon is alive, and whether the next pod gets an address.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use vpc_ipam_protocol::Request;

use super::ask::{Asker, NoAnswer};

/// Returns the routes of both.
pub(super) fn routes() -> Router<Asker> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

async fn healthz(State(asker): State<Asker>) -> impl IntoResponse {
    match asker.ask(Request::Status).await {
        Ok(_) => (StatusCode::OK, "ok\n".to_string()),
        // It ends by itself if it cannot.
        Err(starting @ NoAnswer::Starting) => (StatusCode::OK, format!("{starting}\n")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn readyz(State(asker): State<Asker>) -> impl IntoResponse {
    match asker.inventory().await {
        Ok(inventory) if inventory.ready => (StatusCode::OK, format!("{}\n", inventory.reason)),
        Ok(inventory) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", inventory.reason)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")),
    }
}
