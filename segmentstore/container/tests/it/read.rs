//! Reads: whatever is durable, from memory or from the log, and waiting at the tail.

use std::time::Duration;

use bytes::Bytes;
use sarit_container::{Config, Error, Kind, MemoryBudget, Offset, Read};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::Instant;

use crate::world::{World, append_bytes};

const LONG: Duration = Duration::from_secs(3600);

/// Starts a read of "s" and waits until it is parked.
async fn parked(world: &World, offset: u64) -> JoinHandle<Result<Read, Error>> {
    let before = world.container.stats().waiters;
    let container = world.container.clone();
    let read = tokio::task::spawn_local(async move {
        container.read("s", Offset(offset), 1 << 20, LONG).await
    });
    while world.container.stats().waiters == before {
        tokio::task::yield_now().await;
    }
    read
}

async fn with_stream(bytes: &'static [u8]) -> World {
    let world = World::new().await;
    world.stream("s").await;
    world.connect().append("s", 1, 1, bytes).await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn a_read_at_the_tail_waits_for_bytes() {
    LocalSet::new()
        .run_until(async {
            let world = with_stream(b"abc").await;
            let (one, two) = (parked(&world, 3).await, parked(&world, 5).await);
            world.connect().append("s", 1, 2, b"d").await.unwrap();
            let read = one.await.unwrap().unwrap();
            assert_eq!((read.data, read.at_tail), (Bytes::from("d"), true));
            world.connect().append("s", 1, 3, b"efg").await.unwrap();
            assert_eq!(two.await.unwrap().unwrap().data, "fg");
            assert_eq!(world.container.stats().waiters, 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_read_hears_of_seal_and_deletion_but_not_of_truncation() {
    LocalSet::new()
        .run_until(async {
            let world = with_stream(b"abc").await;
            let read = parked(&world, 3).await;
            world.container.truncate("s", Offset(3)).await.unwrap();
            assert_eq!(world.container.stats().waiters, 1);
            world.container.seal("s").await.unwrap();
            let sealed = read.await.unwrap();
            assert!(matches!(sealed, Err(Error::SegmentSealed(_))), "{sealed:?}");

            let world = with_stream(b"abc").await;
            let read = parked(&world, 3).await;
            world.container.delete("s").await.unwrap();
            let read = read.await.unwrap().unwrap();
            assert!(read.data.is_empty() && read.at_tail && !read.end_of_segment);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_gives_an_empty_read() {
    let world = with_stream(b"abc").await;
    let start = Instant::now();
    let wait = Duration::from_secs(25);
    let read = world.container.read("s", Offset(3), 100, wait).await;
    assert!(read.unwrap().at_tail);
    assert_eq!(start.elapsed().as_secs(), 25);
    assert_eq!(world.container.stats().waiters, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_read_waits_no_longer_and_a_stop_lets_all_go() {
    LocalSet::new()
        .run_until(async {
            let world = with_stream(b"abc").await;
            let (dropped, stopped) = (parked(&world, 3).await, parked(&world, 3).await);
            dropped.abort();
            assert!(dropped.await.is_err());
            assert_eq!(world.container.stats().waiters, 1);
            world.container.stop().await;
            assert!(stopped.await.unwrap().unwrap().at_tail);
            assert_eq!(world.container.stats().waiters, 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn readers_beyond_the_limit_are_served_late() {
    LocalSet::new()
        .run_until(async {
            let config = Config {
                waiters: 1,
                ..Config::default()
            };
            let world = World::with(config, MemoryBudget::default()).await;
            world.stream("s").await;
            let first = parked(&world, 0).await;
            let container = world.container.clone();
            let second =
                tokio::task::spawn_local(
                    async move { container.read("s", Offset(0), 10, LONG).await },
                );
            tokio::task::yield_now().await;
            assert_eq!(world.container.stats().waiters, 1);
            world.connect().append("s", 1, 1, b"abc").await.unwrap();
            assert_eq!(first.await.unwrap().unwrap().data, "abc");
            assert_eq!(second.await.unwrap().unwrap().data, "abc");
        })
        .await;
}

#[tokio::test]
async fn the_end_of_a_sealed_segment_is_told_with_its_last_bytes() {
    let world = with_stream(b"abc").await;
    world.container.seal("s").await.unwrap();
    let read = async |offset, max| {
        let read = world.container.read("s", Offset(offset), max, LONG).await;
        let read = read.unwrap();
        (read.data, read.at_tail, read.end_of_segment)
    };
    assert_eq!(read(0, 2).await, (Bytes::from("ab"), false, false));
    assert_eq!(read(2, 2).await, (Bytes::from("c"), false, true));
    for end in [3, 4, u64::MAX] {
        assert_eq!(read(end, 2).await, (Bytes::new(), false, true));
    }
}

#[tokio::test]
async fn tables_are_not_read_as_bytes() {
    let world = World::new().await;
    let kind = Kind::Table { key_length: 0 };
    world.container.create("s", kind, vec![]).await.unwrap();
    let refused = world.read("s", 0).await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}

/// Bytes that tell where they belong.
fn pattern(from: u64, len: usize) -> Bytes {
    let byte = |at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    (from..from + len as u64).map(byte).collect()
}

async fn read_all(world: &World, name: &str, length: u64) -> u64 {
    let (mut offset, mut reads) = (0, 0);
    while offset < length {
        let read = world
            .container
            .read(name, Offset(offset), 1 << 20, Duration::ZERO);
        let read = read.await.unwrap();
        assert!(!read.data.is_empty());
        assert_eq!(
            read.data,
            pattern(offset, read.data.len()),
            "{name} at {offset}"
        );
        offset += read.data.len() as u64;
        assert_eq!(read.at_tail, offset == length);
        reads += 1;
    }
    reads
}

#[tokio::test]
async fn what_memory_does_not_hold_is_read_back_from_the_log() {
    let budget = MemoryBudget::new(16 << 20);
    let world = World::with(Config::default(), budget.clone()).await;
    let mut writer = world.connect();
    let names = ["a", "b", "c"];
    for name in names {
        world.stream(name).await;
    }
    let (mut length, size) = (0, 300_000);
    for number in 1..=30 {
        for (writer_id, name) in names.iter().enumerate() {
            let data = pattern(length, size);
            let operation = append_bytes(name, writer_id as u128, number, data);
            writer.submit(vec![operation]).await;
        }
        for _ in names {
            writer.outcome().await.result.unwrap();
        }
        length += size as u64;
    }
    let kept = budget.usage().frames;
    assert!((3 << 20..5 << 20).contains(&kept), "{kept}");
    assert_eq!(world.container.stats().reread_bytes, 0);
    for name in names {
        read_all(&world, name, length).await;
    }
    assert!(world.container.stats().reread_bytes > 10 << 20);
    assert!(budget.usage().blocks <= 4 << 20);
    let world = world.reopen().await;
    tokio::task::yield_now().await;
    // At most the end of the checkpoint that a start with a replay makes.
    assert!(budget.usage().frames < 4 << 10);
    for name in names {
        read_all(&world, name, length).await;
    }
    assert!(world.container.stats().reread_bytes >= 3 * length);
}

#[tokio::test]
async fn small_pieces_are_gathered_into_one_reply() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    for number in 0..300 {
        let data = pattern(number * 100, 100);
        writer
            .submit(vec![append_bytes("s", 1, number as i64 + 1, data)])
            .await;
        writer.outcome().await.result.unwrap();
    }
    assert_eq!(read_all(&world, "s", 30_000).await, 1);
    let world = world.reopen().await;
    assert_eq!(read_all(&world, "s", 30_000).await, 1);
}
