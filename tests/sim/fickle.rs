//! Somebody who writes one key in turn through a writer that lives as long as the world and through one
//! that was opened just before, each event acknowledged before the next.
//!
//! The new writer asks which segments there are, the old one goes on until its segment is sealed: so a
//! successor that takes events too early shows in the order. Seldom: a new writer's first event takes longer
//! than a seal, unless that is held up. So [`crate::scaling`] looks at the seals themselves.

use sarit_client::{Client, EventWriter};
use sarit_env::Rng;
use sarit_proto::names::ScopedStream;

use crate::clients::patiently;
use crate::world::{Phase, SharedRef, breach, note};

/// Its number among the authors.
const AUTHOR: u32 = 500;
const KEYS: u64 = 2;
const EVENT: usize = 64;
/// Longest pause between two events, in milliseconds.
const PAUSE_MAX_MS: u64 = 15;

/// Writes until the chaos is over.
pub(crate) async fn write(shared: SharedRef, client: Client, stream: ScopedStream, rng: Rng) {
    let open = async || {
        patiently(&shared, "open a fickle writer", async || {
            client.event_writer(&stream).await
        })
        .await
    };
    let old = open().await;
    while shared.lock().phase == Phase::Chaos {
        let new = open().await;
        let key = rng.below(KEYS) as u32;
        for writer in [&new, &old] {
            if let Err(error) = one(&shared, writer, key).await {
                return breach(&shared, format!("fickle writer: {error}"));
            }
        }
        let pause = std::time::Duration::from_millis(1 + rng.below(PAUSE_MAX_MS));
        tokio::time::sleep(pause).await;
    }
}

async fn one(
    shared: &SharedRef,
    writer: &EventWriter,
    key: u32,
) -> Result<(), sarit_client::Error> {
    let event = shared.lock().history.next(AUTHOR, key);
    let bytes = event.to_bytes(EVENT);
    writer.write(&event.routing_key(), bytes).await?.await?;
    shared.lock().history.acknowledge(event);
    note(shared, || format!("acknowledged {event:?}"));
    Ok(())
}
