//! What an operator gives out: the finished rows of a view.

use arrow_array::RecordBatch;

use crate::Micros;

/// A window `[start, end)` in event-time microseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct WindowBounds {
    /// First microsecond inside.
    pub start: Micros,
    /// First microsecond after.
    pub end: Micros,
}

/// Why rows were emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmissionKind {
    /// The window closed (or the view is stateless): rows never change again.
    Final,
}

/// Rows of one view: all rows of one window, or a batch of a stateless view.
#[derive(Debug, Clone)]
pub struct Emission {
    /// Name of the query (view or sink) that emits.
    pub query: String,
    /// The window, `None` for a stateless query.
    pub window: Option<WindowBounds>,
    /// Why.
    pub kind: EmissionKind,
    /// The rows, in the query's output schema. Never empty.
    pub rows: RecordBatch,
}
