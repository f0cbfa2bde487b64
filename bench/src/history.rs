//! History: how fast what was moved to long-term storage is read back, beside a loop that sends files; what
//! reading it costs a server that also takes in; how many objects slow segments make.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::watch::{labelled_metric, metric, until};

use crate::Bench;
use crate::drain::{self, Read, files_below, forget};
use crate::figures::{cpu_seconds, median};
use crate::load::{Appender, create, segment_names, tails};
use crate::report::{Goal, Row};

/// Segments that are read, all at once.
const SEGMENTS: usize = 16;
/// Bytes of an append.
const SIZE: usize = 10_000;
/// Appends under way.
const DEPTH: usize = 512;
/// Bytes asked for at once.
const ASKED: usize = 1 << 20;
/// CPU seconds that reading a gigabyte of history may take: a fifth of the official server's 6.2.
const CPU_PER_GB: f64 = 1.24;
/// Appends a second while both goes on.
const RATE: f64 = 10_000.0;
/// Slow segments, in all containers together, and appends to each in a second.
const SLOW_SEGMENTS: usize = 4_000;
const SLOW_RATE: f64 = 1.0;
const SLOW_SIZE: usize = 1_000;
const SLOW_PERIOD: Duration = Duration::from_secs(10);
/// Longest that flushing may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "history",
        "reading back what was moved to long-term storage, a directory",
    );
    let data = bench.dir.join("history");
    let mut server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let bytes = bench.choose(4_000_000_000, 1_000_000_000_u64);
    let segments = segment_names("bench", "history", SEGMENTS);
    let appended = append(&server, &segments, bytes)?;
    let written = written(&server)?;
    // The same for all, so that they are read to the same end.
    let each = appended / SEGMENTS as u64 / SIZE as u64 * SIZE as u64;
    bench.report.figure(
        "bytes to long-term storage per byte of payload",
        written / appended as f64,
        Goal::AtMost(1.1),
        false,
    )?;
    // So that no frame is left in memory.
    let status = server.terminate(Role::Standalone)?;
    ensure!(status.success(), "SIGTERM ended the server with {status}");
    server.restart_all()?;
    catch_up(bench, &server, &data, &segments, each)?;
    both(bench, &server, &data, &segments, each)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    slow(bench)
}

/// Appends so many bytes or a little more and waits until they are in long-term storage. Returns how many.
fn append(server: &Cluster, segments: &[String], bytes: u64) -> anyhow::Result<u64> {
    let address = server.store_addr();
    create(&address, segments)?;
    let window = DEPTH * SIZE;
    let mut left = bytes;
    let mut appender = Appender::new(&address, segments, 1)?;
    let events = appender.run(SIZE, DEPTH, || {
        left = left.saturating_sub(window as u64 / 2);
        left > 0
    })?;
    let (appended, stored) = (events * SIZE as u64, tails(&address, segments)?);
    ensure!(
        stored == appended,
        "{stored} bytes stored, {appended} acknowledged"
    );
    flushed(server)?;
    Ok(appended)
}

/// Waits until nothing lies in the log only.
pub(crate) fn flushed(server: &Cluster) -> anyhow::Result<()> {
    until("all is in long-term storage", PATIENCE, || {
        Ok(metric(server, Role::Standalone, "segmentstore_unflushed_bytes")? == 0.0)
    })
}

fn written(server: &Cluster) -> anyhow::Result<f64> {
    let direction = "direction=\"written\"";
    labelled_metric(server, Role::Standalone, "storage_bytes_total", direction)
}

/// Returns the bytes that came from long-term storage.
fn fetched(server: &Cluster) -> anyhow::Result<f64> {
    let direction = "direction=\"read\"";
    labelled_metric(server, Role::Standalone, "storage_bytes_total", direction)
}

/// Reads all of it, and a loop sends the same files in turns with it.
fn catch_up(
    bench: &mut Bench,
    server: &Cluster,
    data: &Path,
    segments: &[String],
    each: u64,
) -> anyhow::Result<()> {
    let packs = packs(data)?;
    let mut ratios = Vec::new();
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let before = fetched(server)?;
    for _ in 0..bench.choose(3, 1) {
        // There and back again. What came in one piece is sent in one piece.
        let first = read_ours(server, segments, each, &packs)?;
        let length = (first.bytes / first.pieces) as usize;
        let mut loops = Vec::new();
        for _ in 0..2 {
            forget(&packs)?;
            loops.push(drain::files(&packs, length)?);
        }
        let second = read_ours(server, segments, each, &packs)?;
        ratios.push(first.per_second() / loops[0].per_second());
        ratios.push(second.per_second() / loops[1].per_second());
        ours.extend([first, second]);
        raw.extend(loops);
    }
    let source = |source: &str| {
        let label = format!("source=\"{source}\"");
        labelled_metric(
            server,
            Role::Standalone,
            "segmentstore_read_bytes_total",
            &label,
        )
    };
    let from_packs = source("packs")? / (source("frames")? + source("log")? + source("packs")?);
    ensure!(from_packs > 0.99, "only {from_packs} came from packs");
    let asked = ours.iter().map(|read: &Read| read.bytes).sum::<u64>();
    let amplified = (fetched(server)? - before) / asked as f64;
    let cpu = |reads: &[Read]| median(reads.iter().map(Read::cpu_per_gigabyte).collect());
    for (name, reads) in [("by the server", &ours), ("files into a socket", &raw)] {
        let mega = reads.iter().map(|read| read.per_second() / 1e6);
        let piece = reads
            .iter()
            .map(|read| read.bytes as f64 / read.pieces as f64);
        let row = Row::new(name)
            .number("GB", reads[0].bytes as f64 / 1e9)
            .number("MB/s", median(mega.collect()))
            .number("CPU s/GB", cpu(reads))
            .number("KiB/piece", median(piece.collect()) / 1024.0);
        bench.report.row(&row)?;
    }
    let name = "bytes from long-term storage per byte read";
    let most = Goal::AtMost(1.05);
    bench.report.figure(name, amplified, most, false)?;
    let name = "catch-up from packs: MB/s / files into a socket";
    let ratio = median(ratios);
    bench
        .report
        .figure(name, ratio, Goal::AtLeast(0.8), false)?;
    let name = "catch-up from packs: CPU s/GB (0.2 × the official server's 6.2)";
    let most = Goal::AtMost(CPU_PER_GB);
    bench.report.figure(name, cpu(&ours), most, false)
}

/// Returns the files that hold packs.
fn packs(data: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut files = files_below(data)?;
    files.retain(|path| path.components().any(|part| part.as_os_str() == "lts"));
    ensure!(!files.is_empty(), "no packs below {}", data.display());
    Ok(files)
}

fn read_ours(
    server: &Cluster,
    segments: &[String],
    each: u64,
    packs: &[std::path::PathBuf],
) -> anyhow::Result<Read> {
    forget(packs)?;
    let before = cpu_seconds(&server.pids())?;
    let mut read = drain::segments(&server.store_addr(), segments, each, ASKED)?;
    read.cpu_seconds = cpu_seconds(&server.pids())? - before;
    Ok(read)
}

/// Takes in, reads history, and does both at once: the same bytes each time.
fn both(
    bench: &mut Bench,
    server: &Cluster,
    data: &Path,
    segments: &[String],
    each: u64,
) -> anyhow::Result<()> {
    let time = bench.choose(Duration::from_secs(10), Duration::from_secs(4));
    let fresh = segment_names("bench", "taken-in", SEGMENTS);
    create(&server.store_addr(), &fresh)?;
    let mut appender = Appender::new(&server.store_addr(), &fresh, 1 << 64)?;
    let (mut alone, mut together, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let mut apart = |appender: &mut Appender| -> anyhow::Result<()> {
        let ingest = cpu_of(server, || {
            appender.run_at_rate(SIZE, RATE, time)?;
            Ok(())
        })?;
        let history = cpu_of(server, || {
            forget(&packs(data)?)?;
            drain::segments(&server.store_addr(), segments, each, ASKED)?;
            Ok(())
        })?;
        alone.push((ingest, history));
        Ok(())
    };
    let mut at_once = |appender: &mut Appender| -> anyhow::Result<()> {
        let before = fetched(server)?;
        together.push(cpu_of(server, || {
            forget(&packs(data)?)?;
            std::thread::scope(|scope| {
                let ingest = scope.spawn(|| appender.run_at_rate(SIZE, RATE, time));
                drain::segments(&server.store_addr(), segments, each, ASKED)?;
                let ingest = ingest.join();
                ingest.expect("the load does not panic").map(drop)
            })
        })?);
        again.push((fetched(server)? - before) / (each * segments.len() as u64) as f64);
        Ok(())
    };
    for round in 0..bench.choose(4, 1) {
        // What is taken in is compacted later, which may fall on either: each comes first as often.
        if round % 2 == 0 {
            apart(&mut appender)?;
            at_once(&mut appender)?;
        } else {
            at_once(&mut appender)?;
            apart(&mut appender)?;
        }
    }
    let ratios = alone.iter().zip(&together);
    let ratios = ratios.map(|((ingest, history), both)| both / (ingest + history));
    let ratio = median(ratios.collect());
    let row = Row::new(format!("{RATE} appends/s for {time:?}"))
        .number("take in, s", median(alone.iter().map(|a| a.0).collect()))
        .number("read, s", median(alone.iter().map(|a| a.1).collect()))
        .number("both, s", median(together))
        .number("fetched/read", median(again));
    bench.report.row(&row)?;
    let name = "CPU of taking in and reading at once / of each alone";
    bench.report.figure(name, ratio, Goal::AtMost(1.1), false)
}

/// Returns the CPU seconds that something costs the server, until all is in long-term storage again.
fn cpu_of(server: &Cluster, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let before = cpu_seconds(&server.pids())?;
    act()?;
    flushed(server)?;
    Ok(cpu_seconds(&server.pids())? - before)
}

/// Many segments with a little each: how many objects that makes.
fn slow(bench: &mut Bench) -> anyhow::Result<()> {
    let data = bench.dir.join("slow");
    let period = format!(
        "segmentstore.container.flush.period_ms={}",
        SLOW_PERIOD.as_millis()
    );
    let logs = bench.dir.join("logs");
    let server = Cluster::start(Layout::Standalone, &data, &logs, &[&period])?;
    let segments = segment_names("bench", "slow", SLOW_SEGMENTS);
    create(&server.store_addr(), &segments)?;
    let mut appender = Appender::new(&server.store_addr(), &segments, 1)?;
    flushed(&server)?;
    let puts = || {
        let page = server.http(Role::Standalone, "/metrics")?.1;
        let done = page.lines().filter(|line| {
            line.starts_with("storage_requests_total{")
                && line.contains("outcome=\"done\"")
                && line.contains("operation=\"put\"")
        });
        let counts = done.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        anyhow::Ok(counts.sum::<f64>())
    };
    let periods = bench.choose(4, 2);
    let rate = SLOW_SEGMENTS as f64 * SLOW_RATE;
    let (events, puts) = std::thread::scope(|scope| {
        let time = (periods + 2) * SLOW_PERIOD;
        let load = scope.spawn(move || appender.run_at_rate(SLOW_SIZE, rate, time));
        // Whole periods of a load that began before and goes on behind them.
        std::thread::sleep(SLOW_PERIOD);
        let (before, begin) = (puts()?, Instant::now());
        std::thread::sleep((periods * SLOW_PERIOD).saturating_sub(begin.elapsed()));
        let puts = puts()? - before;
        let events = load.join().expect("the load does not panic")?;
        anyhow::Ok((events, puts))
    })?;
    flushed(&server)?;
    let periods = f64::from(periods);
    let row = Row::new(format!(
        "{SLOW_SEGMENTS} segments, {SLOW_PERIOD:?} a period"
    ))
    .number("events", events as f64)
    .number("periods", periods)
    .number("PUTs", puts);
    bench.report.row(&row)?;
    let each = puts / periods / (SLOW_SEGMENTS as f64 / 1e3);
    let name = "PUTs per 1,000 slow segments and flush period";
    bench.report.figure(name, each, Goal::AtMost(1.0), false)?;
    drop(server);
    Ok(std::fs::remove_dir_all(&data)?)
}
