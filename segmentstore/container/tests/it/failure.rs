//! A log that fails, an owner that is replaced, a stop.

use std::time::Duration;

use sarit_container::{Error, Kind};
use sarit_wal::memory::MemoryFaults;

use crate::world::{World, append};

#[tokio::test]
async fn a_failed_log_ends_the_container_and_leaves_outcomes_unknown() {
    for stored in [false, true] {
        let mut world = World::new().await;
        world.stream("s").await;
        let mut writer = world.connect();
        writer.append("s", 1, 1, b"abc").await.unwrap();
        world.memory.set_faults(MemoryFaults {
            frames_until_error: Some(0),
            failed_frame_is_stored: stored,
            ..MemoryFaults::default()
        });
        let lost = writer.append("s", 1, 2, b"def").await.unwrap_err();
        assert!(matches!(lost, Error::OutcomeUnknown), "{lost:?}");
        let ended = (&mut world.running).await;
        assert!(matches!(ended, Err(Error::Wal(_))), "{ended:?}");
        let container = &world.container;
        let late = writer.appender.submit(vec![append("s", 1, 3, b"x")]).await;
        assert!(matches!(late, Err(Error::Stopping)));
        assert!(matches!(container.info("s").await, Err(Error::Stopping)));
        let late = container.create("t", Kind::Stream, vec![]).await;
        assert!(matches!(late, Err(Error::Stopping)));
        assert!(matches!(world.read("s", 0).await, Err(Error::Stopping)));
        let (memory, config, budget) = (world.memory, world.config, world.budget);
        let opened = World::open(memory, world.index, config, budget).await;
        let world = opened.unwrap();
        let last = world.connect().setup("s", 1).await.unwrap();
        assert_eq!(last, if stored { 2 } else { 1 });
        let bytes: &[u8] = if stored { b"abcdef" } else { b"abc" };
        assert_eq!(world.read("s", 0).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn an_owner_that_was_replaced_acknowledges_nothing() {
    let world = World::new().await;
    world.stream("s").await;
    let mut old = world.connect();
    old.append("s", 1, 1, b"abc").await.unwrap();
    let (memory, config, budget) = (
        world.memory.clone(),
        world.config.clone(),
        world.budget.clone(),
    );
    let index = world.index.clone();
    let next = World::open(memory, index, config, budget).await.unwrap();
    let lost = old.append("s", 1, 2, b"def").await.unwrap_err();
    assert!(matches!(lost, Error::OutcomeUnknown), "{lost:?}");
    assert!(matches!(world.running.await, Err(Error::Wal(_))));
    assert_eq!(next.read("s", 0).await.unwrap(), "abc");
    assert_eq!(next.connect().append("s", 1, 2, b"def").await.unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_what_was_accepted() {
    let world = World::new().await;
    world.stream("s").await;
    world.memory.set_faults(MemoryFaults {
        latency: Duration::from_millis(10),
        ..MemoryFaults::default()
    });
    let mut writer = world.connect();
    for number in 1..=50 {
        writer.submit(vec![append("s", 1, number, b"x")]).await;
    }
    let container = world.container.clone();
    let (stopped, ended) = tokio::join!(container.stop(), world.running);
    let () = stopped;
    ended.unwrap();
    for _ in 1..=50 {
        writer.outcome().await.result.unwrap();
    }
    container.stop().await;
    let late = container.create("t", Kind::Stream, vec![]).await;
    assert!(matches!(late, Err(Error::Stopping)));
}
