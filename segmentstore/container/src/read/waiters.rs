//! Readers parked at the tail of a segment.
//!
//! A reader registers while it holds the state's read lock, having seen that there is nothing to read;
//! the sequencer wakes after it changed the state. So no change falls between. A woken reader looks
//! again by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sarit_proto::ids::ContainerId;
use tokio::sync::oneshot;

use crate::metrics::{Level, WAITERS};
use crate::state::Sid;

/// All parked readers of a container.
#[derive(Clone, Debug)]
pub(crate) struct Waiters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    count: Level,
    parked: Mutex<Parked>,
}

#[derive(Debug, Default)]
struct Parked {
    next: u64,
    readers: BTreeMap<(Sid, u64), oneshot::Sender<()>>,
}

/// One parked reader; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Waiters,
    key: (Sid, u64),
    woken: oneshot::Receiver<()>,
}

impl Waiters {
    /// Holds at most `max` readers of one container.
    pub(crate) fn new(max: usize, container: ContainerId) -> Self {
        Self(Arc::new(Inner {
            max,
            count: Level::new(WAITERS, Some(container)),
            parked: Mutex::default(),
        }))
    }

    /// Returns how many readers are parked.
    pub(crate) fn len(&self) -> u64 {
        self.0.count.get()
    }

    /// Parks a reader of a segment; `None` if there are too many.
    pub(crate) fn park(&self, sid: Sid) -> Option<Waiter> {
        let mut parked = self.0.parked.lock();
        if parked.readers.len() >= self.0.max {
            return None;
        }
        let (wake, woken) = oneshot::channel();
        let key = (sid, parked.next);
        parked.next += 1;
        parked.readers.insert(key, wake);
        self.count(&parked);
        Some(Waiter {
            waiters: self.clone(),
            key,
            woken,
        })
    }

    /// Returns whether a reader of this segment is parked. Ask with the state locked for writing: then
    /// none can come meanwhile.
    pub(crate) fn has(&self, sid: Sid) -> bool {
        let parked = self.0.parked.lock();
        let mut readers = parked.readers.range((sid, 0)..=(sid, u64::MAX));
        readers.next().is_some()
    }

    /// Wakes the readers of these segments.
    pub(crate) fn wake(&self, segments: &[Sid]) {
        // Nobody can be parking just now for a change that is already applied.
        if self.len() == 0 {
            return;
        }
        let mut parked = self.0.parked.lock();
        for sid in segments {
            while let Some((&key, _)) = parked.readers.range((*sid, 0)..=(*sid, u64::MAX)).next() {
                let wake = parked.readers.remove(&key).expect("just found");
                // A reader that is just leaving does not care.
                let _ = wake.send(());
            }
        }
        self.count(&parked);
    }

    fn count(&self, parked: &Parked) {
        self.0.count.set(parked.readers.len() as u64);
    }
}

impl Waiter {
    /// Resolves when the segment may have changed. Cancel-safe.
    pub(crate) async fn woken(&mut self) {
        // The sender goes away only by sending.
        let _ = (&mut self.woken).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut parked = self.waiters.0.parked.lock();
        parked.readers.remove(&self.key);
        self.waiters.count(&parked);
    }
}
