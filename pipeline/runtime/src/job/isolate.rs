//! Who is at fault leaves: queries that fail, or whose table, topic or file refuses what goes
//! there, move with all that read them into a job of their own, from the last commit on; the job
//! goes on without them.
//!
//! Which queries: those blamed and those that read them, each tree of them into one job. If that
//! is all of a job, its oldest tree stays; a job that is one tree has nobody to protect from it,
//! so it is tried again and parked. Blame may be too wide (work that several queries share): who
//! left without fault runs on in its own job.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_connectors::{
    sinks::{self, delta},
    store::Store,
};
use tidemill_contract::{Error, ErrorKind, Result, Split};
use tidemill_sql::{
    catalog::{RegisteredQuery, Target},
    parse::Late,
};

use super::{
    ALERTS_TOPIC, JobConfig, JobEnvironment, blame::Legacy, position::first_progress,
    receipts::receipts_topic, revise::revisions_topic,
};
use crate::{
    assignment::{own_job, with_inputs},
    delivery::Place,
    recover::Claimant,
    split::{self, Parting},
};

/// Tries before a place that does not answer counts as one that refuses.
const UNAVAILABLE_TRIES: u32 = 4;

/// Moves those at fault out of the job, if that leaves somebody in it: true, and `config` is
/// without them.
pub(super) fn isolate(
    environment: &JobEnvironment,
    config: &mut JobConfig,
    legacy: &Legacy,
    claimant: &Claimant,
    (error, tries): (&Error, u32),
) -> Result<bool> {
    if let Some(commit) = legacy.parted.take() {
        let finished = split::finish_all(&environment.store, &environment.writer, &commit);
        environment.executor.block_on(Box::pin(finished))?;
        leave(environment, config, &commit.splits);
        return Ok(true);
    }
    let (mut queries, places) = legacy.blame.take();
    let is_unclear = error.kind == ErrorKind::Unavailable;
    if error.kind == ErrorKind::Fenced || (is_unclear && tries < UNAVAILABLE_TRIES) {
        return Ok(false);
    }
    for place in places {
        let owners = owners(config, &place);
        if owners.is_empty() && !is_of_job(config, &place) {
            tracing::warn!(job = %config.name, ?place, %error, "nobody owns this place any more: what was to go there is left out");
            config.left_out.insert(place.clone());
            return Ok(true);
        }
        queries.extend(owners);
    }
    let splits = plan(config, &queries);
    if splits.is_empty() {
        return Ok(false);
    }
    if is_unclear && !still_refuse(environment, config, &splits) {
        return Ok(false);
    }
    part(environment, config, legacy, claimant, splits)?;
    Ok(true)
}

/// Makes the parting true and takes it over.
fn part(
    environment: &JobEnvironment,
    config: &mut JobConfig,
    legacy: &Legacy,
    claimant: &Claimant,
    splits: BTreeMap<String, Split>,
) -> Result<()> {
    let leaving: BTreeSet<String> =
        splits.values().flat_map(|split| split.queries.keys().cloned()).collect();
    let executor = environment.executor.clone();
    let start = match legacy.start.take() {
        Some(start) => start,
        None => executor.block_on(Box::pin(first_progress(config)))?,
    };
    let mut staying = config.outputs.clone();
    staying.retain(|name, _| !leaving.contains(name));
    let parting = Parting {
        job: &config.name,
        writer: &environment.writer,
        claimant,
        catalog_version: config.catalog_version,
        start,
        staying: &staying,
        splits: &splits,
        left_out: &config.left_out,
    };
    let parted = split::begin(&environment.store, &environment.log, parting);
    executor.block_on(Box::pin(parted))?;
    leave(environment, config, &splits);
    Ok(())
}

/// The job goes on without the queries that left.
fn leave(environment: &JobEnvironment, config: &mut JobConfig, splits: &BTreeMap<String, Split>) {
    for (job, split) in splits {
        let queries: Vec<&str> = split.queries.keys().map(String::as_str).collect();
        tracing::warn!(from = %config.name, %job, ?queries, "queries moved into a job of their own");
    }
    let left = |name: &String| splits.values().any(|split| split.queries.contains_key(name));
    config.outputs.retain(|name, _| !left(name));
    config.queries = with_inputs(&config.catalog, config.outputs.keys());
    config.alerts.retain(|alert| config.outputs.contains_key(&alert.spec.view));
    environment.board.update_job(&config.name, |status| {
        "starting".clone_into(&mut status.state);
        status.queries = config.outputs.keys().cloned().collect();
        status.counters.retain(|name, _| config.outputs.contains_key(name));
    });
    environment.parted.notify_one();
}

/// The trees of queries that leave, by the job they go to; empty if nobody would stay.
fn plan(config: &JobConfig, blamed: &BTreeSet<String>) -> BTreeMap<String, Split> {
    let mut trees: BTreeMap<u64, BTreeMap<String, u64>> = BTreeMap::new();
    let mut affected = 0;
    for (name, number) in &config.outputs {
        let line = line_of(config, name);
        if !line.iter().any(|ancestor| blamed.contains(*ancestor)) {
            continue;
        }
        affected += 1;
        // The oldest of its line that leaves with it; one that is not blamed stays.
        let first_blamed = line.iter().rposition(|ancestor| blamed.contains(*ancestor));
        let mut leaving = line.iter().take(first_blamed.map_or(0, |index| index + 1)).rev();
        let root = leaving.find_map(|ancestor| config.outputs.get(*ancestor)).unwrap_or(number);
        trees.entry(*root).or_default().insert(name.clone(), *number);
    }
    if affected == config.outputs.len() {
        // The oldest stays: numbers are those of the CREATE statements.
        trees.pop_first();
    }
    let leaving: BTreeSet<&String> = trees.values().flat_map(BTreeMap::keys).collect();
    let staying = config.outputs.keys().filter(|name| !leaving.contains(name));
    let mut taken: BTreeSet<Place> = staying.flat_map(|name| places_of(config, name)).collect();
    let mut splits = BTreeMap::new();
    for (number, queries) in trees {
        let mut split = Split { queries, ..Split::default() };
        for place in split.queries.keys().flat_map(|name| places_of(config, name)) {
            // A topic that several write to: its records go with the first of them.
            if taken.insert(place.clone()) {
                match place {
                    Place::Table(view) => split.tables.insert(view),
                    Place::Topic(topic) => split.topics.insert(topic),
                    Place::File(sink) => split.file_sinks.insert(sink),
                };
            }
        }
        splits.insert(own_job(&config.source.name, number), split);
    }
    splits
}

/// A query, what it reads, what that reads, and so on.
fn line_of<'a>(config: &'a JobConfig, name: &'a str) -> Vec<&'a str> {
    let mut line = vec![name];
    while let Some(input) = line
        .last()
        .and_then(|name| config.catalog.query(name))
        .and_then(|query| query.inputs.first())
        .filter(|input| **input != config.source.name)
    {
        line.push(input);
    }
    line
}

/// Where a query's rows go, and those that are kept for it alone.
fn places_of(config: &JobConfig, name: &str) -> Vec<Place> {
    let Some(RegisteredQuery { target, late, plan, .. }) = config.catalog.query(name) else {
        return Vec::new();
    };
    let place = match target {
        Target::View => Some(Place::Table(name.to_owned())),
        Target::Sink(spec) => match sinks::delivery(spec) {
            Ok(sinks::Delivery::Topic) => {
                spec.options.get("topic").map(|topic| Place::Topic(topic.to_owned()))
            }
            Ok(sinks::Delivery::File) => Some(Place::File(name.to_owned())),
            Err(_) => None,
        },
    };
    let is_windowed = matches!(target, Target::View) && plan.window.is_some();
    let receipts = is_windowed.then(|| Place::Topic(receipts_topic(name)));
    let topic = match late {
        Late::To(topic) => Some(topic.clone()),
        Late::Revise(_) => Some(revisions_topic(name)),
        Late::Keep | Late::Drop => None,
    };
    place.into_iter().chain(receipts).chain(topic.map(Place::Topic)).collect()
}

/// The queries of this job that write to a place.
fn owners(config: &JobConfig, place: &Place) -> Vec<String> {
    let writes = |name: &&String| places_of(config, name).contains(place);
    config.outputs.keys().filter(writes).cloned().collect()
}

/// A place that the job itself writes to, whatever its queries.
fn is_of_job(config: &JobConfig, place: &Place) -> bool {
    let Place::Topic(topic) = place else { return false };
    let source = &config.source.name;
    *topic == ALERTS_TOPIC
        || *topic == format!("{source}.dead")
        || *topic == format!("{source}.late")
}

/// The bucket answers, and some table that leaves still does not. Files do not depend on it.
fn still_refuse(
    environment: &JobEnvironment,
    config: &JobConfig,
    splits: &BTreeMap<String, Split>,
) -> bool {
    if splits.values().any(|split| !split.file_sinks.is_empty()) {
        return true;
    }
    let store = Store::clone(&environment.store);
    let views = splits.values().flat_map(|split| &split.tables);
    let mut views = views.filter_map(|view| config.catalog.query(view));
    views.any(|view| {
        let look = delta::create_if_missing(&store, &view.name, &view.schema);
        environment.executor.block_on(Box::pin(look)).is_err()
    })
}
