//! What only the embedded broker promises: every announced version answers, hostile bytes do not
//! hurt it, a repeat is not stored twice even after a restart, a torn tail is cut, lost data is
//! an error.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest, TransactionalId,
    create_partitions_request, create_topics_request, delete_records_request,
    delete_topics_request, describe_configs_request, fetch_request, join_group_request,
    leave_group_request, list_offsets_request, metadata_request, offset_commit_request,
    offset_fetch_request, offset_for_leader_epoch_request,
};
use kafka_protocol::protocol::{Request, StrBytes};
use tempfile::TempDir;
use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_contract::ErrorKind;

use crate::wire::{NOBODY, Wire, Writer, batch, name, produce_request};

fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: dir.to_path_buf(),
        default_partitions: 1,
        ..BrokerConfig::default()
    }
}

async fn start(dir: &TempDir) -> Broker {
    Broker::start(config(dir.path())).await.expect("the broker starts")
}

fn text(value: &'static str) -> StrBytes {
    StrBytes::from_static_str(value)
}

fn create(wire: &mut Wire, topic: &str) {
    let topic = create_topics_request::CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    assert_eq!(wire.ask(5, &request).topics[0].error_code, 0);
}

/// First and end offset of partition 0.
fn bounds(wire: &mut Wire, topic: &str) -> (i64, i64) {
    let mut at = |timestamp| {
        let partition =
            list_offsets_request::ListOffsetsPartition::default().with_timestamp(timestamp);
        let topic = list_offsets_request::ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![partition]);
        let response = wire.ask(7, &ListOffsetsRequest::default().with_topics(vec![topic]));
        response.topics[0].partitions[0].offset
    };
    (at(-2), at(-1))
}

/// Asks in every announced version; the response must decode to its last byte.
fn ask_all<R: Request>(
    wire: &mut Wire,
    announced: &mut Vec<(i16, i16, i16)>,
    request: impl Fn(i16) -> R,
) {
    let place = announced.iter().position(|(key, _, _)| *key == R::KEY).expect("it is announced");
    let (_, min, max) = announced.swap_remove(place);
    for version in min.max(R::VERSIONS.min)..=max {
        wire.ask(version, &request(version));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_announced_version_answers() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    let listing = wire.ask(3, &ApiVersionsRequest::default());
    let mut announced: Vec<(i16, i16, i16)> = listing
        .api_keys
        .iter()
        .map(|api| (api.api_key, api.min_version, api.max_version))
        .collect();
    ask_topic_requests(&mut wire, &mut announced);
    ask_record_requests(&mut wire, &mut announced);
    ask_group_requests(&mut wire, &mut announced);
    ask_all(&mut wire, &mut announced, |_| ApiVersionsRequest::default());
    ask_all(&mut wire, &mut announced, |_| DescribeClusterRequest::default());
    ask_all(&mut wire, &mut announced, |_| {
        InitProducerIdRequest::default().with_transactional_id(None)
    });
    assert_eq!(announced, [], "every announced request was asked");
    broker.stop().await.unwrap();
}

fn ask_topic_requests(wire: &mut Wire, announced: &mut Vec<(i16, i16, i16)>) {
    ask_all(wire, announced, |version| {
        let topic = create_topics_request::CreatableTopic::default()
            .with_name(name(&format!("topic-{version}")))
            .with_num_partitions(1)
            .with_replication_factor(1);
        CreateTopicsRequest::default().with_topics(vec![topic.clone(), topic])
    });
    ask_all(wire, announced, |_| {
        let topic =
            |topic| metadata_request::MetadataRequestTopic::default().with_name(Some(name(topic)));
        let topics = vec![topic("topic-5"), topic("created-by-asking"), topic("not/valid")];
        MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(true)
    });
    ask_all(wire, announced, |_| {
        let topic =
            create_partitions_request::CreatePartitionsTopic::default().with_name(name("topic-5"));
        CreatePartitionsRequest::default()
            .with_topics(vec![topic.clone().with_count(2), topic.with_count(0)])
    });
    ask_all(wire, announced, |version| {
        let topics = ["topic-2", "no-such-topic"];
        let request = DeleteTopicsRequest::default();
        if version < 6 {
            return request.with_topic_names(topics.map(name).to_vec());
        }
        let state =
            |topic| delete_topics_request::DeleteTopicState::default().with_name(Some(name(topic)));
        request.with_topics(topics.map(state).to_vec())
    });
    ask_all(wire, announced, |_| {
        let resource = |kind, name| {
            describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(None)
        };
        let resources = vec![resource(2, "topic-5"), resource(2, "none"), resource(4, "1")];
        DescribeConfigsRequest::default().with_resources(resources)
    });
}

fn ask_record_requests(wire: &mut Wire, announced: &mut Vec<(i16, i16, i16)>) {
    ask_all::<ProduceRequest>(wire, announced, |_| {
        produce_request("topic-5", batch(NOBODY, &["one", "two"]))
    });
    ask_all(wire, announced, |_| {
        let partition = |index| {
            fetch_request::FetchPartition::default()
                .with_partition(index)
                .with_partition_max_bytes(1 << 20)
        };
        let topic = fetch_request::FetchTopic::default()
            .with_topic(name("topic-5"))
            .with_partitions(vec![partition(0), partition(9)]);
        FetchRequest::default().with_max_bytes(1 << 20).with_topics(vec![topic])
    });
    ask_all(wire, announced, |_| {
        let partition = list_offsets_request::ListOffsetsPartition::default();
        let partitions = [-1, -2, -3, 1_600_000_000_000, -9];
        let topic = list_offsets_request::ListOffsetsTopic::default()
            .with_name(name("topic-5"))
            .with_partitions(
                partitions.map(|time| partition.clone().with_timestamp(time)).to_vec(),
            );
        ListOffsetsRequest::default().with_topics(vec![topic])
    });
    ask_all(wire, announced, |_| {
        let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
        let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
            .with_topic(name("topic-5"))
            .with_partitions(vec![partition.clone(), partition.with_partition(9)]);
        OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
    });
    ask_all(wire, announced, |_| {
        let partition = delete_records_request::DeleteRecordsPartition::default().with_offset(1);
        let topic = delete_records_request::DeleteRecordsTopic::default()
            .with_name(name("topic-5"))
            .with_partitions(vec![partition.clone(), partition.with_offset(1_000)]);
        DeleteRecordsRequest::default().with_topics(vec![topic])
    });
}

fn ask_group_requests(wire: &mut Wire, announced: &mut Vec<(i16, i16, i16)>) {
    let group = || GroupId(text("group"));
    ask_all(wire, announced, |version| match version {
        0..4 => FindCoordinatorRequest::default().with_key(text("group")),
        _ => FindCoordinatorRequest::default().with_coordinator_keys(vec![text("group")]),
    });
    ask_all(wire, announced, |_| {
        let protocol = join_group_request::JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"topics"));
        JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(1_000)
            .with_rebalance_timeout_ms(1_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    });
    ask_all(wire, announced, |_| SyncGroupRequest::default().with_group_id(group()));
    ask_all(wire, announced, |_| HeartbeatRequest::default().with_group_id(group()));
    ask_all(wire, announced, |version| match version {
        0..3 => LeaveGroupRequest::default().with_group_id(group()),
        _ => LeaveGroupRequest::default()
            .with_group_id(group())
            .with_members(vec![leave_group_request::MemberIdentity::default()]),
    });
    ask_offset_requests(wire, announced);
    ask_all(wire, announced, |_| {
        DescribeGroupsRequest::default()
            .with_groups(["group", "outsider", "nobody"].map(|id| GroupId(text(id))).to_vec())
    });
    ask_all(wire, announced, |_| ListGroupsRequest::default());
    ask_all(wire, announced, |_| {
        DeleteGroupsRequest::default()
            .with_groups_names(["outsider", "nobody"].map(|id| GroupId(text(id))).to_vec())
    });
}

fn ask_offset_requests(wire: &mut Wire, announced: &mut Vec<(i16, i16, i16)>) {
    ask_all(wire, announced, |_| {
        let partition = offset_commit_request::OffsetCommitRequestPartition::default()
            .with_committed_offset(1)
            .with_committed_metadata(Some(text("note")));
        let topic = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(name("topic-5"))
            .with_partitions(vec![partition.clone(), partition.with_partition_index(9)]);
        OffsetCommitRequest::default()
            .with_group_id(GroupId(text("outsider")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    });
    ask_all(wire, announced, |version| {
        let wanted = || (name("topic-5"), vec![0, 9]);
        if version < 8 {
            let (name, indexes) = wanted();
            let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(name)
                .with_partition_indexes(indexes);
            return OffsetFetchRequest::default()
                .with_group_id(GroupId(text("outsider")))
                .with_topics(Some(vec![topic]));
        }
        let (name, indexes) = wanted();
        let topic = offset_fetch_request::OffsetFetchRequestTopics::default()
            .with_name(name)
            .with_partition_indexes(indexes);
        let group = offset_fetch_request::OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text("outsider")));
        let groups = vec![group.clone().with_topics(Some(vec![topic])), group.with_topics(None)];
        OffsetFetchRequest::default().with_groups(groups)
    });
}

/// What a stored batch must look like: as it was sent, with its place in the log written into it.
fn stored(sent: &Bytes, base_offset: i64) -> Vec<u8> {
    let mut bytes = sent.to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[12..16].fill(0);
    bytes
}

/// The records of partition 0 of each topic, from the given offset on.
fn fetch(wire: &mut Wire, version: i16, from: &[(&str, i64)], bytes_max: i32) -> Vec<Bytes> {
    let topics = from.iter().map(|(topic, offset)| {
        let partition = fetch_request::FetchPartition::default()
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(bytes_max);
        fetch_request::FetchTopic::default()
            .with_topic(name(topic))
            .with_partitions(vec![partition])
    });
    let request = FetchRequest::default().with_max_bytes(64 << 20).with_topics(topics.collect());
    let response = wire.ask(version, &request);
    assert_eq!(response.error_code, 0);
    let partition = |(index, (topic, _)): (usize, &(&str, i64))| {
        assert_eq!(response.responses[index].topic, name(topic));
        let [partition] = response.responses[index].partitions.as_slice() else {
            panic!("one partition is answered");
        };
        assert_eq!((partition.partition_index, partition.error_code), (0, 0));
        partition.records.clone().expect("records")
    };
    from.iter().enumerate().map(partition).collect()
}

/// Large batches go from the request to the file and from the file to the socket without a copy,
/// small ones are put together, and read memory is used again: what comes out is what went in.
#[tokio::test(flavor = "multi_thread")]
async fn batches_come_out_as_they_went_in() {
    let dir = TempDir::new().expect("a directory");
    let broker = start(&dir).await;
    let wire = &mut Wire::connect(broker.address());
    let long = |letter: char| letter.to_string().repeat(300_000);
    let sent = [
        batch(NOBODY, &["one", "two"]),
        batch(NOBODY, &[&long('a'), &long('b')]),
        batch(NOBODY, &["three"]),
        batch(NOBODY, &["four"]),
        batch(NOBODY, &[&long('c')]),
    ];
    let starts = [0, 2, 4, 5, 6];
    create(wire, "mixed");
    create(wire, "small");
    for (batch, start) in sent.iter().zip(starts) {
        assert_eq!(wire.produce("mixed", batch.clone()).base_offset, start);
    }
    assert_eq!(wire.produce("small", sent[0].clone()).error_code, 0);
    let small = stored(&sent[0], 0);
    let from = |first: usize| -> Vec<u8> {
        sent.iter().zip(starts).skip(first).flat_map(|(batch, at)| stored(batch, at)).collect()
    };
    for version in 4..=12 {
        for (first, start) in starts.into_iter().enumerate() {
            let both = [("mixed", start), ("small", 0)];
            let fetched = fetch(wire, version, &both, 8 << 20);
            assert_eq!(fetched[0], from(first), "version {version}, offset {start}");
            assert_eq!(fetched[1], small, "version {version}, offset {start}");
            // One batch comes whole, however little is asked for.
            let one = fetch(wire, version, &[("mixed", start)], 1);
            assert_eq!(one[0], stored(&sent[first], start), "version {version}, offset {start}");
        }
    }
    broker.stop().await.expect("the broker stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_is_told_which_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 18, 0, 99, 0, 0, 0, 7, 255, 255, 0]);
    wire.send_raw(&frame);
    let answer = wire.receive().expect("an answer in version 0");
    assert_eq!(&answer[..6], [0, 0, 0, 7, 0, 35]);
    wire.ask(3, &ApiVersionsRequest::default());
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_end_one_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut good = Wire::connect(broker.address());
    create(&mut good, "topic");
    let frames: [&[u8]; 8] = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        // A request nobody knows, a header that stops in the middle, a body of nonsense.
        &[127, 127, 0, 0, 0, 0, 0, 7],
        &[0, 3, 0, 9, 0, 0, 0, 7, 0],
        &[0, 0, 0, 9, 0, 0, 0, 7, 255, 255, 0, 200, 200, 200, 200],
        // Arrays that claim two thousand million elements, in both encodings of lengths.
        &[0, 3, 0, 1, 0, 0, 0, 7, 255, 255, 127, 255, 255, 255],
        &[0, 3, 0, 9, 0, 0, 0, 7, 255, 255, 0, 255, 255, 255, 255, 15],
        &[0, 3, 0, 9, 0, 0, 0, 7, 255, 255, 255, 255, 255, 255, 15],
    ];
    for frame in frames {
        let mut wire = Wire::connect(broker.address());
        wire.send_raw(frame);
        assert!(wire.receive().is_none(), "the connection is closed");
    }
    assert_eq!(good.produce("topic", batch(NOBODY, &["fine"])).base_offset, 0);
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_batches_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    create(&mut wire, "topic");
    let good = batch(NOBODY, &["one", "two", "three"]);
    let changed = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        Bytes::from(bytes)
    };
    let last = good.len() - 2;
    let mut refused = |records: Bytes| {
        let code = wire.produce("topic", records).error_code;
        ResponseError::try_from_code(code).expect("it is refused")
    };
    assert_eq!(refused(changed(last, b'!')), ResponseError::CorruptMessage);
    assert_eq!(refused(changed(16, 1)), ResponseError::UnsupportedForMessageFormat);
    assert_eq!(refused(good.slice(..good.len() - 1)), ResponseError::CorruptMessage);
    assert_eq!(refused(good.slice(..30)), ResponseError::CorruptMessage);
    assert_eq!(refused(Bytes::new()), ResponseError::InvalidRecord);
    // A header whose record count is a lie, with a checksum that fits.
    let mut lie = good.to_vec();
    lie[26] = 4;
    lie[60] = 5;
    let checksum = crc32c::crc32c(&lie[21..]);
    lie[17..21].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(refused(Bytes::from(lie)), ResponseError::InvalidRecord);
    // One good batch does not carry a broken one in.
    let pair = [good.clone(), changed(last, b'!')].concat();
    assert_eq!(refused(Bytes::from(pair)), ResponseError::CorruptMessage);
    assert_eq!(bounds(&mut wire, "topic"), (0, 0));
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    create(&mut wire, "topic");
    let id = wire.ask(4, &InitProducerIdRequest::default().with_transactional_id(None));
    let (id, epoch) = (id.producer_id.0, id.producer_epoch);
    let at = |sequence| batch(Writer { id, epoch, sequence }, &["a", "b"]);
    for number in 0..7 {
        assert_eq!(wire.produce("topic", at(number * 2)).base_offset, i64::from(number) * 2);
    }
    for number in 2..7 {
        let repeated = wire.produce("topic", at(number * 2));
        assert_eq!((repeated.error_code, repeated.base_offset), (0, i64::from(number) * 2));
    }
    let out_of_order = ResponseError::OutOfOrderSequenceNumber.code();
    assert_eq!(wire.produce("topic", at(20)).error_code, out_of_order, "a gap");
    assert_eq!(wire.produce("topic", at(0)).error_code, out_of_order, "too old to be known");
    assert_eq!(bounds(&mut wire, "topic"), (0, 14));
    broker.stop().await.unwrap();

    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    let repeated = wire.produce("topic", at(12));
    assert_eq!((repeated.error_code, repeated.base_offset), (0, 12), "known after a restart");
    assert_eq!(wire.produce("topic", at(14)).base_offset, 14);
    let newer = Writer { id, epoch: epoch + 1, sequence: 0 };
    assert_eq!(wire.produce("topic", batch(newer, &["c"])).base_offset, 16);
    let fenced = ResponseError::InvalidProducerEpoch.code();
    assert_eq!(wire.produce("topic", at(16)).error_code, fenced);
    let next = wire.ask(4, &InitProducerIdRequest::default().with_transactional_id(None));
    assert!(next.producer_id.0 > id, "ids are never given twice");
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_refused_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    create(&mut wire, "topic");
    let refused = ResponseError::TransactionalIdAuthorizationFailed.code();
    let transactional = || Some(TransactionalId(text("transaction")));
    let init = InitProducerIdRequest::default().with_transactional_id(transactional());
    assert_eq!(wire.ask(4, &init).error_code, refused);
    let find = FindCoordinatorRequest::default().with_key(text("transaction")).with_key_type(1);
    let found = wire.ask(3, &find);
    assert_eq!(found.error_code, refused);
    assert!(found.error_message.is_some_and(|message| message.contains("Apache Kafka")));
    let produce = produce_request("topic", batch(NOBODY, &["one"]));
    let produced = wire.ask(9, &produce.with_transactional_id(transactional()));
    assert_eq!(produced.responses[0].partition_responses[0].error_code, refused);
    broker.stop().await.unwrap();
}

/// The segment files of partition 0, oldest first.
fn segments(dir: &TempDir, topic: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join(format!("{topic}-0"))).expect("the partition");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    create(&mut wire, "topic");
    for _ in 0..3 {
        wire.produce("topic", batch(NOBODY, &["one", "two"]));
    }
    broker.stop().await.unwrap();

    let path = segments(&dir, "topic").pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let mut next = batch(NOBODY, &["never acknowledged"]).to_vec();
    next[..8].copy_from_slice(&6_i64.to_be_bytes());
    let mut broken = next.clone();
    *broken.last_mut().unwrap() ^= 1;
    let tails = [&next[..20], &next[..next.len() - 1], &broken[..], &[0; 4096][..], b"garbage"];
    for tail in tails {
        OpenOptions::new().append(true).open(&path).unwrap().write_all(tail).unwrap();
        let broker = start(&dir).await;
        let mut wire = Wire::connect(broker.address());
        assert_eq!(bounds(&mut wire, "topic"), (0, 6));
        broker.stop().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole, "what was acknowledged is untouched");
    }
    let broker = start(&dir).await;
    let mut wire = Wire::connect(broker.address());
    assert_eq!(wire.produce("topic", batch(NOBODY, &["on"])).base_offset, 6);
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_data_is_an_error_not_a_repair() {
    let dir = tempfile::tempdir().unwrap();
    let small = BrokerConfig { segment_bytes: 300, ..config(dir.path()) };
    let broker = Broker::start(small.clone()).await.unwrap();
    let mut wire = Wire::connect(broker.address());
    create(&mut wire, "topic");
    for _ in 0..10 {
        wire.produce("topic", batch(NOBODY, &["one", "two", "three"]));
    }
    broker.stop().await.unwrap();
    let paths = segments(&dir, "topic");
    assert!(paths.len() > 3, "the log has several segments");

    let closed = fs::read(&paths[1]).unwrap();
    fs::write(&paths[1], &closed[..closed.len() - 1]).unwrap();
    let error = Broker::start(small.clone()).await.expect_err("a closed segment is torn");
    assert_eq!((error.kind, error.code), (ErrorKind::Corrupt, "TM613"));
    fs::remove_file(&paths[1]).unwrap();
    let error = Broker::start(small.clone()).await.expect_err("a segment is missing");
    assert_eq!(error.kind, ErrorKind::Corrupt);
    fs::write(&paths[1], &closed).unwrap();
    let broker = Broker::start(small.clone()).await.expect("it is whole again");
    assert_eq!(bounds(&mut Wire::connect(broker.address()), "topic"), (0, 30));
    broker.stop().await.unwrap();
    fs::remove_file(dir.path().join("topics.json")).unwrap();
    let error = Broker::start(small).await.expect_err("the list of topics is gone");
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_directory_serves_one_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let error = Broker::start(config(dir.path())).await.expect_err("the directory is in use");
    assert_eq!((error.kind, error.code), (ErrorKind::Conflict, "TM614"));
    broker.stop().await.unwrap();
    start(&dir).await.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_beyond_the_limit_closes_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(&dir).await;
    let mut stream = std::net::TcpStream::connect(broker.address()).unwrap();
    stream.write_all(&(200_i32 << 20).to_be_bytes()).unwrap();
    let mut answer = Vec::new();
    let read = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(read.is_err() || answer.is_empty(), "closed without an answer");
    Wire::connect(broker.address()).ask(3, &ApiVersionsRequest::default());
    broker.stop().await.unwrap();
}
