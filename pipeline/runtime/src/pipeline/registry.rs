//! The catalog as this process knows it: the log of statements, replayed.
//!
//! A statement is checked on a copy, appended to the log, and only then taken over, so that what
//! is in the log always applies again.

use std::sync::Arc;

use tidemill_connectors::store::Store;
use tidemill_contract::{Clock, Error, ErrorKind, Result, SystemClock};
use tidemill_sql::{
    catalog::{Applied, Catalog},
    parse::{ObjectKind, Parsed, parse_script},
};

use crate::{
    catalog_log::{self, CatalogLog},
    supervisor::Registry,
};

/// Tries to register while others register at the same time.
const TRIES_MAX: u32 = 5;

#[derive(Debug)]
pub(super) struct CatalogState {
    log: CatalogLog,
    pub(super) registry: Registry,
}

impl CatalogState {
    /// Reads and replays the log.
    pub(super) async fn open(store: Store, writer: String) -> Result<Self> {
        let (log, entries) = CatalogLog::open(store, writer).await?;
        let mut state = Self { log, registry: Registry::default() };
        for entry in entries {
            state.replay(&entry.statement, entry.seq)?;
        }
        Ok(state)
    }

    fn replay(&mut self, text: &str, number: u64) -> Result<()> {
        let damaged = |error: Error| catalog_log::refused(number, &error);
        for parsed in parse_script(text).map_err(damaged)? {
            let mut catalog = Catalog::clone(&self.registry.catalog);
            let applied = catalog.apply(&parsed).map_err(damaged)?;
            self.take(catalog, &applied, number);
        }
        Ok(())
    }

    /// Registers a statement: checked, logged, taken over.
    pub(super) async fn register(&mut self, parsed: &Parsed) -> Result<Applied> {
        let mut tries = 1;
        loop {
            let mut catalog = Catalog::clone(&self.registry.catalog);
            let applied = catalog.apply(parsed)?;
            if applied == Applied::Unchanged {
                return Ok(applied);
            }
            match self.log.append(&parsed.text, SystemClock.now_micros()).await {
                Ok(entry) => {
                    self.take(catalog, &applied, entry.seq);
                    return Ok(applied);
                }
                Err(error) if error.kind == ErrorKind::Conflict && tries < TRIES_MAX => {
                    tries += 1;
                    for entry in self.log.refresh().await? {
                        self.replay(&entry.statement, entry.seq)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, catalog: Catalog, applied: &Applied, number: u64) {
        let created = &mut self.registry.created;
        match applied {
            Applied::Created { kind: ObjectKind::View | ObjectKind::Sink, name } => {
                created.insert(name.clone(), number);
            }
            Applied::Dropped { name, .. } => {
                created.remove(name);
            }
            _ => {}
        }
        self.registry.catalog = Arc::new(catalog);
        self.registry.version = number;
    }
}
