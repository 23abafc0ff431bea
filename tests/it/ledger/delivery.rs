//! Publication against an embedded broker, a Delta table and a file: once, however often tried.

use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use object_store::path::Path;
use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_connectors::sinks::delta;
use tidemill_connectors::store::{self, Store};
use tidemill_contract::{Commit, ErrorKind, LogWriter, Result};
use tidemill_runtime::delivery::{Delivery, file_length};
use tidemill_runtime::ledger::Ledger;
use tidemill_runtime::outbox::{ID_HEADER, Outbox, OutboxRecord, OutboxTarget, sequence_id};
use tidemill_runtime::publish::Staged;
use tidemill_runtime::recover::{Claimant, Recovered, recover};

use super::{JOB, local};

const VIEW: &str = "sales";
const TOPIC: &str = "alerts";
const SINK: &str = "big_orders";

/// A bucket, a broker and a file.
struct World {
    folder: TempDir,
    broker: Broker,
    store: Store,
    log: KafkaLog,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = BrokerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: folder.path().join("broker"),
            ..BrokerConfig::default()
        };
        let broker = Broker::start(config).await.unwrap();
        let brokers = broker.address().to_string();
        let log = KafkaLog::new(KafkaSettings { brokers, ..KafkaSettings::default() }).unwrap();
        log.ensure_topic(TOPIC, 3, &[]).await.unwrap();
        let store = local(&folder.path().join("bucket"));
        delta::create_if_missing(&store, VIEW, &schema()).await.unwrap();
        Self { folder, broker, store, log }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("big_orders.jsonl")
    }

    fn delivery(&self) -> Delivery {
        Delivery::new(Arc::clone(&self.store), self.log.clone())
    }

    async fn take_over(&self, writer: &str, delivery: &mut Delivery) -> Result<Recovered> {
        self.claim(&Claimant::new(writer.to_owned()), delivery).await
    }

    async fn claim(&self, claimant: &Claimant, delivery: &mut Delivery) -> Result<Recovered> {
        recover(&self.store, JOB, claimant, &[VIEW.to_owned()], delivery).await
    }

    /// Stages and commits an epoch of two alerts, two lines and one Parquet file.
    async fn commit(&self, ledger: &mut Ledger, delivery: &Delivery) -> (Commit, Outbox) {
        let epoch = ledger.next_epoch();
        let outbox = outbox(epoch, &self.file());
        let rows = BTreeMap::from([(VIEW.to_owned(), vec![rows(&[1, 2, 3])])]);
        let staged = Staged::new(Arc::clone(&self.store), JOB, epoch);
        let parts = staged.stage(rows, b"state".to_vec(), &outbox).await.unwrap();
        let mut commit = ledger.draft();
        commit.files = parts.files;
        commit.state = parts.state;
        commit.outbox = parts.outbox;
        commit.topic_floor = delivery.topic_floor(&outbox).await.unwrap();
        let before = file_length(&self.file()).await.unwrap();
        for (sink, size) in outbox.file_bytes() {
            commit.file_sink_bytes.insert(sink.to_owned(), before + size);
        }
        ledger.commit(commit.clone()).await.unwrap();
        (commit, outbox)
    }

    /// Ids in the topic, sorted; active files of the table; lines of the file.
    async fn seen(&self) -> (Vec<String>, usize, usize) {
        let ends = self.log.watermarks(TOPIC).await.unwrap();
        let from = ends.iter().map(|(partition, (low, _))| (*partition, *low)).collect();
        let to = ends.iter().map(|(partition, (_, high))| (*partition, *high)).collect();
        let records = self.log.read_range(TOPIC, &from, &to).await.unwrap();
        let headers = records.into_iter().flat_map(|(_, record)| record.headers);
        let ids = headers.filter(|(name, _)| name == ID_HEADER);
        let mut ids: Vec<String> =
            ids.map(|(_, id)| String::from_utf8(id.to_vec()).unwrap()).collect();
        ids.sort();
        let files = delta::files(&self.store, VIEW).await.unwrap().len();
        let lines = std::fs::read_to_string(self.file()).unwrap_or_default().lines().count();
        (ids, files, lines)
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("orders", DataType::Int64, true)]))
}

fn rows(values: &[i64]) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
}

fn outbox(epoch: u64, file: &FsPath) -> Outbox {
    let alerts = OutboxTarget::Topic { name: TOPIC.to_owned() };
    let lines =
        OutboxTarget::File { sink: SINK.to_owned(), path: file.to_str().unwrap().to_owned() };
    let mut outbox = Outbox::new();
    for key in ["a", "b"] {
        for target in [&alerts, &lines] {
            let record = OutboxRecord {
                id: sequence_id(JOB, epoch, outbox.len()),
                key: Some(Bytes::from(key)),
                payload: Some(Bytes::from(format!("{{\"epoch\":{epoch}}}\n"))),
                headers: vec![("content-type".to_owned(), Bytes::from("application/json"))],
                timestamp_ms: Some(1_000),
            };
            outbox.push(target, record).unwrap();
        }
    }
    outbox
}

fn alert_ids(epoch: u64) -> Vec<String> {
    vec![sequence_id(JOB, epoch, 0), sequence_id(JOB, epoch, 2)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_published_many_times_is_seen_once() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let mut ledger = world.take_over("one", &mut delivery).await.unwrap().ledger;
    let mut expected = Vec::new();
    for epoch in 1..=3 {
        let (commit, outbox) = world.commit(&mut ledger, &delivery).await;
        delivery.publish(&mut ledger, &commit, &outbox).await.unwrap();
        ledger.mark_published(epoch);
        delivery.roll_forward(&mut ledger, &commit, &outbox).await.unwrap();
        world.delivery().roll_forward(&mut ledger, &commit, &outbox).await.unwrap();
        expected.extend(alert_ids(epoch));
        let count = usize::try_from(epoch).unwrap();
        assert_eq!(world.seen().await, (expected.clone(), count, 2 * count));
    }
    world.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_nobody_published_is_published_by_who_recovers() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let mut ledger = world.take_over("one", &mut delivery).await.unwrap().ledger;
    let (commit, _) = world.commit(&mut ledger, &delivery).await;
    assert_eq!(world.seen().await, (Vec::new(), 0, 0), "staged is invisible");

    let found = world.take_over("two", &mut world.delivery()).await.unwrap();
    let taken = found.commit.unwrap();
    assert_eq!((taken.epoch, taken.writer.as_str()), (2, "two"));
    assert_eq!((taken.state, taken.outbox, taken.files), (commit.state, commit.outbox, vec![]));
    assert_eq!(found.state.as_deref(), Some(&b"state"[..]));
    assert_eq!((found.ledger.next_epoch(), found.ledger.generation()), (3, 2));
    assert_eq!(world.seen().await, (alert_ids(1), 1, 2));
    world.broker.stop().await.unwrap();
}

/// A publication that stopped at each place in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_stopped_half_way_is_completed() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let mut ledger = world.take_over("one", &mut delivery).await.unwrap().ledger;
    let (commit, outbox) = world.commit(&mut ledger, &delivery).await;
    // The table, one of two records, half a line: then the crash.
    delta::add_files(&world.store, VIEW, &commit.files, JOB, 1).await.unwrap();
    let (_, first) = outbox.iter().next().unwrap();
    let writer = world.log.writer().unwrap();
    writer.append(TOPIC, first.to_produce()).await.unwrap();
    writer.flush().await.unwrap();
    std::fs::write(world.file(), "{\"epo").unwrap();

    for writer in ["two", "three"] {
        world.take_over(writer, &mut world.delivery()).await.unwrap();
        assert_eq!(world.seen().await, (alert_ids(1), 1, 2));
        let text = std::fs::read_to_string(world.file()).unwrap();
        assert_eq!(text, "{\"epoch\":1}\n{\"epoch\":1}\n");
    }
    world.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_state_or_outbox_stops_the_recovery_before_anything_is_shown() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let mut ledger = world.take_over("one", &mut delivery).await.unwrap().ledger;
    let (commit, _) = world.commit(&mut ledger, &delivery).await;
    for object in [commit.state.unwrap(), commit.outbox.unwrap()] {
        let path = Path::from(object.path);
        let good = store::get(&world.store, &path).await.unwrap().unwrap();
        let mut flipped = good.to_vec();
        flipped[2] ^= 1;
        for bytes in [flipped, good[1..].to_vec()] {
            store::put(&world.store, &path, bytes.into()).await.unwrap();
            let error = world.take_over("two", &mut world.delivery()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Corrupt);
            assert!(error.message.contains(path.as_ref()), "{error}");
        }
        store::delete(&world.store, &path).await.unwrap();
        let error = world.take_over("two", &mut world.delivery()).await.unwrap_err();
        assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM703"));
        store::put(&world.store, &path, good).await.unwrap();
        let (ids, _, lines) = world.seen().await;
        assert_eq!((ids.len(), lines), (0, 0));
    }
    world.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_is_never_cut_off() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let mut ledger = world.take_over("one", &mut delivery).await.unwrap().ledger;
    std::fs::write(world.file(), "old\n").unwrap();
    let (commit, outbox) = world.commit(&mut ledger, &delivery).await;
    delivery.publish(&mut ledger, &commit, &outbox).await.unwrap();
    let text = std::fs::read_to_string(world.file()).unwrap();
    assert_eq!(text, "old\n{\"epoch\":1}\n{\"epoch\":1}\n");

    std::fs::write(world.file(), format!("{text}more\n")).unwrap();
    let error = delivery.roll_forward(&mut ledger, &commit, &outbox).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM705"));
    assert!(std::fs::read_to_string(world.file()).unwrap().ends_with("more\n"));
    world.broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_ahead_of_the_commits_is_refused() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let mut ledger = world.take_over("one", &mut delivery).await.unwrap().ledger;
    let (commit, outbox) = world.commit(&mut ledger, &delivery).await;
    delivery.publish(&mut ledger, &commit, &outbox).await.unwrap();
    let record = Path::from(format!("commits/{JOB}/{:020}.json", 1));
    store::delete(&world.store, &record).await.unwrap();
    let error = world.take_over("two", &mut world.delivery()).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM706"));
    world.broker.stop().await.unwrap();
}

/// Stopped right after its commit, continued when another process has taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_lost_its_job_appends_nothing() {
    let world = World::new().await;
    let mut delivery = world.delivery();
    let (one, two) = (Claimant::new("one".to_owned()), Claimant::new("two".to_owned()));
    let mut ledger = world.claim(&one, &mut delivery).await.unwrap().ledger;
    let (commit, outbox) = world.commit(&mut ledger, &delivery).await;
    let mut newer = world.delivery();
    let taken = world.claim(&two, &mut newer).await.unwrap();
    let seen = (alert_ids(1), 1, 2);
    assert_eq!(world.seen().await, seen);
    let error = delivery.publish(&mut ledger, &commit, &outbox).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Fenced, "TM702"));
    assert_eq!(world.seen().await, seen);

    // However it lost its place, it does not take the job back; a new process may.
    let mut retry = world.delivery();
    let error = world.claim(&one, &mut retry).await.unwrap_err();
    assert_eq!((error.kind, error.code), (ErrorKind::Fenced, "TM702"));
    let again = world.claim(&two, &mut newer).await.unwrap();
    assert_eq!(again.ledger.next_epoch(), taken.ledger.next_epoch() + 1);
    world.take_over("three", &mut retry).await.unwrap();
    assert_eq!(world.seen().await, seen);
    world.broker.stop().await.unwrap();
}

#[test]
fn an_outbox_comes_back_whole_or_not_at_all() {
    let mut whole = outbox(7, FsPath::new("/tmp/x.jsonl"));
    let bare = OutboxRecord {
        id: String::new(),
        key: None,
        payload: None,
        headers: Vec::new(),
        timestamp_ms: None,
    };
    whole.push(&OutboxTarget::Topic { name: "dead".to_owned() }, bare).unwrap();
    let bytes = whole.encode().unwrap();
    assert_eq!(Outbox::decode(bytes.clone(), "o").unwrap(), whole);
    assert_eq!(whole.topics().into_iter().collect::<Vec<_>>(), [TOPIC, "dead"]);
    assert_eq!(whole.file_bytes(), BTreeMap::from([(SINK, 24)]));
    for length in 0..bytes.len() {
        let error = Outbox::decode(bytes.slice(..length), "outbox/1").unwrap_err();
        assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM704"));
    }
    let longer = Bytes::from([&bytes[..], b"x"].concat());
    assert!(Outbox::decode(longer, "outbox/1").is_err());
}
