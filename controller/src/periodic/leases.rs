//! Until when each open transaction is kept, in memory: clients renew leases every few seconds, and that
//! must not cost a write. A restart gives every open transaction one more lease, within its life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sarit_proto::ids::TransactionId;
use sarit_proto::names::ScopedStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics;
use crate::store::keys::StreamId;

/// A transaction of a certain stream.
pub(crate) type Key = (StreamId, TransactionId);

#[derive(Clone, Debug)]
struct Lease {
    until: Instant,
    ends_ms: i64,
    stream: Arc<ScopedStream>,
}

#[derive(Debug, Default)]
struct Table {
    open: BTreeMap<Key, Lease>,
    due: BTreeSet<(Instant, Key)>,
}

/// All leases of this controller.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
    sooner: Notify,
}

impl Leases {
    /// Notes a transaction, or a new lease of one that is noted. `ends_ms` is the end of its life.
    pub(crate) fn note(&self, key: Key, stream: Arc<ScopedStream>, until: Instant, ends_ms: i64) {
        let mut table = self.table.lock();
        let lease = Lease {
            until,
            ends_ms,
            stream,
        };
        if let Some(old) = table.open.insert(key, lease) {
            table.due.remove(&(old.until, key));
        }
        table.due.insert((until, key));
        metrics::open_transactions(table.open.len());
        let first = table.due.first() == Some(&(until, key));
        drop(table);
        if first {
            self.sooner.notify_one();
        }
    }

    /// Returns the end of a noted transaction's life, and its stream.
    pub(crate) fn find(&self, key: Key) -> Option<(i64, Arc<ScopedStream>)> {
        let table = self.table.lock();
        let lease = table.open.get(&key)?;
        Some((lease.ends_ms, lease.stream.clone()))
    }

    /// Returns for how long a noted transaction is kept if nobody renews its lease.
    pub(crate) fn left(&self, key: Key) -> Option<Duration> {
        let table = self.table.lock();
        let lease = table.open.get(&key)?;
        Some(lease.until.saturating_duration_since(Instant::now()))
    }

    /// Forgets a transaction that is no longer open.
    pub(crate) fn close(&self, key: Key) {
        let mut table = self.table.lock();
        if let Some(lease) = table.open.remove(&key) {
            table.due.remove(&(lease.until, key));
        }
        metrics::open_transactions(table.open.len());
    }

    /// Returns how many are open.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().open.len()
    }

    /// Waits for leases that are over, and forgets them.
    pub(crate) async fn expired(&self) -> Vec<(Key, Arc<ScopedStream>)> {
        loop {
            let now = Instant::now();
            let next = {
                let mut table = self.table.lock();
                let mut over = Vec::new();
                while let Some((until, key)) = table.due.first().copied() {
                    if until > now {
                        break;
                    }
                    table.due.remove(&(until, key));
                    let lease = table.open.remove(&key);
                    over.extend(lease.map(|lease| (key, lease.stream)));
                }
                metrics::open_transactions(table.open.len());
                if !over.is_empty() {
                    return over;
                }
                table.due.first().map(|(until, _)| *until)
            };
            let wait = async {
                match next {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.sooner.notified() => {}
                () = wait => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> Key {
        (StreamId(1), TransactionId(number))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_when_it_was_renewed_for_the_last_time() {
        let leases = Leases::default();
        let stream: Arc<ScopedStream> = Arc::new("s/t".parse().unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        leases.note(key(1), stream.clone(), at(10), 0);
        leases.note(key(2), stream.clone(), at(20), 0);
        leases.note(key(3), stream.clone(), at(15), 0);
        leases.note(key(1), stream.clone(), at(30), 0);
        leases.close(key(3));
        let over = leases.expired().await;
        assert_eq!(over[0].0, key(2));
        assert_eq!(Instant::now(), at(20));
        assert_eq!(leases.expired().await[0].0, key(1));
        assert_eq!(Instant::now(), at(30));
        assert_eq!(leases.len(), 0);
    }
}
