//! Steps that callers ask for and that run to their end without them.
//!
//! What a step does is more than one write: something in memory, or a task, follows the row. A caller
//! whose call is dropped between the two must not leave a row that nobody works on, so a step is a task of
//! its own. Stopping loses what was in memory only: the next start reads the rows.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Error, PATIENCE, Result, TASKS_MAX};
use crate::metrics;

/// The steps of one kind that are under way, [`TASKS_MAX`] at most.
pub(super) struct Steps {
    kind: &'static str,
    places: Arc<Semaphore>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Steps {
    pub(super) fn new(kind: &'static str, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            kind,
            places: Arc::new(Semaphore::new(TASKS_MAX)),
            tracker,
            stop,
        }
    }

    /// Runs a step and returns what came of it. Cancel-safe: before there is a place for it nothing has
    /// begun, and from then on it goes on by itself.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if no place gets free, [`Error::Unavailable`] on stop, and the step's own.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        step: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let place = timeout(PATIENCE, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Error::Overloaded);
        };
        let (kind, stop) = (self.kind, self.stop.clone());
        metrics::step_started(kind);
        let running = self.tracker.spawn(async move {
            let outcome = tokio::select! {
                biased;
                outcome = step => outcome,
                () = stop.cancelled() => Err(stopping()),
            };
            metrics::step_ended(kind);
            drop(place);
            outcome
        });
        running.await.unwrap_or_else(|_| Err(stopping()))
    }
}

fn stopping() -> Error {
    Error::Unavailable("the controller is stopping".to_owned())
}
