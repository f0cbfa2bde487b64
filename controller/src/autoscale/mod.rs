//! Streams that split and merge by themselves.
//!
//! In order of flow: a segment store's load report arrives ([`AutoScaler::report`]); `worker`, one task,
//! adds it to what is known of the stream (`loads`), judges the stream (`decide`, or `pravega` for the
//! official server's pace) and starts a scaling like anyone else's, through the tasks.
//!
//! Guarantees: never below the policy's minimum, which is checked when deciding and again in the task;
//! under unchanged load no split is followed by a merge; at most [`Config::scales_max`] scalings of ours
//! at once. Reports and what is kept of them (`record`) are hints: whatever is lost of them, only speed
//! suffers. While no store reports, nothing is decided.

pub(crate) mod decide;
mod loads;
pub(crate) mod policy;
mod pravega;
mod record;
mod worker;

use std::time::Duration;

use sarit_proto::controller::internal::LoadReport;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::metrics;

pub(crate) use worker::Worker;

/// Reports that may wait; each is up to a megabyte. More are dropped: the next say the same.
const REPORTS_MAX: usize = 32;

/// How streams scale by their load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether they do. Off, they scale only when told to.
    pub enabled: bool,
    /// By whose rule.
    pub profile: Profile,
    /// Seconds for which a new segment is left alone. Less follows a ramp faster, in more steps.
    pub settle_seconds: u32,
    /// Seconds for which neighbours must be idle before they are merged. Less gives segments back
    /// sooner, and splits again what comes back after a pause. Averages over a longer time than this
    /// are then not asked; at least 10.
    pub merge_seconds: u32,
    /// Scalings started by load that may be under way at once.
    pub scales_max: usize,
}

/// A rule by which streams scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Splits after 10 s at three times the target or after a minute above 1.2 times; merges after
    /// `merge_seconds` below 70 %.
    #[default]
    Sarit,
    /// That of the official server, which waits ten minutes; `settle_seconds` and `merge_seconds` do
    /// not count.
    Pravega,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            profile: Profile::Sarit,
            settle_seconds: 30,
            merge_seconds: 600,
            scales_max: 16,
        }
    }
}

impl Config {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.merge_seconds < 10 {
            let seconds = self.merge_seconds;
            return Err(format!(
                "setting autoscale.merge_seconds is {seconds}, it must be at least 10"
            ));
        }
        if self.scales_max == 0 {
            return Err(
                "setting autoscale.scales_max is 0; set autoscale.enabled=false".to_owned(),
            );
        }
        Ok(())
    }

    fn pace(&self) -> decide::Pace {
        decide::Pace {
            settle_ms: u64::from(self.settle_seconds) * 1000,
            merge_ms: u64::from(self.merge_seconds) * 1000,
        }
    }
}

/// Where load reports go. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct AutoScaler {
    reports: mpsc::Sender<LoadReport>,
}

impl AutoScaler {
    /// Makes the place for reports, and what [`Worker`] takes them from.
    pub(crate) fn new() -> (Self, mpsc::Receiver<LoadReport>) {
        let (reports, inbox) = mpsc::channel(REPORTS_MAX);
        (Self { reports }, inbox)
    }

    /// Hands a report over. Never waits: with too many waiting, or nobody there, it is dropped.
    pub(crate) fn report(&self, report: LoadReport) {
        metrics::load_report(self.reports.try_send(report).is_ok());
    }
}

/// How often the worker looks around.
const TICK: Duration = Duration::from_secs(1);
