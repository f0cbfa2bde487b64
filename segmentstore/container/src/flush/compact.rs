//! Rewrites packs that are mostly dead, and segments whose history is scattered over many packs.
//!
//! Takes at most a fifth of the time, one plan after the other; what it stores is committed like
//! anything else, by a record.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::plan::{self, Thresholds};
use super::{Flusher, PAUSE_MAX};
use crate::Error;

/// Time at rest for each time at work.
const REST: u32 = 4;

pub(super) async fn run(this: Arc<Flusher>) -> Result<(), Error> {
    let config = &this.shared.config.flush;
    if config.compact_ms == 0 {
        return std::future::pending().await;
    }
    let period = Duration::from_millis(config.compact_ms);
    let thresholds = Thresholds {
        live_percent: config.live_percent.min(100),
        extents: config.extents.max(2),
    };
    loop {
        sleep(period).await;
        loop {
            let packs = {
                let state = this.shared.state.read();
                plan::compact(&state, &thresholds, &this.limits())
            };
            if packs.is_empty() {
                break;
            }
            let started = Instant::now();
            let stored = this.store(packs, true).await?;
            sleep((started.elapsed() * REST).max(Duration::from_millis(1))).await;
            if !stored {
                sleep(PAUSE_MAX).await;
                break;
            }
        }
    }
}
