//! The chain: which loglets make up a log, under which epoch, and where it begins.
//!
//! One small record per log, changed only by compare-and-swap on its revision. Sealing the loglets and
//! winning the swap is the whole fencing story. [`LocalChain`] keeps one file per log in a folder that
//! one process has locked; it serialises the swaps of that process, not those of several.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use sarit_env::disk::{self, Disk};
use sarit_env::spawn_worker;

use crate::record::crc32c;
use crate::{Error, FrameNo, LogId, WalEpoch};

const MAGIC: u32 = u32::from_le_bytes(*b"SCHN");
const VERSION: u16 = 1;
const HEADER: usize = 40;
const LOGLET: usize = 40;
/// A log that was opened this often without being truncated has another problem.
const LOGLETS_MAX: usize = 10_000;
const OPEN_END: u64 = u64::MAX;

/// One sealable piece of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogletRecord {
    /// Unique within the log: the epoch that created it.
    pub id: u64,
    /// Which engine holds it; 1 is local files, 2 memory.
    pub kind: u8,
    /// For the engine; 0 for local files, whose frames carry their epoch.
    pub params: u64,
    /// Its first frame, whether that exists or not.
    pub first: FrameNo,
    /// Its last frame once sealed; one below `first` if it stayed empty.
    pub end: Option<FrameNo>,
}

/// What is known about one log besides its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainRecord {
    /// Rises with every change.
    pub revision: u64,
    /// The newest opening.
    pub epoch: WalEpoch,
    /// Frames below are not needed any more.
    pub truncated_at: FrameNo,
    /// The pieces, oldest first.
    pub loglets: Vec<LogletRecord>,
}

impl Default for ChainRecord {
    fn default() -> Self {
        Self {
            revision: 0,
            epoch: WalEpoch(0),
            truncated_at: FrameNo(1),
            loglets: Vec::new(),
        }
    }
}

impl ChainRecord {
    /// Returns the last frame that a sealed loglet or the truncation point proves to have existed.
    pub(crate) fn known_last(&self) -> FrameNo {
        let sealed = self.loglets.iter().filter_map(|loglet| loglet.end).max();
        sealed
            .unwrap_or(FrameNo(0))
            .max(FrameNo(self.truncated_at.0 - 1))
    }

    /// Seals every open loglet at `end`; drops those that hold nothing any more.
    pub(crate) fn seal(&mut self, end: FrameNo) {
        for loglet in &mut self.loglets {
            let end = end.max(FrameNo(loglet.first.0 - 1));
            loglet.end.get_or_insert(end);
        }
        let truncated_at = self.truncated_at;
        self.loglets.retain(|loglet| {
            loglet
                .end
                .is_none_or(|end| end >= loglet.first && end >= truncated_at)
        });
    }

    /// Returns the record's bytes.
    pub fn encode(&self, log: LogId) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + LOGLET * self.loglets.len() + 4);
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(log.0);
        out.put_u32_le(u32::try_from(self.loglets.len()).expect("bounded by LOGLETS_MAX"));
        out.put_u64_le(self.revision);
        out.put_u64_le(self.epoch.0);
        out.put_u64_le(self.truncated_at.0);
        for loglet in &self.loglets {
            out.put_u64_le(loglet.id);
            out.put_u8(loglet.kind);
            out.put_bytes(0, 7);
            out.put_u64_le(loglet.params);
            out.put_u64_le(loglet.first.0);
            out.put_u64_le(loglet.end.map_or(OPEN_END, |end| end.0));
        }
        out.put_u32_le(crc32c(&out));
        out.freeze()
    }

    /// Decodes a record of `log`, read from `file`.
    ///
    /// # Errors
    /// [`Error::FutureVersion`] or [`Error::Corrupt`].
    pub fn decode(log: LogId, bytes: &[u8], file: &Path) -> Result<Self, Error> {
        let broken = |offset: usize, what: &str| Error::corrupt(file, offset as u64, what);
        let (mut head, _) = bytes
            .split_at_checked(HEADER)
            .ok_or_else(|| broken(0, "shorter than a chain record"))?;
        if head.get_u32_le() != MAGIC {
            return Err(broken(0, "not a chain record"));
        }
        let version = head.get_u16_le();
        if version > VERSION {
            return Err(Error::FutureVersion {
                file: file.to_owned(),
                found: version,
                supported: VERSION,
            });
        }
        let covered = bytes.len().saturating_sub(4);
        if (&bytes[covered..]).get_u32_le() != crc32c(&bytes[..covered]) {
            return Err(broken(covered, "the checksum of the chain record is wrong"));
        }
        let _flags = head.get_u16_le();
        if head.get_u32_le() != log.0 {
            return Err(broken(8, "the chain record of another log"));
        }
        let count = head.get_u32_le() as usize;
        if count > LOGLETS_MAX || HEADER + LOGLET * count != covered {
            return Err(broken(
                12,
                "the chain record has another length than it says",
            ));
        }
        let mut record = Self {
            revision: head.get_u64_le(),
            epoch: WalEpoch(head.get_u64_le()),
            truncated_at: FrameNo(head.get_u64_le()),
            loglets: Vec::with_capacity(count),
        };
        if record.truncated_at.0 == 0 {
            return Err(broken(32, "a truncation point of 0"));
        }
        let mut rest = &bytes[HEADER..covered];
        for _ in 0..count {
            let id = rest.get_u64_le();
            let kind = rest.get_u8();
            rest.advance(7);
            let params = rest.get_u64_le();
            let first = FrameNo(rest.get_u64_le());
            if first.0 == 0 {
                return Err(broken(HEADER, "a loglet that begins with frame 0"));
            }
            let end = Some(rest.get_u64_le()).filter(|end| *end != OPEN_END);
            record.loglets.push(LogletRecord {
                id,
                kind,
                params,
                first,
                end: end.map(FrameNo),
            });
        }
        Ok(record)
    }
}

/// Where chain records live: the one place that decides who owns a log.
#[async_trait]
pub trait ChainStore: Send + Sync {
    /// Returns the record of `log`, the default (revision 0) if there is none.
    async fn read(&self, log: LogId) -> Result<ChainRecord, Error>;
    /// Stores `next` durably if the stored revision still is `expected`; says whether it did.
    /// The revision of `next` becomes `expected + 1`.
    async fn compare_and_swap(
        &self,
        log: LogId,
        expected: u64,
        next: ChainRecord,
    ) -> Result<bool, Error>;
}

/// Chain records as files `chain/{log}`, each replaced atomically.
pub(crate) struct LocalChain(Arc<Local>);

struct Local {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Per log one swap at a time; those of several logs share the device's syncs.
    swapping: Mutex<BTreeMap<LogId, Arc<tokio::sync::Mutex<()>>>>,
}

impl LocalChain {
    /// Uses the folder `dir`, creating it. Blocks as the disk does.
    pub(crate) async fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, Error> {
        let created = disk.create_dir_all(&dir).await;
        created.map_err(|error| Error::io("create", &dir, error))?;
        Ok(Self(Arc::new(Local {
            disk,
            dir,
            swapping: Mutex::default(),
        })))
    }
}

impl Local {
    async fn read(&self, log: LogId) -> Result<ChainRecord, Error> {
        let file = self.dir.join(log.to_string());
        let max = (HEADER + LOGLET * LOGLETS_MAX + 4) as u64;
        match disk::read_file(&*self.disk, &file, max).await {
            Ok(bytes) => ChainRecord::decode(log, &bytes, &file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ChainRecord::default()),
            Err(error) => Err(Error::io("read", &file, error)),
        }
    }

    async fn swap(&self, log: LogId, expected: u64, next: ChainRecord) -> Result<bool, Error> {
        let swapping = self.swapping.lock().entry(log).or_default().clone();
        let _swapping = swapping.lock().await;
        if self.read(log).await?.revision != expected {
            return Ok(false);
        }
        let file = self.dir.join(log.to_string());
        let bytes = ChainRecord {
            revision: expected + 1,
            ..next
        };
        let written = disk::write_file_atomically(&*self.disk, &file, bytes.encode(log)).await;
        written.map_err(|error| Error::io("replace", &file, error))?;
        Ok(true)
    }
}

#[async_trait]
impl ChainStore for LocalChain {
    async fn read(&self, log: LogId) -> Result<ChainRecord, Error> {
        let local = self.0.clone();
        worker(async move { local.read(log).await }).await
    }

    async fn compare_and_swap(
        &self,
        log: LogId,
        expected: u64,
        next: ChainRecord,
    ) -> Result<bool, Error> {
        if next.loglets.len() > LOGLETS_MAX {
            return Err(Error::stopped(format!(
                "log {log} was opened {LOGLETS_MAX} times without being truncated"
            )));
        }
        let local = self.0.clone();
        worker(async move { local.swap(log, expected, next).await }).await
    }
}

/// Makes the first opening of a log, which does not exist yet in the folder `dir`, have an epoch above
/// `epoch`: that of owners whose log is lost.
///
/// # Errors
/// [`Error::Corrupt`] if the log exists, [`Error::Io`].
pub async fn begin_above(
    disk: Arc<dyn Disk>,
    dir: &Path,
    log: LogId,
    epoch: u64,
) -> Result<(), Error> {
    let folder = dir.join("chain");
    let chain = LocalChain::open(disk, folder.clone()).await?;
    let record = ChainRecord {
        epoch: WalEpoch(epoch),
        ..ChainRecord::default()
    };
    if chain.compare_and_swap(log, 0, record).await? {
        return Ok(());
    }
    let file = folder.join(log.to_string());
    Err(Error::corrupt(&file, 0, "there is a log already"))
}

/// Reads what is known of a log in the folder `dir` besides its frames; revision 0 if there is none.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::FutureVersion`], [`Error::Io`].
pub async fn chain_record(
    disk: Arc<dyn Disk>,
    dir: &Path,
    log: LogId,
) -> Result<ChainRecord, Error> {
    let chain = LocalChain::open(disk, dir.join("chain")).await?;
    chain.read(log).await
}

/// Runs blocking file work beside the runtime.
async fn worker<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let done = spawn_worker("wal-chain", work).await;
    done.unwrap_or_else(|| Err(Error::stopped("the worker for chain records ended")))
}

/// Chain records in memory.
#[derive(Default)]
pub(crate) struct MemoryChain(Mutex<BTreeMap<LogId, ChainRecord>>);

#[async_trait]
impl ChainStore for MemoryChain {
    async fn read(&self, log: LogId) -> Result<ChainRecord, Error> {
        Ok(self.0.lock().get(&log).cloned().unwrap_or_default())
    }

    async fn compare_and_swap(
        &self,
        log: LogId,
        expected: u64,
        mut next: ChainRecord,
    ) -> Result<bool, Error> {
        let mut records = self.0.lock();
        let current = records.entry(log).or_default();
        if current.revision != expected {
            return Ok(false);
        }
        next.revision = expected + 1;
        *current = next;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ChainRecord {
        ChainRecord {
            revision: 3,
            epoch: WalEpoch(2),
            truncated_at: FrameNo(5),
            loglets: vec![
                LogletRecord {
                    id: 1,
                    kind: 1,
                    params: 0,
                    first: FrameNo(1),
                    end: Some(FrameNo(9)),
                },
                LogletRecord {
                    id: 2,
                    kind: 1,
                    params: 0,
                    first: FrameNo(10),
                    end: None,
                },
            ],
        }
    }

    #[test]
    fn a_chain_record_has_these_bytes_for_ever() {
        let bytes = record().encode(LogId(7));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "5343484e01000000070000000200000003000000000000000200000000000000\
                      0500000000000000010000000000000001000000000000000000000000000000\
                      0100000000000000090000000000000002000000000000000100000000000000\
                      00000000000000000a00000000000000ffffffffffffffff5b94fa99";
        assert_eq!(hex, golden);
        let read = ChainRecord::decode(LogId(7), &bytes, Path::new("chain/7")).unwrap();
        assert_eq!(read, record());
    }

    #[test]
    fn damage_is_an_error_and_a_newer_version_a_sentence() {
        let file = Path::new("chain/7");
        let mut bytes = record().encode(LogId(7)).to_vec();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ChainRecord::decode(LogId(7), &bytes, file).is_err());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..bytes.len() {
            assert!(ChainRecord::decode(LogId(7), &bytes[..len], file).is_err());
        }
        bytes[4] = 2;
        let error = ChainRecord::decode(LogId(7), &bytes, file).unwrap_err();
        assert_eq!(
            error.to_string(),
            "chain/7 has format version 2, this release reads up to 1; start the newer release"
        );
    }

    #[test]
    fn sealing_ends_open_loglets_and_drops_empty_ones() {
        let mut empty = record();
        empty.seal(FrameNo(9));
        assert_eq!(empty.loglets.len(), 1);
        let mut used = record();
        used.seal(FrameNo(12));
        assert_eq!(used.loglets[1].end, Some(FrameNo(12)));
        assert_eq!(used.known_last(), FrameNo(12));
    }
}
