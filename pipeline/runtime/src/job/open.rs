//! From the last commit to a job at work: recover, check the log against what was read, restore.
//!
//! A topic that was deleted, made anew or cut since the last commit is found here, by its bounds
//! and by the fingerprint of the last record read; the job then fails and names the ranges. It
//! never skips a gap by itself.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use tidemill_connectors::{
    format::json::JsonDecoder, log::kafka::KafkaLog, sinks::delta, store::Store,
};
use tidemill_contract::{
    Commit, Error, LogReader, PartitionId, PartitionProgress, RawRecord, Result, Watermark,
};
use tidemill_sql::{
    alert::AlertProgram,
    catalog::{RegisteredAlert, Target},
    engine::{Engine, SourceProgram},
};

use super::{
    Bound, JobConfig, JobEnvironment,
    control::Change,
    run::{Run, Stopwatch},
    sink::SinkWriter,
    state::JobState,
    tables::Tables,
};
use crate::{
    delivery::{Delivery, file_length},
    outbox::Outbox,
    recover::{Recovered, recover},
    watermark::{SourceWatermark, TimeSettings},
};

const STARTUP_MODE: &str = "scan.startup.mode";
const STARTUP_MILLIS: &str = "scan.startup.timestamp-millis";

/// Identifies a record well enough to notice that another one is in its place.
pub(super) fn fingerprint(record: &RawRecord) -> u32 {
    crc32c::crc32c(record.payload.as_deref().unwrap_or_default())
}

impl<'a> Run<'a> {
    /// Takes the job up where its last commit stood.
    pub(super) fn open(
        environment: &'a JobEnvironment,
        config: &'a JobConfig,
        changes: &'a RefCell<Vec<Change>>,
    ) -> Result<Self> {
        let executor = environment.executor.clone();
        let views = config.views();
        executor.block_on(Box::pin(create_tables(environment, config, &views)))?;
        let mut delivery = Delivery::new(Store::clone(&environment.store), environment.log.clone());
        let writer = environment.writer.clone();
        let Recovered { ledger, commit, state } = executor.block_on(Box::pin(recover(
            &environment.store,
            &config.name,
            writer,
            &views,
            &mut delivery,
        )))?;
        let state = state.as_deref().map(JobState::decode).transpose()?.unwrap_or_default();
        let progress = executor.block_on(Box::pin(starting_progress(config, commit.as_ref())))?;
        let start = progress.iter().map(|(id, progress)| (*id, progress.next_offset)).collect();
        let group = format!("tidemill-{}", config.name);
        let reader = config.log.reader(config.source.topic(), &group, &start)?;

        let program = SourceProgram::new(&config.source)?;
        let decoder = JsonDecoder::new(program.physical_schema(), &config.source.options)?;
        let times = TimeSettings::of_source(&config.source, config.bound.is_bounded())?;
        let stopwatch = Stopwatch::start();
        let clock = SourceWatermark::new(times, reader.partitions(), stopwatch.now());
        let now = Instant::now();
        let mut run = Run {
            config,
            environment,
            changes,
            ledger,
            delivery,
            reader,
            decoder,
            program,
            engine: Engine::build(&config.catalog, &config.source.name, &config.queries)?,
            alerts: BTreeMap::new(),
            sinks: sinks(config)?,
            muted: BTreeSet::new(),
            times,
            clock,
            stopwatch,
            progress,
            tables: Tables::new(environment.flush, views),
            outbox: Outbox::new(),
            file_bytes: BTreeMap::new(),
            records: state.header.records,
            ensured_topics: BTreeSet::new(),
            direct: config.direct(),
            dirty: false,
            paused: config.paused,
            drained: false,
            committed_at: now,
            told_at: now,
            grown_at: now,
        };
        run.restore(commit.as_ref(), state)?;
        Ok(run)
    }

    fn restore(&mut self, commit: Option<&Commit>, state: JobState) -> Result<()> {
        if !state.engine.is_empty() {
            self.engine.restore(&state.engine)?;
        }
        let memory = state.header.partitions.iter();
        let memory = memory.map(|(id, memory)| (PartitionId(*id), *memory)).collect();
        let watermark = commit.map_or(Watermark::MIN, |commit| commit.watermark);
        self.clock.restore(watermark, &memory);
        for (view, batches) in state.tables {
            if self.tables.contains(&view) {
                for batch in batches {
                    self.tables.push(&view, batch)?;
                }
            }
        }
        for alert in &self.config.alerts {
            self.add_alert(alert)?;
            let saved = state.header.alerts.get(&alert.spec.name);
            if let (Some(saved), Some(program)) = (saved, self.alerts.get_mut(&alert.spec.name)) {
                program.restore(saved)?;
            }
        }
        let executor = self.environment.executor.clone();
        let files = executor.block_on(Box::pin(published_files(self.environment, self.config)))?;
        for (view, files) in files {
            self.tables.set_files(&view, files);
        }
        self.file_bytes = executor.block_on(file_lengths(&self.sinks, commit))?;
        let epoch = commit.map_or(0, |commit| commit.epoch);
        tracing::info!(job = %self.config.name, epoch, "job starts");
        Ok(())
    }

    /// Compiles an alert; it begins without a past.
    pub(super) fn add_alert(&mut self, alert: &RegisteredAlert) -> Result<()> {
        let spec = &alert.spec;
        let Some(view) = self.config.catalog.query(&spec.view) else {
            return Err(Error::internal(format!("alert '{}' watches no known view", spec.name)));
        };
        let window = view.plan.window.clone();
        let program = AlertProgram::new(spec, &view.schema, alert.version, window)?;
        self.alerts.insert(spec.name.clone(), program);
        Ok(())
    }
}

async fn create_tables(
    environment: &JobEnvironment,
    config: &JobConfig,
    views: &[String],
) -> Result<()> {
    for name in views {
        if let Some(view) = config.catalog.query(name) {
            let created = delta::create_if_missing(&environment.store, name, &view.schema);
            Box::pin(created).await?;
        }
    }
    Ok(())
}

async fn published_files(
    environment: &JobEnvironment,
    config: &JobConfig,
) -> Result<BTreeMap<String, Vec<String>>> {
    let mut files = BTreeMap::new();
    for view in config.views() {
        let found = Box::pin(delta::files(&environment.store, &view)).await?;
        files.insert(view, found);
    }
    Ok(files)
}

fn sinks(config: &JobConfig) -> Result<BTreeMap<String, SinkWriter>> {
    let mut sinks = BTreeMap::new();
    for name in config.outputs.keys() {
        if let Some(query) = config.catalog.query(name)
            && let Target::Sink(spec) = &query.target
        {
            sinks.insert(name.clone(), SinkWriter::new(spec, &query.schema)?);
        }
    }
    Ok(sinks)
}

/// How long each sink's file is: as committed, or as found for a sink that has written nothing.
async fn file_lengths(
    sinks: &BTreeMap<String, SinkWriter>,
    commit: Option<&Commit>,
) -> Result<BTreeMap<String, u64>> {
    let mut lengths = BTreeMap::new();
    for (name, sink) in sinks {
        let Some(file) = sink.file() else { continue };
        let committed = commit.and_then(|commit| commit.file_sink_bytes.get(name).copied());
        let length = match committed {
            Some(length) => length,
            None => file_length(file.path()).await?,
        };
        lengths.insert(name.clone(), length);
    }
    Ok(lengths)
}

/// Where to read on in each partition the topic has now.
async fn starting_progress(
    config: &JobConfig,
    commit: Option<&Commit>,
) -> Result<BTreeMap<i32, PartitionProgress>> {
    let topic = config.source.topic();
    let marks = config.log.watermarks(topic).await?;
    let fresh = match commit {
        Some(_) => BTreeMap::new(),
        None => first_offsets(config, &marks).await?,
    };
    let mut progress = BTreeMap::new();
    for (partition, (low, high)) in &marks {
        let committed = commit.and_then(|commit| commit.partitions.get(partition));
        let at_start = matches!(config.bound, Bound::AtStart);
        let resumed = match committed {
            Some(committed) => {
                check_log(&config.log, topic, *partition, committed, (*low, *high)).await?;
                committed.clone()
            }
            None => PartitionProgress {
                next_offset: fresh.get(partition).copied().unwrap_or(*low),
                fingerprint: None,
                fingerprint_offset: None,
                watermark: Watermark::MIN,
                bound: at_start.then_some(*high),
            },
        };
        progress.insert(*partition, resumed);
    }
    let mut committed = commit.iter().flat_map(|commit| &commit.partitions);
    let lost = committed.find(|(partition, _)| !marks.contains_key(partition));
    if let Some((partition, committed)) = lost {
        return Err(data_loss(topic, *partition, committed.next_offset, "the partition is gone"));
    }
    Ok(progress)
}

async fn first_offsets(
    config: &JobConfig,
    marks: &BTreeMap<i32, (i64, i64)>,
) -> Result<BTreeMap<i32, i64>> {
    let options = &config.source.options;
    let object = format!("source '{}'", config.source.name);
    match options.get(STARTUP_MODE) {
        None | Some("earliest-offset") => {
            Ok(marks.iter().map(|(partition, (low, _))| (*partition, *low)).collect())
        }
        Some("latest-offset") => {
            Ok(marks.iter().map(|(partition, (_, high))| (*partition, *high)).collect())
        }
        Some("timestamp") => {
            let text = options.require(STARTUP_MILLIS, &object)?;
            let millis = text.parse().map_err(|_| {
                Error::invalid("TM113", format!("{object}: '{STARTUP_MILLIS}' is not a number"))
                    .at(options.span(STARTUP_MILLIS))
            })?;
            config.log.offsets_for_time(config.source.topic(), millis).await
        }
        Some(other) => {
            Err(Error::invalid("TM113", format!("{object}: '{STARTUP_MODE}' cannot be '{other}'"))
                .at(options.span(STARTUP_MODE))
                .because("positions are kept in the bucket, never in a consumer group")
                .help("use 'earliest-offset', 'latest-offset' or 'timestamp'"))
        }
    }
}

/// The log must still hold what comes next, and before it the record that was read last.
async fn check_log(
    log: &KafkaLog,
    topic: &str,
    partition: i32,
    committed: &PartitionProgress,
    (low, high): (i64, i64),
) -> Result<()> {
    let next = committed.next_offset;
    if low > next {
        return Err(data_loss(
            topic,
            partition,
            next,
            &format!("records [{next}, {low}) are gone"),
        ));
    }
    if high < next {
        let reason = format!("the log ends at {high}: it was cut or made anew");
        return Err(data_loss(topic, partition, next, &reason));
    }
    let (Some(expected), Some(offset)) = (committed.fingerprint, committed.fingerprint_offset)
    else {
        return Ok(());
    };
    if offset < low {
        return Ok(()); // Retention took it; what comes next is there.
    }
    let (from, to) = ([(partition, offset)].into(), [(partition, offset + 1)].into());
    let found = log.read_range(topic, &from, &to).await?;
    match found.iter().find(|(_, record)| record.offset == offset) {
        Some((_, record)) if fingerprint(record) == expected => Ok(()),
        Some(_) => {
            let reason = format!("record {offset} is not the one that was read: it was made anew");
            Err(data_loss(topic, partition, next, &reason))
        }
        None => {
            let reason = format!("record {offset}, which was read, is not there");
            Err(data_loss(topic, partition, next, &reason))
        }
    }
}

fn data_loss(topic: &str, partition: i32, next: i64, reason: &str) -> Error {
    let what = format!(
        "DATA LOSS: topic '{topic}' does not continue at offset {next} of partition {partition}"
    );
    Error::corrupt("TM501", what)
        .because(reason)
        .help("restore the topic, or drop and create the source again to start from what is there")
}
