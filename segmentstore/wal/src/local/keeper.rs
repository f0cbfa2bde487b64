//! Keeps files ready for the lane, so that rolling costs nothing on the append path.
//!
//! Records the ends of full files, reuses or removes files no log needs, prepares new ones. When none
//! can be prepared and the lane has to wait, the disk counts as full; this is looked at again every
//! second and after every truncation.
//!
//! A new file is filled with zeros as long as that is idle work. A lane in a hurry gets its space without
//! them: then the device's throughput is what counts, and zeros would take half of it. So does one that has
//! no file left: zeros would keep its next write waiting. And after a start, nothing is made ahead for a moment:
//! what recovers then needs the device.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::Local;
use super::file::{Ahead, FileHeader, FileState, WalFile};
use crate::config::FILE_OVERHEAD;
use crate::record::BLOCK;
use crate::{Error, Space};

/// How long a lack of space is believed.
const RETRY: Duration = Duration::from_secs(1);
/// How long after a start only what the lane may have to wait for is made ready.
const CALM: Duration = Duration::from_millis(500);
/// The first files of a store are small, because its first append waits for their zeros.
const FIRST_FILES: [u64; 2] = [4 << 20, 16 << 20];
/// Truncation frees files in bursts: this many times the files to keep ready are kept for reuse, so
/// that steady traffic writes no zeros.
const SPARES: usize = 4;
/// Exempt frames get files of about this size while the disk is full.
const RESERVE_FILE: u64 = 1 << 20;

/// Which frames a file is prepared for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Everything,
    /// Taken from the reserve.
    Exempt,
}

/// Runs until the lane has stopped.
pub(super) async fn run(local: Arc<Local>) {
    let calm_until = Instant::now() + CALM;
    loop {
        let kept = match local.keep(calm_until).await {
            Ok(kept) => kept,
            Err(error) => {
                local.stop(error);
                return;
            }
        };
        if local.files.lock().stopped {
            return;
        }
        let woken = local.keeper.notified();
        match kept {
            Kept::Busy => {}
            Kept::Enough => woken.await,
            Kept::Calm => drop(timeout_at(calm_until, woken).await),
            // Either way it looks again.
            Kept::Lacking => drop(timeout(RETRY, woken).await),
        }
    }
}

/// How a round of the keeper ended.
enum Kept {
    /// There may be more to do.
    Busy,
    Enough,
    /// There is what is urgent, and more is made a little later.
    Calm,
    /// There is no space for a file.
    Lacking,
}

impl Local {
    /// Does a round: ends, removals, reuse, then at most one new file, because meanwhile there may be
    /// one to reuse.
    async fn keep(&self, calm_until: Instant) -> Result<Kept, Error> {
        let (closing, discarded) = {
            let mut files = self.files.lock();
            (
                std::mem::take(&mut files.closing),
                std::mem::take(&mut files.discarded),
            )
        };
        for (mut file, end) in closing {
            let closed = file.close(end).await;
            closed.map_err(|error| Error::io("close", &file.path, error))?;
            self.use_file(&file);
        }
        for file in discarded {
            self.remove(&file).await?;
        }
        self.reuse().await?;
        self.refill(calm_until).await
    }

    /// Gives files that no log needs a new life, or removes them.
    async fn reuse(&self) -> Result<(), Error> {
        // Ends are put on record in order, so that of the file before a closed one is.
        let unneeded = self.index.lock().take_unneeded();
        for file in unneeded {
            let wanted = self.files.lock().ready.len() < SPARES * self.config.ready_files;
            if !wanted || file.len != self.config.file_bytes {
                self.remove(&file).await?;
                continue;
            }
            let header = self.next_header();
            let path = file.path.clone();
            let reused = file.recycle(&*self.disk, &self.dir, header).await;
            let file = reused.map_err(|error| Error::io("reuse", &path, error))?;
            self.add_ready(file, For::Everything);
        }
        let files = self.index.lock().files();
        self.lane.metrics.set_files(files);
        Ok(())
    }

    async fn remove(&self, file: &WalFile) -> Result<(), Error> {
        let removed = self.disk.remove(&file.path).await;
        removed.map_err(|error| Error::io("remove", &file.path, error))?;
        let synced = self.disk.sync_dir(&self.dir).await;
        synced.map_err(|error| Error::io("sync", &self.dir, error))
    }

    /// Prepares a file if too few are ready.
    async fn refill(&self, calm_until: Instant) -> Result<Kept, Error> {
        // A new store first opens its logs; a second file's zeros would stand in the way of their syncs.
        let unused = self.index.lock().files() == 0;
        let wanted = if unused { 1 } else { self.config.ready_files };
        let count = {
            let files = self.files.lock();
            if files.stopped || files.ready.len() >= wanted {
                return Ok(Kept::Enough);
            }
            // The lane waits for a file, or is going to.
            let urgent = files.ready.is_empty() && (files.starving || files.rolled.is_none());
            if !urgent && Instant::now() < calm_until {
                return Ok(Kept::Calm);
            }
            files.last_number as usize
        };
        let len = FIRST_FILES.get(count).unwrap_or(&self.config.file_bytes);
        let len = self.config.file_bytes.min(*len);
        let Err(reason) = self.prepare(len, For::Everything).await? else {
            return Ok(Kept::Busy);
        };
        let (starving, wanted) = {
            let files = self.files.lock();
            let none = files.ready.is_empty();
            (files.starving && none, files.reserve.filter(|_| none))
        };
        if starving {
            let was_full = *self.lane.space.borrow() != Space::Ok;
            self.lane.set_space(Space::Full { reason });
            if !was_full {
                // So that it takes what is exempt. Woken for nothing it would ask again at once, for ever.
                self.lane.wake();
            }
        }
        if let Some(bytes) = wanted {
            let needed = (bytes + FILE_OVERHEAD).next_multiple_of(BLOCK);
            let mut len = needed.max(RESERVE_FILE.min(self.config.file_bytes));
            if len == self.config.file_bytes {
                // Otherwise it would be reused like all others, and the reserve be filled with events.
                len += BLOCK;
            }
            if let Err(reason) = self.prepare(len, For::Exempt).await? {
                tracing::debug!(reason, "the reserve of the log is used up too");
            }
        }
        Ok(Kept::Lacking)
    }

    /// Prepares one file, or says what there is too little of.
    async fn prepare(&self, len: u64, use_for: For) -> Result<Result<(), String>, Error> {
        let reserve = self.config.reserve_bytes;
        let (keep_free, beyond_quota) = match use_for {
            For::Everything => (reserve, 0),
            For::Exempt => (0, reserve),
        };
        let ready: u64 = self.files.lock().ready.iter().map(|file| file.len).sum();
        let used = self.index.lock().file_bytes() + ready;
        if let Some(quota) = self.config.quota_bytes
            && used + len > quota + beyond_quota
        {
            let reason = format!("the log has {used} of the {quota} bytes of its quota");
            return Ok(Err(reason));
        }
        let left = self.disk.free_bytes(&self.dir).await;
        let left = left.map_err(|error| Error::io("ask for space in", &self.dir, error))?;
        if left < len + keep_free {
            let reason = format!(
                "{left} bytes are free in {}, {len} and a reserve of {keep_free} are needed",
                self.dir.display(),
            );
            return Ok(Err(reason));
        }
        let header = self.next_header();
        let ahead = {
            let files = self.files.lock();
            // With none left, as after a few crashes in a row, the lane may have to wait for this one.
            let last = files.ready.is_empty() && len == self.config.file_bytes;
            if files.hurried || last {
                Ahead::Space
            } else {
                Ahead::Zeros
            }
        };
        match WalFile::create(&*self.disk, &self.dir, header, len, ahead).await {
            Ok(file) => {
                self.add_ready(file, use_for);
                Ok(Ok(()))
            }
            // No frame is at stake yet, so unlike in the lane it can be tried again.
            Err(error) => Ok(Err(format!(
                "preparing a file in {}: {error}",
                self.dir.display()
            ))),
        }
    }

    fn add_ready(&self, file: WalFile, use_for: For) {
        let mut files = self.files.lock();
        files.ready.push_back(file);
        if use_for == For::Everything {
            files.starving = false;
            self.lane.set_space(Space::Ok);
        }
        drop(files);
        self.lane.wake();
    }

    fn next_header(&self) -> FileHeader {
        let mut files = self.files.lock();
        files.last_number += 1;
        FileHeader {
            state: FileState::Ready,
            identity: self.identity,
            number: files.last_number,
            boot: self.boot,
            salt: self.rng.u64(),
            base_lsn: 0,
            prev: 0,
            prev_end: 0,
            began_ms: self.clock.now_ms(),
        }
    }
}
