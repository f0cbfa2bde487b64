//! What moves data from the log to long-term storage, and keeps it tidy there.
//!
//! [`Flusher`] is a task of its own: it looks at durable state, puts what lies in the log only into
//! packs (`plan`, `upload`), and says so by a record in the log; only when that is durable do segments
//! refer to the pack. What a crash leaves of it is a pack that nobody refers to. `compact` rewrites
//! packs that are mostly dead and segments that are scattered, `collect` deletes what nobody refers
//! to. Nothing here is in the way of an append: a store that fails or stalls is asked again later, and
//! the data stays in the log.

mod collect;
mod compact;
pub(crate) mod plan;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sarit_storage::{PackId, Store, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::plan::{Limits, Planned};
use crate::operation::PLACED_RUN;
use crate::pipeline::Request;
use crate::shared::Shared;
use crate::{Error, MemoryBudget};

/// First pause after a failure of the store; doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Most runs of one pack: their record has 1.5 MiB.
const RUNS_MAX: usize = 1 << 16;
/// Bounds of what a pack holds, whatever the settings say; positions in it have 32 bits.
const PACK_BYTES_MIN: u64 = 1 << 10;
const PACK_BYTES_MAX: u64 = 1 << 30;
/// Bytes of the log looked at for one plan, in shared packs.
const WINDOW_PACKS: u64 = 4;

/// A container's side of long-term storage.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) store: Store,
    /// Epoch of the log: whose packs ours are.
    epoch: u64,
    next_pack: AtomicU64,
    /// There is something to flush that should not wait.
    due: Notify,
    /// What is due now, for those who do not want to wait.
    asked: AtomicU64,
    done: AtomicU64,
    flushed: Notify,
    /// The frame of the checkpoint that the index has.
    indexed: AtomicU64,
    /// The frame of the newest export; the highest number if there are to be none.
    exported: AtomicU64,
    /// Packs that nobody refers to any more.
    garbage: Mutex<Vec<PackId>>,
    collect: Notify,
}

impl Tier {
    /// `indexed` is the frame of the checkpoint that the index has, `exports` whether there are to be any.
    pub(crate) fn new(store: Store, epoch: u64, indexed: u64, exports: bool) -> Self {
        Self {
            store,
            epoch,
            indexed: AtomicU64::new(indexed),
            exported: AtomicU64::new(if exports { 0 } else { u64::MAX }),
            next_pack: AtomicU64::new(0),
            due: Notify::new(),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            flushed: Notify::new(),
            garbage: Mutex::default(),
            collect: Notify::new(),
        }
    }

    /// Returns a number that no other pack has.
    fn pack(&self) -> Result<PackId, StoreError> {
        let n = self.next_pack.fetch_add(1, Ordering::Relaxed);
        Ok(PackId::new(self.epoch, n)?)
    }

    /// Notes packs that the durable state does not refer to any more.
    pub(crate) fn unreferenced(&self, packs: Vec<PackId>) {
        if !packs.is_empty() {
            self.garbage.lock().extend(packs);
            self.collect.notify_one();
        }
    }

    /// Notes that a checkpoint is durable.
    pub(crate) fn indexed(&self, frame: u64) {
        self.indexed.store(frame, Ordering::Release);
        self.collect.notify_one();
    }

    /// Notes that an export is durable.
    pub(crate) fn exported(&self, frame: u64) {
        self.exported.store(frame, Ordering::Release);
        self.collect.notify_one();
    }

    /// Whether neither the index nor its newest export refers to what lost its last reference with `frame`
    /// or before. `clean`: the index has everything.
    fn is_forgotten(&self, frame: u64, clean: bool) -> bool {
        let indexed = self.indexed.load(Ordering::Acquire);
        let exported = self.exported.load(Ordering::Acquire);
        (frame <= indexed || clean) && frame.min(indexed) <= exported
    }

    /// Makes the flusher look: there is something to flush.
    pub(crate) fn wake(&self) {
        self.due.notify_one();
    }

    /// Has everything flushed that is durable by now, and waits for it.
    pub(crate) async fn flush(&self) {
        let turn = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.due.notify_one();
        loop {
            let mut flushed = std::pin::pin!(self.flushed.notified());
            flushed.as_mut().enable();
            if self.done.load(Ordering::Acquire) >= turn {
                return;
            }
            flushed.await;
        }
    }
}

/// Whether so much in the log should not wait for its time.
pub(crate) fn is_due(shared: &Shared, unflushed: u64) -> bool {
    unflushed >= shared.config.flush.bytes || presses(&shared.memory, unflushed)
}

/// Whether the process's frames are half full of what is not in packs, and this container has its
/// share of that.
fn presses(memory: &MemoryBudget, unflushed: u64) -> bool {
    let (all, owners) = memory.unflushed();
    unflushed > 0 && all > memory.frames_max() / 2 && unflushed * owners >= all
}

/// The task.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    tier: Arc<Tier>,
    requests: mpsc::Sender<Request>,
}

impl Flusher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        tier: Arc<Tier>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self {
            shared,
            tier,
            requests,
        }
    }

    /// Runs until it is dropped, or until the container stops.
    ///
    /// # Errors
    /// [`Error::Storage`] if long-term storage holds something else than was written.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let this = Arc::new(self);
        let mut tasks = JoinSet::new();
        tasks.spawn(collect::run(this.clone()));
        tasks.spawn(compact::run(this.clone()));
        tasks.spawn(flush(this.clone()));
        match tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => Ok(()),
        }
    }

    fn limits(&self) -> Limits {
        let config = &self.shared.config.flush;
        let record = usize::try_from(self.shared.log.frame_bytes_max() / 4).unwrap_or(usize::MAX);
        let shared_pack_bytes = config
            .bytes
            .min(self.shared.memory.uploads_max())
            .max(PACK_BYTES_MIN);
        Limits {
            big_bytes: config.big_bytes.max(1),
            big_pack_bytes: config.big_pack_bytes.clamp(PACK_BYTES_MIN, PACK_BYTES_MAX),
            shared_pack_bytes,
            runs: RUNS_MAX.min(record / PLACED_RUN).max(1),
            window_bytes: config.bytes.max(WINDOW_PACKS * shared_pack_bytes),
        }
    }

    /// Uploads packs, some at a time, and has each noted in the log. Returns whether all got there.
    async fn store(self: &Arc<Self>, packs: Vec<Planned>, compact: bool) -> Result<bool, Error> {
        let mut uploads = JoinSet::new();
        let mut packs = packs.into_iter();
        let mut all = true;
        let at_once = self.shared.config.flush.uploads.max(1);
        loop {
            while uploads.len() < at_once
                && let Some(planned) = packs.next()
            {
                let this = self.clone();
                uploads.spawn(async move { upload::store(&this, &planned, compact).await });
            }
            match uploads.join_next().await {
                None => return Ok(all),
                Some(Ok(stored)) => {
                    let stored = stored?;
                    all &= stored;
                    if !stored {
                        // The rest would fail alike, or is out of date.
                        packs = Vec::new().into_iter();
                    }
                }
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                Some(Err(_)) => return Ok(false),
            }
        }
    }
}

/// Flushes when there is enough, or it is old enough, or memory runs short.
async fn flush(this: Arc<Flusher>) -> Result<(), Error> {
    let (shared, tier) = (&this.shared, &this.tier);
    let period = Duration::from_millis(shared.config.flush.period_ms.max(1));
    let mut pause = PAUSE_MIN;
    // Since when something has been waiting.
    let mut since = None;
    // What someone waits for: everything up to a frame.
    let mut wanted: Option<(u64, u64)> = None;
    loop {
        let turn = tier.asked.load(Ordering::Acquire);
        let (unflushed, oldest, frame) = {
            let state = shared.state.read();
            let usage = &state.usage;
            (usage.unflushed(), usage.oldest_unflushed(), state.frame)
        };
        if wanted.is_none() && turn > tier.done.load(Ordering::Acquire) {
            wanted = Some((turn, frame));
        }
        if let Some((turn, frame)) = wanted
            && oldest.is_none_or(|oldest| oldest > frame)
        {
            tier.done.fetch_max(turn, Ordering::AcqRel);
            tier.flushed.notify_waiters();
            wanted = None;
            continue;
        }
        if unflushed == 0 {
            since = None;
            tier.due.notified().await;
            continue;
        }
        let deadline = *since.get_or_insert_with(Instant::now) + period;
        if wanted.is_none() && !is_due(shared, unflushed) && Instant::now() < deadline {
            tokio::select! {
                biased;
                () = tier.due.notified() => {}
                () = sleep_until(deadline) => {}
            }
            continue;
        }
        let packs = {
            let state = shared.state.read();
            plan::flush(&state, &this.limits())
        };
        let started = Instant::now();
        if this.store(packs, false).await? {
            pause = PAUSE_MIN;
            since = Some(started);
        } else {
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }
}
