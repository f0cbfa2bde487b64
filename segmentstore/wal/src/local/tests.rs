//! The engine on files runs the suite, over a simulated disk and a real one.

mod crash_states;
mod damage;
mod space;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BufMut as _;
use sarit_env::disk::{Disk as _, OpenMode, RealDisk};
use sarit_env::sim::{DiskFaults, SimDisk};
use sarit_env::{Clock, Rng};

use crate::conformance::{Host, Plan, check};
use crate::memory::{Memory, MemoryFaults};
use crate::*;

const DIR: &str = "/data";

pub(super) struct Sim {
    disk: SimDisk,
    rng: Rng,
    config: Config,
    faults: DiskFaults,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let rng = Rng::seeded(seed);
        Self {
            disk: SimDisk::new(rng.split()),
            rng,
            config: Config::tiny(),
            faults: DiskFaults::default(),
        }
    }

    fn slow(seed: u64) -> Self {
        let mut sim = Self::new(seed);
        sim.faults.sync_time_max = Duration::from_millis(2);
        sim
    }

    /// Kills the process and starts it again.
    async fn restart(&self, wal: Wal) -> Wal {
        self.disk.kill_process();
        let _ = wal.close().await;
        self.open().await.unwrap()
    }

    fn dir() -> PathBuf {
        Path::new(DIR).join("wal/lane-0")
    }

    /// Returns the bytes of all files of the store.
    async fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut image = BTreeMap::new();
        for dir in [Self::dir(), Path::new(DIR).join("chain")] {
            for entry in self.disk.list(&dir).await.unwrap() {
                let file = self.disk.open(&entry.path, OpenMode::Read).await.unwrap();
                let bytes = file.read_at(0, entry.len as usize).await.unwrap();
                image.insert(entry.path, bytes.to_vec());
            }
        }
        image
    }

    async fn open(&self) -> Result<Wal, Error> {
        let clock = Clock::from_fn(|| 0);
        let disk = Arc::new(self.disk.clone());
        let rng = self.rng.split();
        Wal::open_local(
            disk,
            Path::new(DIR),
            self.config.clone(),
            [7; 16],
            clock,
            rng,
        )
        .await
    }
}

/// Appends a frame of `len` times `byte`.
fn append(log: &DurableLog, byte: u8, len: usize, priority: Priority) -> AppendTicket {
    let mut builder = log.builder(len);
    builder.body().put_bytes(byte, len);
    log.append(builder, u64::from(byte), 1, priority)
}

/// Appends a frame and waits for it.
async fn store(log: &DurableLog, byte: u8, len: usize) -> FrameNo {
    let stored = append(log, byte, len, Priority::Data).await;
    stored.unwrap().number()
}

/// Returns number, first byte and length of every frame of the replay.
async fn replayed(opened: &mut Opened) -> Result<Vec<(u64, u8, usize)>, Error> {
    let mut frames = Vec::new();
    while let Some(frame) = opened.replay.next().await? {
        let body = frame.body();
        frames.push((frame.number().0, body[0], body.len()));
    }
    Ok(frames)
}

#[async_trait]
impl Host for Sim {
    async fn start(&mut self) -> Result<Wal, Error> {
        self.disk.set_faults(self.faults.clone());
        self.open().await
    }

    async fn crash(&mut self, wal: Wal) {
        if self.rng.chance(0.7) {
            self.disk.cut_power();
        } else {
            self.disk.kill_process();
        }
        // A dead process does nothing more; here its tasks have to be waited for. What they still
        // write goes nowhere.
        let _ = wal.close().await;
    }
}

struct InMemory(Memory, Rng);

#[async_trait]
impl Host for InMemory {
    async fn start(&mut self) -> Result<Wal, Error> {
        let wal = Wal::memory(&self.0);
        self.0.set_faults(MemoryFaults {
            latency: Duration::from_micros(self.1.below(3) * 200),
            ..MemoryFaults::default()
        });
        Ok(wal)
    }

    async fn crash(&mut self, wal: Wal) {
        self.0.crash(&self.1);
        drop(wal);
    }
}

struct Real(PathBuf);

#[async_trait]
impl Host for Real {
    async fn start(&mut self) -> Result<Wal, Error> {
        let (clock, rng) = (Clock::system(), Rng::from_os());
        let config = Config::tiny();
        Wal::open_local(Arc::new(RealDisk), &self.0, config, [7; 16], clock, rng).await
    }

    async fn crash(&mut self, wal: Wal) {
        // The process cannot be killed from within; ending the workers is as near as it gets.
        wal.close().await.unwrap();
    }
}

const PLAN: Plan = Plan {
    lives: 6,
    steps: 120,
    logs: 3,
    body_max: 30_000,
};

#[tokio::test(start_paused = true)]
async fn memory_keeps_the_contract() {
    for seed in 0..40 {
        let mut host = InMemory(Memory::default(), Rng::seeded(seed));
        let report = check(&mut host, seed, &PLAN).await;
        assert!(report.acked > 0, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn files_keep_the_contract_through_power_cuts() {
    let mut total = (0, 0, 0);
    for seed in 0..50 {
        let mut host = Sim::slow(seed);
        let report = check(&mut host, seed, &PLAN).await;
        total.0 += report.acked;
        total.1 += report.ambiguous;
        total.2 += report.fenced;
    }
    // A suite that never meets the interesting cases proves nothing.
    assert!(total.0 > 1000 && total.1 > 50 && total.2 > 50, "{total:?}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_lies_about_syncs_is_caught_by_the_suite() {
    let mut caught = 0;
    for seed in 0..10 {
        let mut host = Sim::slow(seed);
        host.faults.syncs_lie = true;
        let task = tokio::task::LocalSet::new();
        let run = task.run_until(async {
            tokio::task::spawn_local(async move { check(&mut host, seed, &PLAN).await }).await
        });
        caught += u32::from(run.await.is_err());
    }
    assert!(caught >= 9, "only {caught} of 10 runs lost anything");
}

#[tokio::test]
async fn a_real_disk_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { lives: 4, ..PLAN };
    check(&mut Real(dir.path().to_owned()), 1, &plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_disk_keeps_the_contract_with_threads() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan { lives: 4, ..PLAN };
    check(&mut Real(dir.path().to_owned()), 2, &plan).await;
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_the_same_bytes() {
    let mut images = Vec::new();
    for _ in 0..2 {
        let mut host = Sim::slow(3);
        let report = check(&mut host, 3, &PLAN).await;
        images.push((report, host.disk.stats(), host.image().await));
    }
    assert!(images[0] == images[1]);
}

#[tokio::test(start_paused = true)]
async fn of_two_openings_at_once_one_wins() {
    let sim = Sim::slow(1);
    let wal = sim.open().await.unwrap();
    for round in 1..20 {
        let (one, two) = tokio::join!(wal.open_log(LogId(1)), wal.open_log(LogId(1)));
        let (won, lost) = match (one, two) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
            (one, two) => panic!("{one:?} and {two:?}"),
        };
        assert_eq!(won.epoch, WalEpoch(round));
        assert!(matches!(lost, Error::Fenced { .. }), "{lost}");
        store(&won.log, 1, 10).await;
    }
}

#[tokio::test]
async fn a_clean_stop_leaves_nothing_to_replay_and_numbers_go_on() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    for byte in 1..=5 {
        store(&log, byte, 100).await;
    }
    log.truncate(FrameNo(6)).await.unwrap();
    log.close().await.unwrap();
    wal.close().await.unwrap();
    sim.disk.cut_power();
    let wal = sim.open().await.unwrap();
    let mut again = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut again).await.unwrap(), []);
    assert_eq!(store(&again.log, 6, 100).await, FrameNo(6));
}

#[tokio::test]
async fn a_large_frame_passes_over_the_small_first_files() {
    let mut sim = Sim::new(1);
    sim.config = Config::default();
    sim.faults.capacity = 1 << 30;
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    let len = 17 << 20;
    let sizes = [5, len, 6, 100];
    for len in sizes {
        store(&log, 1, len).await;
    }
    let part = log.read_range(FrameNo(2), 5 << 20, 1000).await.unwrap();
    assert_eq!(part, [1; 1000][..]);
    let beyond = log.read_range(FrameNo(2), len as u32, 1).await;
    assert!(matches!(beyond, Err(Error::TooLarge { .. })), "{beyond:?}");
    let wal = sim.restart(wal).await;
    let mut again = wal.open_log(LogId(1)).await.unwrap();
    let frames = replayed(&mut again).await.unwrap();
    assert_eq!(
        frames.iter().map(|frame| frame.2).collect::<Vec<_>>(),
        sizes
    );
    let refused = append(&again.log, 1, len + 1, Priority::Data).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn frames_that_wait_share_one_sync() {
    let mut sim = Sim::new(1);
    sim.faults.sync_time_max = Duration::from_millis(1);
    let wal = sim.start().await.unwrap();
    let mut logs = Vec::new();
    for log in 0..20 {
        logs.push(wal.open_log(LogId(log)).await.unwrap().log);
    }
    let before = wal.stats();
    let tickets: Vec<_> = logs
        .iter()
        .map(|log| append(log, 1, 10, Priority::Data))
        .collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let stats = wal.stats();
    assert_eq!((stats.frames, stats.body_bytes), (20, 200));
    assert!(stats.syncs - before.syncs <= 2, "{stats:?}");
    assert_eq!(stats.queue_bytes, 0);
}
