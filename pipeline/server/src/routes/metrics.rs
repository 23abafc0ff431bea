//! `/metrics` in the Prometheus text format, and the count of requests served.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidemill_contract::metric;

use super::Service;

/// The routes that get their own label; anything else is `other`, so that a scan of random paths
/// cannot grow the metric.
const LABELS: &[&str] = &["/api/v1/statements", "/livez", "/readyz", "/metrics"];

pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new().route("/metrics", get(render))
}

async fn render(State(service): State<Arc<Service>>) -> Response {
    let text = service.metrics.render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Counts every request by route and status.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let route = LABELS.iter().find(|label| **label == path).copied().unwrap_or("other");
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::counter!(metric::HTTP_REQUESTS, "route" => route, "status" => status).increment(1);
    response
}
