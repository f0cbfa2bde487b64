//! The process's one memory budget, and the credits that keep its users within.
//!
//! Fixed shares: a quarter for operations on their way to the log, each of which is in memory twice, as it
//! came and in the frame it goes into; 40 % for frames (26 % kept for readers at the tail, 6 % buffers for
//! the next ones, 8 % on their way to long-term storage), a quarter for what is read back (15 % blocks of
//! packs, 5 % frames of the log, 5 % replies that hold some of either), the rest
//! for the index. Operations take credit before their bytes are read: of their connection, then of the
//! process. Frames take what they need and the oldest of the process make room.
//!
//! Not in it: what the process takes before it holds any data, what is being read from the log or from
//! packs at this moment (each a few MiB), connections' buffers, and what an allocator keeps.
//!
//! An operation larger than a credit takes all of it, so it waits until it is alone and then always
//! gets through: a credit smaller than an event slows down, but never deadlocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::metrics::{CACHE_BYTES, CREDIT_WAITS, Count, PACK_CACHE_BYTES, TAIL_BYTES};
use crate::pipeline::credit::{CONNECTION_BYTES, Shares, charge};
use crate::read::blocks::BlockCache;
use crate::read::tail::Frames;

/// What a reply may have without credit.
const REPLY_WITHOUT_CREDIT: usize = 16 << 10;

/// Checkpoints written at the same time.
const CHECKPOINTS: usize = 1;

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
    packs: BlockCache,
    uploads: Arc<Semaphore>,
    /// Checkpoints under way: what has changed lies in memory four times over while it is written.
    checkpoints: Semaphore,
    /// Bytes of packs and of the log that replies on their way hold on to.
    replies: Arc<Semaphore>,
    /// Of each container by its owner: bytes that lie in the log only.
    unflushed: Mutex<BTreeMap<u64, u64>>,
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
            packs: BlockCache::new(shares.packs, PACK_CACHE_BYTES),
            uploads: Arc::new(Semaphore::new(shares.uploads as usize)),
            checkpoints: Semaphore::new(CHECKPOINTS),
            replies: Arc::new(Semaphore::new(charge(u64::MAX, shares.replies) as usize)),
            unflushed: Mutex::default(),
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
            packs: inner.packs.bytes(),
            replies: inner.shares.replies - inner.replies.available_permits() as u64,
            uploads: inner.shares.uploads - inner.uploads.available_permits() as u64,
            credit_waits: inner.waits.get(),
        }
    }

    /// Returns how many bytes the index may keep of what it has read, all containers together: half of
    /// its tenth; the other half is for what is on its way to it.
    pub fn index_cache_bytes(&self) -> u64 {
        self.0.shares.index / 2
    }

    /// Returns how many bytes of buffers the log may keep warm for its next frames.
    pub fn warm_bytes(&self) -> u64 {
        self.0.shares.warm
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.0.frames
    }

    pub(crate) fn blocks(&self) -> &Frames {
        &self.0.blocks
    }

    pub(crate) fn packs(&self) -> &BlockCache {
        &self.0.packs
    }

    /// Returns the most bytes of frames that are kept.
    pub(crate) fn frames_max(&self) -> u64 {
        self.0.shares.frames
    }

    /// Returns the most bytes on their way to long-term storage.
    pub(crate) fn uploads_max(&self) -> u64 {
        self.0.shares.uploads
    }

    /// Waits for the turn to write a checkpoint, until what is returned is dropped. Cancel-safe.
    pub(crate) async fn checkpoint(&self) -> SemaphorePermit<'_> {
        let turn = self.0.checkpoints.acquire().await;
        turn.expect("it is never closed")
    }

    /// Takes credit for bytes on their way to long-term storage. Cancel-safe.
    pub(crate) async fn upload(&self, bytes: u64) -> OwnedSemaphorePermit {
        let inner = &*self.0;
        let bytes = charge(bytes, inner.shares.uploads);
        let permit = inner.uploads.clone().acquire_many_owned(bytes).await;
        permit.expect("is never closed")
    }

    /// Returns `data` for a reply, however long that takes to be written, which keeps `memory` bytes
    /// from being used otherwise: as it is while there is credit for these, else its beginning as a copy.
    /// So readers that do not take their replies cost little more than these.
    pub(crate) fn reply(&self, data: Bytes, memory: usize) -> Bytes {
        struct Reply {
            data: Bytes,
            _permit: OwnedSemaphorePermit,
        }
        impl AsRef<[u8]> for Reply {
            fn as_ref(&self) -> &[u8] {
                &self.data
            }
        }
        if data.len() <= REPLY_WITHOUT_CREDIT {
            return Bytes::copy_from_slice(&data);
        }
        // A small part of something large is worth a copy.
        let apart = data.len() < memory / 2;
        let bytes = charge(if apart { data.len() } else { memory } as u64, u64::MAX);
        match self.0.replies.clone().try_acquire_many_owned(bytes) {
            Ok(_permit) => {
                let data = if apart {
                    Bytes::copy_from_slice(&data)
                } else {
                    data
                };
                Bytes::from_owner(Reply { data, _permit })
            }
            Err(_) => Bytes::copy_from_slice(&data[..REPLY_WITHOUT_CREDIT]),
        }
    }

    /// Notes how many bytes of an owner lie in the log only.
    pub(crate) fn note_unflushed(&self, owner: u64, bytes: u64) {
        let mut all = self.0.unflushed.lock();
        if bytes == 0 {
            all.remove(&owner);
        } else {
            all.insert(owner, bytes);
        }
    }

    /// Returns the bytes of all owners that lie in the log only, and how many owners have some.
    pub(crate) fn unflushed(&self) -> (u64, u64) {
        let all = self.0.unflushed.lock();
        (all.values().sum(), all.len() as u64)
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
    /// Blocks of packs.
    pub packs: u64,
    /// Credit held by replies with bytes of packs or of the log.
    pub replies: u64,
    /// Credit held by uploads to long-term storage.
    pub uploads: u64,
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
            own: Some(own.expect(OPEN)),
            all: Some(all.expect(OPEN)),
        }
    }

    /// Takes credit for `bytes` if it is there at once, and not more than a part of the whole; to be
    /// divided among operations by [`Permit::split`].
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let bytes = u32::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= self.bytes / 4)?;
        let own = self.own.clone().try_acquire_many_owned(bytes).ok()?;
        let operations = &self.budget.0.operations;
        let all = operations.clone().try_acquire_many_owned(bytes).ok()?;
        Some(Permit {
            own: Some(own),
            all: Some(all),
        })
    }
}

/// Credit held by one operation; given back when dropped.
#[derive(Debug, Default)]
pub struct Permit {
    own: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Returns a permit that holds no credit, for operations of our own and for tests.
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes credit for `bytes` out of this one, if it has as much.
    pub fn split(&mut self, bytes: usize) -> Option<Self> {
        let (own, all) = (self.own.as_mut()?, self.all.as_mut()?);
        if own.num_permits() < bytes || all.num_permits() < bytes {
            return None;
        }
        Some(Self {
            own: own.split(bytes),
            all: all.split(bytes),
        })
    }

    /// Adds the credit of another operation, so that both are given back at once.
    pub(crate) fn absorb(&mut self, other: Self) {
        merge(&mut self.own, other.own);
        merge(&mut self.all, other.all);
    }
}

/// Giving back takes a lock, adding up does not.
fn merge(to: &mut Option<OwnedSemaphorePermit>, from: Option<OwnedSemaphorePermit>) {
    match (to, from) {
        (Some(to), Some(from)) if Arc::ptr_eq(to.semaphore(), from.semaphore()) => to.merge(from),
        (to @ None, from) => *to = from,
        // Of another connection: dropping it gives it back.
        (Some(_), _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credit_that_was_divided_and_added_up_comes_back_whole() {
        let budget = MemoryBudget::new(16 << 20);
        let (one, other) = (budget.connection(), budget.connection());
        let mut stock = one.try_reserve(1000).unwrap();
        let mut part = stock.split(300).unwrap();
        assert!(stock.split(800).is_none());
        drop(stock);
        assert_eq!(budget.usage().operations, 300);
        part.absorb(one.reserve(50).await);
        part.absorb(Permit::none());
        // Each connection has its own: this one's is given back at once, the process's is kept.
        part.absorb(other.reserve(7).await);
        assert_eq!(budget.usage().operations, 357);
        assert_eq!(other.own.available_permits(), other.bytes as usize);
        drop(part);
        assert_eq!(budget.usage().operations, 0);
        assert_eq!(one.own.available_permits(), one.bytes as usize);
    }

    #[tokio::test]
    async fn nothing_is_reserved_beforehand_where_others_wait() {
        let budget = MemoryBudget::new(16 << 20);
        let credit = budget.connection();
        let all = credit.reserve(usize::MAX).await;
        assert!(credit.try_reserve(100).is_none());
        assert!(budget.connection().try_reserve(100).is_none());
        drop(all);
        assert!(credit.try_reserve(100).is_some());
        assert!(credit.try_reserve(usize::MAX).is_none());
        assert_eq!(budget.usage().operations, 0);
    }
}
