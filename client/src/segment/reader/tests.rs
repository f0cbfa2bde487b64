use sarit_proto::wire::{Command, reply};

use super::*;
use crate::config::ConnectionConfig;
use crate::connection::testing::{Peer, Peers, PipeNet, endpoint};

const SEGMENT: &str = "s/t/0.#epoch.0";

fn reader() -> (SegmentReader, Arc<PipeNet>, Peers) {
    let (net, peers) = PipeNet::new();
    let pool = net.pool(ConnectionConfig::default());
    let locate = Arc::new(endpoint());
    let reader = SegmentReader::new(pool, locate, Retry::default(), Rng::seeded(1), SEGMENT);
    (reader, net, peers)
}

async fn asked(peer: &mut Peer) -> command::ReadSegment {
    loop {
        match peer.recv().await {
            Some(Command::ReadSegment(read)) => return read,
            Some(Command::KeepAlive(_)) => peer.send(reply::KeepAlive {}).await,
            other => panic!("{other:?} instead of ReadSegment"),
        }
    }
}

fn read(asked: &command::ReadSegment, data: &'static [u8], end_of_segment: bool) -> Reply {
    reply::SegmentRead {
        segment: SEGMENT.to_owned(),
        offset: asked.offset,
        at_tail: false,
        end_of_segment,
        data: Bytes::from_static(data),
        request_id: asked.request_id,
    }
    .into()
}

#[tokio::test(start_paused = true)]
async fn a_read_at_the_tail_outlives_the_request_timeout_and_empty_answers() {
    let (reader, _net, mut peers) = reader();
    let server = async {
        let mut peer = peers.accept().await;
        let first = asked(&mut peer).await;
        // Longer than any request may wait.
        let parked = tokio::time::sleep(Duration::from_secs(100));
        tokio::pin!(parked);
        loop {
            tokio::select! {
                biased;
                () = &mut parked => break,
                command = peer.recv() => {
                    assert!(matches!(command, Some(Command::KeepAlive(_))), "{command:?}");
                    peer.send(reply::KeepAlive {}).await;
                }
            }
        }
        peer.send(read(&first, b"", false)).await;
        let second = asked(&mut peer).await;
        assert_eq!(second.offset, 7);
        peer.send(read(&second, b"x", false)).await;
        peer
    };
    let (chunk, _peer) = tokio::join!(reader.read(Offset(7), 100), server);
    assert_eq!(
        chunk.expect("it was written"),
        Chunk::Data(Bytes::from_static(b"x"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_read_on_over_another() {
    let (reader, net, mut peers) = reader();
    let server = async {
        let mut peer = peers.accept().await;
        asked(&mut peer).await;
        net.refuse(4);
        drop(peer);
        let mut peer = peers.accept().await;
        let again = asked(&mut peer).await;
        peer.send(read(&again, b"x", true)).await;
        peer
    };
    let (chunk, _peer) = tokio::join!(reader.read(Offset(0), 100), server);
    assert_eq!(
        chunk.expect("it is back"),
        Chunk::Data(Bytes::from_static(b"x"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_that_waits_for_days_outlives_any_number_of_restarts() {
    let (reader, _net, mut peers) = reader();
    let server = async {
        for _ in 0..10 {
            let mut peer = peers.accept().await;
            asked(&mut peer).await;
            let day = tokio::time::sleep(Duration::from_secs(20 * 60));
            tokio::pin!(day);
            loop {
                tokio::select! {
                    biased;
                    () = &mut day => break,
                    _ = peer.recv() => peer.send(reply::KeepAlive {}).await,
                }
            }
        }
        let mut peer = peers.accept().await;
        let last = asked(&mut peer).await;
        peer.send(read(&last, b"x", false)).await;
        std::future::pending::<()>().await;
    };
    let chunk = tokio::select! {
        chunk = reader.read(Offset(0), 100) => chunk,
        () = server => unreachable!("it serves for ever"),
    };
    assert_eq!(
        chunk.expect("it was written"),
        Chunk::Data(Bytes::from_static(b"x"))
    );
}

#[tokio::test]
async fn the_end_truncation_and_absence_are_told_apart() {
    let (reader, _net, mut peers) = reader();
    let server = async {
        let mut peer = peers.accept().await;
        let first = asked(&mut peer).await;
        peer.send(read(&first, b"", true)).await;
        let second = asked(&mut peer).await;
        peer.send(reply::SegmentIsSealed {
            request_id: second.request_id,
            segment: SEGMENT.to_owned(),
            stack_trace: String::new(),
            offset: second.offset,
        })
        .await;
        let third = asked(&mut peer).await;
        peer.send(reply::SegmentIsTruncated {
            request_id: third.request_id,
            segment: SEGMENT.to_owned(),
            start_offset: 50,
            stack_trace: String::new(),
            offset: third.offset,
        })
        .await;
        let fourth = asked(&mut peer).await;
        peer.send(reply::NoSuchSegment {
            request_id: fourth.request_id,
            segment: SEGMENT.to_owned(),
            stack_trace: String::new(),
            offset: fourth.offset,
        })
        .await;
        peer
    };
    let reads = async {
        let mut chunks = Vec::new();
        for _ in 0..4 {
            chunks.push(reader.read(Offset(9), 100).await.expect("an answer"));
        }
        chunks
    };
    let (chunks, _peer) = tokio::join!(reads, server);
    let truncated = Chunk::Truncated { start: Offset(50) };
    assert_eq!(chunks, [Chunk::End, Chunk::End, truncated, Chunk::Gone]);
}

#[tokio::test]
async fn no_more_than_asked_for_is_returned() {
    let (reader, _net, mut peers) = reader();
    let server = async {
        let mut peer = peers.accept().await;
        let first = asked(&mut peer).await;
        assert_eq!(first.suggested_length, 3);
        peer.send(read(&first, b"12345678", false)).await;
        peer
    };
    let (chunk, _peer) = tokio::join!(reader.read(Offset(0), 3), server);
    assert_eq!(
        chunk.expect("bytes"),
        Chunk::Data(Bytes::from_static(b"123"))
    );
}

#[tokio::test]
async fn an_answer_for_another_offset_is_refused() {
    let (reader, _net, mut peers) = reader();
    let server = async {
        let mut peer = peers.accept().await;
        let mut first = asked(&mut peer).await;
        first.offset = 8;
        peer.send(read(&first, b"x", false)).await;
        let mut second = asked(&mut peer).await;
        second.offset = 0;
        peer.send(reply::SegmentIsTruncated {
            request_id: second.request_id,
            segment: SEGMENT.to_owned(),
            start_offset: 0,
            stack_trace: String::new(),
            offset: 0,
        })
        .await;
        peer
    };
    let reads = async {
        (
            reader.read(Offset(0), 3).await,
            reader.read(Offset(0), 3).await,
        )
    };
    let ((other, truncated), _peer) = tokio::join!(reads, server);
    assert!(matches!(other, Err(Error::Protocol { .. })), "{other:?}");
    assert!(
        matches!(truncated, Err(Error::Protocol { .. })),
        "{truncated:?}"
    );
}
