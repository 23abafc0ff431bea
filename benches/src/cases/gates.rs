//! h, i, j, m: what must not cost much more than the usual: skewed keys, late rows, bad rows, many
//! partitions. The job is that of benchmark a.

use anyhow::{Result, bail};
use datafusion::common::HashMap;
use tidemill_runtime::Pipeline;

use crate::digest::{Cell, WINDOW_MS};
use crate::driver::{Answers, Case, Target};
use crate::engine::{Declared, sales, source_named};
use crate::load::Topic;
use crate::orders::{Flaw, Oddity, Order, Shape};
use crate::product::{self, Clock};
use crate::{Digest, Measured};

/// One stream compared with the usual one.
#[derive(Debug)]
pub(super) struct Gate {
    name: &'static str,
    title: &'static str,
    oddity: Oddity,
    partitions: i32,
    /// The usual stream and the other.
    programs: &'static [&'static str],
    targets: &'static [Target],
}

pub(super) const SKEW: Gate = Gate {
    name: "h",
    title: "products by Zipf's law (1.2) instead of evenly",
    oddity: Oddity::Skewed,
    partitions: 2,
    programs: &["even", "skewed"],
    targets: &[Target { program: "skewed", baseline: "even", most: 1.15 }],
};

pub(super) const LATE: Gate = Gate {
    name: "i",
    title: "1 % of the orders come minutes after their windows closed",
    oddity: Oddity::Late,
    partitions: 2,
    programs: &["in-time", "late"],
    targets: &[Target { program: "late", baseline: "in-time", most: 1.1 }],
};

pub(super) const BAD: Gate = Gate {
    name: "j",
    title: "1 % of the orders are broken: price null, cut JSON, wrong type, no time",
    oddity: Oddity::Bad,
    partitions: 2,
    programs: &["good", "bad"],
    targets: &[Target { program: "bad", baseline: "good", most: 1.1 }],
};

pub(super) const PARTITIONS: Gate = Gate {
    name: "m",
    title: "64 partitions instead of two",
    oddity: Oddity::None,
    partitions: 64,
    programs: &["2-partitions", "64-partitions"],
    targets: &[Target { program: "64-partitions", baseline: "2-partitions", most: 1.1 }],
};

impl Gate {
    fn topic(&self, program: &str, count: u64) -> Topic {
        if program == self.programs[0] {
            return Topic::usual(count);
        }
        let shape = Shape { oddity: self.oddity, ..Shape::default() };
        let mut topic = Topic::new(&format!("orders-{program}"), count, shape);
        topic.partitions = self.partitions;
        topic
    }
}

impl Case for Gate {
    fn name(&self) -> &'static str {
        self.name
    }
    fn title(&self) -> &'static str {
        self.title
    }
    fn programs(&self) -> &'static [&'static str] {
        self.programs
    }
    fn baselines(&self) -> &'static [&'static str] {
        &self.programs[..1]
    }
    fn targets(&self) -> &'static [Target] {
        self.targets
    }
    fn prepare(&self, brokers: &str, count: u64) -> Result<Answers> {
        let mut answers = Answers::new();
        for program in self.programs {
            let mut expected = Expected::default();
            self.topic(program, count).fill(brokers, |order| expected.add(order))?;
            answers.insert(program, expected.digest());
        }
        Ok(answers)
    }
    fn run(&self, program: &str, brokers: &str, count: u64) -> Result<Measured> {
        let topic = self.topic(program, count);
        // Quarantine and late rows of an earlier run stay in the broker under its name.
        let name = format!("orders_{}", std::process::id());
        let source = source_named(&name, &topic.name, Declared::Four);
        let scripts = [source, sales(&name)];
        let read = async |pipeline: &Pipeline| answer(pipeline, &name).await;
        product::run(brokers, &scripts, Clock::FromOpening, read)
    }
}

/// What is in the table, in quarantine and among the late rows, and what the job counted.
async fn answer(pipeline: &Pipeline, source: &str) -> Result<Digest> {
    let rows = "SELECT window_start, product_id, orders, revenue FROM sales".to_owned();
    let dead = format!("SELECT count(*) FROM \"{source}$dead\"");
    let late = format!("SELECT count(*) FROM \"{source}$late\"");
    let mut digest = product::rows(pipeline, &[rows, dead, late]).await?;
    let status = pipeline.status();
    let [job] = status.jobs.as_slice() else { bail!("{} jobs", status.jobs.len()) };
    let counted = [job.rows_in, job.rows_dead, job.rows_late];
    digest.row(3, &counted.map(|count| Cell::Number(count.into())));
    Ok(digest)
}

/// The right answer, kept in the simplest way.
#[derive(Debug, Default)]
struct Expected {
    orders: u64,
    dead: u64,
    late: u64,
    /// Per minute and product: orders, and cents of those with a price.
    groups: HashMap<(i64, u64), (u64, Option<u64>)>,
}

impl Expected {
    fn add(&mut self, order: &Order) {
        self.orders += 1;
        match order.flaw {
            Flaw::Late => self.late += 1,
            Flaw::Truncated | Flaw::WrongType | Flaw::NoTime => self.dead += 1,
            Flaw::None | Flaw::NullPrice => {
                let window = order.ordered_at_ms.div_euclid(WINDOW_MS) * WINDOW_MS;
                let (orders, cents) = self.groups.entry((window, order.product)).or_default();
                *orders += 1;
                if order.flaw == Flaw::None {
                    *cents = Some(cents.unwrap_or(0) + order.cents());
                }
            }
        }
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for ((window, product), (orders, cents)) in &self.groups {
            let product = format!("p-{product:05}");
            let revenue = cents.map_or(Cell::Null, |cents| Cell::Number(cents.into()));
            let (window, orders) = ((*window).into(), (*orders).into());
            let cells = [Cell::Number(window), Cell::Text(&product), Cell::Number(orders), revenue];
            digest.row(0, &cells);
        }
        digest.row(1, &[Cell::Number(self.dead.into())]);
        digest.row(2, &[Cell::Number(self.late.into())]);
        let counted = [self.orders, self.dead, self.late];
        digest.row(3, &counted.map(|count| Cell::Number(count.into())));
        digest
    }
}
