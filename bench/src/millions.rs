//! A million segments: memory while they are created, starts with them beside starts without.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_env::Rng;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::watch::{metric, until};

use crate::Bench;
use crate::figures::median;
use crate::history::flushed;
use crate::load::{Appender, create, segment_names, tails};
use crate::probe::{Expected, first_ack};
use crate::report::{Goal, Row};
use crate::start::alive;

/// Creations under way.
const UNDER_WAY: usize = 4_096;
/// Segments of one stream.
const OF_A_STREAM: usize = 10;
/// Segments that are looked at when most are not in memory.
const LOOKS: u64 = 1_000;
/// Bytes of an event of a store without them: about what a creation writes to the log.
const SIZE: usize = 600;
/// Its events under way: the frames are then about as small as those of creations.
const DEPTH: usize = 16;
/// How long a checkpoint that is written needs to be noted in the log, and the log to be cut, at most.
const CUT: Duration = Duration::from_secs(1);
/// How long each life lasts. Every kill takes one of the log's ready files, the next is made half a second after the
/// start, and without any the first append waits for one.
const LIFE: Duration = Duration::from_secs(1);
/// Longest that a last checkpoint may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let count = bench.choose(1_000_000, 100_000);
    let about =
        "segments created by raw wire; starts after SIGKILL, until the first acknowledged append";
    bench.report.section("millions", about);
    let data = bench.dir.join("millions");
    let mut server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let address = server.store_addr();

    let (begin, before) = (Instant::now(), server.rss_peak());
    for first in (0..count).step_by(UNDER_WAY) {
        let last = (first + UNDER_WAY).min(count);
        let names: Vec<_> = (first..last).map(segment).collect();
        create(&address, &names)?;
    }
    let (seconds, peak) = (begin.elapsed().as_secs_f64(), server.rss_peak());
    let there = metric(&server, Role::Standalone, "segmentstore_segments")?;
    ensure!(
        there >= count as f64,
        "{there} of {count} segments are there"
    );
    let row = Row::new(format!("{count} created"))
        .number("per second", count as f64 / seconds)
        .number("RSS before, MB", before as f64 / 1e6)
        .number("RSS at most, MB", peak as f64 / 1e6);
    bench.report.row(&row)?;
    settled(&server)?;
    let logged = logged(&server)?;

    let with = starts(bench, &mut server)?;
    let (rng, begin) = (Rng::seeded(1), Instant::now());
    for _ in 0..LOOKS {
        let name = segment(rng.below(count as u64) as usize);
        ensure!(tails(&address, &[name])? == 0, "a segment is not as it was");
    }
    let look = begin.elapsed().as_secs_f64() * 1e3 / LOOKS as f64;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    let without = without(bench, logged)?;
    for (name, starts) in [("without", &without), ("with", &with)] {
        let of = |number: fn(&Start) -> f64| median(starts.iter().map(number).collect());
        let row = Row::new(format!("start {name} them"))
            .number("starts", starts.len() as f64)
            .number("ack ms", of(|start| start.acked * 1e3))
            .number("all ready ms", of(|start| start.ready * 1e3))
            .number("RSS MB", of(|start| start.rss / 1e6));
        bench.report.row(&row)?;
    }
    bench.report.note(&format!(
        "a look at one of them, on a connection of its own: {look:.2} ms"
    ));
    let name = format!("{count} segments created: RSS at most, MB");
    let megabytes = peak as f64 / 1e6;
    bench
        .report
        .figure(&name, megabytes, Goal::AtMost(400.0), false)?;
    let typical = |starts: &[Start]| median(starts.iter().map(|start| start.acked).collect());
    let name = format!("start with {count} segments / start without");
    let ratio = typical(&with) / typical(&without);
    bench.report.figure(&name, ratio, Goal::AtMost(1.2), false)
}

/// Waits until long-term storage and a checkpoint have everything, and the log is cut.
fn settled(server: &Cluster) -> anyhow::Result<()> {
    flushed(server)?;
    until("all is in a checkpoint", PATIENCE, || {
        let changed = metric(server, Role::Standalone, "segmentstore_changed_segments")?;
        let name = "segmentstore_checkpoints_under_way";
        Ok(changed == 0.0 && metric(server, Role::Standalone, name)? == 0.0)
    })?;
    std::thread::sleep(CUT);
    Ok(())
}

/// Returns the bytes that were written to the log.
fn logged(server: &Cluster) -> anyhow::Result<f64> {
    metric(
        server,
        Role::Standalone,
        "segmentstore_wal_written_bytes_total",
    )
}

/// Measures starts of a store of few segments whose log has taken in as much, in frames as small: what is left
/// of a log in its last file is read by every start, whatever it is about.
fn without(bench: &Bench, bytes: f64) -> anyhow::Result<Vec<Start>> {
    let data = bench.dir.join("as-much");
    let mut server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let few = segment_names("bench", "few", OF_A_STREAM);
    create(&server.store_addr(), &few)?;
    let mut appender = Appender::new(&server.store_addr(), &few, 1)?;
    while logged(&server)? < bytes {
        let mut left = UNDER_WAY;
        appender.run(SIZE, DEPTH, || {
            left = left.saturating_sub(DEPTH);
            left > 0
        })?;
    }
    drop(appender);
    settled(&server)?;
    let starts = starts(bench, &mut server)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(starts)
}

fn segment(number: usize) -> String {
    let (stream, segment) = (number / OF_A_STREAM, number % OF_A_STREAM);
    format!("bench/stream-{stream}/{segment}.#epoch.0")
}

struct Start {
    acked: f64,
    ready: f64,
    rss: f64,
}

fn starts(bench: &Bench, server: &mut Cluster) -> anyhow::Result<Vec<Start>> {
    let (address, mut expected) = (server.store_addr(), Expected::default());
    (0..bench.choose(9, 3))
        .map(|_| {
            server.kill(Role::Standalone)?;
            let begin = Instant::now();
            server.spawn(Role::Standalone)?;
            let first = first_ack(&address, begin, &mut expected, || alive(server))?;
            server.wait_ready()?;
            let start = Start {
                acked: first.acked,
                ready: begin.elapsed().as_secs_f64(),
                rss: server.rss() as f64,
            };
            std::thread::sleep(LIFE);
            Ok(start)
        })
        .collect()
}
