//! A store with a part of the containers says of every other segment that it is elsewhere.

use sarit_proto::ids::{AttributeId, WriterId};
use sarit_proto::placement::{ContainerRange, container};
use sarit_proto::wire::command as c;
use sarit_proto::wire::field::IteratorArgs;
use sarit_proto::wire::{Command, Reply};
use sarit_segmentstore::Error;

use crate::world::{Peer, World, create, read, set_up, start_on_disk_with};

const OWNED: &str = "1..3";

fn owned() -> ContainerRange {
    OWNED.parse().unwrap()
}

async fn part() -> World {
    World::start_with(|config| config.container_range = Some(owned())).await
}

/// A segment that is here, or one that is not.
fn segment(here: bool) -> String {
    let mut names = (0..).map(|n| format!("scope/stream/{n}.#epoch.0"));
    let found = names.find(|name| owned().contains(container(name, 4)) == here);
    found.unwrap()
}

/// One request of each kind that names a segment.
fn requests(segment: &str) -> Vec<Command> {
    let (request_id, token) = (7, String::new);
    let name = || segment.to_owned();
    let transaction = format!("{segment}#transaction.{:032x}", 9);
    let args = || IteratorArgs::default();
    vec![
        set_up(segment, 1).into(),
        read(segment, 0, 10).into(),
        c::GetStreamSegmentInfo {
            request_id,
            segment: name(),
            token: token(),
        }
        .into(),
        c::GetSegmentAttribute {
            request_id,
            segment: name(),
            attribute_id: AttributeId(1),
            token: token(),
        }
        .into(),
        c::UpdateSegmentAttribute {
            request_id,
            segment: name(),
            attribute_id: AttributeId(1),
            new_value: 1,
            expected_value: i64::MIN,
            token: token(),
        }
        .into(),
        c::LocateOffset {
            request_id,
            segment: name(),
            target_offset: 0,
            token: token(),
        }
        .into(),
        create(segment).into(),
        create(&transaction).into(),
        c::CreateTransientSegment {
            request_id,
            writer_id: WriterId(3),
            parent: name(),
            token: token(),
        }
        .into(),
        c::SealSegment {
            request_id,
            segment: name(),
            token: token(),
        }
        .into(),
        c::TruncateSegment {
            request_id,
            segment: name(),
            truncation_offset: 0,
            token: token(),
        }
        .into(),
        c::DeleteSegment {
            request_id,
            segment: name(),
            token: token(),
        }
        .into(),
        c::UpdateSegmentPolicy {
            request_id,
            segment: name(),
            target_rate: 1,
            scale_type: 1,
            token: token(),
        }
        .into(),
        c::MergeSegments {
            request_id,
            target: name(),
            source: transaction.clone(),
            token: token(),
            attribute_updates: Vec::new(),
        }
        .into(),
        c::MergeSegmentsBatch {
            request_id,
            target: name(),
            sources: vec![transaction.clone()],
            token: token(),
        }
        .into(),
        c::GetTableSegmentInfo {
            request_id,
            segment: name(),
            token: token(),
        }
        .into(),
        c::CreateTableSegment {
            request_id,
            segment: name(),
            token: token(),
            sorted: false,
            key_length: 0,
            rollover_size: 0,
        }
        .into(),
        c::DeleteTableSegment {
            request_id,
            segment: name(),
            must_be_empty: false,
            token: token(),
        }
        .into(),
        c::UpdateTableEntries {
            request_id,
            segment: name(),
            token: token(),
            entries: Vec::new(),
            expected_length: -1,
        }
        .into(),
        c::RemoveTableKeys {
            request_id,
            segment: name(),
            token: token(),
            keys: Vec::new(),
            expected_length: -1,
        }
        .into(),
        c::ReadTable {
            request_id,
            segment: name(),
            token: token(),
            keys: Vec::new(),
        }
        .into(),
        c::ReadTableKeys {
            request_id,
            segment: name(),
            token: token(),
            suggested_count: 1,
            args: args(),
        }
        .into(),
        c::ReadTableEntries {
            request_id,
            segment: name(),
            token: token(),
            suggested_count: 1,
            args: args(),
        }
        .into(),
        c::ReadTableEntriesDelta {
            request_id,
            segment: name(),
            token: token(),
            from_position: 0,
            suggested_count: 1,
        }
        .into(),
    ]
}

#[tokio::test]
async fn every_request_about_a_segment_elsewhere_is_answered_with_wrong_host() {
    let world = part().await;
    let mut peer = world.peer().await;
    peer.hello().await;
    let elsewhere = segment(false);
    for request in requests(&elsewhere) {
        let name = request.name();
        match peer.ask(request).await {
            Reply::WrongHost(reply) => {
                assert!(reply.segment.starts_with(&elsewhere), "{name}: {reply:?}");
                assert_eq!(reply.correct_host, "", "{name}");
            }
            reply => panic!("{name}: {reply:?}"),
        }
    }
    // The connection goes on, with what is here.
    let here = segment(true);
    peer.create(&here).await;
    assert_eq!(peer.set_up(&here, 1).await, i64::MIN);
    for request in requests(&here) {
        let name = request.name();
        let reply = peer.ask(request).await;
        assert_ne!(reply.name(), "WrongHost", "{name}");
    }
    world.stop().await.unwrap();
}

#[tokio::test]
async fn only_its_own_containers_are_opened() {
    let world = part().await;
    world.inspect().settled().await;
    let report = world.inspect().report();
    let ids: Vec<_> = report
        .containers
        .iter()
        .map(|container| container.id)
        .collect();
    assert_eq!((ids, report.total_containers), (vec![1, 2], 4));
    assert!(world.inspect().health().ready);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_store_keeps_its_part_over_restarts_and_takes_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let here = segment(true);
    let (running, stop) = start_on_disk_with(dir.path(), |config| {
        config.container_range = Some(owned());
    })
    .await
    .unwrap();
    Peer::connect(&running).await.create(&here).await;
    stop.cancel();
    running.join().await.unwrap();
    let other = start_on_disk_with(dir.path(), |config| {
        config.container_range = ContainerRange::new(0, 2);
    })
    .await;
    assert!(
        matches!(other, Err(Error::OtherContainers { .. })),
        "it started"
    );
    let (running, stop) = start_on_disk_with(dir.path(), |config| config.containers = None)
        .await
        .unwrap();
    let mut peer = Peer::connect(&running).await;
    assert!(peer.info(&here).await.exists);
    assert_eq!(peer.ask(create(&segment(false))).await.name(), "WrongHost");
    stop.cancel();
    running.join().await.unwrap();
}
