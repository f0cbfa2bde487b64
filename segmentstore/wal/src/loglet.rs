//! What an engine has to do, and what it promises. Two engines: files (`local`) and memory.
//!
//! | # | Contract, tested by `conformance` against every engine |
//! |---|---|
//! | L1 | After an opening returns epoch e, no append of a lower epoch is ever acknowledged, and none becomes visible that was not in e's replay |
//! | L2 | Acknowledging frame k implies that all frames below k of this log are durable |
//! | L3 | Replay holds every acknowledged frame from the truncation point on. It may hold an unacknowledged suffix; once replayed, that is committed |
//! | L4 | Failure is sticky: after one failed append every later one fails |
//! | L5 | A failed append is ambiguous: it may be found at the next opening |
//! | L6 | Truncation is a hint, monotone, idempotent |
//! | L7 | Sealing and opening may be retried or raced; exactly one opener per epoch wins |

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{Error, Frame, FrameNo, LogId, Stats, WalEpoch};

/// Whether a frame waits while the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Events: waits until there is space.
    Data,
    /// What helps to free space (truncation, deletion, checkpoints): may use the reserve. It takes the
    /// frames of its log that wait before it along, because the order in a log never changes.
    Exempt,
}

/// Whether frames of [`Priority::Data`] find room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Space {
    /// They do.
    Ok,
    /// They wait, and go on by themselves when there is space again.
    Full {
        /// What is used up, in words for the operator.
        reason: String,
    },
}

/// The outcome of one append: resolves once the frame is durable, in the order of the appends.
/// Dropping it changes nothing about the append. An error means that the outcome is unknown.
#[derive(Debug)]
pub struct AppendTicket {
    number: FrameNo,
    outcome: oneshot::Receiver<Result<Frame, Error>>,
}

impl AppendTicket {
    pub(crate) fn new(number: FrameNo) -> (oneshot::Sender<Result<Frame, Error>>, Self) {
        let (done, outcome) = oneshot::channel();
        (done, Self { number, outcome })
    }

    /// Returns the place the frame took; 0 if it was refused and took none.
    pub fn number(&self) -> FrameNo {
        self.number
    }
}

impl Future for AppendTicket {
    type Output = Result<Frame, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.outcome).poll(cx);
        outcome.map(|outcome| outcome.unwrap_or_else(|_| Err(Error::stopped("the lane has ended"))))
    }
}

/// The frames of a log from its truncation point on, in order.
pub struct Replay {
    frames: mpsc::Receiver<Result<ReplayFrame, Error>>,
    /// First and last frame to come; they are checked to be all there.
    expected: std::ops::Range<u64>,
    log: LogId,
}

/// A frame read ahead, with its share of the read-ahead budget.
pub(crate) struct ReplayFrame {
    pub(crate) frame: Frame,
    pub(crate) _budget: Option<OwnedSemaphorePermit>,
}

impl Replay {
    /// Wraps the frames `expected` (half-open) that a worker sends.
    pub(crate) fn new(
        log: LogId,
        expected: std::ops::Range<u64>,
        frames: mpsc::Receiver<Result<ReplayFrame, Error>>,
    ) -> Self {
        Self {
            frames,
            expected,
            log,
        }
    }

    /// Returns the next frame, or `None` behind the last. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if acknowledged bytes are damaged: the log must not be served.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        if self.expected.is_empty() {
            return Ok(None);
        }
        let ended = || Error::stopped(format!("the replay of log {} broke off", self.log));
        let frame = self.frames.recv().await.ok_or_else(ended)??.frame;
        assert_eq!(frame.number().0, self.expected.start, "replay is dense");
        self.expected.start += 1;
        Ok(Some(frame))
    }

    /// Returns the number of the next frame, or of the one that would follow the last.
    pub fn first(&self) -> FrameNo {
        FrameNo(self.expected.start)
    }

    /// Returns how many frames are still to come.
    pub fn remaining(&self) -> u64 {
        self.expected.end - self.expected.start
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replay(log {}, frames {:?})", self.log, self.expected)
    }
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Last durable frame, 0 if there is none.
    pub(crate) last: FrameNo,
    /// Checksum of its header, 0 if unknown.
    pub(crate) crc: u32,
    /// Epoch of its owner, 0 if unknown.
    pub(crate) epoch: WalEpoch,
}

impl Tail {
    /// The end of a log whose last frame is known by number only.
    pub(crate) fn known(last: FrameNo) -> Self {
        Self {
            last,
            crc: 0,
            epoch: WalEpoch(0),
        }
    }
}

/// An append on its way.
pub(crate) struct Pending {
    pub(crate) frame: Frame,
    pub(crate) priority: Priority,
    pub(crate) done: oneshot::Sender<Result<Frame, Error>>,
}

/// An engine: stores the frames of many logs, whose chain records live elsewhere.
#[async_trait]
pub(crate) trait Loglets: Send + Sync {
    /// Fences all epochs up to `epoch` and returns where the log then ends for good, looking only at
    /// frames from `from` on. `Corrupt` if one of these is damaged or missing.
    async fn seal(&self, log: LogId, epoch: WalEpoch, from: FrameNo) -> Result<Tail, Error>;
    /// Lets `epoch` append behind `tail`; the number of its last durable frame appears in what is
    /// returned. `Fenced` if a higher epoch was sealed meanwhile.
    fn start(&self, log: LogId, epoch: WalEpoch, tail: Tail) -> Result<Arc<AtomicU64>, Error>;
    /// Takes a frame in order. Called with the log's order locked: does not block.
    fn append(&self, pending: Pending);
    /// Reads the frames `[from, to)`, which exist.
    fn replay(&self, log: LogId, from: FrameNo, to: FrameNo) -> Replay;
    /// Reads and checks one frame.
    async fn read(&self, log: LogId, number: FrameNo) -> Result<Frame, Error>;
    /// Reads a part of a frame's body.
    async fn read_range(
        &self,
        log: LogId,
        number: FrameNo,
        offset: u32,
        len: u32,
    ) -> Result<Bytes, Error>;
    /// Whether forgetting the frames below `keep_from` can free anything yet.
    fn releases(&self, log: LogId, keep_from: FrameNo) -> bool;
    /// Whether it would end this log's need for a file that is written to no more.
    fn releases_full(&self, log: LogId, keep_from: FrameNo) -> bool;
    /// Forgets the frames below `keep_from`; the chain record already says so.
    fn truncate(&self, log: LogId, keep_from: FrameNo);
    /// Number of frames of one log that may usefully be in flight.
    fn window(&self) -> usize;
    /// Whether there is room.
    fn space(&self) -> watch::Receiver<Space>;
    /// The error that stopped the engine, once there is one.
    fn failed(&self) -> watch::Receiver<Option<Error>>;
    /// What was counted.
    fn stats(&self) -> Stats;
    /// Makes durable what was accepted, then refuses everything.
    async fn close(&self) -> Result<(), Error>;
}

/// Gives every frame that stands before an exempt one of its own log that one's priority.
pub(crate) fn promote(queue: &mut std::collections::VecDeque<Pending>) {
    let mut exempt = std::collections::BTreeSet::new();
    for pending in queue.iter_mut().rev() {
        let log = pending.frame.log();
        if pending.priority == Priority::Exempt {
            exempt.insert(log);
        } else if exempt.contains(&log) {
            pending.priority = Priority::Exempt;
        }
    }
}

/// Cuts a range out of a body.
pub(crate) fn slice(body: &Bytes, offset: u32, len: u32) -> Result<Bytes, Error> {
    let (from, to) = (offset as usize, offset as usize + len as usize);
    if to > body.len() {
        let (bytes, max) = (to as u64, body.len() as u64);
        return Err(Error::TooLarge { bytes, max });
    }
    Ok(body.slice(from..to))
}
