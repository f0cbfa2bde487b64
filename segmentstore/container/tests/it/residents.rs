//! Segments that are not in memory: nobody can tell, but by the numbers.

use std::sync::Arc;
use std::time::Duration;

use sarit_container::{
    Config, Error, Indexes, Kind, MemoryBudget, Offset, SegmentInfo, SlateStore, SnapshotMemory,
};
use sarit_env::{Clock, Rng};
use sarit_proto::ids::AttributeId;
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};
use sarit_storage::memory::{Faults, Memory as Objects};
use sarit_wal::memory::Memory;
use tokio::time::timeout;

use crate::world::World;

const MANY: usize = 200;
const FEW: usize = 10;
const NUMBER: AttributeId = AttributeId(0x77);

fn name(at: usize) -> String {
    format!("s{at}")
}

/// A container that keeps `few` segments in memory, and has many, each with a number of its own.
async fn crowd(few: usize) -> World {
    crowd_in(few, Indexes::memory(&SnapshotMemory::default())).await
}

async fn crowd_in(few: usize, index: Indexes) -> World {
    let config = Config {
        checkpoint_segments: 20,
        resident_segments: few,
        check_cuts: true,
        ..Config::default()
    };
    let budget = MemoryBudget::default();
    let opened = World::open(Memory::default(), index, config, budget).await;
    let world = opened.expect("opens");
    for at in 0..MANY {
        let attributes = vec![(NUMBER, at as i64)];
        let name = name(at);
        let created = world.container.create(&name, Kind::Stream, attributes);
        created.await.unwrap();
    }
    settle(&world).await;
    world
}

/// Waits for a checkpoint of everything, and for what is let go after it.
async fn settle(world: &World) {
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(61)).await;
    }
    assert_eq!(world.container.stats().changed, 0);
}

#[tokio::test(start_paused = true)]
async fn segments_nobody_uses_are_let_go_and_brought_back_as_they_were() {
    let world = crowd(FEW).await;
    let stats = world.container.stats();
    assert_eq!(stats.segments, MANY as u64);
    assert!(stats.resident <= FEW as u64, "{stats:?}");
    for at in (0..MANY).rev() {
        let number = world.container.attribute(&name(at), NUMBER).await;
        assert_eq!(number.unwrap(), at as i64);
    }
    settle(&world).await;
    let stats = world.container.stats();
    assert!(stats.resident <= FEW as u64, "{stats:?}");
    assert!(stats.loads >= (MANY - FEW) as u64, "{stats:?}");
    let world = world.reopen().await;
    let stats = world.container.stats();
    assert_eq!((stats.segments, stats.resident), (MANY as u64, 0));
    assert_eq!(world.container.attribute("s7", NUMBER).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_is_not_in_memory_can_be_changed_and_deleted() {
    let world = crowd(FEW).await;
    let container = &world.container;
    let exists = container.create("s3", Kind::Stream, vec![]).await;
    assert!(matches!(exists, Err(Error::SegmentExists(_))), "{exists:?}");
    assert!(
        container
            .update_attribute("s4", NUMBER, 44, 4)
            .await
            .unwrap()
    );
    assert_eq!(container.seal("s5").await.unwrap(), Offset(0));
    container.delete("s6").await.unwrap();
    let gone = container.info("s6").await;
    assert!(matches!(gone, Err(Error::NoSuchSegment(_))), "{gone:?}");
    container.create("s6", Kind::Stream, vec![]).await.unwrap();
    let nobody = container.delete("s9999").await;
    assert!(matches!(nobody, Err(Error::NoSuchSegment(_))), "{nobody:?}");
    settle(&world).await;
    let world = world.reopen().await;
    let container = &world.container;
    assert_eq!(container.attribute("s4", NUMBER).await.unwrap(), 44);
    assert!(container.info("s5").await.unwrap().sealed);
    let unset = sarit_proto::ids::NULL_ATTRIBUTE;
    assert_eq!(container.attribute("s6", NUMBER).await.unwrap(), unset);
    assert_eq!(container.stats().segments, MANY as u64);
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_someone_appends_to_stays_and_its_writer_is_known_again() {
    let world = crowd(FEW).await;
    let mut writer = world.connect();
    assert_eq!(writer.setup("s8", 1).await.unwrap(), i64::MIN);
    writer.append("s8", 1, 5, b"").await.unwrap();
    // Idle, written down, and empty; the connection alone keeps it.
    settle(&world).await;
    let loads = world.container.stats().loads;
    writer.append("s8", 1, 6, b"").await.unwrap();
    assert_eq!(world.container.stats().loads, loads);
    drop(writer);
    for at in 100..150 {
        world.container.info(&name(at)).await.unwrap();
    }
    settle(&world).await;
    let mut writer = world.connect();
    assert_eq!(writer.setup("s8", 1).await.unwrap(), 6);
    assert!(world.container.stats().loads > loads);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_moves_on_keeps_only_its_last_segment() {
    let world = crowd(FEW).await;
    let mut writer = world.connect();
    for at in 0..MANY {
        writer.setup(&name(at), 1).await.unwrap();
    }
    settle(&world).await;
    let stats = world.container.stats();
    assert!(stats.resident <= FEW as u64, "{stats:?}");
    let loads = stats.loads;
    writer.append(&name(MANY - 1), 1, 0, b"").await.unwrap();
    assert_eq!(world.container.stats().loads, loads);
}

#[tokio::test(start_paused = true)]
async fn a_table_comes_back_with_its_entries() {
    let world = crowd(0).await;
    let kind = Kind::Table { key_length: 0 };
    world.container.create("t", kind, vec![]).await.unwrap();
    let entry = |key: &'static str, value: &'static str| TableEntry {
        key: TableKey {
            key: key.into(),
            version: TableKey::NO_VERSION,
        },
        value: TableValue(value.into()),
    };
    let entries = vec![entry("a", "1"), entry("b", "2"), entry("c", "3")];
    let versions = world.container.table_update("t", entries, None).await;
    let versions = versions.unwrap();
    settle(&world).await;
    let remove = vec![TableKey {
        key: "b".into(),
        version: versions[1],
    }];
    world
        .container
        .table_remove("t", remove, None)
        .await
        .unwrap();
    settle(&world).await;
    let loads = world.container.stats().loads;
    let keys = ["a", "b", "c"].map(bytes::Bytes::from);
    let found = world.container.table_get("t", &keys).await.unwrap();
    assert!(world.container.stats().loads > loads, "it was let go");
    let found: Vec<_> = found.iter().map(|entry| entry.key.version).collect();
    assert_eq!(found, [versions[0], TableKey::NOT_EXISTS, versions[2]]);
}

/// Has somebody look at one segment after the other, none of which is in memory, in an index that is
/// slow. Each look gets a step further through the index than the one before, and stands still there while
/// `change` happens and the segment is let go; then `check` gets what it says.
async fn beside_slow_looks(
    change: impl AsyncFn(&World, &str),
    check: impl AsyncFn(&World, &str, Result<SegmentInfo, Error>),
) {
    const STALL: Duration = Duration::from_millis(100);
    let objects = Objects::new(Rng::seeded(1));
    let clock = Clock::from_fn(|| 1_000);
    let slate = SlateStore::new(Arc::new(objects.clone()), 0, clock);
    let world = crowd_in(0, Indexes::slate(slate)).await;
    for steps in 0.. {
        let name = name(steps);
        objects.set_faults(Faults {
            stall: 1.0,
            stall_time: STALL,
            ..Faults::default()
        });
        let mut look = Box::pin(world.container.info(&name));
        let time = STALL / 2 + STALL * u32::try_from(steps).unwrap();
        if timeout(time, &mut look).await.is_ok() {
            assert!(steps > 3, "a look takes {steps} steps");
            return;
        }
        objects.set_faults(Faults::default());
        change(&world, &name).await;
        settle(&world).await;
        check(&world, &name, look.await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_look_does_not_bring_back_what_a_segment_was_before() {
    let change = async |world: &World, name: &str| {
        let mut writer = world.connect();
        writer.setup(name, 1).await.unwrap();
        writer.append(name, 1, 6, b"").await.unwrap();
        drop(writer);
        world.container.seal(name).await.unwrap();
    };
    beside_slow_looks(change, async |world, name, info| {
        assert!(info.unwrap().sealed, "{name}");
        assert_eq!(world.connect().setup(name, 1).await.unwrap(), 6, "{name}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_look_does_not_bring_back_a_segment_that_was_deleted() {
    let change = async |world: &World, name: &str| {
        world.container.delete(name).await.unwrap();
    };
    beside_slow_looks(change, async |world, name, info| {
        assert!(matches!(info, Err(Error::NoSuchSegment(_))), "{info:?}");
        let again = world.container.create(name, Kind::Stream, vec![]).await;
        again.unwrap();
    })
    .await;
}
