use bytes::Bytes;
use sarit_proto::ids::NULL_ATTRIBUTE;
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};
use sarit_proto::wire::reply;

use super::*;
use crate::config::ConnectionConfig;
use crate::connection::testing::{Peers, PipeNet, endpoint};

const SEGMENT: &str = "s/t/0.#epoch.0";

fn calls() -> (Segments, Arc<PipeNet>, Peers) {
    let (net, peers) = PipeNet::new();
    let pool = net.pool(ConnectionConfig::default());
    let segments = Segments::new(pool, Arc::new(endpoint()), Retry::default(), Rng::seeded(1));
    (segments, net, peers)
}

fn id(command: &Option<Command>) -> i64 {
    match command {
        Some(Command::CreateSegment(c)) => c.request_id,
        Some(Command::SealSegment(c)) => c.request_id,
        Some(Command::TruncateSegment(c)) => c.request_id,
        Some(Command::DeleteSegment(c)) => c.request_id,
        Some(Command::UpdateSegmentAttribute(c)) => c.request_id,
        Some(Command::UpdateTableEntries(c)) => c.request_id,
        Some(Command::ReadTable(c)) => c.request_id,
        other => panic!("unexpected {other:?}"),
    }
}

/// Answers one request on one connection.
async fn answer(mut peers: Peers, reply: impl FnOnce(i64) -> Reply) -> Peers {
    let mut peer = peers.accept().await;
    let command = peer.recv().await;
    peer.send(reply(id(&command))).await;
    // The connection stays open until the caller is through.
    peer.recv().await;
    peers
}

#[tokio::test]
async fn what_is_done_already_counts_as_done() {
    let (segments, _net, peers) = calls();
    let exists = |request_id| {
        Reply::from(reply::SegmentAlreadyExists {
            request_id,
            segment: SEGMENT.to_owned(),
            stack_trace: String::new(),
        })
    };
    let made = tokio::select! {
        made = segments.create(SEGMENT, SegmentPolicy::default()) => made,
        _ = answer(peers, exists) => unreachable!("the peer waits"),
    };
    assert!(!made.expect("it is there"));

    let (segments, _net, peers) = calls();
    let sealed = |request_id| {
        Reply::from(reply::SegmentIsSealed {
            request_id,
            segment: SEGMENT.to_owned(),
            stack_trace: String::new(),
            offset: -1,
        })
    };
    tokio::select! {
        done = segments.seal(SEGMENT) => done.expect("it is sealed"),
        _ = answer(peers, sealed) => unreachable!("the peer waits"),
    }

    let (segments, _net, peers) = calls();
    let missing = |request_id| {
        Reply::from(reply::NoSuchSegment {
            request_id,
            segment: SEGMENT.to_owned(),
            stack_trace: String::new(),
            offset: -1,
        })
    };
    let was_there = tokio::select! {
        done = segments.delete(SEGMENT) => done.expect("it is gone"),
        _ = answer(peers, missing) => unreachable!("the peer waits"),
    };
    assert!(!was_there);
}

#[tokio::test]
async fn truncation_below_the_start_is_done_and_behind_the_end_is_refused() {
    for (given, fine) in [(5, true), (10, true), (99, false)] {
        let (segments, _net, peers) = calls();
        let outside = |request_id| {
            Reply::from(reply::SegmentIsTruncated {
                request_id,
                segment: SEGMENT.to_owned(),
                start_offset: 10,
                stack_trace: String::new(),
                offset: given as i64,
            })
        };
        let done = tokio::select! {
            done = segments.truncate(SEGMENT, Offset(given)) => done,
            _ = answer(peers, outside) => unreachable!("the peer waits"),
        };
        assert_eq!(done.is_ok(), fine, "to {given}: {done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_connections_and_refused_ones_are_tried_again() {
    let (segments, net, mut peers) = calls();
    net.refuse(3);
    let server = async {
        let mut peer = peers.accept().await;
        peer.recv().await;
        drop(peer);
        answer(peers, |request_id| {
            Reply::from(reply::SegmentSealed {
                request_id,
                segment: SEGMENT.to_owned(),
            })
        })
        .await
    };
    tokio::select! {
        done = segments.seal(SEGMENT) => done.expect("the second store answers"),
        _ = server => unreachable!("the peer waits"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_compare_and_set_is_not_repeated_once_it_may_have_arrived() {
    let (segments, net, mut peers) = calls();
    net.refuse(2);
    let change = AttributeChange {
        expected: NULL_ATTRIBUTE,
        new: 5,
    };
    let server = async {
        let mut peer = peers.accept().await;
        let command = peer.recv().await;
        assert!(matches!(command, Some(Command::UpdateSegmentAttribute(_))));
    };
    let (set, ()) = tokio::join!(
        segments.update_attribute(SEGMENT, AttributeId(9), change),
        server
    );
    assert!(matches!(set, Err(Error::OutcomeUnknown { .. })), "{set:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unconditional_table_update_is_repeated_and_a_conditional_one_is_not() {
    for (version, repeated) in [(TableKey::NO_VERSION, true), (TableKey::NOT_EXISTS, false)] {
        let (segments, _net, mut peers) = calls();
        let entry = TableEntry {
            key: TableKey {
                key: Bytes::from_static(b"k"),
                version,
            },
            value: TableValue(Bytes::from_static(b"v")),
        };
        let server = async {
            let mut peer = peers.accept().await;
            peer.recv().await;
            drop(peer);
            answer(peers, |request_id| {
                Reply::from(reply::TableEntriesUpdated {
                    request_id,
                    versions: vec![0],
                })
            })
            .await
        };
        let versions = tokio::select! {
            versions = segments.table_update(SEGMENT, vec![entry]) => versions,
            _ = server => unreachable!("the peer waits"),
        };
        assert_eq!(versions.is_ok(), repeated, "{versions:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unconditional_table_update_is_not_repeated_past_a_store_that_keeps_silent() {
    let (segments, _net, mut peers) = calls();
    let entry = TableEntry {
        key: TableKey {
            key: Bytes::from_static(b"k"),
            version: TableKey::NO_VERSION,
        },
        value: TableValue(Bytes::from_static(b"v")),
    };
    // It may be stopped with the update in its socket, and come upon it after the repeated one.
    let server = async {
        let mut peer = peers.accept().await;
        while peer.recv().await.is_some() {}
        answer(peers, |request_id| {
            Reply::from(reply::TableEntriesUpdated {
                request_id,
                versions: vec![0],
            })
        })
        .await
    };
    let outcome = tokio::select! {
        outcome = segments.table_update(SEGMENT, vec![entry]) => outcome,
        _ = server => unreachable!("the peer waits"),
    };
    assert!(
        matches!(outcome, Err(Error::OutcomeUnknown { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn absent_keys_are_told_from_empty_values() {
    let (segments, _net, peers) = calls();
    let entry = |key: &'static str, version| TableEntry {
        key: TableKey {
            key: Bytes::from_static(key.as_bytes()),
            version,
        },
        value: TableValue::default(),
    };
    let reply = |request_id| {
        Reply::from(reply::TableRead {
            request_id,
            segment: SEGMENT.to_owned(),
            entries: vec![entry("a", TableKey::NOT_EXISTS), entry("b", 0)],
        })
    };
    let keys = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let read = tokio::select! {
        read = segments.table_read(SEGMENT, keys) => read.expect("it is a table"),
        _ = answer(peers, reply) => unreachable!("the peer waits"),
    };
    assert_eq!(read, vec![None, Some(entry("b", 0))]);
}
