//! Logs as their owners see them: open, append, read, truncate, close.
//!
//! [`Wal::open_log`] reads the chain record, seals what is open, and swaps in a record with the next
//! epoch; from then on older owners are fenced. [`DurableLog::append`] gives the frame its number, so
//! the order is that of the calls.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_env::{Clock, Disk, Rng};
use tokio::sync::watch;

use crate::chain::{LocalChain, LogletRecord};
use crate::local::LocalLoglets;
use crate::loglet::{Loglets, Pending, Tail};
use crate::memory::Memory;
use crate::record::FrameHeader;
use crate::{
    AppendTicket, ChainRecord, ChainStore, Config, Error, Frame, FrameBuilder, FrameNo, FramePool,
    LogId, Priority, Replay, Space, Stats, WalEpoch,
};

/// More frames of one log than this are never in flight: owners wait for tickets.
const IN_FLIGHT_MAX: u64 = 64;

/// All logs of one segment store process. Clones are the same WAL.
#[derive(Clone)]
pub struct Wal(Arc<Inner>);

struct Inner {
    loglets: Arc<dyn Loglets>,
    kind: u8,
    chain: Arc<dyn ChainStore>,
    pool: FramePool,
    frame_bytes_max: u64,
}

/// A log that was just opened.
#[derive(Debug)]
pub struct Opened {
    /// The epoch of this opening; every lower one is fenced.
    pub epoch: WalEpoch,
    /// The log, ready for appends.
    pub log: DurableLog,
    /// What it holds.
    pub replay: Replay,
}

impl Wal {
    /// Opens the WAL in `dir`, which the caller has locked: `wal/lane-0/*.wal` and `chain/{log}`.
    ///
    /// Scans the lane's files, so that logs open fast; damage shows when the logs it touches are opened.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::FutureVersion`], [`Error::ForeignFile`] if `identity` is not that of
    /// the files, [`Error::Io`].
    pub async fn open_local(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: Config,
        identity: [u8; 16],
        clock: Clock,
        rng: Rng,
    ) -> Result<Self, Error> {
        config.validate()?;
        let chain = LocalChain::open(disk.clone(), dir.join("chain")).await?;
        let lane = dir.join("wal").join("lane-0");
        let frame_bytes_max = config.frame_bytes_max;
        let pool = FramePool::new(config.pool_bytes);
        let loglets = LocalLoglets::open(disk, lane, config, identity, clock, rng).await?;
        Ok(Self(Arc::new(Inner {
            loglets: Arc::new(loglets),
            kind: 1,
            chain: Arc::new(chain),
            pool,
            frame_bytes_max,
        })))
    }

    /// Opens the WAL that lives in `memory`, which outlives it; whoever had it open before is cut off.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn memory(memory: &Memory) -> Self {
        let config = Config::default();
        Self(Arc::new(Inner {
            loglets: Arc::new(memory.start()),
            kind: 2,
            chain: memory.chain(),
            pool: FramePool::new(config.pool_bytes),
            frame_bytes_max: config.frame_bytes_max,
        }))
    }

    /// Returns the most bytes that the body of a frame may have.
    pub fn frame_bytes_max(&self) -> u64 {
        self.0.frame_bytes_max
    }

    /// Opens one log and fences everyone who had it open. Not cancel-safe in that a dropped call may
    /// have fenced the others; opening again is always right.
    ///
    /// # Errors
    /// [`Error::Fenced`] if another opening won; [`Error::Corrupt`] if acknowledged frames are damaged
    /// or missing, in which case nothing was changed.
    pub async fn open_log(&self, id: LogId) -> Result<Opened, Error> {
        let inner = &self.0;
        let mut record = inner.chain.read(id).await?;
        let (old, from) = (record.epoch, record.truncated_at);
        let mut tail = inner.loglets.seal(id, old, from).await?;
        let known = record.known_last();
        let stale = |what: String| {
            let file = Path::new("chain").join(id.to_string());
            Err(Error::corrupt(&file, 0, what))
        };
        if tail.last < known && known >= from {
            let last = tail.last;
            return stale(format!(
                "log {id} was sealed with frame {known}, its files end with {last}"
            ));
        }
        if tail.epoch > old {
            let newer = tail.epoch;
            return stale(format!(
                "log {id} has frames of epoch {newer}, its record is of epoch {old}"
            ));
        }
        if tail.last < known {
            tail = Tail::known(known);
        }
        let epoch = WalEpoch(old.0 + 1);
        record.seal(tail.last);
        record.epoch = epoch;
        record.loglets.push(LogletRecord {
            id: epoch.0,
            kind: inner.kind,
            params: 0,
            first: tail.last.next(),
            end: None,
        });
        let revision = record.revision;
        if !inner.chain.compare_and_swap(id, revision, record).await? {
            return Err(Error::Fenced { log: id, epoch });
        }
        inner.loglets.truncate(id, from);
        let durable = inner.loglets.start(id, epoch, tail)?;
        let replay = inner.loglets.replay(id, from, tail.last.next());
        tracing::info!(log = %id, %epoch, %from, last = %tail.last, "log opened");
        let log = DurableLog(Arc::new(Log {
            id,
            epoch,
            wal: inner.clone(),
            durable,
            head: Mutex::new(Head {
                next: tail.last.next(),
                prev_crc: tail.crc,
                stopped: None,
            }),
            keep_from: AtomicU64::new(from.0),
        }));
        Ok(Opened { epoch, log, replay })
    }

    /// Returns whether events find room; changes as space is used up and freed.
    pub fn space(&self) -> watch::Receiver<Space> {
        self.0.loglets.space()
    }

    /// Waits until the WAL has failed for good and returns why: the process should exit, a restart
    /// recovers. Never resolves while all is well. Cancel-safe.
    pub async fn failed(&self) -> Error {
        let mut failed = self.0.loglets.failed();
        let outcome = match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Returns what was counted since the WAL was opened.
    pub fn stats(&self) -> Stats {
        self.0.loglets.stats()
    }

    /// Returns the pool frames are built in.
    pub fn pool(&self) -> &FramePool {
        &self.0.pool
    }

    /// Stops: what was accepted becomes durable, later appends fail.
    ///
    /// # Errors
    /// The error that stopped the WAL before, or that of the last sync.
    pub async fn close(&self) -> Result<(), Error> {
        self.0.loglets.close().await
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wal")
    }
}

/// One open log, under one epoch. Clones are the same log.
#[derive(Clone)]
pub struct DurableLog(Arc<Log>);

struct Log {
    id: LogId,
    epoch: WalEpoch,
    wal: Arc<Inner>,
    /// Last durable frame.
    durable: Arc<AtomicU64>,
    head: Mutex<Head>,
    /// Highest truncation point asked for; the chain record may lag behind it.
    keep_from: AtomicU64,
}

/// Where the next frame goes.
struct Head {
    next: FrameNo,
    prev_crc: u32,
    stopped: Option<Error>,
}

impl DurableLog {
    /// Returns which log this is.
    pub fn id(&self) -> LogId {
        self.0.id
    }

    /// Returns the epoch it was opened under.
    pub fn epoch(&self) -> WalEpoch {
        self.0.epoch
    }

    /// Returns the most bytes a frame's body may have; a larger one stops the log.
    pub fn frame_bytes_max(&self) -> u64 {
        self.0.wal.frame_bytes_max
    }

    /// Returns a builder for a frame with a body of about `capacity` bytes.
    pub fn builder(&self, capacity: usize) -> FrameBuilder {
        self.0.wal.pool.builder(capacity)
    }

    /// Appends a frame; it takes its place in the order at the call.
    ///
    /// `first_seq` and `ops` are kept with the frame for its owner. At most [`Self::window`] frames in
    /// flight are useful; with 64 of them the log gives up with [`Error::TooManyInFlight`].
    pub fn append(
        &self,
        builder: FrameBuilder,
        first_seq: u64,
        ops: u32,
        priority: Priority,
    ) -> AppendTicket {
        let log = &*self.0;
        let bytes = builder.body_len() as u64;
        let max = log.wal.frame_bytes_max;
        let body_crc = builder.body_crc();
        let mut head = log.head.lock();
        let durable = log.durable.load(Ordering::Acquire);
        let count = head.next.0 - 1 - durable;
        if head.stopped.is_none() {
            // Whatever is refused here was promised a place by nobody, but its owner now misses one:
            // going on would leave a hole in its history.
            if bytes > max {
                head.stopped = Some(Error::TooLarge { bytes, max });
            } else if count >= IN_FLIGHT_MAX {
                head.stopped = Some(Error::TooManyInFlight { log: log.id, count });
            }
        }
        if let Some(error) = &head.stopped {
            let (done, ticket) = AppendTicket::new(FrameNo(0));
            // The receiver is alive: it is in the ticket.
            let _ = done.send(Err(error.clone()));
            return ticket;
        }
        let frame = builder.finish(FrameHeader {
            log: log.id,
            body_len: u32::try_from(bytes).expect("checked against the maximum"),
            epoch: log.epoch,
            number: head.next,
            first_seq,
            durable,
            ops,
            body_crc,
            prev_crc: head.prev_crc,
        });
        let (done, ticket) = AppendTicket::new(head.next);
        head.next = head.next.next();
        head.prev_crc = frame.crc;
        log.wal.loglets.append(Pending {
            frame,
            priority,
            done,
        });
        ticket
    }

    /// Returns the last frame known durable, 0 before the first.
    pub fn durable(&self) -> FrameNo {
        FrameNo(self.0.durable.load(Ordering::Acquire))
    }

    /// Returns how many frames may usefully be in flight: one being synced, the others gathering.
    pub fn window(&self) -> usize {
        self.0.wal.loglets.window()
    }

    /// Reads one durable frame back and checks it.
    ///
    /// # Errors
    /// [`Error::NoSuchFrame`] if it was truncated or is not durable yet, [`Error::Corrupt`].
    pub async fn read(&self, number: FrameNo) -> Result<Frame, Error> {
        self.0.wal.loglets.read(self.0.id, number).await
    }

    /// Reads the durable frames `[from, to)` back in order, ahead of the caller, and checks them.
    /// Dropping what is returned stops that.
    pub fn read_frames(&self, from: FrameNo, to: FrameNo) -> Replay {
        let to = to.min(self.durable().next()).max(from);
        self.0.wal.loglets.replay(self.0.id, from, to)
    }

    /// Reads `len` bytes at `offset` of a durable frame's body.
    ///
    /// A small frame is read whole and checked; of a large one only the header is checked.
    ///
    /// # Errors
    /// As [`Self::read`]; [`Error::TooLarge`] if the range ends behind the body.
    pub async fn read_range(&self, number: FrameNo, offset: u32, len: u32) -> Result<Bytes, Error> {
        let loglets = &self.0.wal.loglets;
        loglets.read_range(self.0.id, number, offset, len).await
    }

    /// Says that frames below `keep_from` are not needed any more. A hint: after a crash some of them
    /// may be replayed again. Never moves back, nor beyond the frame behind the last durable one.
    ///
    /// # Errors
    /// [`Error::Fenced`], or the disk's; the log goes on and the space stays taken until the next call.
    pub async fn truncate(&self, keep_from: FrameNo) -> Result<(), Error> {
        let keep_from = keep_from.min(self.durable().next());
        self.0.keep_from.fetch_max(keep_from.0, Ordering::Relaxed);
        if !self.0.wal.loglets.releases(self.0.id, keep_from) {
            return Ok(());
        }
        self.record(|_| {}).await
    }

    /// Returns whether [truncating](Self::truncate) at `keep_from` would end this log's need for a file that
    /// is full: if there is no space, it may be the last one that needs it.
    pub fn holds_full(&self, keep_from: FrameNo) -> bool {
        self.0.wal.loglets.releases_full(self.0.id, keep_from)
    }

    /// Closes the log: the chain record gets its end and its truncation point, so that the next opening
    /// has nothing to seal. Wait for all tickets first: an append still under way fails.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it was opened elsewhere, or the disk's: the next opening seals instead.
    pub async fn close(self) -> Result<(), Error> {
        let log = &*self.0;
        let refusal = Error::stopped("closed");
        log.head.lock().stopped.get_or_insert(refusal);
        let from = FrameNo(log.keep_from.load(Ordering::Relaxed));
        let tail = log.wal.loglets.seal(log.id, log.epoch, from).await?;
        let last = tail.last.max(FrameNo(from.0 - 1));
        self.record(|record| record.seal(last)).await
    }

    /// Changes the chain record and moves its truncation point.
    async fn record(&self, change: impl Fn(&mut ChainRecord)) -> Result<(), Error> {
        let log = &*self.0;
        let (chain, loglets) = (&log.wal.chain, &log.wal.loglets);
        loop {
            let mut record = chain.read(log.id).await?;
            if record.epoch != log.epoch {
                let (log, epoch) = (log.id, log.epoch);
                return Err(Error::Fenced { log, epoch });
            }
            let keep_from = FrameNo(log.keep_from.load(Ordering::Relaxed));
            record.truncated_at = record.truncated_at.max(keep_from);
            change(&mut record);
            let (keep_from, revision) = (record.truncated_at, record.revision);
            if chain.compare_and_swap(log.id, revision, record).await? {
                loglets.truncate(log.id, keep_from);
                return Ok(());
            }
            // Another call of this owner was in between: look again. Each round one of them gets through.
        }
    }
}

impl std::fmt::Debug for DurableLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DurableLog({}, epoch {})", self.0.id, self.0.epoch)
    }
}
