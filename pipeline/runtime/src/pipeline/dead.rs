//! `SHOW DEAD` and `REPLAY DEAD` as statements of a pipeline.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{Field, Schema},
};
use tidemill_connectors::log::kafka::KafkaLog;
use tidemill_contract::{Error, ErrorKind, Result, SourceSpec};
use tidemill_sql::{
    catalog::Catalog,
    parse::{ReplayDead, ShowDead, closest},
};

use super::{Pipeline, StatementResult};
use crate::{
    dead::{self, Mode, Replay},
    supervisor::{Ending, ending, source_log},
    writer::WriterSlot,
};

impl Pipeline {
    /// `SHOW DEAD`.
    pub(super) async fn show_dead(&self, show: &ShowDead) -> Result<StatementResult> {
        let catalog = self.catalog().await;
        let sources: Vec<String> = match &show.source {
            Some(name) => vec![find(&catalog, name)?.name.clone()],
            None => catalog.sources().keys().cloned().collect(),
        };
        let mut groups = Vec::new();
        for source in sources {
            groups.extend(dead::summary(&self.log, &self.store, &source).await?);
        }
        groups.truncate(show.limit.unwrap_or(usize::MAX));
        let text = |value: fn(&dead::Group) -> &str| -> ArrayRef {
            Arc::new(groups.iter().map(|group| Some(value(group))).collect::<StringArray>())
        };
        table(vec![
            ("source", text(|group| &group.source)),
            ("stage", text(|group| &group.stage)),
            ("class", text(|group| &group.class)),
            ("rows", numbers(groups.iter().map(|group| group.rows))),
            ("replayed", numbers(groups.iter().map(|group| group.replayed))),
            ("first_at", text(|group| &group.first_at)),
            ("last_at", text(|group| &group.last_at)),
            ("example", text(|group| &group.example)),
        ])
    }

    /// `REPLAY DEAD`, or with [`Mode::Count`] what it would do.
    pub(super) async fn replay(
        &self,
        statement: &ReplayDead,
        mode: Mode,
    ) -> Result<StatementResult> {
        let catalog = self.catalog().await;
        let spec = find(&catalog, &statement.source)?;
        let ending = ending(spec);
        if ending == Ending::Fixed {
            return Err(Error::invalid(
                "TM642",
                format!("rows of source '{}' cannot be replayed", spec.name),
            )
            .because("it ends where its topic ended when it was first read: they would lie behind")
            .help("declare the source without 'scan.bounded.mode'"));
        }
        let mut replays = self.replays.lock().await;
        let source_log = source_log(&self.log, spec)?;
        let writer = slot(&mut replays, spec, &source_log);
        let replay = Replay {
            log: &self.log,
            source_log: &source_log,
            writer: &writer,
            store: &self.store,
            spec,
            is_bounded: ending == Ending::Fed,
            mode,
        };
        let outcome = replay.run(statement).await;
        if mode == Mode::Submit && ending == Ending::Fed {
            self.extend_end(spec).await?;
        }
        let outcome = outcome?;
        let one = |value| numbers([value]);
        let example: ArrayRef = Arc::new(StringArray::from(vec![outcome.example]));
        let done = if mode == Mode::Submit { "replayed" } else { "replayable" };
        table(vec![
            ("source", Arc::new(StringArray::from(vec![spec.name.clone()]))),
            ("selected", one(outcome.selected)),
            (done, one(outcome.replayed)),
            ("still_bad", one(outcome.still_bad)),
            ("already_replayed", one(outcome.skipped)),
            ("left_out", one(outcome.left_out)),
            ("not_available", one(outcome.not_available)),
            ("example", example),
        ])
    }

    /// Completes the replays that a process before this one may have left half done.
    pub(super) async fn finish_replays(&self, catalog: &Catalog) {
        let mut replays = self.replays.lock().await;
        for spec in catalog.sources().values() {
            if let Err(error) = self.finish_replay(spec, &mut replays).await {
                tracing::warn!(source = %spec.name, %error, "a replay is not complete yet");
            }
        }
    }

    async fn finish_replay(&self, spec: &SourceSpec, replays: &mut Writers) -> Result<()> {
        let book = dead::Book::load(&self.store, &spec.name).await?;
        let log = source_log(&self.log, spec)?;
        let writer = slot(replays, spec, &log);
        if book.finish(&log, &writer).await? && ending(spec) == Ending::Fed {
            self.extend_end(spec).await?;
        }
        Ok(())
    }

    async fn extend_end(&self, spec: &SourceSpec) -> Result<()> {
        let marks = source_log(&self.log, spec)?.watermarks(spec.topic()).await?;
        let ends = marks.into_iter().map(|(partition, (_, end))| (partition, end)).collect();
        if let Some(supervisor) = &self.state.lock().await.supervisor {
            supervisor.extend_end(&spec.name, &ends);
        }
        Ok(())
    }
}

/// The writers of replays, by source and brokers.
type Writers = BTreeMap<(String, String), WriterSlot>;

fn slot(writers: &mut Writers, spec: &SourceSpec, log: &KafkaLog) -> WriterSlot {
    let key = (spec.name.clone(), log.settings().brokers.clone());
    writers.entry(key).or_default().clone()
}

fn find<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a SourceSpec> {
    catalog.source(name).ok_or_else(|| {
        let names: Vec<&str> = catalog.sources().keys().map(String::as_str).collect();
        let error =
            Error::new(ErrorKind::NotFound, "TM301", format!("source '{name}' does not exist"));
        match closest(name, &names) {
            Some(near) => error.help(format!("did you mean '{near}'?")),
            None => error.help("SHOW SOURCES lists what there is"),
        }
    })
}

fn numbers(values: impl IntoIterator<Item = u64>) -> ArrayRef {
    let values = values.into_iter().map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    Arc::new(values.map(Some).collect::<Int64Array>())
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Result<StatementResult> {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)
        .map_err(|e| Error::internal(format!("a listing has no rows: {e}")))?;
    Ok(StatementResult::Rows { schema, batches: vec![batch] })
}
