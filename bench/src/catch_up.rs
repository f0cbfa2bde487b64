//! Reading back what was moved to long-term storage, by the official Java client, on ours and on the official
//! server, after both have started again: what they kept in memory is gone, what the kernel keeps of files is not.

use std::time::Duration;

use anyhow::ensure;
use sarit_tests::cluster::Role;
use sarit_tests::watch::until;

use crate::Bench;
use crate::append::EVENT_HEADER;
use crate::drain::files_below;
use crate::driver::{self, Driver, SCOPE, Target, new_stream, number};
use crate::figures::median;
use crate::history::flushed;
use crate::load::{segment_names, tails};
use crate::reference::{Mode, Reference, Stop};
use crate::report::{Goal, Row};

const SIZE: u64 = 1_000;
const SEGMENTS: usize = 16;
/// Read first, for a server that compiles itself while it works.
const WARM_UP_EVENTS: u64 = 200_000;
/// Longest that the official server may take to move what was written.
const PATIENCE: Duration = Duration::from_secs(300);

/// Streams of one target: one to warm up with, and those that are measured, each read once.
struct Written {
    warm_up: String,
    streams: Vec<String>,
}

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "catch-up",
        "reading back what was moved to long-term storage, by the official Java client",
    );
    bench.with_reference(compare)
}

fn compare(bench: &mut Bench, reference: &Reference) -> anyhow::Result<()> {
    let driver = Driver::compile(bench, reference)?;
    let (events, rounds) = bench.choose((1_000_000, 2), (300_000, 1));
    let data = bench.dir.join("catch-up");
    let (mut server, ours) = driver::ours(bench, &data)?;
    let our_streams = write(&driver, &ours, events, rounds)?;
    flushed(&server)?;
    let status = server.terminate(Role::Standalone)?;
    ensure!(status.success(), "SIGTERM ended the server with {status}");
    server.restart_all()?;
    let ours = Target::ours(bench, &server)?;

    reference.wipe()?;
    reference.up(Mode::Durable)?;
    let theirs = Target::theirs("official, durable", reference);
    driver.ready(&theirs)?;
    let their_streams = write(&driver, &theirs, events, rounds)?;
    let bytes = (WARM_UP_EVENTS + events * rounds) * (SIZE + EVENT_HEADER as u64);
    until("the official server has moved its data", PATIENCE, || {
        Ok(stored(reference)? >= bytes)
    })?;
    reference.stop(Stop::Down)?;
    reference.up(Mode::Durable)?;
    driver.ready(&theirs)?;

    let (mut our_cpu, mut their_cpu) = (Vec::new(), Vec::new());
    let mut both = [
        (&ours, our_streams, &mut our_cpu),
        (&theirs, their_streams, &mut their_cpu),
    ];
    for (target, written, _) in &both {
        read(&driver, target, &written.warm_up, WARM_UP_EVENTS)?;
    }
    for round in 0..rounds as usize {
        for (target, written, cpu) in &mut both {
            let line = read(&driver, target, &written.streams[round], events)?;
            cpu.push(number(&line, "cpu_s_per_gb")?);
            let row = Row::new(format!("1,000 B by Java, {SEGMENTS} seg.: {}", target.name))
                .number("GB", (events * SIZE) as f64 / 1e9)
                .number("MB/s", number(&line, "read_mb_s")?)
                .number("CPU s/GB", number(&line, "cpu_s_per_gb")?)
                .number("client s", number(&line, "client_cpu_s")?)
                .number("RSS MB", number(&line, "rss_mb")?);
            bench.report.row(&row)?;
        }
    }
    reference.stop(Stop::Kill)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    let name = "catch-up by the Java client: CPU per GB / the official server's";
    let ratio = median(our_cpu) / median(their_cpu);
    bench.report.figure(name, ratio, Goal::AtMost(0.2), false)
}

fn write(driver: &Driver, target: &Target, events: u64, rounds: u64) -> anyhow::Result<Written> {
    let write = |events: u64| {
        let stream = new_stream()?;
        let options = [
            ("stream", stream.clone()),
            ("keep", "1".to_owned()),
            ("rate", "0".to_owned()),
            ("size", SIZE.to_string()),
            ("writers", "4".to_owned()),
            ("depth", "1024".to_owned()),
            ("segments", SEGMENTS.to_string()),
            ("events", events.to_string()),
            ("seconds", PATIENCE.as_secs().to_string()),
        ];
        driver.run(target, "write", &options)?;
        let stored = tails(&target.store, &segment_names(SCOPE, &stream, SEGMENTS))?;
        let bytes = events * (SIZE + EVENT_HEADER as u64);
        ensure!(
            stored >= bytes,
            "{}: {stored} bytes stored, {bytes} were to be",
            target.name
        );
        Ok(stream)
    };
    Ok(Written {
        warm_up: write(WARM_UP_EVENTS)?,
        streams: (0..rounds)
            .map(|_| write(events))
            .collect::<anyhow::Result<_>>()?,
    })
}

/// Reads so many events of a stream by a group of one reader, without looking into them.
fn read(
    driver: &Driver,
    target: &Target,
    stream: &str,
    events: u64,
) -> anyhow::Result<serde_json::Value> {
    let options = [
        ("stream", stream.to_owned()),
        ("size", SIZE.to_string()),
        ("events", events.to_string()),
    ];
    let line = driver.run(target, "read", &options)?;
    let received = number(&line, "received")?;
    ensure!(
        received >= events as f64,
        "{}: {received} of {events} events received",
        target.name
    );
    Ok(line)
}

/// Returns the bytes that the official server has in long-term storage.
fn stored(reference: &Reference) -> anyhow::Result<u64> {
    let files = files_below(&reference.long_term_storage())?;
    // It rewrites and removes files meanwhile.
    let sizes = files
        .iter()
        .filter_map(|file| file.metadata().ok().map(|file| file.len()));
    Ok(sizes.sum())
}
