//! Opening a pipeline: lock, bucket, broker, catalog. Nothing runs yet.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::Arc,
};

use tidemill_connectors::{
    broker::{Broker, BrokerConfig},
    failpoint,
    log::kafka::{KafkaLog, KafkaSettings},
    store,
};
use tidemill_contract::{Error, Result};
use tokio::sync::Mutex;

use super::{Pipeline, State, registry::CatalogState};
use crate::{memory::Memory, query::Workers, settings::Settings, status::Board};

/// Name of the lock file in the data folder.
const LOCK_FILE: &str = "lock";

impl Pipeline {
    /// Opens the bucket and the log, starts the embedded broker if no cluster is named, and
    /// replays the catalog.
    ///
    /// # Errors
    /// `TM605` if another process has the data folder, `TM606` if the folder cannot be used; what
    /// the bucket, the broker or the catalog object to.
    pub async fn open(settings: Settings) -> Result<Arc<Self>> {
        let limits = settings.store_limits;
        Self::open_with(settings, |store| store::guard(store, limits)).await
    }

    /// Like [`Self::open`], with whatever `complete` makes of the bare bucket, for tests that put a
    /// layer below or above its [`store::guard`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        settings: Settings,
        complete: impl FnOnce(store::Store) -> store::Store,
    ) -> Result<Arc<Self>> {
        failpoint::check()?;
        let data_dir = create_data_dir(&settings.data_dir)?;
        let lock = lock(&data_dir)?;
        let bucket = match &settings.bucket {
            Some(url) => url.clone(),
            None => data_dir.join("bucket").to_string_lossy().into_owned(),
        };
        let store = complete(store::connect(&bucket, &settings.bucket_options)?);
        let bucket_url = if bucket.contains("://") { bucket } else { format!("file://{bucket}") };
        let (broker, brokers) = match &settings.kafka_brokers {
            Some(brokers) => (None, brokers.clone()),
            None => {
                let config = BrokerConfig {
                    listen: settings.broker_listen,
                    data_dir: data_dir.join("broker"),
                    default_partitions: 1,
                    inflight_bytes_max: (settings.memory_budget / 16).min(256 << 20),
                    message_bytes_max: (settings.memory_budget as u64 / 16).min(32 << 20),
                    ..BrokerConfig::default()
                };
                let broker = Broker::start(config).await?;
                let address = broker.address().to_string();
                (Some(broker), address)
            }
        };
        let properties = settings.kafka_properties.clone();
        let memory = Arc::new(Memory::new(settings.memory_budget));
        let log = KafkaLog::new(KafkaSettings { brokers, properties })?;
        let log = log.buffering(memory.client_limit());
        let writer = uuid::Uuid::new_v4().to_string();
        let catalog = CatalogState::open(store::Store::clone(&store), writer.clone()).await?;
        Ok(Arc::new(Self {
            settings,
            lock: std::sync::Mutex::new(Some(lock)),
            broker: Mutex::new(broker),
            log,
            store,
            bucket_url,
            verified: Arc::default(),
            board: Arc::new(Board::default()),
            memory,
            workers: Workers::start()?,
            writer,
            parted: Arc::default(),
            state: Arc::new(Mutex::new(State { catalog, supervisor: None })),
            replays: Mutex::default(),
        }))
    }
}

fn create_data_dir(folder: &Path) -> Result<std::path::PathBuf> {
    store::make_folders(folder)
        .and_then(|()| folder.canonicalize())
        .map_err(|error| unusable(folder, &error))
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK_FILE);
    let file = File::create(&path).map_err(|error| unusable(folder, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::invalid(
            "TM605",
            format!("another process uses the data folder '{}'", folder.display()),
        )
        .help("stop it, or choose another data folder")),
        Err(TryLockError::Error(error)) => Err(unusable(folder, &error)),
    }
}

fn unusable(folder: &Path, error: &std::io::Error) -> Error {
    Error::invalid("TM606", format!("the data folder '{}' cannot be used", folder.display()))
        .because(error.to_string())
}
