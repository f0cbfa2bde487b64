//! Streams that split and merge under load: clients write and read while segments come and go.
//!
//! `SARIT_STORM_SECONDS` makes the storms longer than the half minute they take in a normal run, or less.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use sarit_client::event::{From, Until};
use sarit_client::transaction::Committing;
use sarit_client::{Client, EventWriter, Transaction, TransactionWriter};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::clients::Storm;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::history::{Event, History};
use sarit_tests::scaling::{Achieved, Scaler};
use sarit_tests::watch::metric;
use sarit_tests::workspace::workspace;

/// How long a storm takes, if nothing else is said; and a short one.
const USUAL: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(12);
const CHANGE_EVERY: Duration = Duration::from_millis(500);
const KILL_EVERY: Duration = Duration::from_secs(8);

/// What happens besides splits and merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Events are written.
    Events,
    /// Events are written, and all processes killed from time to time.
    Kills,
    /// Transactions are written; where segments were replaced meanwhile, their commits roll.
    Transactions,
}

fn duration(otherwise: Duration) -> Duration {
    let seconds = std::env::var("SARIT_STORM_SECONDS").map(|seconds| seconds.parse());
    seconds.map_or(otherwise, |seconds| {
        Duration::from_secs(seconds.expect("SARIT_STORM_SECONDS is a number"))
    })
}

fn start(name: &str, layout: Layout) -> Cluster {
    let folder = workspace(name).expect("a folder");
    let cluster = Cluster::start(layout, &folder.join("data"), &folder, &[]);
    cluster.expect("a server").holding(folder)
}

/// Lets the stream change for so long, killing all processes in between if asked to. Returns what was changed,
/// and how often they were killed.
fn scale(
    cluster: &mut Cluster,
    stream: &str,
    storm: Kind,
    long: Duration,
) -> anyhow::Result<(Achieved, u32)> {
    let kills = storm == Kind::Kills;
    let contended = storm != Kind::Events;
    let scaler = Scaler::start(&cluster.uri(), "storm", stream, CHANGE_EVERY, contended);
    let end = Instant::now() + long;
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

fn java(name: &str, layout: Layout, options: &[&str], storm: Kind) {
    official(name, layout, storm, USUAL, |uri, log| {
        Storm::start_reading(uri, name, options, log)
    });
}

/// Lets an official client write and read the stream `name` while it changes.
fn official(
    name: &str,
    layout: Layout,
    storm: Kind,
    long: Duration,
    client: impl FnOnce(&str, &Path) -> anyhow::Result<Storm>,
) {
    let begun = Instant::now();
    let mut cluster = start(name, layout);
    let run = |cluster: &mut Cluster| {
        let mut client = client(&cluster.uri(), &cluster.folder().join("client.log"))?;
        let (achieved, killed) = scale(cluster, name, storm, duration(long))?;
        let found = client.verify();
        let found = found.map_err(|error| {
            let ours = counted(&cluster.uri(), name);
            error.context(format!("{achieved}; {killed} kills; our reader: {ours:?}"))
        })?;
        anyhow::Ok((achieved, killed, found, rolled(cluster, storm)?))
    };
    match run(&mut cluster) {
        Ok((achieved, killed, found, rolled)) => println!(
            "{name}: {achieved}; {killed} kills; {rolled}{found}; {:.1} s",
            begun.elapsed().as_secs_f64()
        ),
        Err(error) => panic!("{name}: {error:#}\n{}", cluster.log_tail()),
    }
}

/// Says how many commits of a storm of transactions rolled, which some must have.
fn rolled(cluster: &Cluster, storm: Kind) -> anyhow::Result<String> {
    if storm != Kind::Transactions {
        return Ok(String::new());
    }
    let name = "controller_rolling_commits_total";
    let rolled = metric(cluster, Role::Standalone, name)?;
    ensure!(rolled > 0.0, "no commit rolled");
    Ok(format!("{rolled} commits rolled; "))
}

/// How many events our own reader finds in the sealed stream: tells loss from a reader that is late.
fn counted(uri: &str, stream: &str) -> anyhow::Result<usize> {
    let stream: ScopedStream = format!("storm/{stream}").parse()?;
    let reading = async {
        let client = Client::connect(uri)?;
        let reader = client.event_reader(&stream, From::Head, Until::Sealed);
        let (mut reader, mut events) = (reader.await?, 0);
        while reader.next().await?.is_some() {
            events += 1;
        }
        anyhow::Ok(events)
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), reading).await? })
}

#[test]
fn java_events_survive_random_scaling() {
    java("scale-events", Layout::Standalone, &[], Kind::Events);
}

#[test]
fn java_events_survive_random_scaling_and_kills() {
    java("scale-kills", Layout::Standalone, &[], Kind::Kills);
}

#[test]
fn java_events_survive_random_scaling_on_two_stores() {
    java("scale-two-stores", Layout::TwoStores, &[], Kind::Events);
}

#[test]
fn java_transactions_survive_random_scaling() {
    let options = ["--transaction", "16", "--rate", "250"];
    java(
        "scale-transactions",
        Layout::Standalone,
        &options,
        Kind::Transactions,
    );
}

#[test]
fn rust_events_survive_random_scaling() {
    let name = "scale-rust";
    official(name, Layout::Standalone, Kind::Events, USUAL, |uri, log| {
        Storm::start_reading_rust(uri, name, log)
    });
}

/// It is the Rust client with another language around it, and takes its time to start.
#[test]
fn python_events_survive_random_scaling() {
    let name = "scale-python";
    official(name, Layout::Standalone, Kind::Events, SHORT, |uri, log| {
        Storm::start_reading_python(uri, name, log)
    });
}

/// Our own client: as many writers and keys, one reader of everything.
async fn own(
    uri: &str,
    stream: &str,
    storm: Kind,
    stop: Arc<Mutex<bool>>,
) -> anyhow::Result<String> {
    let client = Client::connect(uri)?;
    let stream: ScopedStream = format!("storm/{stream}").parse()?;
    client.controller().create_scope(&stream.scope).await?;
    let config = StreamConfig::fixed(1)?;
    client.controller().create_stream(&stream, &config).await?;
    let history = Arc::new(Mutex::new(History::default()));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let author = Author {
            number,
            history: Arc::clone(&history),
            stop: Arc::clone(&stop),
        };
        match storm {
            Kind::Events | Kind::Kills => {
                writers.spawn(author.events(client.event_writer(&stream).await?))
            }
            Kind::Transactions => {
                writers.spawn(author.transactions(client.transaction_writer(&stream, LEASE_MS)))
            }
        };
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

const WRITERS: u32 = 8;
const KEYS: u32 = 8;
const EVENT: usize = 100;
const UNACKNOWLEDGED: usize = 256;
const LEASE_MS: u64 = 30_000;
const TRANSACTION_EVENTS: u32 = 16;
/// Every so many, one is aborted and its events written again.
const ABORT_EVERY: u32 = 5;
/// Of one writer.
const COMMITTING: usize = 4;

struct Author {
    number: u32,
    history: Arc<Mutex<History>>,
    stop: Arc<Mutex<bool>>,
}

impl Author {
    fn next(&self, turn: u32) -> Event {
        let key = self.number * KEYS + turn % KEYS;
        self.history.lock().next(self.number, key)
    }

    async fn events(self, writer: EventWriter) -> anyhow::Result<()> {
        let mut waiting = VecDeque::new();
        for turn in 0.. {
            if *self.stop.lock() {
                break;
            }
            let event = self.next(turn);
            let bytes = event.to_bytes(EVENT);
            let ack = writer.write(&event.routing_key(), bytes).await?;
            waiting.push_back((event, ack));
            if waiting.len() >= UNACKNOWLEDGED {
                let (event, ack) = waiting.pop_front().expect("it is full");
                ack.await?;
                self.history.lock().acknowledge(event);
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
        for (event, ack) in waiting {
            ack.await?;
            self.history.lock().acknowledge(event);
        }
        Ok(())
    }

    async fn transactions(self, writer: TransactionWriter) -> anyhow::Result<()> {
        let mut waiting: VecDeque<(Vec<Event>, Committing)> = VecDeque::new();
        for turn in 0.. {
            if *self.stop.lock() {
                break;
            }
            let numbers = 0..TRANSACTION_EVENTS;
            let events: Vec<Event> = numbers
                .map(|number| self.next(turn * TRANSACTION_EVENTS + number))
                .collect();
            if turn % ABORT_EVERY == ABORT_EVERY - 1 {
                filled(&writer, &events).await?.abort().await?;
            }
            let committing = filled(&writer, &events).await?.commit().await?;
            waiting.push_back((events, committing));
            if waiting.len() >= COMMITTING {
                self.settle(waiting.pop_front()).await?;
            }
        }
        while !waiting.is_empty() {
            self.settle(waiting.pop_front()).await?;
        }
        Ok(())
    }

    async fn settle(&self, oldest: Option<(Vec<Event>, Committing)>) -> anyhow::Result<()> {
        let (events, committing) = oldest.context("nothing is committing")?;
        committing.wait().await?;
        let mut history = self.history.lock();
        events
            .into_iter()
            .for_each(|event| history.acknowledge(event));
        Ok(())
    }
}

async fn filled(writer: &TransactionWriter, events: &[Event]) -> anyhow::Result<Transaction> {
    let transaction = writer.begin().await?;
    for event in events {
        let bytes = event.to_bytes(EVENT);
        transaction.write(&event.routing_key(), bytes).await?;
    }
    Ok(transaction)
}

fn ours(name: &str, storm: Kind) {
    let mut cluster = start(name, Layout::Standalone);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stop = Arc::new(Mutex::new(false));
    let uri = cluster.uri();
    let _within = runtime.enter();
    let client = Client::connect(&uri).expect("an address");
    let result = std::thread::scope(|scope| {
        let run = {
            let (runtime, stop) = (&runtime, Arc::clone(&stop));
            let uri = uri.clone();
            scope.spawn(move || runtime.block_on(own(&uri, name, storm, stop)))
        };
        let stream: ScopedStream = format!("storm/{name}").parse().expect("a name");
        let exists = || runtime.block_on(client.controller().stream_exists(&stream));
        while !run.is_finished() && !exists().unwrap_or(false) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let scaled = scale(&mut cluster, name, storm, duration(USUAL));
        *stop.lock() = true;
        let found = run.join().expect("it does not panic");
        anyhow::Ok((scaled?, found?, rolled(&cluster, storm)?))
    });
    match result {
        Ok(((achieved, killed), found, rolled)) => {
            println!("{name}: {achieved}; {killed} kills; {rolled}{found}");
        }
        Err(error) => panic!("{name}: {error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn our_events_survive_random_scaling() {
    ours("scale-ours", Kind::Events);
}

#[test]
fn our_events_survive_random_scaling_and_kills() {
    ours("scale-ours-kills", Kind::Kills);
}

#[test]
fn our_transactions_survive_random_scaling() {
    ours("scale-ours-transactions", Kind::Transactions);
}
