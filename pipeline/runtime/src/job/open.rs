//! From the last commit to a job at work: recover, find the place in the log, restore.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tidemill_connectors::{failpoint, format::json::JsonDecoder, sinks::delta, store::Store};
use tidemill_contract::{Commit, Error, LogReader, Loss, PartitionId, Result, Watermark};
use tidemill_sql::{
    alert::AlertProgram,
    catalog::{RegisteredAlert, Target},
    engine::{Engine, SourceProgram},
    parse::Late,
};

use super::{
    JobConfig, JobEnvironment,
    blame::{Blame, Legacy},
    control::Recovery,
    count::RecordCount,
    loss::Finding,
    memory::MemoryGuard,
    parts::{self, KnownParts},
    position::{Found, Place, find_place, must_be_kept},
    reconnect::Reconnect,
    repeats::Repeats,
    revise::WindowColumns,
    run::{Run, Stopwatch},
    sink::SinkWriter,
    state::{JobState, SavedState},
    step::step,
    tables::{Flush, Tables},
    topic::TopicWatch,
};
use crate::{
    breaker::Breaker,
    delivery::{Delivery, file_length, is_lasting},
    ledger::Ledger,
    outbox::Outbox,
    recover::{Claimant, Recovered, recover},
    watermark::{SourceWatermark, TimeSettings},
};

/// Tables created at once.
const PARALLEL: usize = 4;
/// Losses kept in the commit record; the counters know of all.
const LOSSES_MAX: usize = 1000;

/// What became of opening a job.
pub(super) enum Opened<'a> {
    Run(Box<Run<'a>>),
    /// Log data is lost, and nobody has chosen yet.
    Lost(Vec<Finding>),
}

impl<'a> Run<'a> {
    /// Takes the job up where its last commit stood. A choice made after a loss of log data is
    /// committed before it is answered and before anything is read.
    pub(super) fn open(
        environment: &'a JobEnvironment,
        config: &'a JobConfig,
        legacy: &'a Legacy,
        claimant: &Claimant,
        recovery: &mut Option<Recovery>,
    ) -> Result<Opened<'a>> {
        let Taken { delivery, ledger, commit, state } =
            step(environment, config, take_over(environment, config, legacy, claimant))?;
        let state = state.as_ref().map(JobState::decode).transpose()?.unwrap_or_default();
        let places = &state.header.parts;
        let parts = parts::read(&environment.store, places, &state.own_parts);
        let parts = step(environment, config, parts)?;
        let choice = recovery.as_ref().map(|recovery| recovery.from);
        let found = step(environment, config, find_place(config, commit.as_ref(), choice))?;
        let mut place = match found {
            Found::Place(place) => place,
            Found::Lost(findings) => {
                tell_last_commit(environment, config, commit.as_ref(), &state);
                return Ok(Opened::Lost(findings));
            }
        };
        failpoint::reached("recover.positioned")?;
        if commit.is_none() {
            *legacy.start.borrow_mut() = Some(place.progress.clone());
        }
        let accepted = std::mem::take(&mut place.accepted);
        let records = state.header.records;
        let mut run =
            Self::assemble(environment, config, legacy, ledger, delivery, place, records)?;
        run.losses = commit.as_ref().map(|commit| commit.losses.clone()).unwrap_or_default();
        run.restore(commit.as_ref(), state, &parts)?;
        failpoint::reached("recover.restored")?;
        // From here on the reader is known to read the topic the place is in.
        run.watch.note_records();
        run.check_topic()?;
        run.take_losses(&accepted);
        if !accepted.is_empty() || commit.is_none() && must_be_kept(&config.source) {
            run.commit(Flush::Due)?;
        }
        if let Some(recovery) = recovery.take() {
            recovery.answer(Ok(accepted));
        }
        Ok(Opened::Run(Box::new(run)))
    }

    /// All the parts, at their place in the log, without a past.
    fn assemble(
        environment: &'a JobEnvironment,
        config: &'a JobConfig,
        legacy: &'a Legacy,
        ledger: Ledger,
        delivery: Delivery,
        place: Place,
        records: RecordCount,
    ) -> Result<Self> {
        let Place { progress, topic_id, .. } = place;
        let start = progress.iter().map(|(id, progress)| (*id, progress.next_offset)).collect();
        // At once: it hears what becomes of the log from here on.
        let reader = config.log.reader(config.source.topic(), &config.group(), &start)?;
        let repeats = Repeats::open(&config.log, config.source.topic(), &start);
        let repeats = match config.is_fed() {
            true => Some(step(environment, config, repeats)?),
            false => None,
        };
        let program = SourceProgram::new(&config.source)?;
        let times = TimeSettings::of_source(&config.source, config.bound.is_bounded())?;
        let stopwatch = Stopwatch::start();
        let clock = SourceWatermark::new(times, reader.partitions(), stopwatch.now());
        let now = Instant::now();
        Ok(Self {
            config,
            environment,
            changes: &legacy.changes,
            blame: &legacy.blame,
            ledger,
            delivery,
            reader,
            decoder: JsonDecoder::new(program.physical_schema(), &config.source.options)?,
            program,
            engine: Engine::build(&config.catalog, &config.source.name, &config.queries)?,
            alerts: BTreeMap::new(),
            sinks: sinks(config, &legacy.blame)?,
            muted: BTreeSet::new(),
            times,
            clock,
            stopwatch,
            watch: TopicWatch::new(topic_id, progress.len()),
            reconnect: Reconnect::default(),
            losses: Vec::new(),
            progress,
            tables: Tables::new(environment.flush, with_window_columns(config, config.views())),
            outbox: Outbox::new(),
            file_bytes: BTreeMap::new(),
            records,
            breaker: Breaker::of_source(&config.source)?,
            repeats,
            told: BTreeMap::new(),
            ensured_topics: BTreeSet::new(),
            direct: config.direct(),
            dirty: false,
            paused: config.paused,
            is_broken: false,
            drained: false,
            parts: KnownParts::none(&config.name),
            compaction: None,
            cleaning: None,
            cleaned_at: None,
            pruning: None,
            guard: MemoryGuard::new(),
            trouble: environment.board.trouble_of(&config.name),
            committed_at: now,
            commit_took: Duration::ZERO,
            has_alerts: false,
            told_at: now,
        })
    }

    fn take_losses(&mut self, accepted: &[Loss]) {
        self.records.lost += accepted.iter().map(|loss| loss.lost).sum::<u64>();
        self.losses.extend_from_slice(accepted);
        let surplus = self.losses.len().saturating_sub(LOSSES_MAX);
        self.losses.drain(..surplus);
    }

    fn restore(
        &mut self,
        commit: Option<&Commit>,
        state: SavedState,
        parts: &[Bytes],
    ) -> Result<()> {
        if !state.engine.is_empty() {
            let numbers = self.engine.restore_parts(&state.engine, parts)?;
            if let Some(object) = commit.and_then(|commit| commit.state.as_ref()) {
                let begin = object.bytes.saturating_sub(state.own_parts.len() as u64);
                let places = &state.header.parts;
                self.parts =
                    KnownParts::restored(&self.config.name, object, begin, &numbers, places);
            }
        }
        let memory = state.header.partitions.iter();
        let memory = memory.map(|(id, memory)| (PartitionId(*id), *memory)).collect();
        let watermark = commit.map_or(Watermark::MIN, |commit| commit.watermark);
        self.clock.restore(watermark, &memory);
        self.told = state.header.told;
        for (view, batches) in state.tables {
            if self.tables.contains(&view) {
                for batch in batches {
                    self.tables.push(&view, batch)?;
                }
            }
        }
        let blame = self.blame;
        for alert in &self.config.alerts {
            blame.during(&alert.spec.view, || self.add_alert(alert))?;
            let saved = state.header.alerts.get(&alert.spec.name);
            if let (Some(saved), Some(program)) = (saved, self.alerts.get_mut(&alert.spec.name)) {
                program.restore(saved)?;
            }
        }
        let (environment, config) = (self.environment, self.config);
        for (view, files) in step(environment, config, published_files(environment, config))? {
            self.tables.set_files(&view, files);
        }
        self.file_bytes = step(environment, config, file_lengths(&self.sinks, commit, self.blame))?;
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
        let mut program = AlertProgram::new(spec, &view.schema, alert.version, window)?;
        if let Late::Revise(horizon) = view.late {
            program = program.revisable(horizon, self.clock.current());
        }
        self.alerts.insert(spec.name.clone(), program);
        Ok(())
    }
}

/// Views with, if they may be revised, the columns that tell the window of a row.
fn with_window_columns(
    config: &JobConfig,
    views: Vec<String>,
) -> impl Iterator<Item = (String, Option<WindowColumns>)> {
    views.into_iter().map(|view| {
        let query = config.catalog.query(&view);
        let columns = query.and_then(WindowColumns::of);
        (view, columns)
    })
}

/// A job taken over, as its newest commit left it.
struct Taken {
    delivery: Delivery,
    ledger: Ledger,
    commit: Option<Commit>,
    state: Option<Bytes>,
}

async fn take_over(
    environment: &JobEnvironment,
    config: &JobConfig,
    legacy: &Legacy,
    claimant: &Claimant,
) -> Result<Taken> {
    // Early: its client needs up to half a second before it can send.
    config.writer.writer(&environment.log)?;
    let views = config.views();
    Box::pin(create_tables(environment, config, &views, &legacy.blame)).await?;
    let mut delivery = Delivery::new(Store::clone(&environment.store), environment.log.clone())
        .with_writer(config.writer.clone());
    delivery.skip(config.left_out.iter().cloned());
    let recovered =
        Box::pin(recover(&environment.store, &config.name, claimant, &views, &mut delivery)).await;
    legacy.blame.places(delivery.failures());
    let Recovered { ledger, commit, state } = recovered?;
    if let Some(commit) = &commit {
        let mut left = commit.splits.values().flat_map(|split| split.queries.keys());
        if left.any(|name| config.outputs.contains_key(name)) {
            // Its record was there, though we were not told so.
            *legacy.parted.borrow_mut() = Some(commit.clone());
            return Err(Error::internal(format!("job '{}' is parted already", config.name)));
        }
    }
    Ok(Taken { delivery, ledger, commit, state })
}

/// A job that cannot begin shows where it stands.
fn tell_last_commit(
    environment: &JobEnvironment,
    config: &JobConfig,
    commit: Option<&Commit>,
    state: &SavedState,
) {
    let Some(commit) = commit else { return };
    environment.board.update_job(&config.name, |status| {
        status.epoch = commit.epoch;
        status.rows_in = state.header.records.records;
        status.rows_dead = state.header.records.dead;
        status.records_lost = state.header.records.lost;
        status.losses.clone_from(&commit.losses);
    });
}

/// Creates the tables that are not there yet. One that cannot be is its view's fault, unless none
/// can.
async fn create_tables(
    environment: &JobEnvironment,
    config: &JobConfig,
    views: &[String],
    blame: &Blame,
) -> Result<()> {
    let created = stream::iter(views).map(|name| async move {
        let view = config.catalog.query(name)?;
        // Boxed: the Delta client's futures are large.
        let created = delta::create_if_missing(&environment.store, name, &view.schema);
        Box::pin(created).await.err().map(|error| (name, error))
    });
    let failures: Vec<_> =
        created.buffered(PARALLEL).filter_map(|failure| async { failure }).collect().await;
    if failures.len() < views.len() || failures.iter().all(|(_, error)| is_lasting(error)) {
        failures.iter().for_each(|(name, _)| blame.query(name));
    }
    failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
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

fn sinks(config: &JobConfig, blame: &Blame) -> Result<BTreeMap<String, SinkWriter>> {
    let mut sinks = BTreeMap::new();
    for name in config.outputs.keys() {
        if let Some(query) = config.catalog.query(name)
            && let Target::Sink(spec) = &query.target
        {
            let writer = blame.during(name, || SinkWriter::new(spec, &query.schema))?;
            sinks.insert(name.clone(), writer);
        }
    }
    Ok(sinks)
}

/// How long each sink's file is: as committed, or as found for a sink that has written nothing.
async fn file_lengths(
    sinks: &BTreeMap<String, SinkWriter>,
    commit: Option<&Commit>,
    blame: &Blame,
) -> Result<BTreeMap<String, u64>> {
    let mut lengths = BTreeMap::new();
    for (name, sink) in sinks {
        let Some(file) = sink.file() else { continue };
        let committed = commit.and_then(|commit| commit.file_sink_bytes.get(name).copied());
        let length = match committed {
            Some(length) => length,
            None => file_length(file.path()).await.inspect_err(|_| blame.query(name))?,
        };
        lengths.insert(name.clone(), length);
    }
    Ok(lengths)
}
