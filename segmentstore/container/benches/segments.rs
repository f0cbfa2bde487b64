//! What a container costs that has very many segments: memory while they are created, time to start
//! again, time of the first look at one.
//!
//! `cargo bench -p sarit-container --bench segments`, `SARIT_SEGMENTS` of them (1,000,000), on files in
//! the system's temporary folder, in four containers of one process.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream;
use sarit_container::{Config, Container, Indexes, Kind, MemoryBudget, Parts, Running, SlateStore};
use sarit_env::disk::RealDisk;
use sarit_env::{Clock, Rng};
use sarit_proto::ids::{AttributeId, ContainerId};
use sarit_wal::Wal;

const CONTAINERS: u32 = 4;
/// Creations on their way at once.
const DEPTH: usize = 512;

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() >> 10
}

async fn open(dir: &Path) -> (Wal, Vec<(Container, Running)>) {
    let config = sarit_wal::Config::default();
    let (clock, rng) = (Clock::system(), Rng::seeded(1));
    let disk = Arc::new(RealDisk);
    let wal = Wal::open_local(disk, dir, config, [1; 16], clock.clone(), rng.split());
    let wal = wal.await.unwrap();
    let memory = MemoryBudget::default();
    let cache = memory.index_cache_bytes();
    let store = SlateStore::local(&dir.join("index"), cache, clock.clone()).unwrap();
    let index = Indexes::slate(store);
    let opening = (0..CONTAINERS).map(|number| {
        let parts = Parts {
            storage: None,
            clock: clock.clone(),
            rng: rng.split(),
            memory: memory.clone(),
            index: index.clone(),
        };
        let wal = wal.clone();
        async move {
            let config = Config::default();
            let opened = Container::open(ContainerId(number), &wal, parts, config).await;
            opened.unwrap()
        }
    });
    let opened = futures_util::future::join_all(opening).await;
    (wal, opened)
}

async fn stop(wal: Wal, containers: Vec<(Container, Running)>) {
    for (container, running) in containers {
        container.stop().await;
        running.await.unwrap();
    }
    wal.close().await.unwrap();
}

fn name(number: u64) -> String {
    format!("scope/stream-{}/{}.#epoch.0", number / 10, number % 10)
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let count = std::env::var("SARIT_SEGMENTS").map_or(1_000_000, |n| n.parse::<u64>().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let (wal, containers) = open(dir.path()).await;
    println!("empty: start {:?}, {} MiB", started.elapsed(), memory_mib());
    stop(wal, containers).await;
    let started = Instant::now();
    let (wal, containers) = open(dir.path()).await;
    println!(
        "empty again: start {:?}, {} MiB",
        started.elapsed(),
        memory_mib()
    );

    let (started, mut most) = (Instant::now(), 0);
    let mut done = 0;
    let mut creating = stream::iter(0..count)
        .map(|number| {
            let container = &containers[(number % u64::from(CONTAINERS)) as usize].0;
            async move {
                let attributes = vec![
                    (AttributeId::SCALE_POLICY_TYPE, 0),
                    (AttributeId::SCALE_POLICY_RATE, 0),
                ];
                let name = name(number);
                let created = container.create(&name, Kind::Stream, attributes);
                created.await.unwrap();
            }
        })
        .buffer_unordered(DEPTH);
    while creating.next().await.is_some() {
        done += 1;
        if done % (count / 10).max(1) == 0 {
            most = most.max(memory_mib());
            println!(
                "{done} created, {:?}, {} MiB",
                started.elapsed(),
                memory_mib()
            );
        }
    }
    drop(creating);
    println!("created: {:?}, at most {most} MiB", started.elapsed());
    let started = Instant::now();
    stop(wal, containers).await;
    println!("stopped: {:?}", started.elapsed());

    let started = Instant::now();
    let (wal, containers) = open(dir.path()).await;
    println!("start: {:?}, {} MiB", started.elapsed(), memory_mib());
    let rng = Rng::seeded(3);
    let started = Instant::now();
    for _ in 0..1_000 {
        let number = rng.below(count);
        let container = &containers[(number % u64::from(CONTAINERS)) as usize].0;
        container.info(&name(number)).await.unwrap();
    }
    println!("1,000 looks: {:?}, {} MiB", started.elapsed(), memory_mib());
    stop(wal, containers).await;
}
