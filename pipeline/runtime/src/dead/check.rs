//! Would the source take these payloads? Asked before anything is submitted.

use tidemill_connectors::format::json::{Decoded, JsonDecoder};
use tidemill_contract::{
    Clock, PartitionId, RawBatch, RawRecord, Result, RowFault, SourceSpec, SystemClock,
};
use tidemill_sql::engine::SourceProgram;

use crate::{job::skew::quarantine_future, watermark::TimeSettings};

/// Decodes as the source's job does.
pub(super) struct Checker {
    decoder: JsonDecoder,
    program: SourceProgram,
    times: TimeSettings,
}

impl Checker {
    pub(super) fn new(spec: &SourceSpec, is_bounded: bool) -> Result<Self> {
        let program = SourceProgram::new(spec)?;
        let decoder = JsonDecoder::new(program.physical_schema(), &spec.options)?;
        Ok(Self { decoder, program, times: TimeSettings::of_source(spec, is_bounded)? })
    }

    /// The faults of those it would not take, each with the index of its record.
    pub(super) fn faults(&mut self, records: &[RawRecord]) -> Result<Vec<(usize, RowFault)>> {
        let raw = RawBatch::of(PartitionId(0), records, 0);
        let Decoded { rows, record_index, mut faults, .. } = self.decoder.decode(&raw)?;
        let (batch, more) = self.program.prepare(&rows, record_index, &raw)?;
        faults.extend(more);
        let latest = self.times.latest_believed(SystemClock.now_micros());
        quarantine_future(batch, &raw, latest, &mut faults)?;
        Ok(faults.into_iter().map(|(record, fault)| (record as usize, fault)).collect())
    }
}
