//! Power cuts under the whole server process, see `sarit_tests::lossyfs`.
//!
//! `SARIT_POWER_ROUNDS=500` cuts the power that often in each mode of the file system.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use sarit_client::Client;
use sarit_client::event::{From, Until};
use sarit_env::Rng;
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::history::{Event, History, Verdict};
use sarit_tests::lossyfs::{Failure, LossyFs, Mode};
use sarit_tests::watch::{Lives, RESTLESS};
use sarit_tests::workspace::workspace;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Cuts in each mode of the file system, unless `SARIT_POWER_ROUNDS` says how many.
const ROUNDS: usize = 10;
const WRITERS: u32 = 4;
const KEYS: u32 = 16;
/// Every so many rounds, of the first [`ROUNDS`], the life before the cut is long enough for everything that is
/// counted.
const LONG_EVERY: usize = 3;
/// Unacknowledged events per writer.
const IN_FLIGHT: usize = 64;
/// Longest that acknowledgements may stay away after a restart.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// The same where data is lost on purpose, and the writers may wait for ever.
const CONTROL_MAX: Duration = Duration::from_secs(5);

fn stream() -> ScopedStream {
    "power/cuts".parse().expect("a valid name")
}

/// Writes without end until told to stop, then waits for what is in flight.
async fn write(
    client: Client,
    writer: u32,
    history: Arc<Mutex<History>>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let events = client.event_writer(&stream()).await?;
    let mut in_flight = VecDeque::new();
    let mut turn = 0;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if !stopping && in_flight.len() < IN_FLIGHT {
            let event = history.lock().next(writer, turn % KEYS);
            turn += 1;
            let ack = events
                .write(&event.routing_key(), event.to_bytes(200))
                .await;
            in_flight.push_back((event, ack?));
            continue;
        }
        let Some((event, ack)) = in_flight.pop_front() else {
            return Ok(());
        };
        ack.await?;
        history.lock().acknowledge(event);
    }
}

async fn read_back(client: &Client, history: &Mutex<History>) -> anyhow::Result<Verdict> {
    let mut reader = client
        .event_reader(&stream(), From::Head, Until::Tail)
        .await?;
    let mut events = Vec::new();
    while let Some(event) = reader.next().await? {
        events.push(Event::from_bytes(&event.payload));
    }
    Ok(history.lock().check(events))
}

/// Cuts the power `rounds` times while events are written; returns what a full read found at the end.
fn cuts(name: &str, mode: Mode, rounds: usize) -> anyhow::Result<Verdict> {
    let start = Instant::now();
    let patience = match mode {
        Mode::SyncsLie => CONTROL_MAX,
        Mode::Strict | Mode::Ordered => RECOVERY_MAX,
    };
    let folder = workspace(name)?;
    let mount = folder.join("disk");
    std::fs::create_dir(&mount)?;
    let rng = Rng::from_os();
    let disk = LossyFs::mount(&mount, rng.split(), mode)?;
    let data = disk.path().join("data");
    let mut cluster = Cluster::start(Layout::Standalone, &data, &folder, &RESTLESS)?;
    let runtime = Runtime::new()?;
    let result = runtime.block_on(async {
        let client = Client::connect(&cluster.uri())?;
        client.controller().create_scope(&stream().scope).await?;
        client.controller().create_stream(&stream(), &StreamConfig::fixed(4)?).await?;
        let history = Arc::new(Mutex::new(History::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(client.clone(), writer, Arc::clone(&history), Arc::clone(&stop)));
        }
        let (mut dropped, mut lives) = (0, Lives::default());
        for round in 0..rounds {
            let acknowledged = history.lock().acknowledged();
            let deadline = Instant::now() + patience;
            while history.lock().acknowledged() < acknowledged + 500 {
                ensure!(Instant::now() < deadline, "round {round}: no acknowledgements");
                if let Some(ended) = writers.try_join_next() {
                    // Restarts are no reason to end.
                    ended?.with_context(|| format!("round {round}: a writer"))?;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if mode != Mode::SyncsLie && round < ROUNDS && round % LONG_EVERY == 0 {
                lives.wait(&cluster, Role::Standalone, patience)?;
            }
            tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
            lives.add(&cluster, Role::Standalone)?;
            if mode != Mode::SyncsLie && round % 2 == 1 {
                // The power goes between a write and its sync. Left to chance, that is a few microseconds.
                disk.fail(Some(Failure::Syncs));
                tokio::time::sleep(Duration::from_millis(rng.below(5))).await;
            }
            cluster.kill(Role::Standalone)?;
            dropped += disk.cut_power().dropped;
            disk.fail(None);
            cluster.restart_all().with_context(|| format!("restart after cut {round}"))?;
        }
        stop.store(true, Ordering::Relaxed);
        let drained = async {
            while let Some(ended) = writers.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(patience, drained).await.context("drain the writers")??;
        let verdict = read_back(&client, &history)
            .await
            .context("read back")?;
        let acknowledged = history.lock().acknowledged();
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        println!(
            "{name}: {rounds} power cuts, {dropped} unsynced bytes dropped, {lives}, {acknowledged} acknowledged, {verdict}, {minutes:.1} min"
        );
        ensure!(dropped > 0, "no cut dropped anything: the layer proves nothing");
        if mode != Mode::SyncsLie {
            lives.ensure(&Lives::ALL)?;
        }
        Ok(verdict)
    });
    runtime.shutdown_background();
    if result.is_err() {
        // The file system goes with this test: keep what the cut left, to look at.
        let mut copy = std::process::Command::new("cp");
        copy.arg("-r")
            .arg(&data)
            .arg(folder.join("kept"))
            .status()?;
        folder.keep();
    }
    result.map_err(|error: anyhow::Error| error.context(cluster.log_tail()))
}

fn rounds() -> usize {
    let rounds = std::env::var("SARIT_POWER_ROUNDS").ok();
    rounds.map_or(ROUNDS, |n| {
        n.parse().expect("SARIT_POWER_ROUNDS is a number")
    })
}

#[test]
fn power_cuts_lose_nothing_where_names_need_a_sync() {
    let verdict = cuts("power-strict", Mode::Strict, rounds()).expect("the rounds run");
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn power_cuts_lose_nothing_where_names_are_ordered() {
    let verdict = cuts("power-ordered", Mode::Ordered, rounds()).expect("the rounds run");
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn with_syncs_off_power_cuts_do_lose_data() {
    // Either the server finds its directory damaged or empty and can't go on, or events are missing.
    match cuts("power-control", Mode::SyncsLie, 3) {
        Ok(verdict) => assert!(
            !verdict.is_clean(),
            "nothing was lost: the layer proves nothing"
        ),
        Err(error) => {
            // A failure before the first cut proves nothing.
            let told = format!("{error:#}");
            let after = [
                "after cut",
                "round 1:",
                "round 2:",
                "drain the writers",
                "read back",
            ];
            assert!(after.iter().any(|what| told.contains(what)), "{told}");
            println!("power-control: {}", error.root_cause());
        }
    }
}
