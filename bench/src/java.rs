//! Ours and the official server, driven by the same official Java client: events.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Bench;
use crate::append::EVENT_HEADER;
use crate::driver::{self, Driver, SCOPE, Target, new_stream};
use crate::figures::median;
use crate::load::{segment_names, tails};
use crate::reference::{Mode, Reference, Stop};
use crate::report::{Goal, Report, Row};

/// One way to drive a server.
#[derive(Clone, Copy, Debug)]
struct Load {
    name: &'static str,
    size: u64,
    writers: u32,
    depth: u32,
    segments: usize,
}

const INGEST: Load = Load {
    name: "1,000 B, depth 4 × 1,024",
    size: 1_000,
    writers: 4,
    depth: 1_024,
    segments: 1,
};
const SMALL: Load = Load {
    name: "100 B, depth 4 × 8,192",
    size: 100,
    writers: 4,
    depth: 8_192,
    segments: 1,
};
const ALONE: Load = Load {
    name: "100 B, depth 1",
    size: 100,
    writers: 1,
    depth: 1,
    segments: 1,
};

/// What came out of runs of one load on one target.
#[derive(Default)]
struct Outcomes {
    megabytes_per_second: Vec<f64>,
    cpu_per_gigabyte: Vec<f64>,
    cpu_per_million: Vec<f64>,
    /// The median as a multiple of that of a 4 KiB sync just before and after.
    p50_in_syncs: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let about = "the official Java client on both; CPU is the servers' alone, warm-up left out";
    bench.report.section("reference", about);
    bench.with_reference(compare)
}

fn compare(bench: &mut Bench, reference: &Reference) -> anyhow::Result<()> {
    let java = Java::compile(bench, reference)?;
    let rounds = bench.choose(2, 1);
    let data = bench.dir.join("java");
    let (server, ours) = driver::ours(bench, &data)?;
    reference.wipe()?;
    reference.up(Mode::Durable)?;
    let durable = Target::theirs("official, durable", reference);
    java.driver.ready(&durable)?;
    java.warm_up([&ours, &durable])?;
    let report = &mut bench.report;
    let [our_ingest, their_ingest] = java.alternate(report, [&ours, &durable], INGEST, rounds)?;
    let [our_alone, their_alone] = java.alternate(report, [&ours, &durable], ALONE, rounds)?;
    let _ = java.alternate(report, [&durable], SMALL, 1)?;
    reference.stop(Stop::Kill)?;
    let memory = Target::theirs("official, in memory", reference);
    let mut small = [Outcomes::default(), Outcomes::default()];
    for round in 0..rounds {
        // A fresh one each time: it keeps everything in its heap, and stalls for good once that is full.
        reference.wipe()?;
        reference.up(Mode::Memory)?;
        java.driver.ready(&memory)?;
        java.bench(&memory, &new_stream()?, SMALL)?;
        let order = if round % 2 == 1 { [1, 0] } else { [0, 1] };
        for at in order {
            java.drive(report, [&ours, &memory][at], SMALL, &mut small[at])?;
        }
        reference.stop(Stop::Kill)?;
    }
    let [our_small, their_small] = small;
    drop(server);
    std::fs::remove_dir_all(&data)?;

    let ratio = |ours: &[f64], theirs: &[f64]| median(ours.to_vec()) / median(theirs.to_vec());
    let faster = ratio(
        &our_ingest.megabytes_per_second,
        &their_ingest.megabytes_per_second,
    );
    report.figure(
        "1,000 B: MB/s / the official server's, durable",
        faster,
        Goal::AtLeast(2.0),
        false,
    )?;
    let cpu = ratio(&our_ingest.cpu_per_gigabyte, &their_ingest.cpu_per_gigabyte);
    report.figure(
        "1,000 B: CPU per GB / the official server's, durable",
        cpu,
        Goal::AtMost(0.2),
        false,
    )?;
    let cpu = ratio(&our_small.cpu_per_million, &their_small.cpu_per_million);
    report.figure(
        "100 B: CPU per event / the official server's, in memory",
        cpu,
        Goal::AtMost(1.0),
        false,
    )?;
    let cpu = median(our_small.cpu_per_million);
    report.figure(
        "100 B: CPU s per million events (its, in memory: 0.84)",
        cpu,
        Goal::AtMost(0.84),
        false,
    )?;
    let syncs = median(our_alone.p50_in_syncs);
    let theirs = median(their_alone.p50_in_syncs);
    report.note(&format!(
        "depth 1, p50 in syncs of 4 KiB: ours {syncs:.2}, theirs {theirs:.2}"
    ));
    Ok(())
}

/// Its runs.
struct Java {
    driver: Driver,
    warmup: u32,
    seconds: u32,
}

impl Java {
    fn compile(bench: &Bench, reference: &Reference) -> anyhow::Result<Self> {
        Ok(Self {
            driver: Driver::compile(bench, reference)?,
            warmup: bench.choose(8, 4),
            seconds: bench.choose(10, 3),
        })
    }

    /// Lets servers find their pace: one that has just started compiles itself for half a minute.
    fn warm_up<const N: usize>(&self, targets: [&Target; N]) -> anyhow::Result<()> {
        for target in targets {
            self.bench(target, &new_stream()?, INGEST)?;
        }
        Ok(())
    }

    /// Drives the targets in turn, there and back, and prints a row for each run.
    fn alternate<const N: usize>(
        &self,
        report: &mut Report,
        targets: [&Target; N],
        load: Load,
        rounds: u32,
    ) -> anyhow::Result<[Outcomes; N]> {
        let mut outcomes: [Outcomes; N] = std::array::from_fn(|_| Outcomes::default());
        for round in 0..rounds {
            let mut order: Vec<_> = (0..N).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                self.drive(report, targets[at], load, &mut outcomes[at])?;
            }
        }
        Ok(outcomes)
    }

    fn drive(
        &self,
        report: &mut Report,
        target: &Target,
        load: Load,
        outcomes: &mut Outcomes,
    ) -> anyhow::Result<()> {
        let stream = new_stream()?;
        let line = self.bench(target, &stream, load)?;
        let number = |name: &str| driver::number(&line, name);
        let (acked, failed) = (number("acked")?, number("failed")?);
        ensure!(failed == 0.0, "{failed} appends failed on {}", target.name);
        let stored = tails(&target.store, &segment_names(SCOPE, &stream, load.segments))?;
        let bytes = acked as u64 * (load.size + EVENT_HEADER as u64);
        ensure!(
            stored == bytes,
            "{}: {bytes} bytes acknowledged, {stored} stored",
            target.name
        );
        let syncs =
            ["probe_before", "probe_after"].map(|probe| line[probe]["sync4k_p50_us"].as_f64());
        let sync = syncs
            .into_iter()
            .sum::<Option<f64>>()
            .context("the probes")?
            / 2.0;
        outcomes.megabytes_per_second.push(number("mb_s")?);
        outcomes.cpu_per_gigabyte.push(number("cpu_s_per_gb")?);
        outcomes.cpu_per_million.push(number("cpu_us_per_op")?);
        outcomes.p50_in_syncs.push(number("ack_p50_us")? / sync);
        let row = Row::new(format!("{}: {}", load.name, target.name))
            .number("events/s", number("per_s")?)
            .number("MB/s", number("mb_s")?)
            .number("p50 µs", number("ack_p50_us")?)
            .number("p99 µs", number("ack_p99_us")?)
            .number("CPU s/GB", number("cpu_s_per_gb")?)
            .number("CPU s/M", number("cpu_us_per_op")?)
            .number("client s", number("client_cpu_s")?)
            .number("RSS MB", number("rss_mb")?)
            .number("sync µs", sync)
            .number(
                "1M MB/s",
                line["probe_after"]["sync1m_mb_s"]
                    .as_f64()
                    .context("the probe")?,
            );
        report.row(&row)
    }

    fn bench(&self, target: &Target, stream: &str, load: Load) -> anyhow::Result<Value> {
        self.driver.run(
            target,
            "write",
            &[
                ("stream", stream.to_owned()),
                ("keep", "1".to_owned()),
                ("rate", "0".to_owned()),
                ("size", load.size.to_string()),
                ("writers", load.writers.to_string()),
                ("depth", load.depth.to_string()),
                ("segments", load.segments.to_string()),
                ("warmup", self.warmup.to_string()),
                ("seconds", self.seconds.to_string()),
            ],
        )
    }
}
