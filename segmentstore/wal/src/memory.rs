//! A log in memory, with faults on request: for tests, and for nothing that has to last.
//!
//! [`Memory`] plays the disk: it outlives the [`crate::Wal`]s opened on it. Everything stored is
//! durable at once; a frame is stored by the lane's worker, after the latency asked for.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sarit_env::{Rng, Worker, spawn_worker};
use tokio::sync::{Notify, mpsc, watch};

use crate::chain::MemoryChain;
use crate::loglet::{Loglets, Pending, ReplayFrame, Tail, promote};
use crate::metrics::Metrics;
use crate::{ChainStore, Error, Frame, FrameNo, LogId, Priority, Replay, Space, Stats, WalEpoch};

/// Several frames in flight are worth it: none waits for a device.
const WINDOW: usize = 4;

/// What lasts of an in-memory WAL. Clones are the same memory.
#[derive(Clone, Default)]
pub struct Memory(Arc<Store>);

#[derive(Default)]
struct Store {
    state: Mutex<State>,
    chain: Arc<MemoryChain>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// Rises with every start and crash; engines of an older boot are cut off.
    boot: u64,
    logs: BTreeMap<LogId, MemoryLog>,
    pending: VecDeque<Pending>,
    faults: MemoryFaults,
    failed: Option<Error>,
    closing: bool,
}

struct MemoryLog {
    frames: BTreeMap<FrameNo, Frame>,
    tail: Tail,
    fenced: WalEpoch,
    durable: Arc<AtomicU64>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self {
            frames: BTreeMap::new(),
            tail: Tail::known(FrameNo(0)),
            fenced: WalEpoch(0),
            durable: Arc::default(),
        }
    }
}

/// What goes wrong in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryFaults {
    /// Storing what is queued takes this long.
    pub latency: Duration,
    /// Frames that are still stored; the one behind them fails, and everything after it.
    pub frames_until_error: Option<u64>,
    /// Whether the frame that fails is stored all the same, and so found at the next opening.
    pub failed_frame_is_stored: bool,
    /// Why there is no space, while there is none.
    pub full: Option<String>,
}

impl Memory {
    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: MemoryFaults) {
        self.0.state.lock().faults = faults;
        self.0.wake.notify_one();
    }

    /// Ends the process that has it open: of the frames not yet acknowledged, a random prefix is stored.
    pub fn crash(&self, rng: &Rng) {
        let mut state = self.0.state.lock();
        let kept = rng.below(state.pending.len() as u64 + 1);
        for _ in 0..kept {
            if let Some(pending) = state.pending.pop_front() {
                state.store(&pending.frame);
            }
        }
        state.restart();
    }

    pub(crate) fn chain(&self) -> Arc<dyn ChainStore> {
        self.0.chain.clone()
    }

    /// Starts an engine and cuts off the one before.
    pub(crate) fn start(&self) -> MemoryLoglets {
        let boot = {
            let mut state = self.0.state.lock();
            state.restart();
            state.boot
        };
        let (space, space_seen) = watch::channel(Space::Ok);
        let (failed, failed_seen) = watch::channel(None);
        let lane = Lane {
            store: self.0.clone(),
            boot,
            space,
            failed,
            metrics: Arc::new(Metrics::new()),
        };
        MemoryLoglets {
            store: self.0.clone(),
            boot,
            space: space_seen,
            failed: failed_seen,
            metrics: lane.metrics.clone(),
            lane: tokio::sync::Mutex::new(Some(spawn_worker("wal-memory", lane.run()))),
        }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl State {
    fn restart(&mut self) {
        self.boot += 1;
        self.pending.clear();
        self.failed = None;
        self.closing = false;
        self.faults = MemoryFaults::default();
        for log in self.logs.values_mut() {
            // The counter of the old owner stands still for ever.
            log.durable = Arc::new(AtomicU64::new(log.tail.last.0));
        }
    }

    fn store(&mut self, frame: &Frame) {
        let log = self.logs.entry(frame.log()).or_default();
        if frame.epoch() > log.fenced {
            log.tail = Tail {
                last: frame.number(),
                crc: frame.crc,
                epoch: frame.epoch(),
            };
            log.frames.insert(frame.number(), frame.clone());
        }
    }

    /// Stores one frame, or says why not.
    fn commit(&mut self, frame: &Frame) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (log, epoch) = (frame.log(), frame.epoch());
        if epoch <= self.logs.entry(log).or_default().fenced {
            return Err(Error::Fenced { log, epoch });
        }
        if let Some(left) = &mut self.faults.frames_until_error {
            if *left == 0 {
                let source = std::io::Error::other("injected error");
                let error = Error::io("write", Path::new("memory"), source);
                self.failed = Some(error.clone());
                if self.faults.failed_frame_is_stored {
                    self.store(frame);
                }
                return Err(error);
            }
            *left -= 1;
        }
        self.store(frame);
        let log = &self.logs[&log];
        log.durable.store(frame.number().0, Ordering::Release);
        Ok(())
    }
}

/// The worker that stores frames.
struct Lane {
    store: Arc<Store>,
    boot: u64,
    space: watch::Sender<Space>,
    failed: watch::Sender<Option<Error>>,
    metrics: Arc<Metrics>,
}

impl Lane {
    /// Runs until closed or cut off by a later start.
    async fn run(self) {
        let mut retry = true;
        loop {
            if !retry {
                self.store.wake.notified().await;
            }
            let latency = {
                let state = self.store.state.lock();
                if state.boot != self.boot {
                    self.store.wake.notify_one();
                    return;
                }
                state.faults.latency
            };
            let count = self.store.state.lock().pending.len();
            if !latency.is_zero() && count > 0 {
                tokio::time::sleep(latency).await;
            }
            let mut state = self.store.state.lock();
            if state.boot != self.boot {
                self.store.wake.notify_one();
                return;
            }
            let full = state.faults.full.clone();
            retry = self.commit(&mut state, count, full.is_some()) > 0;
            if state.closing && !retry {
                return;
            }
            let space = full.map_or(Space::Ok, |reason| Space::Full { reason });
            self.metrics.set_full(space != Space::Ok);
            self.space.send_if_modified(|old| {
                let changed = *old != space;
                *old = space.clone();
                changed
            });
        }
    }

    /// Stores the first `count` pending frames, while full only those that may use the reserve.
    /// Returns how many it took out of the queue.
    fn commit(&self, state: &mut State, count: usize, full: bool) -> usize {
        if full {
            promote(&mut state.pending);
        }
        let mut kept = VecDeque::new();
        let mut done = 0;
        for at in 0.. {
            let Some(pending) = state.pending.pop_front() else {
                break;
            };
            if at >= count || (full && pending.priority == Priority::Data) {
                kept.push_back(pending);
                continue;
            }
            let outcome = state.commit(&pending.frame);
            if outcome.is_ok() {
                let body = u64::from(pending.frame.header.body_len);
                self.metrics
                    .stored(1, pending.frame.header.frame_len(), body);
            }
            // Its owner may have dropped the ticket.
            let _ = pending.done.send(outcome.map(|()| pending.frame));
            done += 1;
        }
        if done > 0 {
            self.metrics.wrote(0, Duration::ZERO);
        }
        state.pending = kept;
        self.failed.send_if_modified(|old| {
            let changed = old.is_none() && state.failed.is_some();
            old.clone_from(&state.failed);
            changed
        });
        done
    }
}

/// The engine on top of a [`Memory`].
pub(crate) struct MemoryLoglets {
    store: Arc<Store>,
    boot: u64,
    space: watch::Receiver<Space>,
    failed: watch::Receiver<Option<Error>>,
    metrics: Arc<Metrics>,
    lane: tokio::sync::Mutex<Option<Worker<()>>>,
}

impl Drop for MemoryLoglets {
    fn drop(&mut self) {
        let mut state = self.store.state.lock();
        if state.boot == self.boot {
            state.closing = true;
            self.store.wake.notify_one();
        }
    }
}

impl MemoryLoglets {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.store.state.lock();
        if state.boot != self.boot {
            return Err(Error::stopped("the memory was opened again"));
        }
        act(&mut state)
    }
}

#[async_trait]
impl Loglets for MemoryLoglets {
    async fn seal(&self, log: LogId, epoch: WalEpoch, _from: FrameNo) -> Result<Tail, Error> {
        self.with(|state| {
            let log = state.logs.entry(log).or_default();
            log.fenced = log.fenced.max(epoch);
            Ok(log.tail)
        })
    }

    fn start(&self, log: LogId, epoch: WalEpoch, tail: Tail) -> Result<Arc<AtomicU64>, Error> {
        self.with(|state| {
            let state = state.logs.entry(log).or_default();
            if epoch <= state.fenced {
                return Err(Error::Fenced { log, epoch });
            }
            state.tail = tail;
            state.durable = Arc::new(AtomicU64::new(tail.last.0));
            Ok(state.durable.clone())
        })
    }

    fn append(&self, pending: Pending) {
        let mut state = self.store.state.lock();
        let refusal = if state.boot != self.boot || state.closing {
            Some(Error::stopped("closed"))
        } else {
            state.failed.clone()
        };
        match refusal {
            // Its owner may have dropped the ticket.
            Some(error) => drop(pending.done.send(Err(error))),
            None => {
                state.pending.push_back(pending);
                self.store.wake.notify_one();
            }
        }
    }

    fn replay(&self, log: LogId, from: FrameNo, to: FrameNo) -> Replay {
        let frames: Vec<_> = match self.store.state.lock().logs.get(&log) {
            Some(log) => log.frames.range(from..to).map(|(_, f)| f.clone()).collect(),
            None => Vec::new(),
        };
        let (out, replay) = mpsc::channel(frames.len().max(1));
        for frame in frames {
            let item = Ok(ReplayFrame {
                frame,
                _budget: None,
            });
            out.try_send(item).expect("the channel has room for all");
        }
        Replay::new(log, from.0..to.0.max(from.0), replay)
    }

    async fn read(&self, log: LogId, number: FrameNo) -> Result<Frame, Error> {
        self.with(|state| {
            let frames = state.logs.get(&log).map(|log| &log.frames);
            let found = frames.and_then(|frames| frames.get(&number).cloned());
            found.ok_or(Error::NoSuchFrame { log, number })
        })
    }

    async fn read_range(
        &self,
        log: LogId,
        number: FrameNo,
        offset: u32,
        len: u32,
    ) -> Result<Bytes, Error> {
        let frame = self.read(log, number).await?;
        crate::loglet::slice(frame.body(), offset, len)
    }

    fn releases(&self, _log: LogId, _keep_from: FrameNo) -> bool {
        true
    }

    fn releases_full(&self, _log: LogId, _keep_from: FrameNo) -> bool {
        // There are no files.
        false
    }

    fn truncate(&self, log: LogId, keep_from: FrameNo) {
        if let Some(log) = self.store.state.lock().logs.get_mut(&log) {
            log.frames = log.frames.split_off(&keep_from);
        }
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn space(&self) -> watch::Receiver<Space> {
        self.space.clone()
    }

    fn failed(&self) -> watch::Receiver<Option<Error>> {
        self.failed.clone()
    }

    fn stats(&self) -> Stats {
        self.metrics.stats()
    }

    async fn close(&self) -> Result<(), Error> {
        self.with(|state| {
            state.closing = true;
            self.store.wake.notify_one();
            Ok(())
        })?;
        if let Some(lane) = self.lane.lock().await.take() {
            lane.await;
        }
        let failed = self.failed.borrow().clone();
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DurableLog, FrameBuilder, Opened, Wal};
    use bytes::BufMut as _;

    fn append(log: &DurableLog, byte: u8, priority: Priority) -> crate::AppendTicket {
        let mut builder = FrameBuilder::with_capacity(16);
        builder.body().put_u8(byte);
        log.append(builder, u64::from(byte), 1, priority)
    }

    async fn replayed(opened: &mut Opened) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(frame) = opened.replay.next().await.unwrap() {
            bytes.push(frame.body()[0]);
        }
        bytes
    }

    #[tokio::test]
    async fn frames_survive_a_restart_and_the_older_owner_is_fenced() {
        let memory = Memory::default();
        let wal = Wal::memory(&memory);
        let first = wal.open_log(LogId(1)).await.unwrap();
        assert_eq!(
            append(&first.log, 1, Priority::Data)
                .await
                .unwrap()
                .number(),
            FrameNo(1)
        );
        let mut second = wal.open_log(LogId(1)).await.unwrap();
        let late = append(&first.log, 9, Priority::Data).await;
        assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
        assert_eq!(replayed(&mut second).await, [1]);
        append(&second.log, 2, Priority::Data).await.unwrap();
        second.log.truncate(FrameNo(2)).await.unwrap();
        let wal = Wal::memory(&memory);
        let mut third = wal.open_log(LogId(1)).await.unwrap();
        assert_eq!(third.epoch, WalEpoch(3));
        assert_eq!(replayed(&mut third).await, [2]);
        assert!(append(&second.log, 9, Priority::Data).await.is_err());
    }

    #[tokio::test]
    async fn while_full_exempt_frames_pass_with_those_before_them() {
        let memory = Memory::default();
        let wal = Wal::memory(&memory);
        let one = wal.open_log(LogId(1)).await.unwrap().log;
        let two = wal.open_log(LogId(2)).await.unwrap().log;
        memory.set_faults(MemoryFaults {
            full: Some("quota".into()),
            ..MemoryFaults::default()
        });
        let mut space = wal.space();
        let waiting = append(&one, 1, Priority::Data);
        let before = append(&two, 1, Priority::Data);
        append(&two, 2, Priority::Exempt).await.unwrap();
        before.await.unwrap();
        space.wait_for(|space| *space != Space::Ok).await.unwrap();
        assert_eq!(one.durable(), FrameNo(0));
        memory.set_faults(MemoryFaults::default());
        waiting.await.unwrap();
        space.wait_for(|space| *space == Space::Ok).await.unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_sticky_and_reported() {
        let memory = Memory::default();
        let wal = Wal::memory(&memory);
        let log = wal.open_log(LogId(1)).await.unwrap().log;
        memory.set_faults(MemoryFaults {
            frames_until_error: Some(1),
            failed_frame_is_stored: true,
            ..MemoryFaults::default()
        });
        append(&log, 1, Priority::Data).await.unwrap();
        assert!(append(&log, 2, Priority::Data).await.is_err());
        assert!(append(&log, 3, Priority::Data).await.is_err());
        assert!(matches!(wal.failed().await, Error::Io { .. }));
        assert!(wal.close().await.is_err());
        let mut again = Wal::memory(&memory).open_log(LogId(1)).await.unwrap();
        assert_eq!(replayed(&mut again).await, [1, 2]);
    }
}
