//! Waiting for what a server says and does: conditions, metrics, memory.

#![allow(
    clippy::disallowed_methods,
    reason = "watches real processes in real time"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::cluster::{Cluster, Role, http_get, rss};

/// How often to look whether something has happened that sends no signal.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// More memory than tests of a server with the default budget usually see, and how much more is told anew.
const UNEXPECTED: u64 = 300 << 20;
const TOLD_EVERY: u64 = 25 << 20;

/// Waits until a condition holds.
///
/// # Errors
/// If it does not within `max`, or can't be looked at.
pub fn until(
    what: &str,
    max: Duration,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + max;
    while !holds().with_context(|| what.to_owned())? {
        ensure!(Instant::now() < deadline, "not within {max:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Returns a metric's value, added up over its labels; 0 if nothing was counted yet.
pub fn metric(cluster: &Cluster, role: Role, name: &str) -> anyhow::Result<f64> {
    let (status, page) = cluster.http(role, "/metrics")?;
    ensure!(status == 200, "/metrics answers {status}");
    Ok(sum(&page, name))
}

/// Returns a metric's value where it has this label, as in `source="packs"`.
pub fn labelled_metric(
    cluster: &Cluster,
    role: Role,
    name: &str,
    label: &str,
) -> anyhow::Result<f64> {
    let (status, page) = cluster.http(role, "/metrics")?;
    ensure!(status == 200, "/metrics answers {status}");
    let lines = page.lines().filter(|line| line.contains(label));
    Ok(sum(&lines.collect::<Vec<_>>().join("\n"), name))
}

fn sum(page: &str, name: &str) -> f64 {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        let (_, value) = rest.rsplit_once(' ')?;
        labelled.then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

/// Settings with which flushes, checkpoints, cuts and compactions happen all the time.
pub const RESTLESS: [&str; 13] = [
    "segmentstore.wal.file_bytes=4MiB",
    "segmentstore.wal.frame_bytes_max=2MiB",
    "segmentstore.container.checkpoint_bytes=1048576",
    "segmentstore.container.checkpoint_seconds=2",
    "segmentstore.container.export_seconds=2",
    "segmentstore.container.flush.bytes=524288",
    "segmentstore.container.flush.big_bytes=262144",
    "segmentstore.container.flush.period_ms=200",
    "segmentstore.container.flush.compact_ms=200",
    "segmentstore.container.flush.extents=4",
    "segmentstore.container.flush.grace_ms=200",
    "segmentstore.container.flush.sweep_ms=1000",
    "segmentstore.index.poll_ms=500",
];

/// What a server did in all the lives that a test gave it.
#[derive(Debug, Default)]
pub struct Lives {
    counted: BTreeMap<&'static str, f64>,
    kept_from: f64,
}

impl Lives {
    /// All that is counted.
    pub const ALL: [&str; 5] = [
        "checkpoints",
        "packs",
        "compacted bytes",
        "packs deleted",
        "lives with cuts",
    ];
    const COUNTERS: [(&str, &str); 4] = [
        ("checkpoints", "segmentstore_checkpoints_total"),
        ("packs", "segmentstore_packs_written_total"),
        ("compacted bytes", "segmentstore_compacted_bytes_total"),
        ("packs deleted", "segmentstore_packs_deleted_total"),
    ];

    /// Adds what was done in this life so far: to be called once in each, right before its end.
    pub fn add(&mut self, cluster: &Cluster, role: Role) -> anyhow::Result<()> {
        for (what, name) in Self::COUNTERS {
            *self.counted.entry(what).or_default() += metric(cluster, role, name)?;
        }
        let kept_from = metric(cluster, role, "segmentstore_log_kept_from")?;
        let cut = kept_from > self.kept_from;
        *self.counted.entry("lives with cuts").or_default() += f64::from(u8::from(cut));
        self.kept_from = kept_from.max(self.kept_from);
        Ok(())
    }

    /// Waits in this life for what none before has done. One that begins with little to do may have nothing
    /// left to compact, ever.
    pub fn wait(&self, cluster: &Cluster, role: Role, patience: Duration) -> anyhow::Result<()> {
        for (what, name) in Self::COUNTERS {
            if !self.has_done(what) {
                until(what, patience, || Ok(metric(cluster, role, name)? > 0.0))?;
            }
        }
        Ok(())
    }

    fn has_done(&self, what: &str) -> bool {
        self.counted.get(what).is_some_and(|count| *count > 0.0)
    }

    /// Returns an error unless each of these was done at least once.
    pub fn ensure(&self, wanted: &[&str]) -> anyhow::Result<()> {
        let missing: Vec<_> = wanted.iter().filter(|what| !self.has_done(what)).collect();
        ensure!(missing.is_empty(), "never done: {missing:?}, but {self}");
        Ok(())
    }
}

impl fmt::Display for Lives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (what, count) in &self.counted {
            write!(f, "{between}{count} {what}")?;
            between = ", ";
        }
        Ok(())
    }
}

/// Looks at a process' resident memory all the time.
pub struct MemoryWatch {
    largest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Watches a server in one process until it is gone or the watch is dropped. Prints what the memory is
    /// used for when there is more than usual: before it is too much.
    pub fn start(cluster: &Cluster) -> Self {
        let (largest, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (seen, stopped) = (Arc::clone(&largest), Arc::clone(&stop));
        let (pid, port) = (cluster.pids()[0], cluster.http_port(Role::Standalone));
        let thread = std::thread::spawn(move || {
            let mut told = UNEXPECTED - TOLD_EVERY;
            while !stopped.load(Relaxed)
                && let Some(bytes) = rss(pid)
            {
                seen.fetch_max(bytes, Relaxed);
                if bytes >= told + TOLD_EVERY {
                    println!("{} MiB of memory: {}", bytes >> 20, uses(pid, port));
                    told = bytes;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self {
            largest,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns the largest seen, in bytes.
    pub fn largest(&self) -> u64 {
        self.largest.load(Relaxed)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only looks and sleeps.
            let _ = thread.join();
        }
    }
}

/// What a process says about its memory, and the kernel about it.
fn uses(pid: u32, port: u16) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kernel = status.lines().filter(|line| {
        let fields = ["VmHWM", "RssAnon", "RssFile", "RssShmem", "Threads"];
        fields.iter().any(|field| line.starts_with(field))
    });
    let (_, page) = http_get(port, "/metrics").unwrap_or_default();
    let own = page.lines().filter(|line| {
        let memory = [
            "_memory_bytes",
            "_unflushed_bytes",
            "_tail_",
            "_cache_bytes",
            "_connections",
        ];
        !line.starts_with('#') && memory.iter().any(|part| line.contains(part))
    });
    let lines: Vec<_> = kernel.chain(own).collect();
    lines.join("; ").replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn a_metric_is_added_up_over_its_labels_and_no_other_is_taken_for_it() {
        let page = "# TYPE bytes gauge\nbytes{container=\"0\"} 3\nbytes{container=\"1\"} 4.5\nbytes_total 100\n";
        assert_eq!(sum(page, "bytes"), 7.5);
        assert_eq!(sum(page, "bytes_total"), 100.0);
        assert_eq!(sum(page, "other"), 0.0);
    }
}
