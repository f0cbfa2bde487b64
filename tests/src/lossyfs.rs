//! A file system that forgets: the power cut for real processes.
//!
//! Mounted by FUSE under a whole server process, it keeps for every file and folder what the process
//! sees and what a power cut would leave. `fsync` of a file promotes its data and size, `fsync` of a
//! folder its names; closing promotes nothing. [`LossyFs::cut_power`] drops the rest, but for a random
//! choice of 512-byte sectors of unsynced writes. Data is held in memory, so runs are short.
//!
//! Every file looks as old as the calendar: who tells garbage by its age finds all of it old enough, as after a leap of
//! the clock.
//!
//! Needs `/dev/fuse` and the right to mount (root, or `fusermount3` installed).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use sarit_env::Rng;

const ROOT: u64 = 1;
const SECTOR: usize = 512;
/// Nothing may be cached by the kernel: after a cut it would answer from before.
const TTL: Duration = Duration::ZERO;

/// What counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// POSIX to the letter: names need a sync of their folder.
    Strict,
    /// As ext4 does: names are durable in order, data needs a sync.
    Ordered,
    /// Syncs answer and do nothing: the control, which must lose data.
    SyncsLie,
}

/// What the disk can't do any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Every sync fails, and makes nothing durable.
    Syncs,
    /// Every write fails, and changes nothing.
    Writes,
}

/// A mounted file system; unmounted when dropped.
pub struct LossyFs {
    state: Arc<Mutex<State>>,
    mount: PathBuf,
    session: Option<BackgroundSession>,
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Bytes written and not synced that are gone.
    pub dropped: u64,
    /// Syncs answered since the cut before.
    pub syncs: u64,
}

struct State {
    rng: Rng,
    mode: Mode,
    next: u64,
    syncs: u64,
    failure: Option<Failure>,
    nodes: BTreeMap<u64, Node>,
    /// What open folders held when they were opened: who lists one misses nothing that stays, whatever goes meanwhile.
    listings: BTreeMap<u64, Vec<(OsString, u64)>>,
}

enum Node {
    Dir {
        names: BTreeMap<OsString, u64>,
        durable: BTreeMap<OsString, u64>,
    },
    File {
        data: Vec<u8>,
        durable: Vec<u8>,
        unsynced: Vec<Change>,
    },
}

enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl LossyFs {
    /// Mounts an empty file system at `mount`, which must be an empty folder.
    ///
    /// # Errors
    /// If mounting is not permitted here; the message says what is needed.
    pub fn mount(mount: &Path, rng: Rng, mode: Mode) -> io::Result<Self> {
        let mut nodes = BTreeMap::new();
        nodes.insert(
            ROOT,
            Node::Dir {
                names: BTreeMap::new(),
                durable: BTreeMap::new(),
            },
        );
        let state = State {
            rng,
            mode,
            next: ROOT + 1,
            syncs: 0,
            failure: None,
            nodes,
            listings: BTreeMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let mut options = Config::default();
        options.mount_options = vec![MountOption::FSName("lossyfs".to_owned())];
        let session = fuser::spawn_mount(Lossy(Arc::clone(&state)), mount, &options);
        let session = session.map_err(|error| {
            let needs = "the power-cut tests need /dev/fuse and the right to mount: run as root";
            io::Error::new(
                error.kind(),
                format!("mount {}: {error}; {needs}", mount.display()),
            )
        })?;
        Ok(Self {
            state,
            mount: mount.to_owned(),
            session: Some(session),
        })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes every write or sync fail from now on, or none any more.
    pub fn fail(&self, failure: Option<Failure>) {
        self.state.lock().failure = failure;
    }

    /// Drops what is not durable. The process using it must be dead.
    pub fn cut_power(&self) -> Cut {
        let mut state = self.state.lock();
        let State {
            rng,
            mode,
            nodes,
            syncs,
            ..
        } = &mut *state;
        let mut cut = Cut {
            dropped: 0,
            syncs: std::mem::take(syncs),
        };
        for node in nodes.values_mut() {
            match node {
                Node::Dir { names, durable } => {
                    if *mode != Mode::Ordered {
                        names.clone_from(durable);
                    }
                }
                Node::File {
                    data,
                    durable,
                    unsynced,
                } => {
                    for change in unsynced.drain(..) {
                        cut.dropped += survive(rng, durable, change);
                    }
                    data.clone_from(durable);
                }
            }
        }
        let mut reachable = vec![ROOT];
        let mut keep = std::collections::BTreeSet::new();
        while let Some(ino) = reachable.pop() {
            if keep.insert(ino)
                && let Some(Node::Dir { names, .. }) = nodes.get(&ino)
            {
                reachable.extend(names.values());
            }
        }
        nodes.retain(|ino, _| keep.contains(ino));
        cut
    }
}

impl Drop for LossyFs {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            drop(session);
        }
    }
}

/// Applies what a cut leaves of one unsynced change; returns the bytes lost.
fn survive(rng: &Rng, durable: &mut Vec<u8>, change: Change) -> u64 {
    let Change::Write(at, bytes) = change else {
        return 0;
    };
    let keep = [0.0, 0.0, 0.5, 1.0][rng.below(4) as usize];
    let mut lost = 0;
    let mut from = 0;
    while from < bytes.len() {
        let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
        if rng.chance(keep) {
            write(durable, at + from, &bytes[from..to]);
        } else {
            lost += (to - from) as u64;
        }
        from = to;
    }
    lost
}

fn write(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if image.len() < at + bytes.len() {
        image.resize(at + bytes.len(), 0);
    }
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

impl State {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let (kind, size, perm) = match self.nodes.get(&ino)? {
            Node::Dir { .. } => (FileType::Directory, 0, 0o755),
            Node::File { data, .. } => (FileType::RegularFile, data.len() as u64, 0o600),
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn names(&mut self, dir: u64) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir { names, .. }) => Ok(names),
            Some(Node::File { .. }) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn child(&mut self, dir: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(dir)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn insert(&mut self, dir: u64, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        let ino = self.next;
        let names = self.names(dir)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), ino);
        self.next += 1;
        self.nodes.insert(ino, node);
        self.attr(ino).ok_or(Errno::EIO)
    }

    /// Gives a file one more name.
    fn link(&mut self, ino: u64, dir: u64, name: &OsStr) -> Result<FileAttr, Errno> {
        let names = self.names(dir)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), ino);
        self.attr(ino).ok_or(Errno::ENOENT)
    }

    fn change(&mut self, ino: u64, change: Change) -> Result<(), Errno> {
        if self.failure == Some(Failure::Writes) {
            return Err(Errno::EIO);
        }
        let Some(Node::File { data, unsynced, .. }) = self.nodes.get_mut(&ino) else {
            return Err(Errno::EBADF);
        };
        match &change {
            Change::Write(at, bytes) => write(data, *at, bytes),
            Change::Resize(len) => data.resize(*len, 0),
        }
        unsynced.push(change);
        Ok(())
    }

    fn sync(&mut self, ino: u64) -> Result<(), Errno> {
        if self.failure == Some(Failure::Syncs) {
            return Err(Errno::EIO);
        }
        self.syncs += 1;
        if self.mode == Mode::SyncsLie {
            return Ok(());
        }
        match self.nodes.get_mut(&ino) {
            Some(Node::File {
                durable, unsynced, ..
            }) => {
                for change in unsynced.drain(..) {
                    match change {
                        Change::Write(at, bytes) => write(durable, at, &bytes),
                        Change::Resize(len) => durable.resize(len, 0),
                    }
                }
            }
            Some(Node::Dir { names, durable }) => durable.clone_from(names),
            None => return Err(Errno::ENOENT),
        }
        Ok(())
    }
}

/// What FUSE calls.
struct Lossy(Arc<Mutex<State>>);

macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $ok:expr) => {
        match $result {
            Ok($value) => $ok,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Lossy {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.0.lock();
        let found = state.child(parent.0, name);
        let found = found.and_then(|ino| state.attr(ino).ok_or(Errno::ENOENT));
        answer!(reply, found, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.0.lock().attr(ino.0).ok_or(Errno::ENOENT);
        answer!(reply, attr, attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.0.lock();
        let resized = size.map_or(Ok(()), |size| {
            state.change(ino.0, Change::Resize(size as usize))
        });
        let attr = resized.and_then(|()| state.attr(ino.0).ok_or(Errno::ENOENT));
        answer!(reply, attr, attr => reply.attr(&TTL, &attr));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let dir = Node::Dir {
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
        };
        let made = self.0.lock().insert(parent.0, name, dir);
        answer!(reply, made, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self
            .0
            .lock()
            .names(parent.0)
            .map(|names| names.remove(name));
        answer!(reply, removed, _ => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self
            .0
            .lock()
            .names(parent.0)
            .map(|names| names.remove(name));
        answer!(reply, removed, _ => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.0.lock();
        let moved = state.child(parent.0, name).and_then(|ino| {
            state.names(parent.0)?.remove(name);
            state.names(new_parent.0)?.insert(new_name.to_owned(), ino);
            Ok(())
        });
        answer!(reply, moved, () => reply.ok());
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.0.lock().link(ino.0, new_parent.0, new_name);
        answer!(reply, linked, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let file = Node::File {
            data: Vec::new(),
            durable: Vec::new(),
            unsynced: Vec::new(),
        };
        let made = self.0.lock().insert(parent.0, name, file);
        answer!(reply, made, attr => reply.created(
            &TTL, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO,
        ));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock();
        let Some(Node::File { data, .. }) = state.nodes.get(&ino.0) else {
            return reply.error(Errno::EBADF);
        };
        let from = (offset as usize).min(data.len());
        let to = from.saturating_add(size as usize).min(data.len());
        reply.data(&data[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self
            .0
            .lock()
            .change(ino.0, Change::Write(offset as usize, data.to_vec()));
        answer!(reply, written, () => reply.written(data.len() as u32));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.0.lock().sync(ino.0), () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.0.lock().sync(ino.0), () => reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.0.lock();
        let names = state.names(ino.0).map(|names| {
            let entries = names.iter().map(|(name, ino)| (name.clone(), *ino));
            entries.collect()
        });
        let handle = state.next;
        state.next += 1;
        answer!(reply, names, names => {
            state.listings.insert(handle, names);
            reply.opened(FileHandle(handle), FopenFlags::empty())
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.lock().listings.remove(&handle.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.0.lock();
        let Some(entries) = state.listings.get(&handle.0) else {
            return reply.error(Errno::EBADF);
        };
        for (at, (name, ino)) in entries.iter().enumerate().skip(offset as usize) {
            let kind = state
                .attr(*ino)
                .map_or(FileType::RegularFile, |attr| attr.kind);
            if reply.add(INodeNo(*ino), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // 1 TiB, all free: space is another test's matter.
        let blocks = 1 << 28;
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "these go through the kernel on purpose"
    )]

    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn only_synced_bytes_and_names_survive_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let lossy = LossyFs::mount(dir.path(), Rng::seeded(3), Mode::Strict).unwrap();
        let at = |name: &str| lossy.path().join(name);
        let file = File::create(at("kept")).unwrap();
        file.write_all_at(b"synced", 0).unwrap();
        file.sync_data().unwrap();
        File::open(lossy.path()).unwrap().sync_all().unwrap();
        for block in 0..64 {
            file.write_all_at(&[7; 4096], 8192 + block * 4096).unwrap();
        }
        fs::write(at("lost"), "never synced").unwrap();
        drop(file);
        let cut = lossy.cut_power();
        assert!(cut.dropped > 0);
        assert_eq!(&fs::read(at("kept")).unwrap()[..6], b"synced");
        assert!(!at("lost").exists());
    }

    #[test]
    fn a_file_with_two_names_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let lossy = LossyFs::mount(dir.path(), Rng::seeded(3), Mode::Strict).unwrap();
        let at = |name: &str| lossy.path().join(name);
        fs::write(at("staged"), "once").unwrap();
        File::open(at("staged")).unwrap().sync_all().unwrap();
        fs::hard_link(at("staged"), at("there")).unwrap();
        let again = fs::hard_link(at("staged"), at("there")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(at("staged")).unwrap();
        File::open(lossy.path()).unwrap().sync_all().unwrap();
        lossy.cut_power();
        assert_eq!(fs::read(at("there")).unwrap(), b"once");
    }

    #[test]
    fn a_disk_that_fails_says_so_until_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let lossy = LossyFs::mount(dir.path(), Rng::seeded(3), Mode::Strict).unwrap();
        let file = File::create(lossy.path().join("file")).unwrap();
        lossy.fail(Some(Failure::Syncs));
        file.write_all_at(b"x", 0).unwrap();
        file.sync_data().unwrap_err();
        lossy.fail(Some(Failure::Writes));
        file.write_all_at(b"x", 0).unwrap_err();
        lossy.fail(None);
        file.write_all_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
    }

    #[test]
    fn a_lying_disk_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let lossy = LossyFs::mount(dir.path(), Rng::seeded(3), Mode::SyncsLie).unwrap();
        let path = lossy.path().join("file");
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
        File::open(lossy.path()).unwrap().sync_all().unwrap();
        lossy.cut_power();
        assert!(!path.exists());
    }
}
