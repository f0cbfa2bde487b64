//! The clients of a world: they create, write, follow, and read everything at the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_client::Client;
use sarit_client::connection::Endpoint;
use sarit_client::event::{EventWriter, From, Until};
use sarit_env::Rng;
use sarit_env::sim::TurmoilNet;
use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::history::Event;
use tokio::task::{AbortHandle, JoinSet};

use crate::by_hand;
use crate::fickle;
use crate::head;
use crate::plan::Plan;
use crate::scaling;
use crate::transactions;
use crate::world::{CONTROLLER, Phase, SharedRef, breach, note};

/// Events that a writer writes as fast as it can; later ones only make a world long.
const EVENTS_FAST: u32 = 1_000;

/// All clients of a world, from creating the stream to the audit.
pub(crate) async fn clients(shared: SharedRef, rng: Rng, plan: Plan) -> turmoil::Result {
    let parts = sarit_client::Parts {
        net: Arc::new(TurmoilNet),
        rng: rng.split(),
    };
    let controller = Endpoint::new("controller", CONTROLLER);
    // An append must fit the worlds' small log files.
    let mut config = sarit_client::Config::default();
    config.writer.batch_bytes_max = 64 << 10;
    let client = Client::new(controller, config, parts)?;
    let stream: ScopedStream = "sim/events".parse()?;
    let scope = stream.scope.clone();
    patiently(&shared, "create scope", async || {
        client.controller().create_scope(&scope).await
    })
    .await;
    let config = StreamConfig::fixed(plan.segments)?;
    patiently(&shared, "create stream", async || {
        client.controller().create_stream(&stream, &config).await
    })
    .await;
    let mut tasks = JoinSet::new();
    for writer in 0..plan.writers {
        let events = patiently(&shared, "open writer", async || {
            client.event_writer(&stream).await
        })
        .await;
        tasks.spawn(write(Arc::clone(&shared), events, writer, plan.clone()));
    }
    let mut by_hand = JoinSet::new();
    by_hand.spawn(by_hand::write(Arc::clone(&shared), rng.split()));
    tasks.spawn(scaling::scale(
        Arc::clone(&shared),
        client.clone(),
        stream.clone(),
        rng.split(),
    ));
    if plan.fickle {
        tasks.spawn_local(fickle::write(
            Arc::clone(&shared),
            client.clone(),
            stream.clone(),
            rng.split(),
        ));
    }
    if plan.transactions {
        tasks.spawn(transactions::write(
            Arc::clone(&shared),
            client.clone(),
            stream.clone(),
            rng.split(),
        ));
    }
    let mut truncated = JoinSet::new();
    if plan.truncated {
        truncated.spawn_local(head::live(Arc::clone(&shared), client.clone(), rng.split()));
    }
    let (seen, follower) = follow(&shared, &client, &stream).await;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    let mut kept = Vec::new();
    while let Some(ended) = truncated.join_next().await {
        kept.push(ended?);
    }
    follower.abort();
    note(&shared, || "all acknowledged".to_owned());
    shared.lock().phase = Phase::Audit;
    while shared.lock().phase != Phase::Read {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    audit(&shared, &client, &stream, &seen).await;
    for kept in &kept {
        head::audit(&shared, &client, kept).await;
    }
    while let Some(ended) = by_hand.join_next().await {
        ended?;
    }
    Ok(())
}

/// Repeats a call until it succeeds: in the middle of crashes any may fail.
pub(crate) async fn patiently<T, E: std::fmt::Display>(
    shared: &SharedRef,
    what: &str,
    mut call: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    loop {
        match call().await {
            Ok(value) => {
                note(shared, || what.to_owned());
                return value;
            }
            Err(error) => note(shared, || format!("{what}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes events with up to `plan.in_flight` unacknowledged, until the chaos is over.
async fn write(shared: SharedRef, events: EventWriter, writer: u32, plan: Plan) {
    let mut in_flight = VecDeque::new();
    let mut turn = 0;
    while shared.lock().phase == Phase::Chaos || !in_flight.is_empty() {
        if shared.lock().phase == Phase::Chaos && in_flight.len() < plan.in_flight {
            let event = shared.lock().history.next(writer, turn % plan.keys);
            turn += 1;
            match events
                .write(&event.routing_key(), event.to_bytes(plan.event_bytes))
                .await
            {
                Ok(ack) => in_flight.push_back((event, ack)),
                Err(error) => return breach(&shared, format!("writer {writer}: {error}")),
            }
            // Otherwise a burst of one writer fills the whole world's time.
            if turn > EVENTS_FAST {
                tokio::time::sleep(Duration::from_millis(10)).await;
            } else if in_flight.len() < plan.in_flight {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            continue;
        }
        let Some((event, ack)) = in_flight.pop_front() else {
            return;
        };
        match ack.await {
            Ok(()) => {
                shared.lock().history.acknowledge(event);
                note(&shared, || format!("acknowledged {event:?}"));
            }
            Err(error) => return breach(&shared, format!("{event:?}: {error}")),
        }
    }
}

type Seen = Arc<Mutex<BTreeMap<(SegmentId, Offset), Bytes>>>;

/// Follows the stream from its head while hosts crash: what it is shown may never be taken back.
async fn follow(shared: &SharedRef, client: &Client, stream: &ScopedStream) -> (Seen, AbortHandle) {
    let seen = Seen::default();
    let mut reader = patiently(shared, "open reader", async || {
        client.event_reader(stream, From::Head, Until::Sealed).await
    })
    .await;
    let mut task = JoinSet::new();
    let (shared, shown) = (Arc::clone(shared), Arc::clone(&seen));
    let handle = task.spawn(async move {
        loop {
            match reader.next().await {
                Ok(Some(event)) => {
                    shown
                        .lock()
                        .insert((event.segment, event.offset), event.payload);
                }
                Ok(None) => return breach(&shared, "the reader came to an end".to_owned()),
                Err(error) => {
                    note(&shared, || format!("reader: {error}"));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    task.detach_all();
    (seen, handle)
}

/// Reads everything after the last power cut, and compares it with what was promised and shown.
async fn audit(shared: &SharedRef, client: &Client, stream: &ScopedStream, seen: &Seen) {
    let mut reader = patiently(shared, "open auditor", async || {
        client.event_reader(stream, From::Head, Until::Tail).await
    })
    .await;
    let (mut events, mut positions) = (Vec::new(), BTreeMap::new());
    loop {
        match reader.next().await {
            Ok(Some(event)) => {
                events.push(Event::from_bytes(&event.payload));
                positions.insert((event.segment, event.offset), event.payload);
            }
            Ok(None) => break,
            Err(error) => {
                note(shared, || format!("auditor: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let verdict = shared.lock().history.check(events);
    note(shared, || format!("audit: {verdict}"));
    if !verdict.is_clean() {
        breach(shared, format!("audit: {verdict}"));
    }
    let taken_back = seen
        .lock()
        .iter()
        .filter(|(at, bytes)| positions.get(at) != Some(bytes))
        .count();
    if taken_back > 0 {
        breach(
            shared,
            format!("{taken_back} events were shown to a reader and then taken back"),
        );
    }
}
