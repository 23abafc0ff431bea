//! Rows from the future: an event time beyond what is believed is quarantined, so that one wrong
//! clock cannot close the windows of everyone else.

use arrow::{
    array::{BooleanArray, Int64Array},
    compute::filter_record_batch,
};
use tidemill_contract::{Error, EventBatch, FaultClass, Micros, RawBatch, Result, RowFault};

use crate::quarantine::rfc3339;

/// Takes out the rows whose event time is after `latest`.
pub(crate) fn quarantine_future(
    batch: EventBatch,
    raw: &RawBatch,
    latest: Micros,
    faults: &mut Vec<(u32, RowFault)>,
) -> Result<EventBatch> {
    let Some(times) = &batch.event_time else { return Ok(batch) };
    if times.values().iter().all(|time| *time <= latest) {
        return Ok(batch);
    }
    let believed: BooleanArray = times.values().iter().map(|time| Some(*time <= latest)).collect();
    let mut kept_times = Vec::with_capacity(batch.record_index.len());
    let mut kept_records = Vec::with_capacity(batch.record_index.len());
    for (row, record) in batch.record_index.iter().enumerate() {
        let time = times.value(row);
        if believed.value(row) {
            kept_times.push(time);
            kept_records.push(*record);
        } else {
            faults.push((*record, fault(raw, *record, time)));
        }
    }
    let rows = filter_record_batch(&batch.rows, &believed)
        .map_err(|e| Error::internal(format!("rows cannot be filtered: {e}")))?;
    Ok(EventBatch {
        partition: batch.partition,
        rows,
        event_time: Some(Int64Array::from(kept_times)),
        record_index: kept_records,
        offsets: batch.offsets,
    })
}

fn fault(raw: &RawBatch, record: u32, time: Micros) -> RowFault {
    let reason = format!("event time {} lies too far in the future", rfc3339(time));
    RowFault { raw: raw.payload(record), stage: "time", class: FaultClass::Future, reason }
}
