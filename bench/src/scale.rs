//! What a split costs: syncs and calls to the segment store, the time until the new epoch is there, and
//! the gap in a writer's acknowledgements while it happens.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::FutureExt as _;
use sarit_client::Client;
use sarit_client::event::{EventWriter, From, Owner, Until};
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::cluster::{Cluster, Layout, Role};

use crate::Bench;
use crate::figures::{Quantiles, median};
use crate::limits::Echo;
use crate::report::{Goal, Row};
use crate::server::counter;

/// Splits of a stream without writers, for which calls and syncs are counted.
const COUNTED: usize = 20;
/// Splits under a writer.
const UNDER_LOAD: usize = 50;
/// Events under way.
const DEPTH: usize = 32;
/// Bytes of an event.
const SIZE: usize = 100;
/// How long before and behind a split its writer is watched.
const AROUND: Duration = Duration::from_millis(100);
/// How often to ask whether a split is done.
const ASK_EVERY: Duration = Duration::from_micros(500);

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "scale",
        "splits of one segment into two; the gap is the longest time without an acknowledgement",
    );
    let data = bench.dir.join("scale");
    let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut echo = Echo::start(Some(&bench.dir))?;
    runtime.block_on(async {
        let client = Client::connect(&server.uri())?;
        counted(bench, &server, &client, &mut echo).await?;
        gaps(bench, &client, &mut echo).await?;
        client.close().await;
        anyhow::Ok(())
    })?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug)]
struct Counts {
    log_syncs: f64,
    metadata_syncs: f64,
    /// Frames that the segment store received: one a request.
    requests: f64,
}

impl Counts {
    fn of(server: &Cluster) -> anyhow::Result<Self> {
        let (_, metrics) = server.http(Role::Standalone, "/metrics")?;
        let count = |name: &str| counter(&metrics, name).context(format!("no {name} in /metrics"));
        Ok(Self {
            log_syncs: count("segmentstore_wal_syncs_total")?,
            metadata_syncs: count("controller_metadata_sync_seconds_count")?,
            requests: count("segmentstore_frames_received_total")?,
        })
    }
}

async fn counted(
    bench: &mut Bench,
    server: &Cluster,
    client: &Client,
    echo: &mut Echo,
) -> anyhow::Result<()> {
    let (mut log, mut metadata, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    let (mut took, mut floor) = (Quantiles::default(), Quantiles::default());
    for number in 0..bench.choose(COUNTED, COUNTED / 4) {
        let stream = create(client, &format!("counted{number}")).await?;
        let before = Counts::of(server)?;
        took.add(split(client, &stream).await?);
        let after = Counts::of(server)?;
        log.push(after.log_syncs - before.log_syncs);
        metadata.push(after.metadata_syncs - before.metadata_syncs);
        requests.push(after.requests - before.requests);
        (0..5).try_for_each(|_| echo.ping().map(|ping| floor.add(ping)))?;
    }
    let syncs: Vec<f64> = log.iter().zip(&metadata).map(|(a, b)| a + b).collect();
    let row = Row::new("1 → 2, nobody writes")
        .number("log syncs", median(log))
        .number("meta syncs", median(metadata))
        .number("requests", median(requests.clone()))
        .number("p50 µs", took.micros(0.5))
        .number("ping+sync", floor.micros(0.5));
    bench.report.row(&row)?;
    let report = &mut bench.report;
    report.figure("syncs of a split", median(syncs), Goal::AtMost(4.0), false)?;
    report.figure(
        "requests of a split to the segment store",
        median(requests),
        Goal::AtMost(6.0),
        false,
    )?;
    let bound = 4.0 * floor.micros(0.5) + 5_000.0;
    report.figure(
        "split: new epoch visible / (4 × (ping + sync) + 5 ms)",
        took.micros(0.5) / bound,
        Goal::AtMost(1.0),
        floor.noisy(),
    )
}

async fn gaps(bench: &mut Bench, client: &Client, echo: &mut Echo) -> anyhow::Result<()> {
    let (mut quiet, mut around) = (Quantiles::default(), Quantiles::default());
    let (mut sync_and_ping, mut written) = (Quantiles::default(), 0);
    let stream = create(client, "gaps").await?;
    let writer = client.event_writer(&stream).await?;
    for _ in 0..bench.choose(UNDER_LOAD, UNDER_LOAD / 5) {
        let still = async {
            tokio::time::sleep(AROUND * 2).await;
            anyhow::Ok(())
        };
        quiet.add(longest_gap(&writer, &mut written, still).await?);
        let splitting = async {
            tokio::time::sleep(AROUND).await;
            split(client, &stream).await?;
            tokio::time::sleep(AROUND).await;
            Ok(())
        };
        around.add(longest_gap(&writer, &mut written, splitting).await?);
        merge(client, &stream).await?;
        (0..5).try_for_each(|_| echo.ping().map(|ping| sync_and_ping.add(ping)))?;
    }
    writer.flush().await?;
    let mut reader = client
        .event_reader(&stream, From::Head, Until::Tail)
        .await?;
    let mut read = 0;
    while let Some(event) = reader.next().await? {
        let number = event.payload.get(..8).context("an event is too short")?;
        ensure!(
            number == u64::to_be_bytes(read),
            "event {read} is lost, repeated or out of order"
        );
        read += 1;
    }
    ensure!(read == written, "{written} events written, {read} read");
    let row = Row::new("1 → 2, one key, 32 under way")
        .number("gap p50 µs", around.micros(0.5))
        .number("gap p99 µs", around.micros(0.99))
        .number("quiet p50", quiet.micros(0.5))
        .number("quiet p99", quiet.micros(0.99))
        .number("ping+sync", sync_and_ping.micros(0.5));
    bench.report.row(&row)?;
    bench.report.note(&format!(
        "read back: {read} events of one key, in order, none missing"
    ));
    bench.report.figure(
        "gap in acknowledgements around a split / (4 × (ping + sync))",
        around.micros(0.5) / (4.0 * sync_and_ping.micros(0.5)),
        Goal::AtMost(1.0),
        sync_and_ping.noisy(),
    )
}

/// Writes events of one key, as many under way as there may be, until `done`. Returns the longest time
/// between two acknowledgements.
async fn longest_gap(
    writer: &EventWriter,
    written: &mut u64,
    done: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Duration> {
    tokio::pin!(done);
    let mut under_way = VecDeque::new();
    let (mut last, mut longest) = (None, Duration::ZERO);
    loop {
        while under_way.len() < DEPTH {
            let mut event = vec![0; SIZE];
            event[..8].copy_from_slice(&written.to_be_bytes());
            under_way.push_back(writer.write("key", Bytes::from(event)).await?);
            *written += 1;
        }
        let ack = under_way.front_mut().expect("it was just filled");
        tokio::select! {
            biased;
            acknowledged = ack => acknowledged?,
            ended = &mut done => {
                ended?;
                break;
            }
        }
        under_way.pop_front();
        let now = Instant::now();
        longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
        last = Some(now);
        // Those acknowledged together are one acknowledgement.
        while let Some(Some(acknowledged)) = under_way.front_mut().map(|ack| ack.now_or_never()) {
            acknowledged?;
            under_way.pop_front();
        }
    }
    for ack in under_way {
        ack.await?;
    }
    Ok(longest)
}

async fn create(client: &Client, name: &str) -> anyhow::Result<ScopedStream> {
    let stream: ScopedStream = format!("scale/{name}").parse()?;
    client.controller().create_scope(&stream.scope).await?;
    let config = StreamConfig::fixed(1)?;
    client.controller().create_stream(&stream, &config).await?;
    Ok(stream)
}

/// Splits the one segment there is, and returns how long that took.
async fn split(client: &Client, stream: &ScopedStream) -> anyhow::Result<Duration> {
    let owners = client.controller().current_segments(stream).await?;
    ensure!(owners.len() == 1, "there are {} segments", owners.len());
    let halves = KeyRange::FULL.split(2).context("there are halves")?;
    replace(client, stream, &owners, &halves).await
}

async fn merge(client: &Client, stream: &ScopedStream) -> anyhow::Result<()> {
    let owners = client.controller().current_segments(stream).await?;
    replace(client, stream, &owners, &[KeyRange::FULL]).await?;
    Ok(())
}

async fn replace(
    client: &Client,
    stream: &ScopedStream,
    old: &[Owner],
    new: &[KeyRange],
) -> anyhow::Result<Duration> {
    let old: Vec<_> = old.iter().map(|owner| owner.segment).collect();
    let begin = Instant::now();
    let scaling = client.controller().scale(stream, &old, new).await?;
    while !client.controller().is_scaled(stream, scaling.epoch).await? {
        ensure!(
            begin.elapsed() < Duration::from_secs(30),
            "a split is not done after 30 s"
        );
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(begin.elapsed())
}
