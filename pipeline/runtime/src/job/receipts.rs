//! Receipts of closed windows on their way to the topic `<view>.receipts`, which reads as the
//! relation `<view>$receipts`.
//!
//! A receipt says what a window's result is complete by: the offsets it was computed from, how many
//! rows, and what closed it. Rows that were late, dead or there twice belong to no window; each
//! receipt has those since the receipt before it, so that the receipts of a view add up to all of
//! them. It goes out with the commit that makes the window's rows true, or not at all.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_contract::{Clock, Error, Result, SystemClock, Watermark};
use tidemill_sql::{catalog::Target, engine::Receipt};

use super::run::Run;
use crate::{
    outbox::{OutboxRecord, OutboxTarget, sequence_id},
    quarantine::rfc3339,
    watermark::Mover,
};

/// The field that says which query by this name a record is of: a view may be dropped and created
/// anew, and its topics stay.
pub(crate) const QUERY_NUMBER: &str = "query_number";

/// The topic of a view's receipts.
pub(crate) fn receipts_topic(view: &str) -> String {
    format!("{view}.receipts")
}

/// What the receipts of a view have told so far of rows that are in no window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    late: u64,
    dead: u64,
    duplicates: u64,
}

impl Run<'_> {
    /// Takes the receipts of what the operators have just said.
    pub(super) fn keep_receipts(&mut self) -> Result<()> {
        let receipts = self.engine.take_receipts();
        if receipts.is_empty() {
            return Ok(());
        }
        let counters = self.engine.counters();
        for receipt in receipts {
            let query = self.config.catalog.query(&receipt.query);
            let is_view = query.is_some_and(|query| matches!(query.target, Target::View));
            if is_view && self.counts(&receipt.query) {
                let late = counters.get(&receipt.query).map_or(0, |count| count.late);
                self.keep_receipt(&receipt, late)?;
            }
        }
        Ok(())
    }

    /// `late` is how many rows were late for the view so far.
    fn keep_receipt(&mut self, receipt: &Receipt, late: u64) -> Result<()> {
        self.dirty = true;
        let view = &receipt.query;
        let (dead, duplicates) = (self.records.dead, self.records.duplicates);
        let now = Told { late, dead, duplicates };
        let told = self.told.insert(view.clone(), now).unwrap_or_default();
        let epoch = self.ledger.next_epoch();
        let watermark = Some(self.clock.current()).filter(|mark| *mark < Watermark::MAX);
        let text = Text {
            view,
            query_number: self.config.outputs.get(view).copied(),
            window_start: rfc3339(receipt.window.start),
            window_end: rfc3339(receipt.window.end),
            reason: if receipt.is_revision { "revision" } else { reason(self.clock.mover()) },
            watermark: watermark.map(|mark| rfc3339(mark.0)),
            rows_in: receipt.from.rows,
            on_time: receipt.from.rows - receipt.from.behind,
            behind: receipt.from.behind,
            rows_out: receipt.rows,
            late: now.late - told.late,
            dead: now.dead - told.dead,
            duplicates: now.duplicates - told.duplicates,
            offsets: offsets(receipt)?,
            epoch,
            at: rfc3339(SystemClock.now_micros()),
        };
        let payload = to_json(&text)?;
        let record = OutboxRecord {
            id: sequence_id(&self.config.name, epoch, self.outbox.len()),
            key: Some(Bytes::from(text.window_start)),
            payload: Some(Bytes::from(payload)),
            headers: Vec::new(),
            timestamp_ms: None,
        };
        self.outbox.push(&OutboxTarget::Topic { name: receipts_topic(view) }, record)
    }
}

fn reason(mover: Mover) -> &'static str {
    match mover {
        Mover::Records => "watermark",
        Mover::Clock => "idle",
        Mover::End => "end",
    }
}

/// First and last offset of each partition, as JSON text.
fn offsets(receipt: &Receipt) -> Result<String> {
    to_json(&receipt.from.offsets)
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::internal(format!("a receipt has no JSON form: {e}")))
}

/// A receipt as its topic has it.
#[derive(Debug, Serialize)]
struct Text<'a> {
    view: &'a str,
    /// [`QUERY_NUMBER`].
    query_number: Option<u64>,
    window_start: String,
    window_end: String,
    reason: &'static str,
    watermark: Option<String>,
    rows_in: u64,
    on_time: u64,
    behind: u64,
    rows_out: u64,
    late: u64,
    dead: u64,
    duplicates: u64,
    offsets: String,
    epoch: u64,
    at: String,
}
