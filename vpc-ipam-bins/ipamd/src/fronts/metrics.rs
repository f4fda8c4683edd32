//! `/metrics`, as Prometheus scrapes it.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use super::ask::Asker;
use super::health;
use crate::metrics::Metrics;

/// Returns what is served at the port of metrics.
pub(super) fn router(asker: &Asker, metrics: &Metrics) -> Router {
    let scraped =
        Router::new().route("/metrics", get(scrape)).with_state((asker.clone(), metrics.clone()));
    health::routes().with_state(asker.clone()).merge(scraped)
}

async fn scrape(State((asker, metrics)): State<(Asker, Metrics)>) -> impl IntoResponse {
    // A daemon that starts or hangs is worth its counters.
    let inventory = asker.inventory().await.ok();
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], metrics.text(inventory.as_deref()))
}
