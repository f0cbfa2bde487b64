//! Blocks of packs in memory, those of all containers together, and the reads that bring them.
//!
//! Packs never change, so nothing is ever invalidated. A block is fetched once however many want it,
//! together with neighbours that are wanted too, and verified before anyone sees it. What was not
//! looked at again goes first. They lie in memory of their own (`slabs`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_storage::{BLOCK_BYTES, Blocks, PackId, PackName, READ_BYTES_MAX, Store, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::slabs::{self, Slabs};
use crate::metrics::{AHEAD_BYTES, Level};
use crate::state::Seeded;

/// Memory of an entry beside its bytes, about.
const ENTRY_OVERHEAD: u64 = 200;
/// Requests for blocks at the same time, each with [`READ_BYTES_MAX`]; fewer where these would be more
/// than a quarter of what the cache holds.
const LOADS_MAX: u64 = 16;
/// Blocks fetched by one request.
const TOGETHER_MAX: u32 = (READ_BYTES_MAX / BLOCK_BYTES) as u32;
/// In place of a block's number: the pack's table of checksums.
const TABLE: u32 = u32::MAX;

/// A pack of a container that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackKey {
    /// As for frames: a number of its own for every opening.
    pub(crate) owner: u64,
    pub(crate) id: PackId,
}

type Key = (PackKey, u32);

#[derive(Clone, Debug)]
enum Held {
    Block(Bytes),
    Table(Blocks),
}

impl Held {
    fn memory_bytes(&self) -> u64 {
        let bytes = match self {
            Self::Block(bytes) => slabs::memory_bytes(bytes.len()),
            Self::Table(table) => table.memory_bytes(),
        };
        bytes as u64 + ENTRY_OVERHEAD
    }
}

struct Entry {
    held: Held,
    /// Whether it was looked at again.
    used: bool,
    /// Credit of what was fetched ahead, until someone wants it.
    ahead: Option<OwnedSemaphorePermit>,
}

/// Tells those who wait how a load ended; empty if they should look for themselves.
type Outcome = Option<StoreError>;

struct Inner {
    bytes: u64,
    entries: HashMap<Key, Entry, Seeded>,
    /// In the order they came. May name entries that are gone.
    order: VecDeque<Key>,
    loading: HashMap<Key, watch::Receiver<Outcome>, Seeded>,
}

/// A bounded store of blocks.
pub(crate) struct BlockCache {
    bytes_max: u64,
    level: Level,
    inner: Mutex<Inner>,
    loads: Semaphore,
    slabs: Slabs,
    /// Blocks that may be on their way, or here, before anyone asked for them.
    ahead: Arc<Semaphore>,
    ahead_max: usize,
    ahead_level: Level,
}

/// What was claimed for loading; dropping it wakes those who wait.
struct Claim<'a> {
    cache: &'a BlockCache,
    keys: Vec<Key>,
    outcome: watch::Sender<Outcome>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut inner = self.cache.inner.lock();
        for key in &self.keys {
            inner.loading.remove(key);
        }
    }
}

/// What to do about a block that was looked for.
enum Found<'a> {
    Here(Held),
    Wait(watch::Receiver<Outcome>),
    Load(Claim<'a>),
}

impl BlockCache {
    /// Holds at most `bytes_max` bytes, and says by the metric `name` how many there are.
    pub(crate) fn new(bytes_max: u64, name: &'static str) -> Self {
        // The rest is what was read just now.
        let ahead = usize::try_from(bytes_max * 3 / 4 / BLOCK_BYTES).unwrap_or(usize::MAX);
        let ahead = ahead.min(Semaphore::MAX_PERMITS);
        let loads = (bytes_max / 4 / READ_BYTES_MAX).clamp(2, LOADS_MAX);
        Self {
            bytes_max,
            level: Level::new(name, None),
            inner: Mutex::new(Inner {
                bytes: 0,
                entries: HashMap::with_hasher(Seeded(0)),
                order: VecDeque::new(),
                loading: HashMap::with_hasher(Seeded(0)),
            }),
            loads: Semaphore::new(loads as usize),
            // What so many loads take at once comes back at once.
            slabs: Slabs::new((loads * READ_BYTES_MAX) as usize),
            ahead: Arc::new(Semaphore::new(ahead)),
            ahead_max: ahead,
            ahead_level: Level::new(AHEAD_BYTES, None),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.level.get()
    }

    /// Takes credit for reading so many blocks before anyone asked, if there is any.
    pub(crate) fn read_ahead(&self, blocks: u32) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_many_owned(blocks).ok()
    }

    /// Returns the bytes for which there is credit, and has the metric say how many are held.
    pub(crate) fn free_ahead(&self) -> u64 {
        let free = self.ahead.available_permits();
        let held = self.ahead_max.saturating_sub(free);
        self.ahead_level.set(held as u64 * BLOCK_BYTES);
        free as u64 * BLOCK_BYTES
    }

    /// Returns a block, from memory or from `store`, where the pack has the name `name`. `wanted`
    /// blocks from this one on may be fetched along.
    pub(crate) async fn get(
        &self,
        store: &Store,
        name: PackName,
        key: PackKey,
        block: u32,
        wanted: u32,
    ) -> Result<Bytes, StoreError> {
        loop {
            match self.find(key, block, wanted.clamp(1, TOGETHER_MAX)) {
                Found::Here(Held::Block(bytes)) => return Ok(bytes),
                Found::Here(Held::Table(_)) => unreachable!("no block has this number"),
                Found::Wait(loading) => wait(loading).await?,
                Found::Load(claim) => return self.load(store, name, claim, None).await,
            }
        }
    }

    /// Fetches blocks from this one on before anyone asked, as many as `credit` was taken for, which they
    /// hold until someone does or they make room for others.
    pub(crate) async fn get_ahead(
        &self,
        store: &Store,
        name: PackName,
        key: PackKey,
        block: u32,
        credit: OwnedSemaphorePermit,
    ) -> Result<(), StoreError> {
        let blocks = u32::try_from(credit.num_permits()).unwrap_or(TOGETHER_MAX);
        if !self.has(key, block)
            && let Found::Load(claim) = self.find(key, block, blocks.clamp(1, TOGETHER_MAX))
        {
            self.load(store, name, claim, Some(credit)).await?;
        }
        Ok(())
    }

    /// Whether a block is in memory or on its way.
    pub(crate) fn has(&self, key: PackKey, block: u32) -> bool {
        let inner = self.inner.lock();
        inner.entries.contains_key(&(key, block)) || inner.loading.contains_key(&(key, block))
    }

    async fn table(
        &self,
        store: &Store,
        name: PackName,
        key: PackKey,
    ) -> Result<Blocks, StoreError> {
        loop {
            match self.find(key, TABLE, 1) {
                Found::Here(Held::Table(table)) => return Ok(table),
                Found::Here(Held::Block(_)) => unreachable!("no block has this number"),
                Found::Wait(loading) => wait(loading).await?,
                Found::Load(claim) => {
                    let _permit = self.loads.acquire().await.expect("is never closed");
                    match store.blocks(name).await {
                        Ok(table) => {
                            self.insert((key, TABLE), Held::Table(table.clone()), None);
                            return Ok(table);
                        }
                        Err(error) => return claim.fail(error),
                    }
                }
            }
        }
    }

    /// Fetches what was claimed, and returns the first of it.
    async fn load(
        &self,
        store: &Store,
        name: PackName,
        claim: Claim<'_>,
        ahead: Option<OwnedSemaphorePermit>,
    ) -> Result<Bytes, StoreError> {
        match self.fetch(store, name, &claim, ahead).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => claim.fail(error),
        }
    }

    async fn fetch(
        &self,
        store: &Store,
        name: PackName,
        claim: &Claim<'_>,
        mut ahead: Option<OwnedSemaphorePermit>,
    ) -> Result<Bytes, StoreError> {
        let table = self.table(store, name, claim.keys[0].0).await?;
        let _permit = self.loads.acquire().await.expect("is never closed");
        let blocks = claim.keys.iter().map(|(_, block)| *block);
        let blocks: Vec<_> = blocks.filter(|block| *block < table.len()).collect();
        let Some(first) = blocks.first() else {
            return Err(StoreError::Missing(format!("a block of {name}")));
        };
        let start = table.range(*first).start;
        let length = |block: &u32| {
            let range = table.range(*block);
            (range.end - range.start) as usize
        };
        let pieces = blocks.iter().map(|block| self.slabs.take(length(block)));
        let pieces = pieces.collect();
        let numbers = blocks.clone();
        let check = move |at: usize, bytes: &[u8]| table.check(numbers[at], bytes);
        let pieces = store.read_into(name, start, pieces, check).await?;
        let mut wanted = None;
        for (block, (piece, checked)) in blocks.iter().zip(pieces) {
            checked?;
            let bytes = piece.freeze();
            wanted.get_or_insert_with(|| bytes.clone());
            let credit = ahead.as_mut().and_then(|credit| credit.split(1));
            self.insert((claim.keys[0].0, *block), Held::Block(bytes), credit);
        }
        Ok(wanted.expect("there is a first one"))
    }

    fn find(&self, pack: PackKey, block: u32, wanted: u32) -> Found<'_> {
        let mut inner = self.inner.lock();
        let key = (pack, block);
        if let Some(entry) = inner.entries.get_mut(&key) {
            // The first look at what was fetched ahead is what it was fetched for.
            entry.used = entry.ahead.take().is_none();
            return Found::Here(entry.held.clone());
        }
        if let Some(loading) = inner.loading.get(&key) {
            return Found::Wait(loading.clone());
        }
        let (outcome, loading) = watch::channel(None);
        let mut keys = Vec::with_capacity(wanted as usize);
        for block in block..block.saturating_add(wanted) {
            let key = (pack, block);
            if inner.entries.contains_key(&key) || inner.loading.contains_key(&key) {
                break;
            }
            inner.loading.insert(key, loading.clone());
            keys.push(key);
        }
        Found::Load(Claim {
            cache: self,
            keys,
            outcome,
        })
    }

    fn insert(&self, key: Key, held: Held, ahead: Option<OwnedSemaphorePermit>) {
        let mut inner = self.inner.lock();
        let size = held.memory_bytes();
        // What was fetched ahead has one more round until someone comes for it.
        let used = ahead.is_some();
        let entry = Entry { held, used, ahead };
        if inner.entries.insert(key, entry).is_none() {
            inner.bytes += size;
            inner.order.push_back(key);
        }
        while inner.bytes > self.bytes_max
            && let Some(oldest) = inner.order.pop_front()
        {
            match inner.entries.get_mut(&oldest) {
                // One more round for what was used, and for the newest itself.
                Some(entry) if entry.used && oldest != key => {
                    entry.used = false;
                    inner.order.push_back(oldest);
                }
                Some(_) => {
                    let entry = inner.entries.remove(&oldest).expect("just found");
                    inner.bytes -= entry.held.memory_bytes();
                }
                None => {}
            }
        }
        self.level.set(inner.bytes);
    }

    /// Lets all blocks of an owner go.
    pub(crate) fn forget(&self, owner: u64) {
        let mut inner = self.inner.lock();
        let Inner {
            bytes,
            entries,
            order,
            ..
        } = &mut *inner;
        order.retain(|key| {
            let keep = key.0.owner != owner;
            if !keep && let Some(entry) = entries.remove(key) {
                *bytes -= entry.held.memory_bytes();
            }
            keep
        });
        self.level.set(*bytes);
    }
}

impl Claim<'_> {
    fn fail<T>(&self, error: StoreError) -> Result<T, StoreError> {
        // Nobody waits: nobody needs to know.
        let _ = self.outcome.send(Some(error.clone()));
        Err(error)
    }
}

/// Waits for someone else's load; an error is theirs.
async fn wait(mut loading: watch::Receiver<Outcome>) -> Result<(), StoreError> {
    // The sender goes away without a word when the block is here, or its reader has gone.
    let ended = loading.wait_for(Option::is_some).await;
    match ended {
        Ok(outcome) => match &*outcome {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockCache({} bytes)", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use sarit_env::Rng;
    use sarit_storage::memory::{Faults, Memory};
    use sarit_storage::{Kind, Operation, PackWriter};

    use super::*;

    /// A pack of this many blocks, each filled with its number.
    async fn pack(store: &Store, blocks: u8) -> (PackName, PackKey) {
        let id = PackId::new(1, 1).unwrap();
        let name = id.name(0).unwrap();
        let mut writer = PackWriter::new(name, Kind::Big, 1..=1).unwrap();
        for block in 0..blocks {
            let data = Bytes::from(vec![block; BLOCK_BYTES as usize]);
            writer
                .add(1, u64::from(block) * BLOCK_BYTES, &[data])
                .unwrap();
        }
        let parts = writer.finish_with_blocks().unwrap().parts;
        store.put(name, parts).await.unwrap();
        (name, PackKey { owner: 1, id })
    }

    #[tokio::test]
    async fn a_block_is_fetched_once_for_all_who_want_it() {
        let memory = Memory::new(Rng::seeded(1));
        let store = memory.store();
        let (name, key) = pack(&store, 6).await;
        let cache = BlockCache::new(16 << 20, "test");
        let readers = (0..100).map(|_| cache.get(&store, name, key, 2, 3));
        for bytes in futures_util::future::join_all(readers).await {
            assert_eq!(bytes.unwrap(), vec![2; BLOCK_BYTES as usize]);
        }
        // The table, and three blocks together.
        assert_eq!(store.counts().done(Operation::Get), 2);
        assert_eq!(cache.get(&store, name, key, 4, 1).await.unwrap()[0], 4);
        assert_eq!(store.counts().done(Operation::Get), 2);
        cache.forget(1);
        assert_eq!(cache.bytes(), 0);
        assert_eq!(cache.get(&store, name, key, 5, 9).await.unwrap()[0], 5);
        assert!(cache.get(&store, name, key, 6, 1).await.is_err());
    }

    #[tokio::test]
    async fn it_stays_within_its_bound_and_keeps_what_is_used() {
        let memory = Memory::new(Rng::seeded(1));
        let store = memory.store();
        let (name, key) = pack(&store, 20).await;
        let cache = BlockCache::new(4 * (BLOCK_BYTES + ENTRY_OVERHEAD) + 1000, "test");
        for block in 1..20 {
            cache.get(&store, name, key, 0, 1).await.unwrap();
            let bytes = cache.get(&store, name, key, block, 1).await.unwrap();
            assert_eq!(bytes[0], block as u8);
            assert!(cache.bytes() <= cache.bytes_max);
            assert!(cache.has(key, 0), "{block}");
        }
        assert!(!cache.has(key, 5));
    }

    #[tokio::test]
    async fn what_was_fetched_ahead_holds_credit_until_it_is_read_or_gone() {
        let memory = Memory::new(Rng::seeded(1));
        let store = memory.store();
        let (name, key) = pack(&store, 20).await;
        let cache = BlockCache::new(8 * (BLOCK_BYTES + ENTRY_OVERHEAD) + 1000, "test");
        let credit = cache.read_ahead(4).unwrap();
        assert_eq!(cache.free_ahead(), 2 * BLOCK_BYTES);
        assert!(cache.read_ahead(3).is_none(), "three quarters of the cache");
        cache.get_ahead(&store, name, key, 2, credit).await.unwrap();
        assert!((2..6).all(|block| cache.has(key, block)) && !cache.has(key, 6));
        assert_eq!(cache.free_ahead(), 2 * BLOCK_BYTES);
        for block in [3, 3] {
            cache.get(&store, name, key, block, 1).await.unwrap();
            assert_eq!(cache.free_ahead(), 3 * BLOCK_BYTES);
        }
        // Nobody comes for the others, and they make room.
        for block in (6..20).chain(6..20) {
            cache.get(&store, name, key, block, 1).await.unwrap();
        }
        assert_eq!(cache.free_ahead(), 6 * BLOCK_BYTES);
        // It is here already, or the fetch fails.
        for block in [19, 200] {
            let credit = cache.read_ahead(4).unwrap();
            let got = cache.get_ahead(&store, name, key, block, credit).await;
            assert_eq!(got.is_err(), block == 200);
            assert_eq!(cache.free_ahead(), 6 * BLOCK_BYTES);
        }
    }

    #[tokio::test]
    async fn an_error_reaches_all_who_wait_and_is_not_kept() {
        let memory = Memory::new(Rng::seeded(1));
        let store = memory.store();
        let (name, key) = pack(&store, 1).await;
        memory.set_faults(Faults {
            refuse: 1.0,
            ..Faults::default()
        });
        let cache = BlockCache::new(16 << 20, "test");
        let readers = (0..10).map(|_| cache.get(&store, name, key, 0, 1));
        for outcome in futures_util::future::join_all(readers).await {
            assert!(outcome.unwrap_err().is_retryable());
        }
        memory.set_faults(Faults::default());
        cache.get(&store, name, key, 0, 1).await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_leaves_does_not_hold_up_the_others() {
        let memory = Memory::new(Rng::seeded(1));
        let store = memory.store();
        let (name, key) = pack(&store, 1).await;
        let cache = BlockCache::new(16 << 20, "test");
        let (mut first, second) = (
            Box::pin(cache.get(&store, name, key, 0, 1)),
            cache.get(&store, name, key, 0, 1),
        );
        let permits = cache
            .loads
            .acquire_many(cache.loads.available_permits() as u32)
            .await
            .unwrap();
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop((first, permits));
        second.await.unwrap();
    }
}
