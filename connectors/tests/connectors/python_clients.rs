//! Other people's clients on the embedded broker: Debian's kcat and PyPI's confluent-kafka.
//!
//! A client that is not installed is left out with a printed line, unless
//! `TIDEMILL_REQUIRE_KCAT=1` or `TIDEMILL_REQUIRE_PYTHON=1` say that it must be there.
//! `TIDEMILL_PYTHON` names the interpreter that has the packages of `.ci/python.txt`.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use rdkafka::Offset;
use rdkafka::message::Message;

use crate::cluster::{Cluster, Embedded};
use crate::log_client::{assign, consumer, create_topic, next, numbered, produce, producer};

/// Whether to go on; says so if not.
fn is_there(client: &str, requirement: &str, probe: &mut Command) -> bool {
    let found = probe.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    if !found {
        let required = std::env::var(requirement).is_ok_and(|value| value == "1");
        assert!(!required, "{client} is required here");
        eprintln!("LEFT OUT: {client} on the embedded broker: it is not installed");
    }
    found
}

fn run(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    let mut stdin = child.stdin.take().expect("its input is piped");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    assert!(status.success(), "the client works: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("its output is text")
}

#[test]
fn kcat_produces_and_consumes() {
    if !is_there("kcat", "TIDEMILL_REQUIRE_KCAT", Command::new("kcat").arg("-V")) {
        return;
    }
    let cluster = Embedded::start();
    let brokers = cluster.brokers();
    create_topic(&brokers, "kcat", 1, &[]);
    let kcat = |args: &[&str]| {
        let mut command = Command::new("kcat");
        command.args(["-b", &brokers]).args(args);
        command
    };
    let listing = run(&mut kcat(&["-L"]), "");
    assert!(listing.contains("topic \"kcat\" with 1 partitions"), "{listing}");

    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String = (0..1_000).map(|number| format!("{codec}-{number:050}\n")).collect();
        let args = ["-P", "-t", "kcat", "-z", codec, "-X", "enable.idempotence=true"];
        run(&mut kcat(&args), &lines);
    }
    let everything = run(&mut kcat(&["-C", "-t", "kcat", "-o", "beginning", "-e", "-q"]), "");
    assert_eq!(everything.lines().count(), 5_000);
    let tail = run(&mut kcat(&["-C", "-t", "kcat", "-o", "4999", "-c", "1", "-q"]), "");
    assert_eq!(tail, format!("zstd-{:050}\n", 999));

    let reader = consumer(&brokers, &[]);
    assign(&reader, "kcat", 0, Offset::Offset(1_500));
    let payload = format!("gzip-{:050}", 500);
    assert_eq!(next(&reader).payload(), Some(payload.as_bytes()));

    produce(&producer(&brokers, &[]), "kcat", 0, &numbered(10, 20));
    let args = ["-G", "kcat-group", "-X", "auto.offset.reset=earliest", "-e", "-q", "kcat"];
    let grouped = run(&mut kcat(&args), "");
    assert_eq!(grouped.lines().count(), 5_010);
}

const SCRIPT: &str = r#"
import sys
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

brokers = sys.argv[1]
admin = AdminClient({"bootstrap.servers": brokers})
for future in admin.create_topics([NewTopic("python", 3, 1, config={"retention.ms": "-1"})]).values():
    future.result(30)
assert len(admin.list_topics("python", 30).topics["python"].partitions) == 3

producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True,
                     "compression.type": "zstd"})
failed = []
for number in range(3000):
    producer.produce("python", key=str(number), value=f"value-{number}",
                     headers={"tm-row": b"\x00\xff"}, timestamp=1300000000000 + number,
                     on_delivery=lambda error, message: error and failed.append(error))
    producer.poll(0)
assert producer.flush(30) == 0 and not failed, failed

def read(group):
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group,
                         "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe(["python"])
    values = {}
    while len(values) < 3000:
        message = consumer.poll(30)
        assert message is not None and message.error() is None, message and message.error()
        assert message.headers() == [("tm-row", b"\x00\xff")]
        assert message.value().decode() == "value-" + message.key().decode()
        values[message.key()] = message.timestamp()[1]
    consumer.commit(asynchronous=False)
    return consumer, values

consumer, values = read("python-group")
assert values[b"2999"] == 1300000002999
positions = consumer.committed([TopicPartition("python", number) for number in range(3)], 30)
assert sum(position.offset for position in positions) == 3000, positions
consumer.close()

groups = admin.list_consumer_groups().result(30)
assert "python-group" in [group.group_id for group in groups.valid]
described = admin.describe_consumer_groups(["python-group"])["python-group"].result(30)
assert described.state.name == "EMPTY", described.state
print("done")
"#;

#[test]
fn confluent_kafka_produces_and_consumes() {
    let python = std::env::var("TIDEMILL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut probe = Command::new(&python);
    probe.args(["-c", "import confluent_kafka"]);
    if !is_there("confluent-kafka (Python)", "TIDEMILL_REQUIRE_PYTHON", &mut probe) {
        return;
    }
    let cluster = Embedded::start();
    let brokers = cluster.brokers();
    let mut command = Command::new(&python);
    assert_eq!(run(command.args(["-", &brokers]), SCRIPT), "done\n");
    // What Python wrote, librdkafka's Rust client reads.
    let reader = consumer(&brokers, &[]);
    assign(&reader, "python", 0, Offset::Beginning);
    let message = next(&reader);
    assert!(message.payload().is_some_and(|payload| payload.starts_with(b"value-")));
}
