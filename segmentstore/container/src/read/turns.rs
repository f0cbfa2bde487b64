//! How many answers with data one peer may have under way.
//!
//! Whoever fetches data holds permits that all peers share: of the log, of long-term storage. So it must go
//! on until it is done, also while its peer takes nothing; and what it brings must not pile up meanwhile.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One peer's turns. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// One answer's turn: from before its data is fetched until nobody holds it any more. Given back when dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    /// Creates so many.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Waits for a turn, first come first served. Cancel-safe.
    pub async fn take(&self) -> Turn {
        let permit = self.0.clone().acquire_owned().await;
        let _permit = permit.expect("is never closed");
        Turn { _permit }
    }
}
