//! A database's compactor, which the database starts without.
//!
//! To take it up, the database would write four small objects before it opens, and look for work as its first
//! act. Nothing needs compacting in the first seconds of a start, and appends wait for the index. So it begins a
//! moment later, and what it gives up over does not end the database.

use std::sync::Arc;
use std::time::Duration;

use slatedb::config::CompactorOptions;
use slatedb::object_store::ObjectStore;
use slatedb::{CloseReason, CompactorBuilder, ErrorKind};
use slatedb_common::clock::SystemClock;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long after its opening a database is left alone.
const CALM: Duration = Duration::from_secs(2);
/// How long the end of a compactor may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a compactor works on, and how.
pub(super) struct Work {
    pub(super) path: String,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<dyn SystemClock>,
    pub(super) options: CompactorOptions,
}

/// A compactor that runs until it is stopped or another process has taken over.
pub(super) struct Compacting {
    stop: CancellationToken,
    again: Arc<Notify>,
    task: Mutex<JoinSet<()>>,
}

impl Compacting {
    pub(super) fn start(work: Work) -> Self {
        let (stop, again) = (CancellationToken::new(), Arc::new(Notify::new()));
        let mut task = JoinSet::new();
        task.spawn(run(work, stop.clone(), again.clone()));
        let task = Mutex::new(task);
        Self { stop, again, task }
    }

    /// Has it begin again, with what is durable now. Like a writer, see `slate`, it may stray, and then waits for ever
    /// for what it believes to have written.
    pub(super) fn restart(&self) {
        self.again.notify_one();
    }

    /// Ends it, and with it what it has under way.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        while self.task.lock().await.join_next().await.is_some() {}
    }
}

async fn run(work: Work, stop: CancellationToken, again: Arc<Notify>) {
    let (path, poll) = (work.path.as_str(), work.options.poll_interval);
    let mut pause = CALM.min(poll);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => pause = poll,
        }
        let compactor = CompactorBuilder::new(path, work.objects.clone())
            .with_options(work.options.clone())
            .with_system_clock(work.clock.clone())
            .build();
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            () = again.notified() => None,
            ended = compactor.run() => Some(ended),
        };
        // One of its two tasks may have ended alone.
        if timeout(STOP_TIMEOUT, compactor.stop()).await.is_err() {
            tracing::warn!(path, "the index's compactor does not end");
        }
        match ended {
            None if stop.is_cancelled() => return,
            None => tracing::info!(path, "the index's compactor begins again"),
            Some(Ok(())) => tracing::warn!(path, "the index's compactor ended and begins again"),
            Some(Err(error)) if error.kind() == ErrorKind::Closed(CloseReason::Fenced) => {
                tracing::info!(path, "another process compacts the index");
                return;
            }
            Some(Err(error)) => {
                tracing::warn!(path, %error, "the index's compactor gave up and begins again");
            }
        }
    }
}
