//! The brokers that are compared, each in a process of its own on the same core and disk.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::load::PARTITIONS;
use crate::role::{self, BrokerChild};

/// The script that starts one node of Apache Kafka.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kafka.sh");

/// Apache Kafka deletes files a minute after their topic unless told otherwise.
const AT_ONCE: (&str, &str) = ("file.delete.delay.ms", "0");

/// A way to store records that is measured.
#[derive(Debug)]
pub struct System {
    /// Its name in the results.
    pub name: &'static str,
    /// Where it listens.
    pub brokers: String,
    /// Its process.
    pub pid: u32,
    /// Settings of its topics.
    properties: &'static [(&'static str, &'static str)],
}

/// The brokers while they run; they end with this value.
#[derive(Debug)]
pub struct Running {
    /// What is measured, in the order of a round.
    pub systems: Vec<System>,
    _embedded: BrokerChild,
    _kafka: KafkaNode,
}

/// Starts the embedded broker and Apache Kafka.
///
/// Apache Kafka is there twice: as it comes, and with topics that are flushed before a write is
/// acknowledged, which is what the embedded broker promises.
///
/// # Errors
/// If one does not start.
pub fn start(port: u64) -> Result<Running> {
    let embedded = BrokerChild::start()?;
    let kafka = KafkaNode::start(port)?;
    let systems = vec![
        System {
            name: "tidemill",
            brokers: embedded.address().to_string(),
            pid: embedded.id(),
            properties: &[],
        },
        System { name: "kafka", brokers: kafka.address.clone(), pid: kafka.pid, properties: &[] },
        System {
            name: "kafka-flush",
            brokers: kafka.address.clone(),
            pid: kafka.pid,
            properties: &[AT_ONCE, ("flush.messages", "1")],
        },
    ];
    Ok(Running { systems, _embedded: embedded, _kafka: kafka })
}

impl System {
    /// Makes an empty topic.
    ///
    /// # Errors
    /// If the broker refuses.
    pub fn create(&self, topic: &str) -> Result<()> {
        let mut wanted = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
        for (name, value) in self.properties {
            wanted = wanted.set(name, value);
        }
        self.admin(async |client, options| client.create_topics([&wanted], options).await)
    }

    /// Removes a topic.
    ///
    /// # Errors
    /// If the broker refuses.
    pub fn delete(&self, topic: &str) -> Result<()> {
        self.admin(async |client, options| client.delete_topics(&[topic], options).await)
    }

    fn admin(
        &self,
        request: impl AsyncFn(
            &AdminClient<DefaultClientContext>,
            &AdminOptions,
        ) -> rdkafka::error::KafkaResult<Vec<rdkafka::admin::TopicResult>>,
    ) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client: AdminClient<DefaultClientContext> =
                ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?;
            for result in request(&client, &AdminOptions::new()).await? {
                if let Err((topic, code)) = result {
                    bail!("{}: topic {topic}: {code}", self.name);
                }
            }
            Ok(())
        })
    }
}

/// One node of Apache Kafka; stopped and removed when dropped.
#[derive(Debug)]
struct KafkaNode {
    folder: tempfile::TempDir,
    port: String,
    address: String,
    pid: u32,
}

impl KafkaNode {
    fn start(port: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemill-bench-kafka-").tempdir()?;
        let node = folder.path().join("node");
        let port = port.to_string();
        let address = script("start", &node, &port)?;
        let pid = std::fs::read_to_string(node.join("pid"))?.trim().parse()?;
        Ok(Self { folder, port, address, pid })
    }

    fn node(&self) -> PathBuf {
        self.folder.path().join("node")
    }
}

impl Drop for KafkaNode {
    fn drop(&mut self) {
        script("stop", &self.node(), &self.port).ok();
    }
}

/// Runs the script on the brokers' core; the node it starts stays there.
fn script(verb: &str, node: &Path, port: &str) -> Result<String> {
    let output = role::pinned(Path::new(SCRIPT), role::BROKER_CORE)?
        .arg(verb)
        .arg(node)
        .arg(port)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start deploy/kafka.sh")?;
    if !output.status.success() {
        bail!("deploy/kafka.sh {verb} failed: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_string())
}

/// Makes the machine the same for every run: the disk has everything, and as much memory as the
/// topic needs was in use a moment ago.
///
/// On a virtual machine the first touch of memory that lay idle is paid in the host, several times
/// what the write itself costs, by whoever happens to come first.
///
/// # Errors
/// If `sync` does not run or the disk is full.
pub fn settle(bytes: u64) -> Result<()> {
    let status = Command::new("sync").status().context("cannot start sync")?;
    if !status.success() {
        bail!("sync failed: {status}");
    }
    // Removed before it reaches the disk; its pages are what the next writer gets.
    let mut file = tempfile::tempfile()?;
    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
    Ok(())
}
