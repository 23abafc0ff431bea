//! Role `flink-…`: Flink SQL in one JVM, its Parquet files read back.
//!
//! The JVM inherits the core of this process. What it took is what it says of itself, start-up and
//! compilation included; reading its files is not counted.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::StreamExt as _;

use super::Windows;
use crate::{Digest, Measured, engine, role};

/// Names the jars and the compiled class; `benches/flink/run` sets it.
const CLASSPATH: &str = "TIDEMILL_BENCH_FLINK_CLASSPATH";
/// Packages of the JDK that Flink looks into.
const OPENED: [&str; 4] = ["java.util", "java.lang", "java.time", "java.nio"];
/// The heap of the JVM, all of it from the start: one that grows is collected several times as often.
const HEAP: [&str; 2] = ["-Xms4g", "-Xmx4g"];

/// Runs the query on the whole topic.
///
/// # Errors
/// If Flink fails, prints no measurement, or leaves files that cannot be read.
pub fn run(brokers: &str, topic: &str, windows: Windows) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("tidemill-bench-flink-").tempdir()?;
    let files = folder.path().join("sales");
    let classpath = std::env::var(CLASSPATH)
        .with_context(|| format!("{CLASSPATH} is not set; start this with benches/flink/run"))?;
    let output = Command::new("java")
        .args(HEAP)
        .args(["-Duser.timezone=UTC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
        .args(OPENED.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")))
        .args(["-cp", &classpath, "FlinkOrders", brokers, topic, windows.function()])
        .arg(&files)
        .arg(folder.path().join("checkpoints"))
        .env("TZ", "UTC")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start java")?;
    if !output.status.success() {
        bail!("Flink failed: {}", output.status);
    }
    let mut measured: Measured = role::last_line(&output.stdout).context("Flink")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    measured.digest = Some(runtime.block_on(answer(&files))?);
    Ok(measured)
}

/// Reads Flink's files with another reader than its own.
async fn answer(files: &Path) -> Result<Digest> {
    let folder = files.to_str().context("the folder's name is not UTF-8")?;
    let context = SessionContext::new();
    // Flink's names have no extension; what it did not finish begins with a point and is no file
    // of the table.
    let options = ParquetReadOptions { file_extension: "", ..ParquetReadOptions::default() };
    let table = context.read_parquet(format!("{folder}/"), options).await?;
    let mut batches = table.execute_stream().await?;
    let mut digest = Digest::default();
    while let Some(batch) = batches.next().await {
        engine::add(&mut digest, &batch?)?;
    }
    Ok(digest)
}
