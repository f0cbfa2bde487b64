//! What the controller's work costs, under the official Java client, on ours and on the official server:
//! transactions, streams, tables, synchronizers.

use anyhow::ensure;
use serde_json::Value;

use crate::Bench;
use crate::driver::{self, Driver, Target, new_stream, number};
use crate::figures::median;
use crate::reference::{Mode, Reference, Stop};
use crate::report::{Goal, Report, Row};

/// One kind of work, and what of its figures counts.
#[derive(Clone, Copy, Debug)]
struct Work {
    name: &'static str,
    mode: &'static str,
    options: &'static [(&'static str, &'static str)],
    /// What its latencies are called.
    latency: &'static str,
}

/// Seconds before anything counts: the client's machine compiles for so long, on the cores that ours runs on, and its
/// work takes three times the time until then.
const WARM: (&str, &str) = ("warmup", "30");

const MANY_TRANSACTIONS: Work = Work {
    name: "transactions of 100, 4 × 8",
    mode: "write",
    options: &[
        ("txn", "100"),
        ("writers", "4"),
        ("depth", "8"),
        ("keys", "1000"),
        WARM,
    ],
    latency: "ack",
};
const ONE_TRANSACTION: Work = Work {
    name: "transactions of 100, 1 × 1",
    mode: "write",
    options: &[("txn", "100"), ("writers", "1"), ("depth", "1"), WARM],
    latency: "ack",
};
const STREAMS: Work = Work {
    name: "streams created, 16 at once",
    mode: "create",
    options: &[("concurrency", "16"), WARM],
    latency: "create",
};
const PUTS: Work = Work {
    name: "table puts, depth 64",
    mode: "table",
    options: &[("depth", "64")],
    latency: "put",
};
const UPDATES: Work = Work {
    name: "synchronizer, 8 updaters",
    mode: "sync",
    options: &[("updaters", "8")],
    latency: "update",
};

/// What came out of the runs of one kind of work on one server.
#[derive(Default)]
struct Outcomes {
    per_second: Vec<f64>,
    cpu_micros: Vec<f64>,
    p50_micros: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let about = "the official Java client on both, durable; CPU is the servers' alone";
    bench.report.section("control", about);
    bench.with_reference(compare)
}

fn compare(bench: &mut Bench, reference: &Reference) -> anyhow::Result<()> {
    let driver = Driver::compile(bench, reference)?;
    let data = bench.dir.join("control");
    let (server, ours) = driver::ours(bench, &data)?;
    reference.wipe()?;
    reference.up(Mode::Durable)?;
    let theirs = Target::theirs("official, durable", reference);
    let seconds = bench.choose(10, 4);
    let both = [&ours, &theirs];
    // The official server compiles itself while it works: what it does first does not count.
    for target in both {
        run_once(&driver, target, MANY_TRANSACTIONS, seconds)?;
        run_once(&driver, target, STREAMS, seconds)?;
    }
    let mut measure = |work| measure(&mut bench.report, &driver, both, work, seconds);
    let many = measure(MANY_TRANSACTIONS)?;
    let one = measure(ONE_TRANSACTION)?;
    let streams = measure(STREAMS)?;
    let puts = measure(PUTS)?;
    let updates = measure(UPDATES)?;
    reference.stop(Stop::Kill)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;

    type Figure = fn(&Outcomes) -> &Vec<f64>;
    let (per_second, cpu, p50): (Figure, Figure, Figure) = (
        |outcomes| &outcomes.per_second,
        |outcomes| &outcomes.cpu_micros,
        |outcomes| &outcomes.p50_micros,
    );
    let ratio = |[ours, theirs]: &[Outcomes; 2], figure: Figure| {
        median(figure(ours).clone()) / median(figure(theirs).clone())
    };
    for (name, ratio, goal) in [
        (
            "transactions of 100 per second / the official server's",
            ratio(&many, per_second),
            Goal::AtLeast(50.0),
        ),
        (
            "begin → committed, p50 / the official server's",
            ratio(&one, p50),
            Goal::AtMost(0.05),
        ),
        (
            "streams created per second / the official server's",
            ratio(&streams, per_second),
            Goal::AtLeast(20.0),
        ),
        (
            "CPU of a stream created / the official server's",
            ratio(&streams, cpu),
            Goal::AtMost(0.01),
        ),
        (
            "table puts per CPU second / the official server's",
            1.0 / ratio(&puts, cpu),
            Goal::AtLeast(5.0),
        ),
        (
            "CPU of a contended synchronizer update / the official server's",
            ratio(&updates, cpu),
            Goal::AtMost(0.1),
        ),
    ] {
        bench.report.figure(name, ratio, goal, false)?;
    }
    Ok(())
}

/// Runs one kind of work on both, there and back, and prints a row for each run.
fn measure(
    report: &mut Report,
    driver: &Driver,
    targets: [&Target; 2],
    work: Work,
    seconds: u32,
) -> anyhow::Result<[Outcomes; 2]> {
    let mut outcomes = [Outcomes::default(), Outcomes::default()];
    for at in [0, 1, 1, 0] {
        let line = run_once(driver, targets[at], work, seconds)?;
        let p50 = number(&line, &format!("{}_p50_us", work.latency))?;
        // Of one operation, and not of each event in it.
        let cpu = number(&line, "server_cpu_s")? / number(&line, "count")?.max(1.0) * 1e6;
        let per_second = number(&line, "per_s")?;
        outcomes[at].per_second.push(per_second);
        outcomes[at].cpu_micros.push(cpu);
        outcomes[at].p50_micros.push(p50);
        let row = Row::new(format!("{}: {}", work.name, targets[at].name))
            .number("per second", per_second)
            .number("p50 µs", p50)
            .number(
                "p99 µs",
                number(&line, &format!("{}_p99_us", work.latency))?,
            )
            .number("CPU µs each", cpu)
            .number("client s", number(&line, "client_cpu_s")?)
            .number("RSS MB", number(&line, "rss_mb")?);
        report.row(&row)?;
    }
    Ok(outcomes)
}

fn run_once(driver: &Driver, target: &Target, work: Work, seconds: u32) -> anyhow::Result<Value> {
    let mut options = vec![("stream", new_stream()?)];
    let given = work.options.iter();
    options.extend(given.map(|(name, value)| (*name, (*value).to_owned())));
    options.push(("seconds", seconds.to_string()));
    let line = driver.run(target, work.mode, &options)?;
    let failed = line["failed"].as_f64().unwrap_or(0.0);
    ensure!(
        failed == 0.0,
        "{failed} failed: {} on {}",
        work.name,
        target.name
    );
    Ok(line)
}
