//! 100,000 events under 1,000 routing keys, written at once, read back by a reader group with two
//! readers.
//!
//! Also home of the ledger and the read loop that other scenarios use.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pravega_client::client_factory::ClientFactoryAsync;
use pravega_client::event::reader::EventReader;
use pravega_client_shared::ScopedStream;

use crate::world::World;

const KEYS: u32 = 1_000;
const EVENTS_PER_KEY: u32 = 100;
const EVENT_BYTES: usize = 100;
/// Longest time without an event while some are due. Above the 10 s between two rebalancings.
const STALL_LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn on_one_segment(world: &World) -> Result<()> {
    let stream = world.create_stream("events", 1).await?;
    let ledger = Ledger::new(world.nonce, KEYS, EVENTS_PER_KEY);
    write(&world.client, &stream, &ledger).await?;
    let group = world.create_group("group", &stream).await;
    let (mut first, second) = tokio::join!(
        group.create_reader("first".into()),
        group.create_reader("second".into())
    );
    // One segment has one reader at a time: the second takes over where the first stops.
    let half = KEYS * EVENTS_PER_KEY / 2;
    let by_first = read_until(&mut first, &ledger, half).await?;
    first
        .reader_offline()
        .await
        .context("take the first reader offline")?;
    let by_second = read_all(second, &ledger).await?;
    ensure!(
        by_first == half,
        "the first reader got {by_first} events, not {half}"
    );
    ensure!(
        by_second == half,
        "the second reader got {by_second} events, not {half}"
    );
    Ok(())
}

pub(crate) async fn on_four_segments(world: &World) -> Result<()> {
    let stream = world.create_stream("events", 4).await?;
    let ledger = Ledger::new(world.nonce, KEYS, EVENTS_PER_KEY);
    write(&world.client, &stream, &ledger).await?;
    let group = world.create_group("group", &stream).await;
    // Created at once they get two segments each; one after the other, the first would take all
    // four.
    let (first, second) = tokio::join!(
        group.create_reader("first".into()),
        group.create_reader("second".into())
    );
    let (by_first, by_second) =
        tokio::try_join!(read_all(first, &ledger), read_all(second, &ledger))?;
    ensure!(
        by_first > 0 && by_second > 0,
        "one reader got {by_first}, the other {by_second}"
    );
    Ok(())
}

/// Which events are due: per routing key those numbered from 0 up, each once, in order.
pub(crate) struct Ledger {
    nonce: u64,
    keys: u32,
    per_key: u32,
    state: Mutex<State>,
}

struct State {
    /// Number of the event that is due, by key.
    due: Vec<u32>,
    accepted: u32,
}

impl Ledger {
    pub(crate) fn new(nonce: u64, keys: u32, per_key: u32) -> Self {
        let state = State {
            due: vec![0; keys as usize],
            accepted: 0,
        };
        Self {
            nonce,
            keys,
            per_key,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn total(&self) -> u32 {
        self.keys * self.per_key
    }

    pub(crate) fn accepted(&self) -> u32 {
        self.state().accepted
    }

    /// Takes note of an event that was read.
    ///
    /// # Errors
    ///
    /// When its bytes are not those written, or it is not the one that is due for its key.
    pub(crate) fn accept(&self, event: &[u8]) -> Result<()> {
        ensure!(
            event.len() == EVENT_BYTES,
            "an event of {} bytes",
            event.len()
        );
        let key = u32::from_be_bytes(event[8..12].try_into().expect("4 bytes"));
        let number = u32::from_be_bytes(event[12..16].try_into().expect("4 bytes"));
        ensure!(
            key < self.keys,
            "an event of key {key}, which was never used"
        );
        ensure!(
            event == self.event(key, number),
            "event {number} of key {key} has other bytes"
        );
        let mut state = self.state();
        let due = state.due[key as usize];
        match number {
            _ if number < due => bail!("key {key}: event {number} again, {due} is due"),
            _ if number > due => bail!("key {key}: event {number}, but {due} is due"),
            _ => {}
        }
        ensure!(
            number < self.per_key,
            "key {key}: event {number} was never written"
        );
        state.due[key as usize] += 1;
        state.accepted += 1;
        Ok(())
    }

    /// 100 bytes: nonce, key, number, and a filler that differs in every event.
    fn event(&self, key: u32, number: u32) -> Vec<u8> {
        let mut event = Vec::with_capacity(EVENT_BYTES);
        event.extend_from_slice(&self.nonce.to_be_bytes());
        event.extend_from_slice(&key.to_be_bytes());
        event.extend_from_slice(&number.to_be_bytes());
        let mut filler = self.nonce ^ (u64::from(key) << 32 | u64::from(number));
        while event.len() < EVENT_BYTES {
            filler = filler
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let bytes = filler.to_be_bytes();
            event.extend_from_slice(&bytes[..bytes.len().min(EVENT_BYTES - event.len())]);
        }
        event
    }

    /// How much is missing, and an example.
    fn missing(&self) -> String {
        let state = self.state();
        let example = state.due.iter().position(|due| *due < self.per_key);
        let example = example.map(|key| format!(", key {key} waits for event {}", state.due[key]));
        format!(
            "{} of {} came{}",
            state.accepted,
            self.total(),
            example.unwrap_or_default()
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// Writes all of the ledger's events, key by key in turn, without waiting for single ones; returns
/// when every one is acknowledged.
pub(crate) async fn write(
    client: &ClientFactoryAsync,
    stream: &ScopedStream,
    ledger: &Ledger,
) -> Result<()> {
    let mut writer = client.create_event_writer(stream.clone());
    let mut receipts = Vec::with_capacity(ledger.total() as usize);
    for number in 0..ledger.per_key {
        for key in 0..ledger.keys {
            let event = ledger.event(key, number);
            let receipt = writer
                .write_event_by_routing_key(format!("key-{key}"), event)
                .await;
            receipts.push(receipt);
        }
    }
    for receipt in receipts {
        receipt
            .await
            .context("an event was dropped by the writer")?
            .context("write an event")?;
    }
    Ok(())
}

/// Reads until the ledger is complete, whoever of the group reads, makes sure that nothing follows,
/// and leaves the group. Returns how many events this reader got.
pub(crate) async fn read_all(mut reader: EventReader, ledger: &Ledger) -> Result<u32> {
    let read = read_until(&mut reader, ledger, ledger.total()).await?;
    ensure_nothing_follows(&mut reader).await?;
    leave(reader).await?;
    Ok(read)
}

/// Takes a reader offline. Dropping it would do that in the background, perhaps after the group's
/// deletion.
pub(crate) async fn leave(mut reader: EventReader) -> Result<()> {
    reader.reader_offline().await.context("go offline")
}

/// Reads until the ledger has accepted `goal` events, not one more. Returns how many of them this
/// reader got.
pub(crate) async fn read_until(
    reader: &mut EventReader,
    ledger: &Ledger,
    goal: u32,
) -> Result<u32> {
    let mut read = 0;
    let mut progress = (ledger.accepted(), Instant::now());
    while ledger.accepted() < goal {
        if ledger.accepted() > progress.0 {
            progress = (ledger.accepted(), Instant::now());
        }
        ensure!(
            progress.1.elapsed() < STALL_LIMIT,
            "no more events: {}",
            ledger.missing()
        );
        // Waits up to a second for data.
        let Some(mut slice) = reader.acquire_segment().await? else {
            continue;
        };
        while ledger.accepted() < goal {
            let Some(event) = slice.next() else { break };
            ledger.accept(&event.value)?;
            read += 1;
        }
        reader.release_segment(slice).await?;
    }
    Ok(read)
}

/// Checks that the reader finds no event within its waiting time of a second.
pub(crate) async fn ensure_nothing_follows(reader: &mut EventReader) -> Result<()> {
    if let Some(mut slice) = reader.acquire_segment().await? {
        if let Some(event) = slice.next() {
            bail!(
                "an event more than expected, at offset {}",
                event.offset_in_segment
            );
        }
        reader.release_segment(slice).await?;
    }
    Ok(())
}
