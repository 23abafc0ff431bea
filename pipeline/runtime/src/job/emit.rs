//! Where emissions go: a view's rows to its buffer and its alerts, a sink's rows to the outbox.

use std::collections::BTreeMap;

use tidemill_connectors::failpoint;
use tidemill_contract::{AlertEvent, Emission, EmissionKind, Error, Result, Watermark, metric};

use super::{ALERTS_TOPIC, revise::RevisedWindow, run::Run};
use crate::outbox::{OutboxRecord, OutboxTarget};

impl Run<'_> {
    /// Takes the emissions of one call to the operators.
    pub(super) fn emit(&mut self, emissions: Vec<Emission>) -> Result<()> {
        let blame = self.blame;
        let mut revised: BTreeMap<String, Vec<RevisedWindow>> = BTreeMap::new();
        for emission in emissions {
            if self.counts(&emission.query) {
                self.dirty = true;
                let query = emission.query.clone();
                if let Some(windows) = blame.during(&query, || self.emit_one(emission))? {
                    revised.entry(query).or_default().push(windows);
                }
            }
        }
        for (view, windows) in revised {
            blame.during(&view, || self.tables.revise(&view, &windows))?;
        }
        Ok(())
    }

    /// What is to be replaced, if it is a revision.
    fn emit_one(&mut self, emission: Emission) -> Result<Option<RevisedWindow>> {
        failpoint::reached("ingest.emitted")?;
        if let Some(sink) = self.sinks.get(&emission.query) {
            let epoch = self.ledger.next_epoch();
            let (outbox, lengths) = (&mut self.outbox, &mut self.file_bytes);
            sink.write(&emission.rows, &self.config.name, epoch, outbox, lengths)?;
            return Ok(None);
        }
        let mut events = Vec::new();
        for alert in self.alerts.values_mut() {
            events.extend(alert.on_emission(&emission)?);
        }
        self.announce(&events)?;
        if matches!(emission.kind, EmissionKind::Final) {
            self.tables.push(&emission.query, emission.rows)?;
            return Ok(None);
        }
        self.keep_revision(&emission)?;
        RevisedWindow::of(emission).map(Some)
    }

    /// All windows up to `watermark` have been emitted: what an alert waited for did not come.
    pub(super) fn advance_alerts(&mut self, watermark: Watermark) -> Result<()> {
        let mut events = Vec::new();
        for alert in self.alerts.values_mut() {
            events.extend(alert.advance(watermark));
        }
        self.announce(&events)
    }

    /// The query's results are this job's to publish.
    pub(super) fn counts(&self, query: &str) -> bool {
        self.config.outputs.contains_key(query) && !self.muted.contains(query)
    }

    fn announce(&mut self, events: &[AlertEvent]) -> Result<()> {
        let target = OutboxTarget::Topic { name: ALERTS_TOPIC.to_owned() };
        for event in events {
            (self.dirty, self.has_alerts) = (true, true);
            let payload = serde_json::to_vec(event)
                .map_err(|e| Error::internal(format!("an alert event has no JSON form: {e}")))?;
            let record = OutboxRecord {
                id: event.id.clone(),
                key: Some(event.partitionkey.clone().into()),
                payload: Some(payload.into()),
                headers: vec![("content-type".to_owned(), "application/cloudevents+json".into())],
                timestamp_ms: None,
            };
            self.outbox.push(&target, record)?;
            count(event);
        }
        Ok(())
    }
}

fn count(event: &AlertEvent) {
    let alert = event.source.rsplit('/').next().unwrap_or_default().to_owned();
    let status = event.event_type.rsplit('.').next().unwrap_or_default().to_owned();
    metrics::counter!(metric::ALERTS, "alert" => alert, "status" => status).increment(1);
}
