//! The journal of the flight recorder: its segments, as `vpc-ipam replay` reads them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fronts::ask::Asker;
use crate::journal::segments;

/// Returns the list of segments, and each by its number. A daemon that records nothing has none.
pub(super) fn routes(folder: Option<PathBuf>) -> Router<Asker> {
    let folder: Arc<Option<PathBuf>> = Arc::new(folder);
    let of_one = Arc::clone(&folder);
    let list = move || answer(move || list(folder.as_deref()));
    let one = move |extract::Path(number): extract::Path<u64>| {
        answer(move || segment(of_one.as_deref(), number))
    };
    Router::new().route("/v2/journal", get(list)).route("/v2/journal/{number}", get(one))
}

/// Reads files apart from the thread that serves other callers.
async fn answer(read: impl FnOnce() -> io::Result<Response> + Send + 'static) -> Response {
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.into()));
    read.unwrap_or_else(|error| {
        let body = json!({ "error": format!("read the journal: {error}") });
        (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
    })
}

fn list(folder: Option<&Path>) -> io::Result<Response> {
    let segments = all(folder)?.into_iter().map(|(number, path)| {
        // One that was deleted meanwhile has none.
        let bytes = fs::metadata(path).map_or(0, |file| file.len());
        json!({ "segment": number, "bytes": bytes })
    });
    Ok(Json(Value::from_iter(segments)).into_response())
}

fn segment(folder: Option<&Path>, number: u64) -> io::Result<Response> {
    let Some((_, path)) = all(folder)?.into_iter().find(|it| it.0 == number) else {
        let body = json!({ "error": format!("the journal has no segment {number}") });
        return Ok((StatusCode::NOT_FOUND, Json(body)).into_response());
    };
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], fs::read(path)?).into_response())
}

fn all(folder: Option<&Path>) -> io::Result<Vec<(u64, PathBuf)>> {
    match folder.map(segments::list) {
        // Nothing was recorded yet.
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Some(segments) => segments,
        None => Ok(Vec::new()),
    }
}
