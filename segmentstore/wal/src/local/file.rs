//! One lane file: its header, its states, and how it comes into being and is reused.
//!
//! ```text
//! (name.tmp) → Ready → Active → Closed → (name.tmp) → Ready …
//! ```
//! A file is prepared under a temporary name and renamed when its header is synced, so a `.wal` file
//! always has a valid header: one without has been damaged. Every change of state rewrites the first
//! 512 bytes of the header, which a device writes as a whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sarit_env::disk::{Disk, DiskFile, OpenMode};

use crate::Error;
use crate::config::FILE_OVERHEAD;
use crate::record::{BLOCK, VERSION, crc32c};

const MAGIC: u32 = u32::from_le_bytes(*b"SWAL");
const COVERED: usize = 96;
/// The lane this release has; the format knows more.
pub(crate) const LANE: u32 = 0;
/// Zeros are written in pieces of this size.
const PIECE: usize = 1 << 20;
/// And synced so often, lest the lane's syncs queue up behind a whole file of them.
const SYNC_EVERY: u64 = 4 << 20;

/// A file's reach moves on by this part of the file.
const REACH_PART: u64 = 16;
/// But by so many bytes at most, which a start may have to search: cold, about ten milliseconds of reading.
const REACH_MAX: u64 = 4 << 20;

/// A block of zeros, for padding.
pub(crate) static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// What a file is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// Nothing yet; what lies behind the header is meaningless.
    Ready,
    /// The lane writes to it, or did when it stopped. No byte from `reach` on has been acknowledged, and
    /// that holds for an idle header too, so who looks for proof that bytes had been durable looks no
    /// further. Files of earlier releases have none on record, which reads as `u64::MAX`.
    Active { reach: u64 },
    /// Full, or cut by recovery: the lane's bytes end at this offset.
    Closed { end: u64 },
}

/// What stands at the start of a lane file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) state: FileState,
    /// The store it belongs to.
    pub(crate) identity: [u8; 16],
    pub(crate) number: u64,
    /// Counts the starts of the store.
    pub(crate) boot: u64,
    /// New with every life of the file; seeds the checksums of its lane headers.
    pub(crate) salt: u64,
    /// Position in the lane of the first byte behind this header.
    pub(crate) base_lsn: u64,
    /// The file before this one, 0 if there is none, and where its valid bytes end.
    pub(crate) prev: u64,
    pub(crate) prev_end: u64,
    /// When this life began, in milliseconds since the Unix epoch; for people.
    pub(crate) began_ms: i64,
}

impl FileHeader {
    /// Returns the header block.
    pub(crate) fn encode(&self) -> Bytes {
        let (state, end) = match self.state {
            FileState::Ready => (0, 0),
            FileState::Active { reach } => (1, reach),
            FileState::Closed { end } => (2, end),
        };
        let mut out = BytesMut::with_capacity(BLOCK as usize);
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u8(state);
        out.put_u8(0);
        out.put_slice(&self.identity);
        out.put_u32_le(LANE);
        out.put_u32_le(0);
        out.put_u64_le(self.number);
        out.put_u64_le(self.boot);
        out.put_u64_le(self.salt);
        out.put_u64_le(self.base_lsn);
        out.put_u64_le(self.prev);
        out.put_u64_le(self.prev_end);
        out.put_u64_le(end);
        out.put_i64_le(self.began_ms);
        out.put_u32_le(crc32c(&out[..COVERED]));
        out.resize(BLOCK as usize, 0);
        out.freeze()
    }

    /// Decodes the header of `file`: `None` if these bytes are not one.
    ///
    /// # Errors
    /// [`Error::FutureVersion`].
    pub(crate) fn decode(bytes: &[u8], file: &Path) -> Result<Option<Self>, Error> {
        let Some((covered, mut crc)) = bytes.get(..COVERED + 4).map(|b| b.split_at(COVERED)) else {
            return Ok(None);
        };
        let mut rest = covered;
        if rest.get_u32_le() != MAGIC {
            return Ok(None);
        }
        let found = rest.get_u16_le();
        if found > VERSION {
            return Err(Error::FutureVersion {
                file: file.to_owned(),
                found,
                supported: VERSION,
            });
        }
        if crc.get_u32_le() != crc32c(covered) {
            return Ok(None);
        }
        let state = rest.get_u8();
        rest.advance(1);
        let mut identity = [0; 16];
        rest.copy_to_slice(&mut identity);
        rest.advance(8);
        let (number, boot, salt) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let (base_lsn, prev, prev_end) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        let end = rest.get_u64_le();
        let state = match state {
            0 => FileState::Ready,
            1 => FileState::Active {
                reach: if end == 0 { u64::MAX } else { end },
            },
            2 => FileState::Closed { end },
            _ => return Ok(None),
        };
        Ok(Some(Self {
            state,
            identity,
            number,
            boot,
            salt,
            base_lsn,
            prev,
            prev_end,
            began_ms: rest.get_i64_le(),
        }))
    }

    /// Returns how far a file of `len` bytes may be written to at once, as recorded before its bytes up to
    /// `end` are acknowledged. Further: fewer writes of this header, but more to search after a crash.
    pub(crate) fn reach(end: u64, len: u64) -> u64 {
        (end + (len / REACH_PART).clamp(BLOCK, REACH_MAX)).min(len)
    }

    /// Returns the position in the lane of `offset` in this file.
    pub(crate) fn lsn(&self, offset: u64) -> u64 {
        self.base_lsn.wrapping_add(offset.wrapping_sub(BLOCK))
    }
}

/// What a file that is made ready holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Zeros that were written and synced: a sync over them is as fast as can be, but every byte of the
    /// lane costs the device two.
    Zeros,
    /// Space only: made at once, and written once, by somewhat slower syncs.
    Space,
}

/// An open lane file.
#[derive(Clone)]
pub(crate) struct WalFile {
    pub(crate) header: FileHeader,
    pub(crate) path: PathBuf,
    /// Length in bytes.
    pub(crate) len: u64,
    pub(crate) handle: Arc<dyn DiskFile>,
}

impl WalFile {
    /// Returns the path of file `number` in `dir`.
    pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{number:016x}.wal"))
    }

    /// Makes a new file of `len` bytes ready: header and what is `ahead` synced, name durable.
    pub(crate) async fn create(
        disk: &dyn Disk,
        dir: &Path,
        header: FileHeader,
        len: u64,
        ahead: Ahead,
    ) -> io::Result<Self> {
        let path = Self::path(dir, header.number);
        let temporary = path.with_extension("tmp");
        remove_if_there(disk, &temporary).await?;
        let handle = disk.open(&temporary, OpenMode::CreateNew).await?;
        let filled = fill(&*handle, &header, len, ahead).await;
        if let Err(error) = filled {
            // What is half made only takes space; if this fails too, the next start removes it.
            let _ = disk.remove(&temporary).await;
            return Err(error);
        }
        disk.rename(&temporary, &path).await?;
        disk.sync_dir(dir).await?;
        Ok(Self {
            header,
            path,
            len,
            handle,
        })
    }

    /// Gives the file a new life under another number. Its frames are gone.
    pub(crate) async fn recycle(
        self,
        disk: &dyn Disk,
        dir: &Path,
        header: FileHeader,
    ) -> io::Result<Self> {
        let path = Self::path(dir, header.number);
        let temporary = path.with_extension("tmp");
        remove_if_there(disk, &temporary).await?;
        disk.rename(&self.path, &temporary).await?;
        self.handle.write_through_at(0, &[header.encode()]).await?;
        self.handle.sync_data().await?;
        disk.rename(&temporary, &path).await?;
        disk.sync_dir(dir).await?;
        Ok(Self {
            header,
            path,
            ..self
        })
    }

    /// Records where the valid bytes end, durably; with that also everything before is durable.
    pub(crate) async fn close(&mut self, end: u64) -> io::Result<()> {
        self.header.state = FileState::Closed { end };
        let header = [self.header.encode()];
        self.handle.write_through_at(0, &header).await?;
        self.handle.sync_data().await
    }

    /// Returns the bytes of frames that fit into an empty file of `len` bytes.
    pub(crate) fn room(len: u64) -> u64 {
        len.saturating_sub(FILE_OVERHEAD)
    }
}

async fn fill(
    handle: &dyn DiskFile,
    header: &FileHeader,
    len: u64,
    ahead: Ahead,
) -> io::Result<()> {
    if ahead == Ahead::Space {
        handle.allocate(len).await?;
        handle.write_through_at(0, &[header.encode()]).await?;
        return handle.sync_data().await;
    }
    let zeros = Bytes::from(vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))]);
    handle.write_through_at(0, &[header.encode()]).await?;
    let mut at = BLOCK;
    while at < len {
        // Ends on multiples of the piece.
        let piece = (PIECE as u64 - at % PIECE as u64).min(len - at) as usize;
        handle.write_through_at(at, &[zeros.slice(..piece)]).await?;
        at += piece as u64;
        if at.is_multiple_of(SYNC_EVERY) && at < len {
            handle.sync_data().await?;
        }
    }
    handle.sync_data().await
}

async fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_header_has_these_bytes_for_ever() {
        let header = FileHeader {
            state: FileState::Closed { end: 8192 },
            identity: *b"0123456789abcdef",
            number: 7,
            boot: 2,
            salt: 0x1122_3344_5566_7788,
            base_lsn: 4096,
            prev: 6,
            prev_end: 12288,
            began_ms: 1_700_000_000_000,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), 4096);
        let hex: String = bytes[..100].iter().map(|b| format!("{b:02x}")).collect();
        let golden = "5357414c01000200303132333435363738396162636465660000000000000000\
                      0700000000000000020000000000000088776655443322110010000000000000\
                      0600000000000000003000000000000000200000000000000068e5cf8b010000\
                      99742151";
        assert_eq!(hex, golden);
        assert!(bytes[100..].iter().all(|byte| *byte == 0));
        let path = Path::new("wal/lane-0/0000000000000007.wal");
        assert_eq!(FileHeader::decode(&bytes, path).unwrap(), Some(header));
        let mut damaged = bytes.to_vec();
        damaged[50] ^= 1;
        assert_eq!(FileHeader::decode(&damaged, path).unwrap(), None);
        damaged[4] = 9;
        let error = FileHeader::decode(&damaged, path).unwrap_err();
        assert!(error.to_string().contains("format version 9"), "{error}");
    }
}
