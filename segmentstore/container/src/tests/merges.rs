//! Many transactions at once, and what is left of them.

use std::time::Duration;

use bytes::Bytes;
use sarit_env::{Clock, Rng};
use sarit_proto::ids::{AttributeId, ContainerId, WriterId};
use sarit_wal::Wal;
use sarit_wal::memory::Memory;
use tokio::sync::mpsc;

use crate::{
    AppendOp, Config, Container, Error, Indexes, Kind, MemoryBudget, Offset, Outcomes, Parts,
    Permit, Running, SnapshotMemory,
};

const TARGET: &str = "scope/stream/0.#epoch.0";

fn transaction(number: usize) -> String {
    format!("{TARGET}#transaction.{number:032x}")
}

async fn open(memory: &Memory, index: &SnapshotMemory) -> (Container, Running) {
    let parts = Parts {
        index: Indexes::memory(index),
        clock: Clock::from_fn(|| 5),
        rng: Rng::seeded(1),
        memory: MemoryBudget::default(),
        storage: None,
    };
    let wal = Wal::memory(memory);
    // Frames are counted: none are to be of checkpoints.
    let config = Config {
        checkpoint_segments: usize::MAX,
        ..Config::default()
    };
    let opened = Container::open(ContainerId(3), &wal, parts, config).await;
    opened.unwrap()
}

/// Appends one event of a writer to each segment and waits until all are durable.
async fn append(container: &Container, segments: &[String], data: &'static [u8]) {
    let (sender, mut outcomes) = mpsc::unbounded_channel::<Outcomes>();
    let appender = container.appender(sender);
    let operations = segments.iter().enumerate().map(|(token, segment)| {
        let data = [Bytes::from_static(data)].into_iter().collect();
        AppendOp::Append {
            segment: segment.as_str().into(),
            writer: WriterId(7),
            token: token as u64,
            last_event_number: 1,
            event_count: 1,
            expected_offset: None,
            data,
            permit: Permit::none(),
        }
    });
    appender.submit(operations.collect()).await.unwrap();
    let mut left = segments.len();
    while left > 0 {
        let batch = outcomes.recv().await.unwrap();
        assert!(batch.list.iter().all(|outcome| outcome.result.is_ok()));
        left -= batch.list.len();
    }
}

#[tokio::test]
async fn ten_thousand_open_transactions_leave_nothing_behind() {
    const TRANSACTIONS: usize = 10_000;
    let (memory, index) = (Memory::default(), SnapshotMemory::default());
    let (container, running) = open(&memory, &index).await;
    container
        .create(TARGET, Kind::Stream, vec![])
        .await
        .unwrap();
    let names: Vec<String> = (0..TRANSACTIONS).map(transaction).collect();
    let creations = names
        .iter()
        .map(|name| container.create(name, Kind::Stream, vec![]));
    for created in futures_util::future::join_all(creations).await {
        created.unwrap();
    }
    append(&container, &names, b"event").await;
    assert_eq!(container.stats().segments, TRANSACTIONS as u64 + 1);
    // Every other one is aborted, the rest is merged a hundred at a time.
    for name in names.iter().skip(1).step_by(2) {
        container.delete(name).await.unwrap();
    }
    let left: Vec<String> = names.iter().step_by(2).cloned().collect();
    let frames = container.stats().frames;
    for batch in left.chunks(100) {
        let lengths = container.merge_batch(TARGET, batch).await.unwrap();
        assert_eq!(lengths.len(), 100);
    }
    let merges = left.len() / 100;
    assert_eq!(container.stats().frames - frames, merges as u64);
    let stats = container.stats();
    assert_eq!((stats.segments, stats.merges), (1, left.len() as u64));
    assert_eq!(stats.merges_remembered, left.len() as u64);
    let expected = 5 * left.len() as u64;
    assert_eq!(
        container.info(TARGET).await.unwrap().length,
        Offset(expected)
    );
    let events = container.attribute(TARGET, AttributeId::EVENT_COUNT);
    assert_eq!(events.await.unwrap(), left.len() as i64);
    let digest = container.digest().await.unwrap();
    container.stop().await;
    running.await.unwrap();
    let (again, _running) = open(&memory, &index).await;
    assert_eq!(again.digest().await.unwrap(), digest);
    // A repeated merge after the restart is answered as before.
    let merged = again.merge(TARGET, &left[0], vec![]).await;
    assert_eq!(merged.unwrap(), Offset(expected));
    let never = again.merge(TARGET, &names[1], vec![]).await;
    assert!(matches!(never, Err(Error::NoSuchSegment(name)) if *name == *names[1]));
}

#[tokio::test(start_paused = true)]
async fn a_reader_at_the_tail_gets_all_of_a_batch_and_one_of_a_source_ends() {
    let (memory, index) = (Memory::default(), SnapshotMemory::default());
    let (container, _running) = open(&memory, &index).await;
    let sources = [transaction(1), transaction(2)];
    for name in [TARGET, &sources[0], &sources[1]] {
        container.create(name, Kind::Stream, vec![]).await.unwrap();
    }
    append(&container, &sources, b"half").await;
    let wait = Duration::from_secs(30);
    let target = container.read(TARGET, Offset(0), 100, wait);
    let source = container.read(&sources[0], Offset(4), 100, wait);
    let merge = async {
        tokio::task::yield_now().await;
        container.merge_batch(TARGET, &sources).await.unwrap()
    };
    let (target, source, merged) = tokio::join!(target, source, merge);
    assert_eq!(&target.unwrap().data[..], b"halfhalf");
    assert!(source.unwrap().data.is_empty());
    assert_eq!(merged, [Offset(4), Offset(8)]);
}
