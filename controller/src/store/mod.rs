//! Versioned records: the controller's only durable state.
//!
//! [`MetaStore`] is a small ordered map with compare-and-set transactions, shaped so that etcd could
//! serve it too. It guarantees linearizable transactions, and that nothing it shows can be lost again:
//! reads never see a write that a power cut could still take back. It knows nothing of streams;
//! [`keys`] says where things lie and [`records`] how they are encoded.

pub(crate) mod catalog;
#[cfg(test)]
mod conformance;
mod directory;
mod fsck;
pub(crate) mod keys;
mod memory;
mod prefetched;
pub(crate) mod records;
mod sled;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::directory::OpenError;
pub use self::fsck::{ImportError, export, fsck, import};
pub use self::memory::MemoryStore;
pub use self::sled::{SledStore, open_sled, open_sled_found};

/// Most operations in one transaction; with its comparisons it stays below etcd's default of 128.
pub const OPERATIONS_MAX: usize = 100;
/// Most comparisons in one transaction.
pub const COMPARES_MAX: usize = 20;
/// Most bytes of keys and values in one transaction.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;
/// Longest key, in bytes. The longest we make holds two scopes and two streams.
pub const KEY_BYTES_MAX: usize = 1040;

/// The number of the transaction that last wrote a key; rises over the store's whole life, so that a
/// key deleted and written again never has a number twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A value and the transaction that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes.
    pub value: Bytes,
    /// Who wrote them; what a later [`Expect::At`] compares.
    pub revision: Revision,
}

/// Some entries of a range, in order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, ascending.
    pub entries: Vec<(String, Versioned)>,
}

/// What must hold for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last written by this transaction.
    At(Revision),
    /// No key starts with the given one.
    NothingUnder,
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a value, replacing what is there.
    Put(Bytes),
    /// Removes the key; fine if it does not exist.
    Delete,
}

/// Changes that happen together, and only if all comparisons hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub(crate) compares: Vec<(String, Expect)>,
    pub(crate) operations: Vec<(String, Operation)>,
}

impl Transaction {
    /// Creates a transaction that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    pub fn expect(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.compares.push((key.into(), expect));
        self
    }

    /// Adds a write. Of several changes of one key the last counts.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let put = Operation::Put(value.into());
        self.operations.push((key.into(), put));
        self
    }

    /// Adds a removal.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push((key.into(), Operation::Delete));
        self
    }

    /// Checks the limits that every store keeps.
    fn check(&self) -> Result<(), Error> {
        let values = self.operations.iter().map(|(key, operation)| {
            key.len()
                + match operation {
                    Operation::Put(value) => value.len(),
                    Operation::Delete => 0,
                }
        });
        let bytes: usize = values.sum();
        let mut keys = (self.compares.iter().map(|(key, _)| key))
            .chain(self.operations.iter().map(|(key, _)| key));
        let too_large = self.operations.len() > OPERATIONS_MAX
            || self.compares.len() > COMPARES_MAX
            || bytes > TRANSACTION_BYTES_MAX
            || keys.any(|key| key.len() > KEY_BYTES_MAX);
        if too_large {
            return Err(Error::TooLarge {
                operations: self.operations.len(),
                bytes,
            });
        }
        Ok(())
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It happened, is durable, and has this number.
    Committed(Revision),
    /// A comparison did not hold; nothing changed.
    Conflict,
}

/// Why the store did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller asked for more than one transaction may hold. Nothing changed.
    #[error("transaction of {operations} operations and {bytes} bytes exceeds the store's limits")]
    TooLarge {
        /// Operations asked for.
        operations: usize,
        /// Bytes of keys and values.
        bytes: usize,
    },
    /// A write or sync failed, so what is durable is unknown; only a restart can tell. For good.
    #[error("the metadata store has failed: {0}")]
    Broken(String),
    /// The store is closed.
    #[error("the metadata store is closed")]
    Closed,
}

/// An ordered, versioned, durable map.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug {
    /// Returns the value of `key`.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error>;

    /// Returns the values of some keys, in their order; each as [`MetaStore::get`] would, not all as of one
    /// moment. For a store that is asked by message or network it is one question instead of many.
    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Versioned>>, Error> {
        let mut rows = Vec::with_capacity(keys.len());
        for key in keys {
            rows.push(self.get(key).await?);
        }
        Ok(rows)
    }

    /// Returns the first `limit` entries whose key starts with `prefix` and is greater than `after`.
    /// Fewer come back only if there are no more.
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error>;

    /// Does all of `transaction`, durably, or nothing. Not cancel-safe: a caller that stops waiting
    /// does not know whether it happened.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error>;

    /// Resolves, with the reason, when the store has failed for good; otherwise never.
    async fn failed(&self) -> String;
}
