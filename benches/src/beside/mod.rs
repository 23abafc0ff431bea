//! What runs beside Flink: the same windows on the same topic, ours and theirs, and the answer.

pub mod flink;
pub mod ours;
pub mod report;
pub mod windows;

pub use windows::Windows;
