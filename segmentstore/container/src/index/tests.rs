//! Both engines against a plain map, and the conditions under which SlateDB may hold an index.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sarit_env::disk::RealDisk;
use sarit_env::{Clock, Rng};
use sarit_proto::ids::ContainerId;
use slatedb::admin::Admin;
use slatedb::config::CheckpointOptions;
use slatedb::object_store::memory::InMemory;
use slatedb::object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::time::{Instant, timeout};

use super::flat::Entries;
use super::{Batch, Index, Indexes, SlateStore, SnapshotMemory, entries};
use crate::Error;

const CONTAINER: ContainerId = ContainerId(3);

fn slate(objects: &Arc<InMemory>) -> Indexes {
    let objects: Arc<dyn ObjectStore> = objects.clone();
    let clock = Clock::from_fn(|| 1_700_000_000_000);
    Indexes::slate(SlateStore::new(objects, 1 << 20, clock))
}

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&[[2].as_slice(), &number.to_be_bytes()].concat())
}

fn random_batch(rng: &Rng) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..rng.below(40) {
        let key = key(rng.below(60));
        if rng.chance(0.3) {
            batch.delete(key);
        } else {
            let value = vec![rng.u64() as u8; rng.below(200) as usize];
            batch.put(key, value.into());
        }
    }
    batch
}

async fn all(index: &dyn Index) -> Entries {
    let range = Bytes::from_static(&[0])..Bytes::from_static(&[255]);
    let found = index.scan(range, usize::MAX).await.unwrap();
    assert!(found.is_sorted(), "a scan is in order");
    found.into_iter().collect()
}

async fn equals_a_map(indexes: &Indexes, rng: &Rng, rounds: usize) {
    let mut model = Entries::default();
    let mut index = indexes.open(CONTAINER).await.unwrap();
    for round in 0..rounds {
        let batch = random_batch(rng);
        super::flat::apply(&mut model, &batch);
        index.checkpoint(&batch).await.unwrap();
        assert_eq!(all(&*index).await, model, "round {round}");
        let probe = key(rng.below(60));
        assert_eq!(
            index.get(probe.clone()).await.unwrap(),
            model.get(&probe).cloned()
        );
        let (from, to) = (key(rng.below(60)), key(rng.below(60)));
        if from <= to {
            let part: Vec<_> = model.range(from.clone()..to.clone()).take(3).collect();
            let found = index.scan(from..to, 3).await.unwrap();
            assert_eq!(found.iter().map(|(k, v)| (k, v)).collect::<Vec<_>>(), part);
        }
        if rng.chance(0.2) {
            if rng.chance(0.5) {
                index.close().await;
            }
            drop(index);
            index = indexes.open(CONTAINER).await.unwrap();
            assert_eq!(all(&*index).await, model, "opened again in round {round}");
        }
    }
    index.close().await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_in_memory_equal_a_map() {
    for seed in 0..20 {
        let indexes = Indexes::memory(&SnapshotMemory::default());
        equals_a_map(&indexes, &Rng::seeded(seed), 30).await;
    }
}

#[tokio::test]
async fn snapshots_in_files_equal_a_map() {
    let dir = tempfile::tempdir().unwrap();
    let indexes = Indexes::files(Arc::new(RealDisk), dir.path().join("index"));
    equals_a_map(&indexes, &Rng::seeded(1), 20).await;
}

#[tokio::test(start_paused = true)]
async fn slatedb_equals_a_map() {
    for seed in 0..8 {
        let indexes = slate(&Arc::new(InMemory::new()));
        equals_a_map(&indexes, &Rng::seeded(seed), 30).await;
    }
}

#[tokio::test]
async fn slatedb_in_a_folder_equals_a_map() {
    let dir = tempfile::tempdir().unwrap();
    let store = SlateStore::local(dir.path(), 1 << 20, Clock::system()).unwrap();
    equals_a_map(&Indexes::slate(store), &Rng::seeded(1), 12).await;
}

/// Condition 1 asks that the log be cut only behind what the log itself names; for that a batch must be
/// there whole, or not at all, wherever its owner was dropped.
#[tokio::test(start_paused = true)]
async fn an_owner_that_is_dropped_at_any_moment_leaves_whole_batches() {
    let rng = Rng::seeded(5);
    let objects = Arc::new(InMemory::new());
    let mut last = 0;
    for _ in 0..40 {
        let index = slate(&objects).open(CONTAINER).await.unwrap();
        let found = all(&*index).await;
        let numbers: std::collections::BTreeSet<_> = found.values().cloned().collect();
        assert!(numbers.len() <= 1, "a torn batch: {numbers:?}");
        let number = found.values().next().map_or(0, |value| value[0]);
        assert!(number >= last, "what was durable is gone");
        last = number;
        let mut batch = Batch::default();
        for at in 0..50 {
            batch.put(key(at), vec![last + 1; 500].into());
        }
        let work = index.checkpoint(&batch);
        let limit = Duration::from_micros(rng.below(3_000));
        if timeout(limit, work).await.is_ok() {
            last += 1;
        }
    }
}

/// Condition 2: the log decides who owns, but an owner that was replaced must not write either.
#[tokio::test(start_paused = true)]
async fn an_owner_that_was_replaced_cannot_checkpoint() {
    let objects = Arc::new(InMemory::new());
    let old = slate(&objects).open(CONTAINER).await.unwrap();
    let mut batch = Batch::default();
    batch.put(key(1), "old".into());
    old.checkpoint(&batch).await.unwrap();
    let new = slate(&objects).open(CONTAINER).await.unwrap();
    let mut newer = Batch::default();
    newer.put(key(2), "new".into());
    new.checkpoint(&newer).await.unwrap();
    batch.put(key(2), "zombie".into());
    let error = old.checkpoint(&batch).await.unwrap_err();
    assert!(matches!(error, Error::Index(_)), "{error}");
    assert_eq!(new.get(key(2)).await.unwrap().as_deref(), Some(&b"new"[..]));
}

/// Condition 4.
#[tokio::test(start_paused = true)]
async fn a_clock_behind_the_last_owners_neither_stalls_nor_fails() {
    let objects = Arc::new(InMemory::new());
    let time = Arc::new(AtomicI64::new(1_700_000_000_000));
    let indexes = || {
        let (objects, time): (Arc<dyn ObjectStore>, _) = (objects.clone(), time.clone());
        let clock = Clock::from_fn(move || time.load(Ordering::Relaxed));
        Indexes::slate(SlateStore::new(objects, 1 << 20, clock))
    };
    for round in 0..6 {
        let index = indexes().open(CONTAINER).await.unwrap();
        for number in 0..3 {
            let started = Instant::now();
            let mut batch = Batch::default();
            batch.put(key(number), vec![round].into());
            index.checkpoint(&batch).await.unwrap();
            assert!(started.elapsed() < Duration::from_secs(1), "it stalled");
            time.fetch_sub(3_600_000, Ordering::Relaxed);
        }
        index.close().await;
    }
}

/// Condition 3: what is left behind by checkpoints and compactions does not grow with their number, neither on the
/// disk nor in memory, where whoever looks for garbage has all that the newest manifest names. Nor does a clock that
/// leaps, by which what was written a moment ago is old, stop checkpoints or the compactor for long.
#[tokio::test(start_paused = true)]
async fn old_manifests_go_and_new_ones_name_few() {
    const CHECKPOINTS: u64 = 800;
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // The store in memory notes when objects were written by the wall clock.
    let (wall, start) = (Clock::system().now_ms(), Instant::now());
    let clock = Clock::from_fn(move || wall + start.elapsed().as_millis() as i64);
    let poll = Duration::from_millis(500);
    let store = SlateStore::new(objects.clone(), 1 << 20, clock).polling(poll);
    let index = Indexes::slate(store).open(CONTAINER).await.unwrap();
    for number in 0..CHECKPOINTS {
        let mut batch = Batch::default();
        batch.put(key(number % 100), Bytes::from_static(b"value"));
        let mut failed = 0;
        while let Err(error) = index.checkpoint(&batch).await {
            failed += 1;
            assert!(failed < 3, "{number}: {error}");
        }
        tokio::time::sleep(poll).await;
    }
    let path = format!("index/{CONTAINER}");
    let admin = slatedb::admin::Admin::builder(path, objects.clone()).build();
    let manifest = admin.read_manifest(None).await.unwrap().unwrap();
    let named = manifest.checkpoints().len();
    assert!(named <= 150, "{named} marks of compactions");
    let manifests = admin.list_manifests(..).await.unwrap().len() as u64;
    assert!(manifests < CHECKPOINTS, "{manifests} manifests are left");
    index.close().await;
}

/// Condition 5: a flush that the object store does not finish ends with an error, and can be repeated.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_an_error_within_the_limit() {
    let objects = Arc::new(stuck::Stuck::default());
    let store: Arc<dyn ObjectStore> = objects.clone();
    let store = SlateStore::new(store, 1 << 20, Clock::from_fn(|| 1_700_000_000_000));
    let index = Indexes::slate(store).open(CONTAINER).await.unwrap();
    objects.stick(true);
    let mut batch = Batch::default();
    batch.put(key(1), "late".into());
    let error = index.checkpoint(&batch).await.unwrap_err();
    assert!(matches!(error, Error::Index(_)), "{error}");
    objects.stick(false);
    let again = Indexes::slate(SlateStore::new(
        objects.clone(),
        1 << 20,
        Clock::from_fn(|| 1_700_000_000_000),
    ));
    drop(index);
    let index = again.open(CONTAINER).await.unwrap();
    index.checkpoint(&batch).await.unwrap();
    assert_eq!(
        index.get(key(1)).await.unwrap().as_deref(),
        Some(&b"late"[..])
    );
}

/// Manifests are numbered, and the next number is taken by whoever writes it first. A writer that has not looked for a
/// while may take one that was used and collected as garbage meanwhile: nobody reads what it writes there.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_counts_only_once_the_next_owner_would_find_it() {
    let objects = Arc::new(InMemory::new());
    let index = slate(&objects).open(CONTAINER).await.unwrap();
    let path = format!("index/{CONTAINER}");
    let admin = Admin::builder(path.clone(), objects.clone()).build();
    for number in 0..3 {
        let last = admin.read_manifest(None).await.unwrap().unwrap().id();
        for _ in 0..2 {
            let options = CheckpointOptions::default();
            admin.create_detached_checkpoint(&options).await.unwrap();
        }
        let name = format!("{path}/manifest/{:020}.manifest", last + 1);
        objects.delete(&name.into()).await.unwrap();
        let mut batch = Batch::default();
        batch.put(key(number), "kept".into());
        while let Err(error) = index.checkpoint(&batch).await {
            assert!(matches!(error, Error::Index(_)), "{error}");
        }
        let copy = Arc::new(objects.fork());
        let next = slate(&copy).open(CONTAINER).await.unwrap();
        for number in 0..=number {
            let value = next.get(key(number)).await.unwrap();
            assert_eq!(value.as_deref(), Some(&b"kept"[..]), "{number}");
        }
    }
}

/// Parts of the database end for good when the disk is full for longer than they try; the container must not need a
/// restart.
#[tokio::test(start_paused = true)]
async fn an_index_outlives_a_disk_that_is_full_for_long() {
    let objects = Arc::new(stuck::Stuck::default());
    let store: Arc<dyn ObjectStore> = objects.clone();
    let store = SlateStore::new(store, 1 << 20, Clock::from_fn(|| 1_700_000_000_000));
    let index = store.open(CONTAINER).await.unwrap();
    for number in 0..8 {
        let mut batch = Batch::default();
        batch.put(key(number), "early".into());
        index.checkpoint(&batch).await.unwrap();
    }
    objects.refuse(true);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(900) {
        let mut batch = Batch::default();
        batch.put(key(9), "refused".into());
        index.checkpoint(&batch).await.unwrap_err();
    }
    objects.refuse(false);
    for number in 0..8 {
        let value = index.get(key(number)).await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"early"[..]));
    }
    let mut batch = Batch::default();
    batch.put(key(1), "late".into());
    index.checkpoint(&batch).await.unwrap();
    let value = index.get(key(1)).await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"late"[..]));
    index.close().await;
    assert!(index.get(key(1)).await.is_err(), "closed is closed");
}

/// Conditions 3, 5, 6 and 7: what else was chosen.
#[test]
fn the_database_is_set_up_as_decided() {
    let settings = super::slate::settings(Duration::from_secs(10));
    assert!(!settings.wal_enabled && settings.flush_interval.is_none());
    assert!(settings.default_ttl_millis.is_none());
    assert_eq!(settings.l0_sst_size_bytes, 4 << 20);
    assert!(settings.compactor_options.is_none(), "it runs beside it");
    let compactor = super::slate::compactor(Duration::from_secs(10));
    let worker = compactor.worker.unwrap();
    let garbage = settings.garbage_collector_options.unwrap();
    let polls = [
        settings.manifest_poll_interval,
        compactor.poll_interval,
        worker.compactions_poll_interval,
    ];
    assert!(polls.iter().all(|poll| *poll >= Duration::from_secs(10)));
    assert!(compactor.worker_heartbeat_timeout <= Duration::from_secs(10));
    assert!(!compactor.enable_trivial_move);
    assert!(!compactor.enable_experimental_incremental_compaction);
    assert!(settings.object_store_max_retries.is_some());
    assert!(compactor.object_store_max_retries.is_some());
    assert!(garbage.object_store_max_retries.is_some());
    assert!(!garbage.boundary_files_enabled);
    // What a writer and the compactor write must have the same filters.
    assert_eq!(settings.min_filter_keys, worker.min_filter_keys);
}

mod stuck {
    use std::fmt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use slatedb::object_store::memory::InMemory;
    use slatedb::object_store::path::Path;
    use slatedb::object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };

    /// An object store whose writes never end while it is stuck.
    #[derive(Debug, Default)]
    pub(super) struct Stuck {
        inner: InMemory,
        stuck: AtomicBool,
        refuses: AtomicBool,
    }

    impl Stuck {
        pub(super) fn stick(&self, stuck: bool) {
            self.stuck.store(stuck, Ordering::Relaxed);
        }

        /// Has writes fail.
        pub(super) fn refuse(&self, refuses: bool) {
            self.refuses.store(refuses, Ordering::Relaxed);
        }

        async fn wait(&self) -> Result<()> {
            if self.stuck.load(Ordering::Relaxed) {
                std::future::pending().await
            }
            if self.refuses.load(Ordering::Relaxed) {
                let source = "no space left".into();
                let store = "full";
                return Err(slatedb::object_store::Error::Generic { store, source });
            }
            Ok(())
        }
    }

    impl fmt::Display for Stuck {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("stuck")
        }
    }

    #[async_trait]
    impl ObjectStore for Stuck {
        async fn put_opts(
            &self,
            at: &Path,
            what: PutPayload,
            how: PutOptions,
        ) -> Result<PutResult> {
            self.wait().await?;
            self.inner.put_opts(at, what, how).await
        }

        async fn put_multipart_opts(
            &self,
            at: &Path,
            how: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.wait().await?;
            self.inner.put_multipart_opts(at, how).await
        }

        async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(at, how).await
        }

        fn delete_stream(
            &self,
            paths: BoxStream<'static, Result<Path>>,
        ) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, how).await
        }
    }
}

#[tokio::test]
async fn the_mark_of_a_lost_log_has_these_bytes_for_ever() {
    let mut batch = Batch::default();
    entries::lost(0x0102, &mut batch);
    let value = Bytes::from_static(&[2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(batch.changes, [(Bytes::from_static(&[10]), Some(value))]);
    let indexes = Indexes::memory(&SnapshotMemory::default());
    let index = indexes.open(CONTAINER).await.unwrap();
    assert_eq!(entries::load_lost(&*index).await.unwrap(), 0);
    index.checkpoint(&batch).await.unwrap();
    assert_eq!(entries::load_lost(&*index).await.unwrap(), 0x0102);
}
