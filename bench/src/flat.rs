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
const CONNECTIONS: usize = 8;
/// Bytes of one append.
const SIZE: usize = 1_000;

/// How much is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// So many events a second, on few and on many segments alike: only then are costs comparable, since
    /// what is done once per sync or per read from a socket is shared by as many events.
    PerSecond(u32),
    /// As much as goes with so many under way.
    UnderWay(usize),
}

/// What has the goal: about a third of what this load reaches at best on two cores.
const STEADY: Pace = Pace::PerSecond(50_000);
const FULL: Pace = Pace::UnderWay(1_024);

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let about = "1,000 B appends of one event by raw wire, 8 connections";
    bench.report.section("append, flat over segments", about);
    let (steady, noisy) = measure(bench, STEADY)?;
    let name = "50,000 appends/s of one event: CPU per event, 1,000 segments / 1";
    bench
        .report
        .figure(name, steady, Goal::AtMost(1.5), noisy)?;
    let (full, _) = measure(bench, FULL)?;
    bench.report.note(&format!(
        "1,024 under way, as fast as it goes: CPU per event, 1,000 segments / 1: {full:.2}"
    ));
    Ok(())
}

/// Runs one pace on all numbers of segments and returns the CPU per event on the most as a multiple of
/// that on the fewest, and whether the load fell behind.
fn measure(bench: &mut Bench, pace: Pace) -> anyhow::Result<(f64, bool)> {
    let time = bench.choose(Duration::from_millis(2_000), Duration::from_millis(700));
    let data = bench.dir.join("flat");
    let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let mut loads = Vec::new();
    for segments in SEGMENTS {
        loads.push(Load::new(&server, segments)?);
    }
    // There and back again, so that a drift of the machine cancels out.
    let order = (0..loads.len()).chain((0..loads.len()).rev());
    let order: Vec<_> = order.collect();
    for _ in 0..bench.choose(3, 1) {
        for at in &order {
            loads[*at].run(&server, pace, time)?;
        }
    }
    let mut behind = false;
    for load in &loads {
        bench.report.row(&load.row(pace))?;
        if let Pace::PerSecond(wanted) = pace {
            behind |= (load.events as f64) < 0.95 * f64::from(wanted) * load.wanted_seconds;
        }
    }
    let cpu = |load: &Load| median(load.cpu_per_event.clone());
    let ratio = cpu(&loads[SEGMENTS.len() - 1]) / cpu(&loads[0]);
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok((ratio, behind))
}

/// Appends to so many segments.
struct Load {
    segments: Vec<String>,
    appenders: Vec<Appender>,
    events: u64,
    /// How long it was meant to run.
    wanted_seconds: f64,
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
            wanted_seconds: 0.0,
            spent: Spent::default(),
            cpu_per_event: Vec::new(),
        })
    }

    fn run(&mut self, server: &Cluster, pace: Pace, time: Duration) -> anyhow::Result<()> {
        let before = Usage::of(server)?;
        let end = Instant::now() + time;
        self.wanted_seconds += time.as_secs_f64();
        let events = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for appender in &mut self.appenders {
                threads.push(scope.spawn(move || match pace {
                    Pace::PerSecond(all) => {
                        let part = f64::from(all) / CONNECTIONS as f64;
                        appender.run_at_rate(SIZE, part, time)
                    }
                    Pace::UnderWay(all) => {
                        appender.run(SIZE, all / CONNECTIONS, || Instant::now() < end)
                    }
                }));
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

    fn row(&self, pace: Pace) -> Row {
        let (events, spent) = (self.events as f64, &self.spent);
        let pace = match pace {
            Pace::PerSecond(_) => "steady",
            Pace::UnderWay(_) => "full",
        };
        Row::new(format!("{pace}, {} segments", self.segments.len()))
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
