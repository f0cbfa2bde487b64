//! What the handle, the sequencer and readers of one container share.

use std::sync::Arc;

use parking_lot::RwLock;
use sarit_proto::ids::ContainerId;
use sarit_wal::DurableLog;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Triggers;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::read::waiters::Waiters;
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
    pub(crate) memory: MemoryBudget,
    /// Whose frames ours are, in the process's stores of frames.
    pub(crate) owner: u64,
    pub(crate) waiters: Waiters,
    /// Reads of the log at the same time; each may hold a few frames.
    pub(crate) log_reads: Semaphore,
    pub(crate) metrics: Metrics,
    /// Set when the container stops or has failed: nothing is answered from its state any more.
    pub(crate) stopping: CancellationToken,
    /// The order of all operations: the connection of an append, `None` for a request, and the number
    /// of the next operation behind it.
    #[cfg(test)]
    pub(crate) trace: parking_lot::Mutex<Vec<(Option<u64>, u64)>>,
}

impl Shared {
    /// Gives the memory of all frames back.
    pub(crate) fn forget_frames(&self) {
        self.memory.frames().forget(self.owner);
        self.memory.blocks().forget(self.owner);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Readers may have brought some after the end.
        self.forget_frames();
    }
}
