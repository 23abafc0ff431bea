//! A driver for the engine: random rows in partitions, shuffled within the watermark, in random
//! cuts, with a stop and a restore on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use tidemill_contract::{EventBatch, PartitionId, Watermark};
use tidemill_sql::catalog::Catalog;
use tidemill_sql::engine::Engine;
use tidemill_sql::parse::parse_script;

/// The source every property test reads.
pub(crate) const SOURCE: &str = "CREATE SOURCE s (
    id BIGINT, ts TIMESTAMP(6), k STRING, n INT, big BIGINT, price DECIMAL(12, 2), f DOUBLE, flag BOOLEAN,
    WATERMARK FOR ts AS ts - INTERVAL '30' SECOND
) WITH ('connector' = 'kafka')";

/// How far rows may be out of order, as declared above.
pub(crate) const DELAY: i64 = 30_000_000;

/// A small deterministic generator (SplitMix64; Steele et al., OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// A catalog with the source and the given statements.
pub(crate) fn catalog(statements: &[String]) -> Catalog {
    let mut catalog = Catalog::new();
    for statement in std::iter::once(SOURCE.to_owned()).chain(statements.iter().cloned()) {
        for parsed in parse_script(&statement).unwrap_or_else(|e| panic!("{e}\n{statement}")) {
            catalog.apply(&parsed).unwrap_or_else(|e| panic!("{e}\n{statement}"));
        }
    }
    catalog
}

/// How rows reach the engine.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    /// Number of partitions.
    pub(crate) partitions: usize,
    /// Seed of shuffling, cuts and interleaving.
    pub(crate) seed: u64,
    /// Stop and restore after this many pushes.
    pub(crate) restore_after: usize,
}

/// What came out: per query the rows in order of emission.
pub(crate) type Output = BTreeMap<String, Vec<RecordBatch>>;

/// Streams all rows through a new engine and returns everything emitted. Panics if a row is late.
pub(crate) fn run(catalog: &Catalog, rows: &RecordBatch, delivery: &Delivery) -> Output {
    let queries: Vec<String> = catalog.queries().keys().cloned().collect();
    let build = || Engine::build(catalog, "s", &queries).expect("the engine builds");
    let mut engine = build();
    let mut random = Random(delivery.seed);
    let mut lanes = lanes(rows, delivery.partitions, &mut random);
    let mut marks = vec![Watermark::MIN; lanes.len()];
    let mut output = Output::new();
    let mut stored = BTreeMap::new();
    let mut pushes = 0;
    while lanes.iter().any(|lane| !lane.is_empty()) {
        let lane = random.below(lanes.len() as u64) as usize;
        let count = (1 + random.below(40) as usize).min(lanes[lane].len());
        if count == 0 {
            marks[lane] = Watermark::MAX;
            continue;
        }
        let picked: Vec<u32> = lanes[lane].drain(..count).collect();
        let batch = event_batch(rows, &picked, lane);
        let newest = batch.event_time.as_ref().map_or(0, |t| t.iter().flatten().max().unwrap_or(0));
        let pushed = engine.push(&batch).expect("push");
        assert!(pushed.late.is_empty(), "no row is late: {:?}", pushed.late);
        collect(&mut output, pushed.emissions);
        marks[lane] = marks[lane].max(Watermark(newest - DELAY));
        let low = marks.iter().min().copied().unwrap_or(Watermark::MIN);
        collect(&mut output, engine.advance(low).expect("advance"));
        pushes += 1;
        if pushes == delivery.restore_after && delivery.seed.is_multiple_of(2) {
            let state = engine.snapshot().expect("snapshot");
            engine = build();
            engine.restore(&state).expect("restore");
            stored.clear();
        } else if delivery.seed % 2 == 1 && random.below(3) == 0 {
            let (blob, parts) = save(&mut engine, 1 + random.below(30) as usize, &mut stored);
            if pushes >= delivery.restore_after && random.below(4) == 0 {
                engine = build();
                let numbers = engine.restore_parts(&blob, &parts).expect("restore");
                // What was stored keeps its use under the new numbers.
                let known = numbers.into_iter().zip(parts);
                stored = known.filter_map(|(number, part)| Some((number?, part))).collect();
            }
        }
    }
    collect(&mut output, engine.advance(Watermark::MAX).expect("the end"));
    assert_eq!(engine.open_slices(), 0, "nothing stays open");
    for (query, counters) in engine.counters() {
        let accounted = counters.counted + counters.filtered + counters.late;
        assert_eq!(counters.rows_in, accounted, "conservation of {query}");
    }
    output
}

/// A snapshot with its parts; one that is stored already must be what it was.
fn save(
    engine: &mut Engine,
    part_rows: usize,
    stored: &mut BTreeMap<u64, Bytes>,
) -> (Vec<u8>, Vec<Bytes>) {
    let snapshot = engine.snapshot_parts(part_rows).expect("snapshot");
    let mut parts = Vec::new();
    for part in &snapshot.parts {
        let bytes = Bytes::from(part.encode().expect("encode"));
        let known = stored.entry(part.number).or_insert_with(|| bytes.clone());
        assert_eq!(decoded(known), decoded(&bytes), "part {} has changed", part.number);
        parts.push(bytes);
    }
    (snapshot.blob, parts)
}

fn decoded(part: &[u8]) -> Vec<RecordBatch> {
    let reader = arrow::ipc::reader::StreamReader::try_new(part, None).expect("a stream");
    reader.collect::<Result<_, _>>().expect("its batches")
}

fn collect(output: &mut Output, emissions: Vec<tidemill_contract::Emission>) {
    for emission in emissions {
        output.entry(emission.query).or_default().push(emission.rows);
    }
}

/// Row numbers per partition, each shuffled so that no row is behind its partition's watermark.
fn lanes(rows: &RecordBatch, partitions: usize, random: &mut Random) -> Vec<Vec<u32>> {
    let times = micros(rows);
    let mut lanes = vec![Vec::new(); partitions];
    for row in 0..rows.num_rows() as u32 {
        lanes[random.below(partitions as u64) as usize].push(row);
    }
    for lane in &mut lanes {
        // Sorted by time plus a jitter below the delay: no row follows one that is DELAY newer.
        let mut keyed: Vec<(i64, u32)> = lane
            .iter()
            .map(|row| (times[*row as usize] + random.below(DELAY as u64) as i64, *row))
            .collect();
        keyed.sort_unstable();
        *lane = keyed.into_iter().map(|(_, row)| row).collect();
    }
    lanes
}

pub(crate) fn micros(rows: &RecordBatch) -> Vec<i64> {
    let column = rows.column_by_name("ts").expect("a time column");
    let cast = arrow::compute::cast(column, &DataType::Int64).expect("a timestamp");
    cast.as_primitive::<Int64Type>().values().to_vec()
}

pub(crate) fn event_batch(rows: &RecordBatch, picked: &[u32], lane: usize) -> EventBatch {
    let indices = arrow::array::UInt32Array::from(picked.to_vec());
    let taken = take_record_batch(rows, &indices).expect("indices are in range");
    let times = micros(&taken);
    EventBatch {
        partition: PartitionId(lane as i32),
        record_index: (0..taken.num_rows() as u32).collect(),
        offsets: Vec::new(),
        rows: taken,
        event_time: Some(Int64Array::from(times)),
    }
}

/// Random rows of the source; `span` is the length of time they cover, in microseconds.
pub(crate) fn random_rows(seed: u64, count: usize, start: i64, span: i64) -> RecordBatch {
    use arrow::array::{
        BooleanArray, Decimal128Array, Float64Array, Int32Array, StringArray,
        TimestampMicrosecondArray,
    };
    let mut random = Random(seed);
    let mut times: Vec<i64> =
        (0..count).map(|_| start + random.below(span as u64) as i64).collect();
    times.sort_unstable();
    let mut optional = |share: u64| random.below(share) != 0;
    let present: Vec<[bool; 5]> = (0..count)
        .map(|_| [optional(9), optional(7), optional(8), optional(6), optional(5)])
        .collect();
    let mut random = Random(seed ^ 0xABCD);
    let keys = ["apple", "pear", "plum", "fig", ""];
    let strings: StringArray = (0..count)
        .map(|i| present[i][0].then_some(keys[random.below(keys.len() as u64) as usize]))
        .collect();
    let ints: Int32Array =
        (0..count).map(|i| present[i][1].then(|| random.below(200) as i32 - 100)).collect();
    let bigs = Int64Array::from_iter_values(
        (0..count).map(|_| (random.below(1 << 40) as i64) - (1 << 39)),
    );
    let prices: Decimal128Array = (0..count)
        .map(|i| present[i][2].then(|| i128::from(random.below(1_000_000)) - 500_000))
        .collect();
    let prices = prices.with_precision_and_scale(12, 2).expect("fits");
    let floats: Float64Array = (0..count)
        .map(|i| present[i][3].then(|| random.below(1_000_000) as f64 / 997.0 - 500.0))
        .collect();
    let flags: BooleanArray =
        (0..count).map(|i| present[i][4].then(|| random.below(2) == 0)).collect();
    let schema = catalog(&[]);
    let spec = schema.source("s").expect("declared");
    let program = tidemill_sql::engine::SourceProgram::new(spec).expect("no computed columns");
    RecordBatch::try_new(
        program.schema(),
        vec![
            Arc::new(Int64Array::from_iter_values(0..count as i64)),
            Arc::new(TimestampMicrosecondArray::from(times)),
            Arc::new(strings),
            Arc::new(ints),
            Arc::new(bigs),
            Arc::new(prices),
            Arc::new(floats),
            Arc::new(flags),
        ],
    )
    .expect("the declared types")
}
