//! A writer by raw wire on a thread of its own: it keeps a window of appends in flight, goes on through
//! restarts, and counts what was acknowledged. Its segment's bytes follow from its numbers, so whoever
//! reads them knows what they must be.

#![allow(
    clippy::disallowed_methods,
    reason = "drives a real process in real time"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{GetStreamSegmentInfo, ReadSegment};

use crate::raw::Connection;

/// Appends in flight.
const WINDOW: i64 = 32;
/// How long to wait before connecting again.
const RETRY: Duration = Duration::from_millis(20);
/// Most bytes asked for at once.
const READ: i32 = 1 << 20;

/// A running writer. Dropped, it goes on until the process ends: stop it.
pub struct Appender {
    segment: String,
    size: usize,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    acked: AtomicI64,
    sent: AtomicI64,
    connections: AtomicU64,
    stop: AtomicBool,
}

impl Appender {
    /// Starts to write events of `size` bytes, a multiple of 8, to a segment that nobody else writes to.
    pub fn start(address: &str, segment: &str, size: usize) -> Self {
        Self::start_paced(address, segment, size, Duration::ZERO)
    }

    /// The same, with a pause after every acknowledgement.
    pub fn start_paced(address: &str, segment: &str, size: usize, pause: Duration) -> Self {
        let counts = Arc::<Counts>::default();
        let (shared, address, name) = (Arc::clone(&counts), address.to_owned(), segment.to_owned());
        let thread = std::thread::spawn(move || {
            let mut before = String::new();
            while let Err(error) = write(&address, &name, size, pause, &shared) {
                let error = format!("{name}: {error:#}; connecting again");
                // Not a hundred times while a server is away.
                if error != before {
                    println!("{error}");
                }
                before = error;
                std::thread::sleep(RETRY);
            }
        });
        Self {
            segment: segment.to_owned(),
            size,
            counts,
            thread,
        }
    }

    /// Returns its segment.
    pub fn segment(&self) -> &str {
        &self.segment
    }

    /// Returns the number of events acknowledged.
    pub fn acked(&self) -> i64 {
        self.counts.acked.load(Relaxed)
    }

    /// Returns the number of events sent and not acknowledged.
    pub fn in_flight(&self) -> i64 {
        self.counts.sent.load(Relaxed) - self.acked()
    }

    /// Returns how often it has connected.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Relaxed)
    }

    /// Sends nothing new from now on; does not wait.
    pub fn stop(&self) {
        self.counts.stop.store(true, Relaxed);
    }

    /// Stops after what is in flight was acknowledged, and returns how many events were in all.
    pub fn finish(self) -> anyhow::Result<i64> {
        self.stop();
        let acked = || self.counts.acked.load(Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the writer of {} panicked", self.segment))?;
        Ok(acked())
    }

    /// Reads the whole segment and compares it with what was written: all that was acknowledged before
    /// the call, and nothing that was not sent.
    pub fn verify(&self, address: &str) -> anyhow::Result<i64> {
        let acked = self.acked();
        let events = verify(address, &self.segment, self.size)?;
        ensure!(events >= acked, "{}: {events} of {acked}", self.segment);
        Ok(events)
    }
}

fn write(
    address: &str,
    segment: &str,
    size: usize,
    pause: Duration,
    counts: &Counts,
) -> anyhow::Result<()> {
    let mut connection = Connection::greet(address)?;
    connection.create(segment)?;
    let writer = WriterId(7);
    let last = connection.set_up(segment, writer)?.max(0);
    let acked = counts.acked.load(Relaxed);
    ensure!(last >= acked, "{acked} were acknowledged, {last} are there");
    counts.acked.store(last, Relaxed);
    counts.connections.fetch_add(1, Relaxed);
    let mut sent = last;
    loop {
        let acked = counts.acked.load(Relaxed);
        let stop = counts.stop.load(Relaxed);
        if stop && acked >= counts.sent.load(Relaxed) {
            return Ok(());
        }
        // What was sent before a reconnect is sent again, also when stopping.
        let most = if stop {
            counts.sent.load(Relaxed)
        } else {
            i64::MAX
        };
        while sent < (acked + WINDOW).min(most) {
            sent += 1;
            connection.queue_append(writer, sent, 1, event(sent, size));
        }
        counts.sent.fetch_max(sent, Relaxed);
        connection.flush()?;
        match connection.reply()? {
            Reply::DataAppended(ack) => counts.acked.store(ack.event_number, Relaxed),
            other => bail!("instead of an acknowledgement: {other:?}"),
        };
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// The bytes of event `number`, from 1.
fn event(number: i64, size: usize) -> Bytes {
    let mut state = number.cast_unsigned();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        bytes.extend_from_slice(&state.to_be_bytes());
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
    }
    bytes.into()
}

/// Reads a whole segment of events of `size` bytes, from its start, and returns the last event's number.
///
/// # Errors
/// If any byte is not as it was written.
pub fn verify(address: &str, segment: &str, size: usize) -> anyhow::Result<i64> {
    let mut connection = Connection::greet(address)?;
    let (start, length) = bounds(&mut connection, segment)?;
    let mut number = start / size as i64;
    let mut rest: Vec<u8> = Vec::new();
    let mut at = start;
    while at < length {
        let read = ReadSegment {
            segment: segment.to_owned(),
            offset: at,
            suggested_length: READ,
            token: String::new(),
            request_id: 5,
        };
        let data = match connection.ask(read)? {
            Reply::SegmentRead(read) if read.offset == at && !read.data.is_empty() => read.data,
            other => bail!("read {segment} at {at} of {length}: {other:?}"),
        };
        at += data.len() as i64;
        rest.extend_from_slice(&data);
        let whole = rest.len() / size * size;
        for bytes in rest[..whole].chunks(size) {
            number += 1;
            ensure!(
                *bytes == event(number, size)[..],
                "{segment}: event {number} differs"
            );
        }
        rest.drain(..whole);
    }
    ensure!(rest.is_empty(), "{segment} ends within an event");
    Ok(number)
}

/// Returns where a segment starts and how long it is.
///
/// # Errors
/// If it is not there.
pub fn bounds(connection: &mut Connection, segment: &str) -> anyhow::Result<(i64, i64)> {
    let info = GetStreamSegmentInfo {
        request_id: 4,
        segment: segment.to_owned(),
        token: String::new(),
    };
    let reply = connection.ask(info).context("ask for a segment's length")?;
    match reply {
        Reply::StreamSegmentInfo(info) => Ok((info.start_offset, info.write_offset)),
        other => bail!("the bounds of {segment}: {other:?}"),
    }
}
