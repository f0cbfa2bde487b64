//! A disk in memory that forgets in a power cut what was not synced.
//!
//! Every file has a volatile image, which reads see, and a durable one, which a power cut leaves. Of
//! the writes that were not synced a cut keeps a random choice of 512-byte sectors: none, some or all,
//! in any order. Names are durable only after `sync_dir`. Closing a file makes nothing durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::Rng;
use crate::disk::{DirEntry, Disk, DiskFile, DiskLock, OpenMode};

const SECTOR: usize = 512;

/// What the disk does wrong, and how slow it is.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// A sync takes a uniform time in `[0, sync_time_max)`.
    pub sync_time_max: Duration,
    /// All bytes the disk can hold; writes beyond fail with `StorageFull`.
    pub capacity: u64,
    /// Syncs answer without making anything durable: a control run, which must lose data.
    pub syncs_lie: bool,
    /// Number of syncs that still succeed; the one after fails, and then all writes and syncs do.
    pub syncs_until_error: Option<u64>,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            sync_time_max: Duration::ZERO,
            capacity: u64::MAX,
            syncs_lie: false,
            syncs_until_error: None,
        }
    }
}

/// What happened on the disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Syncs of files that succeeded.
    pub syncs: u64,
    /// Bytes written.
    pub written: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Written but unsynced bytes that power cuts dropped.
    pub dropped: u64,
}

/// A simulated disk. Clones are the same disk; it outlives the hosts that use it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    faults: DiskFaults,
    stats: DiskStats,
    /// Rises with every power cut; handles of an older boot are dead.
    boot: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct Inode {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Bytes)>,
}

impl Inode {
    fn write(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
        if image.len() < at + bytes.len() {
            image.resize(at + bytes.len(), 0);
        }
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    boot: u64,
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    boot: u64,
}

impl SimDisk {
    /// Creates an empty disk without faults.
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng,
            faults: DiskFaults::default(),
            stats: DiskStats::default(),
            boot: 0,
            next_inode: 0,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dirs: BTreeSet::new(),
            locks: BTreeSet::new(),
        })))
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.0.lock().faults = faults;
    }

    /// Returns what happened so far.
    pub fn stats(&self) -> DiskStats {
        self.0.lock().stats
    }

    /// Returns the bytes that are written and not synced.
    pub fn unsynced(&self) -> u64 {
        let state = self.0.lock();
        let writes = state.inodes.values().flat_map(|inode| &inode.unsynced);
        writes.map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Cuts the power: unsynced writes and names are dropped, locks released, open files dead. Faults
    /// of the old boot end, except lying syncs.
    pub fn cut_power(&self) {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.boot += 1;
        state.stats.cuts += 1;
        state.locks.clear();
        state.faults.syncs_until_error = None;
        state.names = state.durable_names.clone();
        let kept: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| kept.contains(inode));
        for inode in state.inodes.values_mut() {
            for (at, bytes) in std::mem::take(&mut inode.unsynced) {
                let keep = [0.0, 0.0, 0.5, 1.0][state.rng.below(4) as usize];
                let mut from = 0;
                while from < bytes.len() {
                    // Sectors are those of the device, so a piece ends where a sector does.
                    let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
                    if state.rng.chance(keep) {
                        Inode::write(&mut inode.durable, at + from, &bytes[from..to]);
                    } else {
                        state.stats.dropped += (to - from) as u64;
                    }
                    from = to;
                }
            }
            inode.volatile = inode.durable.clone();
        }
    }

    /// Kills the process only: everything written stays, locks are released, open files are dead.
    pub fn kill_process(&self) {
        let mut state = self.0.lock();
        state.boot += 1;
        state.locks.clear();
    }

    /// Flips one bit of a file, durably.
    ///
    /// # Errors
    /// `NotFound` if there is no such byte.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let inode = state
            .inodes
            .get_mut(&inode)
            .ok_or(io::ErrorKind::NotFound)?;
        let at = usize::try_from(at).map_err(|_| io::ErrorKind::NotFound)?;
        for image in [&mut inode.volatile, &mut inode.durable] {
            *image.get_mut(at).ok_or(io::ErrorKind::NotFound)? ^= 1 << (bit % 8);
        }
        Ok(())
    }
}

impl State {
    fn used(&self) -> u64 {
        self.inodes
            .values()
            .map(|inode| inode.volatile.len() as u64)
            .sum()
    }

    fn broken(&self) -> bool {
        self.faults.syncs_until_error == Some(0)
    }
}

fn dead() -> io::Error {
    io::Error::other("the host lost its power")
}

fn failing() -> io::Error {
    io::Error::other("injected disk error")
}

#[async_trait]
impl Disk for SimDisk {
    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        for dir in path.ancestors() {
            state.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        let known = state.names.get(path).copied();
        let inode = match (known, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, OpenMode::CreateNew) => {
                if path.parent().is_some_and(|dir| !state.dirs.contains(dir)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.names.insert(path.to_owned(), inode);
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
            boot: state.boot,
        }))
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0
            .lock()
            .names
            .remove(path)
            .map(drop)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let within = |path: &Path| path.parent() == Some(dir);
        let files = state
            .names
            .iter()
            .filter(|(path, _)| within(path))
            .map(|(path, inode)| {
                let len = state.inodes[inode].volatile.len() as u64;
                DirEntry {
                    path: path.clone(),
                    len,
                    is_dir: false,
                }
            });
        let dirs = state.dirs.iter().filter(|path| within(path));
        let dirs = dirs.map(|path| DirEntry {
            path: path.clone(),
            len: 0,
            is_dir: true,
        });
        let mut entries: Vec<_> = files.chain(dirs).collect();
        entries.sort();
        Ok(entries)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.broken() {
            return Err(failing());
        }
        if state.faults.syncs_lie {
            return Ok(());
        }
        let within = |path: &PathBuf| path.parent() == Some(dir);
        let now: Vec<_> = state
            .names
            .iter()
            .filter(|(path, _)| within(path))
            .collect();
        let now: Vec<_> = now
            .into_iter()
            .map(|(path, inode)| (path.clone(), *inode))
            .collect();
        state.durable_names.retain(|path, _| !within(path));
        state.durable_names.extend(now);
        Ok(())
    }

    async fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let mut state = self.0.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DiskLock::new(SimLock {
            disk: self.clone(),
            path: path.to_owned(),
            boot: state.boot,
        }))
    }

    async fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.faults.capacity.saturating_sub(state.used()))
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.boot == self.boot {
            state.locks.remove(&self.path);
        }
    }
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.boot != self.boot {
            return Err(dead());
        }
        act(&mut state)
    }

    fn inode<T>(&self, act: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        self.with(|state| state.inodes.get_mut(&self.inode).map(act).ok_or_else(dead))
    }
}

#[async_trait]
impl DiskFile for SimFile {
    async fn size(&self) -> io::Result<u64> {
        self.inode(|inode| inode.volatile.len() as u64)
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.inode(|inode| {
            let from = usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(inode.volatile.len());
            let to = from.saturating_add(len).min(inode.volatile.len());
            Bytes::copy_from_slice(&inode.volatile[from..to])
        })
    }

    async fn write_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.with(|state| {
            if state.broken() {
                return Err(failing());
            }
            let bytes: Vec<u8> = parts.concat();
            let at = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let grown = (offset + bytes.len() as u64).saturating_sub(
                state
                    .inodes
                    .get(&self.inode)
                    .ok_or_else(dead)?
                    .volatile
                    .len() as u64,
            );
            if state.used() + grown > state.faults.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.stats.written += bytes.len() as u64;
            let inode = state.inodes.get_mut(&self.inode).ok_or_else(dead)?;
            Inode::write(&mut inode.volatile, at, &bytes);
            inode.unsynced.push((at, bytes.into()));
            Ok(())
        })
    }

    async fn allocate(&self, len: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?];
        self.write_at(0, &[Bytes::from(zeros)]).await?;
        // Nothing goes to the device but metadata.
        self.with(|state| {
            state.stats.written -= len;
            Ok(())
        })
    }

    async fn sync_data(&self) -> io::Result<()> {
        let (count, time) = self.with(|state| {
            let inode = state.inodes.get(&self.inode).ok_or_else(dead)?;
            let max = u64::try_from(state.faults.sync_time_max.as_micros()).unwrap_or(u64::MAX);
            let time = if max == 0 { 0 } else { state.rng.below(max) };
            Ok((inode.unsynced.len(), Duration::from_micros(time)))
        })?;
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        self.with(|state| {
            if let Some(left) = &mut state.faults.syncs_until_error {
                if *left == 0 {
                    return Err(failing());
                }
                *left -= 1;
            }
            state.stats.syncs += 1;
            if state.faults.syncs_lie {
                return Ok(());
            }
            let inode = state.inodes.get_mut(&self.inode).ok_or_else(dead)?;
            let count = count.min(inode.unsynced.len());
            for (at, bytes) in inode.unsynced.drain(..count) {
                Inode::write(&mut inode.durable, at, &bytes);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_power_cut_keeps_only_what_was_synced() {
        let disk = SimDisk::new(Rng::seeded(1));
        let dir = Path::new("/d");
        disk.create_dir_all(dir).await.unwrap();
        let kept = disk
            .open(&dir.join("kept"), OpenMode::CreateNew)
            .await
            .unwrap();
        kept.write_at(0, &[Bytes::from_static(b"synced")])
            .await
            .unwrap();
        kept.sync_data().await.unwrap();
        disk.sync_dir(dir).await.unwrap();
        disk.open(&dir.join("lost"), OpenMode::CreateNew)
            .await
            .unwrap();
        for round in 0..64 {
            kept.write_at(8192 + round * 4096, &[Bytes::from(vec![1; 4096])])
                .await
                .unwrap();
        }
        assert_eq!(disk.unsynced(), 64 * 4096);
        disk.cut_power();
        assert_eq!(disk.unsynced(), 0);
        assert!(kept.sync_data().await.is_err());
        let names: Vec<_> = disk.list(dir).await.unwrap();
        assert_eq!(names.len(), 1);
        let again = disk
            .open(&dir.join("kept"), OpenMode::ReadWrite)
            .await
            .unwrap();
        assert_eq!(again.read_at(0, 6).await.unwrap(), "synced");
        assert!(disk.stats().dropped > 0);
    }

    #[tokio::test]
    async fn a_lock_has_one_holder() {
        let disk = SimDisk::new(Rng::seeded(1));
        let held = disk.lock(Path::new("/LOCK")).await.unwrap();
        assert!(disk.lock(Path::new("/LOCK")).await.is_err());
        drop(held);
        assert!(disk.lock(Path::new("/LOCK")).await.is_ok());
    }
}
