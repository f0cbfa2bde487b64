//! A stream whose head moves while hosts crash: somebody writes it; either somebody reads it and drops
//! what was read, or its retention policy drops what is more than enough, perhaps only what a subscriber
//! has read.
//!
//! Nothing may be gone that nobody dropped, and nothing that was dropped comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use sarit_client::event::{From, Until};
use sarit_client::{Client, Error};
use sarit_env::Rng;
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::{RetentionPolicy, RetentionUnit, StreamConfig};
use sarit_tests::history::{Event, History};

use crate::clients::patiently;
use crate::subscriber::Subscriber;
use crate::world::{Phase, SharedRef, breach, note};

/// What writes this stream; it has a history of its own.
const AUTHOR: u32 = 0;
const KEYS: u32 = 3;
const EVENT: usize = 200;
/// What an event takes in a segment besides its bytes.
const HEADER: usize = 8;
/// What a policy by size keeps at least.
const KEPT_MIN: usize = 8_000;
/// How often policies are looked at, in this world.
pub(crate) const RETENTION_PERIOD_MS: u64 = 200;
const SEGMENTS: u32 = 2;
const BETWEEN_EVENTS: Duration = Duration::from_millis(4);
/// Longest pause between two truncations, in milliseconds.
const PAUSE_MAX_MS: u64 = 400;

/// What is known of the stream at the end.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    history: History,
    acknowledged: Vec<Event>,
    /// Read before a truncation was asked for, so perhaps gone.
    droppable: BTreeSet<Event>,
    /// Read before a truncation that was answered, so gone.
    dropped: BTreeSet<Event>,
    dropper: Dropper,
}

/// Who has what is no longer needed dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dropper {
    #[default]
    Reader,
    Policy,
    /// A policy, where a subscriber has read.
    Subscriber,
}

impl Kept {
    fn acknowledge(&mut self, event: Event) {
        self.history.acknowledge(event);
        self.acknowledged.push(event);
    }

    /// Notes what may be gone from now on.
    pub(crate) fn droppable(&mut self, events: Vec<Event>) {
        self.droppable.extend(events);
    }
}

fn stream() -> ScopedStream {
    "sim/kept".parse().expect("it is a name")
}

/// Creates the stream, writes it and truncates it until the chaos is over.
pub(crate) async fn live(shared: SharedRef, client: Client, rng: Rng) -> Kept {
    let dropper = match rng.below(3) {
        0 => Dropper::Reader,
        1 => Dropper::Policy,
        _ => Dropper::Subscriber,
    };
    let mut config = StreamConfig::fixed(SEGMENTS).expect("so many are allowed");
    if dropper != Dropper::Reader {
        let policy = RetentionPolicy::new(RetentionUnit::Bytes, KEPT_MIN as u64, None);
        config.retention = Some(policy.expect("it has no maximum"));
    }
    let stream = stream();
    patiently(&shared, "create the truncated stream", async || {
        client.controller().create_stream(&stream, &config).await
    })
    .await;
    let subscriber = match dropper {
        Dropper::Subscriber => Some(Subscriber::create(&shared, &client, &stream).await),
        _ => None,
    };
    let events = patiently(&shared, "open its writer", async || {
        client.event_writer(&stream).await
    })
    .await;
    let kept = Mutex::new(Kept {
        dropper,
        ..Kept::default()
    });
    let writing = async {
        for turn in 0.. {
            if shared.lock().phase != Phase::Chaos {
                return;
            }
            let event = kept.lock().history.next(AUTHOR, turn % KEYS);
            let (key, bytes) = (event.routing_key(), event.to_bytes(EVENT));
            let acknowledged = match events.write(&key, bytes).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            if let Err(error) = acknowledged {
                return breach(&shared, format!("{event:?} of {stream}: {error}"));
            }
            kept.lock().acknowledge(event);
            tokio::time::sleep(BETWEEN_EVENTS).await;
        }
    };
    let truncating = async {
        if let Some(subscriber) = subscriber {
            subscriber.follow(&shared, &client, &kept, &rng).await;
        }
        while dropper == Dropper::Reader && shared.lock().phase == Phase::Chaos {
            tokio::time::sleep(Duration::from_millis(1 + rng.below(PAUSE_MAX_MS))).await;
            match truncate(&client, &stream, &kept, &rng).await {
                Ok(count) => {
                    note(&shared, || format!("{stream}: {count} events dropped"));
                    shared.lock().report.truncated += 1;
                }
                Err(error) => note(&shared, || format!("{stream}: truncate: {error}")),
            }
        }
    };
    tokio::join!(writing, truncating);
    kept.into_inner()
}

/// Reads some events from the head, and has them dropped.
async fn truncate(
    client: &Client,
    stream: &ScopedStream,
    kept: &Mutex<Kept>,
    rng: &Rng,
) -> Result<usize, Error> {
    let mut reader = client.event_reader(stream, From::Head, Until::Tail).await?;
    let mut read = Vec::new();
    for _ in 0..rng.below(40) {
        match reader.next().await? {
            Some(event) => read.extend(Event::from_bytes(&event.payload)),
            None => break,
        }
    }
    let cut = reader.cut();
    kept.lock().droppable(read.clone());
    client.controller().truncate_stream(&cut).await?;
    let count = read.len();
    kept.lock().dropped.extend(read);
    Ok(count)
}

/// Reads what is left after the last power cut, and compares it with what was dropped.
pub(crate) async fn audit(shared: &SharedRef, client: &Client, kept: &Kept) {
    let stream = stream();
    let mut reader = patiently(
        shared,
        "open the auditor of the truncated stream",
        async || client.event_reader(&stream, From::Head, Until::Tail).await,
    )
    .await;
    let mut read = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(event)) => read.push(Event::from_bytes(&event.payload)),
            Ok(None) => break,
            // Retention goes on: what lay there is gone, and the reader goes on behind it.
            Err(error) => {
                note(shared, || format!("auditor of {stream}: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    for wrong in faults(kept, &read) {
        breach(shared, format!("{stream}: {wrong}"));
    }
    note(shared, || {
        format!(
            "{stream}: {} of {} left",
            read.len(),
            kept.acknowledged.len()
        )
    });
}

fn faults(kept: &Kept, read: &[Option<Event>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let verdict = kept.history.check(read.iter().copied());
    if verdict.duplicated + verdict.reordered + verdict.corrupt > 0 {
        wrong.push(verdict.to_string());
    }
    let read: BTreeSet<Event> = read.iter().flatten().copied().collect();
    if let Some(event) = read.intersection(&kept.dropped).next() {
        wrong.push(format!("{event:?} was dropped and is back"));
    }
    let gone = kept.acknowledged.iter();
    let gone: Vec<&Event> = gone.filter(|event| !read.contains(event)).collect();
    if kept.dropper != Dropper::Policy {
        let lost = gone.iter().filter(|event| !kept.droppable.contains(event));
        wrong.extend(lost.map(|event| format!("{event:?} is gone, and nobody dropped it")));
    }
    if kept.dropper == Dropper::Reader {
        return wrong;
    }
    // By policy: only from the head of each key, and never into what it keeps.
    for event in &gone {
        let before = |other: &&Event| other.key == event.key && other.sequence < event.sequence;
        if let Some(older) = read.iter().find(before) {
            wrong.push(format!(
                "{event:?} is gone, but not {older:?}, which is older"
            ));
        }
    }
    if !gone.is_empty() && read.len() * (EVENT + HEADER) < KEPT_MIN {
        let left = read.len();
        wrong.push(format!(
            "its policy keeps {KEPT_MIN} bytes, and {left} events are left"
        ));
    }
    wrong
}
