//! The operating system's files.

#![allow(clippy::disallowed_methods, reason = "this is where files enter")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use rustix::io::Errno;

use super::direct::Direct;
use super::{DirEntry, Disk, DiskFile, DiskLock, OpenMode};

/// Zeros are written in pieces of this size: large enough to be few calls, small enough to stay cached.
const ZEROS: usize = 1 << 20;

/// Folders and files are for their owner only.
const FILE_MODE: u32 = 0o600;

/// The file system of the operating system. Fit for one machine; not for NFS, whose locks and syncs
/// promise less.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile {
    file: File,
    /// Opened a second time when it is first written through; `None` where that can't be.
    direct: OnceLock<Option<Direct>>,
}

#[async_trait]
impl Disk for RealDisk {
    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut at = Some(path);
        while let Some(dir) = at.filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
            missing.push(dir);
            at = dir.parent();
        }
        fs::create_dir_all(path)?;
        for dir in missing.iter().rev() {
            sync_dir(
                dir.parent()
                    .filter(|p| !p.as_os_str().is_empty())
                    .unwrap_or(Path::new(".")),
            )?;
        }
        Ok(())
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(RealFile {
            file: options.open(path)?,
            direct: OnceLock::new(),
        }))
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let len = if meta.is_dir() { 0 } else { meta.len() };
            entries.push(DirEntry {
                path: entry.path(),
                len,
                is_dir: meta.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }

    async fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(DiskLock::new(file))
    }

    async fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[async_trait]
impl DiskFile for RealFile {
    async fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = BytesMut::zeroed(len);
        let mut filled = 0;
        while filled < len {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.freeze())
    }

    async fn write_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        write_vectored(&self.file, offset, parts)
    }

    async fn write_through_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let direct = self.direct.get_or_init(|| Direct::reopen(&self.file));
        match direct {
            Some(direct) => direct.write(&self.file, offset, parts),
            None => write_vectored(&self.file, offset, parts),
        }
    }

    async fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(len),
            Err(error) => Err(error.into()),
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl RealFile {
    fn write_zeros(&self, len: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let mut position = 0;
        while position < len {
            let piece = usize::try_from(len - position).unwrap_or(ZEROS).min(ZEROS);
            self.file.write_all_at(&zeros[..piece], position)?;
            position += piece as u64;
        }
        Ok(())
    }
}

/// Writes all parts, as few system calls as there can be.
fn write_vectored(file: &File, offset: u64, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
    write_slices(file, offset, &mut slices)
}

/// The kernel takes at most so many in one call (`IOV_MAX`).
pub(super) const SLICES_MAX: usize = 1_024;

/// Writes all slices, one behind the other.
pub(super) fn write_slices(
    file: &File,
    offset: u64,
    slices: &mut [io::IoSlice<'_>],
) -> io::Result<()> {
    let mut rest = slices;
    let mut position = offset;
    io::IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let count = rest.len().min(SLICES_MAX);
        match rustix::io::pwritev(file, &rest[..count], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                position += n as u64;
                io::IoSlice::advance_slices(&mut rest, n);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
