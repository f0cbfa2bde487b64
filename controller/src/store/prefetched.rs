//! A store some of whose rows were read together, for code that would ask for them one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Error, MetaStore, Outcome, Page, Transaction, Versioned};

/// Shows rows as they were when it was made, or as if they were not there; everything else goes to the store
/// behind it. What is decided by such rows must be compared in the transaction that follows, as with any read.
#[derive(Debug)]
pub(super) struct Prefetched {
    rows: BTreeMap<String, Option<Versioned>>,
    behind: Arc<dyn MetaStore>,
}

impl Prefetched {
    /// Takes `keys` for absent.
    pub(super) fn without(behind: &Arc<dyn MetaStore>, keys: Vec<String>) -> Self {
        Self {
            rows: keys.into_iter().map(|key| (key, None)).collect(),
            behind: Arc::clone(behind),
        }
    }

    /// Reads `keys` from `behind`, in one go.
    pub(super) async fn read(
        behind: &Arc<dyn MetaStore>,
        keys: Vec<String>,
    ) -> Result<Self, Error> {
        let rows = behind.get_many(&keys).await?;
        Ok(Self {
            rows: keys.into_iter().zip(rows).collect(),
            behind: Arc::clone(behind),
        })
    }
}

#[async_trait]
impl MetaStore for Prefetched {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.behind.get(key).await,
        }
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        self.behind.range(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.behind.commit(transaction).await
    }

    async fn failed(&self) -> String {
        self.behind.failed().await
    }
}
