//! Keeps panics in, and web pages out of a loopback API that has no login.
//!
//! Two ways in, both closed: a page that rebinds its own name to 127.0.0.1 sends a foreign `Host`;
//! a page that posts to 127.0.0.1 directly sends a foreign `Origin`. There is no CORS at all.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tidemill_contract::Error;

use super::Problem;

/// Refuses requests whose `Host` is not a loopback name or whose `Origin` is not this server.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(text);
    if !host.is_some_and(is_loopback) {
        return Problem::new(StatusCode::FORBIDDEN, "TM813", "the Host is not a loopback name")
            .because("a web page could otherwise reach this API through DNS rebinding")
            .help("use http://127.0.0.1 or http://localhost")
            .into_response();
    }
    let foreign = headers.get(ORIGIN).is_some_and(|origin| {
        let origin = text(origin).and_then(|origin| origin.split_once("://"));
        origin.map(|(_, authority)| authority) != host
    });
    if foreign {
        return Problem::new(
            StatusCode::FORBIDDEN,
            "TM813",
            "requests of other origins are refused",
        )
        .because("a web page must not run statements here")
        .into_response();
    }
    next.run(request).await
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// A panic in a handler is the failure of one request: it gets an answer, the others go on.
pub(super) async fn contain_panics(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_panic| {
        // What it said is on stderr already.
        tracing::error!(path, "a request panicked");
        let error = Error::internal("the request panicked");
        Problem::of(&error.help("please report it with the statement"), "").into_response()
    })
}

/// Whether a `Host` value (`name[:port]`) names this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
