//! Where every frame lies, and which files nobody needs any more.
//!
//! Twelve bytes a frame: the number is the position in the queue of its log. Filled by the recovery
//! scan, then by the lane as frames become durable.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sarit_env::disk::DiskFile;

use super::file::{FileState, WalFile};
use crate::loglet::Tail;
use crate::record::FrameHeader;
use crate::{Error, FrameNo, LogId, WalEpoch};

/// Where one frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) offset: u32,
    /// Header and body.
    pub(crate) len: u32,
}

/// Where one frame lies, with the file to read it from.
pub(crate) struct Found {
    pub(crate) handle: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// What is known about one log.
struct LogIndex {
    /// Number of the frame in front of the queue.
    first: FrameNo,
    frames: VecDeque<Place>,
    tail: Tail,
    /// Frames below are not needed, durably so.
    truncated: FrameNo,
    /// Why it must not be opened.
    damage: Option<Error>,
    /// A damaged stretch of the lane that may have held frames of this log.
    suspect: Option<Error>,
    /// What is to blame if the frames below `first` are still needed.
    missing: Option<Error>,
}

impl Default for LogIndex {
    fn default() -> Self {
        Self {
            first: FrameNo(1),
            frames: VecDeque::new(),
            tail: Tail::known(FrameNo(0)),
            truncated: FrameNo(1),
            damage: None,
            suspect: None,
            missing: None,
        }
    }
}

struct LiveFile {
    file: WalFile,
    /// Highest frame of each log in it.
    last: BTreeMap<LogId, FrameNo>,
}

impl LiveFile {
    fn is_closed(&self) -> bool {
        matches!(self.file.header.state, FileState::Closed { .. })
    }
}

/// The frames and files of one lane.
#[derive(Default)]
pub(crate) struct Index {
    files: BTreeMap<u64, LiveFile>,
    logs: BTreeMap<LogId, LogIndex>,
    /// The first damage met; while there is one, nothing is recycled.
    damage: Option<Error>,
    /// A damaged stretch that may have held frames of logs never seen since.
    suspect: Option<Error>,
}

impl Index {
    /// Adds a file, or replaces what is known about it.
    pub(crate) fn add_file(&mut self, file: WalFile) {
        let last = BTreeMap::new();
        let number = file.header.number;
        self.files
            .entry(number)
            .and_modify(|live| live.file = file.clone())
            .or_insert(LiveFile { file, last });
    }

    /// Takes a file out again that was never written to.
    pub(crate) fn remove_file(&mut self, number: u64) {
        self.files.remove(&number);
    }

    /// Returns the number of files.
    pub(crate) fn files(&self) -> u64 {
        self.files.len() as u64
    }

    /// Returns the bytes the files take.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.files.values().map(|live| live.file.len).sum()
    }

    /// Adds a frame that just became durable.
    pub(crate) fn add(&mut self, header: &FrameHeader, crc: u32, file: u64, offset: u64) {
        let number = header.number;
        let log = self.logs.entry(header.log).or_default();
        if log.frames.is_empty() {
            log.first = number;
        }
        assert_eq!(log.first.0 + log.frames.len() as u64, number.0, "dense");
        log.push(header, crc, file, offset);
        if let Some(live) = self.files.get_mut(&file) {
            live.last.insert(header.log, number);
        }
    }

    /// Adds a frame met by the recovery scan, checking that it continues its log.
    pub(crate) fn add_scanned(&mut self, header: &FrameHeader, crc: u32, file: u64, offset: u64) {
        let Some(live) = self.files.get_mut(&file) else {
            return;
        };
        live.last.insert(header.log, header.number);
        let path = &live.file.path;
        let log = self.logs.entry(header.log).or_insert_with(|| LogIndex {
            suspect: self.suspect.clone(),
            ..LogIndex::default()
        });
        let continues = header.number == log.tail.last.next();
        let linked = !continues || header.prev_crc == 0 || header.prev_crc == log.tail.crc;
        if header.number <= log.tail.last || header.epoch < log.tail.epoch || !linked {
            let what = format!(
                "frame {} of epoch {} does not follow frame {} of epoch {} of log {}",
                header.number, header.epoch, log.tail.last, log.tail.epoch, header.log
            );
            let error = Error::corrupt(path, offset, what);
            self.damage.get_or_insert(error.clone());
            log.damage.get_or_insert(error);
            return;
        }
        if continues {
            // It names its predecessor, so the stretch that could not be read held none of this log.
            log.suspect = None;
        }
        if !continues {
            // The frames before went with recycled files, or are lost: the truncation point will tell.
            let generic = || {
                let what = format!(
                    "log {} goes on with frame {} behind frame {}",
                    header.log, header.number, log.tail.last
                );
                Error::corrupt(path, offset, what)
            };
            let blame = log.suspect.take().unwrap_or_else(generic);
            log.missing = Some(blame);
            log.frames.clear();
            log.first = header.number;
        }
        log.push(header, crc, file, offset);
    }

    /// Notes a stretch of acknowledged bytes that cannot be read: any log may have had frames there.
    pub(crate) fn add_damaged_stretch(&mut self, error: Error) {
        tracing::error!(%error, "acknowledged bytes of the log are damaged");
        self.damage.get_or_insert(error.clone());
        self.suspect.get_or_insert(error.clone());
        for log in self.logs.values_mut() {
            log.suspect.get_or_insert(error.clone());
        }
    }

    /// Whether damage was found: then nothing is overwritten.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Returns the end of a log whose frames from `from` on are all there.
    /// A log of epoch 0 was never opened, so nothing of it can be missing.
    pub(crate) fn tail(&self, id: LogId, epoch: WalEpoch, from: FrameNo) -> Result<Tail, Error> {
        let Some(log) = self.logs.get(&id) else {
            let suspect = self.suspect.clone().filter(|_| epoch.0 > 0);
            return suspect.map_or(Ok(LogIndex::default().tail), Err);
        };
        if let Some(error) = log.damage.clone().or_else(|| log.suspect.clone()) {
            return Err(error);
        }
        if let Some(missing) = &log.missing
            && log.first > from
        {
            return Err(missing.clone());
        }
        Ok(log.tail)
    }

    /// Starts a log behind `tail`.
    pub(crate) fn start(&mut self, id: LogId, tail: Tail) {
        self.logs.entry(id).or_default().tail = tail;
    }

    /// Returns where frame `number` lies.
    pub(crate) fn find(&self, log: LogId, number: FrameNo) -> Result<Found, Error> {
        let missing = Error::NoSuchFrame { log, number };
        let entry = self.logs.get(&log).ok_or(missing.clone())?;
        let at = number.0.checked_sub(entry.first.0).ok_or(missing.clone())?;
        let at = usize::try_from(at).map_err(|_| missing.clone())?;
        let place = entry.frames.get(at).ok_or(missing.clone())?;
        let live = self.files.get(&u64::from(place.file)).ok_or(missing)?;
        Ok(Found {
            handle: live.file.handle.clone(),
            path: live.file.path.clone(),
            offset: u64::from(place.offset),
            len: place.len,
        })
    }

    /// Whether truncating at `keep_from` would end this log's need for some file.
    pub(crate) fn releases(&self, log: LogId, keep_from: FrameNo) -> bool {
        self.released(log, keep_from).next().is_some()
    }

    /// Whether one of these files is closed, so that it may be what all logs wait for.
    pub(crate) fn releases_full(&self, log: LogId, keep_from: FrameNo) -> bool {
        self.released(log, keep_from).any(LiveFile::is_closed)
    }

    /// Returns the files that a log needs now and would not need if it were truncated at `keep_from`.
    fn released(&self, log: LogId, keep_from: FrameNo) -> impl Iterator<Item = &LiveFile> {
        let truncated = self.logs.get(&log).map_or(keep_from, |log| log.truncated);
        self.files.values().filter(move |live| {
            let last = live.last.get(&log);
            last.is_some_and(|last| (truncated..keep_from).contains(last))
        })
    }

    /// Forgets the frames of a log below `keep_from`.
    pub(crate) fn truncate(&mut self, log: LogId, keep_from: FrameNo) {
        let log = self.logs.entry(log).or_default();
        log.truncated = log.truncated.max(keep_from);
        if log.first <= log.truncated {
            log.missing = None;
        }
        while log.first < log.truncated && log.frames.pop_front().is_some() {
            log.first = log.first.next();
        }
        if log.frames.len() < log.frames.capacity() / 4 {
            log.frames.shrink_to(log.frames.len() * 2);
        }
    }

    /// Takes out the closed files that no log needs.
    pub(crate) fn take_unneeded(&mut self) -> Vec<WalFile> {
        if self.damage.is_some() {
            return Vec::new();
        }
        let truncated =
            |log: &LogId, last: FrameNo| self.logs.get(log).is_some_and(|l| l.truncated > last);
        let unneeded = |live: &LiveFile| {
            let mut last = live.last.iter();
            live.is_closed() && last.all(|(log, last)| truncated(log, *last))
        };
        let files = self.files.iter().filter(|(_, live)| unneeded(live));
        let numbers: Vec<_> = files.map(|(number, _)| *number).collect();
        let taken = numbers
            .iter()
            .filter_map(|number| self.files.remove(number));
        taken.map(|live| live.file).collect()
    }
}

impl LogIndex {
    fn push(&mut self, header: &FrameHeader, crc: u32, file: u64, offset: u64) {
        self.frames.push_back(Place {
            file: u32::try_from(file).expect("files are counted in 32 bits for ages"),
            offset: u32::try_from(offset).expect("a file has at most 1 GiB"),
            len: u32::try_from(header.frame_len()).expect("a frame fits a file"),
        });
        self.tail = Tail {
            last: header.number,
            crc,
            epoch: header.epoch,
        };
    }
}

/// Says that the frame at `offset` of `file` cannot be read.
pub(crate) fn bad_frame(file: &Path, offset: u64, log: LogId, number: FrameNo) -> Error {
    let what = format!("frame {number} of log {log} fails its checksum");
    Error::corrupt(file, offset, what)
}
