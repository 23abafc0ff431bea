//! The bucket over time: damage is named wherever it is, and what nobody needs goes without ever
//! taking what somebody does.

mod clean;
mod fsck;
