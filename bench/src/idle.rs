//! Memory of a server that has nothing to do.

use std::time::Duration;

use sarit_tests::cluster::{Cluster, Layout, rss};

use crate::Bench;
use crate::figures::cpu_seconds;
use crate::reference::{Mode, Stop};
use crate::report::{Goal, Row};

/// How long a server is left alone before one looks.
const SETTLE: Duration = Duration::from_secs(5);
/// What an idle server may take, in MB.
const GOAL_MB: f64 = 30.0;

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "idle",
        "a server without streams and connections, 5 s after it is ready",
    );
    let data = bench.dir.join("idle");
    let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let ours = settle(bench, "sarit standalone", &server.pids())?;
    drop(server);
    if let Some(reference) = bench.reference.take() {
        reference.wipe()?;
        reference.up(Mode::Durable)?;
        let settled = reference
            .pids()
            .and_then(|pids| settle(bench, "the official server", &pids));
        reference.stop(Stop::Kill)?;
        reference.wipe()?;
        bench.reference = Some(reference);
        settled?;
    }
    bench.report.figure(
        "RSS of an idle server, MB",
        ours,
        Goal::AtMost(GOAL_MB),
        false,
    )
}

fn settle(bench: &mut Bench, name: &str, pids: &[u32]) -> anyhow::Result<f64> {
    let before = cpu_seconds(pids)?;
    std::thread::sleep(SETTLE);
    let cpu = cpu_seconds(pids)? - before;
    let bytes: u64 = pids.iter().filter_map(|pid| rss(*pid)).sum();
    let megabytes = bytes as f64 / 1e6;
    let row = Row::new(name)
        .number("processes", pids.len() as f64)
        .number("RSS MB", megabytes)
        .number("CPU %", cpu / SETTLE.as_secs_f64() * 100.0);
    bench.report.row(&row)?;
    Ok(megabytes)
}
