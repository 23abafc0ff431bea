//! Texts of settings → values, with errors that name the form expected.

use std::net::SocketAddr;
use std::time::Duration;

use tidemill_contract::{Error, Result};

use super::Kind;

/// Checks a text against a kind.
pub(super) fn check(kind: Kind, text: &str) -> Result<()> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Address => parse_address(text).map(drop),
        Kind::Duration => parse_duration(text).map(drop),
        Kind::Count => match text.parse::<usize>() {
            Ok(count) if count > 0 => Ok(()),
            _ => Err(wrong(text, "a whole number from 1")),
        },
        Kind::Bytes => parse_budget(text).map(drop),
        Kind::Flag => match text {
            "true" | "false" => Ok(()),
            _ => Err(wrong(text, "true or false")),
        },
    }
}

/// `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let numeric = numeric.as_deref().unwrap_or(text);
    numeric.parse().map_err(|_| wrong(text, "an address such as 127.0.0.1:8080"))
}

/// `250ms`, `1s`, `5m`, `1h`: the forms of durations in SQL options.
pub(super) fn parse_duration(text: &str) -> Result<Duration> {
    tidemill_runtime::parse_duration(text)
        .and_then(|micros| u64::try_from(micros).ok())
        .filter(|&micros| micros > 0)
        .map(Duration::from_micros)
        .ok_or_else(|| wrong(text, "a duration such as 500ms, 1s, 5m or 1h"))
}

/// `512 MiB`, `2 GiB`: a budget of memory a process can start with.
pub(super) fn parse_budget(text: &str) -> Result<usize> {
    tidemill_runtime::parse_bytes(text)
        .filter(|bytes| *bytes >= tidemill_runtime::BUDGET_MIN)
        .ok_or_else(|| wrong(text, "an amount of memory from 128 MiB, such as 512 MiB or 2 GiB"))
}

fn wrong(text: &str, expected: &str) -> Error {
    Error::invalid("TM803", format!("'{text}' is not {expected}"))
}
