//! One event at the limit of a plain append, and one above it.

use anyhow::{Context, Result, ensure};
use pravega_client_shared::ScopedStream;

use crate::events;
use crate::world::World;

/// The largest event that goes to the segment in one append, in bytes.
const PLAIN_EVENT_BYTES_MAX: usize = 8_388_608;
/// The client writes it to a transient segment and merges that into the stream's.
const LARGE_EVENT_BYTES: usize = 9 * 1024 * 1024;

pub(crate) async fn largest_plain_event(world: &World) -> Result<()> {
    write_and_read(world, PLAIN_EVENT_BYTES_MAX).await
}

pub(crate) async fn large_event(world: &World) -> Result<()> {
    write_and_read(world, LARGE_EVENT_BYTES).await
}

/// Writes a small event, the big one and a small one, and expects the three back, equal and in this
/// order.
async fn write_and_read(world: &World, bytes: usize) -> Result<()> {
    let stream = world.create_stream("large", 1).await?;
    let big: Vec<u8> = (0..bytes)
        .map(|at| (at % 251) as u8 ^ (world.nonce as u8))
        .collect();
    let events = [b"before".to_vec(), big, b"after".to_vec()];
    let mut writer = world.client.create_event_writer(stream.clone());
    for event in &events {
        let receipt = writer
            .write_event_by_routing_key("key".into(), event.clone())
            .await;
        receipt
            .await?
            .with_context(|| format!("write an event of {} bytes", event.len()))?;
    }
    let read = read(world, &stream, events.len()).await?;
    for (written, read) in events.iter().zip(&read) {
        ensure!(
            written.len() == read.len(),
            "{} bytes came back as {}",
            written.len(),
            read.len()
        );
        ensure!(
            written == read,
            "an event of {} bytes came back changed",
            written.len()
        );
    }
    Ok(())
}

async fn read(world: &World, stream: &ScopedStream, count: usize) -> Result<Vec<Vec<u8>>> {
    let group = world.create_group("group", stream).await;
    let mut reader = group.create_reader("reader".into()).await;
    let mut read = Vec::new();
    while read.len() < count {
        let Some(mut slice) = reader.acquire_segment().await? else {
            continue;
        };
        read.extend(slice.by_ref().map(|event| event.value));
        reader.release_segment(slice).await?;
    }
    events::ensure_nothing_follows(&mut reader).await?;
    events::leave(reader).await?;
    Ok(read)
}
