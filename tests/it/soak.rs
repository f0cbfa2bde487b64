//! Mixed load with kills, for a while: contents verified, memory bounded, descriptors flat; over enough
//! lives, which only the long run has, memory also flat.
//!
//! The load: the official Java client, in bursts; the official Rust client, writing and reading all the time, kills
//! or not; and writers by hand, whose segments are truncated. Of all three each acknowledged event has to be there
//! once, in order. Neither official client repeats one on its own account when its connection is lost: their
//! writers number events and go on behind the last number that the server has.
//!
//! `SARIT_SOAK_MINUTES=30` goes on for longer than CI does, and kills every 20 to 60 seconds.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sarit_env::Rng;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::TruncateSegment;
use sarit_tests::appender::{Appender, verify};
use sarit_tests::clients::Storm;
use sarit_tests::cluster::{Cluster, Layout, Role, rss};
use sarit_tests::raw::Connection;
use sarit_tests::watch::{Lives, MemoryWatch, RESTLESS, metric, until};
use sarit_tests::workspace::workspace;
use serde_json::Value;

/// How long in CI.
const CI: Duration = Duration::from_secs(40);
/// What the process may take: its default budget, and what a process needs besides.
const RSS_MAX: u64 = (256 + 150) << 20;
/// What may lie between the memory of the first lives and that of the last.
const RSS_DRIFT_MAX: u64 = 64 << 20;
/// The same for descriptors, which are connections and files that come and go.
const DESCRIPTORS_DRIFT_MAX: u64 = 24;
/// Files of the log when all but the slow writers rest: what was flushed and is in a checkpoint is cut off.
const LOG_FILES_MAX: f64 = 10.0;
/// Lives needed to tell a drift from a burst.
const LIVES_TO_COMPARE: usize = 15;
/// Events kept of the segments that are truncated all the time.
const KEPT: i64 = 2_000;
const SIZE: usize = 1_000;
/// Between two appends of a writer by hand, so that half an hour fits a disk.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(120);

/// One life of the server, as it was right before its end.
struct Life {
    rss: u64,
    descriptors: usize,
}

fn look(pid: u32) -> anyhow::Result<Life> {
    Ok(Life {
        rss: rss(pid).unwrap_or(0),
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

fn truncate(address: &str, appender: &Appender) -> anyhow::Result<()> {
    let keep_from = (appender.acked() - KEPT).max(0) * SIZE as i64;
    let command = TruncateSegment {
        request_id: 1,
        segment: appender.segment().to_owned(),
        truncation_offset: keep_from,
        token: String::new(),
    };
    let reply = Connection::greet(address)?.ask(command)?;
    let done = matches!(reply, Reply::SegmentTruncated(_));
    ensure!(done, "truncate at {keep_from}: {reply:?}");
    Ok(())
}

fn soak(cluster: &mut Cluster, logs: &Path) -> anyhow::Result<String> {
    let minutes = std::env::var("SARIT_SOAK_MINUTES").ok();
    let minutes: Option<u64> = minutes.and_then(|text| text.parse().ok());
    let (all, apart) = match minutes {
        Some(minutes) => (Duration::from_secs(60 * minutes), (20, 40)),
        None => (CI, (4, 4)),
    };
    let rng = Rng::from_os();
    let address = cluster.store_addr();
    let options = [
        "--segments",
        "4",
        "--writers",
        "2",
        "--keys",
        "50",
        "--size",
        "1000",
    ];
    let mut storm = Storm::start(&cluster.uri(), "soak", &options, &logs.join("java.log"))?;
    let mut rust = Storm::start_soaking_rust(&cluster.uri(), "soak-rust", &logs.join("rust.log"))?;
    let appenders: Vec<_> = ["soak/a", "soak/b", "soak/c"]
        .map(|segment| Appender::start_paced(&address, segment, SIZE, PAUSE))
        .into();
    let (mut lives, mut seen) = (Lives::default(), Vec::new());
    let mut largest = 0;
    let start = Instant::now();
    while start.elapsed() < all {
        let watch = MemoryWatch::start(cluster);
        let wait = Duration::from_secs(apart.0 + rng.below(apart.1));
        // A short burst by the Java client, then the slow writers alone.
        storm.resume()?;
        std::thread::sleep(Duration::from_secs(1));
        storm.pause()?;
        std::thread::sleep(wait.saturating_sub(Duration::from_secs(1)));
        for appender in &appenders {
            truncate(&address, appender)?;
        }
        let cluster_now = &*cluster;
        until("the log is cut", PATIENCE, || {
            let name = "segmentstore_wal_files";
            Ok(metric(cluster_now, Role::Standalone, name)? <= LOG_FILES_MAX)
        })?;
        lives.wait(cluster, Role::Standalone, PATIENCE)?;
        let mut life = look(cluster.pids()[0])?;
        if seen.len() % 5 == 4 {
            storm.verify().context("the Java client")?;
            rust.check().context("the Rust client")?;
            rust.resume()?;
        }
        storm.resume()?;
        until("appends are in flight", PATIENCE, || {
            Ok(storm.status("inflight")? > 0)
        })?;
        lives.add(cluster, Role::Standalone)?;
        // Descriptors as they were at rest, memory as it is under load.
        life.rss = look(cluster.pids()[0])?.rss;
        seen.push(life);
        largest = largest.max(cluster.rss_peak()).max(watch.largest());
        cluster.kill(Role::Standalone)?;
        cluster.restart_all()?;
    }
    let read = |found: Value| found["read"].as_u64().unwrap_or(0);
    let java = read(storm.verify().context("the Java client")?);
    let rust = read(rust.verify().context("the Rust client")?);
    let mut appended = 0;
    for appender in appenders {
        let segment = appender.segment().to_owned();
        let acked = appender.finish()?;
        let there = verify(&address, &segment, SIZE)?;
        ensure!(
            there == acked,
            "{segment}: {acked} acknowledged, {there} there"
        );
        appended += acked;
    }
    ensure!(largest <= RSS_MAX, "{} MiB of memory", largest >> 20);
    let third = (seen.len() / 3).max(1);
    let (first, last) = (&seen[..third], &seen[seen.len() - third..]);
    let most = |lives: &[Life], what: fn(&Life) -> u64| lives.iter().map(what).max().unwrap_or(0);
    let rss = (most(first, |life| life.rss), most(last, |life| life.rss));
    // Thirds of one or two lives say nothing: the load comes in bursts.
    let drifts = seen.len() >= LIVES_TO_COMPARE;
    ensure!(
        !drifts || rss.1 <= rss.0 + RSS_DRIFT_MAX,
        "memory went from {} to {}",
        rss.0,
        rss.1
    );
    let count = |life: &Life| life.descriptors as u64;
    let descriptors = (most(first, count), most(last, count));
    ensure!(
        descriptors.1 <= descriptors.0 + DESCRIPTORS_DRIFT_MAX,
        "descriptors went from {} to {}",
        descriptors.0,
        descriptors.1
    );
    lives.ensure(&Lives::ALL)?;
    Ok(format!(
        "{} kills, {java} events by Java, {rust} by Rust, {appended} by hand, {} MiB of memory at most, {} → {} MiB, {} → {} descriptors, {lives}",
        seen.len(),
        largest >> 20,
        rss.0 >> 20,
        rss.1 >> 20,
        descriptors.0,
        descriptors.1
    ))
}

#[test]
fn mixed_load_with_kills_leaves_contents_right_and_memory_flat() {
    let folder = workspace("soak").expect("a folder");
    let data = folder.join("data");
    let mut cluster =
        Cluster::start(Layout::Standalone, &data, &folder, &RESTLESS).expect("a server");
    match soak(&mut cluster, &folder) {
        Ok(done) => println!("soak: {done}"),
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}
