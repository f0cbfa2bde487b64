//! Containers split between two segment stores: both halves serve, and one that dies takes only its own
//! half with it.

#![allow(
    clippy::disallowed_methods,
    reason = "kills real processes in real time"
)]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use sarit_client::event::{Ack, From, Until};
use sarit_client::segment::Locate as _;
use sarit_client::{Client, EventWriter};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::watch::until;
use sarit_tests::workspace::workspace;

/// How long an acknowledgement may take, on a busy machine, with reconnects.
const PATIENCE: Duration = Duration::from_secs(60);
const STREAMS: usize = 16;

/// A stream of one segment, where that lives, and how many events were acknowledged.
struct Line {
    stream: ScopedStream,
    port: u16,
    writer: EventWriter,
    events: u32,
}

impl Line {
    async fn open(client: &Client, number: usize) -> anyhow::Result<Self> {
        let stream: ScopedStream = format!("halves/line{number}").parse()?;
        let config = StreamConfig::fixed(1)?;
        client.controller().create_stream(&stream, &config).await?;
        let segment = format!("{stream}/0.#epoch.0");
        Ok(Self {
            port: client.controller().locate(&segment).await?.port,
            writer: client.event_writer(&stream).await?,
            stream,
            events: 0,
        })
    }

    async fn write(&mut self) -> anyhow::Result<Ack> {
        let event = self.events.to_be_bytes().to_vec();
        self.events += 1;
        Ok(self.writer.write("key", event).await?)
    }

    /// Reads all there is and checks that it is what was written.
    async fn check(&self, client: &Client) -> anyhow::Result<()> {
        let mut reader = client
            .event_reader(&self.stream, From::Head, Until::Tail)
            .await?;
        let mut read = 0u32;
        while let Some(event) = reader.next().await? {
            ensure!(
                event.payload == read.to_be_bytes().to_vec(),
                "event {read} of {}",
                self.stream
            );
            read += 1;
        }
        ensure!(
            read == self.events,
            "{read} of {} events of {}",
            self.events,
            self.stream
        );
        Ok(())
    }
}

async fn acknowledged(what: &str, acks: Vec<Ack>) -> anyhow::Result<()> {
    for ack in acks {
        let acked = tokio::time::timeout(PATIENCE, ack).await;
        acked.with_context(|| format!("no acknowledgement: {what}"))??;
    }
    Ok(())
}

/// Writes everywhere, kills one store while events for both are on their way, goes on with the other.
async fn kill_one(
    cluster: &mut Cluster,
    client: &Client,
    lines: &mut [Line],
    role: Role,
) -> anyhow::Result<()> {
    let dead = cluster.store_port(role);
    let mut acks = Vec::new();
    for line in &mut *lines {
        acks.push(line.write().await?);
    }
    acknowledged("before the kill", acks).await?;
    cluster.kill(role)?;
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for line in &mut *lines {
        let acks = if line.port == dead {
            &mut there
        } else {
            &mut here
        };
        for _ in 0..20 {
            acks.push(line.write().await?);
        }
    }
    ensure!(
        !here.is_empty() && !there.is_empty(),
        "all streams are in one store"
    );
    acknowledged("the other half, while one is dead", here).await?;
    for line in lines.iter().filter(|line| line.port != dead) {
        line.check(client).await?;
    }
    cluster.spawn(role)?;
    cluster.wait_ready()?;
    acknowledged("the half that was dead", there).await?;
    for line in &*lines {
        line.check(client).await?;
    }
    Ok(())
}

/// One transaction and one split over segments in both stores.
async fn span_both(client: &Client) -> anyhow::Result<()> {
    let stream: ScopedStream = "halves/wide".parse()?;
    let config = StreamConfig::fixed(8)?;
    client.controller().create_stream(&stream, &config).await?;
    let transactions = client.transaction_writer(&stream, 30_000);
    for round in 0..3u32 {
        let transaction = transactions.begin().await?;
        for key in 0..64 {
            let event = format!("{round} {key}").into_bytes();
            transaction.write(&key.to_string(), event).await?;
        }
        transaction.commit().await?.wait().await?;
    }
    let mut reader = client
        .event_reader(&stream, From::Head, Until::Tail)
        .await?;
    let mut read = std::collections::BTreeMap::<String, Vec<String>>::new();
    while let Some(event) = reader.next().await? {
        let text = String::from_utf8(event.payload.to_vec())?;
        let (round, key) = text.split_once(' ').context("an event")?;
        read.entry(key.to_owned())
            .or_default()
            .push(round.to_owned());
    }
    ensure!(
        read.len() == 64 && read.values().all(|rounds| *rounds == ["0", "1", "2"]),
        "{read:?}"
    );
    client.controller().seal_stream(&stream).await?;
    client.controller().delete_stream(&stream).await?;
    Ok(())
}

#[test]
fn a_store_that_is_killed_takes_only_its_half_with_it() {
    let folder = workspace("two-stores").expect("a folder");
    let started = Cluster::start(Layout::TwoStores, &folder.join("data"), &folder, &[]);
    let mut cluster = started.expect("a server");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let run = async |cluster: &mut Cluster| {
        let client = Client::connect(&cluster.uri())?;
        client.controller().create_scope(&"halves".parse()?).await?;
        let mut lines = Vec::new();
        for number in 0..STREAMS {
            lines.push(Line::open(&client, number).await?);
        }
        span_both(&client).await?;
        for role in [Role::SegmentStore, Role::SecondStore] {
            kill_one(cluster, &client, &mut lines, role).await?;
        }
        anyhow::Ok(lines.iter().map(|line| line.events).sum::<u32>())
    };
    match runtime.block_on(run(&mut cluster)) {
        Ok(events) => println!("two-stores: 2 kills, {events} events acknowledged and read"),
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn a_controller_without_all_containers_says_which_are_missing() {
    let folder = workspace("two-stores-missing").expect("a folder");
    let started = Cluster::start(Layout::TwoStores, &folder.join("data"), &folder, &[]);
    let mut cluster = started.expect("a server");
    let mut run = || -> anyhow::Result<()> {
        cluster.kill(Role::SecondStore)?;
        cluster.kill(Role::Controller)?;
        cluster.spawn(Role::Controller)?;
        until("the first store registers again", PATIENCE, || {
            let stores = cluster.http(Role::Controller, "/stores");
            Ok(stores.is_ok_and(|(_, stores)| stores.contains("first_container")))
        })?;
        let (status, why) = cluster.http(Role::Controller, "/health/ready")?;
        ensure!(
            status == 503 && why.contains("2..4 of 4"),
            "{status}: {why}"
        );
        cluster.spawn(Role::SecondStore)?;
        cluster.wait_ready()?;
        let (_, stores) = cluster.http(Role::Controller, "/stores")?;
        let stores: serde_json::Value = serde_json::from_str(&stores)?;
        let firsts = [&stores[0]["first_container"], &stores[1]["first_container"]];
        ensure!(firsts == [0, 2], "{stores}");
        Ok(())
    };
    if let Err(error) = run() {
        panic!("{error:#}\n{}", cluster.log_tail());
    }
}
