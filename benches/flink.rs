//! Benchmark flink: the query of benchmark a, tumbling and hopping, by Tidemill and by Flink SQL on
//! the same topics of Apache Kafka, with results as Parquet files.
//!
//! Start it with `benches/flink/run`, which brings Kafka and Flink. Every round runs both programs
//! once on a small and once on a large topic, each in a process of its own on the same core, in
//! turn. The difference of the two, divided by the orders between them, is the marginal cost: a
//! JVM's start and compilation fall out of it. Every row of every answer is compared with the
//! generator's.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use tidemill_benches::beside::report::{Pair, Round, Sizes, table};
use tidemill_benches::beside::{Windows, flink, ours, windows};
use tidemill_benches::load::topic;
use tidemill_benches::{Digest, Measured, load, measure, role};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers by orders and windows.
type Answers = BTreeMap<(u64, Windows), Digest>;

fn main() -> Result<()> {
    let brokers = role::brokers().context("no brokers; start this with benches/flink/run")?;
    let Some(role) = role::current() else {
        return drive(&brokers);
    };
    let orders = role::number("TIDEMILL_BENCH_EVENTS", 0)?;
    let measured = match role.split_once('-') {
        Some(("tidemill", windows)) => ours::run(&brokers, orders, Windows::named(windows)?)?,
        Some(("flink", windows)) => flink::run(&brokers, &topic(orders), Windows::named(windows)?)?,
        _ => bail!("unknown role {role}"),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(())
}

fn drive(brokers: &str) -> Result<()> {
    let sizes = Sizes {
        small: role::number("TIDEMILL_BENCH_SMALL", 4_000_000)?,
        large: role::number("TIDEMILL_BENCH_LARGE", 12_000_000)?,
    };
    if sizes.small >= sizes.large {
        bail!("the large topic must be larger than the small one");
    }
    let rounds_wanted = role::number("TIDEMILL_BENCH_ROUNDS", 3)?;
    let chosen = std::env::var("TIDEMILL_BENCH_WINDOWS").unwrap_or("tumble,hop".to_string());
    let chosen: Vec<_> = chosen.split(',').map(|name| (name, Windows::named(name))).collect();
    let mut out = std::io::stdout();
    writeln!(out, "benchmark flink: {sizes:?}, {}", measure::machine()?)?;
    for (name, windows) in chosen {
        let answers = answers(brokers, sizes, windows?)?;
        writeln!(out, "{name}: {answers:?}")?;
        let mut rounds = Vec::new();
        for number in 1..=rounds_wanted {
            let (steal_before, all_before) = measure::steal_ticks()?;
            let round = Round {
                tidemill: pair("tidemill", name, brokers, sizes, &answers)?,
                flink: pair("flink", name, brokers, sizes, &answers)?,
            };
            let (steal, all) = measure::steal_ticks()?;
            let percent = (steal - steal_before) * 100 / (all - all_before).max(1);
            let (ours, theirs) = (line(round.tidemill), line(round.flink));
            writeln!(
                out,
                "{name} round {number}: steal {percent} %, tidemill {ours}, flink {theirs}"
            )?;
            rounds.push(round);
        }
        writeln!(out, "\n{}", table(&rounds, sizes))?;
    }
    Ok(())
}

/// Fills the topics if need be and works the answers out.
fn answers(brokers: &str, sizes: Sizes, windows: Windows) -> Result<Answers> {
    let mut answers = Answers::new();
    for orders in [sizes.small, sizes.large] {
        let filled = load::fill(brokers, orders)?;
        let answer = windows::answer(orders, windows)?;
        if windows == Windows::Tumble && answer != filled {
            bail!("two ways to the answer differ: {answer:?} and {filled:?}");
        }
        answers.insert((orders, windows), answer);
    }
    Ok(answers)
}

fn pair(
    program: &str,
    windows: &str,
    brokers: &str,
    sizes: Sizes,
    answers: &Answers,
) -> Result<Pair> {
    let one = |orders: u64| -> Result<Measured> {
        let role = format!("{program}-{windows}");
        let measured = role::run_on(&role, brokers, orders)?;
        let answer = answers.get(&(orders, Windows::named(windows)?)).copied();
        if measured.digest.is_none() || measured.digest != answer {
            bail!("{role} gives a wrong answer: {:?} instead of {answer:?}", measured.digest);
        }
        Ok(measured)
    };
    Ok(Pair { small: one(sizes.small)?, large: one(sizes.large)? })
}

fn line(pair: Pair) -> String {
    let shown = |run: Measured| {
        format!("cpu {} ms wall {} ms", run.cpu_ns / 1_000_000, run.wall_ns / 1_000_000)
    };
    format!("small {} large {}", shown(pair.small), shown(pair.large))
}
