//! Appends with our own client, in this process: the server's CPU is counted, ours is not.
//!
//! Closed loop: as many events under way as the depth says, so this finds capacity, not latency under a
//! given load. Every run ends with a look at what the server then has: a fast wrong run fails.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sarit_client::Client;
use sarit_client::event::EventWriter;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use sarit_proto::policy::StreamConfig;
use sarit_tests::cluster::{Cluster, Layout};

use crate::figures::{Quantiles, median};
use crate::limits::{Echo, ProbeFile};
use crate::load::{Payloads, segment_names, tails};
use crate::report::{Goal, Row};
use crate::server::{Spent, Usage};
use crate::{Bench, check};

const SCOPE: &str = "bench";
const SIZES: [usize; 3] = [100, 1_000, 10_000];
const DEPTHS: [usize; 3] = [1, 64, 1_024];
pub(crate) const SEGMENTS: [usize; 3] = [1, 16, 1_000];
/// Routing keys, in turn.
pub(crate) const KEYS: usize = 10_000;
/// In front of an event in a segment.
pub(crate) const EVENT_HEADER: usize = 8;
/// Key and number at the beginning of each event.
const MARK: usize = 12;
/// One run of one cell ends after this many bytes, so that a fast server does not fill the disk.
const BYTES_MAX: u64 = 400_000_000;

/// One cell of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    size: usize,
    depth: usize,
    segments: usize,
}

/// What came out of one cell.
#[derive(Clone, Debug, Default)]
struct Outcome {
    events: u64,
    bytes: u64,
    acks: Quantiles,
    spent: Spent,
    /// Round trips with a sync, one for one with the appends.
    floor: Quantiles,
    /// Our bytes per second as a part of the raw loop's, round by round.
    of_raw_loop: Vec<f64>,
    /// The same against a loop that writes past the cache, as the server does.
    of_direct_loop: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let about = "events by our client; CPU is the server's, bytes are payload, syncs the log's";
    bench.report.section("append", about);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let mut outcomes = Vec::new();
    for segments in SEGMENTS {
        let data = bench.dir.join("append");
        let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
        runtime.block_on(grid(bench, &server, segments, &mut outcomes))?;
        drop(server);
        std::fs::remove_dir_all(&data)?;
    }
    figures(bench, &mut outcomes)
}

async fn grid(
    bench: &mut Bench,
    server: &Cluster,
    segments: usize,
    outcomes: &mut Vec<(Cell, Outcome)>,
) -> anyhow::Result<()> {
    let client = Client::connect(&server.uri())?;
    let stream = format!("s{segments}");
    let mut driver = Driver::open(&client, &stream, segments).await?;
    let names = segment_names(SCOPE, &stream, segments);
    for size in SIZES {
        for depth in DEPTHS {
            let cell = Cell {
                size,
                depth,
                segments,
            };
            let outcome = measure(bench, server, &mut driver, cell).await?;
            let stored = tails(&server.store_addr(), &names)?;
            ensure!(
                stored == driver.stored_bytes,
                "the segments hold {stored} bytes, acknowledged were {}",
                driver.stored_bytes
            );
            bench.report.row(&row(cell, &mut outcome.clone()))?;
            outcomes.push((cell, outcome));
        }
        if size == SIZES[0] {
            // Reading gigabytes back would take longer than writing them: here it is once per server.
            let events = check::read_back(&server.store_addr(), &names, &driver.written)?;
            bench.report.note(&format!(
                "read back: {events} events, in order per key, none missing"
            ));
        }
    }
    drop(driver);
    client.close().await;
    Ok(())
}

async fn measure(
    bench: &mut Bench,
    server: &Cluster,
    driver: &mut Driver,
    cell: Cell,
) -> anyhow::Result<Outcome> {
    let time = bench.choose(Duration::from_millis(1_500), Duration::from_millis(400));
    let mut outcome = Outcome::default();
    let paired_with_echo = cell.depth == 1 && cell.segments == 1;
    let paired_with_file = cell.depth == 1_024 && cell.segments == 1 && cell.size == 10_000;
    let mut echo = paired_with_echo
        .then(|| Echo::start(Some(&bench.dir)))
        .transpose()?;
    let mut file = paired_with_file
        .then(|| ProbeFile::prepare(&bench.dir))
        .transpose()?;
    driver
        .run(
            cell,
            Duration::from_millis(200),
            None,
            &mut Outcome::default(),
        )
        .await?;
    for _ in 0..if paired_with_file {
        bench.choose(7, 3)
    } else {
        1
    } {
        let mut round = Outcome::default();
        let before = Usage::of(server)?;
        driver.run(cell, time, echo.as_mut(), &mut round).await?;
        round.spent = Usage::of(server)?.since(&before);
        if let Some(file) = &mut file {
            beside(file, &mut round, time / 2)?;
        }
        outcome.add(&round);
    }
    Ok(outcome)
}

/// Writes and syncs blocks as large as the server's frames were, and notes the server's bytes per
/// second as a part of these.
fn beside(file: &mut ProbeFile, round: &mut Outcome, time: Duration) -> anyhow::Result<()> {
    let size = ((round.spent.wal_bytes / round.spent.frames.max(1.0)) as usize).max(1);
    let ours = round.bytes as f64 / round.spent.seconds;
    let part = |begin: Instant, writes: usize| {
        ours / ((writes * size) as f64 / begin.elapsed().as_secs_f64())
    };
    let begin = Instant::now();
    let writes = file.run(size, time)?.count();
    round.of_raw_loop.push(part(begin, writes));
    let begin = Instant::now();
    if let Some(writes) = file.run_direct(size, time)? {
        round.of_direct_loop.push(part(begin, writes.count()));
    }
    Ok(())
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.acks.merge(&other.acks);
        self.spent.add(&other.spent);
        self.floor.merge(&other.floor);
        self.of_raw_loop.extend(&other.of_raw_loop);
        self.of_direct_loop.extend(&other.of_direct_loop);
    }

    fn cpu_per_event(&self) -> f64 {
        self.spent.cpu_seconds / self.events.max(1) as f64
    }
}

/// Writes events and remembers what it wrote.
struct Driver {
    writer: EventWriter,
    keys: Vec<String>,
    /// Events written per key; the next one's number.
    written: Vec<u64>,
    next: usize,
    payloads: Payloads,
    /// Acknowledged events, to make others of.
    spare: Vec<Bytes>,
    /// What the segments must hold now.
    stored_bytes: u64,
}

impl Driver {
    async fn open(client: &Client, stream: &str, segments: usize) -> anyhow::Result<Self> {
        let scope = ScopeName::new(SCOPE)?;
        let stream = ScopedStream {
            scope: scope.clone(),
            stream: StreamName::new(stream)?,
        };
        client.controller().create_scope(&scope).await?;
        let config = StreamConfig::fixed(u32::try_from(segments)?)?;
        client.controller().create_stream(&stream, &config).await?;
        let mut driver = Self {
            writer: client.event_writer(&stream).await?,
            keys: (0..KEYS).map(|key| format!("key-{key}")).collect(),
            written: vec![0; KEYS],
            next: 0,
            payloads: Payloads::new(1),
            spare: Vec::new(),
            stored_bytes: 0,
        };
        // Each segment's writer is set up with its first event: not what is to be measured.
        let mut acks = FuturesUnordered::new();
        for _ in 0..KEYS {
            let (key, event) = driver.next_event(SIZES[0]);
            acks.push(driver.writer.write(&driver.keys[key], event).await?);
        }
        while let Some(ack) = acks.next().await {
            ack?;
        }
        Ok(driver)
    }

    /// Makes an event: its key, its number within the key, random bytes; in the memory of one that is
    /// acknowledged, so that it is not the making that is measured.
    fn next_event(&mut self, size: usize) -> (usize, Bytes) {
        let key = self.next;
        self.next = (self.next + 1) % KEYS;
        let spare = self.spare.pop().filter(|event| event.len() == size);
        let mut event = match spare.map(Bytes::try_into_mut) {
            Some(Ok(event)) => event,
            Some(Err(_)) | None => {
                let mut event = BytesMut::with_capacity(size);
                event.put_bytes(0, MARK);
                event.put(self.payloads.next(size - MARK));
                event
            }
        };
        let mut mark = &mut event[..MARK];
        mark.put_u32(key as u32);
        mark.put_u64(self.written[key]);
        self.written[key] += 1;
        self.stored_bytes += (EVENT_HEADER + size) as u64;
        (key, event.freeze())
    }

    /// Writes for `time` and waits for all acknowledgements; with `echo` a round trip there between any
    /// two events.
    async fn run(
        &mut self,
        cell: Cell,
        time: Duration,
        mut echo: Option<&mut Echo>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut under_way = FuturesUnordered::new();
        while begin.elapsed() < time && outcome.bytes < BYTES_MAX {
            while under_way.len() < cell.depth {
                let (key, event) = self.next_event(cell.size);
                let start = Instant::now();
                let again = event.clone();
                let ack = self.writer.write(&self.keys[key], event).await?;
                under_way.push(async move {
                    ack.await?;
                    Ok::<_, sarit_client::Error>((start.elapsed(), again))
                });
                outcome.events += 1;
                outcome.bytes += cell.size as u64;
            }
            if let Some(acknowledged) = under_way.next().await {
                let (latency, event) = acknowledged?;
                outcome.acks.add(latency);
                self.spare.push(event);
            }
            if let Some(echo) = &mut echo {
                outcome.floor.add(echo.ping()?);
            }
        }
        while let Some(acknowledged) = under_way.next().await {
            outcome.acks.add(acknowledged?.0);
        }
        Ok(())
    }
}

fn row(cell: Cell, outcome: &mut Outcome) -> Row {
    let (events, bytes) = (outcome.events as f64, outcome.bytes as f64);
    let spent = &outcome.spent;
    Row::new(format!(
        "{} B, depth {}, {} seg.",
        cell.size, cell.depth, cell.segments
    ))
    .number("events/s", events / spent.seconds)
    .number("MB/s", bytes / spent.seconds / 1e6)
    .number("p50 µs", outcome.acks.micros(0.5))
    .number("p99 µs", outcome.acks.micros(0.99))
    .number("CPU s/GB", spent.cpu_seconds / bytes * 1e9)
    .number("CPU s/M", spent.cpu_seconds / events * 1e6)
    .number("syncs/ack", spent.syncs / events)
    .number("log B/B", spent.wal_bytes / bytes)
    .number("disk B/B", spent.device_bytes / bytes)
    .number("KiB/sync", spent.wal_bytes / spent.syncs.max(1.0) / 1024.0)
    .number(
        "KiB/frame",
        spent.wal_bytes / spent.frames.max(1.0) / 1024.0,
    )
}

fn figures(bench: &mut Bench, outcomes: &mut [(Cell, Outcome)]) -> anyhow::Result<()> {
    for (cell, outcome) in &mut *outcomes {
        if outcome.floor.count() > 0 {
            let ratio = outcome.acks.micros(0.5) / outcome.floor.micros(0.5);
            let name = format!("{} B, depth 1: p50 / ping + sync p50", cell.size);
            let noisy = outcome.floor.noisy();
            bench.report.figure(name, ratio, Goal::AtMost(2.0), noisy)?;
        }
    }
    for (cell, outcome) in &*outcomes {
        if !outcome.of_raw_loop.is_empty() {
            let ratio = median(outcome.of_raw_loop.clone());
            let name = format!("{} B, depth {}: MB/s / raw loop's", cell.size, cell.depth);
            bench
                .report
                .figure(name, ratio, Goal::AtLeast(0.5), false)?;
            let direct = median(outcome.of_direct_loop.clone());
            bench.report.note(&format!(
                "the same against a loop past the cache (O_DIRECT): {direct:.2}"
            ));
        }
    }
    for size in SIZES {
        let cpu = |segments| {
            let wanted = Cell {
                size,
                depth: DEPTHS[2],
                segments,
            };
            let found = outcomes.iter().find(|(cell, _)| *cell == wanted);
            found.map_or(f64::NAN, |(_, outcome)| outcome.cpu_per_event())
        };
        let ratio = cpu(SEGMENTS[2]) / cpu(SEGMENTS[0]);
        bench.report.note(&format!(
            "{size} B, depth 1024: CPU per event, 1,000 segments / 1: {ratio:.2}"
        ));
    }
    Ok(())
}
