//! What a `LATE` clause demands of the catalog: a name that is free, a view with windows, and for
//! `REVISE` a view whose rows tell their window and that nothing reads on.

use tidemill_contract::{Error, ErrorKind, Options, Result};

use super::Catalog;
use crate::parse::{Late, LateClause};
use crate::plan::QueryPlan;

/// The option that names a topic.
const TOPIC: &str = "topic";
/// The topic of alert events.
const ALERTS: &str = "alerts";
/// Windows that one late row may reopen: each is computed twice for it.
const OVERLAP_MAX: i64 = 1_000;

impl Catalog {
    /// The view whose late rows go to the relation of this name.
    pub fn late_relation(&self, name: &str) -> Option<&str> {
        let owner = self.views().find(|view| matches!(&view.late, Late::To(to) if to == name));
        owner.map(|view| view.name.as_str())
    }

    /// Names of relations of late rows, each with its view.
    pub fn late_relations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.views().filter_map(|view| match &view.late {
            Late::To(name) => Some((name.as_str(), view.name.as_str())),
            _ => None,
        })
    }

    /// Refuses the name of a relation of late rows for an object.
    pub(super) fn check_late_name(&self, name: &str) -> Result<()> {
        let Some(view) = self.late_relation(name) else { return Ok(()) };
        Err(Error::new(ErrorKind::Conflict, "TM300", format!("'{name}' exists already"))
            .because(format!("it holds the late rows of view '{view}'"))
            .help("choose another name"))
    }

    /// Refuses a topic that late rows go to for a source or sink.
    pub(super) fn check_topic(&self, options: &Options) -> Result<()> {
        let Some(topic) = options.get(TOPIC) else { return Ok(()) };
        let Some(view) = self.late_relation(topic) else { return Ok(()) };
        let what = format!("topic '{topic}' is taken");
        Err(Error::new(ErrorKind::Conflict, "TM300", what)
            .at(options.span(TOPIC))
            .because(format!("the late rows of view '{view}' go there"))
            .help("choose another topic"))
    }

    /// Checks a query's place among the others as far as late rows matter.
    pub(super) fn check_late(
        &self,
        name: &str,
        plan: &QueryPlan,
        clause: &LateClause,
    ) -> Result<()> {
        if let Some(input) = self.query(&plan.input)
            && matches!(input.late, Late::Revise(_))
        {
            let what = format!("'{name}' cannot read view '{}', which has LATE REVISE", plan.input);
            return Err(Error::invalid("TM304", what)
                .because("what was computed from its rows could not be taken back")
                .help(format!(
                    "compute it from '{}' in one query, or read the view with an ad-hoc SELECT",
                    input.root_source
                )));
        }
        if clause.late == Late::Keep {
            return Ok(());
        }
        let Some(window) = &plan.window else {
            return Err(Error::invalid("TM230", format!("view '{name}' has no late rows"))
                .at(clause.span)
                .because("it has no windows: every row counts whenever it comes")
                .help("remove the LATE clause"));
        };
        match &clause.late {
            Late::To(to) => self.check_relation(name, to, clause),
            Late::Revise(_) if plan.window_columns.is_none() => {
                Err(Error::invalid("TM231", format!("view '{name}' cannot be revised"))
                    .at(clause.span)
                    .because("its rows do not tell which window they are of")
                    .help("add window_start and window_end to the SELECT"))
            }
            Late::Revise(_) if window.overlap() > OVERLAP_MAX => {
                Err(Error::invalid("TM231", format!("view '{name}' cannot be revised"))
                    .at(clause.span)
                    .because(format!("one late row would reopen {} windows", window.overlap()))
                    .help(format!("let at most {OVERLAP_MAX} windows overlap")))
            }
            _ => Ok(()),
        }
    }

    /// The name of a relation of late rows must be free, as an object and as a topic.
    fn check_relation(&self, view: &str, name: &str, clause: &LateClause) -> Result<()> {
        let topic_of = |options: &Options| options.get(TOPIC) == Some(name);
        let by_sources = self.sources.values().any(|source| source.topic() == name);
        let by_sinks = self.sinks().any(|query| match &query.target {
            super::Target::Sink(spec) => topic_of(&spec.options),
            super::Target::View => false,
        });
        let taken = name == view
            || name == ALERTS
            || by_sources
            || by_sinks
            || self.kind_of(name).is_some()
            || self.late_relation(name).is_some();
        if !taken {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "TM300", format!("'{name}' exists already"))
            .at(clause.span)
            .because("late rows go to a topic and a relation of their own")
            .help("choose another name"))
    }
}
