//! F4, the other half: every kind of fault of the network between a pipeline and its broker.
//!
//! Producer, jobs and look-ups all go through the proxy. Nothing may be lost or doubled, the job
//! must say that it is degraded while nothing can be read, and come back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidemill_connectors::broker::{Broker, BrokerConfig};
use tidemill_connectors::log::kafka::{KafkaLog, KafkaSettings};
use tidemill_runtime::{Pipeline, Settings};

use super::is_long;
use super::rig::{Rig, quick_folder, settings};
use crate::fault::{Network, Proxy};

/// What a fault's end may take to show, and its begin: five seconds where nothing else runs; the
/// short form runs beside other tests.
fn noticed() -> Duration {
    Duration::from_secs(if is_long() { 5 } else { 20 })
}

fn log(address: &str) -> KafkaLog {
    let settings = KafkaSettings { brokers: address.to_owned(), properties: BTreeMap::new() };
    KafkaLog::new(settings).unwrap()
}

/// The job sees nothing of the broker for a while.
async fn outage(rig: &mut Rig, proxy: &Proxy, direct: &KafkaLog, network: Network, rest: Duration) {
    proxy.set(network);
    let begun = Instant::now();
    rig.until("degraded", |job| job.state == "degraded").await;
    let degraded = begun.elapsed();
    assert!(degraded < noticed(), "{network:?}: degraded after {degraded:?}");
    assert!(rig.job().error.is_some(), "{network:?}: degraded without a reason");
    // Records that are sent into the fault: they wait, and arrive once.
    rig.begin_produce().await;
    tokio::time::sleep(rest.saturating_sub(begun.elapsed())).await;
    assert_eq!(rig.job().state, "degraded", "{network:?}");
    proxy.set(Network::Well);
    let healed = Instant::now();
    rig.until("running", |job| job.state == "running").await;
    let resumed = healed.elapsed();
    assert!(resumed < noticed(), "{network:?}: back after {resumed:?}");
    rig.finish_produce().await;
    rig.until_committed().await;
    rig.check(direct).await;
    eprintln!("F4 {network:?} for {rest:?}: degraded {degraded:?}, running again {resumed:?}");
}

/// The network is bad, and everything goes on.
async fn nuisance(rig: &mut Rig, proxy: &Proxy, direct: &KafkaLog, network: Network) {
    for _ in 0..if is_long() { 10 } else { 2 } {
        proxy.set(network);
        rig.begin_produce().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(Network::Well);
        rig.finish_produce().await;
        rig.until_committed().await;
        rig.check(direct).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_to_the_broker_loses_nothing_and_doubles_nothing() {
    let folder = quick_folder();
    let proxy = Proxy::start().await;
    let broker = Broker::start(BrokerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertised: Some(proxy.address().to_string()),
        data_dir: folder.path().join("broker"),
        ..BrokerConfig::default()
    });
    let broker = broker.await.unwrap();
    proxy.lead_to(broker.address());
    let settings =
        Settings { kafka_brokers: Some(proxy.address().to_string()), ..settings(folder.path()) };
    let pipeline = Pipeline::open(settings).await.unwrap();
    let log = log(&proxy.address().to_string());
    let mut rig = Rig::start("network", pipeline, &log).await;
    rig.produce().await;
    rig.until_committed().await;

    for network in [
        Network::Late(Duration::from_millis(50)),
        Network::Narrow(20_000),
        Network::CutAfter(700),
        Network::CutAfter(20_000),
        Network::HalfClosed,
        Network::Reset,
        Network::Blackhole,
    ] {
        nuisance(&mut rig, &proxy, &log, network).await;
    }
    let rounds = if is_long() { 5 } else { 1 };
    for _ in 0..rounds {
        outage(&mut rig, &proxy, &log, Network::Blackhole, Duration::from_secs(10)).await;
        outage(&mut rig, &proxy, &log, Network::Reset, Duration::from_secs(6)).await;
        outage(&mut rig, &proxy, &log, Network::HalfClosed, Duration::from_secs(6)).await;
    }
    rig.pipeline.stop().await.unwrap();
    broker.stop().await.unwrap();
}
