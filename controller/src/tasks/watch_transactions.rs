//! What happens to transactions without anyone asking: what a crash left is taken up again, those whose lease is
//! over are aborted, and those that ended long ago are forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use sarit_proto::ids::TransactionId;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use tokio::time::Instant;
use tracing::{info, warn};

use super::commit_transactions::today;
use super::transactions::{ABORTS_MAX, DAYS_KEPT, parse};
use super::{Context, Error, PATIENCE, RETRY_DELAY_MAX, RETRY_DELAY_MIN, Result, Tasks};
use crate::store::catalog::{self, PAGE};
use crate::store::keys::{self, StreamId};
use crate::store::records::{self, Damaged, TransactionState};
use crate::store::{OPERATIONS_MAX, Transaction};
use crate::stream::transaction::End;

impl Tasks {
    /// Ends transactions whose lease is over, until stop. First takes up what an earlier run left.
    pub(crate) async fn watch_transactions(&self) {
        let mut delay = RETRY_DELAY_MIN;
        while let Err(error) = self.load().await {
            warn!(%error, "open transactions cannot be read");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
        self.0.loaded.send_replace(true);
        loop {
            let expired = self.0.leases.expired().await;
            let ends = expired.into_iter().map(async |((id, transaction), stream)| {
                let ended = self.end_transaction(&stream, transaction, End::Abort, None).await;
                match ended {
                    Ok(accepted) => info!(%stream, %transaction, ?accepted, "lease over"),
                    Err(error) => {
                        warn!(%stream, %transaction, %error, "lease over, but it cannot be aborted");
                        let again = Instant::now() + RETRY_DELAY_MAX;
                        self.0.leases.note((id, transaction), stream, again, 0);
                    }
                }
            });
            let ends = stream::iter(ends).for_each_concurrent(ABORTS_MAX, |end| end);
            ends.await;
        }
    }

    /// Reads all transactions that have not ended, and forgets those that ended long ago.
    async fn load(&self) -> Result<()> {
        let context = &self.0;
        let (mut highest, mut after) = (0, None::<String>);
        loop {
            let store = &context.catalog.store;
            let page = store.range(keys::TRANSACTIONS, after.as_deref(), PAGE);
            let page = page.await?;
            let Some((last, _)) = page.entries.last() else {
                break;
            };
            after = Some(last.clone());
            for (key, row) in page.entries {
                let mut parts = key[keys::TRANSACTIONS.len()..].split('/');
                let id = catalog::parse_id(&key, parts.next().unwrap_or_default())?;
                if parts.next() == Some("o") {
                    let record: records::Transaction = records::decode(&key, &row.value)?;
                    let transaction = parse(&key, &keys::transactions(id))?;
                    self.take_up(id, transaction, &key, &record)?;
                    highest = highest.max(record.order);
                }
            }
        }
        // Orders rise over restarts, also if the clock was set back.
        let now = u64::try_from(context.clock.now_ms()).unwrap_or(0);
        context
            .order
            .fetch_max(highest.max(now << 20) + 1, Ordering::Relaxed);
        self.forget_ended().await
    }

    fn take_up(
        &self,
        id: StreamId,
        transaction: TransactionId,
        key: &str,
        record: &records::Transaction,
    ) -> Result<()> {
        let wrong = |error| Damaged::new(key, error);
        let stream = ScopedStream {
            scope: ScopeName::occurring(&record.scope).map_err(wrong)?,
            stream: StreamName::occurring(&record.stream).map_err(wrong)?,
        };
        match record.state() {
            TransactionState::Open => {
                let left = record.ends_ms.saturating_sub(self.0.clock.now_ms());
                let lease = record.lease_ms.min(left).max(0);
                let lease = Duration::from_millis(u64::try_from(lease).unwrap_or(0));
                let until = Instant::now() + lease;
                let stream = Arc::new(stream);
                self.0
                    .leases
                    .note((id, transaction), stream, until, record.ends_ms);
            }
            TransactionState::Committing => self.kick(&stream),
            TransactionState::Aborting => self.abort_soon(&stream, id, transaction),
            TransactionState::Unknown => return Err(Damaged::new(key, "unknown state").into()),
        }
        Ok(())
    }

    /// Drops the days of completed transactions that are over.
    pub(crate) async fn forget_ended(&self) -> Result<()> {
        let context = &self.0;
        let oldest = keys::ended_on((today(context) - DAYS_KEPT).max(0));
        loop {
            let store = &context.catalog.store;
            let page = store.range(keys::ENDED, None, OPERATIONS_MAX).await?;
            let old = page.entries.into_iter().filter(|(key, _)| *key < oldest);
            let forget = old.fold(Transaction::new(), |forget, (key, _)| forget.delete(key));
            if forget.operations.is_empty() {
                return Ok(());
            }
            let _unconditional = store.commit(forget).await?;
        }
    }
}

impl Context {
    /// Waits until what an earlier run left is known: orders must rise above its.
    pub(super) async fn loaded(&self) -> Result<()> {
        let mut loaded = self.loaded.subscribe();
        let known = tokio::time::timeout(PATIENCE, loaded.wait_for(|loaded| *loaded));
        match known.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let reason = "open transactions are still being read";
                Err(Error::Unavailable(reason.to_owned()))
            }
        }
    }
}
