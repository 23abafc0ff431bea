//! `tidemill tail TOPIC`: the records of a topic as they come, one line each.
//!
//! It reads with the same client as the jobs, joins no group and commits nothing.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use tidemill_connectors::log::kafka::{KafkaLog, KafkaReader, KafkaSettings};
use tidemill_contract::{Error, ErrorKind, LogReader as _, PartitionId, RecordView};

use super::Failure;
use super::signal::Stop;
use crate::config;

/// Records and bytes taken from a partition at once.
const POLL_RECORDS: usize = 500;
const POLL_BYTES: usize = 1 << 20;
/// How long one wait for records may last, so that a signal is seen soon.
const WAIT: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill tail alerts --from-beginning             the alerts so far, and those to come
    tidemill tail orders -n 5                         the next five order lines
    tidemill tail orders.dead --from-beginning        what was refused, and why
    tidemill tail alerts --kafka-brokers kafka:9092";

/// Print the records of a topic, one line each, until interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The topic, e.g. `alerts`.
    topic: String,
    /// Start with the oldest record instead of the next one.
    #[arg(long)]
    from_beginning: bool,
    /// Stop after this many records.
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<usize>,
    /// Bootstrap servers [default: kafka.brokers, else the embedded broker's kafka.listen].
    #[arg(long, value_name = "HOST:PORT,…")]
    kafka_brokers: Option<String>,
    /// Configuration file [default: ./tidemill.toml if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<std::path::PathBuf>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let flags = [("kafka.brokers", args.kafka_brokers.clone(), "--kafka-brokers")];
    let settings = config::load(args.config.as_deref(), &flags)?.settings()?;
    let brokers = settings.kafka_brokers.unwrap_or_else(|| settings.broker_listen.to_string());
    let log = KafkaLog::new(KafkaSettings { brokers, properties: settings.kafka_properties })?;
    // `orders$dead` is the table's name in SQL; Kafka has no `$` in topics.
    let topic = args.topic.replace('$', ".");
    if log.partitions(&topic).await?.is_none() {
        let message = format!("there is no topic '{topic}'");
        return Err(Error::new(ErrorKind::NotFound, "TM823", message).into());
    }
    let marks = log.watermarks(&topic).await?;
    let start: BTreeMap<i32, i64> = marks
        .into_iter()
        .map(|(partition, (low, high))| (partition, if args.from_beginning { low } else { high }))
        .collect();
    let reader = log.reader(&topic, "tidemill-tail", &start)?;
    let mut stop = Stop::listen()?;
    let left = args.count.unwrap_or(usize::MAX);
    // Waiting blocks, so it has its own thread; a signal ends the process without it.
    let reading = tokio::task::spawn_blocking(move || follow(reader, left));
    tokio::select! {
        outcome = reading => outcome.unwrap_or_else(|error| Err(Failure::bug(&error))),
        () = stop.requested() => Ok(()),
    }
}

fn follow(mut reader: KafkaReader, mut left: usize) -> Result<(), Failure> {
    let partitions: Vec<PartitionId> = reader.partitions();
    loop {
        for &partition in &partitions {
            let batch = reader.poll(partition, POLL_RECORDS.min(left), POLL_BYTES)?;
            let mut out = io::stdout().lock();
            for record in batch.iter().take(left) {
                writeln!(out, "{}", line(record))?;
            }
            left -= batch.len().min(left);
            if left == 0 {
                return Ok(());
            }
        }
        reader.wait(WAIT);
    }
}

/// The payload as text; bytes that are not text are replaced, line breaks become spaces.
fn line(record: RecordView<'_>) -> String {
    match record.payload() {
        Some(payload) => String::from_utf8_lossy(payload).replace(['\n', '\r'], " "),
        None => "null".to_string(),
    }
}
