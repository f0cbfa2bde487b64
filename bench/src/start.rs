//! From the server's exec to its first acknowledged append: on an empty directory, after a clean stop,
//! and after a kill with a gigabyte written. The same for the official server.

use std::time::Instant;

use anyhow::ensure;
use sarit_tests::cluster::{Cluster, Layout, Role, rss};

use crate::Bench;
use crate::figures::{cpu_seconds, median};
use crate::probe::{Expected, FirstAck, fill, first_ack};
use crate::reference::{Mode, Reference, Stop};
use crate::report::{Goal, Row};

/// What is there before the kill.
const WRITTEN: u64 = 1_000_000_000;
/// One append of it.
const APPEND: usize = 1_000_000;

/// Starts of one server.
#[derive(Default)]
struct Starts {
    empty: Vec<Start>,
    stopped: Vec<Start>,
    killed: Vec<Start>,
}

struct Start {
    first_ack: FirstAck,
    cpu_seconds: f64,
    rss: f64,
}

impl Start {
    fn new(first_ack: FirstAck, pids: &[u32]) -> anyhow::Result<Self> {
        let rss: u64 = pids.iter().filter_map(|pid| rss(*pid)).sum();
        Ok(Self {
            first_ack,
            cpu_seconds: cpu_seconds(pids)?,
            rss: rss as f64,
        })
    }
}

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "start",
        "from the server's exec to its first acknowledged append, by raw wire",
    );
    let mut ours = Starts::default();
    for round in 0..bench.choose(9, 3) {
        // The kill costs a gigabyte each time.
        let kill = round < bench.choose(3, 1);
        start_ours(bench, round, kill, &mut ours)?;
    }
    print(bench, "sarit", &ours)?;
    let Some(reference) = bench.reference.take() else {
        bench.report.note("no --reference: nothing to compare with");
        return Ok(());
    };
    let theirs = start_theirs(&reference, bench.choose(2, 1));
    bench.reference = Some(reference);
    let theirs = theirs?;
    print(bench, "the official server", &theirs)?;
    let ratio = |ours: &[Start], theirs: &[Start]| typical(ours) / typical(theirs);
    for (name, ratio, bound) in [
        (
            "empty directory: sarit / the official server",
            ratio(&ours.empty, &theirs.empty),
            0.1,
        ),
        (
            "after a clean stop: sarit / the official server",
            ratio(&ours.stopped, &theirs.stopped),
            0.1,
        ),
        (
            "killed with 1 GB: sarit / the official server",
            ratio(&ours.killed, &theirs.killed),
            0.2,
        ),
    ] {
        bench
            .report
            .figure(name, ratio, Goal::AtMost(bound), false)?;
    }
    Ok(())
}

fn start_ours(bench: &Bench, round: usize, kill: bool, starts: &mut Starts) -> anyhow::Result<()> {
    let data = bench.dir.join(format!("start-{round}"));
    let mut expected = Expected::default();
    let begin = Instant::now();
    let mut server = Cluster::launch(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let address = server.store_addr();
    let first = first_ack(&address, begin, &mut expected, || alive(&server))?;
    starts.empty.push(Start::new(first, &server.pids())?);
    server.wait_ready()?;
    let status = server.terminate(Role::Standalone)?;
    ensure!(status.success(), "SIGTERM ended the server with {status}");

    let begin = Instant::now();
    server.spawn(Role::Standalone)?;
    let first = first_ack(&address, begin, &mut expected, || alive(&server))?;
    starts.stopped.push(Start::new(first, &server.pids())?);
    if kill {
        fill(&address, WRITTEN, APPEND, &mut expected)?;
        server.kill(Role::Standalone)?;
        let begin = Instant::now();
        server.spawn(Role::Standalone)?;
        let first = first_ack(&address, begin, &mut expected, || alive(&server))?;
        starts.killed.push(Start::new(first, &server.pids())?);
    }
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// Fails if the server has ended. Its zombie stays until it is waited for, without memory.
pub(crate) fn alive(server: &Cluster) -> anyhow::Result<()> {
    let running = server.pids().into_iter().all(|pid| rss(pid).is_some());
    ensure!(running, "the server has ended:\n{}", server.log_tail());
    Ok(())
}

fn start_theirs(reference: &Reference, rounds: usize) -> anyhow::Result<Starts> {
    let mut starts = Starts::default();
    let start = |expected: &mut Expected| {
        let begin = Instant::now();
        let mut up = reference.launch(Mode::Durable)?;
        let first = first_ack(&reference.store_addr(), begin, expected, || Ok(()))?;
        ensure!(up.wait()?.success(), "the official server did not start");
        Start::new(first, &reference.pids()?)
    };
    for _ in 0..rounds {
        reference.wipe()?;
        let mut expected = Expected::default();
        starts.empty.push(start(&mut expected)?);
        reference.stop(Stop::Down)?;
        starts.stopped.push(start(&mut expected)?);
        fill(&reference.store_addr(), WRITTEN, APPEND, &mut expected)?;
        reference.stop(Stop::Kill)?;
        starts.killed.push(start(&mut expected)?);
        reference.stop(Stop::Kill)?;
    }
    reference.wipe()?;
    Ok(starts)
}

fn print(bench: &mut Bench, who: &str, starts: &Starts) -> anyhow::Result<()> {
    for (how, starts) in [
        ("empty directory", &starts.empty),
        ("after a clean stop", &starts.stopped),
        ("killed with 1 GB written", &starts.killed),
    ] {
        let of = |number: fn(&Start) -> f64| median(starts.iter().map(number).collect());
        let slowest = starts
            .iter()
            .map(|start| start.first_ack.acked)
            .fold(0.0, f64::max);
        let row = Row::new(format!("{who}, {how}"))
            .number("starts", starts.len() as f64)
            .number("port ms", of(|start| start.first_ack.connected * 1e3))
            .number("ack ms", of(|start| start.first_ack.acked * 1e3))
            .number("slowest ms", slowest * 1e3)
            .number("CPU ms", of(|start| start.cpu_seconds * 1e3))
            .number("RSS MB", of(|start| start.rss / 1e6));
        bench.report.row(&row)?;
    }
    Ok(())
}

fn typical(starts: &[Start]) -> f64 {
    median(starts.iter().map(|start| start.first_ack.acked).collect())
}
