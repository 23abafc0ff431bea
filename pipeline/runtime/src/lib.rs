//! The moving parts: feeds run sources into topics, jobs run topics through the SQL operators,
//! commits make results true, publication rolls them forward.
//!
//! Why it exists: `sql` never does I/O and `connectors` never knows what a row means; here they
//! meet, one stage a file. It never parses SQL and never speaks a wire protocol itself.

mod assignment;
mod breaker;
pub mod catalog_log;
pub mod clean;
mod dead;
pub mod delivery;
mod feed;
pub mod fsck;
mod job;
pub mod ledger;
mod memory;
pub mod outbox;
mod patience;
mod pipeline;
pub mod publish;
mod quarantine;
mod query;
pub mod recover;
mod settings;
mod split;
mod status;
mod supervisor;
pub mod watermark;
mod writer;

pub use breaker::Breaker;
pub use clean::CleanSettings;
pub use feed::{Feed, FeedEnd, OpenSource};
pub use memory::{BUDGET_MIN, default_budget};
pub use pipeline::{Pipeline, StatementResult};
pub use settings::{Settings, parse_bytes, parse_duration};
pub use status::{Board, FeedStatus, JobStatus, Parked, QueryCount, Status};
pub use tidemill_connectors::store::StoreLimits;
