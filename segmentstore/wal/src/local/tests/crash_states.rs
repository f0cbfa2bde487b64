//! Every state a crash may leave, for a short history: not sampled, enumerated.
//!
//! A recording disk notes each operation. For every prefix of the record the possible disks are built:
//! what was synced is there; of each write since, nothing, everything, only its first sector, or
//! all but that one; of the names not yet synced any prefix. Each disk is then recovered twice, with
//! an append between.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_env::disk::{DirEntry, Disk, DiskFile, DiskLock};

use super::*;

const SECTOR: usize = 512;
/// Writes without a sync of which every combination is built; of more, only the last ones vary.
const VARYING: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Write(u64, u64, Bytes),
    Sync(u64),
    SyncDir(PathBuf),
    Ack(u64, u8, usize),
    Truncate(u64),
}

type Trace = Arc<Mutex<Vec<Op>>>;

struct Recorder {
    disk: SimDisk,
    trace: Trace,
    inodes: Mutex<BTreeMap<PathBuf, u64>>,
    read: Arc<AtomicUsize>,
}

struct RecordedFile {
    file: Arc<dyn DiskFile>,
    inode: u64,
    trace: Trace,
    read: Arc<AtomicUsize>,
}

#[async_trait]
impl Disk for Recorder {
    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path).await
    }
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode).await?;
        let mut inodes = self.inodes.lock();
        let mut trace = self.trace.lock();
        if mode == OpenMode::CreateNew {
            let inode = trace.len() as u64;
            inodes.insert(path.to_owned(), inode);
            trace.push(Op::Create(path.to_owned(), inode));
        }
        Ok(Arc::new(RecordedFile {
            file,
            inode: inodes[path],
            trace: self.trace.clone(),
            read: self.read.clone(),
        }))
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to).await?;
        let mut inodes = self.inodes.lock();
        let inode = inodes.remove(from).unwrap();
        inodes.insert(to.to_owned(), inode);
        let op = Op::Rename(from.to_owned(), to.to_owned());
        self.trace.lock().push(op);
        Ok(())
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path).await?;
        self.trace.lock().push(Op::Remove(path.to_owned()));
        Ok(())
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.trace.lock().push(Op::SyncDir(dir.to_owned()));
        self.disk.sync_dir(dir).await
    }
    async fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.disk.lock(path).await
    }
    async fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_bytes(dir).await
    }
}

#[async_trait]
impl DiskFile for RecordedFile {
    async fn size(&self) -> io::Result<u64> {
        self.file.size().await
    }
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.file.read_at(offset, len).await?;
        self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(bytes)
    }
    async fn write_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.file.write_at(offset, parts).await?;
        let bytes = parts.concat().into();
        self.trace.lock().push(Op::Write(self.inode, offset, bytes));
        Ok(())
    }
    async fn allocate(&self, len: u64) -> io::Result<()> {
        self.write_at(0, &[vec![0; len as usize].into()]).await
    }
    async fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().await?;
        self.trace.lock().push(Op::Sync(self.inode));
        Ok(())
    }
}

/// A disk as a crash leaves it.
pub(super) type Image = BTreeMap<PathBuf, Vec<u8>>;

/// What a prefix of the record leaves for certain, and what is open.
#[derive(Default)]
struct Crash {
    durable: BTreeMap<u64, Vec<u8>>,
    unsynced: Vec<(u64, usize, Bytes)>,
    names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<Op>,
    acked: BTreeMap<u64, (u8, usize)>,
    keep_from: u64,
}

impl Crash {
    fn after(ops: &[Op]) -> Self {
        let mut crash = Self::default();
        for op in ops {
            match op {
                Op::Create(..) | Op::Rename(..) | Op::Remove(_) => {
                    crash.pending_names.push(op.clone());
                }
                Op::Write(inode, at, bytes) => {
                    crash.unsynced.push((*inode, *at as usize, bytes.clone()));
                }
                Op::Sync(inode) => {
                    let unsynced = std::mem::take(&mut crash.unsynced);
                    let (synced, rest): (Vec<_>, Vec<_>) =
                        unsynced.into_iter().partition(|(of, _, _)| of == inode);
                    for (_, at, bytes) in synced {
                        put(crash.durable.entry(*inode).or_default(), at, &bytes);
                    }
                    crash.unsynced = rest;
                }
                Op::SyncDir(dir) => {
                    let pending = std::mem::take(&mut crash.pending_names);
                    for op in pending {
                        let (Op::Create(path, _) | Op::Rename(path, _) | Op::Remove(path)) = &op
                        else {
                            unreachable!("only names are pending")
                        };
                        if path.parent() == Some(dir) {
                            apply(&mut crash.names, &op);
                        } else {
                            crash.pending_names.push(op);
                        }
                    }
                }
                Op::Ack(number, byte, len) => {
                    crash.acked.insert(*number, (*byte, *len));
                }
                Op::Truncate(keep_from) => crash.keep_from = *keep_from,
            }
        }
        crash
    }

    fn images(&self) -> BTreeSet<Image> {
        let fixed = self.unsynced.len().saturating_sub(VARYING);
        let varying = (self.unsynced.len() - fixed) as u32;
        let mut images = BTreeSet::new();
        for choice in 0..4_usize.pow(varying) * 2 {
            let mut files = self.durable.clone();
            for (at, (inode, offset, bytes)) in self.unsynced.iter().enumerate() {
                let kept = match at.checked_sub(fixed) {
                    None => choice % 2 * 3,
                    Some(at) => choice / 2 / 4_usize.pow(at as u32) % 4,
                };
                let first = bytes.len().min(SECTOR);
                let (from, to) = [(0, 0), (0, first), (first, bytes.len()), (0, bytes.len())][kept];
                let file = files.entry(*inode).or_default();
                put(file, offset + from, &bytes[from..to]);
            }
            for count in 0..=self.pending_names.len() {
                let mut names = self.names.clone();
                for op in &self.pending_names[..count] {
                    apply(&mut names, op);
                }
                let image = names.iter().map(|(path, inode)| {
                    (path.clone(), files.get(inode).cloned().unwrap_or_default())
                });
                images.insert(image.collect());
            }
        }
        images
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = at + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at..end].copy_from_slice(bytes);
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, op: &Op) {
    match op {
        Op::Create(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        Op::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Op::Remove(path) => {
            names.remove(path);
        }
        _ => {}
    }
}

pub(super) async fn sim_with(image: &Image) -> Sim {
    let sim = Sim::new(1);
    for dir in [Sim::dir(), Path::new(DIR).join("chain")] {
        sim.disk.create_dir_all(&dir).await.unwrap();
    }
    for (path, bytes) in image {
        let file = sim.disk.open(path, OpenMode::CreateNew).await.unwrap();
        let bytes = Bytes::copy_from_slice(bytes);
        file.write_at(0, &[bytes]).await.unwrap();
        file.sync_data().await.unwrap();
        sim.disk.sync_dir(path.parent().unwrap()).await.unwrap();
    }
    sim
}

/// How the owner of the log appends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// With pauses, in which the lane says that it is idle and files are filled with zeros.
    Leisurely,
    /// As fast as it goes: new files are only allocated.
    Hurried,
}

/// Runs a short history on a recording disk.
async fn record(lens: &[usize], pace: Pace) -> Vec<Op> {
    let trace = Trace::default();
    let disk = Arc::new(Recorder {
        disk: SimDisk::new(Rng::seeded(1)),
        trace: trace.clone(),
        inodes: Mutex::default(),
        read: Arc::default(),
    });
    let (clock, rng) = (Clock::from_fn(|| 0), Rng::seeded(1));
    let wal = Wal::open_local(disk, Path::new(DIR), Config::tiny(), [7; 16], clock, rng);
    let wal = wal.await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    // From now on files are made ready ahead.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (byte, len) in lens.iter().enumerate() {
        let number = store(&log, byte as u8, *len).await.0;
        trace.lock().push(Op::Ack(number, byte as u8, *len));
        if byte % 3 == 2 {
            // Noted before it can take effect.
            trace.lock().push(Op::Truncate(number));
            log.truncate(FrameNo(number)).await.unwrap();
        }
        match pace {
            Pace::Leisurely => tokio::time::sleep(Duration::from_secs(1)).await,
            Pace::Hurried => {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    log.close().await.unwrap();
    wal.close().await.unwrap();
    trace.lock().clone()
}

#[tokio::test(start_paused = true)]
async fn every_state_a_crash_may_leave_recovers() {
    every_state_recovers(Pace::Leisurely).await;
}

#[tokio::test(start_paused = true)]
async fn every_state_a_crash_may_leave_of_a_lane_in_a_hurry_recovers() {
    every_state_recovers(Pace::Hurried).await;
}

async fn every_state_recovers(pace: Pace) {
    let lens = [700, 30_000, 25_000, 30_000, 9_000, 100, 28_000, 10, 20_000];
    let ops = record(&lens, pace).await;
    let idle = |op: &Op| matches!(op, Op::Write(_, at, bytes) if *at > 0 && bytes.starts_with(b"SLAN") && bytes.len() == 4096);
    assert!(ops.iter().any(idle) || pace == Pace::Hurried);
    let mut seen = BTreeSet::new();
    for count in 0..=ops.len() {
        let crash = Crash::after(&ops[..count]);
        for image in crash.images() {
            let what = (crash.keep_from, crash.acked.len(), image);
            if !seen.insert(what.clone()) {
                continue;
            }
            let sim = sim_with(&what.2).await;
            let wal = sim.open().await;
            let wal = wal.unwrap_or_else(|error| panic!("after {count} operations: {error}"));
            let opened = wal.open_log(LogId(1)).await;
            let mut opened = opened.unwrap_or_else(|e| panic!("after {count} operations: {e}"));
            let frames = replayed(&mut opened).await.unwrap();
            for (number, (byte, len)) in &crash.acked {
                let kept = frames.contains(&(*number, *byte, *len));
                assert!(
                    kept || *number < crash.keep_from,
                    "after {count} operations frame {number} is lost: {frames:?}"
                );
            }
            for (number, byte, len) in &frames {
                assert_eq!((*byte as u64 + 1, lens[*byte as usize]), (*number, *len));
            }
            let next = store(&opened.log, 200, 1_000).await;
            sim.disk.cut_power();
            let _ = wal.close().await;
            let wal = sim.open().await.unwrap();
            let mut again = wal.open_log(LogId(1)).await.unwrap();
            let mut expected = frames;
            expected.push((next.0, 200, 1_000));
            assert_eq!(replayed(&mut again).await.unwrap(), expected);
        }
    }
    assert!(
        seen.len() > 100,
        "{} states of {} operations",
        seen.len(),
        ops.len()
    );
}

/// A file's space that was never written to is not searched for proofs.
#[tokio::test(start_paused = true)]
async fn a_start_reads_no_further_than_the_reach_of_the_last_file() {
    let disk = Arc::new(Recorder {
        disk: SimDisk::new(Rng::seeded(1)),
        trace: Trace::default(),
        inodes: Mutex::default(),
        read: Arc::default(),
    });
    let open = async || {
        let (clock, rng) = (Clock::from_fn(|| 0), Rng::seeded(1));
        let config = Config::default();
        Wal::open_local(disk.clone(), Path::new(DIR), config, [7; 16], clock, rng).await
    };
    let mut wal = open().await.unwrap();
    for life in 0..6 {
        let mut opened = wal.open_log(LogId(1)).await.unwrap();
        assert_eq!(replayed(&mut opened).await.unwrap().len(), life);
        store(&opened.log, life as u8, 100).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        disk.disk.kill_process();
        let _ = wal.close().await;
        disk.read.store(0, Ordering::Relaxed);
        wal = open().await.unwrap();
        let read = disk.read.load(Ordering::Relaxed);
        // The third file and all later ones have 64 MiB, of which a sixteenth may be in reach; it is read by
        // the MiB.
        assert!(read < 6 << 20, "life {life}: {read} bytes");
    }
}
