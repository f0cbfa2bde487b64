//! Streams that split and merge under load: clients write and read while segments come and go.
//!
//! `STORM_SECONDS` makes the storms longer than the half minute they take in a normal run.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use sarit_client::Client;
use sarit_client::event::{From, Until};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::clients::{Storm, workspace};
use sarit_tests::cluster::{Cluster, Layout};
use sarit_tests::history::{Event, History};
use sarit_tests::scaling::{Achieved, Scaler};

const CHANGE_EVERY: Duration = Duration::from_millis(500);
const KILL_EVERY: Duration = Duration::from_secs(8);

fn duration() -> Duration {
    let seconds = std::env::var("STORM_SECONDS").map(|seconds| seconds.parse());
    Duration::from_secs(seconds.map_or(30, |seconds| seconds.expect("STORM_SECONDS is a number")))
}

fn start(name: &str, layout: Layout) -> (Cluster, PathBuf) {
    let folder = workspace(name).expect("a folder");
    let cluster = Cluster::start(layout, &folder.join("data"), &folder, &[]);
    (cluster.expect("a server"), folder)
}

/// Lets the stream change for as long as a storm takes, killing all processes in between if asked to.
/// Returns what was changed, and how often they were killed.
fn scale(cluster: &mut Cluster, stream: &str, kills: bool) -> anyhow::Result<(Achieved, u32)> {
    let scaler = Scaler::start(&cluster.uri(), "storm", stream, CHANGE_EVERY, kills);
    let end = Instant::now() + duration();
    let mut killed = 0;
    while kills && Instant::now() + KILL_EVERY < end {
        std::thread::sleep(KILL_EVERY);
        cluster.kill_all()?;
        killed += 1;
        cluster.restart_all()?;
    }
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    let achieved = scaler.stop()?;
    ensure!(achieved.changes() > 0, "nothing was scaled: {achieved}");
    Ok((achieved, killed))
}

fn java(name: &str, layout: Layout, options: &[&str], kills: bool) {
    let begun = Instant::now();
    let (mut cluster, folder) = start(name, layout);
    let run = |cluster: &mut Cluster| {
        let log = folder.join("client.log");
        let mut storm = Storm::start_reading(&cluster.uri(), name, options, &log)?;
        let (achieved, killed) = scale(cluster, name, kills)?;
        let found = storm.verify().with_context(|| format!("{achieved}"))?;
        anyhow::Ok((achieved, killed, found))
    };
    match run(&mut cluster) {
        Ok((achieved, killed, found)) => println!(
            "{name}: {achieved}; {killed} kills; {found}; {:.1} s",
            begun.elapsed().as_secs_f64()
        ),
        Err(error) => panic!("{name}: {error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn java_events_survive_random_scaling() {
    java("scale-events", Layout::Standalone, &[], false);
}

#[test]
fn java_events_survive_random_scaling_and_kills() {
    java("scale-kills", Layout::Standalone, &[], true);
}

/// Our own client: as many writers and keys, one reader of everything.
async fn own(uri: &str, stream: &str, stop: Arc<Mutex<bool>>) -> anyhow::Result<String> {
    const WRITERS: u32 = 8;
    const KEYS: u32 = 8;
    const EVENT: usize = 100;
    const UNACKNOWLEDGED: usize = 256;
    let client = Client::connect(uri)?;
    let stream: ScopedStream = format!("storm/{stream}").parse()?;
    client.controller().create_scope(&stream.scope).await?;
    let config = StreamConfig::fixed(1)?;
    client.controller().create_stream(&stream, &config).await?;
    let history = Arc::new(Mutex::new(History::default()));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let writer = client.event_writer(&stream).await?;
        let (history, stop) = (Arc::clone(&history), Arc::clone(&stop));
        writers.spawn(async move {
            let mut waiting = std::collections::VecDeque::new();
            for turn in 0.. {
                if *stop.lock() {
                    break;
                }
                let event = history.lock().next(number, number * KEYS + turn % KEYS);
                let ack = writer
                    .write(&event.routing_key(), event.to_bytes(EVENT))
                    .await?;
                waiting.push_back((event, ack));
                if waiting.len() >= UNACKNOWLEDGED {
                    let (event, ack) = waiting.pop_front().expect("it is full");
                    ack.await?;
                    history.lock().acknowledge(event);
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            }
            for (event, ack) in waiting {
                ack.await?;
                history.lock().acknowledge(event);
            }
            anyhow::Ok(())
        });
    }
    let mut reader = client
        .event_reader(&stream, From::Head, Until::Sealed)
        .await?;
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        while let Some(event) = reader.next().await? {
            read.push(Event::from_bytes(&event.payload));
        }
        anyhow::Ok(read)
    });
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    client.controller().seal_stream(&stream).await?;
    let read = tokio::time::timeout(Duration::from_secs(60), reading);
    let read = read.await.context("the reader did not reach the end")???;
    let history = history.lock();
    let verdict = history.check(read);
    let found = format!("{} acknowledged, {verdict}", history.acknowledged());
    ensure!(verdict.is_clean(), "broken promise: {found}");
    ensure!(
        verdict.read >= history.acknowledged(),
        "read too little: {found}"
    );
    Ok(found)
}

fn ours(name: &str, kills: bool) {
    let (mut cluster, _) = start(name, Layout::Standalone);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stop = Arc::new(Mutex::new(false));
    let uri = cluster.uri();
    let _within = runtime.enter();
    let client = Client::connect(&uri).expect("an address");
    let result = std::thread::scope(|scope| {
        let run = {
            let (runtime, stop) = (&runtime, Arc::clone(&stop));
            let uri = uri.clone();
            scope.spawn(move || runtime.block_on(own(&uri, name, stop)))
        };
        let stream: ScopedStream = format!("storm/{name}").parse().expect("a name");
        let exists = || runtime.block_on(client.controller().stream_exists(&stream));
        while !run.is_finished() && !exists().unwrap_or(false) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let scaled = scale(&mut cluster, name, kills);
        *stop.lock() = true;
        let found = run.join().expect("it does not panic");
        anyhow::Ok((scaled?, found?))
    });
    match result {
        Ok(((achieved, killed), found)) => {
            println!("{name}: {achieved}; {killed} kills; {found}");
        }
        Err(error) => panic!("{name}: {error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn our_events_survive_random_scaling() {
    ours("scale-ours", false);
}

#[test]
fn our_events_survive_random_scaling_and_kills() {
    ours("scale-ours-kills", true);
}
