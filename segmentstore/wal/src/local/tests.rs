//! The engine on files: the suite over a simulated disk and a real one, and the cases it cannot steer to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sarit_env::disk::RealDisk;
use sarit_env::sim::{DiskFaults, SimDisk};
use sarit_env::{Clock, Rng};

use crate::conformance::{Host, Plan, check};
use crate::memory::{Memory, MemoryFaults};
use crate::*;

const DIR: &str = "/data";

struct Sim {
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
    for seed in 0..60 {
        let mut host = InMemory(Memory::default(), Rng::seeded(seed));
        let report = check(&mut host, seed, &PLAN).await;
        assert!(report.acked > 0, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn files_keep_the_contract_through_power_cuts() {
    let mut total = (0, 0, 0);
    for seed in 0..150 {
        let mut host = Sim::slow(seed);
        let report = check(&mut host, seed, &PLAN).await;
        total.0 += report.acked;
        total.1 += report.ambiguous;
        total.2 += report.fenced;
    }
    // A suite that never meets the interesting cases proves nothing.
    assert!(total.0 > 1000 && total.1 > 100 && total.2 > 50, "{total:?}");
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
