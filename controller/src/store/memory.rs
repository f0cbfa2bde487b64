//! A store in memory: for tests and the simulated world, where its owner decides what survives.
//!
//! Every transaction is "durable" the moment it returns; clones share the same data, so that a
//! controller started later on a clone finds what an earlier one left.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Error, Expect, MetaStore, Operation, Outcome, Page, Revision, Transaction, Versioned};

/// An ordered map behind a lock.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<String, Versioned>,
    last: u64,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns every row without its revision, for comparing two ends of a story.
    pub fn snapshot(&self) -> BTreeMap<String, Bytes> {
        let state = self.0.lock();
        let rows = state.rows.iter();
        rows.map(|(key, row)| (key.clone(), row.value.clone()))
            .collect()
    }
}

impl State {
    fn holds(&self, key: &str, expect: Expect) -> bool {
        match expect {
            Expect::Absent => !self.rows.contains_key(key),
            Expect::At(revision) => self.rows.get(key).map(|row| row.revision) == Some(revision),
            Expect::NothingUnder => {
                let first = self
                    .rows
                    .range::<str, _>((Bound::Included(key), Bound::Unbounded));
                !first.take(1).any(|(found, _)| found.starts_with(key))
            }
        }
    }
}

#[async_trait]
impl MetaStore for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        Ok(self.0.lock().rows.get(key).cloned())
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        let state = self.0.lock();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let entries = state
            .rows
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect();
        Ok(Page { entries })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        let mut state = self.0.lock();
        let mut compares = transaction.compares.iter();
        if !compares.all(|(key, expect)| state.holds(key, *expect)) {
            return Ok(Outcome::Conflict);
        }
        state.last += 1;
        let revision = Revision(state.last);
        for (key, operation) in transaction.operations {
            match operation {
                Operation::Put(value) => {
                    state.rows.insert(key, Versioned { value, revision });
                }
                Operation::Delete => {
                    state.rows.remove(&key);
                }
            }
        }
        Ok(Outcome::Committed(revision))
    }

    async fn failed(&self) -> String {
        std::future::pending().await
    }
}
