//! The whole of a dead row of which only a part was kept: from the source's topic, or from the
//! unit the feed read it from. Bytes that are not those the row was made of are refused.

use std::{collections::BTreeMap, collections::BTreeSet, time::Duration};

use bytes::Bytes;
use tidemill_connectors::{log::kafka::KafkaLog, sources};
use tidemill_contract::{Result, SourceSpec};

use super::row::DeadRow;
use crate::quarantine::{OWN_HEADERS, dead_id};

/// How long a source may take to come to the unit.
const UNIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A row as it came.
#[derive(Debug, Clone)]
pub(super) struct Original {
    pub(super) payload: Bytes,
    pub(super) key: Option<Bytes>,
    pub(super) headers: Vec<(String, Bytes)>,
}

/// Why there is none.
pub(super) type Gone = String;

/// The whole row.
pub(super) async fn fetch(
    row: &DeadRow,
    spec: &SourceSpec,
    log: &KafkaLog,
) -> Result<Original, Gone> {
    let found = match (&row.unit, row.row, row.partition, row.offset) {
        (Some(unit), Some(number), ..) => {
            let read = from_unit(spec, unit, number);
            tokio::time::timeout(UNIT_TIMEOUT, read)
                .await
                .map_err(|_| format!("'{unit}' was not found in {UNIT_TIMEOUT:?}"))?
        }
        (_, _, Some(partition), Some(offset)) => from_topic(spec, log, partition, offset).await,
        _ => Err("its place is not known".to_owned()),
    }?;
    let id = dead_id(&row.source, &row.place(), &found.payload);
    if id == row.id {
        return Ok(found);
    }
    Err(format!("{} holds another record now", row.place_text()))
}

async fn from_topic(
    spec: &SourceSpec,
    log: &KafkaLog,
    partition: i32,
    offset: i64,
) -> Result<Original, Gone> {
    let topic = spec.topic();
    let (from, to) = (BTreeMap::from([(partition, offset)]), [(partition, offset + 1)].into());
    let read = log.read_range(topic, &from, &to).await.map_err(|error| error.to_string())?;
    let found = read.into_iter().find(|(_, record)| record.offset == offset);
    let Some((_, record)) = found else {
        return Err(format!("record {offset} of partition {partition} is gone from '{topic}'"));
    };
    let headers = record.headers.into_iter().filter(|(name, _)| !name.starts_with(OWN_HEADERS));
    Ok(Original {
        payload: record.payload.unwrap_or_default(),
        key: record.key,
        headers: headers.collect(),
    })
}

async fn from_unit(spec: &SourceSpec, wanted: &str, number: u64) -> Result<Original, Gone> {
    let gone = || format!("row {number} of '{wanted}' is gone");
    let opened = sources::open(spec, BTreeSet::new()).map_err(|error| error.to_string())?;
    let Some(mut source) = opened else { return Err(gone()) };
    loop {
        let unit = source.next_unit().await.map_err(|error| error.to_string())?;
        match unit {
            None => return Err(gone()),
            Some(unit) if unit == wanted => break,
            Some(_) => {}
        }
    }
    loop {
        let rows = source.next_rows().await.map_err(|error| error.to_string())?;
        if rows.is_empty() {
            return Err(gone());
        }
        if let Some(row) = rows.into_iter().find(|row| row.row == number) {
            let payload = row.payload.unwrap_or_else(|fault| fault.raw);
            return Ok(Original { payload, key: row.key, headers: Vec::new() });
        }
    }
}
