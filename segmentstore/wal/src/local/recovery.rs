//! What a lane's files hold after a stop of any kind.
//!
//! Files are walked in order, from lane write to lane write. Where the walk fails, one question
//! decides: had the bytes been acknowledged? They had if the file's end is on record (in its own
//! header or the next file's) and lies behind, or if a later lane header of the same life says that
//! everything before it was durable. Then it is corruption, and the logs that may have lost something
//! are told so. Otherwise the write was torn, nobody was promised it, and the lane is cut there.
//!
//! Residual gap, as with every log of this kind: damage to the very last acknowledged write, with
//! nothing behind it, looks torn. The header a lane writes when it goes idle narrows it.
//!
//! Headers are walked; bodies are checked here only in the very last write, the one that may be torn,
//! and all others on replay. So the time depends little on how much the log holds. Memory is bounded
//! by one piece of a file and the index.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sarit_env::disk::{DirEntry, Disk, DiskFile, OpenMode};

use super::file::{FileHeader, FileState, WalFile};
use super::index::Index;
use crate::Error;
use crate::config::FILE_BYTES_MAX;
use crate::record::{BLOCK, Crc, FRAME_HEADER, FrameHeader, LANE_HEADER, LaneHeader};

/// Read at once when reading on; a jump reads less.
const PIECE: u64 = 1 << 20;
const PIECE_AFTER_JUMP: u64 = 64 << 10;

/// A lane as found.
pub(crate) struct Recovered {
    pub(crate) index: Index,
    /// Files that are ready for use, lowest number first.
    pub(crate) ready: Vec<WalFile>,
    /// Highest file number in use.
    pub(crate) last_number: u64,
    /// Number of this start of the store.
    pub(crate) boot: u64,
    /// Where the lane goes on.
    pub(crate) lsn: u64,
    /// The last file that was written to and the end of its valid bytes; 0 and 0 if there is none.
    pub(crate) prev: (u64, u64),
}

/// Reads the lane in `dir`. Nothing is changed but: torn tails get their end recorded, files that
/// nothing refers to are removed. With damage present, nothing at all is changed.
pub(crate) async fn recover(
    disk: &dyn Disk,
    dir: &Path,
    identity: [u8; 16],
) -> Result<Recovered, Error> {
    let (files, leftovers) = list(disk, dir, identity).await?;
    let mut found = Recovered {
        index: Index::default(),
        ready: Vec::new(),
        last_number: 0,
        boot: 1,
        lsn: 0,
        prev: (0, 0),
    };
    // What the successor says about the end of a file.
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for file in files.values().filter_map(|file| file.as_ref().ok()) {
        found.boot = found.boot.max(file.header.boot.saturating_add(1));
        if file.header.state != FileState::Ready {
            ends.insert(file.header.prev, file.header.prev_end);
        }
    }
    let mut open_ended = Vec::new();
    for (number, file) in files {
        found.last_number = found.last_number.max(number);
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                found.index.add_damaged_stretch(error);
                continue;
            }
        };
        let end = match file.header.state {
            FileState::Ready => {
                found.ready.push(file);
                continue;
            }
            FileState::Closed { end } => Some(end),
            FileState::Active { .. } => ends.get(&number).copied(),
        };
        found.index.add_file(file.clone());
        let end = Walk::new(&file, end).run(&mut found.index).await?;
        found.lsn = file.header.lsn(end);
        found.prev = (number, end);
        if matches!(file.header.state, FileState::Active { .. }) {
            open_ended.push((file, end));
        }
    }
    // A ready file below one in use was passed over.
    let (in_use, ready) = (found.prev.0, std::mem::take(&mut found.ready));
    let (passed, ready): (Vec<_>, Vec<_>) = ready
        .into_iter()
        .partition(|file| file.header.number < in_use);
    found.ready = ready;
    for (mut file, end) in open_ended {
        // After a kill the file may hold bytes that were never synced. They will be replayed, so
        // they have to last; and the end has to, so that a cut stays a cut.
        let synced = if found.index.is_damaged() {
            file.handle.sync_data().await
        } else {
            file.close(end).await
        };
        synced.map_err(|error| Error::io("sync", &file.path, error))?;
        found.index.add_file(file);
    }
    if !found.index.is_damaged() {
        let unused = leftovers.into_iter().map(|entry| entry.path);
        for path in unused.chain(passed.into_iter().map(|file| file.path)) {
            let removed = disk.remove(&path).await;
            removed.map_err(|error| Error::io("remove", &path, error))?;
        }
    }
    Ok(found)
}

type Listed = BTreeMap<u64, Result<WalFile, Error>>;

/// Opens all lane files by number, a damaged header being the file's error; and lists what an
/// interrupted preparation left behind.
async fn list(
    disk: &dyn Disk,
    dir: &Path,
    identity: [u8; 16],
) -> Result<(Listed, Vec<DirEntry>), Error> {
    let entries = disk.list(dir).await;
    let mut files = BTreeMap::new();
    let mut leftovers = Vec::new();
    for entry in entries.map_err(|error| Error::io("list", dir, error))? {
        let stem = entry.name().split_once('.');
        let (number, kind) = match stem {
            Some((stem, kind)) if stem.len() == 16 => (u32::from_str_radix(stem, 16).ok(), kind),
            _ => (None, ""),
        };
        let number = match (number, kind) {
            (Some(number), "wal") => u64::from(number),
            (Some(_), "tmp") => {
                leftovers.push(entry);
                continue;
            }
            _ => {
                tracing::warn!(path = %entry.path.display(), "not a lane file");
                continue;
            }
        };
        let opened = disk.open(&entry.path, OpenMode::ReadWrite).await;
        let handle = opened.map_err(|error| Error::io("open", &entry.path, error))?;
        let read = handle.read_at(0, BLOCK as usize).await;
        let bytes = read.map_err(|error| Error::io("read", &entry.path, error))?;
        let file = match FileHeader::decode(&bytes, &entry.path)? {
            Some(_) if entry.len > FILE_BYTES_MAX => {
                let what = format!("{} bytes are more than a lane file has", entry.len);
                Err(Error::corrupt(&entry.path, FILE_BYTES_MAX, what))
            }
            Some(header) if header.identity != identity => {
                return Err(Error::ForeignFile { file: entry.path });
            }
            Some(header) if header.number == number => Ok(WalFile {
                header,
                path: entry.path,
                len: entry.len,
                handle,
            }),
            // Reused, but the power went before its new name lasted.
            Some(header) if header.state == FileState::Ready => {
                leftovers.push(entry);
                continue;
            }
            Some(_) => Err(Error::corrupt(&entry.path, 0, "the header of another file")),
            None => Err(Error::corrupt(&entry.path, 0, "the file header is damaged")),
        };
        files.insert(number, file);
    }
    Ok((files, leftovers))
}

/// A walk through one file.
struct Walk<'a> {
    file: &'a WalFile,
    /// Where the valid bytes end, if that is on record.
    end: Option<u64>,
    /// Nothing valid lies behind.
    limit: u64,
    reader: Reader,
}

/// One lane write whose headers are valid.
struct Write {
    total: u64,
    durable_lsn: u64,
    frames: Vec<ScannedFrame>,
}

struct ScannedFrame {
    header: FrameHeader,
    crc: u32,
    offset: u64,
}

impl<'a> Walk<'a> {
    fn new(file: &'a WalFile, end: Option<u64>) -> Self {
        let limit = end.unwrap_or(file.len).min(file.len);
        Self {
            file,
            end,
            limit,
            reader: Reader::new(file.handle.clone(), limit),
        }
    }

    /// Adds every frame to `index`. Returns where the valid bytes end.
    async fn run(&mut self, index: &mut Index) -> Result<u64, Error> {
        let (end, limit) = (self.end, self.limit);
        let mut at = BLOCK;
        // The newest write: what comes behind it proves that it had been durable.
        let mut last = None;
        while at + BLOCK <= limit {
            if let Some(write) = self.write(at).await? {
                let (total, durable_lsn) = (write.total, write.durable_lsn);
                if let Some((start, before)) = last.replace((at, write)) {
                    let proven = end.is_some() || durable_lsn > self.file.header.lsn(start);
                    if !proven && !self.is_whole(&before).await? {
                        last = None;
                        at = start;
                        break;
                    }
                    self.add(&before, index);
                }
                at += total;
                continue;
            }
            // Where damage and a torn write cannot be told apart yet, look for a later witness.
            let witness = self.next_header(at).await?;
            let Some(next) = witness.or(end) else { break };
            if let Some((_, proven)) = last.take() {
                self.add(&proven, index);
            }
            let what = format!("{} acknowledged bytes are unreadable", next - at);
            index.add_damaged_stretch(Error::corrupt(&self.file.path, at, what));
            at = next;
        }
        if let Some((start, write)) = last {
            if end.is_some() || self.is_whole(&write).await? {
                self.add(&write, index);
            } else {
                at = start;
            }
        }
        if let Some(end) = end
            && at < end
        {
            // The file is shorter than it was.
            let what = format!("the file ends here, it had {end} bytes");
            index.add_damaged_stretch(Error::corrupt(&self.file.path, self.file.len, what));
        }
        Ok(end.unwrap_or(at))
    }

    fn add(&self, write: &Write, index: &mut Index) {
        let number = self.file.header.number;
        for frame in &write.frames {
            index.add_scanned(&frame.header, frame.crc, number, frame.offset);
        }
    }

    /// Whether the bodies are as their headers say.
    async fn is_whole(&mut self, write: &Write) -> Result<bool, Error> {
        for frame in &write.frames {
            let (at, len) = (frame.offset + FRAME_HEADER as u64, frame.header.body_len);
            if self.body_crc(at, len).await? != frame.header.body_crc {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the write at `at`; `None` if there is no valid one.
    async fn write(&mut self, at: u64) -> Result<Option<Write>, Error> {
        let salt = self.file.header.salt;
        let bytes = self.read(at, LANE_HEADER as u64).await?;
        let Some(lane) = LaneHeader::decode(&bytes, salt) else {
            return Ok(None);
        };
        let (from, to) = (at + LANE_HEADER as u64, at + u64::from(lane.len));
        let fits = lane.lsn == self.file.header.lsn(at)
            && at + lane.total() <= self.limit
            && u64::from(lane.frames) * FRAME_HEADER as u64 <= to - from;
        if !fits {
            return Ok(None);
        }
        let mut crc = lane.start_checksum(salt);
        let mut frames = Vec::with_capacity(lane.frames as usize);
        let mut offset = from;
        for _ in 0..lane.frames {
            let bytes = self.read(offset, FRAME_HEADER as u64).await?;
            let Some((header, header_crc)) = FrameHeader::decode(&bytes) else {
                return Ok(None);
            };
            if offset + header.frame_len() > to {
                return Ok(None);
            }
            crc.add(&bytes);
            frames.push(ScannedFrame {
                header,
                crc: header_crc,
                offset,
            });
            offset += header.frame_len();
        }
        let valid = offset == to && crc.finish() == lane.crc;
        Ok(valid.then_some(Write {
            total: lane.total(),
            durable_lsn: lane.durable_lsn,
            frames,
        }))
    }

    async fn body_crc(&mut self, mut at: u64, len: u32) -> Result<u32, Error> {
        let end = at + u64::from(len);
        let mut crc = Crc::new();
        while at < end {
            let piece = self.read(at, (end - at).min(PIECE)).await?;
            if piece.is_empty() {
                break;
            }
            crc.add(&piece);
            at += piece.len() as u64;
        }
        Ok(crc.finish())
    }

    /// Finds the next lane header behind `at` that belongs to this life of the file. Where the file's end
    /// is not on record, it must say that the bytes at `at` had been durable, and those that do lie within
    /// the file's reach.
    async fn next_header(&mut self, at: u64) -> Result<Option<u64>, Error> {
        let header = self.file.header;
        let witness = self.end.is_none();
        let limit = match header.state {
            FileState::Active { reach } if witness => self.limit.min(reach),
            _ => self.limit,
        };
        let mut next = at + BLOCK;
        while next + BLOCK <= limit {
            let bytes = self.read(next, LANE_HEADER as u64).await?;
            if let Some(lane) = LaneHeader::decode(&bytes, header.salt)
                && lane.lsn == header.lsn(next)
                && (!witness || lane.durable_lsn > header.lsn(at))
            {
                return Ok(Some(next));
            }
            next += BLOCK;
        }
        Ok(None)
    }

    async fn read(&mut self, at: u64, len: u64) -> Result<Bytes, Error> {
        let read = self.reader.read(at, len).await;
        read.map_err(|error| Error::io("read", &self.file.path, error))
    }
}

/// Reads a file in large pieces while it is read on, in smaller ones where parts are left out.
struct Reader {
    handle: Arc<dyn DiskFile>,
    /// Nothing behind is read.
    limit: u64,
    piece: Bytes,
    at: u64,
}

impl Reader {
    fn new(handle: Arc<dyn DiskFile>, limit: u64) -> Self {
        let piece = Bytes::new();
        Self {
            handle,
            limit,
            piece,
            at: 0,
        }
    }

    /// Returns up to `len` bytes at `at`; fewer at the end.
    async fn read(&mut self, at: u64, len: u64) -> std::io::Result<Bytes> {
        let end = self.at + self.piece.len() as u64;
        if at < self.at || at + len > end {
            let jump = at < self.at || at > end + PIECE_AFTER_JUMP;
            let size = if jump { PIECE_AFTER_JUMP } else { PIECE };
            let size = size.max(len).min(self.limit.saturating_sub(at));
            self.piece = self.handle.read_at(at, size as usize).await?;
            self.at = at;
        }
        let from = (at - self.at) as usize;
        let to = (from + len as usize).min(self.piece.len());
        Ok(self.piece.slice(from.min(to)..to))
    }
}
