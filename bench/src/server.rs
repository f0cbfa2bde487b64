//! What our server has used and done so far, and between two moments.

use std::time::Instant;

use anyhow::Context as _;
use sarit_tests::cluster::{Cluster, Role};

use crate::figures;

/// Numbers of one server, counted from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    cpu_seconds: f64,
    syncs: f64,
    wal_bytes: f64,
    frames: f64,
    device_bytes: f64,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// Lane writes, each synced.
    pub(crate) syncs: f64,
    /// Bytes of these writes.
    pub(crate) wal_bytes: f64,
    /// Frames in them.
    pub(crate) frames: f64,
    /// All bytes it wrote to its disk: log, files prepared for it, index, metadata.
    pub(crate) device_bytes: f64,
}

impl Usage {
    /// Reads the numbers of a standalone server.
    pub(crate) fn of(server: &Cluster) -> anyhow::Result<Self> {
        let (_, metrics) = server.http(Role::Standalone, "/metrics")?;
        let count = |name: &str| counter(&metrics, name).context(format!("no {name} in /metrics"));
        let pids = server.pids();
        Ok(Self {
            syncs: count("segmentstore_wal_syncs_total")?,
            wal_bytes: count("segmentstore_wal_written_bytes_total")?,
            frames: count("segmentstore_wal_frames_total")?,
            cpu_seconds: figures::cpu_seconds(&pids)?,
            device_bytes: figures::device_bytes(&pids)?,
            at: Instant::now(),
        })
    }

    /// Returns what happened since `before`.
    pub(crate) fn since(&self, before: &Self) -> Spent {
        Spent {
            seconds: (self.at - before.at).as_secs_f64(),
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            syncs: self.syncs - before.syncs,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            frames: self.frames - before.frames,
            device_bytes: self.device_bytes - before.device_bytes,
        }
    }
}

impl Spent {
    /// Adds another stretch of time.
    pub(crate) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.syncs += other.syncs;
        self.wal_bytes += other.wal_bytes;
        self.frames += other.frames;
        self.device_bytes += other.device_bytes;
    }
}

/// Adds up a counter over its labels.
pub(crate) fn counter(metrics: &str, name: &str) -> Option<f64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest,
        };
        value.strip_prefix(' ')?.trim().parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_sum_over_its_labels() {
        let metrics =
            "# TYPE a counter\na 1\nb_total{lane=\"0\"} 2\nb_total{lane=\"1\"} 3\nb_total_x 9\n";
        assert_eq!(counter(metrics, "b_total"), Some(5.0));
        assert_eq!(counter(metrics, "a"), Some(1.0));
        assert_eq!(counter(metrics, "c"), None);
    }
}
