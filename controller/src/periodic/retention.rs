//! Goes through the streams that have a retention policy, again and again.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use sarit_proto::names::ScopedStream;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::metrics;
use crate::store::catalog::PAGE;
use crate::store::keys;
use crate::tasks::{Answer, Request, Tasks};

/// Streams looked at at once.
const STREAMS_MAX: usize = 16;

/// Runs until dropped; what was begun goes on as a task.
pub(crate) async fn run(tasks: Tasks, period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        round(&tasks).await;
        if let Err(error) = tasks.forget_ended().await {
            warn!(%error, "completed transactions cannot be forgotten");
        }
    }
}

/// Looks at every stream once.
pub(crate) async fn round(tasks: &Tasks) {
    let mut after: Option<String> = None;
    loop {
        let store = &tasks.context().catalog.store;
        let page = match store.range(keys::RETENTION, after.as_deref(), PAGE).await {
            Ok(page) => page,
            Err(error) => {
                warn!(%error, "streams with a retention policy cannot be read");
                return;
            }
        };
        let Some((last, _)) = page.entries.last() else {
            return;
        };
        after = Some(last.clone());
        let names = page.entries.iter();
        let names = names.filter_map(|(key, _)| key[keys::RETENTION.len()..].parse().ok());
        let names: Vec<ScopedStream> = names.collect();
        let looks =
            stream::iter(names).for_each_concurrent(STREAMS_MAX, async |stream| {
                match tasks.run(&stream, Request::Retain).await {
                    Ok(Answer::Done) => metrics::retention_looked(),
                    Ok(answer) => debug!(%stream, ?answer, "no retention"),
                    Err(error) => warn!(%stream, %error, "retention must wait"),
                }
            });
        looks.await;
    }
}
