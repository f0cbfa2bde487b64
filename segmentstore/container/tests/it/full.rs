//! Several containers over one log in files, which has little room.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sarit_container::{
    Config, Container, Flush, Indexes, Kind, MemoryBudget, Parts, Running, SnapshotMemory,
};
use sarit_env::sim::SimDisk;
use sarit_env::{Clock, Disk as _, Rng};
use sarit_proto::ids::ContainerId;
use sarit_storage::memory::{Faults, Memory as Objects};
use sarit_wal::{Space, Wal};
use tokio::time::timeout;

use crate::world::{Connection, append_bytes};

const FILE: u64 = 64 << 10;
const FILES: u64 = 4;
/// One that is written to all the time, and more that are not than there are files.
const CONTAINERS: u32 = 6;
const EVENT: usize = 7_000;
/// Longest that an append may wait for what has to be flushed first.
const WAIT: Duration = Duration::from_secs(60);

/// What outlives the containers.
struct Host {
    disk: SimDisk,
    objects: Objects,
    index: Indexes,
    rng: Rng,
    quota: Option<u64>,
}

impl Host {
    fn new() -> Self {
        let rng = Rng::seeded(1);
        Self {
            disk: SimDisk::new(rng.split()),
            objects: Objects::new(rng.split()),
            index: Indexes::memory(&SnapshotMemory::default()),
            rng,
            quota: Some(FILES * FILE),
        }
    }

    async fn start(&self) -> (Wal, Vec<(Container, Running)>) {
        let wal = sarit_wal::Config {
            file_bytes: FILE,
            quota_bytes: self.quota,
            ..sarit_wal::Config::tiny()
        };
        let (disk, clock) = (Arc::new(self.disk.clone()), Clock::from_fn(|| 1_000));
        let (dir, rng) = (Path::new("/data"), self.rng.split());
        let wal = Wal::open_local(disk, dir, wal, [7; 16], clock.clone(), rng).await;
        let wal = wal.unwrap();
        let mut containers = Vec::new();
        for number in 0..CONTAINERS {
            let parts = Parts {
                clock: clock.clone(),
                rng: self.rng.split(),
                memory: MemoryBudget::default(),
                index: self.index.clone(),
                storage: Some(self.objects.store()),
            };
            let config = Config {
                checkpoint_seconds: 1,
                check_cuts: true,
                flush: Flush {
                    period_ms: 100,
                    compact_ms: 0,
                    ..Flush::default()
                },
                ..Config::default()
            };
            let opened = Container::open(ContainerId(number), &wal, parts, config).await;
            containers.push(opened.unwrap());
        }
        (wal, containers)
    }
}

/// Writes so that the ends of the idle containers' checkpoints lie in different files. Returns how often.
async fn spread(containers: &[(Container, Running)], writer: &mut Connection) -> i64 {
    let mut number = 0;
    for (container, _) in containers {
        container.create("s", Kind::Stream, vec![]).await.unwrap();
    }
    for (idle, _) in &containers[1..] {
        append(&mut Connection::to(idle), 1).await;
        // All is flushed and checkpointed.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for _ in 0..FILE as usize / EVENT {
            number += 1;
            append(writer, number).await;
        }
    }
    number
}

async fn append(connection: &mut Connection, number: i64) {
    let append = append_bytes("s", 1, number, vec![number as u8; EVENT].into());
    connection.submit(vec![append]).await;
    let outcome = timeout(WAIT, connection.outcome()).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("event {number} waits for ever"));
    outcome.result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn containers_that_are_idle_do_not_keep_the_log_full() {
    let host = Host::new();
    let (wal, containers) = host.start().await;
    let mut writer = Connection::to(&containers[0].0);
    let mut number = spread(&containers, &mut writer).await;
    for _ in 0..100 {
        number += 1;
        append(&mut writer, number).await;
    }
    drop((writer, containers));
    host.disk.kill_process();
    let _ = wal.close().await;
    let (_wal, containers) = host.start().await;
    for (at, (container, _)) in containers.iter().enumerate() {
        let last = Connection::to(container).setup("s", 1).await.unwrap();
        assert_eq!(last, if at == 0 { number } else { 1 });
    }
}

/// Nobody needs their space yet, but every start would read them.
#[tokio::test(start_paused = true)]
async fn containers_that_are_idle_keep_no_old_files() {
    let mut host = Host::new();
    host.quota = None;
    let (_wal, containers) = host.start().await;
    let mut writer = Connection::to(&containers[0].0);
    let mut number = spread(&containers, &mut writer).await;
    for _ in 0..200 {
        number += 1;
        append(&mut writer, number).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let files = host.disk.list(Path::new("/data/wal/lane-0")).await.unwrap();
    let numbers = files.iter().map(|file| {
        let (number, _) = file.name().split_once('.').unwrap();
        u64::from_str_radix(number, 16).unwrap()
    });
    let (oldest, newest) = (numbers.clone().min().unwrap(), numbers.max().unwrap());
    // What is not needed is made ready for reuse, under new numbers.
    assert!(newest > 20, "{newest} files");
    assert!(newest - oldest < 12, "from {oldest} to {newest}");
}

#[tokio::test(start_paused = true)]
async fn clients_cannot_use_up_what_notes_packs_when_storage_is_back() {
    let host = Host::new();
    let (wal, containers) = host.start().await;
    let container = &containers[0].0;
    for segment in ["s", "unneeded"] {
        let created = container.create(segment, Kind::Stream, vec![]).await;
        created.unwrap();
    }
    host.objects.set_faults(Faults {
        refuse: 1.0,
        ..Faults::default()
    });
    let mut writer = Connection::to(container);
    let mut sent = 0;
    while *wal.space().borrow() == Space::Ok {
        sent += 1;
        let append = append_bytes("s", 1, sent, vec![1; EVENT].into());
        writer.submit(vec![append]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Each would be a frame of a block, more of them than the reserve has.
    for number in 0..100 {
        let name = format!("s{number}");
        let creation = container.create(&name, Kind::Stream, vec![]);
        let created = timeout(Duration::from_secs(1), creation).await;
        assert!(created.is_err(), "{number}: {created:?}");
    }
    let deleted = timeout(WAIT, container.delete("unneeded")).await;
    deleted.expect("this makes room").unwrap();
    host.objects.set_faults(Faults::default());
    for number in 1..=sent {
        let outcome = timeout(WAIT, writer.outcome()).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("event {number} waits for ever"));
        outcome.result.unwrap();
    }
}
