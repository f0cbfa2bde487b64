//! The index: what a container's state was at its last checkpoint, as one ordered key space, durable.
//!
//! Never on the way of an append. Changes are gathered in memory and written as one batch
//! ([`Index::checkpoint`]), which takes effect as a whole or not at all; the log then needs to hold
//! only what came after. What is acknowledged, and who owns the container, the log alone decides.
//!
//! Two engines: `slate` (SlateDB on an object store) and `flat` (everything in memory, dumped as
//! one file), which is the model the other is compared with.

mod clock;
mod compact;
pub(crate) mod entries;
pub(crate) mod flat;
pub(crate) mod keys;
pub(crate) mod slate;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use sarit_env::Disk;
use sarit_proto::ids::ContainerId;

pub use self::flat::SnapshotMemory;
pub use self::slate::SlateStore;
use crate::Error;

/// Memory that short keys and values share: of a checkpoint of many segments, one by one, they would take twice as
/// much, and leave it in pieces.
const ROOM: usize = 16 << 10;
/// Longest key or value that is moved there.
const SHORT: usize = 256;

/// Changes that take effect together. A later change of a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Keys with their new values; `None` removes.
    pub(crate) changes: Vec<(Bytes, Option<Bytes>)>,
    bytes: usize,
    room: BytesMut,
}

impl Batch {
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        let change = (self.moved(key), Some(self.moved(value)));
        self.changes.push(change);
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.bytes += key.len();
        let change = (self.moved(key), None);
        self.changes.push(change);
    }

    fn moved(&mut self, bytes: Bytes) -> Bytes {
        if bytes.len() > SHORT {
            return bytes;
        }
        if self.room.capacity() < bytes.len() {
            self.room = BytesMut::with_capacity(ROOM);
        }
        self.room.extend_from_slice(&bytes);
        self.room.split().freeze()
    }

    /// Returns the bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The durable index of one container. Reads see the last checkpoint, or the one being made.
#[async_trait]
pub(crate) trait Index: Send + Sync + std::fmt::Debug {
    /// Returns the value of a key.
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Error>;
    /// Returns the first keys in `range`, in order, with their values, at most `count`.
    async fn scan(&self, range: Range<Bytes>, count: usize) -> Result<Vec<(Bytes, Bytes)>, Error>;
    /// Applies all changes, and returns when they are durable. After an error nobody knows whether
    /// they are, and the same batch may be given again.
    async fn checkpoint(&self, batch: &Batch) -> Result<(), Error>;
    /// Ends background work. Nothing that a checkpoint returned for is lost without it.
    async fn close(&self);
}

/// Where the indexes of all containers of a process live. Clones are the same place.
#[derive(Clone)]
pub struct Indexes(Kind);

#[derive(Clone)]
enum Kind {
    Slate(SlateStore),
    Files(Arc<dyn Disk>, PathBuf),
    Memory(SnapshotMemory),
}

impl Indexes {
    /// SlateDB, one database per container.
    pub fn slate(store: SlateStore) -> Self {
        Self(Kind::Slate(store))
    }

    /// One file per container in `folder`, rewritten by every checkpoint: for simulated disks, and for
    /// small stores that want nothing else. All of an index is in memory.
    pub fn files(disk: Arc<dyn Disk>, folder: PathBuf) -> Self {
        Self(Kind::Files(disk, folder))
    }

    /// In memory, for tests: outlives containers, not the process.
    pub fn memory(memory: &SnapshotMemory) -> Self {
        Self(Kind::Memory(memory.clone()))
    }

    /// Opens a container's index. The caller has fenced older owners of its log before.
    pub(crate) async fn open(&self, container: ContainerId) -> Result<Arc<dyn Index>, Error> {
        Ok(match &self.0 {
            Kind::Slate(store) => Arc::new(store.open(container).await?),
            Kind::Files(disk, folder) => {
                let file = folder.join(format!("{container}.snapshot"));
                Arc::new(flat::SnapshotIndex::in_file(disk.clone(), file).await?)
            }
            Kind::Memory(memory) => Arc::new(memory.open(container)?),
        })
    }
}

impl std::fmt::Debug for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Kind::Slate(_) => "Indexes(slate)",
            Kind::Files(..) => "Indexes(files)",
            Kind::Memory(_) => "Indexes(memory)",
        })
    }
}
