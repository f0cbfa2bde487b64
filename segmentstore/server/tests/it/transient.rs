//! Segments that go with their connection, and large events that are written through them.

use bytes::Bytes;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{
    ConditionalBlockEnd, CreateTransientSegment, GetStreamSegmentInfo, MergeSegments,
};
use sarit_segmentstore::start_on;
use sarit_wal::Wal;
use tokio_util::sync::CancellationToken;

use crate::world::{Peer, World, config, parts};

const TARGET: &str = "scope/stream/0.#epoch.0";
const PIECE: usize = 8 << 20;

async fn transient(peer: &mut Peer, writer: u128) -> String {
    let create = CreateTransientSegment {
        request_id: 8,
        writer_id: WriterId(writer),
        parent: TARGET.to_owned(),
        token: String::new(),
    };
    match peer.ask(create).await {
        Reply::SegmentCreated(created) => created.segment,
        reply => panic!("{reply:?}"),
    }
}

async fn exists(peer: &mut Peer, segment: &str) -> bool {
    let info = GetStreamSegmentInfo {
        request_id: 4,
        segment: segment.to_owned(),
        token: String::new(),
    };
    match peer.ask(info).await {
        Reply::StreamSegmentInfo(_) => true,
        Reply::NoSuchSegment(_) => false,
        reply => panic!("{reply:?}"),
    }
}

#[tokio::test]
async fn a_large_event_becomes_visible_at_once() {
    let world = World::start().await;
    let mut peer = world.peer().await;
    peer.create(TARGET).await;
    let name = transient(&mut peer, 7).await;
    assert!(name.starts_with(&format!("{TARGET}#transient.{:032x}.", 7)));
    assert_eq!(peer.set_up(&name, 7).await, i64::MIN);
    let event: Bytes = (0..PIECE + 1000).map(|at| (at % 251) as u8).collect();
    for (number, from) in [(0, 0), (1, PIECE)] {
        let data = event.slice(from..event.len().min(from + PIECE));
        let piece = ConditionalBlockEnd {
            writer_id: WriterId(7),
            event_number: number,
            expected_offset: from as i64,
            data,
            request_id: 70,
        };
        assert_eq!(peer.ask(piece).await.name(), "DataAppended");
        assert_eq!(peer.info(TARGET).await.write_offset, 0);
    }
    let merge = MergeSegments {
        request_id: 9,
        target: TARGET.to_owned(),
        source: name.clone(),
        token: String::new(),
        attribute_updates: Vec::new(),
    };
    let merged = peer.ask(merge).await;
    let length = event.len() as i64;
    assert!(
        matches!(&merged, Reply::SegmentsMerged(m) if m.new_target_write_offset == length),
        "{merged:?}"
    );
    assert!(!exists(&mut peer, &name).await);
    let mut read = Vec::new();
    while read.len() < event.len() {
        let more = peer.read(TARGET, read.len() as i64, 4 << 20).await;
        read.extend_from_slice(&more.data);
    }
    assert!(read == event, "the event came back changed");
}

#[tokio::test]
async fn a_transient_segment_goes_with_its_connection_and_no_other() {
    let world = World::start().await;
    let (mut first, mut second) = (world.peer().await, world.peer().await);
    first.create(TARGET).await;
    let (gone, kept) = (
        transient(&mut first, 1).await,
        transient(&mut second, 1).await,
    );
    assert_ne!(gone, kept);
    assert!(exists(&mut second, &gone).await);
    drop(first);
    while exists(&mut second, &gone).await {}
    assert!(exists(&mut second, &kept).await && exists(&mut second, TARGET).await);
}

#[tokio::test]
async fn a_connection_may_have_so_many_transient_segments_and_no_more() {
    let world = World::start().await;
    let mut peer = world.peer().await;
    peer.create(TARGET).await;
    for _ in 0..1000 {
        transient(&mut peer, 1).await;
    }
    let one_more = CreateTransientSegment {
        request_id: 8,
        writer_id: WriterId(1),
        parent: TARGET.to_owned(),
        token: String::new(),
    };
    assert_eq!(peer.ask(one_more).await.name(), "ErrorMessage");
}

#[tokio::test]
async fn transient_segments_of_a_store_that_crashed_are_gone_after_the_start() {
    let world = World::start().await;
    let mut peer = world.peer().await;
    peer.create(TARGET).await;
    let orphan = transient(&mut peer, 1).await;
    let World {
        running, memory, ..
    } = world;
    // Without a stop: connections and containers end where they are.
    drop(running);
    let dir = tempfile::tempdir().unwrap();
    let (wal, stop) = (Wal::memory(&memory), CancellationToken::new());
    let again = start_on(wal, config(dir.path()), parts(), stop)
        .await
        .unwrap();
    let mut peer = Peer::connect(&again).await;
    assert!(!exists(&mut peer, &orphan).await);
    assert!(exists(&mut peer, TARGET).await);
}
