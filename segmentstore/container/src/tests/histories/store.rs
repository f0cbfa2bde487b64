//! What outlives a container: its log, its index, its packs; in memory, or with power cuts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sarit_env::sim::{DiskFaults, SimDisk};
use sarit_env::{Clock, Disk, Rng};
use sarit_storage::memory::Memory as Objects;
use sarit_wal::Wal;
use sarit_wal::memory::{Memory, MemoryFaults};
use slatedb::object_store::memory::InMemory;

use crate::{Indexes, SlateStore, SnapshotMemory};

/// Where log, index and packs live; outlives the container.
pub(super) struct Store {
    pub(super) log: Log,
    pub(super) index: Indexes,
    pub(super) objects: Objects,
}

pub(super) enum Log {
    Memory(Memory),
    Disk(SimDisk),
}

impl Store {
    pub(super) async fn wal(&self, rng: &Rng) -> Wal {
        match &self.log {
            Log::Memory(memory) => Wal::memory(memory),
            Log::Disk(disk) => {
                let disk: Arc<dyn Disk> = Arc::new(disk.clone());
                let (clock, config) = (Clock::from_fn(|| 5), sarit_wal::Config::tiny());
                let dir = Path::new("/data");
                let wal = Wal::open_local(disk, dir, config, [7; 16], clock, rng.split()).await;
                wal.expect("the disk works")
            }
        }
    }

    pub(super) fn slow(&self, latency: Duration) {
        match &self.log {
            Log::Memory(memory) => memory.set_faults(MemoryFaults {
                latency,
                ..MemoryFaults::default()
            }),
            Log::Disk(disk) => disk.set_faults(DiskFaults {
                sync_time_max: latency,
                ..DiskFaults::default()
            }),
        }
    }

    pub(super) fn crash(&self, rng: &Rng) {
        match &self.log {
            Log::Memory(memory) => memory.crash(rng),
            Log::Disk(disk) => disk.cut_power(),
        }
    }
}

pub(super) fn in_memory(rng: &Rng) -> Store {
    Store {
        log: Log::Memory(Memory::default()),
        index: Indexes::memory(&SnapshotMemory::default()),
        objects: Objects::new(rng.split()),
    }
}

pub(super) fn on_disk(rng: &Rng) -> Store {
    let disk = SimDisk::new(rng.split());
    let index = Indexes::files(Arc::new(disk.clone()), "/data/index".into());
    let log = Log::Disk(disk);
    let objects = Objects::new(rng.split());
    Store {
        log,
        index,
        objects,
    }
}

pub(super) fn on_slate(rng: &Rng) -> Store {
    let clock = Clock::from_fn(|| 1_700_000_000_000);
    Store {
        log: Log::Memory(Memory::default()),
        index: Indexes::slate(SlateStore::new(Arc::new(InMemory::new()), 1 << 20, clock)),
        objects: Objects::new(rng.split()),
    }
}
