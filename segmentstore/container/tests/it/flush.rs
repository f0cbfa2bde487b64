//! Data on its way to long-term storage and back.

use std::time::Duration;

use sarit_container::{Config, Flush, MemoryBudget, Offset};
use sarit_env::Rng;
use sarit_storage::Operation;
use sarit_storage::memory::{Faults, Memory as Objects};

use crate::world::{Connection, World, append_bytes};

fn config() -> Config {
    Config {
        flush: Flush {
            compact_ms: 0,
            ..Flush::default()
        },
        ..Config::default()
    }
}

fn objects() -> Objects {
    Objects::new(Rng::seeded(1))
}

async fn world(objects: &Objects, config: Config) -> World {
    World::with_objects(objects, config, MemoryBudget::default()).await
}

/// Bytes that tell their place.
fn payload(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| ((at ^ (at >> 8)).wrapping_mul(31).wrapping_add(seed)) as u8)
        .collect()
}

async fn push(connection: &mut Connection, name: &str, number: i64, data: Vec<u8>) {
    let append = append_bytes(name, 1, number, data.into());
    connection.submit(vec![append]).await;
    connection.outcome().await.result.expect("is appended");
}

/// Reads everything from an offset on.
async fn read_all(world: &World, segment: &str, from: u64) -> Vec<u8> {
    let mut all = Vec::new();
    let length = world
        .container
        .info(segment)
        .await
        .expect("is there")
        .length
        .0;
    while from + (all.len() as u64) < length {
        let at = Offset(from + all.len() as u64);
        let read = world
            .container
            .read(segment, at, 1 << 20, Duration::ZERO)
            .await;
        let read = read.expect("can be read");
        assert!(!read.data.is_empty());
        all.extend_from_slice(&read.data);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_was_flushed_is_read_from_packs_after_a_restart() {
    let objects = objects();
    let mut world = world(&objects, config()).await;
    let mut connection = world.connect();
    let mut expected = Vec::new();
    for (name, len) in [("small", 1000), ("large", 300_000), ("none", 0)] {
        world.stream(name).await;
        let mut all = Vec::new();
        for turn in 0..40 {
            let data = payload(turn, len);
            all.extend_from_slice(&data);
            push(&mut connection, name, turn as i64, data).await;
        }
        expected.push((name, all));
    }
    world.container.flush().await.expect("has storage");
    let stats = world.container.stats();
    assert_eq!(stats.unflushed, 0);
    // `large` had enough for a pack of its own.
    assert_eq!(stats.packs, 2);
    let puts = objects.store();
    drop(puts);
    drop(connection);
    world = world.reopen().await;
    for (name, all) in &expected {
        assert_eq!(&read_all(&world, name, 0).await, all, "{name}");
        let from = all.len() as u64 / 3;
        assert_eq!(
            read_all(&world, name, from).await,
            all[from as usize..],
            "{name}"
        );
    }
    let stats = world.container.stats();
    assert_eq!((stats.served_frames, stats.served_log), (0, 0));
    assert!(stats.served_packs > 0);
    // What comes after is at the tail again.
    let mut connection = world.connect();
    push(&mut connection, "small", 100, b"more".to_vec()).await;
    assert_eq!(read_all(&world, "small", 40_000).await, b"more");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_slow_segments_share_one_pack() {
    let objects = objects();
    let world = world(&objects, config()).await;
    let mut connection = world.connect();
    for n in 0..1000 {
        let name = format!("s{n}");
        world.stream(&name).await;
        push(&mut connection, &name, 1, payload(n, 100)).await;
    }
    // By itself, after its time.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let stats = world.container.stats();
    assert_eq!((stats.packs, stats.unflushed), (1, 0));
    let counts = world.storage.as_ref().expect("has storage").counts();
    assert_eq!(counts.done(Operation::Put), 1);
    assert_eq!(counts.done(Operation::Begin), 0);
    for n in [0, 500, 999] {
        assert_eq!(read_all(&world, &format!("s{n}"), 0).await, payload(n, 100));
    }
}

#[tokio::test(start_paused = true)]
async fn hot_data_is_stored_with_little_around_it() {
    let objects = objects();
    let world = world(&objects, config()).await;
    let mut connection = world.connect();
    world.stream("hot").await;
    let mut sent = 0;
    for turn in 0..2000 {
        push(&mut connection, "hot", turn, payload(1, 10_000)).await;
        sent += 10_000;
    }
    world.container.flush().await.expect("has storage");
    let written = world
        .storage
        .as_ref()
        .expect("has storage")
        .counts()
        .bytes_written();
    assert!(
        written >= sent && written * 10 <= sent * 11,
        "{written} for {sent}"
    );
}

#[tokio::test(start_paused = true)]
async fn appends_go_on_while_storage_is_down_and_all_is_flushed_when_it_is_back() {
    let objects = objects();
    // Too little memory to keep the frames until then.
    let budget = MemoryBudget::new(16 << 20);
    let world = World::with_objects(&objects, config(), budget).await;
    objects.set_faults(Faults {
        refuse: 1.0,
        ..Faults::default()
    });
    let mut connection = world.connect();
    world.stream("s").await;
    let mut all = Vec::new();
    for turn in 0..100 {
        let data = payload(turn, 200_000);
        all.extend_from_slice(&data);
        push(&mut connection, "s", turn as i64, data).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.container.stats().unflushed, all.len() as u64);
    assert!(world.container.stats().flush_failures > 0);
    assert_eq!(read_all(&world, "s", 0).await, all);
    objects.set_faults(Faults {
        lose_answer: 0.3,
        ..Faults::default()
    });
    world.container.flush().await.expect("has storage");
    assert_eq!(world.container.stats().unflushed, 0);
    objects.set_faults(Faults::default());
    let world = world.reopen().await;
    assert_eq!(read_all(&world, "s", 0).await, all);
    assert_eq!(world.container.stats().served_packs, all.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn scattered_segments_are_joined_and_what_is_left_is_deleted() {
    let objects = objects();
    let config = Config {
        flush: Flush {
            compact_ms: 10_000,
            extents: 8,
            grace_ms: 1000,
            ..Flush::default()
        },
        // The index has to have forgotten what is deleted.
        checkpoint_seconds: 1,
        export_seconds: 0,
        ..Config::default()
    };
    let world = world(&objects, config).await;
    let mut connection = world.connect();
    for name in ["a", "b"] {
        world.stream(name).await;
    }
    let mut all = Vec::new();
    for turn in 0..40 {
        let data = payload(turn, 500);
        all.extend_from_slice(&data);
        push(&mut connection, "a", turn as i64, data.clone()).await;
        push(&mut connection, "b", turn as i64, data).await;
        world.container.flush().await.expect("has storage");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stats = world.container.stats();
    assert!(stats.extents <= 16, "{stats:?}");
    for name in ["a", "b"] {
        assert_eq!(read_all(&world, name, 0).await, all);
    }
    // Most of what is left is truncated: rewritten without that.
    world
        .container
        .truncate("a", Offset(20_000))
        .await
        .expect("is there");
    world
        .container
        .truncate("b", Offset(15_000))
        .await
        .expect("is there");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(read_all(&world, "b", 15_000).await, all[15_000..]);
    let storage = world.storage.clone().expect("has storage");
    let left: u64 = storage
        .list(0)
        .await
        .expect("lists")
        .iter()
        .map(|(_, len)| len)
        .sum();
    assert!(left < 10_000, "{left}");
    world.container.delete("a").await.expect("is there");
    world.container.delete("b").await.expect("is there");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(storage.list(0).await.expect("lists"), []);
}

#[tokio::test(start_paused = true)]
async fn packs_that_were_never_committed_are_swept() {
    let objects = objects();
    let mut config = config();
    config.flush.sweep_ms = 5000;
    config.flush.grace_ms = 1000;
    let world = world(&objects, config).await;
    let storage = world.storage.clone().expect("has storage");
    let orphan = sarit_storage::PackId::new(0, 7)
        .expect("small")
        .name(0)
        .expect("small");
    storage
        .put(orphan, vec![b"never committed".to_vec().into()])
        .await
        .expect("works");
    let newer = sarit_storage::PackId::new(9, 7)
        .expect("small")
        .name(0)
        .expect("small");
    storage
        .put(newer, vec![b"of a later owner".to_vec().into()])
        .await
        .expect("works");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let left = storage.list(0).await.expect("lists");
    assert_eq!(
        left.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        [newer]
    );
    drop(world);
}

#[tokio::test(start_paused = true)]
async fn readers_in_order_are_read_ahead_for() {
    let objects = objects();
    let world = world(&objects, config()).await;
    let mut connection = world.connect();
    world.stream("s").await;
    for turn in 0..40 {
        push(&mut connection, "s", turn, payload(1, 500_000)).await;
    }
    world.container.flush().await.expect("has storage");
    let world = world.reopen().await;
    let counts = |world: &World| {
        world
            .storage
            .as_ref()
            .expect("has")
            .counts()
            .done(Operation::Get)
    };
    let before = counts(&world);
    read_all(&world, "s", 0).await;
    let gets = counts(&world) - before;
    // 20 MB in requests of 1 MiB, the table of each pack, and a few at the beginning.
    assert!(gets < 30, "{gets}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_replies_that_nobody_takes_hold_little_memory() {
    let objects = objects();
    let world = world(&objects, config()).await;
    let mut connection = world.connect();
    world.stream("s").await;
    let all = payload(3, 400_000);
    for turn in 0..50 {
        push(&mut connection, "s", turn, all.clone()).await;
    }
    world.container.flush().await.expect("has storage");
    let world = world.reopen().await;
    let mut held = Vec::new();
    for n in 0..1000 {
        let at = n * 20_000;
        let read = world
            .container
            .read("s", Offset(at), 1 << 20, Duration::ZERO);
        let data = read.await.expect("can be read").data;
        let from = (at % 400_000) as usize;
        let same = data.len().min(400_000 - from);
        assert_eq!(data[..same], all[from..from + same]);
        held.push(data);
    }
    // A quarter of a fifth of the budget, and a little for each.
    let bytes: usize = held.iter().map(|data| data.len()).sum();
    assert!(bytes < (14 << 20) + 1000 * (16 << 10), "{bytes}");
    assert_eq!(held.last().expect("has some").len(), 16 << 10);
    // Once they are taken, replies are large again.
    held.clear();
    let read = world
        .container
        .read("s", Offset(0), 1 << 20, Duration::ZERO);
    assert!(read.await.expect("can be read").data.len() > 200_000);
}

#[tokio::test(start_paused = true)]
async fn a_read_outlives_some_failures_of_storage_and_ends_with_an_error_if_they_last() {
    let objects = objects();
    let world = world(&objects, config()).await;
    let mut connection = world.connect();
    for name in ["a", "b"] {
        world.stream(name).await;
        push(&mut connection, name, 1, payload(1, 1000)).await;
        world.container.flush().await.expect("has storage");
    }
    let world = world.reopen().await;
    let refuse = |refuse| Faults {
        refuse,
        ..Faults::default()
    };
    objects.set_faults(refuse(0.5));
    assert_eq!(read_all(&world, "a", 0).await, payload(1, 1000));
    objects.set_faults(refuse(1.0));
    let read = world.container.read("b", Offset(0), 1000, Duration::ZERO);
    assert!(matches!(read.await, Err(error) if error.is_retryable()));
    objects.set_faults(Faults::default());
    assert_eq!(read_all(&world, "b", 0).await, payload(1, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_slow_segments_cost_one_request_a_period() {
    let objects = objects();
    let world = world(&objects, Config::default()).await;
    let counts = world.storage.clone().expect("has storage");
    let mut connection = world.connect();
    let names: Vec<_> = (0..1000).map(|n| format!("slow/{n}")).collect();
    for name in &names {
        world.stream(name).await;
    }
    for period in 1..=3 {
        for name in &names {
            push(&mut connection, name, period, payload(1, 100)).await;
        }
        let before = counts.counts().done(Operation::Put);
        tokio::time::sleep(Duration::from_secs(31)).await;
        let puts = counts.counts().done(Operation::Put) - before;
        // The pack, and now and then a copy of the index.
        assert!((1..=2).contains(&puts), "{puts} in period {period}");
    }
    assert_eq!(counts.list(0).await.expect("lists").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn hot_data_is_written_to_long_term_storage_once() {
    const EACH: u64 = 100_000;
    let objects = objects();
    let world = world(&objects, Config::default()).await;
    let storage = world.storage.clone().expect("has storage");
    let mut connection = world.connect();
    for name in ["a", "b", "c"] {
        world.stream(name).await;
    }
    let mut all = 0;
    for turn in 0..200 {
        for name in ["a", "b", "c"] {
            push(&mut connection, name, turn, payload(1, EACH as usize)).await;
            all += EACH;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Flushed, compacted, exported.
    tokio::time::sleep(Duration::from_secs(900)).await;
    let written = storage.counts().bytes_written();
    assert!(
        written >= all && written <= all + all / 10,
        "{written} for {all}"
    );
}
