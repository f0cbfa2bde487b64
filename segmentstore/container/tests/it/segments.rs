//! What becomes of segments: create, seal, truncate, delete, attributes.

use sarit_container::{Error, Kind, Offset};
use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE};

use crate::world::World;

#[tokio::test]
async fn a_segment_is_created_once_and_its_name_is_free_after_deletion() {
    let world = World::new().await;
    world.stream("s").await;
    let again = world.container.create("s", Kind::Stream, vec![]).await;
    assert!(matches!(again, Err(Error::SegmentExists(_))));
    world.connect().append("s", 1, 1, b"old").await.unwrap();
    world.container.delete("s").await.unwrap();
    assert!(matches!(
        world.read("s", 0).await,
        Err(Error::NoSuchSegment(_))
    ));
    assert!(matches!(
        world.container.delete("s").await,
        Err(Error::NoSuchSegment(_))
    ));
    world.stream("s").await;
    assert_eq!(world.container.info("s").await.unwrap().length, Offset(0));
    assert_eq!(world.connect().setup("s", 1).await.unwrap(), NULL_ATTRIBUTE);
}

#[tokio::test]
async fn sealing_is_idempotent_and_lasts() {
    let world = World::new().await;
    world.stream("s").await;
    world.connect().append("s", 1, 1, b"abc").await.unwrap();
    assert_eq!(world.container.seal("s").await.unwrap(), Offset(3));
    assert_eq!(world.container.seal("s").await.unwrap(), Offset(3));
    let world = world.reopen().await;
    let info = world.container.info("s").await.unwrap();
    assert!(info.sealed);
    assert_eq!(info.length, Offset(3));
    assert_eq!(info.last_modified_ms, 1_000);
}

#[tokio::test]
async fn truncation_moves_the_start_within_the_segment() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    for number in 1..=4 {
        writer.append("s", 1, number, b"abc").await.unwrap();
    }
    world.container.truncate("s", Offset(4)).await.unwrap();
    world.container.truncate("s", Offset(4)).await.unwrap();
    for outside in [3, 13] {
        let refused = world.container.truncate("s", Offset(outside)).await;
        assert!(matches!(refused, Err(Error::BadOffset { .. })), "{outside}");
    }
    world.container.seal("s").await.unwrap();
    world.container.truncate("s", Offset(7)).await.unwrap();
    let world = world.reopen().await;
    let below = world.read("s", 6).await;
    assert!(matches!(below, Err(Error::SegmentTruncated { start, .. }) if start == Offset(7)));
    assert_eq!(world.read("s", 7).await.unwrap(), "bcabc");
}

#[tokio::test]
async fn attributes_are_compared_and_set() {
    let world = World::new().await;
    let container = &world.container;
    let (id, rate) = (AttributeId(77), AttributeId::SCALE_POLICY_RATE);
    let given = vec![(rate, 5)];
    container.create("s", Kind::Stream, given).await.unwrap();
    let set = async |id, new, expected| {
        let set = container.update_attribute("s", id, new, expected).await;
        set.unwrap()
    };
    assert_eq!(container.attribute("s", id).await.unwrap(), NULL_ATTRIBUTE);
    assert!(!set(id, 1, 0).await);
    assert!(set(id, 1, NULL_ATTRIBUTE).await);
    assert!(!set(id, 2, NULL_ATTRIBUTE).await);
    assert!(set(id, 2, 1).await);
    assert!(!set(AttributeId::ROLLOVER_SIZE, 1, NULL_ATTRIBUTE).await);
    container.update_policy("s", 2, 30).await.unwrap();
    assert_eq!(container.attribute("s", rate).await.unwrap(), 30);
    let world = world.reopen().await;
    let container = &world.container;
    assert_eq!(container.attribute("s", id).await.unwrap(), 2);
    assert!(
        container
            .update_attribute("s", id, NULL_ATTRIBUTE, 2)
            .await
            .unwrap()
    );
    assert_eq!(container.attribute("s", id).await.unwrap(), NULL_ATTRIBUTE);
    container.seal("s").await.unwrap();
    let sealed = container.update_attribute("s", id, 1, NULL_ATTRIBUTE).await;
    assert!(matches!(sealed, Err(Error::SegmentSealed(_))));
}
