//! SIGINT and SIGTERM: the first asks for a graceful stop, the second ends the process at once.

use std::io::{self, Write as _};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code after a second signal, as shells use it for SIGINT.
const CUT_SHORT: i32 = 130;

/// Tells when the process was asked to stop. Clones wait for the same request.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Starts to listen; from here on the signals no longer kill the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            sender.send_replace(true);
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            stage("second signal: ending at once; the last commit stands");
            std::process::exit(CUT_SHORT);
        });
        Ok(Self(receiver))
    }

    /// Completes when the process was asked to stop.
    pub(super) async fn requested(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            // The listener never ends before the process does.
            std::future::pending::<()>().await;
        }
    }
}

/// One line on stderr for a stage of the process's life.
pub(super) fn stage(line: &str) {
    // A closed stderr must not stop a shutdown.
    writeln!(io::stderr(), "tidemill: {line}").ok();
}
