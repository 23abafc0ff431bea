//! `POST /api/v1/statements`: one SQL statement in, its message or its rows out.
//!
//! The statement runs to its end even when the client goes away or its time is over: a half-done
//! registration would be worse than an unread answer.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tidemill_contract::{Error, Result};
use tidemill_runtime::StatementResult;

use super::{Phase, Problem, REQUEST_TIMEOUT, Service};
use crate::output::Rows;

pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new().route("/api/v1/statements", post(run))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    sql: String,
}

async fn run(State(service): State<Arc<Service>>, headers: HeaderMap, body: Bytes) -> Response {
    match answer(service, &headers, &body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(
    service: Arc<Service>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Problem> {
    if service.phase() != Phase::Ready {
        return Err(busy("the service is starting or stopping"));
    }
    let sql = read_sql(headers, body)?;
    one_statement(&sql).map_err(|error| Problem::of(&error, &sql))?;
    let runner = Arc::clone(&service);
    let statement = sql.clone();
    let task = tokio::spawn(async move {
        let Ok(_permit) = runner.statements.try_acquire() else {
            return None;
        };
        Some(runner.pipeline.execute(&statement).await)
    });
    let Ok(joined) = tokio::time::timeout(REQUEST_TIMEOUT, task).await else {
        let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "TM815", "the time is over");
        return Err(problem.because("the statement goes on without an answer"));
    };
    let results = match joined {
        Ok(Some(outcome)) => outcome.map_err(|error| Problem::of(&error, &sql))?,
        Ok(None) => return Err(busy("too many statements at once")),
        Err(error) => {
            tracing::error!(%error, "a statement panicked");
            return Err(Problem::of(&Error::internal("the statement panicked"), &sql));
        }
    };
    let value = results.into_iter().next_back().map(encode).transpose();
    let value = value.map_err(|error| Problem::of(&error, &sql))?;
    Ok(Json(value.unwrap_or_else(|| json!({"message": "done"}))).into_response())
}

fn read_sql(headers: &HeaderMap, body: &[u8]) -> Result<String, Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let wrong = |message: &str| Problem::new(StatusCode::BAD_REQUEST, "TM814", message);
    if content_type.is_some_and(|value| value.starts_with("application/json")) {
        return serde_json::from_slice::<Request>(body).map(|request| request.sql).map_err(
            |error| {
                wrong("the body is not a request")
                    .because(&error.to_string())
                    .help("send {\"sql\": \"…\"}, or the statement itself as text/plain")
            },
        );
    }
    String::from_utf8(body.to_vec()).map_err(|_| wrong("the body is not UTF-8"))
}

/// Refuses empty texts and scripts: one request, one statement, one answer.
fn one_statement(sql: &str) -> Result<()> {
    match tidemill_sql::parse::parse_script(sql)?.len() {
        1 => Ok(()),
        count => Err(Error::invalid("TM814", format!("one statement expected, {count} found"))
            .help("`tidemill sql -f FILE` sends the statements of a script one by one")),
    }
}

fn encode(result: StatementResult) -> Result<serde_json::Value> {
    match result {
        StatementResult::Done { message } => Ok(json!({ "message": message })),
        StatementResult::Rows { schema, batches } => {
            serde_json::to_value(Rows::from_batches(&schema, &batches)?)
                .map_err(|error| Error::internal(error.to_string()))
        }
    }
}

fn busy(message: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "TM816", message).help("try again in a moment")
}
