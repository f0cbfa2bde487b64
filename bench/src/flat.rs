//! The same appends on few and on many segments, by raw wire: what a segment more costs the server. Each
//! append carries one event, so that a client's batching, which many segments thin out, plays no part.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_tests::cluster::{Cluster, Layout};

use crate::Bench;
use crate::append::SEGMENTS;
use crate::figures::median;
use crate::load::{Appender, create, segment_names, tails};
use crate::report::{Goal, Row};
use crate::server::{Spent, Usage};

/// Connections, each with a thread.
const CONNECTIONS: usize = 4;
/// Appends under way over all of them.
const DEPTH: usize = 1_024;
/// Bytes of one append.
const SIZE: usize = 1_000;

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let time = bench.choose(Duration::from_millis(1_500), Duration::from_millis(500));
    let about = "1,000 B appends of one event by raw wire, 4 connections, 1,024 under way";
    bench.report.section("append, flat over segments", about);
    let data = bench.dir.join("flat");
    let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let mut loads = Vec::new();
    for segments in SEGMENTS {
        loads.push(Load::new(&server, segments)?);
    }
    // There and back again, so that a drift of the machine cancels out.
    let order = (0..loads.len()).chain((0..loads.len()).rev());
    let order: Vec<_> = order.collect();
    for _ in 0..bench.choose(2, 1) {
        for at in &order {
            loads[*at].run(&server, time)?;
        }
    }
    for load in &loads {
        bench.report.row(&load.row())?;
    }
    let cpu = |load: &Load| median(load.cpu_per_event.clone());
    let ratio = cpu(&loads[SEGMENTS.len() - 1]) / cpu(&loads[0]);
    let name = "one event per append: CPU per event, 1,000 segments / 1";
    bench.report.figure(name, ratio, Goal::AtMost(1.5), false)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// Appends to so many segments.
struct Load {
    segments: Vec<String>,
    appenders: Vec<Appender>,
    events: u64,
    spent: Spent,
    cpu_per_event: Vec<f64>,
}

impl Load {
    fn new(server: &Cluster, count: usize) -> anyhow::Result<Self> {
        let segments = segment_names("bench", &format!("flat{count}"), count);
        create(&server.store_addr(), &segments)?;
        let mut appenders = Vec::new();
        for number in 0..CONNECTIONS {
            // Each connection has its part of the segments, or all where there are too few.
            let part: Vec<_> = match count / CONNECTIONS {
                0 => segments.clone(),
                part => segments
                    .iter()
                    .skip(number * part)
                    .take(part)
                    .cloned()
                    .collect(),
            };
            let first_writer = ((count * CONNECTIONS + number) as u128) << 32;
            appenders.push(Appender::new(&server.store_addr(), &part, first_writer)?);
        }
        Ok(Self {
            segments,
            appenders,
            events: 0,
            spent: Spent::default(),
            cpu_per_event: Vec::new(),
        })
    }

    fn run(&mut self, server: &Cluster, time: Duration) -> anyhow::Result<()> {
        let before = Usage::of(server)?;
        let end = Instant::now() + time;
        let depth = DEPTH / CONNECTIONS;
        let events = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for appender in &mut self.appenders {
                threads
                    .push(scope.spawn(move || appender.run(SIZE, depth, || Instant::now() < end)));
            }
            let joined = threads.into_iter().map(|thread| thread.join());
            let counts = joined.map(|count| count.expect("the load does not panic"));
            counts.sum::<anyhow::Result<u64>>()
        })?;
        let spent = Usage::of(server)?.since(&before);
        self.events += events;
        self.cpu_per_event
            .push(spent.cpu_seconds / events.max(1) as f64);
        self.spent.add(&spent);
        let stored = tails(&server.store_addr(), &self.segments)?;
        let appended = self.events * SIZE as u64;
        ensure!(
            stored == appended,
            "{stored} bytes stored, {appended} acknowledged"
        );
        Ok(())
    }

    fn row(&self) -> Row {
        let (events, spent) = (self.events as f64, &self.spent);
        Row::new(format!("{} segments", self.segments.len()))
            .number("events/s", events / spent.seconds)
            .number("CPU s/M", median(self.cpu_per_event.clone()) * 1e6)
            .number("syncs/ack", spent.syncs / events)
            .number("KiB/sync", spent.wal_bytes / spent.syncs.max(1.0) / 1024.0)
            .number(
                "KiB/frame",
                spent.wal_bytes / spent.frames.max(1.0) / 1024.0,
            )
    }
}
