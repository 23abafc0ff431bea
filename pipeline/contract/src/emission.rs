//! What an operator gives out: the finished rows of a view, and later what late rows changed in
//! them.

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
#[derive(Debug, Clone)]
pub enum EmissionKind {
    /// The window closed (or the view is stateless). Only a view with `LATE REVISE` says more
    /// about a closed window.
    Final,
    /// Late rows changed a closed window: the rows take the place of those said last.
    Revision {
        /// All rows of the window as said last; may be empty.
        before: RecordBatch,
        /// Late rows that were added to the window since then.
        late_rows: u64,
    },
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
    /// The rows, in the query's output schema. Empty only in a revision that leaves none.
    pub rows: RecordBatch,
}
