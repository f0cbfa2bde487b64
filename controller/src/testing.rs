//! What tests put in place of the segment store, and a way to crash between any two effects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sarit_client::segment::Numbered;
use sarit_client::segment::admin::SegmentPolicy;
use sarit_proto::ids::Offset;
use tokio::sync::watch;

use crate::segments::{Error, Extent, SegmentStore};
use crate::store::{self, MemoryStore, MetaStore, Outcome, Page, Transaction, Versioned};

/// A segment without bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fake {
    pub(crate) policy: SegmentPolicy,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) sealed: bool,
    /// What was merged into it, in order.
    pub(crate) merged: Vec<String>,
    /// Of a table.
    pub(crate) key_length: u16,
}

/// What was appended to a segment, with numbers.
type Events = Vec<(i64, Bytes)>;

/// Segments in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemorySegments {
    segments: Arc<Mutex<BTreeMap<String, Fake>>>,
    events: Arc<Mutex<BTreeMap<String, Events>>>,
    away: Arc<AtomicBool>,
    refused: Arc<Mutex<Option<String>>>,
}

impl MemorySegments {
    pub(crate) fn all(&self) -> BTreeMap<String, Fake> {
        self.segments.lock().clone()
    }

    /// Makes a segment as long as if events had been written.
    pub(crate) fn grow(&self, segment: &str, length: u64) {
        let mut segments = self.segments.lock();
        segments.get_mut(segment).expect("it was created").length = length;
    }

    /// Seals a segment as a client may do that asks the store itself.
    pub(crate) fn seal_behind(&self, segment: &str) {
        let mut segments = self.segments.lock();
        segments.get_mut(segment).expect("it was created").sealed = true;
    }

    /// Returns what was appended to a segment, with numbers.
    pub(crate) fn events(&self, segment: &str) -> Events {
        self.events.lock().get(segment).cloned().unwrap_or_default()
    }

    /// Makes every call fail, or no longer.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// Makes calls on segments refused whose name contains this, or none.
    pub(crate) fn refuse(&self, what: Option<&str>) {
        *self.refused.lock() = what.map(str::to_owned);
    }

    /// Fails for a segment that is refused.
    fn admit(&self, segment: &str) -> Result<(), Error> {
        self.check()?;
        let refused = self.refused.lock();
        match refused.as_ref().filter(|what| segment.contains(*what)) {
            Some(_) => Err(Error::Refused(format!("{segment} is not liked"))),
            None => Ok(()),
        }
    }

    fn with<R>(&self, segment: &str, change: impl FnOnce(&mut Fake) -> R) -> Result<R, Error> {
        self.check()?;
        let name = segment.to_string();
        let mut segments = self.segments.lock();
        let found = segments.get_mut(&name);
        found.map(change).ok_or(Error::Missing(name))
    }

    fn check(&self) -> Result<(), Error> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(Error::Unavailable("it is away".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl SegmentStore for MemorySegments {
    fn trouble(&self) -> Option<String> {
        None
    }

    async fn create(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        self.admit(segment)?;
        let fake = Fake {
            policy,
            ..Fake::default()
        };
        self.segments
            .lock()
            .entry(segment.to_string())
            .or_insert(fake);
        Ok(())
    }

    async fn set_policy(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        let sealed = self.with(segment, |fake| {
            if !fake.sealed {
                fake.policy = policy;
            }
            fake.sealed
        })?;
        match sealed {
            true => Err(Error::Sealed(segment.to_owned())),
            false => Ok(()),
        }
    }

    async fn seal(&self, segment: &str) -> Result<(), Error> {
        self.admit(segment)?;
        self.with(segment, |fake| fake.sealed = true)
    }

    async fn truncate(&self, segment: &str, offset: Offset) -> Result<(), Error> {
        self.admit(segment)?;
        let cut = self.with(segment, |fake| {
            let possible = offset.0 <= fake.length;
            if possible {
                fake.start = fake.start.max(offset.0);
            }
            possible
        })?;
        match cut {
            true => Ok(()),
            false => Err(Error::Refused("beyond the tail".to_owned())),
        }
    }

    async fn delete(&self, segment: &str) -> Result<(), Error> {
        self.check()?;
        self.segments.lock().remove(&segment.to_string());
        Ok(())
    }

    async fn create_table(&self, segment: &str, key_length: u16) -> Result<(), Error> {
        self.check()?;
        let fake = Fake {
            key_length,
            ..Fake::default()
        };
        self.segments
            .lock()
            .entry(segment.to_owned())
            .or_insert(fake);
        Ok(())
    }

    async fn merge(&self, target: &str, sources: &[String]) -> Result<(), Error> {
        self.check()?;
        let mut segments = self.segments.lock();
        let found = segments.get(target);
        let found = found.ok_or_else(|| Error::Missing(target.to_owned()))?;
        let here: Vec<&String> = sources
            .iter()
            .filter(|s| segments.contains_key(*s))
            .collect();
        if found.sealed {
            return Err(Error::Sealed(target.to_owned()));
        }
        let here: Vec<String> = here.into_iter().cloned().collect();
        for source in here {
            let length = segments.remove(&source).map_or(0, |fake| fake.length);
            let into = segments.get_mut(target).expect("it was found");
            into.length += length;
            into.merged.push(source);
        }
        Ok(())
    }

    async fn append_once(&self, segment: &str, event: &Numbered) -> Result<(), Error> {
        let length = event.payload.len() as u64 + 8;
        let sealed = self.with(segment, |fake| fake.sealed)?;
        if sealed {
            return Err(Error::Refused("it is sealed".to_owned()));
        }
        let mut events = self.events.lock();
        let events = events.entry(segment.to_owned()).or_default();
        if events.iter().all(|(number, _)| *number < event.number) {
            events.push((event.number, event.payload.clone()));
            self.with(segment, |fake| fake.length += length)?;
        }
        Ok(())
    }

    async fn probe(&self) -> Result<(), Error> {
        self.check()
    }

    async fn extent(&self, segment: &str) -> Result<Extent, Error> {
        self.with(segment, |fake| Extent {
            length: Offset(fake.length),
            sealed: fake.sealed,
        })
    }
}

/// Lets a number of effects happen; whoever comes later waits for ever, as if the process had died.
#[derive(Clone, Debug)]
pub(crate) struct Fuse {
    left: Arc<AtomicUsize>,
    blown: Arc<AtomicBool>,
}

impl Fuse {
    pub(crate) fn after(effects: usize) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(effects)),
            blown: Arc::default(),
        }
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::Relaxed)
    }

    async fn burn(&self) {
        let take = |left: usize| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_err() {
            self.blown.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    }
}

/// Something whose effects burn a fuse.
#[derive(Clone, Debug)]
pub(crate) struct Fused<T>(pub(crate) T, pub(crate) Fuse);

#[async_trait]
impl MetaStore for Fused<MemoryStore> {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, store::Error> {
        self.0.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, store::Error> {
        self.0.range(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, store::Error> {
        self.1.burn().await;
        self.0.commit(transaction).await
    }

    async fn failed(&self) -> String {
        self.0.failed().await
    }
}

#[async_trait]
impl SegmentStore for Fused<MemorySegments> {
    fn trouble(&self) -> Option<String> {
        None
    }

    async fn create(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        self.1.burn().await;
        self.0.create(segment, policy).await
    }

    async fn set_policy(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        self.1.burn().await;
        self.0.set_policy(segment, policy).await
    }

    async fn seal(&self, segment: &str) -> Result<(), Error> {
        self.1.burn().await;
        self.0.seal(segment).await
    }

    async fn truncate(&self, segment: &str, offset: Offset) -> Result<(), Error> {
        self.1.burn().await;
        self.0.truncate(segment, offset).await
    }

    async fn delete(&self, segment: &str) -> Result<(), Error> {
        self.1.burn().await;
        self.0.delete(segment).await
    }

    async fn create_table(&self, segment: &str, key_length: u16) -> Result<(), Error> {
        self.1.burn().await;
        self.0.create_table(segment, key_length).await
    }

    async fn merge(&self, target: &str, sources: &[String]) -> Result<(), Error> {
        self.1.burn().await;
        self.0.merge(target, sources).await
    }

    async fn append_once(&self, segment: &str, event: &Numbered) -> Result<(), Error> {
        self.1.burn().await;
        self.0.append_once(segment, event).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.0.probe().await
    }

    async fn extent(&self, segment: &str) -> Result<Extent, Error> {
        self.0.extent(segment).await
    }
}

/// A store that can be made slow to answer: changes happen, and nobody is told yet.
#[derive(Clone, Debug)]
pub(crate) struct Slow(pub(crate) MemoryStore, watch::Sender<bool>);

impl Slow {
    pub(crate) fn new(store: MemoryStore) -> Self {
        Self(store, watch::Sender::new(false))
    }

    /// Keeps the answers to changes back, or gives them.
    pub(crate) fn hold(&self, held: bool) {
        self.1.send_replace(held);
    }
}

#[async_trait]
impl MetaStore for Slow {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, store::Error> {
        self.0.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, store::Error> {
        self.0.range(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, store::Error> {
        let outcome = self.0.commit(transaction).await;
        let mut held = self.1.subscribe();
        let given = held.wait_for(|held| !held).await;
        given.expect("the sender is ours");
        outcome
    }

    async fn failed(&self) -> String {
        self.0.failed().await
    }
}
