//! A broker, a pipeline that reads one topic of it, and a model: what the topic holds at each
//! offset, and which of it was read. The model is written from what the test does to the log and
//! from the positions in the commits, never from results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_contract::{Commit, LogWriter, Loss, PartitionId, ProduceRecord};
use tidemill_runtime::ledger::read_commit;
use tidemill_runtime::{JobStatus, Pipeline, Settings, StatementResult};

/// The source's name, its job's, and on a broker of its own the topic's.
pub(crate) const SOURCE: &str = "events";
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Little is fetched ahead, so that what was not read can be taken away.
const QUERY: &str = "
    CREATE SOURCE IF NOT EXISTS events (
      id BIGINT NOT NULL, shop TEXT, at BIGINT, ts AS to_timestamp_millis(at),
      WATERMARK FOR ts AS ts - INTERVAL '1' HOUR
    ) WITH ('connector'='kafka', 'topic'='TOPIC', 'format'='json', 'topic.partitions'='PARTITIONS',
            'properties.queued.max.messages.kbytes'='1', OPTIONS
            'properties.fetch.message.max.bytes'='1024');
    CREATE MATERIALIZED VIEW IF NOT EXISTS per_minute AS
    SELECT window_start, window_end, shop, count(*) AS n, sum(id) AS ids
    FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
    GROUP BY window_start, window_end, shop;";
const RESULT: &str = "SELECT window_start, shop, n, ids FROM per_minute
    ORDER BY window_start, shop";

/// A record: a row by its id, or a tombstone.
pub(crate) type Record = Option<i64>;
/// What a partition holds: record by offset.
pub(crate) type Partition = BTreeMap<i64, Record>;

/// Small, seeded, good enough for sizes.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number in `[from, to)`.
    pub(crate) fn roll(&mut self, from: i64, to: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from + i64::try_from(self.0 >> 33).unwrap() % (to - from).max(1)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.roll(0, 2) == 1
    }
}

/// Broker, pipeline and model.
pub(crate) struct Stand {
    pub(crate) folder: TempDir,
    broker: Option<Broker>,
    pub(crate) brokers: String,
    pub(crate) log: KafkaLog,
    pipeline: Option<Arc<Pipeline>>,
    options: String,
    topic: String,
    /// What the topic holds, and the end of each partition.
    pub(crate) held: BTreeMap<i32, Partition>,
    pub(crate) ends: BTreeMap<i32, i64>,
    /// Where its log was cut.
    pub(crate) cut_at: BTreeMap<i32, i64>,
    /// Up to where each partition was read, and all that was.
    pub(crate) cursor: BTreeMap<i32, i64>,
    pub(crate) read: Vec<Record>,
    next_id: i64,
}

impl Stand {
    /// On a broker of its own.
    pub(crate) async fn new(partitions: i32, options: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let broker = start_broker_somewhere(&folder).await;
        let brokers = broker.address().to_string();
        Self::assemble(folder, Some(broker), brokers, SOURCE, partitions, options).await
    }

    /// On a cluster that others use, too.
    pub(crate) async fn on_cluster(brokers: &str, topic: &str, partitions: i32) -> Self {
        let folder = TempDir::new().unwrap();
        Self::assemble(folder, None, brokers.to_owned(), topic, partitions, "").await
    }

    async fn assemble(
        folder: TempDir,
        broker: Option<Broker>,
        brokers: String,
        topic: &str,
        partitions: i32,
        options: &str,
    ) -> Self {
        let log = client(&brokers);
        let mut stand = Self {
            folder,
            broker,
            brokers,
            log,
            pipeline: None,
            options: options.to_owned(),
            topic: topic.to_owned(),
            held: BTreeMap::new(),
            ends: BTreeMap::new(),
            cut_at: BTreeMap::new(),
            cursor: BTreeMap::new(),
            read: Vec::new(),
            next_id: 0,
        };
        stand.make_topic(partitions).await;
        stand
    }

    /// The topic from nothing.
    pub(crate) async fn make_topic(&mut self, partitions: i32) {
        let deadline = Instant::now() + PATIENCE;
        // A cluster may still be deleting the one before.
        while self.log.ensure_topic(&self.topic, partitions, &[]).await.is_err() {
            assert!(Instant::now() < deadline, "the topic cannot be made");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.held = (0..partitions).map(|id| (id, Partition::new())).collect();
        self.ends = (0..partitions).map(|id| (id, 0)).collect();
    }

    pub(crate) async fn delete_topic(&self) {
        let result =
            self.admin().delete_topics(&[self.topic.as_str()], &AdminOptions::new()).await.unwrap();
        result[0].as_ref().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.log.partitions(&self.topic).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "the topic is not deleted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn delete_records(&mut self, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.topic, partition, Offset::Offset(before)).unwrap();
        self.admin().delete_records(&offsets, &AdminOptions::new()).await.unwrap();
        self.held.get_mut(&partition).unwrap().retain(|offset, _| *offset >= before);
    }

    pub(crate) async fn add_partitions(&mut self, count: i32) {
        let wanted = [NewPartitions::new(&self.topic, usize::try_from(count).unwrap())];
        let result = self.admin().create_partitions(&wanted, &AdminOptions::new()).await.unwrap();
        result[0].as_ref().unwrap();
        for id in 0..count {
            self.held.entry(id).or_default();
            self.ends.entry(id).or_default();
        }
        let deadline = Instant::now() + PATIENCE;
        while self.log.partitions(&self.topic).await.unwrap() != Some(count) {
            assert!(Instant::now() < deadline, "the topic does not grow");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }

    /// Appends new rows.
    pub(crate) async fn produce(&mut self, partition: i32, count: i64) {
        let records = (self.next_id..self.next_id + count).map(Some).collect::<Vec<_>>();
        self.next_id += count;
        self.append(partition, &records, None).await;
    }

    /// Appends these records. Flushed now and then, so that there are several batches.
    pub(crate) async fn append(&mut self, partition: i32, records: &[Record], time: Option<i64>) {
        let writer = self.log.writer().unwrap();
        for (index, record) in records.iter().enumerate() {
            let payload = record.map(|id| Bytes::from(payload(id)));
            let record = ProduceRecord {
                partition: Some(PartitionId(partition)),
                key: Some(Bytes::from(format!("key {}", index % 7))),
                payload,
                timestamp_ms: time,
                headers: Vec::new(),
            };
            writer.append(&self.topic, record).await.unwrap();
            if index % 10 == 9 {
                writer.flush().await.unwrap();
            }
        }
        writer.flush().await.unwrap();
        let end = self.ends.get_mut(&partition).unwrap();
        let held = self.held.get_mut(&partition).unwrap();
        for record in records {
            held.insert(*end, *record);
            *end += 1;
        }
    }

    /// Stops the broker, lets somebody at its files, and starts it again where it was.
    pub(crate) async fn behind_its_back(&mut self, change: impl FnOnce(&std::path::Path)) {
        self.take_down(change).await;
        self.bring_up().await;
    }

    /// Stops the broker and lets somebody at its files.
    pub(crate) async fn take_down(&mut self, change: impl FnOnce(&std::path::Path)) {
        self.broker.take().unwrap().stop().await.unwrap();
        change(&self.folder.path().join("broker"));
    }

    /// Appends new rows to the log of the stopped broker: nobody else sees it meanwhile.
    pub(crate) async fn produce_unseen(&mut self, counts: &BTreeMap<i32, i64>) {
        let broker = start_broker_somewhere(&self.folder).await;
        self.log = client(&broker.address().to_string());
        for (partition, count) in counts {
            self.produce(*partition, *count).await;
        }
        broker.stop().await.unwrap();
        self.log = client(&self.brokers);
    }

    /// Starts the broker again where it was.
    pub(crate) async fn bring_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpListener::bind(&self.brokers).is_err() {
            assert!(Instant::now() < deadline, "the broker's port stays taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.broker = Some(start_broker(&self.folder, &self.brokers).await.unwrap());
    }

    pub(crate) async fn open(&mut self) {
        let settings = Settings {
            data_dir: self.folder.path().join("data"),
            kafka_brokers: Some(self.brokers.clone()),
            commit_interval: Duration::from_millis(50),
            ..Settings::default()
        };
        let pipeline = Pipeline::open(settings).await.unwrap();
        let partitions = self.ends.len().to_string();
        let query = QUERY
            .replace("PARTITIONS", &partitions)
            .replace("OPTIONS", &self.options)
            .replace("'TOPIC'", &format!("'{}'", self.topic));
        pipeline.execute(&query).await.unwrap();
        pipeline.start().await.unwrap();
        self.pipeline = Some(pipeline);
    }

    pub(crate) async fn close(&mut self) {
        self.pipeline.take().unwrap().stop().await.unwrap();
    }

    pub(crate) fn pipeline(&self) -> &Pipeline {
        self.pipeline.as_ref().unwrap()
    }

    pub(crate) fn job(&self) -> JobStatus {
        let status = self.pipeline().status();
        status.jobs.into_iter().find(|job| job.name == SOURCE).unwrap_or_default()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&JobStatus) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.job()) {
            assert!(Instant::now() < deadline, "not in time: {what}: {:?}", self.job());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The newest commit.
    pub(crate) async fn commit(&self) -> Option<Commit> {
        let mut newest = None;
        let mut epoch = self.job().epoch.max(1);
        while let Some(found) = read_commit(self.pipeline().store(), SOURCE, epoch).await.unwrap() {
            epoch += 1;
            newest = Some(found);
        }
        newest
    }

    pub(crate) async fn committed(&self) -> BTreeMap<i32, i64> {
        let partitions = self.commit().await.map(|commit| commit.partitions).unwrap_or_default();
        partitions.into_iter().map(|(id, progress)| (id, progress.next_offset)).collect()
    }

    /// Waits until all there is was read and committed.
    pub(crate) async fn catch_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.committed().await != self.ends {
            let found = self.committed().await;
            let (job, ends) = (self.job(), &self.ends);
            assert!(Instant::now() < deadline, "{found:?} of {ends:?} is read: {job:?}");
            assert_ne!(job.state, "data loss", "{:?}", job.error);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (held, ends) = (self.held.clone(), self.ends.clone());
        self.account(&held, &ends);
    }

    /// These offsets were reached while the log held this.
    pub(crate) fn account(&mut self, held: &BTreeMap<i32, Partition>, next: &BTreeMap<i32, i64>) {
        for (id, next) in next {
            let cursor = self.cursor.entry(*id).or_default();
            if let Some(records) = held.get(id).filter(|_| *cursor < *next) {
                self.read.extend(records.range(*cursor..*next).map(|(_, record)| *record));
            }
            *cursor = *next;
        }
    }

    pub(crate) async fn execute(&self, sql: &str) -> String {
        let results = self.pipeline().execute(sql).await.unwrap();
        match results.into_iter().next().unwrap() {
            StatementResult::Done { message } => message,
            StatementResult::Rows { batches, .. } => {
                let lines = batches
                    .iter()
                    .flat_map(|batch| tidemill_connectors::format::json::encode(batch).unwrap());
                lines.map(|line| String::from_utf8(line.to_vec()).unwrap() + "\n").collect()
            }
        }
    }

    /// The result is that of the rows that were read, and every record is accounted for.
    pub(crate) async fn check_result(&self, what: &str) {
        let mut expected: BTreeMap<(i64, &str), (i64, i64)> = BTreeMap::new();
        for id in self.read.iter().flatten() {
            let entry = expected.entry((at(*id) / 60_000, shop(*id))).or_default();
            entry.0 += 1;
            entry.1 += id;
        }
        let mut found = BTreeMap::new();
        for line in self.execute(RESULT).await.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = row["window_start"].as_str().unwrap().to_owned();
            let minutes: i64 =
                text[11..13].parse::<i64>().unwrap() * 60 + text[14..16].parse::<i64>().unwrap();
            let shop = row["shop"].as_str().unwrap().to_owned();
            let number =
                |name: &str| -> i64 { row[name].to_string().trim_matches('"').parse().unwrap() };
            found.insert((START_MS / 60_000 + minutes, shop), (number("n"), number("ids")));
        }
        let found: BTreeMap<(i64, &str), (i64, i64)> =
            found.iter().map(|((minute, shop), sums)| ((*minute, shop.as_str()), *sums)).collect();
        assert_eq!(found, expected, "{what}");
        let commit = self.commit().await.unwrap();
        let tombstones = self.read.iter().filter(|record| record.is_none()).count() as u64;
        let rows = self.read.len() as u64 - tombstones;
        assert_eq!(commit.counters["records"], self.read.len() as u64, "{what}");
        assert_eq!(commit.counters["tombstones"], tombstones, "{what}");
        assert_eq!(commit.counters["rows"], rows, "{what}");
        assert_eq!(commit.counters["per_minute.counted"], rows, "{what}");
        assert_eq!(commit.counters["per_minute.late"], 0, "{what}");
        assert_eq!(self.job().conservation_drift, 0, "{what}");
    }

    /// Losses nobody has decided about.
    pub(crate) fn open_losses(&self) -> Vec<Loss> {
        let losses = self.job().losses;
        losses.into_iter().filter(|loss| loss.accepted_at.is_none()).collect()
    }

    pub(crate) async fn end(mut self) {
        if self.pipeline.is_some() {
            self.close().await;
        }
        if let Some(broker) = self.broker.take() {
            broker.stop().await.unwrap();
        }
    }
}

/// Without compression, so that a batch in a file can be taken apart.
fn client(brokers: &str) -> KafkaLog {
    let properties = BTreeMap::from([("compression.type".to_owned(), "none".to_owned())]);
    KafkaLog::new(KafkaSettings { brokers: brokers.to_owned(), properties }).unwrap()
}

/// A broker that can be stopped and come back where it was: its port is none of those that a
/// system gives to clients, and none of another broker here.
async fn start_broker_somewhere(folder: &TempDir) -> Broker {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const PORTS: u32 = 9_000;
    let mut refused = None;
    for _ in 0..PORTS {
        let number = std::process::id() * 89 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let listen = format!("127.0.0.1:{}", 11_000 + number % PORTS);
        match start_broker(folder, &listen).await {
            Ok(broker) => return broker,
            Err(error) => refused = Some(error),
        }
    }
    panic!("no broker starts: {refused:?}");
}

async fn start_broker(folder: &TempDir, listen: &str) -> tidemill_contract::Result<Broker> {
    let config = BrokerConfig {
        listen: listen.parse().unwrap(),
        data_dir: folder.path().join("broker"),
        ..BrokerConfig::default()
    };
    Broker::start(config).await
}

fn at(id: i64) -> i64 {
    START_MS + id * 50
}

fn shop(id: i64) -> &'static str {
    ["ams", "ber", "cph"][usize::try_from(id % 3).unwrap()]
}

fn payload(id: i64) -> String {
    format!("{{\"id\":{id},\"shop\":\"{}\",\"at\":{}}}", shop(id), at(id))
}
