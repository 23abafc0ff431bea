//! Configuration: one table of keys, four layers, every value with its origin.
//!
//! Precedence: flag > environment (`TIDEMILL__SECTION__KEY`) > file (`tidemill.toml`) > default.
//! A new setting is one line in [`KEYS`] and one line in [`Config::settings`]. It never expands
//! `${VAR}` in files (secrets come by `*_env` and `*_file`) and never shows a secret.

mod load;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tidemill_contract::{Error, Result};
use tidemill_runtime::{CleanSettings, Settings, StoreLimits};

pub use load::{ConfigError, load};
use value::parse_duration;

/// What a key's text must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A socket address, `127.0.0.1:8080`.
    Address,
    /// A length of time, `500ms`, `1s`, `5m`.
    Duration,
    /// A whole number from 1.
    Count,
    /// A number of bytes, `512 MiB`, `2 GiB`; at least the smallest budget.
    Bytes,
    /// `true` or `false`.
    Flag,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// The form of its value.
    pub kind: Kind,
    /// The default; `None` = not set.
    pub default: Option<&'static str>,
    /// Hidden by `config show`.
    pub secret: bool,
    /// One sentence.
    pub help: &'static str,
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key { path, kind, default, secret: false, help }
}

const fn secret(path: &'static str, help: &'static str) -> Key {
    Key { path, kind: Kind::Text, default: None, secret: true, help }
}

/// Every setting. `kafka.properties.*` is free-form besides.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("server.listen", Kind::Address, Some("127.0.0.1:8080"), "Address of the HTTP API; loopback only."),
    key("kafka.brokers", Kind::Text, None, "Bootstrap servers of a Kafka cluster; not set: the embedded broker."),
    key("kafka.listen", Kind::Address, Some("127.0.0.1:9092"), "Address of the embedded broker; loopback only."),
    key("storage.bucket", Kind::Text, None, "Bucket URL (file:///… or s3://bucket/prefix); not set: <data_dir>/bucket."),
    key("storage.s3.endpoint", Kind::Text, None, "URL of an S3-compatible server; not set: AWS."),
    key("storage.s3.region", Kind::Text, None, "Region of the bucket."),
    key("storage.s3.allow_http", Kind::Flag, None, "Allow an endpoint without TLS."),
    key("storage.s3.virtual_hosted_style", Kind::Flag, None, "Put the bucket's name into the host name."),
    secret("storage.s3.access_key_id", "Access key."),
    key("storage.s3.access_key_id_env", Kind::Text, None, "Environment variable that holds the access key."),
    key("storage.s3.access_key_id_file", Kind::Text, None, "File that holds the access key."),
    secret("storage.s3.secret_access_key", "Secret key."),
    key("storage.s3.secret_access_key_env", Kind::Text, None, "Environment variable that holds the secret key."),
    key("storage.s3.secret_access_key_file", Kind::Text, None, "File that holds the secret key."),
    key("storage.clean_interval", Kind::Duration, Some("1h"), "Time between two clean-ups of a job's tables: files nobody needs go."),
    key("storage.orphan_age", Kind::Duration, Some("24h"), "How long files of abandoned compactions, rewrites and jobs stay."),
    key("storage.file_retention", Kind::Duration, Some("168h"), "How long files stay that a compaction or revision replaced: readers of older table versions need them."),
    key("storage.compact_files", Kind::Count, Some("16"), "Small files of a table that are put together into one when there are so many."),
    key("memory.budget", Kind::Bytes, None, "Memory the process stays within, at least 128 MiB; not set: half of the machine's or the container's."),
    key("query.timeout", Kind::Duration, Some("30s"), "Longest time an ad-hoc SELECT may take."),
    key("storage.try_timeout", Kind::Duration, Some("3s"), "Longest time of one try of a bucket operation, and a second more per MiB."),
    key("storage.operation_timeout", Kind::Duration, Some("10s"), "Longest time of all tries of a bucket operation, and a second more per MiB."),
    key("state.data_dir", Kind::Text, Some("./tidemill-data"), "Folder of the embedded broker and of the default bucket."),
    key("state.commit_interval", Kind::Duration, Some("1s"), "Time between commits of a job."),
    key("state.alert_interval", Kind::Duration, Some("5ms"), "Shortest time between commits of a job that has read all there is and has alerts to send."),
    key("state.commit_timeout", Kind::Duration, Some("60s"), "Longest time of one commit; it is then tried again from the last."),
    key("state.flush_interval", Kind::Duration, Some("10s"), "Longest time a closed window waits for its Parquet file."),
    key("state.flush_rows", Kind::Count, Some("50000"), "Rows of closed windows that make a Parquet file with the next commit; four times as many make a commit due."),
    key("state.retry_interval", Kind::Duration, Some("1s"), "Wait before a job that failed is tried again; doubles with each try up to 30 s."),
];

/// The prefix of the free-form librdkafka properties.
const PROPERTIES: &str = "kafka.properties.";

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The resolved configuration: path → value and origin. Values are checked against their kind.
#[derive(Clone, Default)]
pub struct Config {
    values: BTreeMap<String, (String, Origin)>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.entries().map(|(path, value, _)| (path, value))).finish()
    }
}

impl Config {
    /// The value of a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&str> {
        self.values.get(path).map(|(value, _)| value.as_str())
    }

    /// Everything that is set, in path order, secrets hidden.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str, &Origin)> {
        self.values.iter().map(|(path, (value, origin))| {
            (path.as_str(), if is_secret(path) { "<redacted>" } else { value.as_str() }, origin)
        })
    }

    /// Address of the HTTP API.
    ///
    /// # Errors
    /// `TM802` for an address other machines could reach.
    pub fn listen(&self) -> Result<SocketAddr> {
        self.loopback("server.listen")
    }

    /// The runtime's settings.
    ///
    /// # Errors
    /// A value that does not fit, or a secret's variable or file that is not there.
    pub fn settings(&self) -> Result<Settings> {
        let properties = self
            .values
            .iter()
            .filter_map(|(path, (value, _))| {
                Some((path.strip_prefix(PROPERTIES)?.to_string(), value.clone()))
            })
            .collect();
        Ok(Settings {
            data_dir: PathBuf::from(self.get("state.data_dir").unwrap_or("./tidemill-data")),
            kafka_brokers: self.get("kafka.brokers").map(str::to_string),
            broker_listen: self.loopback("kafka.listen")?,
            kafka_properties: properties,
            bucket: self.get("storage.bucket").map(str::to_string),
            bucket_options: self.bucket_options()?,
            store_limits: StoreLimits {
                try_timeout: parse_duration(self.get("storage.try_timeout").unwrap_or("3s"))?,
                operation_timeout: parse_duration(
                    self.get("storage.operation_timeout").unwrap_or("10s"),
                )?,
            },
            commit_timeout: parse_duration(self.get("state.commit_timeout").unwrap_or("60s"))?,
            commit_interval: parse_duration(self.get("state.commit_interval").unwrap_or("1s"))?,
            alert_interval: parse_duration(self.get("state.alert_interval").unwrap_or("5ms"))?,
            flush_interval: parse_duration(self.get("state.flush_interval").unwrap_or("10s"))?,
            memory_budget: match self.get("memory.budget") {
                Some(text) => value::parse_budget(text)?,
                None => tidemill_runtime::default_budget(),
            },
            query_timeout: parse_duration(self.get("query.timeout").unwrap_or("30s"))?,
            flush_rows: self
                .get("state.flush_rows")
                .and_then(|rows| rows.parse().ok())
                .unwrap_or(50_000),
            clean: self.clean()?,
            compact_files: self
                .get("storage.compact_files")
                .and_then(|files| files.parse().ok())
                .unwrap_or(16),
            retry_interval: parse_duration(self.get("state.retry_interval").unwrap_or("1s"))?,
        })
    }

    fn clean(&self) -> Result<CleanSettings> {
        Ok(CleanSettings {
            interval: parse_duration(self.get("storage.clean_interval").unwrap_or("1h"))?,
            orphan_age: parse_duration(self.get("storage.orphan_age").unwrap_or("24h"))?,
            file_retention: parse_duration(self.get("storage.file_retention").unwrap_or("168h"))?,
        })
    }

    fn bucket_options(&self) -> Result<BTreeMap<String, String>> {
        let mut options = BTreeMap::new();
        for (path, option) in [
            ("storage.s3.endpoint", "endpoint"),
            ("storage.s3.region", "region"),
            ("storage.s3.allow_http", "allow_http"),
            ("storage.s3.virtual_hosted_style", "virtual_hosted_style"),
        ] {
            if let Some(value) = self.get(path) {
                options.insert(option.to_string(), value.to_string());
            }
        }
        for (path, option) in [
            ("storage.s3.access_key_id", "access_key_id"),
            ("storage.s3.secret_access_key", "secret_access_key"),
        ] {
            if let Some(value) = self.secret(path)? {
                options.insert(option.to_string(), value);
            }
        }
        Ok(options)
    }

    /// A secret given as itself, by `<path>_env` or by `<path>_file`; at most one of them.
    fn secret(&self, path: &str) -> Result<Option<String>> {
        let variable = self.get(&format!("{path}_env"));
        let file = self.get(&format!("{path}_file"));
        match (self.get(path), variable, file) {
            (value, None, None) => Ok(value.map(str::to_string)),
            (None, Some(name), None) => std::env::var(name).map(Some).map_err(|_| {
                Error::invalid("TM804", format!("{path}_env: variable {name} is not set"))
            }),
            (None, None, Some(file)) => std::fs::read_to_string(file)
                .map(|text| Some(text.trim_end().to_string()))
                .map_err(|error| {
                    Error::invalid("TM804", format!("{path}_file: cannot read {file}"))
                        .because(error.to_string())
                }),
            _ => Err(Error::invalid("TM804", format!("{path} is given more than once"))
                .help(format!("keep one of {path}, {path}_env and {path}_file"))),
        }
    }

    fn loopback(&self, path: &str) -> Result<SocketAddr> {
        let text = self.get(path).unwrap_or("127.0.0.1:0");
        let address: SocketAddr = value::parse_address(text)?;
        if address.ip().is_loopback() {
            return Ok(address);
        }
        Err(Error::invalid("TM802", format!("{path}: {address} is not a loopback address"))
            .because("there is no authentication yet, so other machines must not reach it")
            .help("use 127.0.0.1, and an SSH tunnel or an authenticating proxy from outside"))
    }
}

/// Whether `config show` must hide the value of a path.
fn is_secret(path: &str) -> bool {
    let declared = KEYS.iter().any(|key| key.path == path && key.secret);
    let property = path.starts_with(PROPERTIES)
        && ["password", "secret", "token", "key.pem", "sasl.oauthbearer.config", "sasl.jaas"]
            .iter()
            .any(|word| path.contains(word));
    declared || property
}
