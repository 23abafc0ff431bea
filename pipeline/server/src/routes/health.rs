//! `/livez`: the process answers. `/readyz`: the catalog runs and statements are welcome.
//!
//! A parked job does not make the node unready: the others go on. The answer names it, with the
//! reason and the way out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::{Phase, Service};

pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz))
}

async fn readyz(State(service): State<Arc<Service>>) -> Response {
    let (status, word) = match service.phase() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Phase::Ready => (StatusCode::OK, "ready"),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    (status, Json(json!({ "status": word, "pipeline": service.pipeline.status() }))).into_response()
}
