//! Transactions' segments: merged by one command, or by one for many.

use sarit_proto::ids::AttributeId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{
    GetSegmentAttribute, GetStreamSegmentInfo, MergeSegments, MergeSegmentsBatch, TruncateSegment,
};
use sarit_proto::wire::field::{AttributeUpdate, MergedSource};

use crate::world::{Peer, World, append};

const TARGET: &str = "scope/stream/0.#epoch.0";

fn transaction(number: u32) -> String {
    format!("{TARGET}#transaction.{number:032x}")
}

fn merge(target: &str, source: &str, attribute_updates: Vec<AttributeUpdate>) -> MergeSegments {
    MergeSegments {
        request_id: 9,
        target: target.to_owned(),
        source: source.to_owned(),
        token: String::new(),
        attribute_updates,
    }
}

fn batch(target: &str, sources: &[String]) -> MergeSegmentsBatch {
    MergeSegmentsBatch {
        request_id: 10,
        target: target.to_owned(),
        sources: sources.to_vec(),
        token: String::new(),
    }
}

/// A store with a target of 3 bytes and transactions of 5, numbered from 1.
async fn world(transactions: u32) -> (World, Peer) {
    let world = World::start().await;
    let mut peer = world.peer().await;
    for number in 0..=transactions {
        let (name, data) = match number {
            0 => (TARGET.to_owned(), &b"old"[..]),
            _ => (transaction(number), &b"event"[..]),
        };
        peer.create(&name).await;
        peer.set_up(&name, u128::from(number)).await;
        peer.send(append(u128::from(number), 1, data)).await;
        assert_eq!(peer.reply().await.name(), "DataAppended");
    }
    (world, peer)
}

async fn merged_to(peer: &mut Peer, command: MergeSegments) -> i64 {
    match peer.ask(command).await {
        Reply::SegmentsMerged(merged) => merged.new_target_write_offset,
        reply => panic!("{reply:?}"),
    }
}

#[tokio::test]
async fn a_merge_moves_everything_at_once_and_can_be_repeated() {
    let (_world, mut peer) = world(1).await;
    let source = transaction(1);
    assert_eq!(
        merged_to(&mut peer, merge(TARGET, &source, vec![])).await,
        8
    );
    let read = peer.read(TARGET, 0, 100).await;
    assert_eq!(&read.data[..], b"oldevent");
    let info = GetStreamSegmentInfo {
        request_id: 4,
        segment: source.clone(),
        token: String::new(),
    };
    assert_eq!(peer.ask(info).await.name(), "NoSuchSegment");
    // Nobody heard the answer; meanwhile the target was written to, and sealed.
    peer.set_up(TARGET, 77).await;
    peer.send(append(77, 1, b"!")).await;
    assert_eq!(peer.reply().await.name(), "DataAppended");
    peer.seal(TARGET).await;
    assert_eq!(
        merged_to(&mut peer, merge(TARGET, &source, vec![])).await,
        9
    );
    let Reply::SegmentsBatchMerged(again) = peer.ask(batch(TARGET, &[source])).await else {
        panic!("a repeated batch is answered as before");
    };
    assert_eq!(again.merged[0].target_length, 9);
}

#[tokio::test]
async fn a_batch_merges_in_order_and_takes_a_missing_source_for_merged() {
    let (_world, mut peer) = world(2).await;
    let sources = [
        transaction(2),
        transaction(66),
        transaction(1),
        transaction(2),
    ];
    let Reply::SegmentsBatchMerged(reply) = peer.ask(batch(TARGET, &sources)).await else {
        panic!("merged");
    };
    assert_eq!((reply.request_id, &*reply.target), (10, TARGET));
    let expected = sources.iter().zip([8, 8, 13, 13]);
    let expected = expected.map(|(source, target_length)| MergedSource {
        source: source.clone(),
        target_length,
    });
    assert_eq!(reply.merged, expected.collect::<Vec<_>>());
    let events = GetSegmentAttribute {
        request_id: 3,
        segment: TARGET.to_owned(),
        attribute_id: AttributeId::EVENT_COUNT,
        token: String::new(),
    };
    let events = peer.ask(events).await;
    assert!(
        matches!(&events, Reply::SegmentAttribute(a) if a.value == 3),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_refused_merge_changes_nothing() {
    let (_world, mut peer) = world(2).await;
    let (first, second) = (transaction(1), transaction(2));
    let truncate = TruncateSegment {
        request_id: 5,
        segment: second.clone(),
        truncation_offset: 2,
        token: String::new(),
    };
    assert_eq!(peer.ask(truncate).await.name(), "SegmentTruncated");
    let update = |update_type| AttributeUpdate {
        attribute_id: AttributeId(7),
        update_type,
        new_value: 1,
        old_value: 5,
    };
    let elsewhere = "scope/stream/1.#epoch.0".to_owned();
    let refusals = [
        (
            peer.ask(merge(TARGET, &second, vec![])).await,
            "ErrorMessage",
        ),
        (
            peer.ask(batch(TARGET, &[first.clone(), second])).await,
            "ErrorMessage",
        ),
        (
            peer.ask(batch(TARGET, &[first.clone(), elsewhere])).await,
            "ErrorMessage",
        ),
        (
            peer.ask(batch(TARGET, &[TARGET.to_owned()])).await,
            "ErrorMessage",
        ),
        (
            peer.ask(merge(TARGET, &first, vec![update(3)])).await,
            "ErrorMessage",
        ),
        (
            peer.ask(merge(TARGET, &first, vec![update(4)])).await,
            "SegmentAttributeUpdated",
        ),
        (
            peer.ask(merge(TARGET, &transaction(9), vec![])).await,
            "NoSuchSegment",
        ),
    ];
    for (reply, name) in refusals {
        assert_eq!(reply.name(), name, "{reply:?}");
    }
    assert_eq!(peer.info(TARGET).await.write_offset, 3);
    assert_eq!(peer.info(&first).await.write_offset, 5);
    assert_eq!(
        merged_to(&mut peer, merge(TARGET, &first, vec![update(1)])).await,
        8
    );
}
