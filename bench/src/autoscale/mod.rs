//! How streams follow their load: in virtual time, drawn; and in real time under the official Java
//! client.
//!
//! The virtual runs are those of `tests/autoscale`: a whole server, the load only counts.

mod plot;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sarit_controller::AutoScale;
use sarit_tests::autoscale::{SCENARIOS, optimum, run};
use sarit_tests::clients::java;
use sarit_tests::cluster::{Cluster, Layout, Role, target_dir};
use serde_json::Value;

use crate::Bench;
use crate::report::{Goal, Row};

const SEED: u64 = 7;
/// What the stream of the real run asks for per segment, and what it gets, events per second.
const TARGET: u64 = 1_000;
const RATE: u64 = 5 * TARGET;
/// How long the load lasts, and how long the stream may take to shrink again, seconds.
const LOAD_SECONDS: u64 = 60;
const MERGE_MAX: Duration = Duration::from_secs(180);

/// Half an hour of each load in virtual time: a table, and a plot in the build directory.
pub(crate) fn virtual_time(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "autoscale",
        "30 minutes of each load in virtual time; changes, segments, seconds until the first change",
    );
    let mut drawn = Vec::new();
    for scenario in &SCENARIOS {
        let started = Instant::now();
        let outcome = run(scenario, &AutoScale::default(), SEED).map_err(anyhow::Error::msg)?;
        let most = outcome.samples.iter().map(|sample| sample.segments).max();
        let last = outcome.scalings.last().map_or(0, |scaling| scaling.at);
        let reaction = outcome
            .reaction(scenario.begins)
            .map_or(f64::NAN, f64::from);
        let row = Row::new(scenario.name)
            .number("changes", outcome.scalings.len() as f64)
            .number("optimum", optimum(scenario).changes as f64)
            .number("reaction s", reaction)
            .number("last s", last.into())
            .number("segments ≤", most.unwrap_or(0) as f64)
            .number("took s", started.elapsed().as_secs_f64());
        bench.report.row(&row)?;
        drawn.push((scenario, outcome));
    }
    let path = target_dir().join("autoscale.svg");
    std::fs::write(&path, plot::svg(&drawn))
        .with_context(|| format!("write {}", path.display()))?;
    bench.report.note(&format!("drawn in {}", path.display()));
    Ok(())
}

/// The official Java client at five times the target: how soon the first split comes, and the merge.
pub(crate) fn real_time(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "autoscale-real",
        "the official Java client writes five times the target for a minute, then nothing",
    );
    let folder = bench.dir.join("autoscale");
    std::fs::create_dir_all(&folder)?;
    // Merges within a minute, for the sake of the measurement.
    let settings = ["controller.autoscale.merge_seconds=30"];
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &settings)?;
    let log = std::fs::File::create(folder.join("client.log"))?;
    let numbers = [TARGET, RATE, LOAD_SECONDS].map(|number| number.to_string());
    let mut child = java("Paced")?
        .args([&cluster.uri(), "bench", "paced"])
        .args(&numbers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut says = |what: &str| -> anyhow::Result<i64> {
        let line = output.next().context("the client has ended")??;
        let rest = line.strip_prefix(what);
        let number = rest.and_then(|rest| rest.trim().parse().ok());
        number.with_context(|| format!("the client says {line:?}, not {what}"))
    };
    let loaded = says("load")?;
    let split = await_scaling(
        &cluster,
        |scaling| scaling["splits"].as_i64() > Some(0),
        MERGE_MAX,
    )?;
    let idle = says("idle")?;
    let merged = await_scaling(
        &cluster,
        |scaling| {
            scaling["segmentList"]
                .as_array()
                .is_some_and(|list| list.len() == 1)
                && scaling["merges"].as_i64() > Some(0)
        },
        MERGE_MAX,
    )?;
    writeln!(child.stdin.take().expect("it is piped"), "verify")?;
    let events = says("clean")?;
    ensure!(child.wait()?.success(), "the client failed");
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1000.0;
    bench.report.note(&format!(
        "{events} events read once and in the order of their keys"
    ));
    bench.report.figure(
        "first split after the load arrives, s (official server: 604)",
        seconds(loaded, split),
        Goal::AtMost(15.0),
        false,
    )?;
    let name = "one segment again after the load has left, s (window 30)";
    bench
        .report
        .figure(name, seconds(idle, merged), Goal::AtMost(120.0), false)
}

/// Waits for a scaling of the stream and returns when it was, by the server's clock.
fn await_scaling(
    cluster: &Cluster,
    wanted: impl Fn(&Value) -> bool,
    max: Duration,
) -> anyhow::Result<i64> {
    let path = format!(
        "/v1/scopes/bench/streams/paced/scaling-events?from=0&to={}",
        i64::MAX
    );
    let begin = Instant::now();
    while begin.elapsed() < max {
        let (_, body) = cluster.http(Role::Standalone, &path)?;
        let list: Value =
            serde_json::from_str(&body).with_context(|| format!("the server says {body:?}"))?;
        let events = list["scalingEvents"]
            .as_array()
            .context("no list of scalings")?;
        if let Some(found) = events.iter().find(|event| wanted(event)) {
            return found["timestamp"]
                .as_i64()
                .context("a scaling without a time");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no such scaling within {max:?}")
}
