//! Buckets that speak S3.
//!
//! The client retries little by itself: the guard above has the deadlines, and knows what an
//! unclear answer means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use tidemill_contract::{Error, Result};

use super::Store;
use super::prefixed::prefixed;

/// Whole-request deadline, for requests the guard does not see; a large file still fits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The defaults of 180 s and 10 retries are longer than any epoch.
const RETRY_BUDGET: Duration = Duration::from_secs(2);
const RETRIES_MAX: usize = 2;

const OPTIONS: &[&str] = &[
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "allow_http",
    "virtual_hosted_style",
];

/// Opens `bucket/prefix`.
pub(super) fn open(location: &str, options: &BTreeMap<String, String>) -> Result<Store> {
    let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
    if bucket.is_empty() {
        return Err(
            Error::invalid("TM531", "the s3 URL names no bucket").help("write s3://bucket/prefix")
        );
    }
    let mut builder = AmazonS3Builder::from_env();
    let mut allow_http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|v| v == "true" || v == "1");
    for (key, value) in options {
        builder = match key.as_str() {
            "endpoint" => {
                allow_http |= loopback(value);
                builder.with_endpoint(value)
            }
            "region" => builder.with_region(value),
            "access_key_id" => builder.with_access_key_id(value),
            "secret_access_key" => builder.with_secret_access_key(value),
            "session_token" => builder.with_token(value),
            "allow_http" => {
                allow_http = flag(key, value)?;
                builder
            }
            "virtual_hosted_style" => builder.with_virtual_hosted_style_request(flag(key, value)?),
            _ => {
                return Err(Error::invalid("TM531", format!("an s3 bucket has no option '{key}'"))
                    .help(format!("known options: {}", OPTIONS.join(", "))));
            }
        };
    }
    let client = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(allow_http);
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_BUDGET,
    };
    let store = builder
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .map_err(|error| {
            Error::invalid("TM531", format!("bucket '{bucket}' cannot be opened"))
                .because(error.to_string())
        })?;
    let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| {
        Error::invalid("TM531", format!("'{prefix}' is not a bucket prefix"))
            .because(error.to_string())
    })?;
    if prefix.as_ref().is_empty() {
        return Ok(Arc::new(store));
    }
    Ok(prefixed(Arc::new(store), prefix))
}

/// Plain HTTP to this very machine needs no extra permission.
fn loopback(endpoint: &str) -> bool {
    ["http://127.0.0.1", "http://localhost", "http://[::1]"]
        .iter()
        .any(|prefix| endpoint.starts_with(prefix))
}

fn flag(key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::invalid("TM531", format!("bucket option '{key}' must be true or false"))),
    }
}
