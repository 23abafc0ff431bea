//! Steps of a job that wait for the bucket or the log: the job's thread blocks, the status says so
//! if it takes long, and a commit's steps end at the commit's deadline.

use std::time::Instant;

use tidemill_contract::{Error, Result};

use super::{JobConfig, JobEnvironment};
use crate::patience::patiently;

/// Waits for a step. Its operations have deadlines of their own.
pub(super) fn step<T>(
    environment: &JobEnvironment,
    config: &JobConfig,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let slow = || {
        let what = format!("job '{}' waits", config.name);
        let error = Error::unavailable("TM507", what)
            .because("the log or the bucket has not answered for some seconds");
        environment.board.update_job(&config.name, |status| {
            "degraded".clone_into(&mut status.state);
            status.error = Some(error.to_string());
        });
    };
    // Boxed: the futures of a commit are large.
    environment.executor.block_on(Box::pin(patiently(work, slow)))
}

/// The same for a step of a commit.
pub(super) fn step_until<T>(
    environment: &JobEnvironment,
    config: &JobConfig,
    deadline: Instant,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let in_time = async {
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, work).await.unwrap_or_else(|_| {
            let limit = environment.commit_timeout;
            let what = format!("job '{}': a commit takes longer than {limit:?}", config.name);
            Err(Error::unavailable("TM709", what)
                .because("the bucket or the log is slow")
                .help("it is tried again from the last commit; raise state.commit_timeout"))
        })
    };
    step(environment, config, in_time)
}
