//! Checkpoints, and the cut of the log behind them.
//!
//! One task per container: takes hold of what changed up to a frame, writes it to the index as one
//! batch, notes the end in the log, and only when that is durable cuts the log, in the one place that
//! does. A checkpoint that cannot be written is repeated; nothing waits for it but the space in the log.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use sarit_wal::FrameNo;
use tokio::sync::{Notify, SemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::export::Exports;
use crate::index::Batch;
use crate::index::entries::Applied;
use crate::pipeline::{Request, Wish};
use crate::shared::Shared;
use crate::state::Sid;
use crate::{Config, Error, recovery, residents};

/// Segments written down with the state locked once.
const BIT: usize = 256;
/// How long to wait before a failed checkpoint is tried again: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// While the log is full, how long to wait between checkpoints.
const HURRY: Duration = Duration::from_secs(1);
/// How long the last checkpoint may delay a stop; without it the next start replays more.
const LAST: Duration = Duration::from_secs(15);

/// How long one container has the turn to write a checkpoint, and how long it waits for it.
const TURN_MOST: Duration = Duration::from_secs(5);

/// What tells when a checkpoint is due.
#[derive(Debug, Default)]
pub(crate) struct Triggers {
    /// Bytes of log since the last one.
    bytes: AtomicU64,
    hurry: AtomicBool,
    due: Notify,
    crowded: Notify,
}

impl Triggers {
    /// Notes that the log grew, and how many segments changed since the last checkpoint.
    pub(crate) fn grown(&self, bytes: usize, changed: usize, config: &Config) {
        let bytes = bytes as u64 + self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if bytes >= config.checkpoint_bytes || changed >= config.checkpoint_segments {
            self.due.notify_one();
        }
    }

    /// Notes how many segments are in memory.
    pub(crate) fn resident(&self, segments: usize, config: &Config) {
        if segments > config.resident_segments {
            self.crowded.notify_one();
        }
    }

    /// Returns whether the log is full.
    pub(crate) fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    /// Notes whether the log is full: then every change may make room.
    pub(crate) fn hurry(&self, hurry: bool) {
        if self.hurry.swap(hurry, Ordering::Relaxed) != hurry {
            self.due.notify_one();
        }
    }
}

/// Returns the first frame the log has to keep.
///
/// `checkpoint` is the frame of a checkpoint whose end is durable in the log; `oldest` the oldest frame
/// that holds bytes which are nowhere else.
pub(crate) fn cut(checkpoint: u64, oldest: Option<u64>) -> u64 {
    let keep_from = oldest.map_or(checkpoint + 1, |oldest| oldest.min(checkpoint + 1));
    if cfg!(planted = "cut_one_frame_early") {
        return keep_from + 1;
    }
    keep_from
}

/// Makes checkpoints, and lets segments go that nobody uses, until the container stops.
pub(crate) async fn run(shared: Arc<Shared>, requests: mpsc::Sender<Request>) -> Result<(), Error> {
    let period = Duration::from_secs(shared.config.checkpoint_seconds.max(1));
    let triggers = &shared.checkpoints;
    if !shared.state.read().dirty.is_empty() {
        // Replayed: a container that crashes before its period is over would keep the log for ever.
        triggers.due.notify_one();
    }
    let (mut last, mut last_eviction) = (Instant::now(), Instant::now());
    let mut hand = Sid(0);
    let mut indexed = Applied::of(&*shared.index).await?;
    let mut exports = Exports::new(&shared, indexed);
    loop {
        let hurry = triggers.is_hurried();
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return Ok(()),
            () = triggers.due.notified(), if !hurry => {
                // A full log does not make one after the other without end.
                if triggers.is_hurried() {
                    last = Instant::now();
                    continue;
                }
            }
            () = sleep_until(last + if hurry { HURRY.min(period) } else { period }) => {}
            () = triggers.crowded.notified(), if last_eviction.elapsed() >= HURRY => {
                hand = residents::evict(&shared, hand).await;
                last_eviction = Instant::now();
                continue;
            }
            // Only to look at the one above again.
            () = sleep_until(last_eviction + HURRY), if last_eviction.elapsed() < HURRY => continue,
        }
        last = Instant::now();
        if shared.state.read().dirty.is_empty() && !keeps_full(&shared) {
            if let Some(applied) = indexed {
                export(&shared, &mut exports, applied).await;
            }
            continue;
        }
        let Some(applied) = checkpoint(&shared).await? else {
            return Ok(());
        };
        if !note(applied, &requests).await {
            return Ok(());
        }
        truncate(&shared, applied).await?;
        indexed = Some(applied);
        if let Some(tier) = &shared.tier {
            tier.indexed(applied.frame);
        }
        // Only now: to `collect` it means that the frame just noted has everything.
        shared.state.write().dirty.settled();
        export(&shared, &mut exports, applied).await;
        hand = residents::evict(&shared, hand).await;
        last_eviction = Instant::now();
    }
}

/// Whether the log is kept in a file that is full, by frames that a checkpoint of now would make needless: the
/// end of the last one, or what a crash kept from being cut. An idle container would keep them for ever, and
/// with them the whole file, from others that need the space and for every start to read.
fn keeps_full(shared: &Shared) -> bool {
    let keep_from = {
        let state = shared.state.read();
        cut(state.frame, state.usage.oldest_unflushed())
    };
    shared.log.holds_full(FrameNo(keep_from))
}

/// Copies the index to long-term storage, if it is time to. Not while the log is full: a checkpoint is
/// more urgent then.
async fn export(shared: &Arc<Shared>, exports: &mut Exports, applied: Applied) {
    if shared.checkpoints.is_hurried() {
        return;
    }
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => {}
        () = exports.make(shared, applied) => {}
    }
}

/// Makes the last checkpoint, when nothing changes any more.
pub(crate) async fn last(shared: &Arc<Shared>) {
    if shared.state.read().dirty.is_empty() {
        return;
    }
    let (_, batch) = begin(shared).await;
    match timeout(LAST, shared.index.checkpoint(&batch)).await {
        Ok(Ok(())) => {
            shared.state.write().dirty.settled();
            shared.metrics.checkpoints.add(1);
            tracing::debug!(container = %shared.id, "last checkpoint made");
        }
        Ok(Err(error)) => {
            tracing::warn!(container = %shared.id, %error, "no last checkpoint: the next start replays more");
        }
        Err(_) => {
            tracing::warn!(container = %shared.id, "no last checkpoint in time: the next start replays more");
        }
    }
}

/// Writes one checkpoint to the index, however often it takes; `None` if the container stops meanwhile. It
/// stays under way until it is [settled](crate::state::Dirty::settled).
async fn checkpoint(shared: &Arc<Shared>) -> Result<Option<Applied>, Error> {
    let turn = tokio::select! {
        biased;
        () = shared.stopping.cancelled() => return Ok(None),
        turn = turn(shared) => turn,
    };
    // What told about changes while it waited told about this one. Told again by the next change, if need be.
    let _ = shared.checkpoints.due.notified().now_or_never();
    shared.checkpoints.bytes.store(0, Ordering::Relaxed);
    let started = Instant::now();
    let (applied, batch) = begin(shared).await;
    shared.metrics.checkpoints_under_way.set(1);
    let written = write(shared, turn, &batch).await;
    shared.metrics.checkpoints_under_way.set(0);
    if !written? {
        // Not to be lost: the last checkpoint begins with it.
        shared.state.write().dirty.give_back(batch);
        return Ok(None);
    }
    shared.metrics.checkpoints.add(1);
    shared.metrics.checkpoint_bytes.add(batch.bytes() as u64);
    tracing::debug!(
        container = %shared.id,
        frame = applied.frame,
        changes = batch.changes.len(),
        bytes = batch.bytes(),
        elapsed = ?started.elapsed(),
        "checkpoint made"
    );
    Ok(Some(applied))
}

/// Writes a batch, however often it takes; false if the container stops meanwhile.
async fn write<'a>(
    shared: &'a Shared,
    mut turn: Option<SemaphorePermit<'a>>,
    batch: &Batch,
) -> Result<bool, Error> {
    let mut wait = RETRY_FIRST;
    loop {
        let written = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return Ok(false),
            written = in_turn(shared, &mut turn, batch) => written,
        };
        match written {
            Ok(()) => return Ok(true),
            Err(error @ Error::DamagedIndex(_)) => return Err(error),
            Err(error) => {
                shared.metrics.checkpoint_failures.add(1);
                tracing::warn!(container = %shared.id, %error, "a checkpoint failed and is repeated; the log is kept meanwhile");
            }
        }
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => {}
            () = tokio::time::sleep(wait) => wait = (2 * wait).min(RETRY_MOST),
        }
    }
}

/// Tries once to write a batch, in the `turn` that there is or in a new one: nobody waits for repeated trials of others.
async fn in_turn<'a>(
    shared: &'a Shared,
    turn: &mut Option<SemaphorePermit<'a>>,
    batch: &Batch,
) -> Result<(), Error> {
    let turn = match turn.take() {
        Some(turn) => Some(turn),
        None => self::turn(shared).await,
    };
    let mut writing = pin!(shared.index.checkpoint(batch));
    tokio::select! {
        biased;
        written = &mut writing => return written,
        () = tokio::time::sleep(TURN_MOST) => drop(turn),
    }
    writing.await
}

/// Waits for the turn, but not for ever: an index that hangs must not keep others from cutting their logs.
async fn turn(shared: &Shared) -> Option<SemaphorePermit<'_>> {
    timeout(TURN_MOST, shared.memory.checkpoint()).await.ok()
}

async fn begin(shared: &Shared) -> (Applied, Batch) {
    let applied = shared.state.write().begin_checkpoint();
    loop {
        if let Some(batch) = shared.state.write().take_checkpoint(BIT) {
            return (applied, batch);
        }
        tokio::task::yield_now().await;
    }
}

/// Notes the end of a checkpoint in the log; whether it is durable there.
async fn note(applied: Applied, requests: &mpsc::Sender<Request>) -> bool {
    let (caller, noted) = oneshot::channel();
    let request = Request {
        segment: "".into(),
        wish: Wish::CheckpointEnd(applied, caller),
        pins: Vec::new(),
    };
    requests.send(request).await.is_ok() && matches!(noted.await, Ok(Ok(())))
}

/// The one place that cuts the log.
async fn truncate(shared: &Arc<Shared>, applied: Applied) -> Result<(), Error> {
    let oldest = shared.state.read().usage.oldest_unflushed();
    let keep_from = cut(applied.frame, oldest);
    if let Err(error) = shared.log.truncate(FrameNo(keep_from)).await {
        tracing::warn!(container = %shared.id, %error, "the log was not cut; the next checkpoint tries again");
        return Ok(());
    }
    shared.metrics.kept_from.set(keep_from);
    if shared.config.check_cuts {
        recovery::check(shared, FrameNo(keep_from)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn the_log_is_cut_behind_the_checkpoint_but_never_behind_unstored_bytes() {
        assert_eq!(cut(7, None), 8);
        assert_eq!(cut(7, Some(3)), 3);
        assert_eq!(cut(7, Some(7)), 7);
        assert_eq!(cut(7, Some(9)), 8);
        assert_eq!(cut(0, None), 1);
    }
}
