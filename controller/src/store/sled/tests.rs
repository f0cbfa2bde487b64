use std::io::Write as _;

use futures_util::future::join_all;
use sarit_env::disk::RealDisk;

use super::*;
use crate::store::conformance;

async fn open(dir: &Path) -> Result<Arc<SledStore>, OpenError> {
    open_sled(dir, Arc::new(RealDisk), &Rng::seeded(1)).await
}

async fn put(store: &SledStore, key: &str, value: &'static str) -> Revision {
    let put = Transaction::new().put(key, value);
    match store.commit(put).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("unexpected conflict"),
    }
}

#[tokio::test]
async fn it_conforms_in_one_thread() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(&*open(dir.path()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_with_threads_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(&*open(dir.path()).await.unwrap()).await;
}

#[tokio::test]
async fn rows_and_revisions_outlive_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let first = put(&store, "a", "1").await;
    store.close().await;
    assert_eq!(store.get("a").await, Err(Error::Closed));
    let store = open(dir.path()).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().revision, first);
    assert!(put(&store, "b", "2").await > first);
}

/// The files as they are when a process is killed, copied while the store still has them open.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_files_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for round in 0..20 {
        put(&store, &format!("row/{round:02}"), "x").await;
        let copy = tempfile::tempdir().unwrap();
        copy_files(dir.path(), copy.path()).await;
        let reopened = open(copy.path()).await.unwrap();
        let page = reopened.range("row/", None, 100).await.unwrap();
        assert_eq!(page.entries.len(), round + 1);
        reopened.close().await;
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_moved_aside_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    put(&store, "a", "1").await;
    store.close().await;
    // Opening once more makes sled write a snapshot.
    open(dir.path()).await.unwrap().close().await;
    let meta = dir.path().join("meta");
    let mut damaged = 0;
    for entry in RealDisk.list(&meta).await.unwrap() {
        if entry.name().starts_with("snap.") {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .truncate(true)
                .open(&entry.path)
                .unwrap();
            file.write_all(b"not a snapshot, but long enough to be read")
                .unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "sled wrote no snapshot to damage");
    let store = open(dir.path()).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn a_database_that_is_just_being_closed_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.unwrap().close().await;
    let meta = dir.path().join("meta");
    let config = ::sled::Config::new()
        .path(&meta)
        .segment_size(SEGMENT_BYTES);
    let held = open_unlocked(&config).await.unwrap();
    // The first try comes first, and finds it locked.
    let (opened, ()) = tokio::join!(open_database(&meta, &RealDisk), async { drop(held) });
    opened.unwrap();
}

#[tokio::test]
async fn many_small_and_large_rows_make_no_file_outside_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let long = "n".repeat(250);
    for round in 0..40 {
        let mut transaction = Transaction::new();
        for number in 0..90 {
            let key = format!("tag/{long}/{long}/{number}.{round}.{long}");
            transaction = transaction.put(key, vec![7; 5000]);
        }
        assert_ne!(store.commit(transaction).await.unwrap(), Outcome::Conflict);
    }
    let blobs = RealDisk.list(&dir.path().join("meta/blobs")).await;
    assert_eq!(blobs.unwrap(), []);
}

async fn copy_files(from: &Path, to: &Path) {
    let mut folders = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = folders.pop() {
        RealDisk.create_dir_all(&to).await.unwrap();
        for entry in RealDisk.list(&from).await.unwrap() {
            let target = to.join(entry.name());
            if entry.is_dir {
                folders.push((entry.path, target));
            } else {
                std::fs::copy(entry.path, target).unwrap();
            }
        }
    }
}

/// The database's file, whose syncs wait for a permit, and fail once there are to be none.
struct Gate(tokio::sync::Semaphore);

#[async_trait]
impl DiskFile for Gate {
    async fn size(&self) -> std::io::Result<u64> {
        Ok(0)
    }

    async fn read_at(&self, _offset: u64, _len: usize) -> std::io::Result<bytes::Bytes> {
        Ok(bytes::Bytes::new())
    }

    async fn write_at(&self, _offset: u64, _parts: &[bytes::Bytes]) -> std::io::Result<()> {
        Ok(())
    }

    async fn allocate(&self, _len: u64) -> std::io::Result<()> {
        Ok(())
    }

    async fn sync_data(&self) -> std::io::Result<()> {
        match self.0.acquire().await {
            Ok(permit) => {
                permit.forget();
                Ok(())
            }
            Err(_) => Err(std::io::Error::other("the device is gone")),
        }
    }
}

/// A store that syncs only as far as the gate lets it.
async fn gated(dir: &Path) -> (SledStore, Arc<Gate>) {
    let lock = RealDisk.lock(&dir.join("LOCK")).await.unwrap();
    let gate = Arc::new(Gate(tokio::sync::Semaphore::new(0)));
    let database = open_database(&dir.join("meta"), &RealDisk).await.unwrap();
    (SledStore::start(database, gate.clone(), lock), gate)
}

#[tokio::test]
async fn nothing_that_is_not_synced_is_acknowledged_or_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (store, gate) = gated(dir.path()).await;
    let write = store.commit(Transaction::new().put("row/a", "1"));
    let write = given_time(write).await;
    let shown = given_time(store.get("row/a")).await;
    let listed = given_time(store.range("row/", None, 10)).await;
    let (Poll::Pending(write), Poll::Pending(shown), Poll::Pending(listed)) =
        (write, shown, listed)
    else {
        panic!("an answer before the sync")
    };
    assert_eq!(store.get("other").await, Ok(None));
    assert_eq!(store.range("other/", None, 10).await, Ok(Page::default()));
    gate.0.add_permits(1);
    assert_ne!(write.await, Ok(Outcome::Conflict));
    assert_eq!(shown.await.unwrap().unwrap().value, "1");
    assert_eq!(listed.await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_failed_sync_fails_the_store_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (store, gate) = gated(dir.path()).await;
    gate.0.add_permits(1);
    put(&store, "before", "1").await;
    gate.0.close();
    let refused = store.commit(Transaction::new().put("after", "1")).await;
    assert!(matches!(refused, Err(Error::Broken(_))), "{refused:?}");
    assert!(store.failed().await.contains("the device is gone"));
    let refused = store.commit(Transaction::new().put("later", "1")).await;
    assert!(matches!(refused, Err(Error::Broken(_))), "{refused:?}");
    let hidden = store.get("after").await;
    assert!(matches!(hidden, Err(Error::Broken(_))), "{hidden:?}");
}

/// A future that was given the time it needs, if it is not waiting for something.
enum Poll<F> {
    Ready,
    Pending(F),
}

async fn given_time<F: Future>(future: F) -> Poll<std::pin::Pin<Box<F>>> {
    let mut future = Box::pin(future);
    for _ in 0..100 {
        if futures_util::poll!(future.as_mut()).is_ready() {
            return Poll::Ready;
        }
        tokio::task::yield_now().await;
    }
    Poll::Pending(future)
}

/// What is remembered, of absent rows too, is what the database has, and no piece of a longer value is left.
#[tokio::test]
async fn groups_of_transactions_leave_the_rows_that_a_model_has() {
    const KEYS: u64 = 6;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let rng = Rng::seeded(7);
    let key = |number: u64| format!("row/{number}");
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    let mut model: BTreeMap<String, usize> = BTreeMap::new();
    let (mut committed, mut conflicts) = (0, 0);
    for _ in 0..200 {
        let mut group = Vec::new();
        for _ in 0..=rng.below(6) {
            let (expected, changed) = (key(rng.below(KEYS)), key(rng.below(KEYS)));
            let bytes = [0, 0, 10, 4_096, 5_000, 13_000][rng.below(6) as usize];
            let (mut transaction, mut fits) = (Transaction::new(), true);
            if rng.chance(0.5) {
                transaction = transaction.expect(&expected, Expect::Absent);
                fits = !model.contains_key(&expected);
            }
            transaction = match bytes {
                0 => transaction.delete(&changed),
                _ => transaction.put(&changed, vec![1; bytes]),
            };
            if fits {
                match bytes {
                    0 => model.remove(&changed),
                    _ => model.insert(changed, bytes),
                };
            }
            group.push((fits, transaction));
        }
        let (fits, transactions): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let commits = transactions.into_iter().map(|one| store.commit(one));
        for (fits, outcome) in fits.into_iter().zip(join_all(commits).await) {
            let outcome = outcome.unwrap();
            assert_eq!(matches!(outcome, Outcome::Committed(_)), fits);
            *if fits { &mut committed } else { &mut conflicts } += 1;
        }
        let found = store.get_many(&keys).await.unwrap();
        for (key, row) in keys.iter().zip(found) {
            assert_eq!(row.map(|row| row.value.len()), model.get(key).copied());
        }
    }
    assert!(
        committed > 100 && conflicts > 100,
        "{committed} and {conflicts}"
    );
    store.close().await;
    let store = open(dir.path()).await.unwrap();
    let rows = store.range("", None, 100).await.unwrap().entries;
    let rows: BTreeMap<_, _> = rows
        .into_iter()
        .map(|(key, row)| (key, row.value.len()))
        .collect();
    assert_eq!(rows, model);
    store.close().await;
    let config = ::sled::Config::new()
        .path(dir.path().join("meta"))
        .segment_size(SEGMENT_BYTES);
    let db = open_unlocked(&config).await.unwrap();
    let pieces = db.scan_prefix(b"c").count();
    let needed: usize = model.values().map(|bytes| bytes.div_ceil(4_096) - 1).sum();
    assert_eq!(pieces, needed);
}
