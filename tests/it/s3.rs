//! History in S3: more than memory, with a server that is killed, and a store that refuses, stalls, or
//! lies.
//!
//! `SARIT_S3_MIB=20480` writes more than CI does, half of it by the official Java client, which also reads its
//! half back, and stalls for longer than a request may take.
//! `SARIT_WEED=/path/to/weed` has SeaweedFS for the store instead of moto; then the store is killed too, twice
//! while it is written to and once before all is read.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_proto::wire::command::ReadSegment;
use sarit_tests::appender::{Appender, bounds, verify};
use sarit_tests::clients::Storm;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::raw::Connection;
use sarit_tests::s3::{Proxy, S3Server};
use sarit_tests::watch::{MemoryWatch, labelled_metric, metric, until};
use sarit_tests::workspace::{Workspace, workspace};

/// Megabytes in CI.
const CI_MIB: u64 = 160;
const SIZE: usize = 32_000;
/// What the process may take: its default budget, and what a process needs besides.
const RSS_MAX: u64 = (256 + 150) << 20;
/// Least share of the bytes read that must come from long-term storage.
const FROM_PACKS: f64 = 0.99;
/// How long nobody is answered: in CI, and with more to write, when requests are given up.
const STALL: Duration = Duration::from_secs(5);
const STALL_LONG: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two appends of a writer by hand: about what the store behind takes on a busy machine. Else the
/// store, or its absence, would say how much is written.
const PAUSE: Duration = Duration::from_millis(8);

const STORE: Role = Role::Standalone;

fn start(name: &str) -> anyhow::Result<(Workspace, S3Server, Proxy)> {
    let folder = workspace(name)?;
    let server = S3Server::start(&folder)?;
    let proxy = Proxy::start(&server)?;
    Ok((folder, server, proxy))
}

/// How long so many bytes may take on their way.
fn patience(bytes: u64) -> Duration {
    PATIENCE * (1 + (bytes >> 30) as u32)
}

/// Who writes.
struct Load {
    appenders: Vec<Appender>,
    /// The official Java client, where there is much to write.
    storm: Option<Storm>,
}

impl Load {
    fn start(cluster: &Cluster, java: Option<&Path>) -> anyhow::Result<Self> {
        let storm = java.map(|log| {
            let size = SIZE.to_string();
            let options = ["--segments", "4", "--writers", "4", "--keys", "100"];
            let options = [&options[..], &["--size", &size]].concat();
            Storm::start(&cluster.uri(), "s3", &options, log)
        });
        let address = cluster.store_addr();
        let segments = ["s3/a", "s3/b", "s3/c", "s3/d"];
        let start = |segment| Appender::start_paced(&address, segment, SIZE, PAUSE);
        Ok(Self {
            storm: storm.transpose()?,
            appenders: segments.map(start).into(),
        })
    }

    /// Waits until so many bytes are acknowledged, all writers together; the Java client stops at its half.
    fn wait_written(&mut self, bytes: u64) -> anyhow::Result<()> {
        let patience = patience(bytes);
        let half = if self.storm.is_some() { 2 } else { 1 };
        if let Some(storm) = &mut self.storm {
            storm.resume()?;
            until("Java has written it", patience, || {
                Ok(storm.status("acked")? * SIZE as u64 >= bytes / 2)
            })?;
            storm.pause()?;
        }
        until("it is written", patience, || {
            let events: i64 = self.appenders.iter().map(Appender::acked).sum();
            Ok(events as u64 * SIZE as u64 >= bytes / half)
        })
    }

    /// Has the Java client write again, so that a kill meets it.
    fn resume(&mut self) -> anyhow::Result<()> {
        let Some(storm) = &mut self.storm else {
            return Ok(());
        };
        storm.resume()?;
        until("appends are in flight", PATIENCE, || {
            Ok(storm.status("inflight")? > 0)
        })
    }
}

fn memory(cluster: &Cluster, watch: &MemoryWatch) -> anyhow::Result<u64> {
    // The kernel's own high-water mark sees what lies between two looks.
    let peak = cluster.rss_peak().max(watch.largest());
    ensure!(peak <= RSS_MAX, "{} MiB of memory", peak >> 20);
    Ok(peak >> 20)
}

/// What cannot be read now ends the reader's connection, and nothing else.
fn read_in_vain(cluster: &Cluster, segment: &str) -> anyhow::Result<()> {
    let address = cluster.store_addr();
    let mut connection = Connection::greet(&address)?;
    let (start, length) = bounds(&mut connection, segment)?;
    let read = ReadSegment {
        segment: segment.to_owned(),
        offset: start + (length - start) / 3,
        suggested_length: 100_000,
        token: String::new(),
        request_id: 9,
    };
    let answer = connection.ask(read);
    ensure!(answer.is_err(), "read without a store: {answer:?}");
    bounds(&mut Connection::greet(&address)?, segment)?;
    Ok(())
}

/// Kills the store while it is written to, and starts it again when that has been noticed and more has
/// come; returns how long that took, until the store had something written again.
fn outage(
    cluster: &Cluster,
    server: &mut S3Server,
    appenders: &[Appender],
) -> anyhow::Result<Duration> {
    let count = |name| metric(cluster, STORE, name);
    let failures = count("segmentstore_flush_failures_total")?;
    let begin = Instant::now();
    server.kill()?;
    until("failures are counted", PATIENCE, || {
        Ok(count("segmentstore_flush_failures_total")? > failures)
    })?;
    let acked = |appenders: &[Appender]| -> i64 { appenders.iter().map(Appender::acked).sum() };
    let before = acked(appenders);
    until("appends go on without a store", PATIENCE, || {
        Ok(acked(appenders) > before)
    })?;
    server.restart()?;
    let flushed = count("segmentstore_flushed_bytes_total")?;
    until("flushes go on", PATIENCE, || {
        Ok(count("segmentstore_flushed_bytes_total")? > flushed)
    })?;
    Ok(begin.elapsed())
}

fn weather(
    cluster: &mut Cluster,
    server: &mut S3Server,
    proxy: &Proxy,
    bytes: u64,
    stall: Duration,
    java: Option<&Path>,
) -> anyhow::Result<String> {
    let address = cluster.store_addr();
    let mut load = Load::start(cluster, java)?;
    let watch = MemoryWatch::start(cluster);
    let mut outages = Vec::new();
    load.wait_written(bytes / 8)?;
    if server.survives_kills() {
        outages.push(outage(cluster, server, &load.appenders)?);
    }
    load.wait_written(bytes / 4)?;
    // One request in five is refused, and the server is killed.
    proxy.refuse(200);
    load.wait_written(bytes / 2)?;
    let mut largest = memory(cluster, &watch)?;
    load.resume()?;
    cluster.kill(STORE)?;
    cluster.restart_all()?;
    let watch = MemoryWatch::start(cluster);
    load.wait_written(5 * bytes / 8)?;
    if server.survives_kills() {
        outages.push(outage(cluster, server, &load.appenders)?);
    }
    load.wait_written(3 * bytes / 4)?;
    // Nobody is answered, and appends go on.
    proxy.refuse(0);
    proxy.stall(true);
    let stalled = Instant::now();
    load.wait_written(bytes)?;
    until("requests hang", PATIENCE, || Ok(proxy.counts().2 > 0))?;
    std::thread::sleep(stall.saturating_sub(stalled.elapsed()));
    proxy.stall(false);
    proxy.refuse(1000);
    until("failures are counted", PATIENCE, || {
        Ok(metric(cluster, STORE, "segmentstore_flush_failures_total")? > 0.0)
    })?;
    proxy.refuse(0);
    for appender in &load.appenders {
        appender.stop();
    }
    let mut written = Vec::new();
    for appender in load.appenders {
        let segment = appender.segment().to_owned();
        written.push((segment, appender.finish()?));
    }
    if let Some(storm) = &mut load.storm {
        until("what is in flight is acknowledged", PATIENCE, || {
            Ok(storm.status("inflight")? == 0)
        })?;
    }
    until("all is flushed", patience(bytes), || {
        Ok(metric(cluster, STORE, "segmentstore_unflushed_bytes")? == 0.0)
    })?;
    largest = largest.max(memory(cluster, &watch)?);
    cluster.kill(STORE)?;
    if server.survives_kills() {
        // Both start at once; nobody has to be there first.
        server.restart()?;
    }
    cluster.restart_all()?;
    server.wait_ready()?;
    let watch = MemoryWatch::start(cluster);
    proxy.refuse(1000);
    read_in_vain(cluster, "s3/a")?;
    proxy.refuse(0);
    let mut events = 0;
    for (segment, acked) in &written {
        let there = verify(&address, segment, SIZE)?;
        ensure!(
            there == *acked,
            "{segment}: {acked} acknowledged, {there} there"
        );
        events += there;
    }
    if let Some(storm) = &mut load.storm {
        let found = storm.verify()?;
        println!("s3: the Java client found {found}");
        events += found["read"].as_i64().unwrap_or(0);
    }
    let name = "segmentstore_read_bytes_total";
    let packs = labelled_metric(cluster, STORE, name, "source=\"packs\"")?;
    let share = packs / metric(cluster, STORE, name)?;
    let all = events as u64 * SIZE as u64;
    ensure!(packs >= all as f64, "only {packs} bytes came from packs");
    ensure!(share >= FROM_PACKS, "{share} of the bytes came from packs");
    largest = largest.max(memory(cluster, &watch)?);
    let (requests, refusals, stalls) = proxy.counts();
    ensure!(refusals > 0 && stalls > 0, "the weather was fine");
    let share = 100.0 * share;
    Ok(format!(
        "{} MiB in {}, {requests} requests, {refusals} refused, {stalls} stalled, the store killed for \
         {outages:.1?}, {largest} MiB of memory at most, {share:.2} % read from packs",
        all >> 20,
        server.name()
    ))
}

#[test]
fn history_in_s3_survives_kills_refusals_and_stalls() {
    let begin = Instant::now();
    let mib = std::env::var("SARIT_S3_MIB").ok();
    let mib = mib.and_then(|text| text.parse().ok()).unwrap_or(CI_MIB);
    let long = mib > CI_MIB;
    let stall = if long { STALL_LONG } else { STALL };
    let (folder, mut server, proxy) = start("s3").expect("an S3 server");
    let mut settings = proxy.settings("history/of");
    settings.push("segmentstore.container.flush.period_ms=2000".to_owned());
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let data = folder.join("data");
    let mut cluster = Cluster::start(Layout::Standalone, &data, &folder, &settings).expect("it");
    let log = folder.join("client.log");
    let java = long.then_some(log.as_path());
    match weather(&mut cluster, &mut server, &proxy, mib << 20, stall, java) {
        Ok(done) => println!("s3: {done}, {:.0} s", begin.elapsed().as_secs_f64()),
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}

/// Starts a server that must not go on, and returns its last words.
fn refused(folder: &Path, data: &str, settings: &[String]) -> anyhow::Result<String> {
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let data = folder.join(data);
    let mut cluster = Cluster::launch(Layout::Standalone, &data, folder, &settings)?;
    let status = cluster.wait_exit(STORE, Duration::from_secs(60))?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    let log = std::fs::read_to_string(folder.join("standalone.log"))?;
    Ok(log.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn a_store_that_cannot_be_relied_on_is_refused_with_a_sentence() {
    let (folder, _server, proxy) = start("s3-refused").expect("an S3 server");
    let run = || -> anyhow::Result<()> {
        // A place in use.
        let settings = proxy.settings("ours");
        let first: Vec<_> = settings.iter().map(String::as_str).collect();
        let data = folder.join("first");
        let cluster = Cluster::start(Layout::Standalone, &data, &folder, &first)?;
        until("the place is taken", PATIENCE, || Ok(proxy.counts().0 >= 5))?;
        drop(cluster);
        let said = refused(&folder, "second", &settings)?;
        ensure!(said.contains("of another segment store"), "{said}");
        // No such bucket.
        let mut elsewhere = settings.clone();
        elsewhere[0] = "segmentstore.storage.url=s3://not-there/ours".to_owned();
        let said = refused(&folder, "third", &elsewhere)?;
        ensure!(said.contains("there is no such bucket"), "{said}");
        // A store that lies.
        proxy.ignore_conditions();
        let said = refused(&folder, "fourth", &proxy.settings("other"))?;
        ensure!(said.contains("does not heed conditional puts"), "{said}");
        Ok(())
    };
    run().unwrap_or_else(|error| panic!("{error:#}"));
}
