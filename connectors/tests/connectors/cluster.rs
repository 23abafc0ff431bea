//! The two clusters the client suite runs on: the embedded broker as a child process, and Apache
//! Kafka through `deploy/kafka.sh`. Both can be restarted and killed with signal 9.
//!
//! The child process is this test binary itself, so that it can never be out of date.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill_connectors::broker::{Broker, BrokerConfig};

/// What a case of the suite may do with its cluster.
pub(crate) trait Cluster {
    /// The bootstrap address; the same after a restart.
    fn brokers(&self) -> String;
    /// Stops gracefully and starts again on the same data.
    fn restart(&mut self);
    /// Ends the process with signal 9 and starts again on the same data.
    fn kill9(&mut self);
}

/// The embedded broker in its own process.
pub(crate) struct Embedded {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Embedded {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Self { dir, port: free_ports(), child: None };
        cluster.spawn();
        cluster
    }

    fn spawn(&mut self) {
        let binary = std::env::current_exe().expect("the path of this test binary");
        let mut child = Command::new(binary)
            .args(["--exact", "cluster::broker_process", "--nocapture"])
            .env("TIDEMILL_TEST_BROKER_DIR", self.dir.path())
            .env("TIDEMILL_TEST_BROKER_PORT", self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker process starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("listening"));
        assert!(ready, "the broker process says when it listens");
        self.child = Some(child);
        // Whatever else it says belongs to the test's output.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
            }
        });
    }

    fn end(&mut self, how: impl FnOnce(&mut Child)) {
        let mut child = self.child.take().expect("the broker process runs");
        how(&mut child);
        child.wait().expect("the broker process ends");
    }
}

impl Cluster for Embedded {
    fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn restart(&mut self) {
        // The process stops gracefully when its input ends.
        self.end(|child| drop(child.stdin.take()));
        self.spawn();
    }

    fn kill9(&mut self) {
        self.end(|child| child.kill().expect("the broker process can be killed"));
        self.spawn();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Not a test by itself: the body of the child process, when the variable is set.
#[test]
fn broker_process() {
    let Ok(dir) = std::env::var("TIDEMILL_TEST_BROKER_DIR") else {
        return;
    };
    let port = std::env::var("TIDEMILL_TEST_BROKER_PORT").unwrap().parse().unwrap();
    let config = BrokerConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        data_dir: PathBuf::from(dir),
        retention_interval: std::time::Duration::from_millis(500),
        ..BrokerConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(Broker::start(config)).unwrap();
    eprintln!("listening on {}", broker.address());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    runtime.block_on(broker.stop()).unwrap();
}

/// One node of Apache Kafka.
pub(crate) struct ApacheKafka {
    dir: tempfile::TempDir,
    port: u16,
}

impl ApacheKafka {
    /// Starts a node; `Err` says what this machine lacks. A node that is there but does not start
    /// is a failure, not something to leave out.
    pub(crate) fn start() -> Result<Self, String> {
        for tool in ["java", "mvn"] {
            let found = Command::new(tool).arg("-version").output();
            if !found.is_ok_and(|output| output.status.success()) {
                return Err(format!("{tool} is not installed"));
            }
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cluster = Self { dir, port: free_ports() };
        cluster.run("fetch")?;
        cluster.run("start").expect("Apache Kafka starts");
        Ok(cluster)
    }

    fn run(&self, verb: &str) -> Result<(), String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka.sh");
        let output = Command::new(script)
            .arg(verb)
            .arg(self.dir.path())
            .arg(self.port.to_string())
            .output()
            .map_err(|error| format!("deploy/kafka.sh does not run: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Cluster for ApacheKafka {
    fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn restart(&mut self) {
        self.run("restart").expect("Kafka restarts");
    }

    fn kill9(&mut self) {
        self.run("kill").expect("Kafka is killed");
        self.run("start").expect("Kafka starts after a kill");
    }
}

impl Drop for ApacheKafka {
    fn drop(&mut self) {
        if let Err(reason) = self.run("kill") {
            eprintln!("Apache Kafka on port {} was left running: {reason}", self.port);
        }
    }
}

/// Two neighbouring free ports: the clients' and the controller's.
///
/// Below the range the kernel gives to outgoing connections: while a broker is down, a client
/// that keeps connecting to a port of that range ends up connected to itself, and the port taken.
fn free_ports() -> u16 {
    const FIRST: u16 = 15_000;
    const SPAN: u32 = 15_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for _ in 0..1_000 {
        let step = NEXT.fetch_add(2, Ordering::Relaxed);
        let scattered = std::process::id().wrapping_mul(97).wrapping_add(step) % SPAN;
        let port = FIRST + u16::try_from(scattered).expect("a small number");
        if is_free(port) && is_free(port + 1) {
            return port;
        }
    }
    panic!("no two neighbouring free ports");
}
