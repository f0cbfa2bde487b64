//! The clock given to SlateDB: the wall clock, except that it never goes back.
//!
//! The database refuses writes while its clock is behind the last write it knows of, also one of a
//! previous owner whose clock was ahead. Nothing here is decided by time, so a clock that stands still
//! until the wall has caught up is good enough; but an operator wants to know.

use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sarit_env::Clock;
use slatedb_common::clock::{SystemClock, SystemClockTicker};

/// Being behind by more than this is reported.
const SKEW_MS: i64 = 60_000;

/// A clock that never goes back, not even behind what the database at `path` has seen.
#[derive(Debug)]
pub(super) struct Forward {
    clock: Clock,
    floor: AtomicI64,
}

impl Forward {
    /// A clock for the database at `path`, not behind `floor`, the time of its last change in milliseconds.
    pub(super) fn new(clock: Clock, path: &str, floor: i64) -> Self {
        let behind = floor.saturating_sub(clock.now_ms());
        if behind > SKEW_MS {
            tracing::warn!(
                path,
                behind_ms = behind,
                "the wall clock is behind that of the last owner"
            );
        }
        let floor = AtomicI64::new(floor);
        Self { clock, floor }
    }

    fn now_ms(&self) -> i64 {
        let now = self.clock.now_ms();
        now.max(self.floor.fetch_max(now, Ordering::Relaxed))
    }
}

impl SystemClock for Forward {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.now_ms()).unwrap_or(DateTime::UNIX_EPOCH)
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}
