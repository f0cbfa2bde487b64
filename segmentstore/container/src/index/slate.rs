//! The index on SlateDB: a log-structured tree on the same object store as everything else.
//!
//! It is the durable index and nothing more. Its own write-ahead log is off, since ours has every
//! change; a checkpoint is one batch in one memtable, flushed at once. It runs under the conditions of
//! docs/design/0005: our log says who owns what and is cut only behind a checkpoint that our own log
//! names; one process per directory; a clock that never goes back; slow polls, bounded retries, a limit
//! on every wait; small memtables; one shared block cache; none of the database's young parts.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use sarit_env::Clock;
use sarit_proto::ids::ContainerId;
use slatedb::admin::Admin;
use slatedb::config::{
    CloseOptions, CompactionWorkerOptions, CompactorOptions, FlushOptions, FlushType,
    GarbageCollectorDirectoryOptions, GarbageCollectorOptions, Settings, WriteOptions,
};
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::db_cache::{DbCache, SplitCache};
use slatedb::object_store::ObjectStore;
use slatedb::object_store::local::LocalFileSystem;
use slatedb::{CloseReason, Db, DbStatus, ErrorKind, VersionedManifest, WriteBatch};
use tokio::sync::watch;
use tokio::time::timeout;

use super::clock::Forward;
use super::compact::{Compacting, Work};
use super::{Batch, Index};
use crate::Error;

/// Size at which a memtable is flushed by itself. Checkpoints flush before, unless they are larger.
const MEMTABLE_BYTES: usize = 4 << 20;
/// What may wait to be flushed; a checkpoint waits while there is as much. One that could not be flushed in time is
/// written once more when it is repeated.
const UNFLUSHED_BYTES: usize = 64 << 20;
/// Size of the tables that the compactor writes. Each is held whole while it is written, and a lookup that meets one
/// for the first time reads its filter.
const TABLE_BYTES: usize = 4 << 20;
/// How often a database looks for what its compactor should do, and for what other processes did to it,
/// of which there are none: see `clock`.
const POLL: Duration = Duration::from_secs(10);
/// Checkpoints that may wait for the compactor, which looks at every poll only; then they wait for it.
const CHECKPOINTS_UNCOMPACTED: usize = 64;
/// How long a manifest is kept once it is replaced. Every checkpoint replaces one or two, and a process that was
/// stopped and goes on still has the directory's lock: nobody else has used it meanwhile.
const MANIFEST_AGE: Duration = Duration::from_secs(5 * 60);
/// How long what a compaction has replaced is kept for reads under way, of which each is one key or one page. Each
/// compaction leaves a mark in the manifest for so long, and whoever looks for garbage reads a manifest for each mark.
const COMPACTED_AGE: Duration = Duration::from_secs(2 * 60);
/// How long other garbage is kept.
const GARBAGE_AGE: Duration = Duration::from_secs(15 * 60);
/// How often garbage is looked for.
const GARBAGE_INTERVAL: Duration = Duration::from_secs(2 * 60);
/// How long a job of a dead worker stays reserved for it.
const WORKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Retries of one request inside of the database; beyond, the checkpoint is tried again as a whole.
const RETRIES: u32 = 8;
/// How long one flush may take before it counts as failed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);
/// How long opening and closing may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// An object store with one database per container, and the cache they share. Clones are the same.
#[derive(Clone)]
pub struct SlateStore {
    objects: Arc<dyn ObjectStore>,
    cache: Arc<dyn DbCache>,
    clock: Clock,
    poll: Duration,
}

impl SlateStore {
    /// Uses the databases below `index/` of an object store, with at most `cache_bytes` of blocks in
    /// memory. No other process may use the same ones.
    pub fn new(objects: Arc<dyn ObjectStore>, cache_bytes: u64, clock: Clock) -> Self {
        // Two caches, so that a scan does not push out what every lookup needs.
        let part = |bytes| -> Option<Arc<dyn DbCache>> {
            Some(Arc::new(MokaCache::new_with_opts(MokaCacheOptions {
                max_capacity: bytes,
                time_to_live: None,
                time_to_idle: None,
            })))
        };
        let cache = SplitCache::new()
            .with_block_cache(part(cache_bytes / 2))
            .with_meta_cache(part(cache_bytes / 2))
            .build();
        Self {
            objects,
            cache: Arc::new(cache),
            clock,
            poll: POLL,
        }
    }

    /// Has databases look for work every `poll`, instead of every ten seconds. Each look is a few requests
    /// per container; checkpoints that come faster than they are compacted wait.
    pub fn polling(self, poll: Duration) -> Self {
        let poll = poll.max(Duration::from_millis(10));
        Self { poll, ..self }
    }

    /// Uses a folder of this machine, which the caller has locked; it is created if needed.
    ///
    /// # Errors
    /// [`Error::Index`] if the folder cannot be used.
    pub fn local(folder: &Path, cache_bytes: u64, clock: Clock) -> Result<Self, Error> {
        let unusable = |what: String| Error::Index(format!("{}: {what}", folder.display()).into());
        // At start-up, before anything is served.
        #[expect(
            clippy::disallowed_methods,
            reason = "the object store has files of its own"
        )]
        std::fs::create_dir_all(folder).map_err(|error| unusable(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(folder);
        let store = store.map_err(|error| unusable(error.to_string()))?;
        Ok(Self::new(
            Arc::new(store.with_fsync(true)),
            cache_bytes,
            clock,
        ))
    }

    pub(crate) async fn open(&self, container: ContainerId) -> Result<SlateIndex, Error> {
        let (opened, clock) = self.open_db(container).await?;
        let compacting = Compacting::start(Work {
            path: path_of(container),
            objects: self.objects.clone(),
            clock,
            options: compactor(self.poll),
        });
        Ok(SlateIndex {
            store: self.clone(),
            container,
            opened: RwLock::new(Arc::new(opened)),
            opening: tokio::sync::Mutex::new(()),
            compacting,
        })
    }

    async fn open_db(&self, container: ContainerId) -> Result<(Opened, Arc<Forward>), Error> {
        let path = path_of(container);
        let manifest = self.last_manifest(&path).await?;
        let floor = manifest.map_or(i64::MIN, |manifest| manifest.last_l0_clock_tick());
        let clock = Arc::new(Forward::new(self.clock.clone(), &path, floor));
        let opening = Db::builder(path, self.objects.clone())
            .with_settings(settings(self.poll))
            .with_system_clock(clock.clone())
            .with_db_cache(self.cache.clone(), u64::from(container.0))
            .build();
        let db = limited("open", OPEN_TIMEOUT, opening).await?;
        let status = db.subscribe();
        let opened = Opened {
            db,
            status,
            written: AtomicU64::new(0),
            strayed: AtomicBool::new(false),
        };
        Ok((opened, clock))
    }

    /// Reads what a new owner of the database at `path` would begin with.
    async fn last_manifest(&self, path: &str) -> Result<Option<VersionedManifest>, Error> {
        let admin = Admin::builder(path, self.objects.clone()).build();
        let reading = admin.read_manifest(None);
        limited("read manifest", OPEN_TIMEOUT, reading).await
    }
}

fn path_of(container: ContainerId) -> String {
    format!("index/{container}")
}

pub(super) fn settings(poll: Duration) -> Settings {
    let directory = |min_age| {
        Some(GarbageCollectorDirectoryOptions {
            interval: Some(GARBAGE_INTERVAL),
            min_age,
            dry_run: false,
        })
    };
    Settings {
        // Only checkpoints flush.
        flush_interval: None,
        max_unflushed_bytes: UNFLUSHED_BYTES,
        wal_enabled: false,
        manifest_poll_interval: poll,
        manifest_update_timeout: FLUSH_TIMEOUT,
        l0_sst_size_bytes: MEMTABLE_BYTES,
        l0_max_ssts: CHECKPOINTS_UNCOMPACTED,
        l0_max_ssts_per_key: CHECKPOINTS_UNCOMPACTED,
        l0_flush_parallelism: 1,
        // A lookup of a name that is not there should not read small tables either.
        min_filter_keys: 1,
        // Runs beside it, see `compact`.
        compactor_options: None,
        garbage_collector_options: Some(GarbageCollectorOptions {
            manifest_options: directory(MANIFEST_AGE),
            wal_options: None,
            wal_fence_options: None,
            compacted_options: directory(GARBAGE_AGE),
            compactions_options: directory(MANIFEST_AGE),
            detach_options: None,
            // A local directory has no conditional overwrite, which they need.
            boundary_files_enabled: false,
            object_store_max_retries: Some(RETRIES),
            ..GarbageCollectorOptions::default()
        }),
        object_store_max_retries: Some(RETRIES),
        ..Settings::default()
    }
}

pub(super) fn compactor(poll: Duration) -> CompactorOptions {
    CompactorOptions {
        poll_interval: poll,
        manifest_update_timeout: FLUSH_TIMEOUT,
        max_concurrent_compactions: 1,
        commit_compacted_interval: Duration::from_secs(5),
        checkpoint_lifetime: COMPACTED_AGE,
        worker_heartbeat_timeout: WORKER_TIMEOUT,
        object_store_max_retries: Some(RETRIES),
        worker: Some(CompactionWorkerOptions {
            max_concurrent_compactions: 1,
            compactions_poll_interval: poll,
            heartbeat_interval: WORKER_TIMEOUT / 4,
            max_sst_size: TABLE_BYTES,
            max_fetch_tasks: 1,
            bytes_to_fetch: 512 << 10,
            max_subcompactions: 1,
            min_filter_keys: 1,
            ..CompactionWorkerOptions::default()
        }),
        ..CompactorOptions::default()
    }
}

/// One container's database.
pub(crate) struct SlateIndex {
    store: SlateStore,
    container: ContainerId,
    opened: RwLock<Arc<Opened>>,
    opening: tokio::sync::Mutex<()>,
    compacting: Compacting,
}

/// A database, and what it says of itself: to ask it would copy its manifest.
struct Opened {
    db: Db,
    status: watch::Receiver<DbStatus>,
    /// The last change that it was given, by its own count.
    written: AtomicU64,
    /// Whether what it calls durable was found not to be.
    strayed: AtomicBool,
}

impl Opened {
    /// Whether it ended by itself, and nobody else has it.
    fn gave_up(&self) -> bool {
        if self.strayed.load(Ordering::Relaxed) {
            return true;
        }
        match self.status.borrow().close_reason {
            None | Some(CloseReason::Clean | CloseReason::Fenced) => false,
            Some(_) => true,
        }
    }
}

impl SlateIndex {
    /// Returns the database, opened again if it has given up: it does so for good when one of its tasks meets more
    /// failures than it repeats, as on a disk that is full for a while. What checkpoints have written is there again.
    /// One that others took over, or that we closed, stays closed.
    async fn opened(&self) -> Result<Arc<Opened>, Error> {
        if let Some(opened) = self.living() {
            return Ok(opened);
        }
        let _one = self.opening.lock().await;
        if let Some(opened) = self.living() {
            return Ok(opened);
        }
        let before = self.opened.read().clone();
        close(&before.db).await;
        let (opened, _) = self.store.open_db(self.container).await?;
        tracing::warn!(container = %self.container, "the index had given up and was opened again");
        let opened = Arc::new(opened);
        *self.opened.write() = opened.clone();
        Ok(opened)
    }

    fn living(&self) -> Option<Arc<Opened>> {
        let opened = self.opened.read();
        (!opened.gave_up()).then(|| opened.clone())
    }

    /// Makes sure that the next owner would find what was flushed.
    ///
    /// The database numbers its manifests, and whoever writes a number first has it. A writer whose view is older than
    /// garbage is kept, after a leap of the clock or a pause of the machine, may take a number that was used and
    /// deleted meanwhile: its write succeeds, and nobody ever reads it.
    async fn ensure_found(&self, opened: &Opened) -> Result<(), Error> {
        let found = self.store.last_manifest(&path_of(self.container)).await?;
        let ours = opened.status.borrow().current_manifest.writer_epoch();
        let written = opened.written.load(Ordering::Relaxed);
        if found.is_some_and(|last| last.writer_epoch() == ours && last.last_l0_seq() >= written) {
            return Ok(());
        }
        opened.strayed.store(true, Ordering::Relaxed);
        let what = "its last manifest does not have the checkpoint that it called durable";
        Err(Error::Index(what.into()))
    }
}

/// Ends a database without a checkpoint: what none waited for need not be there.
async fn close(db: &Db) {
    let options = CloseOptions::default().with_flush_type(None);
    if let Err(error) = limited("close", CLOSE_TIMEOUT, db.close_with_options(options)).await {
        tracing::debug!(%error, "an index was not closed in order");
    }
}

#[async_trait]
impl Index for SlateIndex {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Error> {
        let opened = self.opened().await?;
        let found = opened.db.get(key).await;
        found.map_err(|error| failed("get", &error))
    }

    async fn scan(&self, range: Range<Bytes>, count: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let failed = |error| failed("scan", &error);
        let mut found = Vec::new();
        if range.is_empty() {
            return Ok(found);
        }
        let opened = self.opened().await?;
        let mut iterator = opened.db.scan(range).await.map_err(failed)?;
        while found.len() < count
            && let Some(entry) = iterator.next().await.map_err(failed)?
        {
            found.push((entry.key, entry.value));
        }
        Ok(found)
    }

    async fn checkpoint(&self, batch: &Batch) -> Result<(), Error> {
        let mut write = WriteBatch::new();
        for (key, value) in &batch.changes {
            match value {
                Some(value) => write.put_bytes(key.clone(), value.clone()),
                None => write.delete(key),
            }
        }
        let opened = self.opened().await?;
        let flushed = async {
            if !write.is_empty() {
                let options = WriteOptions::default();
                let written = opened.db.write_with_options(write, &options).await?;
                opened
                    .written
                    .fetch_max(written.seqnum(), Ordering::Relaxed);
            }
            let flush_type = FlushType::MemTable;
            let options = FlushOptions { flush_type };
            opened.db.flush_with_options(options).await
        };
        let flushed = limited("checkpoint", FLUSH_TIMEOUT, flushed).await;
        flushed.inspect_err(|_| self.compacting.restart())?;
        self.ensure_found(&opened).await
    }

    async fn close(&self) {
        self.compacting.stop().await;
        let opened = self.opened.read().clone();
        close(&opened.db).await;
    }
}

impl std::fmt::Debug for SlateIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlateIndex")
    }
}

/// Gives the database a limit: some of its waits have none.
async fn limited<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, slatedb::Error>>,
) -> Result<T, Error> {
    match timeout(limit, work).await {
        Ok(outcome) => outcome.map_err(|error| failed(what, &error)),
        Err(_) => Err(Error::Index(format!("{what} took over {limit:?}").into())),
    }
}

pub(super) fn failed(what: &str, error: &slatedb::Error) -> Error {
    let text = format!("{what}: {error}");
    match error.kind() {
        ErrorKind::Data | ErrorKind::Invalid => Error::DamagedIndex(text.into()),
        ErrorKind::Closed(CloseReason::Fenced) => Error::Index(format!("{text} (fenced)").into()),
        _ => Error::Index(text.into()),
    }
}
