//! What the handle, the sequencer and readers of one container share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use sarit_proto::ids::ContainerId;
use sarit_wal::DurableLog;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Triggers;
use crate::flush::{Tier, is_due};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::read::ahead::Ahead;
use crate::read::waiters::Waiters;
use crate::residents::Pins;
use crate::state::State;
use crate::{Config, MemoryBudget};

/// Shared by all that serve one container. Only the sequencer writes the state; locks are held for
/// lookups, never across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ContainerId,
    pub(crate) config: Config,
    /// What is durable.
    pub(crate) state: RwLock<State>,
    pub(crate) log: DurableLog,
    pub(crate) index: Arc<dyn Index>,
    pub(crate) checkpoints: Triggers,
    pub(crate) pins: Pins,
    /// Segments brought back from the index at the same time.
    pub(crate) loads: Semaphore,
    pub(crate) memory: MemoryBudget,
    /// Whose frames ours are, in the process's stores of frames.
    pub(crate) owner: u64,
    pub(crate) waiters: Waiters,
    /// Reads of the log at the same time; each may hold a few frames.
    pub(crate) log_reads: Semaphore,
    pub(crate) metrics: Metrics,
    /// Long-term storage, if there is any.
    pub(crate) tier: Option<Arc<Tier>>,
    pub(crate) ahead: Ahead,
    /// Bytes that lie in the log only, as last told.
    pub(crate) unflushed: AtomicU64,
    /// Set when the container stops or has failed: nothing is answered from its state any more.
    pub(crate) stopping: CancellationToken,
    /// The order of all operations: the connection of an append, `None` for a request, and the number
    /// of the next operation behind it.
    #[cfg(test)]
    pub(crate) trace: parking_lot::Mutex<Vec<(Option<u64>, u64)>>,
}

impl Shared {
    /// Tells those who move data to long-term storage what has changed.
    pub(crate) fn tier_state(&self, state: &mut State) {
        let garbage = state.usage.take_garbage();
        if let Some(tier) = &self.tier {
            let unflushed = state.usage.unflushed();
            let before = self.unflushed.swap(unflushed, Ordering::Relaxed);
            if before != unflushed {
                self.memory.note_unflushed(self.owner, unflushed);
                if before == 0 || is_due(self, unflushed) {
                    tier.wake();
                }
            }
            tier.unreferenced(garbage);
        }
    }

    /// Gives the memory of all frames back.
    pub(crate) fn forget_frames(&self) {
        self.memory.frames().forget(self.owner);
        self.memory.blocks().forget(self.owner);
        self.memory.packs().forget(self.owner);
        self.memory.note_unflushed(self.owner, 0);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Readers may have brought some after the end.
        self.forget_frames();
    }
}
