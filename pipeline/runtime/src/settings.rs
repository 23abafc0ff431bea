//! What a pipeline process is told from outside: where its data lies, which broker and bucket it
//! uses, how often it commits.
//!
//! Numbers and addresses only, no live objects; every default works on a laptop with nothing else
//! installed. It never reads the environment or a file itself: the binary does that.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tidemill_connectors::store::{self, Store, StoreLimits};
use tidemill_contract::{Error, Micros, Options, Result};

use crate::clean::CleanSettings;
use crate::memory::default_budget;

/// Rows buffered per view that are written to a Parquet file with the next commit.
const FLUSH_ROWS: usize = 50_000;

/// Settings of one pipeline process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of everything this process keeps locally: lock, embedded broker, default bucket.
    pub data_dir: PathBuf,
    /// Bootstrap servers of a Kafka cluster; `None` starts the embedded broker.
    pub kafka_brokers: Option<String>,
    /// Where the embedded broker listens; port 0 picks a free one.
    pub broker_listen: SocketAddr,
    /// Kafka client properties for every connection (checked against the allow-list).
    pub kafka_properties: BTreeMap<String, String>,
    /// Bucket URL; `None` is `<data_dir>/bucket`.
    pub bucket: Option<String>,
    /// Options of the bucket (region, endpoint, …).
    pub bucket_options: BTreeMap<String, String>,
    /// Deadlines of every operation on the bucket.
    pub store_limits: StoreLimits,
    /// Longest time one commit may take; one that takes longer is tried again from the last.
    pub commit_timeout: Duration,
    /// Longest time between two commits of a job that has something to commit.
    pub commit_interval: Duration,
    /// Shortest time between commits that are made because an alert changed.
    pub alert_interval: Duration,
    /// Longest time closed rows wait in the state before they get a Parquet file.
    pub flush_interval: Duration,
    /// Rows of one view that get a Parquet file with the next commit.
    pub flush_rows: usize,
    /// When data files nobody needs are taken away.
    pub clean: CleanSettings,
    /// Bytes of memory the process should stay within.
    pub memory_budget: usize,
    /// Longest time an ad-hoc query may take.
    pub query_timeout: Duration,
    /// Wait before a job that failed is tried again; it doubles with each try.
    pub retry_interval: Duration,
    /// Small files of a table that are put together into one when there are so many.
    pub compact_files: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("tidemill-data"),
            kafka_brokers: None,
            broker_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            kafka_properties: BTreeMap::new(),
            bucket: None,
            bucket_options: BTreeMap::new(),
            store_limits: StoreLimits::default(),
            commit_timeout: Duration::from_secs(60),
            commit_interval: Duration::from_secs(1),
            alert_interval: Duration::from_millis(5),
            flush_interval: Duration::from_secs(10),
            flush_rows: FLUSH_ROWS,
            clean: CleanSettings::default(),
            memory_budget: default_budget(),
            query_timeout: Duration::from_secs(30),
            retry_interval: Duration::from_secs(1),
            compact_files: 16,
        }
    }
}

impl Settings {
    /// URL or folder of the bucket.
    pub(crate) fn bucket_location(&self) -> String {
        let default = || self.data_dir.join("bucket").to_string_lossy().into_owned();
        self.bucket.clone().unwrap_or_else(default)
    }

    /// The bucket, for who only looks at it; a folder that is not there is not made.
    ///
    /// # Errors
    /// `TM531` for a URL or an option it does not know, `TM530` if the folder is not there.
    pub fn open_bucket(&self) -> Result<Store> {
        let location = self.bucket_location();
        if !location.contains("://") && !std::path::Path::new(&location).is_dir() {
            return Err(Error::unavailable("TM530", format!("there is no bucket at '{location}'"))
                .help("name the data folder or the bucket"));
        }
        let store = store::connect(&location, &self.bucket_options)?;
        Ok(store::guard(store, self.store_limits))
    }
}

/// A number of bytes: a number and a unit, e.g. `512 MiB`, `2 GiB`, `300 MB`. A bare number is
/// bytes.
pub fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: usize = number.parse().ok()?;
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "kib" | "k" => 1 << 10,
        "mb" => 1_000_000,
        "mib" | "m" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" | "g" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A length of time as written in an option: a number and a unit, e.g. `30 s`, `500 ms`,
/// `5 minutes`, `1 h`. A bare number is milliseconds, as in Flink.
pub fn parse_duration(text: &str) -> Option<Micros> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: Micros = number.parse().ok()?;
    let unit: Micros = match unit.trim().to_ascii_lowercase().as_str() {
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1,
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" => 3_600_000_000,
        "d" | "day" | "days" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The duration option `key` of `object`, if it is set.
///
/// # Errors
/// `TM112` if the value is not a duration.
pub(crate) fn duration_option(
    options: &Options,
    key: &str,
    object: &str,
) -> Result<Option<Micros>> {
    let Some(text) = options.get(key) else {
        return Ok(None);
    };
    parse_duration(text).map(Some).ok_or_else(|| {
        Error::invalid("TM112", format!("{object}: option '{key}' is not a duration: '{text}'"))
            .at(options.span(key))
            .help("write a number and a unit, e.g. '30 s' or '500 ms'")
    })
}
