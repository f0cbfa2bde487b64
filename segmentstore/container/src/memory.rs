//! The process's one memory budget, and the credits that keep its users within.
//!
//! Fixed shares (architecture.md §2.9): a quarter for operations on their way to the log, 40 % for
//! frames kept for readers at the tail, a quarter for frames read back from the log, the rest for the
//! index. Operations take credit before their bytes are read: of their connection, then of the process.
//! Frames take what they need and the oldest of the process make room.
//!
//! An operation larger than a credit takes all of it, so it waits until it is alone and then always
//! gets through: a credit smaller than an event slows down, but never deadlocks.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{CACHE_BYTES, CREDIT_WAITS, Count, TAIL_BYTES};
use crate::pipeline::credit::{CONNECTION_BYTES, Shares, charge};
use crate::read::tail::Frames;

/// The process's one memory budget. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shares: Shares,
    operations: Arc<Semaphore>,
    /// How often an operation had to wait for credit.
    waits: Count,
    frames: Frames,
    blocks: Frames,
}

impl MemoryBudget {
    /// Creates a budget of `bytes`, at least 16 MiB.
    pub fn new(bytes: u64) -> Self {
        let shares = Shares::of(bytes);
        let operations = charge(u64::MAX, shares.operations);
        Self(Arc::new(Inner {
            shares,
            operations: Arc::new(Semaphore::new(operations as usize)),
            waits: Count::new(CREDIT_WAITS, None),
            frames: Frames::new(shares.frames, TAIL_BYTES),
            blocks: Frames::new(shares.blocks, CACHE_BYTES),
        }))
    }

    /// Returns a new connection's credit.
    pub fn connection(&self) -> ConnectionCredit {
        let bytes = charge(CONNECTION_BYTES, self.0.shares.operations);
        ConnectionCredit {
            budget: self.clone(),
            own: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
        }
    }

    /// Returns what is in use.
    pub fn usage(&self) -> MemoryUsage {
        let inner = &*self.0;
        let all = u64::from(charge(u64::MAX, inner.shares.operations));
        MemoryUsage {
            operations: all - inner.operations.available_permits() as u64,
            frames: inner.frames.bytes(),
            blocks: inner.blocks.bytes(),
            credit_waits: inner.waits.get(),
        }
    }

    /// Returns how many bytes the index may keep of what it has read, all containers together: half of
    /// its tenth; the other half is for what is on its way to it.
    pub fn index_cache_bytes(&self) -> u64 {
        self.0.shares.index / 2
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.0.frames
    }

    pub(crate) fn blocks(&self) -> &Frames {
        &self.0.blocks
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

/// What of a [`MemoryBudget`] is in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// Credit held by operations.
    pub operations: u64,
    /// Frames kept for readers at the tail.
    pub frames: u64,
    /// Frames read back from the log.
    pub blocks: u64,
    /// How often an operation had to wait for credit, ever.
    pub credit_waits: u64,
}

/// How many bytes one connection may have on their way to the log. Clones share it.
#[derive(Clone, Debug)]
pub struct ConnectionCredit {
    budget: MemoryBudget,
    own: Arc<Semaphore>,
    bytes: u32,
}

impl ConnectionCredit {
    /// Takes credit for an operation of `bytes`, first come first served.
    ///
    /// Waits until there is enough, or, for an operation larger than the credit, until no other of
    /// this connection is on its way. Cancel-safe: a dropped call took nothing.
    pub async fn reserve(&self, bytes: usize) -> Permit {
        let inner = &*self.budget.0;
        let own = charge(bytes as u64, u64::from(self.bytes));
        let all = charge(bytes as u64, inner.shares.operations);
        if self.own.available_permits() < own as usize
            || inner.operations.available_permits() < all as usize
        {
            inner.waits.add(1);
        }
        let own = self.own.clone().acquire_many_owned(own).await;
        let all = inner.operations.clone().acquire_many_owned(all).await;
        const OPEN: &str = "these semaphores are never closed";
        Permit {
            _own: Some(own.expect(OPEN)),
            _all: Some(all.expect(OPEN)),
        }
    }
}

/// Credit held by one operation; given back when dropped.
#[derive(Debug, Default)]
pub struct Permit {
    _own: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Returns a permit that holds no credit, for operations of our own and for tests.
    pub fn none() -> Self {
        Self::default()
    }
}
