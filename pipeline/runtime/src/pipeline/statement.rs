//! Statements: checked against the connectors, registered, applied to what runs.

use std::{collections::BTreeMap, sync::Arc};

use tidemill_connectors::{sinks, sources, store::Store};
use tidemill_contract::{Error, Result, SinkSpec};
use tidemill_sql::{
    catalog::{Applied, Catalog},
    parse::{ObjectKind, Parsed, Recover, RecoverPoint, Statement, parse_script},
};

use super::{Pipeline, State, StatementResult, show, stall};
use crate::{
    breaker::Breaker,
    dead::Mode,
    job::{self, RecoverFrom},
    query::{self, Scope},
    watermark::TimeSettings,
};

impl Pipeline {
    /// Runs the statements of a script in order, up to the first that fails. Before
    /// [`Pipeline::start`] they are only registered; after it they take effect at once.
    ///
    /// # Errors
    /// The first error; its span is a byte range of `script`.
    pub async fn execute(&self, script: &str) -> Result<Vec<StatementResult>> {
        let mut results = Vec::new();
        for parsed in parse_script(script)? {
            results.push(Box::pin(self.execute_one(&parsed)).await?);
        }
        Ok(results)
    }

    async fn execute_one(&self, parsed: &Parsed) -> Result<StatementResult> {
        match &parsed.statement {
            Statement::Select(select) => {
                let probes = self.probes().await;
                let scope = Scope {
                    catalog: self.catalog().await,
                    created: self.created().await,
                    store: Store::clone(&self.store),
                    log: self.log.clone(),
                    verified: Arc::clone(&self.verified),
                    probe: Arc::new(probes),
                    memory: Arc::clone(&self.memory),
                    workers: self.workers.handle(),
                    timeout: self.settings.query_timeout,
                };
                query::select(&scope, select).await
            }
            Statement::Show(kind) => show::show(*kind, &*self.catalog().await, &self.status()),
            Statement::ShowDead(show) => Box::pin(self.show_dead(show)).await,
            Statement::ReplayDead(replay) => Box::pin(self.replay(replay, Mode::Submit)).await,
            Statement::Describe(name) => show::describe(&*self.catalog().await, name),
            Statement::ExplainStall(view) => self.explain_stall(view).await,
            Statement::Explain(inner) if let Statement::ReplayDead(replay) = inner.as_ref() => {
                Box::pin(self.replay(replay, Mode::Count)).await
            }
            Statement::Explain(inner) => show::explain(&*self.catalog().await, inner),
            Statement::Recover(recover) => {
                // Checked only: what is accepted stands in the commits, not in the catalog.
                Catalog::clone(&*self.catalog().await).apply(parsed)?;
                self.recover(recover).await
            }
            _ => self.register(parsed).await,
        }
    }

    /// Accepts a loss of log data.
    async fn recover(&self, recover: &Recover) -> Result<StatementResult> {
        let state = self.state.lock().await;
        let name = &recover.source;
        let Some(supervisor) = &state.supervisor else {
            return Err(Error::invalid("TM604", "the pipeline is not running")
                .because("a loss is accepted by the job that has it")
                .help("start it first"));
        };
        let from = match recover.from {
            RecoverPoint::Earliest => RecoverFrom::Earliest,
            RecoverPoint::Latest => RecoverFrom::Latest,
        };
        let accepted = supervisor.recover(name, from).await?;
        Ok(StatementResult::Done { message: show::accepted(name, &accepted) })
    }

    async fn register(&self, parsed: &Parsed) -> Result<StatementResult> {
        let mut state = self.state.lock().await;
        check(&state.catalog.registry.catalog, &parsed.statement)?;
        // Before the catalog forgets what an alert or a query was.
        let applied = state.catalog.register(parsed).await?;
        if let (Applied::Unchanged, Statement::Resume(name)) = (&applied, &parsed.statement) {
            return self.unpark(&mut state, name).await;
        }
        let message = self.apply(&mut state, &applied).await?;
        Ok(StatementResult::Done { message })
    }

    /// `RESUME` of what is not paused: a parked job tries again.
    async fn unpark(&self, state: &mut State, name: &str) -> Result<StatementResult> {
        let registry = state.catalog.registry.clone();
        let insert = format!("{name}$insert");
        let query = if registry.catalog.query(name).is_some() { name } else { &insert };
        let is_parked = match &mut state.supervisor {
            Some(supervisor) => Box::pin(supervisor.unpark(&registry, query)).await?,
            None => false,
        };
        let message = if is_parked {
            format!("'{name}' tries again from its last commit")
        } else {
            message(&Applied::Unchanged)
        };
        Ok(StatementResult::Done { message })
    }

    /// Brings a change of the catalog to what runs.
    async fn apply(&self, state: &mut State, applied: &Applied) -> Result<String> {
        let registry = state.catalog.registry.clone();
        let Some(supervisor) = &mut state.supervisor else {
            return self.apply_to_the_bucket(applied).await;
        };
        match applied {
            Applied::Created { kind: ObjectKind::View | ObjectKind::Sink, name } => {
                Box::pin(supervisor.add_query(&registry, name)).await?;
            }
            Applied::Created { kind: ObjectKind::Alert, name } => {
                if let Some(alert) = registry.catalog.alerts().get(name) {
                    supervisor.add_alert(alert).await?;
                }
            }
            Applied::Dropped { kind: ObjectKind::View | ObjectKind::Sink, name } => {
                supervisor.drop_query(name).await?;
            }
            Applied::Dropped { kind: ObjectKind::Source, name } => {
                supervisor.drop_source(name).await?;
            }
            Applied::Dropped { kind: ObjectKind::Alert, name } => {
                supervisor.drop_alert(name).await?;
            }
            Applied::Paused(name) | Applied::Resumed(name) => {
                let paused = matches!(applied, Applied::Paused(_));
                let together = supervisor.set_paused(name, paused).await?;
                return Ok(paused_message(applied, &together));
            }
            Applied::Created { kind: ObjectKind::Source, .. } | Applied::Unchanged => {}
        }
        Ok(message(applied))
    }

    /// Nothing runs: only what a dropped object left in the bucket has to go.
    async fn apply_to_the_bucket(&self, applied: &Applied) -> Result<String> {
        let mut idle = crate::supervisor::Supervisor::new(self.environment());
        match applied {
            Applied::Dropped { kind: ObjectKind::View | ObjectKind::Sink, name } => {
                idle.drop_query(name).await?;
            }
            Applied::Dropped { kind: ObjectKind::Source, name } => idle.drop_source(name).await?,
            _ => {}
        }
        Ok(message(applied))
    }

    async fn explain_stall(&self, name: &str) -> Result<StatementResult> {
        let catalog = self.catalog().await;
        let Some(query) = catalog.query(name) else {
            return Err(query::unknown(&catalog, name));
        };
        let Some(source) = catalog.source(&query.root_source) else {
            return Err(Error::internal(format!("query '{name}' has no source")));
        };
        let probe = self.probes().await(name)?;
        let stall = probe.stall(name).await;
        stall::explain(name, source, stall)
    }

    pub(super) async fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.state.lock().await.catalog.registry.catalog)
    }

    async fn created(&self) -> BTreeMap<String, u64> {
        self.state.lock().await.catalog.registry.created.clone()
    }

    /// Whom to ask for each view, as of now.
    async fn probes(&self) -> impl Fn(&str) -> Result<job::JobProbe> + use<> {
        let state = self.state.lock().await;
        let probes = state.supervisor.as_ref().map(crate::supervisor::Supervisor::probes);
        move |view: &str| {
            let Some(probes) = &probes else {
                return Err(Error::invalid("TM604", "the pipeline is not running")
                    .because("the rows of a view are with its job")
                    .help("start it first"));
            };
            probes
                .get(view)
                .cloned()
                .ok_or_else(|| Error::internal(format!("no job runs '{view}'")))
        }
    }
}

/// What only the connectors can say about a declaration.
fn check(catalog: &Catalog, statement: &Statement) -> Result<()> {
    match statement {
        Statement::CreateSource(create) => {
            // A table that is only written to is a sink in disguise: either must take it.
            let sink =
                SinkSpec { name: create.spec.name.clone(), options: create.spec.options.clone() };
            match sources::validate(&create.spec) {
                Ok(()) => {
                    crate::feed::topic_partitions(&create.spec)?;
                    Breaker::of_source(&create.spec)?;
                    job::unattended(&create.spec)?;
                    TimeSettings::of_source(&create.spec, false).map(|_| ())
                }
                Err(error) => sinks::validate(&sink).map_err(|_| error),
            }
        }
        Statement::CreateSink(create) => sinks::validate(&create.spec),
        Statement::InsertInto(insert) => match catalog.source(&insert.table) {
            Some(table) => sinks::delivery(&SinkSpec {
                name: table.name.clone(),
                options: table.options.clone(),
            })
            .map(|_| ()),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn message(applied: &Applied) -> String {
    match applied {
        Applied::Created { kind, name } => format!("{kind} '{name}' created"),
        Applied::Dropped { kind, name } => format!("{kind} '{name}' dropped"),
        Applied::Paused(name) => format!("'{name}' paused"),
        Applied::Resumed(name) => format!("'{name}' resumed"),
        Applied::Unchanged => "nothing to do".to_owned(),
    }
}

fn paused_message(applied: &Applied, together: &[String]) -> String {
    let message = message(applied);
    match together {
        [] | [_] => message,
        _ => format!("{message}; one job runs {}, so they wait together", together.join(", ")),
    }
}
