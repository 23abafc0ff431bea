//! The demo: a real shop's year through the whole pipeline, in one process.
//!
//! Why it lives beside the command line: its script is plain SQL anyone can run, and its numbers
//! are SELECTs over the views that script registers. Nothing in here knows a result in advance.

mod alerts;
mod folder;
mod live;
mod report;
mod screen;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tidemill_contract::{Error, Result};
use tidemill_runtime::{Pipeline, Settings, StatementResult};

use crate::output::Rows;

pub use folder::{Fresh, prepare};
pub use live::watch;
pub use report::report;

/// The script of the demo.
pub const SCRIPT: &str = include_str!("../../demo.sql");
/// Kafka's usual port.
const BROKER_PORT: u16 = 9092;
/// The option of the script that says how fast the year passes.
const SPEED_MAX: &str = "'speed' = 'max'";

/// The script with the shop's time running `speed` times as fast as the wall clock.
#[must_use]
pub fn script_at_speed(speed: u32) -> String {
    SCRIPT.replace(SPEED_MAX, &format!("'speed' = '{speed}'"))
}

/// Which port the demo's broker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerPort {
    /// Any free one: nobody has the time to connect.
    Any,
    /// Kafka's usual one if it is free, so that tools find it, else any.
    Usual,
}

/// Opens a pipeline in the demo's folder.
///
/// # Errors
/// What [`Pipeline::open`] says.
pub async fn open(folder: &Path, port: BrokerPort) -> Result<Arc<Pipeline>> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, BROKER_PORT));
    let free = port == BrokerPort::Usual && std::net::TcpListener::bind(usual).is_ok();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let broker_listen = if free { usual } else { any };
    let data_dir = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    Pipeline::open(Settings { data_dir, broker_listen, ..Settings::default() }).await
}

/// The rows of one SELECT.
async fn select(pipeline: &Pipeline, sql: &str) -> Result<Rows> {
    let results = pipeline.execute(sql).await?;
    for result in results {
        if let StatementResult::Rows { schema, batches } = result {
            return Rows::from_batches(&schema, &batches);
        }
    }
    Err(Error::internal("a SELECT gave no rows"))
}

/// A number with thousands separators: `9025222.08` → `9,025,222.08`.
fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    let mut out = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}
