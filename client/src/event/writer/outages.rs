//! Connections that end at the worst moment, and stores that take nothing for long, played frame by frame.

use std::task::Poll;
use std::time::Duration;

use sarit_proto::hash::key_position;
use sarit_proto::wire::command::{AppendBlockEnd, SetupAppend};
use sarit_proto::wire::{Command, reply};
use tokio::task::JoinSet;

use super::*;
use crate::config::ConnectionConfig;
use crate::connection::testing::{Peer, Peers, PipeNet};
use crate::event::testing::{self, World};

/// Waits for the next command that is no question for a sign of life.
async fn next(peer: &mut Peer) -> Option<Command> {
    loop {
        match peer.recv().await {
            Some(Command::KeepAlive(_)) => peer.send(reply::KeepAlive {}).await,
            other => return other,
        }
    }
}

async fn setup(peer: &mut Peer) -> SetupAppend {
    match next(peer).await {
        Some(Command::SetupAppend(setup)) => setup,
        other => panic!("{other:?} instead of SetupAppend"),
    }
}

/// Says that nothing of a writer is there.
async fn greet(peer: &mut Peer, setup: SetupAppend) {
    let answer = reply::AppendSetup {
        request_id: setup.request_id,
        segment: setup.segment,
        writer_id: setup.writer_id,
        last_event_number: i64::MIN,
    };
    peer.send(answer).await;
}

async fn append(peer: &mut Peer) -> AppendBlockEnd {
    match next(peer).await {
        Some(Command::AppendBlockEnd(end)) => end,
        other => panic!("{other:?} instead of AppendBlockEnd"),
    }
}

async fn acknowledge(peer: &mut Peer, end: AppendBlockEnd) {
    let answer = reply::DataAppended {
        writer_id: end.writer_id,
        event_number: end.last_event_number,
        previous_event_number: i64::MIN,
        request_id: end.request_id,
        current_segment_write_offset: 9,
    };
    peer.send(answer).await;
}

/// Gives signs of life, and nothing else is sent meanwhile.
async fn stay_alive(peer: &mut Peer, time: Duration) {
    let taken = tokio::time::timeout(time, next(peer)).await;
    assert!(taken.is_err(), "{taken:?} though nothing is taken");
}

/// Serves one append on the next connection.
async fn serve(peers: &mut Peers) -> Peer {
    let mut peer = peers.accept().await;
    let wanted = setup(&mut peer).await;
    greet(&mut peer, wanted).await;
    let end = append(&mut peer).await;
    acknowledge(&mut peer, end).await;
    peer
}

/// Unlike `yield_now`, which waits until all others wait.
async fn to_the_back_of_the_queue() {
    let mut polled = false;
    std::future::poll_fn(|cx| {
        if polled {
            return Poll::Ready(());
        }
        polled = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn one_connection() -> ConnectionConfig {
    ConnectionConfig {
        per_store_max: 1,
        ..ConnectionConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_a_writer_is_set_up_is_replaced() {
    // Where exactly it ends is a matter of how often others get their turn before.
    for turns in 0..20 {
        let (net, mut peers) = PipeNet::new();
        let (world, pool) = (World::new(1, 1), net.pool(one_connection()));
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        let ack = writer.write("k", "1").await.expect("accepted");
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut peer = peers.accept().await;
            let wanted = setup(&mut peer).await;
            greet(&mut peer, wanted).await;
            for _ in 0..turns {
                to_the_back_of_the_queue().await;
            }
            drop(peer);
            let _peer = serve(&mut peers).await;
            std::future::pending::<()>().await;
        });
        let acked = tokio::time::timeout(Duration::from_secs(600), ack).await;
        acked
            .unwrap_or_else(|_| panic!("after {turns} turns the writer hangs"))
            .expect("durable");
        drop(server);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_is_said_to_be_though_the_writer_fails_in_the_same_turn() {
    let (net, mut peers) = PipeNet::new();
    let (world, pool) = (World::new(2, 1), net.pool(one_connection()));
    let (writer, _stop) = testing::writer(&world, &pool, Config::default());
    let key = |upper: bool| {
        let half = KeyPosition::from_f64(0.5).expect("a position");
        let mut keys = (0..).map(|number: u32| number.to_string());
        keys.find(|key| (key_position(key) >= half) == upper)
            .expect("half of them")
    };
    let acks = [key(false), key(true)].map(async |key| writer.write(&key, "1").await);
    let [lower, upper] = acks;
    let (lower, upper) = (
        lower.await.expect("accepted"),
        upper.await.expect("accepted"),
    );
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut peer = peers.accept().await;
        for _ in 0..2 {
            let wanted = setup(&mut peer).await;
            greet(&mut peer, wanted).await;
        }
        let (first, second) = (append(&mut peer).await, append(&mut peer).await);
        acknowledge(&mut peer, first).await;
        let refusal = reply::ErrorMessage {
            request_id: second.request_id,
            segment: String::new(),
            message: "the log is damaged".to_owned(),
            error_code: -1,
        };
        peer.send(refusal).await;
        std::future::pending::<()>().await;
    });
    let mut outcomes = [lower.await, upper.await];
    outcomes.sort_by_key(Result::is_err);
    let [durable, doubtful] = outcomes;
    durable.expect("it was acknowledged");
    assert!(
        matches!(doubtful, Err(Error::OutcomeUnknown { .. })),
        "{doubtful:?}"
    );
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn writers_wait_for_a_store_that_is_full_for_an_hour() {
    let (net, mut peers) = PipeNet::new();
    let (world, pool) = (World::new(1, 1), net.pool(one_connection()));
    let (writer, _stop) = testing::writer(&world, &pool, Config::default());
    let ack = writer.write("k", "1").await.expect("accepted");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut peer = peers.accept().await;
        let wanted = setup(&mut peer).await;
        stay_alive(&mut peer, Duration::from_secs(3_600)).await;
        greet(&mut peer, wanted).await;
        let end = append(&mut peer).await;
        acknowledge(&mut peer, end).await;
        std::future::pending::<()>().await;
    });
    ack.await.expect("durable");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn an_outage_has_all_its_time_though_nothing_was_acknowledged_since_the_last() {
    let (net, mut peers) = PipeNet::new();
    let (world, pool) = (World::new(1, 1), net.pool(one_connection()));
    let mut config = Config::default();
    config.retry.deadline_ms = 5_000;
    let (writer, _stop) = testing::writer(&world, &pool, config);
    let ack = writer.write("k", "1").await.expect("accepted");
    let mut server = JoinSet::new();
    server.spawn(async move {
        for _ in 0..3 {
            let mut peer = peers.accept().await;
            let wanted = setup(&mut peer).await;
            greet(&mut peer, wanted).await;
            append(&mut peer).await;
            stay_alive(&mut peer, Duration::from_secs(60)).await;
        }
        let _peer = serve(&mut peers).await;
        std::future::pending::<()>().await;
    });
    ack.await.expect("durable");
    drop(server);
}
