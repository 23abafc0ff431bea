//! One batch of records on its way to the operators: decode, complete, judge, push.
//!
//! Every record ends up as a row, in quarantine or as a tombstone, and is counted as such.

use bytes::Bytes;
use serde_json::json;
use tidemill_connectors::{failpoint, format::json::Decoded};
use tidemill_contract::{
    Clock, LogReader, PartitionId, RawBatch, RecordView, Result, RowFault, SystemClock, Watermark,
};
use tidemill_sql::{engine::LateRow, parse::Late};

use super::{run::Run, skew::quarantine_future};
use crate::{
    outbox::{OutboxRecord, OutboxTarget, sequence_id},
    quarantine,
};

/// Records taken from one partition at a time: enough for the operators to be busy with columns,
/// little enough that a message to the job waits a few milliseconds.
const BATCH_RECORDS: usize = 8192;

impl Run<'_> {
    /// Reads one batch of the partition that should be read next; false if none has records.
    pub(super) fn read_next(&mut self) -> Result<bool> {
        let batch_bytes = self.environment.memory.batch_bytes();
        let mut empty = Vec::new();
        while let Some(partition) = self.clock.next_partition(&empty) {
            let raw = self.reader.poll(partition, BATCH_RECORDS, batch_bytes)?;
            let raw = self.within_bound(raw);
            let place = self.progress.get(&partition.0).map(|progress| progress.next_offset);
            if place != Some(raw.next_offset) && self.reader.was_disconnected() {
                // Fetched before or after: it is read again once the log is known to be the same.
                return Ok(false);
            }
            let has_records = !raw.is_empty();
            if has_records {
                failpoint::reached("ingest.polled")?;
                self.ingest(&raw)?;
                failpoint::reached("ingest.pushed")?;
            }
            self.note_position(&raw);
            if has_records {
                return Ok(true);
            }
            empty.push(partition);
        }
        Ok(false)
    }

    fn ingest(&mut self, raw: &RawBatch) -> Result<()> {
        self.dirty = true;
        self.watch.note_records();
        let Decoded { rows, record_index, mut faults, tombstones } = self.decoder.decode(raw)?;
        let (batch, more) = self.program.prepare(&rows, record_index, raw)?;
        faults.extend(more);
        let latest = self.times.latest_believed(SystemClock.now_micros());
        let batch = quarantine_future(batch, raw, latest, &mut faults)?;

        self.records.records += raw.len() as u64;
        self.records.tombstones += tombstones;
        if let Some(repeats) = &mut self.repeats {
            self.records.duplicates += repeats.note(raw);
        }
        self.records.dead += faults.len() as u64;
        self.records.rows += batch.rows.num_rows() as u64;
        self.breaker.observe(raw.len() as u64, faults.len() as u64, || {
            let (record, fault) = faults.first()?;
            let offset = raw.get(*record as usize)?.offset();
            let place = format!("partition {}, offset {offset}", raw.partition.0);
            Some(format!("{place}: {}", fault.class))
        });
        self.quarantine(raw, &faults)?;

        let watermark = self.clock.current();
        if batch.rows.num_rows() > 0 {
            let pushed = self.engine.push(&batch);
            let pushed = pushed.map_err(|fault| self.blame.fault(fault))?;
            self.emit(pushed.emissions)?;
            self.keep_late(raw, &pushed.late, watermark)?;
        }
        let latest = batch.event_time.as_ref().and_then(arrow::compute::max);
        self.clock.observe(raw.partition, latest, self.stopwatch.now());
        Ok(())
    }

    /// Beyond the bound of a bounded source nothing is read.
    fn within_bound(&self, mut raw: RawBatch) -> RawBatch {
        let bound = self.progress.get(&raw.partition.0).and_then(|progress| progress.bound);
        if let Some(bound) = bound.filter(|bound| raw.next_offset > *bound) {
            raw.cut(bound);
        }
        raw
    }

    fn note_position(&mut self, raw: &RawBatch) {
        if let Some(progress) = self.progress.get_mut(&raw.partition.0) {
            // After a bound was lowered below our place nothing moves back.
            progress.next_offset = progress.next_offset.max(raw.next_offset);
            super::marks::remember(progress, raw);
        }
        self.tell_clock(raw.partition);
    }

    /// Tells the clock where a partition stands.
    pub(super) fn tell_clock(&mut self, partition: PartitionId) {
        let Some(progress) = self.progress.get(&partition.0) else { return };
        let end = self.reader.end_offset(partition);
        let now = self.stopwatch.now();
        self.clock.position(partition, progress.next_offset, end, progress.bound, now);
    }

    fn quarantine(&mut self, raw: &RawBatch, faults: &[(u32, RowFault)]) -> Result<()> {
        if !self.config.quarantines {
            return Ok(());
        }
        let source = &self.config.source.name;
        let target = OutboxTarget::Topic { name: format!("{source}.dead") };
        let now = SystemClock.now_micros();
        for (record, fault) in faults {
            let place = place(raw, *record);
            let origin = raw.get(*record as usize).map(RecordView::to_record);
            let payload = quarantine::dead_row(source, &place, origin.as_ref(), fault, now);
            let id = sequence_id(&self.config.name, self.ledger.next_epoch(), self.outbox.len());
            self.outbox.push(&target, plain(id, payload))?;
        }
        Ok(())
    }

    fn keep_late(&mut self, raw: &RawBatch, late: &[LateRow], watermark: Watermark) -> Result<()> {
        let source = &self.config.source.name;
        let now = SystemClock.now_micros();
        for row in late {
            if !self.config.outputs.contains_key(&row.query) || self.muted.contains(&row.query) {
                continue;
            }
            let name = match self.config.catalog.query(&row.query).map(|query| &query.late) {
                Some(Late::Drop) => continue,
                Some(Late::To(name)) => name.clone(),
                Some(Late::Keep | Late::Revise(_)) | None => format!("{source}.late"),
            };
            let target = OutboxTarget::Topic { name };
            let bytes = raw.payload(row.record_index);
            let place = place(raw, row.record_index);
            let payload =
                quarantine::late_row(source, &row.query, &place, &bytes, watermark.0, now);
            let id = sequence_id(&self.config.name, self.ledger.next_epoch(), self.outbox.len());
            self.outbox.push(&target, plain(id, payload))?;
        }
        Ok(())
    }
}

fn plain(id: String, payload: Bytes) -> OutboxRecord {
    OutboxRecord { id, key: None, payload: Some(payload), headers: Vec::new(), timestamp_ms: None }
}

fn place(raw: &RawBatch, record: u32) -> serde_json::Value {
    let offset = raw.get(record as usize).map(RecordView::offset);
    json!({ "partition": raw.partition.0, "offset": offset })
}
