//! Role `broker`: the embedded broker alone in a process, until its stdin closes.

use std::io::{Read as _, Write as _};

use anyhow::Result;
use tidemill_connectors::broker::{Broker, BrokerConfig};

/// Runs the broker; prints its address as the first line.
///
/// # Errors
/// If it cannot start or stop.
pub fn run() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-broker-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::start(BrokerConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            data_dir: folder.path().join("broker"),
            ..BrokerConfig::default()
        })
        .await?;
        writeln!(std::io::stdout(), "{}", broker.address())?;
        // The other end closes it when the benchmark is over, however it ends.
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        broker.stop().await?;
        anyhow::Ok(())
    })
}
