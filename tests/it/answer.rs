//! The rows a statement gives, in a form a test can compare.
//!
//! It asks the pipeline under test and nobody else, and never asks twice.

use serde_json::Value;
use tidemill_connectors::format::json;
use tidemill_runtime::{Pipeline, StatementResult};

/// The rows as JSON lines.
pub(crate) async fn lines(pipeline: &Pipeline, sql: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for result in pipeline.execute(sql).await.unwrap() {
        let StatementResult::Rows { batches, .. } = result else { continue };
        for line in batches.iter().flat_map(|batch| json::encode(batch).unwrap()) {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        }
    }
    lines
}

/// The rows as objects.
pub(crate) async fn rows(pipeline: &Pipeline, sql: &str) -> Vec<Value> {
    let lines = lines(pipeline, sql).await;
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}
