//! Ours and the official server, driven by the same official Java client (`reference/Bench.java`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use sarit_tests::cluster::{Cluster, Layout};
use serde_json::Value;

use crate::Bench;
use crate::append::EVENT_HEADER;
use crate::figures::median;
use crate::load::{segment_names, tails};
use crate::reference::{Mode, Reference, Stop, folder};
use crate::report::{Goal, Report, Row};

const SCOPE: &str = "bench";

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

/// A server as the Java client sees it.
struct Target {
    name: &'static str,
    uri: String,
    store: String,
    pid_file: PathBuf,
}

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
    let Some(reference) = bench.reference.take() else {
        bench.report.note("no --reference: left out");
        return Ok(());
    };
    let outcome = compare(bench, &reference);
    if reference.pid_file().exists() {
        reference.stop(Stop::Kill)?;
    }
    bench.reference = Some(reference);
    outcome
}

fn compare(bench: &mut Bench, reference: &Reference) -> anyhow::Result<()> {
    let java = Java::compile(bench, reference)?;
    let rounds = bench.choose(2, 1);
    let data = bench.dir.join("java");
    let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let pid_file = bench.dir.join("sarit.pid");
    let pids: Vec<_> = server.pids().iter().map(u32::to_string).collect();
    std::fs::write(&pid_file, pids.join("\n"))?;
    let ours = Target {
        name: "sarit",
        uri: server.uri(),
        store: server.store_addr(),
        pid_file,
    };
    let theirs = |name| Target {
        name,
        uri: reference.uri(),
        store: reference.store_addr(),
        pid_file: reference.pid_file(),
    };
    reference.wipe()?;
    reference.up(Mode::Durable)?;
    let durable = theirs("official, durable");
    java.warm_up([&ours, &durable])?;
    let report = &mut bench.report;
    let [our_ingest, their_ingest] = java.alternate(report, [&ours, &durable], INGEST, rounds)?;
    let [our_alone, their_alone] = java.alternate(report, [&ours, &durable], ALONE, rounds)?;
    let _ = java.alternate(report, [&durable], SMALL, 1)?;
    reference.stop(Stop::Kill)?;
    reference.wipe()?;
    reference.up(Mode::Memory)?;
    let memory = theirs("official, in memory");
    java.warm_up([&memory])?;
    let [our_small, their_small] = java.alternate(report, [&ours, &memory], SMALL, rounds)?;
    reference.stop(Stop::Kill)?;
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

/// The compiled driver.
struct Java {
    class_path: String,
    probe_dir: PathBuf,
    warmup: u32,
    seconds: u32,
}

impl Java {
    fn compile(bench: &Bench, reference: &Reference) -> anyhow::Result<Self> {
        let classes = bench.dir.join("classes");
        let mut javac = Command::new("javac");
        javac
            .arg("-cp")
            .arg(reference.class_path())
            .arg("-d")
            .arg(&classes);
        let status = javac
            .arg(folder().join("Bench.java"))
            .status()
            .context("run javac")?;
        ensure!(status.success(), "javac: {status}");
        Ok(Self {
            class_path: format!("{}:{}", classes.display(), reference.class_path()),
            probe_dir: bench.dir.clone(),
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
        let number = |name: &str| {
            line[name]
                .as_f64()
                .with_context(|| format!("{name} in {line}"))
        };
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

    /// Runs the driver once and returns what it printed.
    fn bench(&self, target: &Target, stream: &str, load: Load) -> anyhow::Result<Value> {
        let mut java = Command::new("java");
        java.args(["-Xmx1g", "-cp", &self.class_path])
            .env("LEVEL", "ERROR");
        java.arg(option(
            "-Dlogback.configurationFile=",
            &folder().join("logback.xml"),
        ));
        java.args(["Bench", &target.uri, "write", "--keep", "--rate", "0"]);
        java.args(["--scope", SCOPE, "--stream", stream]);
        java.arg("--server")
            .arg(&target.pid_file)
            .arg("--probe")
            .arg(&self.probe_dir);
        for (name, value) in [
            ("--size", load.size.to_string()),
            ("--writers", load.writers.to_string()),
            ("--depth", load.depth.to_string()),
            ("--segments", load.segments.to_string()),
            ("--warmup", self.warmup.to_string()),
            ("--seconds", self.seconds.to_string()),
        ] {
            java.arg(name).arg(value);
        }
        let output = java.stderr(Stdio::inherit()).output().context("run java")?;
        ensure!(
            output.status.success(),
            "the Java driver: {}",
            output.status
        );
        let text = String::from_utf8(output.stdout)?;
        let last = text.lines().rev().find(|line| line.starts_with('{'));
        serde_json::from_str(last.context("the Java driver printed no JSON")?)
            .with_context(|| format!("read {text}"))
    }
}

fn new_stream() -> anyhow::Result<String> {
    Ok(format!(
        "java{}",
        std::time::UNIX_EPOCH.elapsed()?.as_millis()
    ))
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}{}", path.display())
}
