//! Appends: once, in order, durable.

use sarit_container::{Done, Error, Offset};
use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE};

use crate::world::{World, append, conditional, setup};

#[tokio::test]
async fn appended_bytes_are_read_back_also_after_a_restart() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    assert_eq!(writer.append("s", 1, 1, b"hello ").await.unwrap(), 6);
    assert_eq!(writer.append("s", 1, 2, b"world").await.unwrap(), 11);
    assert_eq!(world.read("s", 0).await.unwrap(), "hello world");
    assert_eq!(world.read("s", 6).await.unwrap(), "world");
    let world = world.reopen().await;
    assert_eq!(world.read("s", 3).await.unwrap(), "lo world");
    assert_eq!(world.connect().setup("s", 1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_repeated_append_is_acknowledged_and_not_written_again() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    let twice = vec![append("s", 1, 5, b"abc"), append("s", 1, 5, b"abc")];
    writer.submit(twice).await;
    for _ in 0..2 {
        let done = writer.outcome().await.result.unwrap();
        let length = Offset(3);
        assert_eq!(done, Done::Appended { length });
    }
    assert_eq!(writer.append("s", 1, 4, b"x").await.unwrap(), 3);
    let stats = world.container.stats();
    assert_eq!(
        (stats.appends, stats.append_bytes, stats.duplicates),
        (1, 3, 2)
    );
    let world = world.reopen().await;
    assert_eq!(world.connect().append("s", 1, 5, b"abc").await.unwrap(), 3);
    assert_eq!(world.read("s", 0).await.unwrap(), "abc");
    assert_eq!(world.container.stats().duplicates, 1);
}

#[tokio::test]
async fn an_append_without_bytes_is_acknowledged_and_moves_the_writers_number() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    assert_eq!(writer.append("s", 1, 7, b"").await.unwrap(), 0);
    let world = world.reopen().await;
    assert_eq!(world.connect().setup("s", 1).await.unwrap(), 7);
    assert_eq!(world.read("s", 0).await.unwrap(), "");
}

#[tokio::test]
async fn a_conditional_append_needs_the_length_it_expects_but_a_repeated_one_does_not() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    writer.append("s", 1, 1, b"abc").await.unwrap();
    let operations = vec![
        conditional("s", 2, 1, 2, b"x"),
        conditional("s", 2, 2, 3, b"y"),
        conditional("s", 2, 2, 3, b"y"),
        conditional("s", 2, 3, 3, b"z"),
    ];
    writer.submit(operations).await;
    let first = writer.outcome().await.result.unwrap_err();
    let actual = Offset(3);
    assert!(matches!(first, Error::WrongOffset { actual: at, .. } if at == actual));
    for _ in 0..2 {
        let length = Offset(4);
        let done = writer.outcome().await.result.unwrap();
        assert_eq!(done, Done::Appended { length });
    }
    assert!(writer.outcome().await.result.is_err());
    assert_eq!(world.read("s", 0).await.unwrap(), "abcy");
    assert_eq!(writer.setup("s", 2).await.unwrap(), 2);
}

#[tokio::test]
async fn a_setup_tells_new_writers_nothing_and_works_on_sealed_segments() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    assert_eq!(writer.setup("s", 1).await.unwrap(), NULL_ATTRIBUTE);
    writer
        .submit(vec![append("s", 1, 3, b"abc"), setup("s", 1)])
        .await;
    writer.outcome().await.result.unwrap();
    let last_event_number = 3;
    let done = writer.outcome().await.result.unwrap();
    assert_eq!(done, Done::Setup { last_event_number });
    assert_eq!(world.container.seal("s").await.unwrap(), Offset(3));
    assert_eq!(writer.setup("s", 1).await.unwrap(), 3);
    // What was durable before the seal is not refused when it is sent again.
    assert_eq!(writer.append("s", 1, 3, b"abc").await.unwrap(), 3);
    let refused = writer.append("s", 1, 4, b"x").await.unwrap_err();
    assert!(matches!(refused, Error::SegmentSealed(_)));
    let missing = writer.setup("t", 1).await.unwrap_err();
    assert!(matches!(missing, Error::NoSuchSegment(_)));
}

#[tokio::test]
async fn events_are_counted() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    for number in 1..=3 {
        writer.append("s", 1, number, b"event").await.unwrap();
    }
    let world = world.reopen().await;
    let count = world.container.attribute("s", AttributeId::EVENT_COUNT);
    assert_eq!(count.await.unwrap(), 3);
}
