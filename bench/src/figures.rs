//! Numbers: quantiles of latencies, CPU time of other processes.

use std::time::Duration;

use anyhow::Context as _;

/// Latencies, kept whole: a run has at most a few million.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantiles {
    nanos: Vec<u64>,
    sorted: bool,
}

impl Quantiles {
    /// Adds one.
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanos = latency.as_nanos().try_into();
        self.nanos.push(nanos.unwrap_or(u64::MAX));
        self.sorted = false;
    }

    /// Adds all of another's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.nanos.extend(&other.nanos);
        self.sorted = false;
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.nanos.len()
    }

    /// Returns the latency that `part` of all stay below or at, in microseconds; 0 if there is none.
    pub(crate) fn micros(&mut self, part: f64) -> f64 {
        if !self.sorted {
            self.nanos.sort_unstable();
            self.sorted = true;
        }
        let last = self.nanos.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        self.nanos.get(at).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    }

    /// Whether they vary so much that a ratio to them says little.
    pub(crate) fn noisy(&mut self) -> bool {
        self.micros(0.5) > 3.0 * self.micros(0.1)
    }
}

/// Returns the one in the middle, of an even number the mean of both; 0 if there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(below), values.get(above)) {
        (Some(below), Some(above)) => f64::midpoint(*below, *above),
        _ => 0.0,
    }
}

/// CPU seconds, user and system, that the processes have used so far.
pub(crate) fn cpu_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    pids.iter().map(|pid| cpu_of(&pid.to_string())).sum()
}

/// CPU seconds, user and system, that this thread has used so far.
pub(crate) fn own_cpu_seconds() -> anyhow::Result<f64> {
    cpu_of("thread-self")
}

fn cpu_of(task: &str) -> anyhow::Result<f64> {
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let stat = std::fs::read_to_string(format!("/proc/{task}/stat"));
    let stat = stat.with_context(|| format!("process {task} is gone"))?;
    // The name, in brackets, may contain blanks; the fields behind it don't.
    let fields = stat
        .rsplit_once(')')
        .context("/proc/PID/stat has a name in brackets")?
        .1;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let ticks = number(11).context("user time")? + number(12).context("system time")?;
    Ok(ticks / ticks_per_second)
}

/// Bytes that the processes had the kernel write to devices so far, whatever file they belong to.
pub(crate) fn device_bytes(pids: &[u32]) -> anyhow::Result<f64> {
    let mut bytes = 0.0;
    for pid in pids {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io"));
        let io = io.with_context(|| format!("process {pid} is gone"))?;
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes:"));
        let line = line.context("write_bytes in /proc/PID/io")?;
        bytes += line.trim().parse::<f64>()?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_that_was_added() {
        let mut quantiles = Quantiles::default();
        (1..=101)
            .rev()
            .for_each(|n| quantiles.add(Duration::from_micros(n)));
        assert_eq!(quantiles.micros(0.5), 51.0);
        assert_eq!(quantiles.micros(0.99), 100.0);
        assert_eq!(Quantiles::default().micros(0.5), 0.0);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn a_process_that_works_uses_cpu() {
        let pid = [std::process::id()];
        let before = cpu_seconds(&pid).unwrap();
        let mut sum = 0_u64;
        while cpu_seconds(&pid).unwrap() < before + 0.03 {
            (0..1_000_000).for_each(|n| sum = std::hint::black_box(sum ^ n));
        }
    }
}
