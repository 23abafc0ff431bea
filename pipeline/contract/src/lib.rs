//! The words that cross folder boundaries: positions, batches, time, emissions, commits, alerts,
//! the traits of sources, logs and sinks, and the error type every crate speaks.
//!
//! Why it exists: `sql` and `connectors` must never see each other; what both need is named here
//! once. It never does I/O, never spawns, never reads a clock and never depends on DataFusion or
//! on a client library. Everything is half-open: windows `[start, end)`, offsets `[from, to)`.

pub mod alert;
pub mod batch;
pub mod commit;
pub mod emission;
pub mod error;
pub mod fault;
pub mod log;
pub mod loss;
pub mod metric;
pub mod sink;
pub mod source;
pub mod time;

pub use alert::{AlertEvent, AlertStatus, Severity};
pub use batch::{EventBatch, RawBatch, RawRecord, RecordView, Records};
pub use commit::{Commit, Origin, OutboxFile, PartitionProgress, RevisedTable, Split, StagedFile};
pub use emission::{Emission, EmissionKind, WindowBounds};
pub use error::{Error, ErrorKind, Result, Span, panic_text};
pub use fault::{FaultClass, RowFault};
pub use log::{LogReader, LogWriter, PartitionId, ProduceRecord};
pub use loss::{Loss, LossKind, RecordMark};
pub use sink::SinkSpec;
pub use source::{
    Column, ColumnKind, MetadataColumn, Options, Source, SourceRow, SourceSpec, WatermarkSpec,
};
pub use time::{Clock, Micros, SystemClock, Watermark};
