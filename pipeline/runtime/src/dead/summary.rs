//! `SHOW DEAD`: how many dead rows there are of each stage and class, and one of each to look at.

use std::collections::BTreeMap;

use tidemill_connectors::{log::kafka::KafkaLog, store::Store};
use tidemill_contract::Result;

use super::{
    Book,
    pages::{Copies, Pages},
    row::DeadRow,
    topic,
};

/// The dead rows of one source, stage and class.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) source: String,
    pub(crate) stage: String,
    pub(crate) class: String,
    pub(crate) rows: u64,
    /// Those of them that were submitted again.
    pub(crate) replayed: u64,
    pub(crate) first_at: String,
    pub(crate) last_at: String,
    /// Place and reason of the newest.
    pub(crate) example: String,
}

/// The groups of a source, the largest first.
pub(crate) async fn summary(log: &KafkaLog, store: &Store, source: &str) -> Result<Vec<Group>> {
    let book = Book::load(store, source).await?;
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    let mut pages = Pages::open(log, &topic(source), &BTreeMap::new()).await?;
    let mut copies = Copies::default();
    while let Some(page) = pages.next().await? {
        for (_, record) in page {
            if copies.is_copy(&record) {
                continue;
            }
            let row = DeadRow::read(source, &record.payload.unwrap_or_default())?;
            let key = (row.stage.clone(), row.class.clone());
            add(groups.entry(key).or_default(), source, &row, &book);
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.class.cmp(&b.class)));
    Ok(groups)
}

fn add(group: &mut Group, source: &str, row: &DeadRow, book: &Book) {
    if group.rows == 0 {
        source.clone_into(&mut group.source);
        group.stage.clone_from(&row.stage);
        group.class.clone_from(&row.class);
        group.first_at.clone_from(&row.at);
    }
    group.rows += 1;
    group.replayed += u64::from(book.times(&row.id) > 0);
    // The times are of one form, so that they compare as text.
    if row.at < group.first_at {
        group.first_at.clone_from(&row.at);
    }
    if row.at >= group.last_at {
        group.last_at.clone_from(&row.at);
        group.example = format!("{}: {}", row.place_text(), row.reason);
    }
}
