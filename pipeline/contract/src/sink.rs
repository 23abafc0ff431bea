//! A sink: where a query's rows go besides the lake.

use crate::Options;

/// A declared sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSpec {
    /// Name.
    pub name: String,
    /// The `WITH` options; `connector` names the kind.
    pub options: Options,
}

impl SinkSpec {
    /// The connector kind, e.g. `kafka`.
    pub fn connector(&self) -> &str {
        self.options.get("connector").unwrap_or_default()
    }
}
