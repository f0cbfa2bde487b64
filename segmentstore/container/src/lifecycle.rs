//! Open → recover → serve → stop: the owner of a container's one task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use parking_lot::RwLock;
use sarit_env::{Clock, Rng};
use sarit_proto::ids::ContainerId;
use sarit_storage::Store;
use sarit_wal::{LogId, Opened, Wal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Triggers;
use crate::flush::{Flusher, Tier};
use crate::index::entries::Applied;
use crate::metrics::Metrics;
use crate::pipeline::{Pipeline, Request};
use crate::read::ahead::Ahead;
use crate::read::waiters::Waiters;
use crate::residents::Pins;
use crate::shared::Shared;
use crate::state::Seeded;
use crate::{Config, Container, Error, Indexes, MemoryBudget, checkpoint, export, recovery};

/// Reads of one container's log at the same time.
const LOG_READS: usize = 4;

/// Segments of one container brought back from the index at the same time.
const LOADS: usize = 16;

/// What a container needs from the process it lives in.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Wall time, kept with what is written.
    pub clock: Clock,
    /// Seeds the container's hash tables.
    pub rng: Rng,
    /// The process's memory.
    pub memory: MemoryBudget,
    /// Where checkpoints go.
    pub index: Indexes,
    /// Long-term storage; without it all data stays in the log.
    pub storage: Option<Store>,
}

/// The running container: resolves when it has ended, `Ok` after a stop.
///
/// An error means that the log failed or did not make sense: open the container again, here or
/// elsewhere, to find out what is durable. Dropping this ends the container at once, without answers.
#[derive(Debug)]
pub struct Running(JoinSet<Result<(), Error>>);

impl Future for Running {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_join_next(cx).map(|joined| match joined {
            Some(Ok(outcome)) => outcome,
            Some(Err(panicked)) if panicked.is_panic() => {
                std::panic::resume_unwind(panicked.into_panic())
            }
            // Aborted, or polled again after it had resolved.
            Some(Err(_)) | None => Err(Error::Stopping),
        })
    }
}

pub(crate) async fn open(
    id: ContainerId,
    wal: &Wal,
    parts: Parts,
    config: Config,
) -> Result<(Container, Running), Error> {
    let Parts {
        clock,
        rng,
        memory,
        index,
        storage,
    } = parts;
    let Opened { epoch, log, replay } = wal.open_log(LogId(id.0)).await?;
    // Only now: whoever had the log before cannot note a checkpoint in it any more.
    let index = index.open(id).await?;
    let kept_from = replay.first().0;
    let started = Instant::now();
    let hasher = Seeded(rng.u64());
    let mut state = recovery::recover(&*index, &log, replay, hasher).await?;
    tracing::info!(
        container = %id,
        %epoch,
        kept_from,
        frame = state.frame,
        segments = state.total,
        in_memory = state.len(),
        elapsed = ?started.elapsed(),
        "container recovered"
    );
    let indexed = Applied::of(&*index).await?;
    let tier = storage.map(|store| {
        let exports = config.export_seconds > 0;
        let indexed = indexed.map_or(0, |applied| applied.frame);
        Arc::new(Tier::new(store, epoch.0, indexed, exports))
    });
    let garbage = state.usage.take_garbage();
    if let Some(tier) = &tier {
        tier.unreferenced(garbage);
    }
    let metrics = Metrics::new(id);
    metrics.state(&state);
    metrics.kept_from.set(kept_from);
    let shared = Arc::new(Shared {
        id,
        unflushed: AtomicU64::new(0),
        ahead: Ahead::new(state.hasher()),
        tier,
        state: RwLock::new(state),
        log,
        index,
        checkpoints: Triggers::default(),
        pins: Pins::new(hasher),
        loads: Semaphore::new(LOADS),
        owner: memory.frames().owner(),
        memory,
        waiters: Waiters::new(config.waiters, id),
        log_reads: Semaphore::new(LOG_READS),
        metrics,
        stopping: CancellationToken::new(),
        #[cfg(test)]
        trace: parking_lot::Mutex::default(),
        config,
    });
    if let Err(error) = export::begin(&shared, indexed).await {
        shared.index.close().await;
        return Err(error);
    }
    let (fillers, fillers_inbox) = mpsc::channel(shared.config.inbox.max(1));
    let (requests, requests_inbox) = mpsc::channel(shared.config.inbox.max(1));
    let pipeline = Pipeline::new(
        shared.clone(),
        clock,
        fillers_inbox,
        requests_inbox,
        wal.space(),
    );
    let ended = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (shared_too, requests_too) = (shared.clone(), requests.clone());
    tasks.spawn(serve(shared_too, pipeline, requests_too, ended.clone()));
    let container = Container::new(shared, fillers, requests, ended);
    let running = Running(tasks);
    container.sweep().await;
    Ok((container, running))
}

/// What has to happen when the task ends, also when it is aborted.
struct Ending {
    shared: Arc<Shared>,
    ended: CancellationToken,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Handles may outlive the container for long; its frames should not.
        self.shared.forget_frames();
        self.shared.stopping.cancel();
        self.ended.cancel();
    }
}

/// Runs the sequencer beside the checkpoints, then makes the last checkpoint and closes index and log.
async fn serve(
    shared: Arc<Shared>,
    pipeline: Pipeline,
    requests: mpsc::Sender<Request>,
    ended: CancellationToken,
) -> Result<(), Error> {
    let ending = Ending { shared, ended };
    let shared = &ending.shared;
    let mut checkpoints = JoinSet::new();
    let own = shared.clone();
    let flusher =
        (shared.tier.clone()).map(|tier| Flusher::new(shared.clone(), tier, requests.clone()));
    checkpoints.spawn(async move {
        let outcome = checkpoint::run(own.clone(), requests).await;
        own.stopping.cancel();
        outcome
    });
    let flushing = async {
        match flusher {
            Some(flusher) => match flusher.run().await {
                // It ends by itself only when the container does.
                Ok(()) | Err(Error::Stopping | Error::OutcomeUnknown) => {
                    std::future::pending().await
                }
                Err(error) => error,
            },
            None => std::future::pending().await,
        }
    };
    let sequenced = tokio::select! {
        biased;
        outcome = pipeline.run(shared.stopping.clone()) => outcome,
        error = flushing => Err(error),
    };
    shared.stopping.cancel();
    let outcome = match checkpoints.join_next().await {
        Some(Ok(ended)) => sequenced.and(ended),
        Some(Err(panicked)) if panicked.is_panic() => {
            std::panic::resume_unwind(panicked.into_panic())
        }
        Some(Err(_)) | None => sequenced,
    };
    if outcome.is_ok() {
        checkpoint::last(shared).await;
    }
    shared.index.close().await;
    match &outcome {
        Ok(()) => {
            // Nothing is lost if this fails: the next opening seals the log instead.
            if let Err(error) = shared.log.clone().close().await {
                tracing::warn!(container = %shared.id, %error, "the log was not closed in order");
            }
            tracing::info!(container = %shared.id, "container stopped");
        }
        Err(error) => tracing::error!(container = %shared.id, %error, "container failed"),
    }
    outcome
}
