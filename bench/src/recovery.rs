//! From the exec of a server that was killed to its first acknowledged append, with a gigabyte that is in its
//! log only, beside reading that log and checking its bytes.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::watch::metric;

use crate::Bench;
use crate::drain::{self, files_below, forget};
use crate::figures::{cpu_seconds, median};
use crate::probe::{Expected, fill, first_ack};
use crate::report::{Goal, Row};
use crate::start::alive;

/// What is in the log.
const WRITTEN: u64 = 1_000_000_000;
/// Bytes of an append, such as a client makes of small events.
const APPEND: usize = 10_000;

/// Settings with which all of the log is replayed, since there is no checkpoint.
const NO_CHECKPOINTS: [&str; 3] = [
    "segmentstore.container.checkpoint_bytes=1000000000000",
    "segmentstore.container.checkpoint_segments=1000000000",
    "segmentstore.container.checkpoint_seconds=1000000",
];

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "recovery",
        "killed with 1 GB in the log, which long-term storage had refused",
    );
    for (name, goal, settings) in [
        (
            "checkpoints as usual",
            "recovery: read and check the log / first acknowledged append",
            &[][..],
        ),
        (
            "without a checkpoint",
            "the same without any checkpoint: all is replayed",
            &NO_CHECKPOINTS[..],
        ),
    ] {
        let (mut ratios, mut acked, mut checked) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cpu, mut log) = (Vec::new(), 0.0);
        for _ in 0..bench.choose(3, 1) {
            let round = round(bench, settings)?;
            ratios.push(round.checked / round.acked);
            acked.push(round.acked);
            checked.push(round.checked);
            cpu.push(round.cpu_seconds);
            log = round.log_bytes;
        }
        let row = Row::new(name)
            .number("log GB", log / 1e9)
            .number("read+CRC ms", median(checked) * 1e3)
            .number("ack ms", median(acked) * 1e3)
            .number("CPU ms", median(cpu) * 1e3);
        bench.report.row(&row)?;
        let ratio = median(ratios);
        bench
            .report
            .figure(goal, ratio, Goal::AtLeast(0.5), false)?;
    }
    Ok(())
}

struct Round {
    /// Seconds to the first acknowledged append.
    acked: f64,
    /// Seconds that reading and checking as many bytes as the log had takes.
    checked: f64,
    cpu_seconds: f64,
    log_bytes: f64,
}

fn round(bench: &Bench, settings: &[&str]) -> anyhow::Result<Round> {
    let data = bench.dir.join("recovery");
    let logs = bench.dir.join("logs");
    let mut server = Cluster::start(Layout::Standalone, &data, &logs, settings)?;
    let address = server.store_addr();
    let mut expected = Expected::default();
    let begin = Instant::now();
    first_ack(&address, begin, &mut expected, || alive(&server))?;
    let storage = Refusing::new(&data)?;
    fill(&address, WRITTEN, APPEND, &mut expected)?;
    let unflushed = metric(&server, Role::Standalone, "segmentstore_unflushed_bytes")?;
    ensure!(
        unflushed >= WRITTEN as f64,
        "only {unflushed} bytes are in the log only"
    );
    let name = "segmentstore_wal_written_bytes_total";
    let log_bytes = metric(&server, Role::Standalone, name)?;
    server.kill(Role::Standalone)?;
    storage.restore()?;
    let log = log_files(&data)?;
    forget(&log)?;
    let before = drain::checked(&log)?;
    forget(&log)?;
    let begin = Instant::now();
    server.spawn(Role::Standalone)?;
    let first = first_ack(&address, begin, &mut expected, || alive(&server))?;
    let cpu_seconds = cpu_seconds(&server.pids())?;
    server.kill(Role::Standalone)?;
    let log = log_files(&data)?;
    forget(&log)?;
    let after = drain::checked(&log)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    let per_byte = median(vec![1.0 / before.per_second(), 1.0 / after.per_second()]);
    Ok(Round {
        acked: first.acked,
        checked: per_byte * log_bytes,
        cpu_seconds,
        log_bytes,
    })
}

fn log_files(data: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut files = files_below(data)?;
    files.retain(|path| path.components().any(|part| part.as_os_str() == "wal"));
    ensure!(!files.is_empty(), "no log below {}", data.display());
    Ok(files)
}

/// Long-term storage that takes nothing: a file stands where its directory was.
struct Refusing {
    directory: std::path::PathBuf,
    aside: std::path::PathBuf,
}

impl Refusing {
    fn new(data: &Path) -> anyhow::Result<Self> {
        let directory = data.join("segmentstore/lts");
        let aside = data.join("aside");
        std::fs::rename(&directory, &aside)?;
        std::fs::write(&directory, "")?;
        Ok(Self { directory, aside })
    }

    fn restore(self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.directory)?;
        Ok(std::fs::rename(&self.aside, &self.directory)?)
    }
}
