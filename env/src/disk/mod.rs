//! Files, with the durability rules spelled out.
//!
//! A write survives a power cut only after [`DiskFile::sync_data`]; a created, renamed or removed name
//! only after [`Disk::sync_dir`] on its folder. Methods are async so that a simulated disk can take
//! time; on the real one they are system calls that block the calling thread, so they belong into a
//! [`crate::spawn_worker`], or into start-up.

mod direct;
mod real;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use real::RealDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Read,
    /// It must exist.
    ReadWrite,
    /// It must not exist.
    CreateNew,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The entry's path, the folder's included.
    pub path: PathBuf,
    /// Length in bytes; 0 for a folder.
    pub len: u64,
    /// Whether the entry is a folder.
    pub is_dir: bool,
}

impl DirEntry {
    /// Returns the last part of the path, or "" if it is not UTF-8.
    pub fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }
}

/// Keeps a lock file locked for as long as it lives.
pub struct DiskLock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl DiskLock {
    /// Wraps whatever releases the lock when dropped.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self(Box::new(held))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// A file system.
#[async_trait]
pub trait Disk: Send + Sync {
    /// Creates a folder and its parents; fine if it exists. Syncs the folders it created a name in.
    async fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Opens or creates a file.
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing `to` atomically. Durable after `sync_dir`.
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after `sync_dir`.
    async fn remove(&self, path: &Path) -> io::Result<()>;
    /// Lists a folder, sorted by path. A missing folder is an error.
    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the names in `dir` durable.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks the file at `path` for this process, creating it if needed.
    ///
    /// # Errors
    /// `WouldBlock` if another process, or another holder in this one, has it.
    async fn lock(&self, path: &Path) -> io::Result<DiskLock>;
    /// Returns the bytes that can still be written below `dir`.
    async fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. Reads and writes go to explicit positions, so it can be shared.
#[async_trait]
pub trait DiskFile: Send + Sync {
    /// Returns the length in bytes.
    async fn size(&self) -> io::Result<u64>;
    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Writes `parts` one behind the other from `offset` on, all of them or an error.
    /// The file grows as needed.
    async fn write_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()>;
    /// As [`Self::write_at`], for whole blocks of 4 KiB that are not soon read again: on disks that can, past
    /// the operating system's cache, which saves a copy and half of the work. Fine, only slower, for
    /// anything else.
    async fn write_through_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.write_at(offset, parts).await
    }
    /// Reserves `len` bytes from the start on, which read as zeros until they are written; the file must be
    /// new. Writes within them don't run out of space, but the first to each place changes metadata, which
    /// the sync behind it then writes too: slower than over bytes that were written before.
    async fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes all writes before the call durable. After an error nothing is known about them, and a
    /// second call proves nothing: stop.
    async fn sync_data(&self) -> io::Result<()>;
}

/// How long [`lock_patiently`] waits: longer than a killed process takes to be gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often it tries.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Locks as [`Disk::lock`] does, but gives a holder that is just ending two seconds to be gone.
///
/// # Errors
/// `WouldBlock` if somebody holds it on and on; otherwise the disk's own errors.
pub async fn lock_patiently(disk: &dyn Disk, path: &Path) -> io::Result<DiskLock> {
    let mut tries = LOCK_PATIENCE.as_millis() / LOCK_RETRY.as_millis();
    loop {
        match disk.lock(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 0 => {
                tries -= 1;
                tokio::time::sleep(LOCK_RETRY).await;
            }
            result => return result,
        }
    }
}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// `InvalidData` if the file is larger; otherwise the disk's own errors.
pub async fn read_file(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Bytes> {
    let file = disk.open(path, OpenMode::Read).await?;
    let len = file.size().await?;
    if len > max {
        let reason = format!("{} has {len} bytes, at most {max} expected", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX))
        .await
}

/// Replaces the file at `path` so that after a crash either the old or the new bytes are there.
///
/// Order: write beside it, sync, rename, sync the folder.
pub async fn write_file_atomically(disk: &dyn Disk, path: &Path, bytes: Bytes) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match disk.remove(&temporary).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&temporary, OpenMode::CreateNew).await?;
    file.write_at(0, &[bytes]).await?;
    file.sync_data().await?;
    disk.rename(&temporary, path).await?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("."))).await
}
