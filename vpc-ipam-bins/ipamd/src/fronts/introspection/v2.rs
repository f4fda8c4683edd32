//! The daemon's own documents: its answers to the command line, as JSON.

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use vpc_ipam_protocol::Request;

use crate::fronts::ask::{Asker, NoAnswer};

pub(super) fn routes() -> Router<Asker> {
    let fixed = |request: Request| get(move |asker| told(asker, request.clone()));
    Router::new()
        .route("/v2/events", get(events))
        .route("/v2/explain", fixed(Request::Explain))
        .route("/v2/inventory", fixed(Request::Inventory))
        .route("/v2/plan", fixed(Request::Plan))
        .route("/v2/pods", fixed(Request::Leases { network: None }))
        .route("/v2/settings", get(settings))
        .route("/v2/status", fixed(Request::Status))
}

/// Which events are asked for, in the query.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    /// The number of the last one that is known; 0 for all that the daemon still knows.
    after: u64,
    /// How long to wait for the next one if there is none yet, in seconds.
    wait: u64,
}

async fn events(
    asker: State<Asker>,
    Query(Wanted { after, wait }): Query<Wanted>,
) -> Result<Json<Value>, NoAnswer> {
    told(asker, Request::Events { after, wait }).await
}

async fn settings(State(asker): State<Asker>) -> Result<Json<Value>, NoAnswer> {
    Ok(Json(json!(asker.inventory().await?.settings)))
}

/// Answers with what the event loop answers, without the name of its kind.
async fn told(State(asker): State<Asker>, request: Request) -> Result<Json<Value>, NoAnswer> {
    Ok(Json(match json!(asker.ask(request).await?) {
        Value::Object(named) if named.len() == 1 => {
            named.into_iter().next().map_or(Value::Null, |(_, content)| content)
        }
        other => other,
    }))
}
