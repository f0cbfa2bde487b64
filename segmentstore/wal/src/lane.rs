//! Group commit: frames of many logs, one write, one sync.
//!
//! Whatever is queued when the worker comes round goes out together, so a batch grows with the
//! arrival rate times the time of a sync, without a timer. One write is in flight at a time; tickets
//! resolve in order once it is synced. A failed write or sync ends the lane for good: nothing is
//! retried, nothing later is acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::local::Local;
use crate::local::file::{FileHeader, FileState, WalFile, ZEROS};
use crate::loglet::{Pending, promote};
use crate::metrics::Metrics;
use crate::record::{BLOCK, FRAME_HEADER, LANE_HEADER, LaneHeader};
use crate::{Error, LogId, Priority, Space, WalEpoch};

/// What owners, worker and keeper share of a lane.
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    /// Something changed for the worker.
    wake: Notify,
    /// A write ended, or the lane failed.
    settled: Notify,
    pub(crate) failed: watch::Sender<Option<Error>>,
    pub(crate) space: watch::Sender<Space>,
    pub(crate) metrics: Metrics,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Pending>,
    bytes: u64,
    /// Logs with frames in the write that is under way.
    writing: BTreeSet<LogId>,
    writers: BTreeMap<LogId, Writer>,
    failed: Option<Error>,
    closing: bool,
}

#[derive(Default)]
struct Writer {
    /// This epoch and all below are out.
    fenced: WalEpoch,
    durable: Arc<AtomicU64>,
}

impl Lane {
    pub(crate) fn new() -> Self {
        Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            settled: Notify::new(),
            failed: watch::Sender::new(None),
            space: watch::Sender::new(Space::Ok),
            metrics: Metrics::new(),
        }
    }

    /// Queues a frame, or refuses it.
    pub(crate) fn append(&self, pending: Pending) {
        let (log, epoch) = (pending.frame.log(), pending.frame.epoch());
        let mut queue = self.queue.lock();
        let fenced = queue.writers.get(&log).is_none_or(|w| epoch <= w.fenced);
        let refusal = if let Some(error) = &queue.failed {
            Some(error.clone())
        } else if fenced {
            Some(Error::Fenced { log, epoch })
        } else if queue.closing {
            Some(Error::stopped("closed"))
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(queue);
            refuse([pending], &error);
            return;
        }
        queue.bytes += pending.frame.header.frame_len();
        self.metrics.set_queue_bytes(queue.bytes);
        queue.entries.push_back(pending);
        drop(queue);
        self.wake.notify_one();
    }

    /// Keeps all epochs up to `epoch` from appending, and waits until none of their frames is under way.
    pub(crate) async fn fence(&self, log: LogId, epoch: WalEpoch) -> Result<(), Error> {
        let out: Vec<_> = {
            let mut queue = self.queue.lock();
            let writer = queue.writers.entry(log).or_default();
            writer.fenced = writer.fenced.max(epoch);
            let stays = |p: &Pending| p.frame.log() != log || p.frame.epoch() > epoch;
            let entries = std::mem::take(&mut queue.entries);
            let (stay, out): (Vec<_>, Vec<_>) = entries.into_iter().partition(stays);
            queue.entries = stay.into();
            queue.recount(&self.metrics);
            out
        };
        refuse(out, &Error::Fenced { log, epoch });
        loop {
            let settled = self.settled.notified();
            {
                let queue = self.queue.lock();
                if let Some(error) = &queue.failed {
                    return Err(error.clone());
                }
                if !queue.writing.contains(&log) {
                    return Ok(());
                }
            }
            settled.await;
        }
    }

    /// Lets `epoch` append behind frame `last`.
    pub(crate) fn start(
        &self,
        log: LogId,
        epoch: WalEpoch,
        last: u64,
    ) -> Result<Arc<AtomicU64>, Error> {
        let mut queue = self.queue.lock();
        let writer = queue.writers.entry(log).or_default();
        if epoch <= writer.fenced {
            return Err(Error::Fenced { log, epoch });
        }
        // Those before are fenced too, should they have opened without anyone sealing them.
        writer.fenced = WalEpoch(epoch.0 - 1);
        writer.durable = Arc::new(AtomicU64::new(last));
        Ok(writer.durable.clone())
    }

    /// Ends the lane: everything that waits and everything later fails.
    pub(crate) fn fail(&self, error: Error, lost: Vec<Pending>) {
        let waiting = {
            let mut queue = self.queue.lock();
            if queue.failed.is_none() {
                tracing::error!(%error, "the write-ahead log has failed; restart to recover");
                queue.failed = Some(error.clone());
            }
            queue.writing.clear();
            let waiting = std::mem::take(&mut queue.entries);
            queue.recount(&self.metrics);
            waiting
        };
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| error.clone());
            first
        });
        refuse(lost.into_iter().chain(waiting), &error);
        self.settled.notify_waiters();
        self.wake.notify_one();
    }

    /// Tells the worker to look again.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Accepts nothing more; the worker ends when the queue is empty.
    pub(crate) fn close(&self) {
        self.queue.lock().closing = true;
        self.wake.notify_one();
    }

    /// Ends the lane without waiting: nobody is left who could be told of an outcome.
    pub(crate) fn abandon(&self) {
        let waiting = {
            let mut queue = self.queue.lock();
            let gone = || Error::stopped("dropped");
            queue.failed.get_or_insert_with(gone);
            std::mem::take(&mut queue.entries)
        };
        refuse(waiting, &Error::stopped("dropped"));
        self.wake.notify_one();
    }

    /// Changes what [`crate::Wal::space`] says.
    pub(crate) fn set_space(&self, space: Space) {
        self.metrics.set_full(space != Space::Ok);
        self.space.send_if_modified(|old| {
            let changed = *old != space;
            // The reason has numbers that change all the time: news is only that there is one.
            match (&*old, &space) {
                (Space::Ok, Space::Full { reason }) => {
                    tracing::warn!(reason, "no space for the log; appends wait");
                }
                (Space::Full { .. }, Space::Ok) => tracing::info!("the log has space again"),
                _ => {}
            }
            *old = space;
            changed
        });
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn recount(&mut self, metrics: &Metrics) {
        let bytes = self.entries.iter().map(|p| p.frame.header.frame_len());
        self.bytes = bytes.sum();
        metrics.set_queue_bytes(self.bytes);
    }

    /// Takes the frames of the next write: those that fit into `room`, while `full` only exempt ones.
    fn take(&mut self, room: u64, full: bool, max: u64) -> Taken {
        if full {
            promote(&mut self.entries);
        }
        let mut taken = Vec::new();
        let mut len = LANE_HEADER as u64;
        let mut kept = VecDeque::new();
        let mut misfit = None;
        while let Some(pending) = self.entries.pop_front() {
            if full && pending.priority == Priority::Data {
                kept.push_back(pending);
                continue;
            }
            let with = len + pending.frame.header.frame_len();
            if with.next_multiple_of(BLOCK) > room || (!taken.is_empty() && with > max) {
                misfit = Some(pending.frame.header.frame_len());
                self.entries.push_front(pending);
                break;
            }
            len = with;
            taken.push(pending);
        }
        while let Some(pending) = kept.pop_back() {
            self.entries.push_front(pending);
        }
        self.bytes -= len - LANE_HEADER as u64;
        match misfit {
            Some(bytes) if taken.is_empty() => Taken::Misfit(bytes),
            _ if taken.is_empty() => Taken::Nothing,
            _ => Taken::Frames(taken),
        }
    }
}

enum Taken {
    Frames(Vec<Pending>),
    /// The first frame, with so many bytes, does not fit.
    Misfit(u64),
    Nothing,
}

/// Fails tickets. Their owners may have dropped them.
fn refuse(pending: impl IntoIterator<Item = Pending>, error: &Error) {
    for pending in pending {
        let _ = pending.done.send(Err(error.clone()));
    }
}

/// A lane without work for this long writes an idle header.
const QUIET: Duration = Duration::from_millis(100);

/// The worker: owns the file the lane writes to.
pub(crate) struct LaneWorker {
    local: Arc<Local>,
    current: Option<Current>,
    /// When to look whether the lane is quiet; runs only while it has not rested since its last write.
    look: Option<Pin<Box<Sleep>>>,
    /// Where the lane goes on when there is no current file: lsn, last file and its end.
    lsn: u64,
    prev: (u64, u64),
}

struct Current {
    file: WalFile,
    /// Where the next write goes.
    at: u64,
    /// The header on disk does not say yet that the file is in use.
    fresh: bool,
    /// The last write has an idle header behind it, or there is none to witness.
    rests: bool,
    /// When the last write was synced.
    written: Instant,
}

enum Step {
    Write(Vec<Pending>),
    Roll(u64),
    Wait,
    End,
}

impl LaneWorker {
    pub(crate) fn new(local: Arc<Local>, lsn: u64, prev: (u64, u64)) -> Self {
        Self {
            local,
            current: None,
            look: None,
            lsn,
            prev,
        }
    }

    /// Runs until the lane fails, or is closed and everything accepted is durable.
    pub(crate) async fn run(mut self) {
        loop {
            match self.next() {
                Step::Write(batch) => {
                    let Some(current) = &mut self.current else {
                        unreachable!("frames are only taken for a current file")
                    };
                    if let Err(error) = current.write(&self.local, batch).await {
                        self.local.stop(error);
                        return;
                    }
                }
                Step::Roll(bytes) => {
                    if !self.roll(bytes) {
                        self.local.lane.wake.notified().await;
                    }
                }
                Step::Wait => {
                    if let Err(error) = self.wait().await {
                        self.local.stop(error);
                        return;
                    }
                }
                Step::End => break,
            }
        }
        let failed = self.local.lane.failed.borrow().is_some();
        if !failed
            && let Some(current) = &mut self.current
            && let Err(error) = current.rest(true).await
        {
            self.local.stop(error);
        }
    }

    /// Waits for work; when none comes for a while, writes an idle header meanwhile.
    async fn wait(&mut self) -> Result<(), Error> {
        let wake = self.local.lane.wake.notified();
        let Some(current) = self.current.as_mut().filter(|current| !current.rests) else {
            wake.await;
            return Ok(());
        };
        // Setting a timer anew for every write would cost more than the header: it is set when it rings.
        let quiet_at = current.written + QUIET;
        let look = self
            .look
            .get_or_insert_with(|| Box::pin(sleep_until(quiet_at)));
        tokio::select! {
            biased;
            () = wake => return Ok(()),
            () = look.as_mut() => {}
        }
        self.look = None;
        if Instant::now() >= quiet_at {
            current.rest(false).await?;
        }
        Ok(())
    }

    fn next(&mut self) -> Step {
        let lane = &self.local.lane;
        let full = *lane.space.borrow() != Space::Ok;
        let room = self.current.as_ref().map_or(0, Current::room);
        let mut queue = lane.queue.lock();
        if queue.failed.is_some() {
            return Step::End;
        }
        let taken = queue.take(room, full, self.local.config.write_bytes_max);
        lane.metrics.set_queue_bytes(queue.bytes);
        match taken {
            Taken::Frames(batch) => {
                queue.writing = batch.iter().map(|pending| pending.frame.log()).collect();
                Step::Write(batch)
            }
            // A stop does not wait for space.
            Taken::Misfit(_) | Taken::Nothing if queue.closing && (full || queue.is_empty()) => {
                let waiting = std::mem::take(&mut queue.entries);
                drop(queue);
                refuse(waiting, &Error::stopped("closed while there was no space"));
                Step::End
            }
            Taken::Misfit(bytes) => Step::Roll(bytes),
            Taken::Nothing => Step::Wait,
        }
    }

    /// Goes on in the next ready file with room for `bytes`; `false` if there is none yet.
    fn roll(&mut self, bytes: u64) -> bool {
        let Some(mut file) = self.local.take_ready(bytes) else {
            return false;
        };
        match self.current.take() {
            Some(old) if old.fresh => self.local.discard(old.file),
            Some(old) => {
                self.lsn = old.file.header.lsn(old.at);
                self.prev = (old.file.header.number, old.at);
                self.local.close_file(old.file, old.at);
            }
            None => {}
        }
        file.header = FileHeader {
            state: FileState::Active { reach: 0 },
            salt: self.local.rng.u64(),
            base_lsn: self.lsn,
            prev: self.prev.0,
            prev_end: self.prev.1,
            boot: self.local.boot,
            began_ms: self.local.clock.now_ms(),
            ..file.header
        };
        self.local.use_file(&file);
        self.current = Some(Current {
            file,
            at: BLOCK,
            fresh: true,
            rests: true,
            written: Instant::now(),
        });
        true
    }
}

impl Current {
    /// Returns the bytes a write may have; a block for the idle header stays free.
    fn room(&self) -> u64 {
        self.file.len.saturating_sub(self.at + BLOCK)
    }

    /// Writes and syncs a batch, then resolves its tickets in order.
    async fn write(&mut self, local: &Local, batch: Vec<Pending>) -> Result<(), Error> {
        let started = Instant::now();
        let header = self.lane_header(&batch);
        let mut parts = Vec::with_capacity(batch.len() + 3);
        let mut from = self.at;
        let reaches = self.reach_for(header.total());
        if self.fresh {
            // The header becomes durable with the first frames, by the same sync.
            parts.push(self.file.header.encode());
            from = 0;
        } else if reaches {
            let header = [self.file.header.encode()];
            if let Err(error) = self.file.handle.write_through_at(0, &header).await {
                let error = Error::io("write", &self.file.path, error);
                local.lane.fail(error.clone(), batch);
                return Err(error);
            }
        }
        parts.push(Bytes::copy_from_slice(
            &header.encode(self.file.header.salt),
        ));
        parts.extend(batch.iter().map(|pending| pending.frame.whole.clone()));
        parts.push(Bytes::from_static(&ZEROS[..header.pad as usize]));
        if let Err(error) = self.file.handle.write_through_at(from, &parts).await {
            let error = Error::io("write", &self.file.path, error);
            local.lane.fail(error.clone(), batch);
            return Err(error);
        }
        #[cfg(planted = "ack_before_sync")]
        let batch = {
            self.complete(local, batch);
            Vec::new()
        };
        #[cfg(not(planted = "skip_sync"))]
        if let Err(error) = self.file.handle.sync_data().await {
            let error = Error::io("sync", &self.file.path, error);
            local.lane.fail(error.clone(), batch);
            return Err(error);
        }
        self.written = Instant::now();
        let took = self.written.saturating_duration_since(started);
        local.lane.metrics.wrote(header.total(), took);
        self.complete(local, batch);
        self.fresh = false;
        self.rests = false;
        self.at += header.total();
        Ok(())
    }

    /// Sees to it that the next write of `bytes`, and an idle header behind it, are within what the file's
    /// header says may have been written; `true` if it has changed for that. It has to be durable with them.
    fn reach_for(&mut self, bytes: u64) -> bool {
        let end = self.at + bytes + BLOCK;
        let within = matches!(self.file.header.state, FileState::Active { reach } if end <= reach);
        if !within {
            let reach = FileHeader::reach(end, self.file.len);
            self.file.header.state = FileState::Active { reach };
        }
        !within
    }

    fn lane_header(&self, batch: &[Pending]) -> LaneHeader {
        let frames = batch.iter().map(|p| p.frame.header.frame_len());
        let len = LANE_HEADER as u64 + frames.sum::<u64>();
        let lsn = self.file.header.lsn(self.at);
        let header = LaneHeader {
            len: u32::try_from(len).expect("a write fits a file"),
            lsn,
            durable_lsn: lsn,
            frames: u32::try_from(batch.len()).expect("a write fits a file"),
            pad: u32::try_from(len.next_multiple_of(BLOCK) - len).expect("below a block"),
            crc: 0,
        };
        let headers = batch.iter().map(|p| &p.frame.whole[..FRAME_HEADER]);
        header.seal(self.file.header.salt, headers)
    }

    /// Writes an empty lane header behind the last write, which says that all before it is durable.
    /// The next write takes its place. Synced only at the end.
    async fn rest(&mut self, sync: bool) -> Result<(), Error> {
        if self.fresh {
            return Ok(());
        }
        self.rests = true;
        let header = self.lane_header(&[]);
        let parts = [
            Bytes::copy_from_slice(&header.encode(self.file.header.salt)),
            Bytes::from_static(&ZEROS[..header.pad as usize]),
        ];
        let written = self.file.handle.write_through_at(self.at, &parts).await;
        written.map_err(|error| Error::io("write", &self.file.path, error))?;
        if sync {
            let synced = self.file.handle.sync_data().await;
            synced.map_err(|error| Error::io("sync", &self.file.path, error))?;
        }
        Ok(())
    }

    /// Makes a written batch known: index, counters, tickets.
    fn complete(&self, local: &Local, batch: Vec<Pending>) {
        let lane = &local.lane;
        let (mut frame_bytes, mut body_bytes) = (0, 0);
        {
            let mut index = local.index.lock();
            let mut offset = self.at + LANE_HEADER as u64;
            for pending in &batch {
                let header = &pending.frame.header;
                index.add(header, pending.frame.crc, self.file.header.number, offset);
                offset += header.frame_len();
                frame_bytes += header.frame_len();
                body_bytes += u64::from(header.body_len);
            }
        }
        lane.metrics
            .stored(batch.len() as u64, frame_bytes, body_bytes);
        {
            let mut queue = lane.queue.lock();
            for pending in &batch {
                if let Some(writer) = queue.writers.get(&pending.frame.log()) {
                    let number = pending.frame.number().0;
                    writer.durable.store(number, Ordering::Release);
                }
            }
            queue.writing.clear();
        }
        for pending in batch {
            // Its owner may have dropped the ticket.
            let _ = pending.done.send(Ok(pending.frame));
        }
        lane.settled.notify_waiters();
    }
}
