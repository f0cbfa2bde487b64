use bytes::Bytes;
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};
use sarit_proto::wire::reply;

use super::testing::{Peer, Peers, PipeNet, endpoint};
use super::*;

fn seal(request_id: i64) -> Command {
    command::SealSegment {
        request_id,
        segment: "s/t/0".to_owned(),
        token: String::new(),
    }
    .into()
}

async fn request_id(peer: &mut Peer) -> i64 {
    match peer.recv().await {
        Some(Command::SealSegment(seal)) => seal.request_id,
        other => panic!("{other:?} instead of SealSegment"),
    }
}

fn sealed(request_id: i64) -> reply::SegmentSealed {
    reply::SegmentSealed {
        request_id,
        segment: "s/t/0".to_owned(),
    }
}

async fn connected(config: ConnectionConfig) -> (Pool, Peers, Connection, Peer) {
    let (net, mut peers) = PipeNet::new();
    let pool = net.pool(config);
    let address = endpoint();
    let (connection, peer) = tokio::join!(pool.get(&address), peers.accept());
    (pool, peers, connection.expect("it connects"), peer)
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let (_pool, _peers, connection, mut peer) = connected(ConnectionConfig::default()).await;
    let server = async {
        let first = request_id(&mut peer).await;
        let second = request_id(&mut peer).await;
        peer.send(sealed(second)).await;
        peer.send(sealed(first)).await;
        peer
    };
    let (a, b, _peer) = tokio::join!(connection.call(seal), connection.call(seal), server);
    let id = |answer: Result<Result<Reply, Error>, Unsent>| match answer {
        Ok(Ok(Reply::SegmentSealed(reply))) => reply.request_id,
        other => panic!("{other:?}"),
    };
    assert!(id(a) < id(b), "each caller got its own reply");
}

#[tokio::test]
async fn a_lost_connection_fails_everything_that_waits_and_all_that_comes() {
    let (_pool, _peers, connection, mut peer) = connected(ConnectionConfig::default()).await;
    let (replies, mut inbox) = mpsc::unbounded_channel();
    let _link = connection.attach(7, replies).expect("it is open");
    let server = async {
        request_id(&mut peer).await;
        drop(peer);
    };
    let (answer, ()) = tokio::join!(connection.call(seal), server);
    let error = answer.expect("it was sent").expect_err("nobody answered");
    assert!(matches!(error, Error::Disconnected { .. }) && error.is_retryable());
    let told = inbox.recv().await.expect("writers are told");
    assert_eq!(told.tag, 7);
    assert!(matches!(told.reply, Err(Error::Disconnected { .. })));
    assert!(connection.is_closed());
    assert!(
        connection.call(seal).await.is_err(),
        "nothing is sent any more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_a_sign_of_life_is_given_up() {
    let (_pool, _peers, connection, mut peer) = connected(ConnectionConfig {
        request_timeout_ms: 3_600_000,
        ..ConnectionConfig::default()
    })
    .await;
    let start = tokio::time::Instant::now();
    let answer = connection.call(seal).await.expect("it was sent");
    assert!(matches!(answer, Err(Error::Timeout { .. })), "{answer:?}");
    assert_eq!(start.elapsed().as_secs(), 30);
    request_id(&mut peer).await;
    assert!(matches!(peer.recv().await, Some(Command::KeepAlive(_))));
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_that_echoes_is_kept() {
    let (_pool, _peers, connection, mut peer) = connected(ConnectionConfig::default()).await;
    for _ in 0..10 {
        assert!(matches!(peer.recv().await, Some(Command::KeepAlive(_))));
        peer.send(reply::KeepAlive {}).await;
    }
    assert!(!connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_request_without_reply_times_out() {
    let (_pool, _peers, connection, peer) = connected(ConnectionConfig {
        request_timeout_ms: 5_000,
        ..ConnectionConfig::default()
    })
    .await;
    let answer = connection.call(seal).await.expect("it was sent");
    assert!(matches!(
        answer,
        Err(Error::Timeout {
            after_ms: 5_000,
            ..
        })
    ));
    assert_eq!(connection.load(), 0, "nothing waits any more");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_silent_handshake_times_out_once_for_all_callers() {
    let (net, mut peers) = PipeNet::new();
    let pool = net.pool(ConnectionConfig::default());
    let start = tokio::time::Instant::now();
    let address = endpoint();
    let (a, b, c, peer) = tokio::join!(
        pool.get(&address),
        pool.get(&address),
        pool.get(&address),
        peers.silent()
    );
    for failed in [a, b, c] {
        assert!(matches!(
            failed,
            Err(Error::Timeout {
                what: "connect",
                ..
            })
        ));
    }
    assert_eq!(start.elapsed().as_secs(), 5);
    drop(peer);
}

#[tokio::test]
async fn a_peer_of_another_time_is_refused() {
    let (net, mut peers) = PipeNet::new();
    let pool = net.pool(ConnectionConfig::default());
    let server = async {
        let mut peer = peers.silent().await;
        peer.recv().await;
        let hello = reply::Hello {
            high_version: 99,
            low_version: 98,
        };
        peer.send(hello).await;
        peer
    };
    let address = endpoint();
    let (answer, _peer) = tokio::join!(pool.get(&address), server);
    let error = answer.expect_err("nothing in common");
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    assert!(error.to_string().contains("98"), "{error}");
}

#[tokio::test]
async fn the_pool_shares_a_busy_connection_only_when_its_places_are_taken() {
    let (pool, mut peers, first, _peer) = connected(ConnectionConfig {
        per_store_max: 2,
        ..ConnectionConfig::default()
    })
    .await;
    let address = endpoint();
    let same = pool.get(&address).await.expect("it is open");
    assert!(
        Arc::ptr_eq(&first.shared, &same.shared),
        "an idle one is reused"
    );
    let (replies, _inbox) = mpsc::unbounded_channel();
    let _busy = first.attach(0, replies.clone()).expect("it is open");
    let (second, _peer2) = tokio::join!(pool.get(&address), peers.accept());
    let second = second.expect("there is a second place");
    assert!(!Arc::ptr_eq(&first.shared, &second.shared));
    let _busier = second.attach(0, replies.clone()).expect("it is open");
    let _busiest = second.attach(0, replies).expect("it is open");
    let third = pool.get(&address).await.expect("one is shared");
    assert!(
        Arc::ptr_eq(&first.shared, &third.shared),
        "the least loaded"
    );
}

#[tokio::test]
async fn an_open_connection_is_shared_where_no_further_one_is_to_be_had() {
    let (net, mut peers) = PipeNet::new();
    let pool = net.pool(ConnectionConfig::default());
    let address = endpoint();
    let (first, _peer) = tokio::join!(pool.get(&address), peers.accept());
    let first = first.expect("it connects");
    let (replies, _inbox) = mpsc::unbounded_channel();
    let _busy = first.attach(0, replies).expect("it is open");
    net.refuse(u32::MAX);
    let second = pool.get(&address).await.expect("one is open");
    assert!(Arc::ptr_eq(&first.shared, &second.shared));
    first.close();
    while !first.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        pool.get(&address).await,
        Err(Error::Connect { .. })
    ));
}

#[tokio::test]
async fn a_request_that_no_frame_can_carry_is_not_sent() {
    let (_pool, _peers, connection, mut peer) = connected(ConnectionConfig::default()).await;
    let sent = connection.call(|request_id| {
        let entry = TableEntry {
            key: TableKey {
                key: Bytes::from_static(b"k"),
                version: TableKey::NO_VERSION,
            },
            value: TableValue(Bytes::from(vec![0; 17 << 20])),
        };
        command::UpdateTableEntries {
            request_id,
            segment: "s/t/0".to_owned(),
            token: String::new(),
            entries: vec![entry],
            expected_length: -1,
        }
        .into()
    });
    let refused = sent.await;
    assert!(matches!(refused, Err(Unsent(Error::Refused { .. }))));
    assert_eq!(connection.load(), 0);
    let server = async {
        let id = request_id(&mut peer).await;
        peer.send(sealed(id)).await;
        peer
    };
    let (answer, _peer) = tokio::join!(connection.call(seal), server);
    assert!(matches!(answer, Ok(Ok(Reply::SegmentSealed(_)))));
}

#[tokio::test]
async fn the_connection_ends_with_its_last_handle() {
    let (pool, _peers, connection, mut peer) = connected(ConnectionConfig::default()).await;
    drop(connection);
    drop(pool);
    assert!(peer.recv().await.is_none(), "the near end has closed");
}

#[test]
fn addresses_are_read_with_and_without_scheme() {
    let parsed = |text| Endpoint::parse(text).map(|e| e.to_string()).ok();
    assert_eq!(
        parsed("tcp://127.0.0.1:9090"),
        Some("127.0.0.1:9090".to_owned())
    );
    assert_eq!(parsed("host:1"), Some("host:1".to_owned()));
    for wrong in [
        "host",
        "host:",
        "host:70000",
        ":1",
        "http://h:1",
        "a b:1",
        "tcp://",
    ] {
        assert_eq!(parsed(wrong), None, "{wrong}");
    }
}
