//! From start to stop: the data directory, readiness, draining.

use std::path::Path;

use sarit_proto::wire::Reply;
use sarit_segmentstore::{Config, Error, start};
use sarit_wal::memory::MemoryFaults;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::world::{PATIENCE, Peer, World, append, config, parts, read, set_up, start_on_disk};

const SEGMENT: &str = "scope/stream/0.#epoch.0";

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3_i64 {
        let (running, stop) = start_on_disk(dir.path()).await.unwrap();
        let mut peer = Peer::connect(&running).await;
        if round == 0 {
            peer.create(SEGMENT).await;
        }
        let last = peer.set_up(SEGMENT, 7).await;
        assert_eq!(last, if round == 0 { i64::MIN } else { round });
        peer.send(append(7, round + 1, b"event")).await;
        assert_eq!(peer.reply().await.name(), "DataAppended");
        assert_eq!(peer.info(SEGMENT).await.write_offset, 5 * (round + 1));
        stop.cancel();
        running.join().await.unwrap();
    }
}

#[tokio::test]
async fn a_second_store_on_the_same_directory_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (running, stop) = start_on_disk(dir.path()).await.unwrap();
    let Err(error) = start_on_disk(dir.path()).await else {
        panic!("two stores share a directory");
    };
    assert!(
        matches!(&error, Error::Locked { dir: named } if named == dir.path()),
        "{error}"
    );
    stop.cancel();
    running.join().await.unwrap();
    start_on_disk(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_wildcard_address_without_an_advertised_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listen = ([0, 0, 0, 0], 0).into();
    let config = Config {
        listen,
        ..config(dir.path())
    };
    let started = start(config, parts(), CancellationToken::new()).await;
    assert!(matches!(started, Err(Error::Config(_))));
}

#[tokio::test]
async fn a_stopping_store_answers_waiting_reads_and_accepted_appends() {
    let world = World::start().await;
    let mut peer = world.peer().await;
    peer.create(SEGMENT).await;
    peer.set_up(SEGMENT, 7).await;
    peer.send(read(SEGMENT, 100, 10)).await;
    peer.send(append(7, 1, b"x")).await;
    peer.echo().await;
    let stopping = world.stop();
    let answers = async {
        let mut answers = Vec::new();
        while let Some(reply) = peer.next().await {
            answers.push(reply);
        }
        answers
    };
    let (stopped, answers) = tokio::join!(stopping, answers);
    stopped.unwrap();
    assert!(
        answers.iter().any(|reply| reply.name() == "DataAppended"),
        "{answers:?}"
    );
    let empty =
        |reply: &Reply| matches!(reply, Reply::SegmentRead(r) if r.data.is_empty() && r.at_tail);
    assert!(answers.iter().any(empty), "{answers:?}");
}

#[tokio::test]
async fn health_says_that_a_store_is_ready() {
    let world = World::start().await;
    let inspect = world.inspect();
    inspect.settled().await;
    assert!(inspect.health().ready, "{:?}", inspect.health());
    assert_eq!(inspect.report().containers.len(), 4);
    world.stop.cancel();
    assert!(!inspect.health().ready);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted_out_again() {
    let world = World::start_with(|config| config.limits.connections = 2).await;
    let (mut one, mut two) = (world.peer().await, world.peer().await);
    one.hello().await;
    two.hello().await;
    world.peer().await.assert_closed().await;
    drop(one);
    while world.inspect().report().connections > 1 {
        two.echo().await;
    }
    world.peer().await.hello().await;
}

#[tokio::test]
async fn a_peer_that_never_finishes_a_frame_is_cut_off() {
    let world = World::start_with(|config| config.limits.frame_seconds = 3).await;
    let mut silent = world.peer().await;
    let mut slow = world.peer().await;
    slow.hello().await;
    slow.send_bytes(&[0, 0, 0, 9, 0]).await;
    silent.assert_closed().await;
    slow.assert_closed().await;
}

/// Flips a bit wherever `bytes` are stored in the log, and returns how many places that was.
fn damage(dir: &Path, bytes: &[u8]) -> usize {
    let mut places = 0;
    for entry in std::fs::read_dir(dir.join("wal/lane-0")).unwrap() {
        let path = entry.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        let found: Vec<_> = (0..content.len())
            .filter(|at| content[*at..].starts_with(bytes))
            .collect();
        for at in &found {
            content[*at] ^= 1;
        }
        places += found.len();
        std::fs::write(&path, content).unwrap();
    }
    places
}

#[tokio::test]
async fn a_container_with_a_damaged_log_says_so_and_the_others_serve() {
    let dir = tempfile::tempdir().unwrap();
    let segment = |number: u32| format!("scope/stream{number}/0.#epoch.0");
    let owner = |name: &str| u32::from(sarit_proto::hash::slot(name)) * 4 / 65_536;
    let bad = segment(0);
    let good = (1..)
        .map(segment)
        .find(|name| owner(name) != owner(&bad))
        .unwrap();
    let (running, stop) = start_on_disk(dir.path()).await.unwrap();
    let mut peer = Peer::connect(&running).await;
    for (writer, name) in [(1, &bad), (2, &good)] {
        peer.create(name).await;
        peer.set_up(name, writer).await;
        peer.send(append(writer, 1, format!("bytes of {name}").as_bytes()))
            .await;
        assert_eq!(peer.reply().await.name(), "DataAppended");
    }
    // Not in order, which would make a last checkpoint: then nothing would be replayed.
    drop((running, stop));
    assert_eq!(damage(dir.path(), format!("bytes of {bad}").as_bytes()), 1);

    let (running, stop) = start_on_disk(dir.path()).await.unwrap();
    let mut peer = Peer::connect(&running).await;
    // Together, so that what is parked is answered too.
    peer.send(set_up(&bad, 1)).await;
    peer.send(append(1, 2, b"x")).await;
    let reply = peer.reply().await;
    let Reply::ErrorMessage(refused) = &reply else {
        panic!("{reply:?}");
    };
    assert!(
        refused.message.contains(".wal is corrupt at byte"),
        "{}",
        refused.message
    );
    let reply = peer.ask(read(&bad, 0, 100)).await;
    assert_eq!(reply.name(), "ErrorMessage");
    assert_eq!(peer.set_up(&good, 2).await, 1);
    let data = peer.read(&good, 0, 100).await.data;
    assert_eq!(data, format!("bytes of {good}"));
    let health = running.inspect().health();
    assert!(
        health.reasons.concat().contains("does not start"),
        "{health:?}"
    );
    stop.cancel();
    running.join().await.unwrap();
}

#[tokio::test]
async fn a_failed_log_ends_the_store_with_its_error() {
    let world = World::start().await;
    let mut peer = world.peer().await;
    peer.create(SEGMENT).await;
    peer.set_up(SEGMENT, 7).await;
    let frames_until_error = Some(0);
    world.memory.set_faults(MemoryFaults {
        frames_until_error,
        ..MemoryFaults::default()
    });
    peer.send(append(7, 1, b"x")).await;
    peer.assert_closed().await;
    let ended = timeout(PATIENCE, world.running.join()).await;
    assert!(
        matches!(ended, Ok(Err(Error::Wal(_) | Error::Container { .. }))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn while_the_log_is_full_appends_wait_and_all_else_goes_on() {
    let world = World::start().await;
    world.inspect().settled().await;
    let mut peer = world.peer().await;
    peer.create(SEGMENT).await;
    peer.set_up(SEGMENT, 7).await;
    let full = Some("the disk is full".to_owned());
    world.memory.set_faults(MemoryFaults {
        full,
        ..MemoryFaults::default()
    });
    peer.send(append(7, 1, b"x")).await;
    let mut other = world.peer().await;
    while world.inspect().health().ready {
        other.echo().await;
    }
    let reasons = world.inspect().health().reasons;
    assert!(reasons[0].contains("the disk is full"), "{reasons:?}");
    assert_eq!(other.info(SEGMENT).await.write_offset, 0);
    peer.echo().await;
    world.memory.set_faults(MemoryFaults::default());
    assert_eq!(peer.reply().await.name(), "DataAppended");
    while !world.inspect().health().ready {
        other.echo().await;
    }
}
