//! Logs in files on one host.
//!
//! ```text
//! {dir}/{file number, 16 hex digits}.wal      files of one lane, in order of their numbers
//! ```
//! All logs share one lane: `lane.rs` writes it, `keeper` prepares and reuses its files, `recovery`
//! reads it at start into the `index`. The folder is locked by the process: that, and the epoch in
//! the chain record, is the fencing on one machine. Not for network file systems.

pub(crate) mod file;
pub(crate) mod index;
mod keeper;
mod read;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sarit_env::{Clock, Disk, Rng, Worker, spawn_worker};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::lane::{Lane, LaneWorker};
use crate::loglet::{Loglets, Pending, Tail};
use crate::{Config, Error, Frame, FrameNo, LogId, Replay, Space, Stats, WalEpoch};

use file::{FileState, WalFile};
use index::Index;

/// One write being synced, one gathering.
const WINDOW: usize = 2;
/// A lane that fills files faster than this, in bytes per second, is in a hurry.
const HURRY: f64 = 64e6;
/// Reads from disk at the same time; each may hold a whole frame.
const READS_MAX: usize = 4;

/// What the workers of one lane share.
pub(crate) struct Local {
    pub(crate) lane: Lane,
    pub(crate) index: Mutex<Index>,
    files: Mutex<Files>,
    /// Something changed for the keeper.
    keeper: Notify,
    reads: Semaphore,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: [u8; 16],
    pub(crate) config: Config,
    pub(crate) boot: u64,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
}

/// The lane's files besides those that hold frames.
#[derive(Default)]
struct Files {
    /// Prepared, lowest number first.
    ready: VecDeque<WalFile>,
    /// Full: their end is to be recorded.
    closing: Vec<(WalFile, u64)>,
    /// To be removed.
    discarded: Vec<WalFile>,
    last_number: u64,
    /// The lane waits for a file.
    starving: bool,
    /// The lane fills files faster than zeros should be written for it.
    hurried: bool,
    /// When the lane took the file it writes to.
    rolled: Option<Instant>,
    /// The lane needs a file for so many bytes of exempt frames, from the reserve if need be.
    reserve: Option<u64>,
    stopped: bool,
}

impl Local {
    /// Takes a ready file with room for a frame of `bytes`; if there is none, the keeper knows.
    pub(crate) fn take_ready(&self, bytes: u64) -> Option<WalFile> {
        let full = *self.lane.space.borrow() != Space::Ok;
        let mut files = self.files.lock();
        let mut found = None;
        while let Some(file) = files.ready.pop_front() {
            if WalFile::room(file.len) >= bytes {
                found = Some(file);
                break;
            }
            // Numbers rise along the lane, so a file passed over is never used.
            files.discarded.push(file);
        }
        match &found {
            Some(_) => {
                files.reserve = None;
                files.starving = full;
            }
            None => {
                files.starving = true;
                files.reserve = full.then_some(bytes);
            }
        }
        drop(files);
        self.keeper.notify_one();
        found
    }

    /// Makes the file the lane writes to from now on known.
    pub(crate) fn use_file(&self, file: &WalFile) {
        if matches!(file.header.state, FileState::Active { .. }) {
            self.files.lock().rolled = Some(Instant::now());
        }
        let mut index = self.index.lock();
        index.add_file(file.clone());
        self.lane.metrics.set_files(index.files());
    }

    /// Has the end of a full file recorded.
    pub(crate) fn close_file(&self, file: WalFile, end: u64) {
        let mut files = self.files.lock();
        if let Some(rolled) = files.rolled {
            files.hurried = end as f64 > HURRY * rolled.elapsed().as_secs_f64();
        }
        files.closing.push((file, end));
        drop(files);
        self.keeper.notify_one();
    }

    /// Has a file removed that was taken but never written to.
    pub(crate) fn discard(&self, file: WalFile) {
        self.index.lock().remove_file(file.header.number);
        self.files.lock().discarded.push(file);
        self.keeper.notify_one();
    }

    /// Ends lane and keeper for good.
    pub(crate) fn stop(&self, error: Error) {
        self.lane.fail(error, Vec::new());
        self.files.lock().stopped = true;
        self.keeper.notify_one();
    }
}

/// The engine: one lane and its workers.
pub(crate) struct LocalLoglets {
    local: Arc<Local>,
    workers: tokio::sync::Mutex<Option<(Worker<()>, Worker<()>)>>,
}

impl LocalLoglets {
    /// Recovers the lane in `dir` and starts its workers.
    pub(crate) async fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        config: Config,
        identity: [u8; 16],
        clock: Clock,
        rng: Rng,
    ) -> Result<Self, Error> {
        let recovering = {
            let (disk, dir) = (disk.clone(), dir.clone());
            async move {
                let created = disk.create_dir_all(&dir).await;
                created.map_err(|error| Error::io("create", &dir, error))?;
                recovery::recover(&*disk, &dir, identity).await
            }
        };
        let ended = || Err(Error::stopped("the recovery worker ended"));
        let recovering = spawn_worker("wal-recovery", recovering).await;
        let found = recovering.unwrap_or_else(ended)?;
        tracing::info!(
            boot = found.boot,
            files = found.index.files(),
            ready = found.ready.len(),
            lsn = found.lsn,
            "lane recovered"
        );
        let local = Arc::new(Local {
            lane: Lane::new(),
            files: Mutex::new(Files {
                ready: found.ready.into(),
                last_number: found.last_number,
                ..Files::default()
            }),
            index: Mutex::new(found.index),
            keeper: Notify::new(),
            reads: Semaphore::new(READS_MAX),
            disk,
            dir,
            identity,
            config,
            boot: found.boot,
            clock,
            rng,
        });
        let lane = LaneWorker::new(local.clone(), found.lsn, found.prev);
        let keeper = keeper::run(local.clone());
        let workers = (
            spawn_worker("wal-lane-0", lane.run()),
            spawn_worker("wal-keeper", keeper),
        );
        Ok(Self {
            local,
            workers: tokio::sync::Mutex::new(Some(workers)),
        })
    }
}

impl Drop for LocalLoglets {
    fn drop(&mut self) {
        self.local.lane.abandon();
        self.local.files.lock().stopped = true;
        self.local.keeper.notify_one();
    }
}

#[async_trait]
impl Loglets for LocalLoglets {
    async fn seal(&self, log: LogId, epoch: WalEpoch, from: FrameNo) -> Result<Tail, Error> {
        self.local.lane.fence(log, epoch).await?;
        self.local.index.lock().tail(log, epoch, from)
    }

    fn start(&self, log: LogId, epoch: WalEpoch, tail: Tail) -> Result<Arc<AtomicU64>, Error> {
        let durable = self.local.lane.start(log, epoch, tail.last.0)?;
        self.local.index.lock().start(log, tail);
        Ok(durable)
    }

    fn append(&self, pending: Pending) {
        self.local.lane.append(pending);
    }

    fn replay(&self, log: LogId, from: FrameNo, to: FrameNo) -> Replay {
        read::replay(self.local.clone(), log, from, to)
    }

    async fn read(&self, log: LogId, number: FrameNo) -> Result<Frame, Error> {
        let local = self.local.clone();
        self.local
            .reading(async move { local.read(log, number).await })
            .await
    }

    async fn read_range(
        &self,
        log: LogId,
        number: FrameNo,
        offset: u32,
        len: u32,
    ) -> Result<Bytes, Error> {
        let local = self.local.clone();
        self.local
            .reading(async move { local.read_range(log, number, offset, len).await })
            .await
    }

    fn releases(&self, log: LogId, keep_from: FrameNo) -> bool {
        self.local.index.lock().releases(log, keep_from)
    }

    fn releases_full(&self, log: LogId, keep_from: FrameNo) -> bool {
        self.local.index.lock().releases_full(log, keep_from)
    }

    fn truncate(&self, log: LogId, keep_from: FrameNo) {
        self.local.index.lock().truncate(log, keep_from);
        self.local.keeper.notify_one();
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn space(&self) -> watch::Receiver<Space> {
        self.local.lane.space.subscribe()
    }

    fn failed(&self) -> watch::Receiver<Option<Error>> {
        self.local.lane.failed.subscribe()
    }

    fn stats(&self) -> Stats {
        self.local.lane.metrics.stats()
    }

    async fn close(&self) -> Result<(), Error> {
        self.local.lane.close();
        if let Some((lane, keeper)) = self.workers.lock().await.take() {
            lane.await;
            self.local.files.lock().stopped = true;
            self.local.keeper.notify_one();
            keeper.await;
        }
        let failed = self.local.lane.failed.borrow().clone();
        failed.map_or(Ok(()), Err)
    }
}
