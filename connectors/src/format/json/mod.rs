//! JSON payloads to Arrow rows: one object per record, checked against the declared columns.
//!
//! Invariants: every record ends up in exactly one of rows, faults and tombstones; rows keep the
//! order of their records; one bad record never costs another its place. There are two ways to a
//! row, with the same answers: `rows` reads plain rows in one pass; what it does not take, and
//! sources with nested columns, go the general way over arrow's tape. A payload gets onto
//! the tape only when `syntax` found it to be one JSON object, so nothing can spoil it;
//! what does not fit the columns' shape is found by halving. Values are parsed from their text
//! by the same functions on both ways, so that money is exact, `1.5` is no integer and an
//! epoch is never taken for a date.

mod cells;
mod convert;
mod encode;
mod rows;
mod syntax;
mod text;
mod wire;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_json::reader::{Decoder, ReaderBuilder};
use tidemill_contract::{Error, FaultClass, Options, RawBatch, Result, RowFault};

use convert::Marks;
use rows::{Gathered, RowReader};

pub use encode::{encode, encode_lines};

/// Rows gathered before they are turned into columns; bounds the tape.
const ROWS_AT_ONCE: usize = 8192;
/// Longest reason kept with a fault.
const REASON_CHARS_MAX: usize = 240;

/// What became of a batch.
#[derive(Debug)]
pub struct Decoded {
    /// The good rows, in the physical columns.
    pub rows: RecordBatch,
    /// For each row the index of its record in the raw batch.
    pub record_index: Vec<u32>,
    /// The bad records, ascending by record index.
    pub faults: Vec<(u32, RowFault)>,
    /// Records without a payload.
    pub tombstones: u64,
}

/// Decodes JSON objects into the physical columns of a source.
#[derive(Debug)]
pub struct JsonDecoder {
    physical: SchemaRef,
    wire: SchemaRef,
    tape: Decoder,
    epoch: EpochUnit,
    /// `None` if every row goes the general way.
    reader: Option<RowReader>,
}

/// Where the results of one batch gather.
struct Gathering<'a> {
    raw: &'a RawBatch,
    parts: Vec<RecordBatch>,
    record_index: Vec<u32>,
    faults: Vec<(u32, RowFault)>,
    /// Records whose rows are in the reader or on the tape.
    pending: Vec<u32>,
}

impl<'a> Gathering<'a> {
    fn new(raw: &'a RawBatch) -> Self {
        let pending = Vec::with_capacity(raw.len().min(ROWS_AT_ONCE));
        Self { raw, parts: Vec::new(), record_index: Vec::new(), faults: Vec::new(), pending }
    }

    fn fault(&mut self, record: u32, stage: &'static str, class: FaultClass, reason: &str) {
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        self.faults
            .push((record, RowFault { raw: self.raw.payload(record), stage, class, reason }));
    }
}

impl JsonDecoder {
    /// A decoder for these columns. JSON keys are the column names; other keys are ignored, and
    /// of a repeated key the last one counts.
    ///
    /// # Errors
    /// `TM541` for a column type JSON cannot carry, `TM551` for a wrong option.
    pub fn new(physical: SchemaRef, options: &Options) -> Result<Self> {
        let epoch = epoch_unit(options)?;
        let mut fields = Vec::with_capacity(physical.fields().len());
        for field in physical.fields() {
            let data_type = wire::data_type(field.data_type()).ok_or_else(|| {
                Error::invalid(
                    "TM541",
                    format!("column '{}': JSON cannot carry {}", field.name(), field.data_type()),
                )
            })?;
            // Nullable here: a missing NOT NULL value is a fault of its row, not of the batch.
            fields.push(field.as_ref().clone().with_data_type(data_type).with_nullable(true));
        }
        let wire = Arc::new(Schema::new(fields));
        let tape = new_tape(&wire)?;
        let reader = RowReader::new(&physical, epoch);
        Ok(Self { physical, wire, tape, epoch, reader })
    }

    /// Rows read so far without the general way.
    pub fn rows_in_one_pass(&self) -> u64 {
        self.reader.as_ref().map_or(0, RowReader::rows)
    }

    /// The same decoder, reading every row the general way: to compare the two.
    #[must_use]
    pub fn general(mut self) -> Self {
        self.reader = None;
        self
    }

    /// Decodes a batch. Bad rows are in the result, not in the error.
    ///
    /// # Errors
    /// Only on bugs of ours.
    pub fn decode(&mut self, raw: &RawBatch) -> Result<Decoded> {
        let mut gathering = Gathering::new(raw);
        let mut tombstones = 0;
        for (record, index) in raw.iter().zip(0_u32..) {
            match record.payload() {
                Some(payload) => self.read(&mut gathering, payload, index)?,
                None => tombstones += 1,
            }
        }
        self.settle(&mut gathering)?;

        let rows = match gathering.parts.len() {
            0 => RecordBatch::new_empty(Arc::clone(&self.physical)),
            1 => gathering.parts.remove(0),
            _ => compute::concat_batches(&self.physical, &gathering.parts)
                .map_err(|e| Error::internal(format!("cannot join decoded rows: {e}")))?,
        };
        let mut faults = gathering.faults;
        faults.sort_by_key(|(index, _)| *index);
        Ok(Decoded { rows, record_index: gathering.record_index, faults, tombstones })
    }

    /// Reads one payload by one of the two ways.
    fn read(&mut self, gathering: &mut Gathering<'_>, payload: &[u8], record: u32) -> Result<()> {
        if !self.reader.as_mut().is_some_and(|reader| reader.take(payload)) {
            if let Err(flaw) = syntax::check(payload) {
                gathering.fault(record, "decode", flaw.class, &flaw.reason);
                return Ok(());
            }
            let is_alone = self.reader.is_some();
            if is_alone {
                // What the reader has comes before it.
                self.settle(gathering)?;
            }
            self.feed(payload)?;
            if is_alone {
                return self.flush(gathering, &[record]);
            }
        }
        gathering.pending.push(record);
        if gathering.pending.len() == ROWS_AT_ONCE { self.settle(gathering) } else { Ok(()) }
    }

    /// Turns what is pending, in the reader or on the tape, into columns.
    fn settle(&mut self, gathering: &mut Gathering<'_>) -> Result<()> {
        let records = std::mem::take(&mut gathering.pending);
        match &mut self.reader {
            _ if records.is_empty() => Ok(()),
            Some(reader) => {
                let Gathered { columns, marks } = reader.finish()?;
                self.keep(gathering, columns, &marks, &records)
            }
            None => self.flush(gathering, &records),
        }
    }

    /// Puts one payload, which is a JSON object, on the tape.
    fn feed(&mut self, payload: &[u8]) -> Result<()> {
        let before = self.tape.len();
        let consumed = self.tape.decode(payload);
        let whole = consumed.as_ref().is_ok_and(|consumed| *consumed == payload.len());
        if whole && !self.tape.has_partial_record() && self.tape.len() == before + 1 {
            return Ok(());
        }
        self.tape = new_tape(&self.wire)?;
        Err(Error::internal("a checked JSON object did not become one row of the tape"))
    }

    /// Turns what is on the tape, the given records, into columns.
    fn flush(&mut self, gathering: &mut Gathering<'_>, records: &[u32]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        match self.tape.flush() {
            Ok(Some(batch)) => self.take(gathering, &batch, records),
            Ok(None) => Err(Error::internal("the JSON tape lost its rows")),
            Err(error) => {
                self.tape = new_tape(&self.wire)?;
                if let [record] = records {
                    let reason = error.to_string();
                    let reason = text::strip_prefix(&reason);
                    gathering.fault(*record, "decode", FaultClass::Shape, reason);
                    return Ok(());
                }
                let (left, right) = records.split_at(records.len() / 2);
                self.retry(gathering, left)?;
                self.retry(gathering, right)
            }
        }
    }

    /// Tapes records again that were taped before, on an empty tape.
    fn retry(&mut self, gathering: &mut Gathering<'_>, records: &[u32]) -> Result<()> {
        for record in records {
            self.feed(&gathering.raw.payload(*record))?;
        }
        self.flush(gathering, records)
    }

    /// Parses the text columns and checks NOT NULL.
    fn take(
        &self,
        gathering: &mut Gathering<'_>,
        batch: &RecordBatch,
        records: &[u32],
    ) -> Result<()> {
        let mut marks = Marks::new();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
        for (field, array) in self.physical.fields().iter().zip(batch.columns()) {
            columns.push(convert::column(array, field, self.epoch, &mut marks)?);
        }
        self.keep(gathering, columns, &marks, records)
    }

    /// Keeps the good rows of some columns, faults the others.
    fn keep(
        &self,
        gathering: &mut Gathering<'_>,
        mut columns: Vec<ArrayRef>,
        marks: &Marks,
        records: &[u32],
    ) -> Result<()> {
        let mut kept = records.to_vec();
        if !marks.is_empty() {
            let good: BooleanArray =
                (0..records.len()).map(|row| Some(!marks.contains_key(&row))).collect();
            for column in &mut columns {
                *column = compute::filter(column, &good)
                    .map_err(|e| Error::internal(format!("cannot filter decoded rows: {e}")))?;
            }
            kept = (0..records.len())
                .filter(|row| !marks.contains_key(row))
                .map(|row| records[row])
                .collect();
            for (row, mark) in marks {
                gathering.fault(records[*row], "check", mark.class, &mark.reason);
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.physical), columns, &options)
            .map_err(|e| Error::internal(format!("decoded rows do not fit their columns: {e}")))?;
        gathering.parts.push(rows);
        gathering.record_index.extend(kept);
        Ok(())
    }
}

/// What a number in a timestamp column counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EpochUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// Checks the `json.*` options.
///
/// # Errors
/// `TM551` for a wrong value.
pub fn validate(options: &Options) -> Result<()> {
    epoch_unit(options).map(|_| ())
}

fn epoch_unit(options: &Options) -> Result<EpochUnit> {
    match options.get("json.epoch-unit") {
        Some("s") => Ok(EpochUnit::Seconds),
        None | Some("ms") => Ok(EpochUnit::Millis),
        Some("us") => Ok(EpochUnit::Micros),
        Some("ns") => Ok(EpochUnit::Nanos),
        Some(other) => {
            Err(Error::invalid("TM551", format!("option 'json.epoch-unit' cannot be '{other}'"))
                .at(options.span("json.epoch-unit"))
                .help("write 's', 'ms', 'us' or 'ns': what a number in a timestamp column counts"))
        }
    }
}

fn new_tape(wire: &SchemaRef) -> Result<Decoder> {
    ReaderBuilder::new(Arc::clone(wire))
        .with_batch_size(ROWS_AT_ONCE + 1)
        .with_coerce_primitive(true)
        .build_decoder()
        .map_err(|e| Error::internal(format!("cannot make a JSON decoder: {e}")))
}
