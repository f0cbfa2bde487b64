//! A container whose log is lost, from what lies in long-term storage.

use std::time::Duration;

use sarit_container::{
    Config, Damaged, Error, Flush, Indexes, Kind, MemoryBudget, Offset, SnapshotMemory, rebuild,
};
use sarit_env::Rng;
use sarit_proto::ids::ContainerId;
use sarit_storage::Store;
use sarit_storage::memory::{Faults, Memory as Objects};
use sarit_wal::memory::MemoryFaults;

use crate::world::{World, append_bytes};

fn config() -> Config {
    Config {
        checkpoint_seconds: 5,
        export_seconds: 10,
        flush: Flush {
            compact_ms: 0,
            grace_ms: 1000,
            ..Flush::default()
        },
        ..Config::default()
    }
}

async fn read(world: &World, name: &str) -> Vec<u8> {
    let length = world.container.info(name).await.unwrap().length.0;
    let mut all = Vec::new();
    while (all.len() as u64) < length {
        let at = Offset(all.len() as u64);
        let read = world.container.read(name, at, 1 << 20, Duration::ZERO);
        all.extend_from_slice(&read.await.unwrap().data);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_was_flushed_is_there_again_and_what_was_not_is_not() {
    let objects = Objects::new(Rng::seeded(1));
    let world = World::with_objects(&objects, config(), MemoryBudget::default()).await;
    let mut connection = world.connect();
    let mut number = 0;
    for name in ["exported", "sealed", "unflushed"] {
        world.stream(name).await;
        for byte in 0..10 {
            number += 1;
            let append = append_bytes(name, 1, number, vec![byte; 1000].into());
            connection.submit(vec![append]).await;
            connection.outcome().await.result.unwrap();
        }
    }
    world.container.seal("sealed").await.unwrap();
    let table = Kind::Table { key_length: 0 };
    world
        .container
        .create("table", table, vec![])
        .await
        .unwrap();
    world.container.flush().await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    // Behind the export: more of what it knows, of what it does not, and what is never flushed.
    let push = async |connection: &mut crate::world::Connection, name: &str, number, byte| {
        let append = append_bytes(name, 1, number, vec![byte; 1000].into());
        connection.submit(vec![append]).await;
        connection.outcome().await.result.unwrap();
    };
    push(&mut connection, "exported", 100, 10).await;
    world.stream("created later").await;
    push(&mut connection, "created later", 101, 11).await;
    world.container.flush().await.unwrap();
    push(&mut connection, "unflushed", 102, 12).await;
    let store = world.storage.clone().unwrap();
    let before = store.list(0).await.unwrap();
    drop(connection);
    drop(world);

    let indexes = Indexes::memory(&SnapshotMemory::default());
    let found = rebuild(ContainerId(0), &store, &indexes, Damaged::Refuse)
        .await
        .unwrap();
    assert_eq!((found.segments, found.bytes), (4, 31_000));
    assert_eq!((found.newer_bytes, found.shortened), (1000, 0));
    assert_eq!((found.nameless, found.nameless_bytes), (1, 1000));
    assert_eq!(found.epoch, 1);
    let again = rebuild(ContainerId(0), &store, &indexes, Damaged::Refuse).await;
    assert!(again.is_err(), "an index that is there is left alone");

    let world = World::on(&objects, indexes, found.epoch, config()).await;
    let world = world.unwrap();
    let bytes = |last: u8| -> Vec<u8> { (0..=last).flat_map(|byte| [byte; 1000]).collect() };
    assert_eq!(read(&world, "exported").await, bytes(10));
    assert_eq!(read(&world, "sealed").await, bytes(9));
    assert_eq!(read(&world, "unflushed").await, bytes(9));
    assert!(world.container.info("sealed").await.unwrap().sealed);
    assert!(world.container.info("created later").await.is_err());
    assert!(world.container.info("table").await.is_ok());
    // What is referred to stays, whatever is swept.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(store.list(0).await.unwrap().len(), before.len());
    let mut connection = world.connect();
    push(&mut connection, "exported", 200, 11).await;
    assert_eq!(read(&world, "exported").await, bytes(11));
    let world = world.reopen().await;
    assert_eq!(read(&world, "exported").await, bytes(11));
}

#[tokio::test(start_paused = true)]
async fn a_pack_is_kept_as_long_as_the_index_or_its_export_refers_to_it() {
    let objects = Objects::new(Rng::seeded(1));
    let mut config = config();
    config.export_seconds = 600;
    let world = World::with_objects(&objects, config, MemoryBudget::default()).await;
    let store = world.storage.clone().unwrap();
    world.stream("s").await;
    let mut connection = world.connect();
    let append = append_bytes("s", 1, 1, vec![1; 1000].into());
    connection.submit(vec![append]).await;
    connection.outcome().await.result.unwrap();
    world.container.flush().await.unwrap();
    // Checkpoint and export refer to it.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(store.exports(0).await.unwrap().len(), 1);
    world.container.delete("s").await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(store.list(0).await.unwrap().len(), 1, "the export has it");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(store.list(0).await.unwrap(), []);
    assert_eq!(store.exports(0).await.unwrap().len(), 2);
}

/// A container with a segment of two packs, both of which the newest export refers to, and no others.
async fn exported(objects: &Objects, config: Config) -> World {
    let world = World::with_objects(objects, config, MemoryBudget::default()).await;
    world.stream("s").await;
    let mut connection = world.connect();
    for number in 1..=2 {
        let append = append_bytes("s", 1, number, vec![number as u8; 1000].into());
        connection.submit(vec![append]).await;
        connection.outcome().await.result.unwrap();
        world.container.flush().await.unwrap();
    }
    world
}

/// Loses the log of a container whose segment begins with its second pack by now, and looks for that.
async fn assert_recovers(world: World, store: &Store) {
    drop(world);
    let indexes = Indexes::memory(&SnapshotMemory::default());
    let found = rebuild(ContainerId(0), store, &indexes, Damaged::Refuse)
        .await
        .unwrap();
    assert_eq!((found.bytes, found.shortened), (2000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_goes_while_orphans_are_looked_for_is_kept_for_the_export() {
    let objects = Objects::new(Rng::seeded(1));
    let mut config = config();
    config.export_seconds = 3600;
    config.flush.grace_ms = 0;
    config.flush.sweep_ms = 20_000;
    // Packs of an earlier owner: of these it is asked.
    let world = exported(&objects, config).await.reopen().await;
    let store = world.storage.clone().unwrap();
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!(store.exports(0).await.unwrap().len(), 1);
    objects.set_faults(Faults {
        stall: 1.0,
        stall_time: Duration::from_secs(5),
        ..Faults::default()
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.container.truncate("s", Offset(1000)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    objects.set_faults(Faults::default());
    assert_recovers(world, &store).await;
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_goes_with_a_checkpoint_under_way_is_kept_for_the_export() {
    let objects = Objects::new(Rng::seeded(1));
    let mut config = config();
    config.export_seconds = 3600;
    config.flush.grace_ms = 0;
    config.flush.sweep_ms = 500;
    let world = exported(&objects, config).await;
    let store = world.storage.clone().unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(store.exports(0).await.unwrap().len(), 1);
    world.container.truncate("s", Offset(1000)).await.unwrap();
    // The index has it long before the log says so.
    world.memory.set_faults(MemoryFaults {
        latency: Duration::from_secs(3),
        ..MemoryFaults::default()
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_recovers(world, &store).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_loss_does_not_bring_back_what_was_lost_with_the_first() {
    let objects = Objects::new(Rng::seeded(1));
    let push = async |world: &World, number: i64, length: usize| {
        let append = append_bytes("s", 1, number, vec![number as u8; length].into());
        let mut connection = world.connect();
        connection.submit(vec![append]).await;
        connection.outcome().await.result.unwrap();
        world.container.flush().await.unwrap();
    };
    let world = World::with_objects(&objects, config(), MemoryBudget::default()).await;
    let store = world.storage.clone().unwrap();
    world.stream("s").await;
    push(&world, 1, 600).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    push(&world, 2, 100).await;
    push(&world, 3, 300).await;
    drop(world);
    // As if the second pack had been on its way when the log was lost.
    let mut packs = store.list(0).await.unwrap();
    packs.sort_unstable();
    store.delete(packs[1].0).await.unwrap();
    let indexes = Indexes::memory(&SnapshotMemory::default());
    let found = rebuild(ContainerId(0), &store, &indexes, Damaged::Refuse)
        .await
        .unwrap();
    assert_eq!(found.bytes, 600);

    let world = World::on(&objects, indexes, found.epoch, config()).await;
    let world = world.unwrap();
    push(&world, 4, 200).await;
    push(&world, 5, 100).await;
    let indexes = Indexes::memory(&SnapshotMemory::default());
    let at_once = rebuild(ContainerId(0), &store, &indexes, Damaged::Refuse)
        .await
        .unwrap();
    assert_eq!(at_once.bytes, 900);
    tokio::time::sleep(Duration::from_secs(20)).await;
    drop(world);
    let indexes = Indexes::memory(&SnapshotMemory::default());
    let found = rebuild(ContainerId(0), &store, &indexes, Damaged::Refuse)
        .await
        .unwrap();
    let world = World::on(&objects, indexes, found.epoch, config()).await;
    let world = world.unwrap();
    let expected = [[1; 600].as_slice(), &[4; 200], &[5; 100]].concat();
    assert_eq!(read(&world, "s").await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_container_is_not_opened_anew_without_a_copy_of_what_it_was_rebuilt_from() {
    let objects = Objects::new(Rng::seeded(1));
    let world = exported(&objects, config()).await;
    let store = world.storage.clone().unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    drop(world);
    let indexes = Indexes::memory(&SnapshotMemory::default());
    let found = rebuild(ContainerId(0), &store, &indexes, Damaged::Refuse)
        .await
        .unwrap();
    objects.set_faults(Faults {
        refuse: 1.0,
        ..Faults::default()
    });
    let opened = World::on(&objects, indexes.clone(), found.epoch, config()).await;
    let opened = opened.map(|_| ());
    assert!(matches!(opened, Err(Error::Index(_))), "{opened:?}");
    objects.set_faults(Faults::default());
    let world = World::on(&objects, indexes, found.epoch, config()).await;
    assert_eq!(read(&world.unwrap(), "s").await.len(), 2000);
    let (newest, _) = store.exports(0).await.unwrap().pop().unwrap();
    assert_eq!((newest.epoch, newest.frame), (found.epoch + 1, 0));
}

#[tokio::test(start_paused = true)]
async fn damaged_packs_and_exports_are_left_out_if_that_is_asked_for() {
    let objects = Objects::new(Rng::seeded(1));
    let world = World::with_objects(&objects, config(), MemoryBudget::default()).await;
    let mut connection = world.connect();
    world.stream("s").await;
    for number in 1..=3 {
        let append = append_bytes("s", 1, number, vec![number as u8; 1000].into());
        connection.submit(vec![append]).await;
        connection.outcome().await.result.unwrap();
        world.container.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let store = world.storage.clone().unwrap();
    drop(connection);
    drop(world);
    let mut packs = store.list(0).await.unwrap();
    packs.sort_unstable();
    let exports = store.exports(0).await.unwrap();
    assert_eq!((packs.len(), exports.len()), (3, 2));
    let damaged = [packs[1].0.to_string(), exports[1].0.to_string()];
    for name in &damaged {
        objects.damage(name).await;
    }
    let id = ContainerId(0);
    let indexes = Indexes::memory(&SnapshotMemory::default());
    assert!(
        rebuild(id, &store, &indexes, Damaged::Refuse)
            .await
            .is_err()
    );
    let found = rebuild(id, &store, &indexes, Damaged::Skip).await.unwrap();
    assert_eq!((found.segments, found.bytes, found.packs), (1, 1000, 2));
    for (skipped, name) in found.skipped.iter().zip(&damaged) {
        assert!(skipped.contains(name), "{skipped}");
    }
    assert_eq!(found.skipped.len(), 2);
}
