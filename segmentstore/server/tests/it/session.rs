//! What one peer can do on one connection, beyond what the recordings show.

use std::time::Duration;

use bytes::Bytes;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::command::{
    AppendBlock, ConditionalBlockEnd, CreateTableSegment, Hello, KeepAlive, LocateOffset,
    TruncateSegment,
};
use sarit_proto::wire::field::Rest;
use sarit_proto::wire::{Command, Encoder, Reply};

use crate::world::{Peer, World, append, create, read, set_up};

const SEGMENT: &str = "scope/stream/0.#epoch.0";

/// A store with one segment, and a peer on it.
async fn world() -> (World, Peer) {
    let world = World::start().await;
    let mut peer = world.peer().await;
    peer.hello().await;
    peer.create(SEGMENT).await;
    (world, peer)
}

fn frames(commands: impl IntoIterator<Item = Command>) -> Bytes {
    let mut out = Encoder::default();
    for command in commands {
        command.encode(&mut out);
    }
    out.take()
}

/// Receives until the writer's event is acknowledged; checks the chain of numbers on the way.
async fn acknowledged(peer: &mut Peer, writer: u128, number: i64) -> Vec<i64> {
    let mut numbers: Vec<i64> = Vec::new();
    while numbers.last() != Some(&number) {
        let reply = peer.reply().await;
        let Reply::DataAppended(ack) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(ack.writer_id, WriterId(writer));
        if let Some(before) = numbers.last() {
            assert_eq!(ack.previous_event_number, *before);
        }
        numbers.push(ack.event_number);
    }
    numbers
}

#[tokio::test]
async fn a_hello_is_answered_once_and_nothing_is_said_before() {
    let world = World::start().await;
    let mut peer = world.peer().await;
    for _ in 0..2 {
        let hello = peer
            .ask(Hello {
                high_version: 17,
                low_version: 5,
            })
            .await;
        let Reply::Hello(hello) = hello else {
            panic!("{hello:?}");
        };
        assert_eq!((hello.high_version, hello.low_version), (17, 5));
    }
    peer.echo().await;
    assert!(peer.pending.is_empty());
}

#[tokio::test]
async fn a_peer_without_a_version_in_common_is_told_and_then_left() {
    let world = World::start().await;
    for (high_version, low_version) in [(4, 1), (30, 18)] {
        let mut peer = world.peer().await;
        peer.send_bytes(&frames([
            Hello {
                high_version,
                low_version,
            }
            .into(),
            KeepAlive {}.into(),
        ]))
        .await;
        assert_eq!(peer.reply().await.name(), "Hello");
        peer.assert_closed().await;
    }
}

#[tokio::test]
async fn appends_sent_together_with_their_set_up_are_stored_and_acknowledged() {
    let (_world, mut peer) = world().await;
    let appends = (1..=200).map(|number| append(7, number, b"event").into());
    let setup: Command = set_up(SEGMENT, 7).into();
    peer.send_bytes(&frames([setup].into_iter().chain(appends)))
        .await;
    assert_eq!(peer.reply().await.name(), "AppendSetup");
    acknowledged(&mut peer, 7, 200).await;
    assert_eq!(peer.info(SEGMENT).await.write_offset, 1_000);
    assert_eq!(peer.set_up(SEGMENT, 7).await, 200);
}

#[tokio::test]
async fn writers_take_turns_on_one_connection() {
    let (_world, mut peer) = world().await;
    peer.create("scope/stream/1.#epoch.0").await;
    peer.set_up(SEGMENT, 1).await;
    peer.set_up("scope/stream/1.#epoch.0", 2).await;
    let turns = (1..=50).flat_map(|number| {
        [
            append(1, number, b"one").into(),
            append(2, number, b"three").into(),
        ]
    });
    peer.send_bytes(&frames(turns)).await;
    let mut last = [0; 2];
    while last != [50, 50] {
        let reply = peer.reply().await;
        let Reply::DataAppended(ack) = reply else {
            panic!("{reply:?}");
        };
        let last = &mut last[usize::from(ack.writer_id == WriterId(2))];
        assert!(ack.event_number > *last);
        *last = ack.event_number;
    }
    assert_eq!(peer.info(SEGMENT).await.write_offset, 150);
    assert_eq!(peer.info("scope/stream/1.#epoch.0").await.write_offset, 250);
}

#[tokio::test]
async fn requests_between_a_block_and_its_end_are_served() {
    let (_world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    let block = AppendBlock {
        writer_id: WriterId(7),
        data: Rest(Bytes::from_static(b"whole\xff\xff\xff\xff\0\0\0\x02\0\0")),
    };
    peer.send(block).await;
    peer.echo().await;
    assert_eq!(peer.info(SEGMENT).await.write_offset, 0);
    let mut end = append(7, 1, b"");
    end.size_of_whole_events = 5;
    peer.send(end).await;
    acknowledged(&mut peer, 7, 1).await;
    assert_eq!(&peer.read(SEGMENT, 0, 100).await.data[..], b"whole");
}

#[tokio::test]
async fn an_append_without_set_up_ends_the_connection_and_no_other() {
    let (world, mut peer) = world().await;
    let mut other = world.peer().await;
    other.hello().await;
    peer.send(append(9, 1, b"x")).await;
    peer.assert_closed().await;
    other.echo().await;
}

#[tokio::test]
async fn an_event_number_that_goes_back_is_answered_and_ends_the_connection() {
    let (world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    peer.send(append(7, 5, b"x")).await;
    acknowledged(&mut peer, 7, 5).await;
    let reply = peer.ask(append(7, 4, b"y")).await;
    assert!(
        matches!(&reply, Reply::InvalidEventNumber(r) if r.event_number == 4),
        "{reply:?}"
    );
    peer.assert_closed().await;
    let mut again = world.peer().await;
    assert_eq!(again.set_up(SEGMENT, 7).await, 5);
}

#[tokio::test]
async fn a_resent_event_is_stored_once_and_acknowledged_again() {
    let (world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    peer.send(append(7, 5, b"x")).await;
    acknowledged(&mut peer, 7, 5).await;
    let mut again = world.peer().await;
    again.set_up(SEGMENT, 7).await;
    again.send(append(7, 5, b"x")).await;
    acknowledged(&mut again, 7, 5).await;
    assert_eq!(again.info(SEGMENT).await.write_offset, 1);
}

#[tokio::test]
async fn appends_to_a_sealed_segment_are_refused_with_their_event_number() {
    let (_world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    peer.seal(SEGMENT).await;
    let two = [append(7, 1, b"x").into(), append(7, 2, b"y").into()];
    peer.send_bytes(&frames(two)).await;
    let reply = peer.reply().await;
    let Reply::SegmentIsSealed(sealed) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(
        (sealed.request_id, sealed.offset, &*sealed.segment),
        (1_001, 1, SEGMENT)
    );
    // The set-up is answered all the same: that is how a writer learns what it has to resend.
    let setup = loop {
        match peer.ask(set_up(SEGMENT, 7)).await {
            Reply::SegmentIsSealed(_) => {}
            reply => break reply,
        }
    };
    assert_eq!(setup.name(), "AppendSetup");
}

#[tokio::test]
async fn a_failed_condition_leaves_the_writer_usable() {
    let (_world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    let conditional = |event_number, expected_offset| ConditionalBlockEnd {
        writer_id: WriterId(7),
        event_number,
        expected_offset,
        data: Bytes::from_static(b"raw"),
        request_id: 70 + event_number,
    };
    let failed = peer.ask(conditional(1, 3)).await;
    assert!(
        matches!(&failed, Reply::ConditionalCheckFailed(r) if r.request_id == 71),
        "{failed:?}"
    );
    let failed = peer.ask(conditional(2, -1)).await;
    assert_eq!(failed.name(), "ConditionalCheckFailed");
    let stored = peer.ask(conditional(1, 0)).await;
    let Reply::DataAppended(stored) = stored else {
        panic!("{stored:?}");
    };
    assert_eq!(stored.previous_event_number, i64::MIN);
    assert_eq!(stored.current_segment_write_offset, 3);
}

#[tokio::test]
async fn reads_give_no_more_than_asked_for() {
    let (_world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    peer.send(append(7, 1, b"0123456789")).await;
    acknowledged(&mut peer, 7, 1).await;
    assert_eq!(&peer.read(SEGMENT, 2, 3).await.data[..], b"234");
    assert_eq!(peer.read(SEGMENT, 0, 0).await.data.len(), 8);
    assert_eq!(peer.read(SEGMENT, 0, -1).await.data.len(), 8);
    let all = peer.read(SEGMENT, 0, i32::MAX).await;
    assert!(all.data.len() == 10 && all.at_tail, "{all:?}");
}

#[tokio::test]
async fn a_read_at_the_tail_waits_while_everything_else_goes_on() {
    let (_world, mut peer) = world().await;
    for _ in 0..100 {
        peer.send(read(SEGMENT, 0, 100)).await;
    }
    peer.echo().await;
    peer.set_up(SEGMENT, 7).await;
    peer.send(append(7, 1, b"now")).await;
    let mut names: Vec<_> = Vec::new();
    for _ in 0..101 {
        names.push(peer.reply().await.name());
    }
    assert_eq!(
        names.iter().filter(|name| **name == "SegmentRead").count(),
        100
    );
    assert!(names.contains(&"DataAppended"));
}

#[tokio::test]
async fn a_read_that_waited_in_vain_is_answered_empty() {
    let world = World::start_with(|config| config.limits.read_wait_seconds = 0).await;
    let mut peer = world.peer().await;
    peer.create(SEGMENT).await;
    let read = peer.read(SEGMENT, 0, 100).await;
    assert!(read.data.is_empty() && read.at_tail && !read.end_of_segment);
}

#[tokio::test]
async fn a_vanished_peer_leaves_no_waiting_read_behind() {
    let (world, mut peer) = world().await;
    let mut reader = world.peer().await;
    reader.send(read(SEGMENT, 0, 100)).await;
    reader.echo().await;
    let waiting = || {
        let report = world.inspect().report();
        report
            .containers
            .iter()
            .map(|c| c.waiting_reads)
            .sum::<u64>()
    };
    while waiting() == 0 {
        peer.echo().await;
    }
    drop(reader);
    while waiting() > 0 {
        peer.echo().await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_reply() {
    let (_world, mut peer) = world().await;
    let token = String::new;
    let truncate = |truncation_offset| TruncateSegment {
        request_id: 8,
        segment: SEGMENT.to_owned(),
        truncation_offset,
        token: token(),
    };
    let table = CreateTableSegment {
        request_id: 8,
        segment: "scope/t_kvtable/0.#epoch.0".to_owned(),
        token: token(),
        sorted: false,
        key_length: 300,
        rollover_size: 0,
    };
    let refused: Vec<Command> = vec![
        read(SEGMENT, -1, 10).into(),
        truncate(-1).into(),
        create("scope/../../etc/passwd").into(),
        create("").into(),
        create(&"x".repeat(5_000)).into(),
        set_up("a\0b", 7).into(),
        table.into(),
    ];
    for command in refused {
        let name = command.name();
        let reply = peer.ask(command).await;
        assert!(
            matches!(&reply, Reply::ErrorMessage(e) if e.error_code == 0),
            "{name}: {reply:?}"
        );
    }
    let reply = peer.ask(truncate(1)).await;
    assert!(matches!(&reply, Reply::SegmentIsTruncated(_)), "{reply:?}");
    peer.echo().await;
}

#[tokio::test]
async fn an_offset_is_located_at_the_end_of_an_append() {
    let (_world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    for number in 1..=3 {
        peer.send(append(7, number, &vec![7; 1_500_000])).await;
        acknowledged(&mut peer, 7, number).await;
    }
    let locate = |target_offset| LocateOffset {
        request_id: 8,
        segment: SEGMENT.to_owned(),
        target_offset,
        token: String::new(),
    };
    for (target, found) in [
        (0, 1_500_000),
        (1_500_001, 3_000_000),
        (9_000_000, 4_500_000),
    ] {
        let reply = peer.ask(locate(target)).await;
        assert!(
            matches!(&reply, Reply::OffsetLocated(r) if (r.request_id, r.offset) == (8, found)),
            "{target}: {reply:?}"
        );
    }
    let truncate = TruncateSegment {
        request_id: 9,
        segment: SEGMENT.to_owned(),
        truncation_offset: 1_500_000,
        token: String::new(),
    };
    assert_eq!(peer.ask(truncate).await.name(), "SegmentTruncated");
    let below = peer.ask(locate(1_499_999)).await;
    assert!(
        matches!(&below, Reply::SegmentTruncated(r) if r.request_id == 8),
        "{below:?}"
    );
    let reply = peer.ask(locate(1_500_000)).await;
    assert!(
        matches!(&reply, Reply::OffsetLocated(r) if r.offset == 3_000_000),
        "{reply:?}"
    );
    assert_eq!(peer.ask(locate(-1)).await.name(), "ErrorMessage");
}

#[tokio::test]
async fn the_largest_frame_is_stored_and_one_byte_more_ends_the_connection() {
    let (world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    let largest = 0x00FF_FFFF - 8 - 44;
    peer.send(append(7, 1, &vec![7; largest])).await;
    acknowledged(&mut peer, 7, 1).await;
    assert_eq!(peer.info(SEGMENT).await.write_offset, largest as i64);
    let mut too_large = frames([append(7, 2, b"").into()]).to_vec();
    too_large[4..8].copy_from_slice(&(0x00FF_FFFF_i32 - 7).to_be_bytes());
    peer.send_bytes(&too_large).await;
    peer.assert_closed().await;
    world.peer().await.hello().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_replies_is_not_read_from() {
    let (world, mut peer) = world().await;
    peer.set_up(SEGMENT, 7).await;
    peer.send(append(7, 1, &vec![7; 2 << 20])).await;
    acknowledged(&mut peer, 7, 1).await;
    // Asks for 8 GiB of replies without taking one.
    let reads = frames((0..4096).map(|_| read(SEGMENT, 0, 2 << 20).into()));
    let mut deaf = world.peer().await;
    for _ in 0..10_000 {
        let sent = tokio::time::timeout(Duration::from_millis(200), deaf.try_send_bytes(&reads));
        if sent.await.is_err() {
            // The store stopped reading; others go on.
            peer.echo().await;
            return;
        }
    }
    panic!("the store reads on without a limit");
}
