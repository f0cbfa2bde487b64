//! Frames read back from files: a replay, one frame, a part of one.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use sarit_env::spawn_worker;
use tokio::sync::{Semaphore, mpsc};

use super::Local;
use super::index::{Found, bad_frame};
use crate::loglet::{ReplayFrame, slice};
use crate::record::{FRAME_HEADER, FrameHeader};
use crate::{Error, Frame, FrameNo, LogId, Replay};

/// Frames up to this size are read whole and checked, whatever part of them is asked for.
const WHOLE_MAX: u32 = 256 << 10;
/// Frames read ahead in a replay, if their bytes allow it.
const AHEAD: usize = 64;

/// Reads the frames `[from, to)` in a worker of its own, ahead of the consumer by a bounded number of
/// bytes. Dropping the replay ends the worker.
pub(crate) fn replay(local: Arc<Local>, log: LogId, from: FrameNo, to: FrameNo) -> Replay {
    let (frames, replay) = mpsc::channel(AHEAD);
    let numbers = from.0..to.0.max(from.0);
    let expected = numbers.clone();
    if numbers.is_empty() {
        return Replay::new(log, expected, replay);
    }
    let work = async move {
        let permits = local.config.replay_bytes.min(Semaphore::MAX_PERMITS);
        let budget = Arc::new(Semaphore::new(permits));
        for number in numbers {
            let read = read_ahead(&local, log, FrameNo(number), &budget, permits).await;
            let broken = read.is_err();
            if frames.send(read).await.is_err() || broken {
                return;
            }
        }
    };
    // The worker ends with the channel; nobody waits for it.
    drop(spawn_worker("wal-replay", work));
    Replay::new(log, expected, replay)
}

async fn read_ahead(
    local: &Local,
    log: LogId,
    number: FrameNo,
    budget: &Arc<Semaphore>,
    permits: usize,
) -> Result<ReplayFrame, Error> {
    let len = local.index.lock().find(log, number)?.len;
    let share = u32::try_from((len as usize).min(permits)).unwrap_or(len);
    let permit = budget.clone().acquire_many_owned(share).await;
    let permit = permit.map_err(|_| Error::stopped("the replay has ended"))?;
    let frame = local.read(log, number).await?;
    Ok(ReplayFrame {
        frame,
        _budget: Some(permit),
    })
}

impl Local {
    /// Runs a read beside the runtime, a few at a time.
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.reads.acquire().await;
        let _permit = permit.map_err(|_| Error::stopped("closed"))?;
        let done = spawn_worker("wal-read", work).await;
        done.unwrap_or_else(|| Err(Error::stopped("the read worker ended")))
    }

    /// Reads and checks one frame.
    pub(crate) async fn read(&self, log: LogId, number: FrameNo) -> Result<Frame, Error> {
        let found = self.index.lock().find(log, number)?;
        let bytes = read_at(&found, 0, found.len as usize).await?;
        let frame = Frame::decode(bytes).filter(|f| f.log() == log && f.number() == number);
        frame.ok_or_else(|| self.blame(&found, log, number))
    }

    /// Reads a part of a body.
    pub(crate) async fn read_range(
        &self,
        log: LogId,
        number: FrameNo,
        offset: u32,
        len: u32,
    ) -> Result<Bytes, Error> {
        let found = self.index.lock().find(log, number)?;
        if found.len <= WHOLE_MAX {
            return slice(self.read(log, number).await?.body(), offset, len);
        }
        let header = read_at(&found, 0, FRAME_HEADER).await?;
        let header = FrameHeader::decode(&header).map(|(header, _)| header);
        let header = header.filter(|h| h.log == log && h.number == number);
        let header = header.ok_or_else(|| self.blame(&found, log, number))?;
        let end = u64::from(offset) + u64::from(len);
        if end > u64::from(header.body_len) {
            let (bytes, max) = (end, u64::from(header.body_len));
            return Err(Error::TooLarge { bytes, max });
        }
        let from = FRAME_HEADER as u64 + u64::from(offset);
        let bytes = read_at(&found, from, len as usize).await?;
        // The file may have been reused while it was read.
        self.index.lock().find(log, number)?;
        Ok(bytes)
    }

    /// Tells damage from a frame that was truncated, and its file reused, while it was read.
    fn blame(&self, found: &Found, log: LogId, number: FrameNo) -> Error {
        match self.index.lock().find(log, number) {
            Ok(_) => bad_frame(&found.path, found.offset, log, number),
            Err(error) => error,
        }
    }
}

async fn read_at(found: &Found, at: u64, len: usize) -> Result<Bytes, Error> {
    let read = found.handle.read_at(found.offset + at, len).await;
    read.map_err(|error| Error::io("read", &found.path, error))
}
