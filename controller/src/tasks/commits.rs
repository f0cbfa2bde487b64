//! Commits that are under way: who waits for them, and which have come about before the records say so.
//!
//! The events of a commit that needs no new epoch are where they belong, durable and readable, once its
//! segments are merged. What follows only tidies up, and a crash before it ends the same way: the queue
//! is worked off again, and finds nothing to merge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use sarit_proto::ids::TransactionId;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics;
use crate::store::keys::StreamId;

/// How long a question after a commit's state waits for its end. Clients that want to know it ask again and
/// again: what they would sleep in between, they wait here and learn it at once.
const WAIT: Duration = Duration::from_millis(10);
/// Most questions that wait; others are answered at once.
const WAITING_MAX: usize = 1024;

type Key = (StreamId, TransactionId);

#[derive(Debug, Default)]
pub(super) struct Commits(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    merged: BTreeSet<Key>,
    /// By transaction, and a number that tells several of one apart.
    waiting: BTreeMap<(Key, u64), oneshot::Sender<()>>,
    next: u64,
}

impl Commits {
    /// Takes note, until the returned value is dropped, that the events of these are where they belong.
    pub(super) fn merged(&self, keys: Vec<Key>) -> Merged<'_> {
        self.0.lock().merged.extend(keys.iter().copied());
        self.tell(&keys);
        let commits = self;
        Merged { commits, keys }
    }

    /// Whether the events of a transaction are where they belong, though it has not ended.
    pub(super) fn is_merged(&self, key: Key) -> bool {
        self.0.lock().merged.contains(&key)
    }

    /// Has whoever waits for these look again.
    pub(super) fn tell(&self, keys: &[Key]) {
        let mut known = self.0.lock();
        for key in keys {
            while let Some(number) = known.first_of(*key) {
                if let Some(waiting) = known.waiting.remove(&(*key, number)) {
                    // It may have given up.
                    let _ = waiting.send(());
                }
            }
        }
    }

    /// Joins those who wait for a transaction; nothing if they are too many. What happened before is not
    /// told: look after joining.
    pub(super) fn join(&self, key: Key) -> Option<Waiting<'_>> {
        let mut known = self.0.lock();
        if known.waiting.len() >= WAITING_MAX {
            return None;
        }
        let number = known.next;
        known.next += 1;
        let (tell, told) = oneshot::channel();
        known.waiting.insert((key, number), tell);
        metrics::commits_awaited(known.waiting.len());
        Some(Waiting {
            commits: self,
            key: (key, number),
            told,
        })
    }
}

impl Known {
    fn first_of(&self, key: Key) -> Option<u64> {
        let mut of = self.waiting.range((key, 0)..=(key, u64::MAX));
        of.next().map(|((_, number), _)| *number)
    }
}

/// Some transactions whose events are where they belong.
pub(super) struct Merged<'a> {
    commits: &'a Commits,
    keys: Vec<Key>,
}

impl Drop for Merged<'_> {
    fn drop(&mut self) {
        let mut known = self.commits.0.lock();
        for key in &self.keys {
            known.merged.remove(key);
        }
    }
}

/// A place among those who wait.
pub(super) struct Waiting<'a> {
    commits: &'a Commits,
    key: (Key, u64),
    told: oneshot::Receiver<()>,
}

impl Waiting<'_> {
    /// Waits until something has happened, for [`WAIT`] at most.
    pub(super) async fn told(mut self) {
        let told = &mut self.told;
        // Whoever waited in vain looks all the same.
        let _ = timeout(WAIT, told).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut known = self.commits.0.lock();
        known.waiting.remove(&self.key);
        metrics::commits_awaited(known.waiting.len());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn key(number: u128) -> Key {
        (StreamId::new(0, 1), TransactionId(number))
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_and_who_is_not_told_does_not_wait_for_long() {
        let commits = Commits::default();
        let start = Instant::now();
        let waiting = [7, 7, 8].map(|number| commits.join(key(number)).unwrap());
        let [first, second, other] = waiting;
        commits.tell(&[key(7)]);
        first.told().await;
        second.told().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        other.told().await;
        assert_eq!(start.elapsed(), WAIT);
        assert!(commits.0.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn merged_commits_are_known_until_the_records_say_so() {
        let commits = Commits::default();
        let start = Instant::now();
        let waiting = commits.join(key(7)).unwrap();
        let merged = commits.merged(vec![key(7)]);
        waiting.told().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(commits.is_merged(key(7)) && !commits.is_merged(key(8)));
        drop(merged);
        assert!(!commits.is_merged(key(7)));
    }

    #[tokio::test]
    async fn no_more_wait_than_there_are_places_for() {
        let commits = Commits::default();
        let join = || commits.join(key(7));
        let mut waiting: Vec<_> = (0..WAITING_MAX).filter_map(|_| join()).collect();
        assert!(join().is_none());
        waiting.pop();
        assert!(join().is_some());
        drop(waiting);
        assert!(commits.0.lock().waiting.is_empty());
    }
}
