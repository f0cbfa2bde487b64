//! Measures Sarit beside the machine's limits and beside the official server; `README.md` says what and
//! how to read it. Measures and reports: nothing here decides whether a build is good.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time, on real files"
)]

mod append;
mod autoscale;
mod catch_up;
mod check;
mod control;
mod drain;
mod driver;
mod figures;
mod flat;
mod history;
mod idle;
mod java;
mod limits;
mod load;
mod many;
mod millions;
mod probe;
mod recovery;
mod reference;
mod report;
mod scale;
mod server;
mod start;
mod transactions;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};

use reference::{Reference, Stop};
use report::Report;

/// The one of `sarit`: what `sarit write` does is what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Sarit beside the machine's limits and beside the official server
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo run --release -p sarit-bench
  cargo run --release -p sarit-bench -- append --quick
  cargo run --release -p sarit-bench -- --reference target/reference --json target/bench.jsonl")]
struct Args {
    /// What to measure [default: everything that can be]
    sections: Vec<Section>,
    /// A fifth of the time, with figures that are as much worse
    #[arg(long)]
    quick: bool,
    /// Also measure the official server. Its jars are kept in DIR (about 200 MB, fetched with Maven);
    /// needs a JDK of version 11 or 17
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Also write every line to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where servers and probes keep their files while measured: the disk under test
    #[arg(long, value_name = "DIR", default_value_os_t = sarit_tests::cluster::target_dir().join("bench"))]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// What this machine can do at best
    Limits,
    /// Appends with our client: latency and throughput by size and depth
    Append,
    /// Appends of one event by raw wire on 1 to 1,000 segments
    Flat,
    /// Memory of a server without work
    Idle,
    /// Splits: their syncs and requests, and the gap that writers see
    Scale,
    /// Transactions by raw wire: CPU and syncs by their size, and the memory of open ones
    Transactions,
    /// 100,000 streams: CPU and metadata of each, lists, restart
    Many,
    /// A million segments: memory, and starts with them
    Millions,
    /// Reading back what was moved to long-term storage: rate, CPU, objects
    History,
    /// The same by the official Java client, ours and the official server
    CatchUp,
    /// From a kill with 1 GB in the log to the first acknowledged append
    Recovery,
    /// From the server's exec to its first acknowledged append
    Start,
    /// Ours and the official server, driven by the official Java client
    Reference,
    /// The same for transactions, streams, tables and synchronizers
    Control,
    /// How streams follow their load, in virtual time; a plot in the build directory
    Autoscale,
    /// The first split and the last merge under the official Java client, in real time
    AutoscaleReal,
}

/// What all sections need.
struct Bench {
    quick: bool,
    /// Where the files of this run are.
    dir: PathBuf,
    reference: Option<Reference>,
    report: Report,
}

impl Bench {
    /// Has something compared with the official server, if that is to be measured, and ends what is left of it.
    fn with_reference(
        &mut self,
        compare: impl FnOnce(&mut Self, &Reference) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(reference) = self.reference.take() else {
            self.report.note("no --reference: left out");
            return Ok(());
        };
        let outcome = compare(self, &reference);
        if reference.pid_file().exists() {
            reference.stop(Stop::Kill)?;
        }
        self.reference = Some(reference);
        outcome
    }

    /// Returns the first number, or the second if it has to go quickly.
    fn choose<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let sections = match args.sections.as_slice() {
        [] => Section::value_variants(),
        chosen => chosen,
    };
    // In virtual time the server is part of this process.
    if sections != [Section::Autoscale] {
        build_server()?;
    }
    std::fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let dir = tempfile::tempdir_in(&args.dir)?;
    let reference = args
        .reference
        .map(|jars| Reference::new(&jars, &dir.path().join("reference")));
    let mut bench = Bench {
        quick: args.quick,
        dir: dir.path().to_owned(),
        reference: reference.transpose()?,
        report: Report::new(args.json.as_deref())?,
    };
    for section in sections {
        match section {
            Section::Limits => limits::run(&mut bench)?,
            Section::Append => append::run(&mut bench)?,
            Section::Flat => flat::run(&mut bench)?,
            Section::Idle => idle::run(&mut bench)?,
            Section::Scale => scale::run(&mut bench)?,
            Section::Transactions => transactions::run(&mut bench)?,
            Section::Many => many::run(&mut bench)?,
            Section::Millions => millions::run(&mut bench)?,
            Section::History => history::run(&mut bench)?,
            Section::CatchUp => catch_up::run(&mut bench)?,
            Section::Recovery => recovery::run(&mut bench)?,
            Section::Start => start::run(&mut bench)?,
            Section::Reference => java::run(&mut bench)?,
            Section::Control => control::run(&mut bench)?,
            Section::Autoscale => autoscale::virtual_time(&mut bench)?,
            Section::AutoscaleReal => autoscale::real_time(&mut bench)?,
        }
    }
    bench.report.finish()
}

/// Builds the server that is measured, unless `SARIT_BIN` names one. Without cargo around us, the one
/// built last is taken.
fn build_server() -> anyhow::Result<()> {
    if let (None, Some(cargo)) = (std::env::var_os("SARIT_BIN"), std::env::var_os("CARGO")) {
        let mut build = Command::new(cargo);
        build.current_dir(sarit_tests::cluster::repository());
        let status = build
            .args(["build", "--release", "--bin", "sarit"])
            .status()?;
        ensure!(status.success(), "the server does not build");
    }
    let binary = sarit_tests::cluster::binary();
    ensure!(
        binary.exists(),
        "there is no server at {}",
        binary.display()
    );
    Ok(())
}
