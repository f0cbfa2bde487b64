//! CPU time per append, read and replay, over a log in memory, all on one thread.
//!
//! `cargo bench -p sarit-container`. CPU time, so that a busy machine matters less; what the log on
//! disk, the server and the network add is measured elsewhere.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::disallowed_methods, reason = "it reads its own CPU time")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarit_container::{
    AppendOp, Config, Container, Indexes, Kind, MemoryBudget, Offset, Outcomes, Parts, Permit,
    SnapshotMemory,
};
use sarit_env::{Clock, Rng};
use sarit_proto::ids::{ContainerId, WriterId};
use sarit_wal::Wal;
use sarit_wal::memory::Memory;
use tokio::sync::mpsc;

/// Operations submitted at once, and how many such batches are on their way.
const BATCH: usize = 64;
const DEPTH: usize = 16;

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

async fn open(memory: &Memory) -> Container {
    let parts = Parts {
        storage: None,
        index: Indexes::memory(&SnapshotMemory::default()),
        clock: Clock::system(),
        rng: Rng::seeded(1),
        memory: MemoryBudget::default(),
    };
    let wal = Wal::memory(memory);
    let (container, running) = Container::open(ContainerId(0), &wal, parts, Config::default())
        .await
        .unwrap();
    // Runs until the process ends.
    tokio::task::spawn_local(running);
    std::mem::forget(wal);
    container
}

async fn append(segments: usize, size: usize, appends: usize) {
    let memory = Memory::default();
    let container = open(&memory).await;
    let (sender, mut outcomes) = mpsc::unbounded_channel::<Outcomes>();
    let appender = container.appender(sender);
    let names: Vec<Arc<str>> = (0..segments)
        .map(|n| format!("scope/stream/{n}.#epoch.0").into())
        .collect();
    for name in &names {
        container.create(name, Kind::Stream, vec![]).await.unwrap();
    }
    let data = Bytes::from(vec![7; size]);
    let before = cpu();
    let (mut sent, mut done) = (0, 0);
    while done < appends {
        while sent < appends && sent - done < BATCH * DEPTH {
            let batch = (sent..sent + BATCH).map(|n| AppendOp::Append {
                segment: names[n % segments].clone(),
                writer: WriterId((n % segments) as u128),
                token: n as u64,
                last_event_number: n as i64,
                event_count: 1,
                expected_offset: None,
                data: [data.clone()].into_iter().collect(),
                permit: Permit::none(),
            });
            appender.submit(batch.collect()).await.unwrap();
            sent += BATCH;
        }
        let outcomes = outcomes.recv().await.unwrap().list;
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
        done += outcomes.len();
    }
    let took = cpu() - before;
    let stats = container.stats();
    println!(
        "append  {segments:5} segments {size:6} B: {:5} ns each, {:4} appends a frame, {:2} bytes of log for each beside its own",
        took.as_nanos() / appends as u128,
        stats.appends / stats.frames,
        stats.frame_bytes / stats.appends - size as u64,
    );
    let before = cpu();
    let mut bytes = 0;
    for name in &names {
        let length = container.info(name).await.unwrap().length.0;
        let mut offset = 0;
        while offset < length {
            let read = container.read(name, Offset(offset), 1 << 20, Duration::ZERO);
            offset += read.await.unwrap().data.len() as u64;
        }
        bytes += offset;
    }
    let took = cpu() - before;
    println!(
        "read    {segments:5} segments {size:6} B: {:5} us a MB",
        took.as_micros() * 1_000_000 / u128::from(bytes)
    );
    let before = cpu();
    let again = open(&memory).await;
    let took = cpu() - before;
    assert_eq!(again.stats().extents, stats.extents);
    println!(
        "replay  {segments:5} segments {size:6} B: {:5} us a MB, {} extents",
        took.as_micros() * 1_000_000 / u128::from(bytes),
        stats.extents
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.unwrap();
    for (segments, size, appends) in [
        (1, 100, 1 << 20),
        (16, 100, 1 << 20),
        (1000, 100, 1 << 20),
        (1, 1000, 1 << 18),
        (1, 10_000, 1 << 15),
    ] {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, append(segments, size, appends));
    }
}
